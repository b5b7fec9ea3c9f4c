//! Units of one kind that wait for their decoder, in decoding order, and the ways to skip some.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use media::{AccessUnit, Catalog, Timestamp};

/// A unit to decode.
#[derive(Clone, Debug)]
pub struct DecodeJob {
    /// The playback timeline of its PTS.
    pub timeline: u32,
    /// The catalog that applies to it.
    pub catalog: Arc<Catalog>,
    /// The unit, as it was merged.
    pub unit: AccessUnit,
    /// When it arrived, on the viewer's clock.
    pub arrived: Duration,
    /// Units before it were skipped: the decoder must be flushed.
    pub after_gap: bool,
}

/// Units in decoding order.
#[derive(Debug, Default)]
pub(super) struct UnitQueue {
    units: VecDeque<DecodeJob>,
    bytes: usize,
    /// Units before the front were skipped.
    gap: bool,
}

impl UnitQueue {
    pub(super) fn push(&mut self, work: DecodeJob) {
        self.bytes += work.unit.payload.len();
        self.units.push_back(work);
    }

    pub(super) fn front(&self) -> Option<&DecodeJob> {
        self.units.front()
    }

    pub(super) fn pop(&mut self) -> Option<DecodeJob> {
        let mut work = self.units.pop_front()?;
        self.bytes -= work.unit.payload.len();
        work.after_gap |= std::mem::take(&mut self.gap);
        Some(work)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Media time from the first to the last unit; epochs are added up as if one followed the other directly.
    pub(super) fn span(&self) -> Duration {
        let (Some(first), Some(last)) = (self.units.front(), self.units.back()) else { return Duration::ZERO };
        if first.timeline == last.timeline {
            return last.unit.dts.since(first.unit.dts);
        }
        let at = self.units.partition_point(|work| work.timeline == first.timeline);
        let old = self.units.get(at.saturating_sub(1)).map_or(Duration::ZERO, |w| w.unit.dts.since(first.unit.dts));
        old + self.units.get(at).map_or(Duration::ZERO, |w| last.unit.dts.since(w.unit.dts))
    }

    /// Drops all units before the last random access point that is due at `position`; returns how many.
    pub(super) fn drop_to_random_access(&mut self, timeline: u32, position: Timestamp) -> u64 {
        let can_start =
            |work: &DecodeJob| work.timeline == timeline && work.unit.random_access && work.unit.pts <= position;
        self.units.iter().rposition(can_start).map_or(0, |at| self.drop_front(at))
    }

    /// Drops all units before the first random access point that is due at `position` or later, or before the last one if there is none; returns
    /// how many.
    pub(super) fn drop_to_next_random_access(&mut self, timeline: u32, position: Timestamp) -> u64 {
        let can_start = |work: &DecodeJob| work.timeline == timeline && work.unit.random_access;
        let next = self.units.iter().position(|work| can_start(work) && work.unit.pts >= position);
        next.or_else(|| self.units.iter().rposition(can_start)).map_or(0, |at| self.drop_front(at))
    }

    /// Drops all units that are due before `position`; returns how many.
    pub(super) fn drop_before(&mut self, timeline: u32, position: Timestamp) -> u64 {
        let late = |work: &DecodeJob| work.timeline < timeline || work.timeline == timeline && work.unit.pts < position;
        let count = self.units.iter().take_while(|work| late(work)).count();
        self.drop_front(count)
    }

    /// Drops the front and all units up to the next random access point; returns how many.
    pub(super) fn drop_oldest_group(&mut self) -> u64 {
        let next = self.units.iter().skip(1).position(|work| work.unit.random_access).map(|at| at + 1);
        self.drop_front(next.unwrap_or(self.units.len()))
    }

    fn drop_front(&mut self, count: usize) -> u64 {
        for work in self.units.drain(..count) {
            self.bytes -= work.unit.payload.len();
        }
        self.gap |= count > 0;
        count as u64
    }
}
