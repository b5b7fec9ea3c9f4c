//! The segment in progress.

use super::segment::{Intervals, Part, SAMPLE_COST};
use crate::access_unit::AccessUnit;
use crate::time::{Timestamp, WallClock};

/// The segment in progress.
#[derive(Debug)]
pub(super) struct OpenSegment {
    pub(super) start: Timestamp,
    pub(super) discontinuity: bool,
    /// Whether the first video frame is an IDR; `None` before the first one.
    pub(super) independent: Option<bool>,
    /// Intervals between its pictures in milliseconds.
    intervals: Vec<u32>,
    pub(super) parts: Vec<Part>,
    pub(super) bytes: usize,
    pub(super) part_start: Timestamp,
    pub(super) units: Vec<AccessUnit>,
    /// Its date, once playlists have stated it.
    pub(super) date: Option<WallClock>,
}

impl OpenSegment {
    pub(super) fn new(start: Timestamp, discontinuity: bool) -> Self {
        Self {
            start,
            discontinuity,
            independent: None,
            intervals: Vec::new(),
            parts: Vec::new(),
            bytes: 0,
            part_start: start,
            units: Vec::new(),
            date: None,
        }
    }

    pub(super) fn add(&mut self, unit: &AccessUnit) {
        if unit.track.is_video() {
            self.independent.get_or_insert(unit.random_access);
        }
        self.bytes += unit_cost(unit);
        self.units.push(unit.clone());
    }

    pub(super) fn is_not_empty(&self) -> bool {
        !self.parts.is_empty() || !self.units.is_empty()
    }

    /// Notes the milliseconds between a picture and the one before.
    pub(super) fn add_interval(&mut self, millis: i64) {
        if self.intervals.len() < MAX_INTERVALS {
            self.intervals.push(u32::try_from(millis).unwrap_or(u32::MAX).min(MAX_INTERVAL));
        }
    }

    /// The usual intervals between its pictures, which it forgets.
    pub(super) fn take_intervals(&mut self) -> Intervals {
        Intervals::usual(std::mem::take(&mut self.intervals))
    }
}

/// What it costs to hold a unit, in bytes.
pub(super) fn unit_cost(unit: &AccessUnit) -> usize {
    unit.payload.len() + SAMPLE_COST
}

/// Bounds the intervals that the frame rate of a segment is told by.
const MAX_INTERVALS: usize = 1024;
/// In milliseconds. Bounds one of them, so that their sum fits.
const MAX_INTERVAL: u32 = 60_000;
