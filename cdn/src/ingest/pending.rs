//! Holds a publisher's first units until all its tracks are known, so that the first catalog is complete. Pure: time is a parameter.

use std::time::{Duration, Instant};

use media::access_unit::TrackKind;
use media::{AccessUnit, Catalog};

/// Limits on the wait of a publisher's first units.
#[derive(Clone, Copy, Debug)]
pub struct PendingLimits {
    /// Maximum wait for tracks, from the first unit.
    pub track_wait: Duration,
    /// Maximum payload of the waiting units, in bytes.
    pub max_pending_bytes: usize,
}

/// The kinds of track that a publisher has declared in its metadata.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExpectedTracks {
    pub(crate) video: bool,
    pub(crate) audio: bool,
}

/// The waiting units. After [`take`](Self::take), units no longer wait.
#[derive(Debug)]
pub(super) struct Pending {
    limits: PendingLimits,
    /// `None` once the wait is over.
    units: Option<Vec<AccessUnit>>,
    bytes: usize,
    until: Option<Instant>,
    expected: Option<ExpectedTracks>,
}

impl Pending {
    pub(super) fn new(limits: PendingLimits) -> Self {
        Self { limits, units: Some(Vec::new()), bytes: 0, until: None, expected: None }
    }

    /// Sets the tracks that the publisher declared. If it declared none, the wait is for both kinds.
    pub(super) fn expect(&mut self, expected: ExpectedTracks) {
        self.expected = Some(expected);
    }

    /// When the wait ends even if tracks are missing.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.until.filter(|_| self.units.is_some())
    }

    /// Queues a unit; returns it if the wait is over.
    pub(super) fn push(&mut self, unit: AccessUnit, now: Instant) -> Option<AccessUnit> {
        let Some(units) = &mut self.units else { return Some(unit) };
        self.until.get_or_insert(now + self.limits.track_wait);
        self.bytes = self.bytes.saturating_add(unit.payload.len());
        units.push(unit);
        None
    }

    /// Whether the wait should end: all expected tracks are known, or the limits are reached.
    pub(super) fn is_due(&self, catalog: &Catalog) -> bool {
        let Some(units) = &self.units else { return false };
        let has = |kind| catalog.tracks.iter().any(|track| track.id.kind == kind);
        let said = self.expected.filter(|expected| expected.video || expected.audio);
        let wants = said.unwrap_or(ExpectedTracks { video: true, audio: true });
        let is_complete = (!wants.video || has(TrackKind::Video)) && (!wants.audio || has(TrackKind::Audio));
        is_complete || self.bytes > self.limits.max_pending_bytes || units.len() > MAX_PENDING_UNITS
    }

    /// The waiting units, mutable.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut AccessUnit> {
        self.units.iter_mut().flatten()
    }

    /// Ends the wait and returns the units.
    pub(super) fn take(&mut self) -> Vec<AccessUnit> {
        self.units.take().unwrap_or_default()
    }
}

/// Maximum number of waiting units: many seconds of audio.
const MAX_PENDING_UNITS: usize = 4096;
