//! Admission control: decides which LAN viewers an uplink too slow for all of them serves. Pure.
//!
//! A stream with dropped frames is worth less than the CDN's copy, which costs this uplink nothing more. So when a viewer's share proves
//! too small, the newest viewer is redirected to the CDN. Redirected viewers are invited back, the longest waiting first, when one leaves,
//! or periodically to probe for capacity, with a backoff after each failed probe. The broadcaster decides because it sees all viewers:
//! viewers that decided for themselves would leave and return all at once. A viewer without another path stays and gets a share.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The admission state of all viewers. See the module documentation.
#[derive(Debug)]
pub(super) struct AdmissionControl {
    viewers: BTreeMap<u64, Viewer>,
    /// The rank given last.
    rank: u64,
    /// When a viewer was last redirected.
    evicted_at: Option<Instant>,
    /// When a viewer last lacked capacity.
    starved_at: Option<Instant>,
    /// Since when capacity is free, because a viewer left.
    freed: Option<Instant>,
    /// The viewer on probation after being invited back, and since when.
    probation: Option<(u64, Instant)>,
    /// Interval between probes; doubles after each that fails.
    probe_interval: Duration,
}

#[derive(Debug)]
struct Viewer {
    /// The viewer with the highest rank is redirected first.
    rank: u64,
    is_active: bool,
    is_admitted: bool,
    /// When it was redirected, or became active again without being admitted.
    evicted_at: Option<Instant>,
    /// It has no other path.
    has_no_fallback: bool,
}

impl Viewer {
    fn evict(&mut self, now: Instant) {
        self.is_admitted = false;
        self.evicted_at = Some(now);
        tracing::info!("the uplink is over capacity: a LAN viewer is redirected to the CDN");
    }
}

impl AdmissionControl {
    pub(super) fn new() -> Self {
        let viewers = BTreeMap::new();
        Self {
            viewers,
            rank: 0,
            evicted_at: None,
            starved_at: None,
            freed: None,
            probation: None,
            probe_interval: PROBE_INTERVAL,
        }
    }

    /// Adds a viewer. It is not admitted while others wait.
    pub(super) fn join(&mut self, id: u64) {
        let is_admitted = self.viewers.values().all(|viewer| viewer.is_admitted);
        let rank = self.next_rank();
        let viewer = Viewer { rank, is_active: false, is_admitted, evicted_at: None, has_no_fallback: false };
        self.viewers.insert(id, viewer);
    }

    /// Whether a viewer is admitted; one that is not known is not.
    pub(super) fn is_admitted(&self, id: u64) -> bool {
        self.viewers.get(&id).is_some_and(|viewer| viewer.is_admitted)
    }

    pub(super) fn leave(&mut self, id: u64, now: Instant) {
        if self
            .viewers
            .remove(&id)
            .is_some_and(|viewer| viewer.is_active && (viewer.is_admitted || viewer.has_no_fallback))
        {
            self.freed = Some(now);
        }
    }

    /// The viewer's subscription became active or idle.
    pub(super) fn set_active(&mut self, id: u64, active: bool, now: Instant) {
        let Some(viewer) = self.viewers.get_mut(&id) else { return };
        let stops = viewer.is_active && !active;
        if stops && (viewer.is_admitted || viewer.has_no_fallback) {
            self.freed = Some(now);
        }
        (viewer.is_active, viewer.has_no_fallback) = (active, viewer.has_no_fallback && active);
        if active && !viewer.is_admitted {
            viewer.evicted_at = Some(now);
        }
    }

    /// Units were dropped for a viewer because its share was too small. `capacity`: the number of viewers within capacity, if known.
    pub(super) fn on_starved(&mut self, capacity: Option<usize>, now: Instant) {
        self.starved_at = Some(now);
        if let Some((id, _)) = self.probation.take() {
            self.probe_interval = (self.probe_interval * 2).min(MAX_PROBE_INTERVAL);
            if let Some(viewer) = self.viewers.get_mut(&id).filter(|viewer| viewer.is_admitted) {
                viewer.evict(now);
                self.evicted_at = Some(now);
            }
            return;
        }
        if self.evicted_at.is_some_and(|at| now.saturating_duration_since(at) < SETTLES) {
            return;
        }
        let mut admitted: Vec<&mut Viewer> =
            self.viewers.values_mut().filter(|v| v.is_active && v.is_admitted).collect();
        admitted.sort_by_key(|viewer| viewer.rank);
        // The estimate is rough: redirect half of the viewers at most.
        let most = admitted.len().div_ceil(2);
        let surplus = capacity.map_or(1, |capacity| admitted.len().saturating_sub(capacity)).clamp(1, most.max(1));
        for viewer in admitted.into_iter().rev().take(surplus) {
            viewer.evict(now);
            self.evicted_at = Some(now);
            self.freed = None;
        }
    }

    /// Periodic update. `is_pushing`: the CDN has the stream, so that viewers can be redirected. `capacity`: the number of viewers within
    /// capacity, if known.
    pub(super) fn tick(&mut self, is_pushing: bool, capacity: Option<usize>, now: Instant) {
        let since = |at: Instant| now.saturating_duration_since(at);
        if !is_pushing {
            for viewer in self.viewers.values_mut().filter(|viewer| !viewer.is_admitted) {
                viewer.is_admitted = true;
                (viewer.evicted_at, viewer.has_no_fallback) = (None, false);
            }
            (self.probation, self.freed, self.probe_interval) = (None, None, PROBE_INTERVAL);
            return;
        }
        for viewer in self.viewers.values_mut().filter(|viewer| viewer.is_active && !viewer.is_admitted) {
            viewer.has_no_fallback |= viewer.evicted_at.is_some_and(|at| since(at) > NO_FALLBACK);
        }
        if let Some((id, invited)) = self.probation {
            if since(invited) < PROBATION {
                return;
            }
            if self.viewers.get(&id).is_some_and(|viewer| viewer.is_active) {
                self.probe_interval = PROBE_INTERVAL;
            }
            self.probation = None;
        }
        let is_calm = |time| self.starved_at.is_none_or(|at| since(at) > time);
        let is_free = self.freed.is_some_and(|freed| since(freed) > SETTLES) && is_calm(SETTLES);
        let active = self.viewers.values().filter(|viewer| viewer.is_active).count();
        let interval = if capacity.is_some_and(|capacity| capacity > active) {
            self.probe_interval / 4
        } else {
            self.probe_interval
        };
        let is_time = is_calm(interval) && self.evicted_at.is_none_or(|at| since(at) > interval);
        if !is_free && !is_time {
            return;
        }
        let rank = self.next_rank();
        let waiting = self.viewers.iter_mut().filter(|(_, viewer)| !viewer.is_admitted && !viewer.is_active);
        if let Some((id, viewer)) = waiting.min_by_key(|(_, viewer)| viewer.rank) {
            viewer.is_admitted = true;
            viewer.rank = rank;
            tracing::info!("a LAN viewer is invited back from the CDN");
            (self.probation, self.freed) = (Some((*id, now)), None);
        }
    }

    /// Whether a viewer waits to be admitted.
    pub(super) fn has_waiting(&self) -> bool {
        self.viewers.values().any(|viewer| !viewer.is_admitted)
    }

    /// The priority of each viewer in the allocation, lowest first; `None` for equal shares, while a viewer without another path needs one.
    pub(super) fn priorities(&self) -> impl Iterator<Item = (u64, Option<u64>)> {
        let is_even = self.viewers.values().any(|viewer| viewer.has_no_fallback);
        self.viewers.iter().map(move |(id, viewer)| (*id, (!is_even).then_some(viewer.rank)))
    }

    fn next_rank(&mut self) -> u64 {
        self.rank += 1;
        self.rank
    }
}

/// Time until a redirect or a departure takes effect.
const SETTLES: Duration = Duration::from_millis(2500);
/// A viewer still active this long after it was redirected has no other path: a fallback is active within a second and verified in another.
const NO_FALLBACK: Duration = Duration::from_secs(3);
/// Probation after being invited back: five keyframe intervals.
const PROBATION: Duration = Duration::from_secs(10);
/// Interval between probes, or a quarter of it if the estimate says that there is capacity.
const PROBE_INTERVAL: Duration = Duration::from_secs(20);
/// Upper bound of the interval between probes.
const MAX_PROBE_INTERVAL: Duration = Duration::from_secs(320);

#[cfg(test)]
mod tests {
    use super::*;

    struct Room {
        admission: AdmissionControl,
        start: Instant,
        viewers: u64,
    }

    impl Room {
        fn new(viewers: u64) -> Self {
            let mut room = Self { admission: AdmissionControl::new(), start: Instant::now(), viewers: 0 };
            for id in 0..viewers {
                room.join(id);
                room.admission.set_active(id, true, room.start);
            }
            room
        }

        fn join(&mut self, id: u64) {
            self.admission.join(id);
            self.viewers = self.viewers.max(id + 1);
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        fn short(&mut self, millis: u64, capacity: Option<usize>) {
            self.admission.on_starved(capacity, self.at(millis));
        }

        /// Updates every 100 ms; viewers follow each decision.
        fn obey(&mut self, from: u64, to: u64) {
            for millis in (from..to).step_by(100) {
                self.admission.tick(true, None, self.at(millis));
                for id in 0..self.viewers {
                    self.admission.set_active(id, self.admission.is_admitted(id), self.at(millis));
                }
            }
        }

        fn admitted(&self) -> Vec<u64> {
            (0..self.viewers).filter(|id| self.admission.is_admitted(*id)).collect()
        }
    }

    #[test]
    fn the_newest_viewer_is_redirected_first_and_one_at_a_time() {
        let mut room = Room::new(4);
        assert_eq!(room.admitted(), [0, 1, 2, 3]);
        room.short(0, None);
        assert_eq!(room.admitted(), [0, 1, 2]);
        room.obey(0, 1000);
        room.short(1000, None);
        assert_eq!(room.admitted(), [0, 1, 2], "the first redirect has not taken effect yet");
        room.short(3000, None);
        assert_eq!(room.admitted(), [0, 1]);
        room.join(4);
        assert_eq!(room.admitted(), [0, 1], "a later viewer waits, too");
        assert!(room.admission.has_waiting());
    }

    #[test]
    fn at_most_half_of_the_viewers_are_redirected_at_once() {
        let mut room = Room::new(8);
        room.short(0, Some(2));
        assert_eq!(room.admitted(), [0, 1, 2, 3]);
        room.short(3000, Some(2));
        assert_eq!(room.admitted(), [0, 1]);
        room.short(6000, Some(2));
        assert_eq!(room.admitted(), [0], "the estimate was too high");
    }

    #[test]
    fn the_longest_waiting_viewer_is_invited_back_first() {
        let mut room = Room::new(4);
        room.short(0, Some(2));
        room.obey(0, 5000);
        assert_eq!(room.admitted(), [0, 1]);
        room.admission.leave(0, room.at(5000));
        room.obey(5000, 9000);
        assert_eq!(room.admitted(), [1, 2]);
    }

    #[test]
    fn a_failed_probe_doubles_the_interval() {
        let mut room = Room::new(3);
        room.short(0, None);
        room.obey(0, 20_000);
        assert_eq!(room.admitted(), [0, 1]);
        room.obey(20_000, 20_300);
        assert_eq!(room.admitted(), [0, 1, 2]);
        room.short(22_000, None);
        assert_eq!(room.admitted(), [0, 1], "at once: the viewer on probation is the surplus");
        room.obey(22_000, 61_000);
        assert_eq!(room.admitted(), [0, 1]);
        room.obey(61_000, 62_300);
        assert_eq!(room.admitted(), [0, 1, 2]);
        // This time there is capacity.
        room.obey(62_300, 73_000);
        assert_eq!((room.admitted().len(), room.admission.probe_interval), (3, PROBE_INTERVAL));
        assert!(!room.admission.has_waiting());
    }

    #[test]
    fn a_viewer_without_another_path_gets_an_equal_share() {
        let mut room = Room::new(3);
        room.short(0, None);
        assert!(room.admission.priorities().all(|(_, rank)| rank.is_some()));
        for millis in (0..7000).step_by(100) {
            room.admission.tick(true, None, room.at(millis));
        }
        assert!(room.admission.priorities().all(|(_, rank)| rank.is_none()));
        // Others may have another path.
        room.short(7000, None);
        assert_eq!(room.admitted(), [0]);
        room.admission.set_active(2, false, room.at(7100));
        assert!(room.admission.priorities().all(|(_, rank)| rank.is_some()));
    }

    #[test]
    fn free_capacity_shortens_the_interval() {
        let mut room = Room::new(3);
        room.short(0, Some(1));
        room.obey(0, 1000);
        assert_eq!(room.admitted(), [0]);
        room.admission.tick(true, Some(1), room.at(5500));
        assert_eq!(room.admitted(), [0], "capacity for one only");
        room.admission.tick(true, Some(2), room.at(5500));
        assert_eq!(room.admitted(), [0, 1]);
    }

    #[test]
    fn without_a_cdn_every_viewer_is_admitted() {
        let mut room = Room::new(3);
        room.short(0, Some(1));
        room.obey(0, 1000);
        assert_eq!(room.admitted(), [0]);
        room.admission.tick(false, None, room.at(1100));
        assert_eq!(room.admitted(), [0, 1, 2]);
    }
}
