//! Who has a place on an uplink that is too narrow for all viewers on this network: pure.
//!
//! A stream of which pictures are left out is worth less than the CDN's, which costs this uplink nothing more. So whoever came last is asked to take
//! that one as soon as the share of anybody proves too small, and asked back, the one that waits for longest first, once a place is free, or, the
//! more patiently the more often it was in vain, to see whether there is room by now. All is decided here, where all is known: viewers that judged
//! for themselves would all go in the same moment, and all come back. One that has nowhere to go stays, and has its part.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// See the module's text.
#[derive(Debug)]
pub(super) struct AdmissionControl {
    viewers: BTreeMap<u64, AdmittedViewer>,
    /// Of who has a place next.
    rank: u64,
    /// When somebody was last asked to go.
    asked: Option<Instant>,
    /// When there was last too little for somebody.
    short: Option<Instant>,
    /// Since when a place is free.
    freed: Option<Instant>,
    /// Who was asked back, and when, until it is known whether that was well.
    back: Option<(u64, Instant)>,
    /// Between two that are asked back although no place became free.
    pause: Duration,
}

#[derive(Debug)]
struct AdmittedViewer {
    /// Who has the higher one goes first.
    rank: u64,
    flows: bool,
    /// Whether it has a place.
    room: watch::Sender<bool>,
    /// When it was asked to go, or flowed again although it had no place.
    asked: Option<Instant>,
    /// It has nowhere to go.
    insists: bool,
}

impl AdmittedViewer {
    fn has_place(&self) -> bool {
        *self.room.borrow()
    }

    fn ask_to_go(&mut self, now: Instant) {
        self.room.send_replace(false);
        self.asked = Some(now);
        tracing::info!(
            "this uplink has no room for one of the viewers on this network: it is asked to take the CDN's stream"
        );
    }
}

impl AdmissionControl {
    pub(super) fn new() -> Self {
        let viewers = BTreeMap::new();
        Self { viewers, rank: 0, asked: None, short: None, freed: None, back: None, pause: PAUSE }
    }

    /// Somebody comes, and hears whether it has a place. While others have none, it has none.
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

    /// It is sent the stream from now on, or no longer.
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

    /// Units were left out for somebody whose share was too small. `fits` viewers have room, as far as that is known.
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
        // What is known of the link is rough: half of them at most.
        let most = placed.len().div_ceil(2);
        let surplus = fits.map_or(1, |fits| placed.len().saturating_sub(fits)).clamp(1, most.max(1));
        for viewer in placed.into_iter().rev().take(surplus) {
            viewer.ask_to_go(now);
            self.asked = Some(now);
            self.freed = None;
        }
    }

    /// To be called often. `is_pushing`: the CDN has the stream, and somebody may go there. `fits` viewers have room, as far as that is known.
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
            tracing::info!("a viewer on this network is asked back from the CDN");
            (self.back, self.freed) = (Some((*id, now)), None);
        }
    }

    /// Whether somebody waits for a place.
    pub(super) fn are_wanted(&self) -> bool {
        self.viewers.values().any(|viewer| !viewer.has_place())
    }

    /// In which order viewers have what there is; none where it is divided evenly, because somebody has nowhere to go.
    pub(super) fn ranks(&self) -> impl Iterator<Item = (u64, Option<u64>)> {
        let is_even = self.viewers.values().any(|viewer| viewer.insists);
        self.viewers.iter().map(move |(id, viewer)| (*id, (!is_even).then_some(viewer.rank)))
    }

    fn next_rank(&mut self) -> u64 {
        self.rank += 1;
        self.rank
    }
}

/// After somebody was asked to go, or has left, until it shows what that has done.
const SETTLES: Duration = Duration::from_millis(2500);
/// Who flows for so long after it was asked to go has nowhere to go: a fallback flows within a second, and proves itself for another.
const INSISTS: Duration = Duration::from_secs(6);
/// Who was asked back and has had everything for so long has its place for good: five GOPs.
const PROVED: Duration = Duration::from_secs(10);
/// Without a shortage for so long, or a quarter of that where the link seems to have room, one is asked back to see whether there is.
const PAUSE: Duration = Duration::from_secs(20);
/// However often there was none.
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

        /// Looks every 100 ms; whoever has no place stops, and whoever has one flows.
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
    fn who_came_last_goes_first_and_one_at_a_time() {
        let mut room = Room::new(4);
        assert_eq!(room.placed(), [0, 1, 2, 3]);
        room.short(0, None);
        assert_eq!(room.placed(), [0, 1, 2]);
        room.obey(0, 1000);
        room.short(1000, None);
        assert_eq!(room.placed(), [0, 1, 2], "it shows yet what that has done");
        room.short(3000, None);
        assert_eq!(room.placed(), [0, 1]);
        room.join(4);
        assert_eq!(room.placed(), [0, 1], "who comes later waits, too");
        assert!(room.places.are_wanted());
    }

    #[test]
    fn of_many_half_go_at_once() {
        let mut room = Room::new(8);
        room.short(0, Some(2));
        assert_eq!(room.placed(), [0, 1, 2, 3]);
        room.short(3000, Some(2));
        assert_eq!(room.placed(), [0, 1]);
        room.short(6000, Some(2));
        assert_eq!(room.placed(), [0], "less than was thought");
    }

    #[test]
    fn a_free_place_is_the_longest_waiting_one_s() {
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
    fn who_is_asked_back_in_vain_waits_for_longer() {
        let mut room = Room::new(3);
        room.short(0, None);
        room.obey(0, 20_000);
        assert_eq!(room.placed(), [0, 1]);
        room.obey(20_000, 20_300);
        assert_eq!(room.placed(), [0, 1, 2]);
        room.short(22_000, None);
        assert_eq!(room.placed(), [0, 1], "at once: it is known who is too much");
        room.obey(22_000, 61_000);
        assert_eq!(room.placed(), [0, 1]);
        room.obey(61_000, 62_300);
        assert_eq!(room.placed(), [0, 1, 2]);
        // This time there is room.
        room.obey(62_300, 73_000);
        assert_eq!((room.placed().len(), room.places.pause), (3, PAUSE));
        assert!(!room.places.are_wanted());
    }

    #[test]
    fn who_has_nowhere_to_go_has_an_even_part() {
        let mut room = Room::new(3);
        room.short(0, None);
        assert!(room.places.ranks().all(|(_, rank)| rank.is_some()));
        for millis in (0..7000).step_by(100) {
            room.places.look(true, None, room.at(millis));
        }
        assert!(room.places.ranks().all(|(_, rank)| rank.is_none()));
        // Others may be able to go.
        room.short(7000, None);
        assert_eq!(room.placed(), [0]);
        room.places.flows(2, false, room.at(7100));
        assert!(room.places.ranks().all(|(_, rank)| rank.is_some()));
    }

    #[test]
    fn where_the_link_has_room_somebody_is_asked_back_sooner() {
        let mut room = Room::new(3);
        room.short(0, Some(1));
        room.obey(0, 1000);
        assert_eq!(room.placed(), [0]);
        room.places.look(true, Some(1), room.at(5500));
        assert_eq!(room.placed(), [0], "not for two");
        room.places.look(true, Some(2), room.at(5500));
        assert_eq!(room.placed(), [0, 1]);
    }

    #[test]
    fn without_a_cdn_everybody_has_a_place() {
        let mut room = Room::new(3);
        room.short(0, Some(1));
        room.obey(0, 1000);
        assert_eq!(room.placed(), [0]);
        room.places.look(false, None, room.at(1100));
        assert_eq!(room.placed(), [0, 1, 2]);
    }
}
