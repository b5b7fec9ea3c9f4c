//! The stamps of the last units of a broadcast: what one host has noted itself and been told by others.

use std::collections::VecDeque;

use super::{Stage, StageTimes};
use crate::access_unit::{Epoch, TrackId};
use crate::time::{Timestamp, WallClock};

/// One unit's stamps. Each is by the clock of the host that the stage is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitTiming {
    /// Of the unit.
    pub track: TrackId,
    /// Its name in the track.
    pub dts: Timestamp,
    /// What is known.
    pub stamps: StageTimes,
}

/// The last 1024 units of one track and one epoch: that of the last unit that was stamped. Pictures say where the time goes, so that
/// is what callers stamp, or sound where there are none.
#[derive(Clone, Debug, Default)]
pub struct TimingLog {
    of: Option<(Epoch, TrackId)>,
    /// DTS rises.
    rows: VecDeque<(Timestamp, StageTimes)>,
}

impl TimingLog {
    /// Notes that a unit passes `stage` at `at`. The earliest stamp of a stage counts. One of another epoch or track begins anew; one that is
    /// older than all that are held is nothing.
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

    /// Notes that all held units from `from` on and before `until` pass `stage` at `at`: they were cut into one piece.
    pub fn stamp_range(&mut self, epoch: Epoch, range: std::ops::Range<Timestamp>, stage: Stage, at: WallClock) {
        if self.of.is_none_or(|(held, _)| held != epoch) {
            return;
        }
        let first = self.rows.partition_point(|(dts, _)| *dts < range.start);
        let rows = self.rows.iter_mut().skip(first).take_while(|(dts, _)| *dts < range.end);
        rows.for_each(|(_, stamps)| stamps.stamp(stage, stamps.at(stage).map_or(at, |earlier| earlier.min(at))));
    }

    /// What is held of, if anything.
    pub fn of(&self) -> Option<(Epoch, TrackId)> {
        self.of
    }

    /// The stamps of one unit.
    pub fn unit(&self, epoch: Epoch, track: TrackId, dts: Timestamp) -> Option<StageTimes> {
        if self.of != Some((epoch, track)) {
            return None;
        }
        let place = self.rows.binary_search_by_key(&dts, |(held, _)| *held).ok()?;
        self.rows.get(place).map(|(_, stamps)| *stamps)
    }

    /// At most `count` units, spread over the last [`SAMPLED`] up to and with `until`, or up to the newest; in order. Those of one segment or part
    /// that are next to each other have waited alike, and say nothing of the others.
    pub fn sample(&self, count: usize, until: Option<Timestamp>) -> impl Iterator<Item = UnitTiming> {
        let step = SAMPLED.div_ceil(count.max(1));
        let units: Vec<UnitTiming> = self.last(SAMPLED, until).collect();
        let first = units.len().saturating_sub(1) % step;
        units.into_iter().skip(first).step_by(step)
    }

    /// The last `count` units up to and with `until`, or up to the newest; in order.
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

/// About a segment of pictures.
const SAMPLED: usize = 64;
/// A segment of 6 s three segments behind, at 60 pictures a second. 200 kB.
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
    fn stages_meet_in_one_row_and_the_earliest_counts() {
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
    fn a_piece_is_stamped_whole() {
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
    fn units_are_spread_up_to_the_one_that_is_asked_for() {
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
    fn another_epoch_begins_anew() {
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
