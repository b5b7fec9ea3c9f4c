//! The predecessor of each unit, tracked by a sender or receiver of units in order.
//!
//! A sender and a receiver that each keep a [`TrackOrder`] agree on the predecessor of every unit, if the sender states the predecessors
//! that the order does not show: after skipped units, and at the start.

use crate::access_unit::{AccessUnit, Epoch, TrackId};
use crate::catalog::MAX_TRACKS;
use crate::time::Timestamp;

/// The newest unit of each track of one epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrackOrder {
    epoch: Option<Epoch>,
    newest: Vec<(TrackId, Timestamp)>,
}

impl TrackOrder {
    /// DTS of the predecessor of the next unit of `track`. `None` if the epoch has no unit of the track yet, or if the predecessor was stated to
    /// be unknown.
    pub fn newest(&self, epoch: Epoch, track: TrackId) -> Option<Timestamp> {
        let of_epoch = if self.epoch == Some(epoch) { self.newest.as_slice() } else { &[] };
        of_epoch.iter().find(|(id, _)| *id == track).map(|(_, dts)| *dts)
    }

    /// Records `unit`; returns the DTS of its predecessor. `None` if that is not known, or not older than the unit.
    pub fn follow(&mut self, unit: &AccessUnit) -> Option<Timestamp> {
        let predecessor = self.newest(unit.epoch, unit.track);
        self.state(unit.epoch, unit.track, Some(unit.dts.max(predecessor.unwrap_or(unit.dts))));
        predecessor.filter(|predecessor| *predecessor < unit.dts)
    }

    /// Records `unit`, whose predecessor is at `predecessor`. Returns whether a sender must state that, because the order does not show it.
    pub fn must_state(&mut self, unit: &AccessUnit, predecessor: Option<Timestamp>) -> bool {
        self.follow(unit) != predecessor
    }

    /// States that the next unit of `track` follows the one at `predecessor`, regardless of recorded units; `None` if it is not known. Another
    /// epoch clears the order.
    pub fn state(&mut self, epoch: Epoch, track: TrackId, predecessor: Option<Timestamp>) {
        if self.epoch != Some(epoch) {
            *self = Self { epoch: Some(epoch), newest: Vec::new() };
        }
        let known = self.newest.iter().position(|(id, _)| *id == track);
        match (known, predecessor) {
            (Some(at), Some(dts)) => self.newest[at].1 = dts,
            (Some(at), None) => drop(self.newest.swap_remove(at)),
            (None, Some(dts)) if self.newest.len() < MAX_TRACKS => self.newest.push((track, dts)),
            (None, _) => {}
        }
    }

    /// Clears the order: the predecessors of the next units are unknown.
    pub fn clear(&mut self) {
        self.newest.clear();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn unit(epoch: u64, track: TrackId, dts: i64) -> AccessUnit {
        let dts = Timestamp::from_millis(dts);
        AccessUnit { epoch: Epoch(epoch), track, dts, pts: dts, random_access: true, payload: Bytes::new() }
    }

    #[test]
    fn the_predecessor_is_the_previous_unit_of_the_track() {
        let mut order = TrackOrder::default();
        let mut follow = |epoch, track, dts| order.follow(&unit(epoch, track, dts)).map(Timestamp::as_millis);
        assert_eq!(follow(1, TrackId::VIDEO, 0), None);
        assert_eq!(follow(1, TrackId::AUDIO, 5), None);
        assert_eq!(follow(1, TrackId::VIDEO, 40), Some(0));
        assert_eq!(follow(1, TrackId::AUDIO, 26), Some(5));
        assert_eq!(follow(1, TrackId::AUDIO, 20), None, "time does not go back");
        assert_eq!(follow(1, TrackId::AUDIO, 47), Some(26));
        assert_eq!(follow(2, TrackId::VIDEO, 80), None, "another epoch begins anew");
    }

    #[test]
    fn a_stated_predecessor_overrides_the_order() {
        let mut order = TrackOrder::default();
        let at = |millis| Some(Timestamp::from_millis(millis));
        order.follow(&unit(1, TrackId::VIDEO, 40));
        order.state(Epoch(1), TrackId::VIDEO, at(960));
        order.state(Epoch(1), TrackId::AUDIO, at(970));
        assert_eq!(order.follow(&unit(1, TrackId::VIDEO, 1000)), at(960));
        assert_eq!(order.follow(&unit(1, TrackId::VIDEO, 1040)), at(1000));
        assert_eq!(order.follow(&unit(1, TrackId::AUDIO, 990)), at(970));
        order.state(Epoch(1), TrackId::AUDIO, None);
        assert_eq!(order.follow(&unit(1, TrackId::AUDIO, 1011)), None, "not known");
        order.clear();
        assert_eq!(order.newest(Epoch(1), TrackId::VIDEO), None);
    }

    #[test]
    fn the_number_of_tracks_is_bounded() {
        let mut order = TrackOrder::default();
        for index in 0..=u8::MAX {
            order.follow(&unit(1, TrackId { index, ..TrackId::AUDIO }, 0));
        }
        assert_eq!(order.newest.len(), MAX_TRACKS);
    }
}
