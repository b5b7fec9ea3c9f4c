//! The stage times of the newest units of a broadcast, as recorded by this host or reported by others.

use std::collections::VecDeque;

use super::{Stage, StageTimes};
use crate::access_unit::{Epoch, TrackId};
use crate::time::{Timestamp, WallClock};

/// The stage times of one unit. Each time is by the clock of the host that the stage is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitTiming {
    /// Track of the unit.
    pub track: TrackId,
    /// DTS of the unit.
    pub dts: Timestamp,
    /// The stage times that are known.
    pub stamps: StageTimes,
}

/// The stage times of the last 1024 units of one track in one epoch: those of the unit that was stamped last. Callers stamp the
/// [timing track](crate::Catalog::timing_track).
#[derive(Clone, Debug, Default)]
pub struct TimingLog {
    of: Option<(Epoch, TrackId)>,
    /// The logged units, by increasing DTS.
    rows: VecDeque<(Timestamp, StageTimes)>,
}

impl TimingLog {
    /// Records that a unit passes `stage` at `at`. The earliest time of a stage counts. A unit of another epoch or track clears the log; a unit older
    /// than all in a full log is ignored.
    pub fn stamp(&mut self, epoch: Epoch, track: TrackId, dts: Timestamp, stage: Stage, at: WallClock) {
        if self.of != Some((epoch, track)) {
            self.of = Some((epoch, track));
            self.rows.clear();
        }
        let place = self.rows.partition_point(|(held, _)| *held < dts);
        if self.rows.get(place).is_none_or(|(held, _)| *held != dts) {
            if place == 0 && self.rows.len() >= UNITS {
                return;
            }
            self.rows.insert(place, (dts, StageTimes::default()));
        }
        if let Some((_, stamps)) = self.rows.get_mut(place) {
            stamps.stamp(stage, stamps.at(stage).map_or(at, |earlier| earlier.min(at)));
        }
        if self.rows.len() > UNITS {
            self.rows.pop_front();
        }
    }

    /// Records that all logged units with a DTS in `range` pass `stage` at `at`: they are in one part or segment.
    pub fn stamp_range(&mut self, epoch: Epoch, range: std::ops::Range<Timestamp>, stage: Stage, at: WallClock) {
        if self.of.is_none_or(|(held, _)| held != epoch) {
            return;
        }
        let first = self.rows.partition_point(|(dts, _)| *dts < range.start);
        let rows = self.rows.iter_mut().skip(first).take_while(|(dts, _)| *dts < range.end);
        rows.for_each(|(_, stamps)| stamps.stamp(stage, stamps.at(stage).map_or(at, |earlier| earlier.min(at))));
    }

    /// The epoch and track of the log; `None` while it is empty.
    pub fn of(&self) -> Option<(Epoch, TrackId)> {
        self.of
    }

    /// The stage times of one unit; `None` if it is not in the log.
    pub fn unit(&self, epoch: Epoch, track: TrackId, dts: Timestamp) -> Option<StageTimes> {
        if self.of != Some((epoch, track)) {
            return None;
        }
        let place = self.rows.binary_search_by_key(&dts, |(held, _)| *held).ok()?;
        self.rows.get(place).map(|(_, stamps)| *stamps)
    }

    /// At most `count` units in order, evenly spaced over the last 64 up to and including `until` (or the newest). Neighbours within one segment or
    /// part have nearly equal times, so they would not represent the others.
    pub fn sample(&self, count: usize, until: Option<Timestamp>) -> impl Iterator<Item = UnitTiming> {
        let step = SAMPLED.div_ceil(count.max(1));
        let units: Vec<UnitTiming> = self.last(SAMPLED, until).collect();
        let first = units.len().saturating_sub(1) % step;
        units.into_iter().skip(first).step_by(step)
    }

    /// The last `count` units up to and including `until` (or the newest), in order.
    pub fn last(&self, count: usize, until: Option<Timestamp>) -> impl Iterator<Item = UnitTiming> {
        let end = until.map_or(self.rows.len(), |until| self.rows.partition_point(|(dts, _)| *dts <= until));
        let track = self.of.map_or(TrackId::VIDEO, |(_, track)| track);
        self.rows.range(end.saturating_sub(count)..end).map(move |(dts, stamps)| UnitTiming {
            track,
            dts: *dts,
            stamps: *stamps,
        })
    }
}

/// Number of units over which samples are spread: about one segment of video.
const SAMPLED: usize = 64;
/// Units in a log: enough for a viewer three segments of 6 s behind, at 60 frames per second; 200 kB.
const UNITS: usize = 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EPOCH: Epoch = Epoch(7);

    fn stamp(log: &mut TimingLog, dts: i64, stage: Stage, at: i64) {
        log.stamp(EPOCH, TrackId::VIDEO, Timestamp::from_millis(dts), stage, WallClock::from_micros(at));
    }

    fn at(log: &TimingLog, dts: i64, stage: Stage) -> Option<i64> {
        let stamps = log.unit(EPOCH, TrackId::VIDEO, Timestamp::from_millis(dts))?;
        stamps.at(stage).map(WallClock::as_micros)
    }

    #[test]
    fn the_earliest_time_of_a_stage_counts() {
        let mut log = TimingLog::default();
        stamp(&mut log, 40, Stage::Ingested, 5);
        stamp(&mut log, 0, Stage::Encoded, 1);
        stamp(&mut log, 40, Stage::Relayed, 9);
        stamp(&mut log, 40, Stage::Relayed, 7);
        stamp(&mut log, 40, Stage::Relayed, 8);
        assert_eq!((at(&log, 40, Stage::Ingested), at(&log, 40, Stage::Relayed)), (Some(5), Some(7)));
        let rows: Vec<i64> = log.last(9, None).map(|unit| unit.dts.as_millis()).collect();
        assert_eq!(rows, [0, 40]);
        assert_eq!(log.last(9, Some(Timestamp::from_millis(39))).count(), 1);
        assert_eq!(log.last(1, None).next().unwrap().dts, Timestamp::from_millis(40));
    }

    #[test]
    fn a_range_of_units_is_stamped() {
        let mut log = TimingLog::default();
        (0..5).for_each(|n| stamp(&mut log, n * 40, Stage::Ingested, n));
        let range = Timestamp::from_millis(40)..Timestamp::from_millis(120);
        log.stamp_range(EPOCH, range.clone(), Stage::InPart, WallClock::from_micros(99));
        log.stamp_range(Epoch(8), range, Stage::InSegment, WallClock::from_micros(99));
        let stamped: Vec<_> = (0..5).map(|n| at(&log, n * 40, Stage::InPart)).collect();
        assert_eq!(stamped, [None, Some(99), Some(99), None, None]);
        assert!((0..5).all(|n| at(&log, n * 40, Stage::InSegment).is_none()));
    }

    #[test]
    fn samples_are_evenly_spaced_up_to_the_given_unit() {
        let mut log = TimingLog::default();
        assert_eq!(log.sample(8, None).count(), 0);
        (0..200).for_each(|n| stamp(&mut log, n * 10, Stage::Ingested, n));
        let dts = |count, until: Option<i64>| -> Vec<i64> {
            log.sample(count, until.map(Timestamp::from_millis)).map(|unit| unit.dts.as_millis()).collect()
        };
        assert_eq!(dts(8, Some(999)), [430, 510, 590, 670, 750, 830, 910, 990]);
        assert_eq!((dts(8, None).last(), dts(1, None), dts(8, Some(30))), (Some(&1990), vec![1990], vec![30]));
    }

    #[test]
    fn a_new_epoch_clears_the_log() {
        let mut log = TimingLog::default();
        stamp(&mut log, 0, Stage::Ingested, 1);
        log.stamp(Epoch(8), TrackId::VIDEO, Timestamp::ZERO, Stage::Ingested, WallClock::from_micros(2));
        assert_eq!(log.of(), Some((Epoch(8), TrackId::VIDEO)));
        assert_eq!(at(&log, 0, Stage::Ingested), None);
    }

    proptest! {
        #[test]
        fn bounded_and_in_order(units in prop::collection::vec((0..4000i64, 0..12usize), 0..3000)) {
            let mut log = TimingLog::default();
            for (dts, stage) in units {
                stamp(&mut log, dts, Stage::ALL[stage], dts);
            }
            let rows: Vec<_> = log.last(usize::MAX, None).map(|unit| unit.dts).collect();
            prop_assert!(rows.len() <= UNITS && rows.windows(2).all(|two| two[0] < two[1]));
        }
    }
}
