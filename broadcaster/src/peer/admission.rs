//! Admission control: decides which LAN viewers an uplink too slow for all of them serves. Pure.
//!
//! A stream with dropped frames is worth less than the CDN's copy, which costs this uplink nothing more. So when a viewer's share proves too
//! small, the newest viewer is redirected to the CDN. Redirected viewers are invited back, the longest waiting first, when one leaves, or
//! periodically to probe for capacity, with a backoff after each failed probe. The broadcaster decides because it sees all viewers: viewers
//! that decided for themselves would leave and return all at once. A viewer without another path stays and gets a share.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// The admission state of all viewers. See the module documentation.
#[derive(Debug)]
pub(super) struct AdmissionControl {
    viewers: BTreeMap<u64, AdmittedViewer>,
    /// The rank given last.
    rank: u64,
    /// When a viewer was last redirected.
    asked: Option<Instant>,
    /// When a viewer last lacked capacity.
    short: Option<Instant>,
    /// Since when capacity is free, because a viewer left.
    freed: Option<Instant>,
    /// The viewer on probation after being invited back, and since when.
    back: Option<(u64, Instant)>,
    /// Interval between probes; doubles after each that fails.
    pause: Duration,
}

#[derive(Debug)]
struct AdmittedViewer {
    /// The viewer with the highest rank is redirected first.
    rank: u64,
    flows: bool,
    /// Whether it is admitted.
    room: watch::Sender<bool>,
    /// When it was redirected, or became active again without being admitted.
    asked: Option<Instant>,
    /// It has no other path.
    insists: bool,
}

impl AdmittedViewer {
    fn has_place(&self) -> bool {
        *self.room.borrow()
    }

    fn ask_to_go(&mut self, now: Instant) {
        self.room.send_replace(false);
        self.asked = Some(now);
        tracing::info!("the uplink is over capacity: a LAN viewer is redirected to the CDN");
    }
}

impl AdmissionControl {
    pub(super) fn new() -> Self {
        let viewers = BTreeMap::new();
        Self { viewers, rank: 0, asked: None, short: None, freed: None, back: None, pause: PAUSE }
    }

    /// Adds a viewer. The receiver says whether it is admitted: not while others wait.
    pub(super) fn join(&mut self, id: u64) -> watch::Receiver<bool> {
        let has_place = self.viewers.values().all(AdmittedViewer::has_place);
        let (room, told) = watch::channel(has_place);
        let viewer = AdmittedViewer { rank: self.next_rank(), flows: false, room, asked: None, insists: false };
        self.viewers.insert(id, viewer);
        told
    }

    pub(super) fn leave(&mut self, id: u64, now: Instant) {
        if self.viewers.remove(&id).is_some_and(|viewer| viewer.flows && (viewer.has_place() || viewer.insists)) {
            self.freed = Some(now);
        }
    }

    /// The viewer's subscription became active or idle.
    pub(super) fn flows(&mut self, id: u64, flows: bool, now: Instant) {
        let Some(viewer) = self.viewers.get_mut(&id) else { return };
        let stops = viewer.flows && !flows;
        if stops && (viewer.has_place() || viewer.insists) {
            self.freed = Some(now);
        }
        (viewer.flows, viewer.insists) = (flows, viewer.insists && flows);
        if flows && !viewer.has_place() {
            viewer.asked = Some(now);
        }
    }

    /// Units were dropped for a viewer because its share was too small. `fits`: the number of viewers within capacity, if known.
    pub(super) fn left_out(&mut self, fits: Option<usize>, now: Instant) {
        self.short = Some(now);
        if let Some((id, _)) = self.back.take() {
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            if let Some(viewer) = self.viewers.get_mut(&id).filter(|viewer| viewer.has_place()) {
                viewer.ask_to_go(now);
                self.asked = Some(now);
            }
            return;
        }
        if self.asked.is_some_and(|asked| now.saturating_duration_since(asked) < SETTLES) {
            return;
        }
        let mut placed: Vec<&mut AdmittedViewer> =
            self.viewers.values_mut().filter(|v| v.flows && v.has_place()).collect();
        placed.sort_by_key(|viewer| viewer.rank);
        // The estimate is rough: redirect half of the viewers at most.
        let most = placed.len().div_ceil(2);
        let surplus = fits.map_or(1, |fits| placed.len().saturating_sub(fits)).clamp(1, most.max(1));
        for viewer in placed.into_iter().rev().take(surplus) {
            viewer.ask_to_go(now);
            self.asked = Some(now);
            self.freed = None;
        }
    }

    /// Periodic update. `is_pushing`: the CDN has the stream, so that viewers can be redirected. `fits`: the number of viewers within
    /// capacity, if known.
    pub(super) fn look(&mut self, is_pushing: bool, fits: Option<usize>, now: Instant) {
        let since = |at: Instant| now.saturating_duration_since(at);
        if !is_pushing {
            for viewer in self.viewers.values_mut().filter(|viewer| !viewer.has_place()) {
                viewer.room.send_replace(true);
                (viewer.asked, viewer.insists) = (None, false);
            }
            (self.back, self.freed, self.pause) = (None, None, PAUSE);
            return;
        }
        for viewer in self.viewers.values_mut().filter(|viewer| viewer.flows && !viewer.has_place()) {
            viewer.insists |= viewer.asked.is_some_and(|asked| since(asked) > INSISTS);
        }
        if let Some((id, asked)) = self.back {
            if since(asked) < PROVED {
                return;
            }
            if self.viewers.get(&id).is_some_and(|viewer| viewer.flows) {
                self.pause = PAUSE;
            }
            self.back = None;
        }
        let is_calm = |pause| self.short.is_none_or(|short| since(short) > pause);
        let is_free = self.freed.is_some_and(|freed| since(freed) > SETTLES) && is_calm(SETTLES);
        let flowing = self.viewers.values().filter(|viewer| viewer.flows).count();
        let pause = if fits.is_some_and(|fits| fits > flowing) { self.pause / 4 } else { self.pause };
        let is_time = is_calm(pause) && self.asked.is_none_or(|asked| since(asked) > pause);
        if !is_free && !is_time {
            return;
        }
        let rank = self.next_rank();
        let away = self.viewers.iter_mut().filter(|(_, viewer)| !viewer.has_place() && !viewer.flows);
        if let Some((id, viewer)) = away.min_by_key(|(_, viewer)| viewer.rank) {
            viewer.room.send_replace(true);
            viewer.rank = rank;
            tracing::info!("a LAN viewer is invited back from the CDN");
            (self.back, self.freed) = (Some((*id, now)), None);
        }
    }

    /// Whether a viewer waits to be admitted.
    pub(super) fn are_wanted(&self) -> bool {
        self.viewers.values().any(|viewer| !viewer.has_place())
    }

    /// The priority of each viewer in the allocation, lowest first; `None` for equal shares, while a viewer without another path needs one.
    pub(super) fn ranks(&self) -> impl Iterator<Item = (u64, Option<u64>)> {
        let is_even = self.viewers.values().any(|viewer| viewer.insists);
        self.viewers.iter().map(move |(id, viewer)| (*id, (!is_even).then_some(viewer.rank)))
    }

    fn next_rank(&mut self) -> u64 {
        self.rank += 1;
        self.rank
    }
}

/// Time until a redirect or a departure takes effect.
const SETTLES: Duration = Duration::from_millis(2500);
/// A viewer still active this long after it was redirected has no other path: a fallback is active within a second and
/// verified in another. Until then it gets what the others leave.
const INSISTS: Duration = Duration::from_secs(3);
/// Probation after being invited back: five keyframe intervals.
const PROVED: Duration = Duration::from_secs(10);
/// Interval between probes, or a quarter of it if the estimate says that there is capacity.
const PAUSE: Duration = Duration::from_secs(20);
/// Upper bound of the interval between probes.
const LONGEST_PAUSE: Duration = Duration::from_secs(320);

#[cfg(test)]
mod tests {
    use super::*;

    struct Room {
        places: AdmissionControl,
        start: Instant,
        told: Vec<watch::Receiver<bool>>,
    }

    impl Room {
        fn new(viewers: u64) -> Self {
            let mut room = Self { places: AdmissionControl::new(), start: Instant::now(), told: Vec::new() };
            for id in 0..viewers {
                room.join(id);
                room.places.flows(id, true, room.start);
            }
            room
        }

        fn join(&mut self, id: u64) {
            self.told.push(self.places.join(id));
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        fn short(&mut self, millis: u64, fits: Option<usize>) {
            self.places.left_out(fits, self.at(millis));
        }

        /// Updates every 100 ms; viewers follow each decision.
        fn obey(&mut self, from: u64, to: u64) {
            for millis in (from..to).step_by(100) {
                self.places.look(true, None, self.at(millis));
                for id in 0..self.told.len() {
                    let flows = *self.told[id].borrow();
                    self.places.flows(id as u64, flows, self.at(millis));
                }
            }
        }

        fn placed(&self) -> Vec<usize> {
            (0..self.told.len()).filter(|id| *self.told[*id].borrow()).collect()
        }
    }

    #[test]
    fn the_newest_viewer_is_redirected_first_and_one_at_a_time() {
        let mut room = Room::new(4);
        assert_eq!(room.placed(), [0, 1, 2, 3]);
        room.short(0, None);
        assert_eq!(room.placed(), [0, 1, 2]);
        room.obey(0, 1000);
        room.short(1000, None);
        assert_eq!(room.placed(), [0, 1, 2], "the first redirect has not taken effect yet");
        room.short(3000, None);
        assert_eq!(room.placed(), [0, 1]);
        room.join(4);
        assert_eq!(room.placed(), [0, 1], "a later viewer waits, too");
        assert!(room.places.are_wanted());
    }

    #[test]
    fn at_most_half_of_the_viewers_are_redirected_at_once() {
        let mut room = Room::new(8);
        room.short(0, Some(2));
        assert_eq!(room.placed(), [0, 1, 2, 3]);
        room.short(3000, Some(2));
        assert_eq!(room.placed(), [0, 1]);
        room.short(6000, Some(2));
        assert_eq!(room.placed(), [0], "the estimate was too high");
    }

    #[test]
    fn the_longest_waiting_viewer_is_invited_back_first() {
        let mut room = Room::new(4);
        room.short(0, Some(2));
        room.obey(0, 5000);
        assert_eq!(room.placed(), [0, 1]);
        room.places.leave(0, room.at(5000));
        room.told[0] = watch::channel(false).1;
        room.obey(5000, 9000);
        assert_eq!(room.placed(), [1, 2]);
    }

    #[test]
    fn a_failed_probe_doubles_the_interval() {
        let mut room = Room::new(3);
        room.short(0, None);
        room.obey(0, 20_000);
        assert_eq!(room.placed(), [0, 1]);
        room.obey(20_000, 20_300);
        assert_eq!(room.placed(), [0, 1, 2]);
        room.short(22_000, None);
        assert_eq!(room.placed(), [0, 1], "at once: the viewer on probation is the surplus");
        room.obey(22_000, 61_000);
        assert_eq!(room.placed(), [0, 1]);
        room.obey(61_000, 62_300);
        assert_eq!(room.placed(), [0, 1, 2]);
        // This time there is capacity.
        room.obey(62_300, 73_000);
        assert_eq!((room.placed().len(), room.places.pause), (3, PAUSE));
        assert!(!room.places.are_wanted());
    }

    #[test]
    fn a_viewer_without_another_path_gets_an_equal_share() {
        let mut room = Room::new(3);
        room.short(0, None);
        assert!(room.places.ranks().all(|(_, rank)| rank.is_some()));
        for millis in (0..7000).step_by(100) {
            room.places.look(true, None, room.at(millis));
        }
        assert!(room.places.ranks().all(|(_, rank)| rank.is_none()));
        // Others may have another path.
        room.short(7000, None);
        assert_eq!(room.placed(), [0]);
        room.places.flows(2, false, room.at(7100));
        assert!(room.places.ranks().all(|(_, rank)| rank.is_some()));
    }

    #[test]
    fn free_capacity_shortens_the_interval() {
        let mut room = Room::new(3);
        room.short(0, Some(1));
        room.obey(0, 1000);
        assert_eq!(room.placed(), [0]);
        room.places.look(true, Some(1), room.at(5500));
        assert_eq!(room.placed(), [0], "capacity for one only");
        room.places.look(true, Some(2), room.at(5500));
        assert_eq!(room.placed(), [0, 1]);
    }

    #[test]
    fn without_a_cdn_every_viewer_is_admitted() {
        let mut room = Room::new(3);
        room.short(0, Some(1));
        room.obey(0, 1000);
        assert_eq!(room.placed(), [0]);
        room.places.look(false, None, room.at(1100));
        assert_eq!(room.placed(), [0, 1, 2]);
    }
}
