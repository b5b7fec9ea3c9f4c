//! The units of one path that wait for the units before them, oldest first, bounded by what they cost. Only the oldest of each track can be next, so that
//! a queue of any length costs a few comparisons.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::access_unit::{AccessUnit, TrackId};
use crate::catalog::Catalog;
use crate::time::Timestamp;

/// A unit that waits.
#[derive(Debug)]
pub(super) struct QueuedUnit {
    pub(super) catalog: Arc<Catalog>,
    pub(super) unit: AccessUnit,
    /// DTS of its predecessor, if that is known.
    pub(super) predecessor: Option<Timestamp>,
    /// Whether the path stated it; otherwise it is the previous unit of the track on the path.
    pub(super) is_stated: bool,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct WaitingUnits {
    /// The units of each track with their numbers, in the order of arrival; no track is empty.
    tracks: BTreeMap<TrackId, VecDeque<(u64, QueuedUnit)>>,
    /// Number of the next unit.
    next: u64,
    /// What all of them cost.
    bytes: usize,
}

impl WaitingUnits {
    /// Appends a unit. Returns how many of the oldest were dropped to stay within the bound.
    pub(super) fn push(&mut self, unit: QueuedUnit) -> u64 {
        self.bytes += cost(&unit);
        self.tracks.entry(unit.unit.track).or_default().push_back((self.next, unit));
        self.next += 1;
        let mut dropped = 0;
        while self.bytes > MAX_WAITING_BYTES && self.tracks.values().map(VecDeque::len).sum::<usize>() > 1 {
            let oldest = self.oldest().first().map(|(_, unit)| unit.unit.track);
            dropped += u64::from(oldest.and_then(|track| self.take(track)).is_some());
        }
        dropped
    }

    /// The oldest unit of each track with its number, in the order of arrival.
    pub(super) fn oldest(&self) -> Vec<(u64, &QueuedUnit)> {
        let mut oldest: Vec<_> =
            self.tracks.values().filter_map(|units| units.front()).map(|(number, unit)| (*number, unit)).collect();
        oldest.sort_unstable_by_key(|(number, _)| *number);
        oldest
    }

    /// Removes the oldest unit of a track.
    pub(super) fn take(&mut self, track: TrackId) -> Option<QueuedUnit> {
        let units = self.tracks.get_mut(&track)?;
        let (_, unit) = units.pop_front()?;
        if units.is_empty() {
            self.tracks.remove(&track);
        }
        self.bytes -= cost(&unit);
        Some(unit)
    }

    /// The greatest DTS among the last units of the tracks; `None` if nothing waits.
    pub(super) fn newest(&self) -> Option<Timestamp> {
        self.tracks.values().filter_map(|units| units.back()).map(|(_, waiting)| waiting.unit.dts).max()
    }
}

fn cost(waiting: &QueuedUnit) -> usize {
    waiting.unit.payload.len() + UNIT_COST
}

/// What a queued unit costs beside its payload, in bytes.
const UNIT_COST: usize = 256;
/// Bounds the queue of a path in bytes: 8 s of a 16 Mbit/s stream.
const MAX_WAITING_BYTES: usize = 16 << 20;
