//! The first units of a publisher, which wait until all its tracks are known, so that the first catalog is the whole one. Pure: time is a
//! parameter.

use std::time::{Duration, Instant};

use media::access_unit::TrackKind;
use media::{AccessUnit, Catalog};

/// What a publisher is held to while its first units wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// How long units wait for tracks.
    pub(crate) track_wait: Duration,
    /// Payload that may wait.
    pub(crate) max_pending_bytes: usize,
}

/// Which kinds of track a publisher has said that it has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExpectedTracks {
    pub(crate) video: bool,
    pub(crate) audio: bool,
}

/// Units that wait. Once taken, none wait any more.
#[derive(Debug)]
pub(super) struct Pending {
    settings: Settings,
    /// `None` once they were taken.
    units: Option<Vec<AccessUnit>>,
    bytes: usize,
    until: Option<Instant>,
    expected: Option<ExpectedTracks>,
}

impl Pending {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, units: Some(Vec::new()), bytes: 0, until: None, expected: None }
    }

    /// The publisher says which tracks it has. Of one that has said nothing, or neither, both kinds are waited for.
    pub(super) fn expect(&mut self, expected: ExpectedTracks) {
        self.expected = Some(expected);
    }

    /// When the wait is over, whatever is missing.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.until.filter(|_| self.units.is_some())
    }

    /// Has a unit wait; gives it back if none wait any more.
    pub(super) fn push(&mut self, unit: AccessUnit, now: Instant) -> Option<AccessUnit> {
        let Some(units) = &mut self.units else { return Some(unit) };
        self.until.get_or_insert(now + self.settings.track_wait);
        self.bytes = self.bytes.saturating_add(unit.payload.len());
        units.push(unit);
        None
    }

    /// Whether nothing is worth waiting for any longer: the tracks are there, or too much waits for them.
    pub(super) fn is_due(&self, catalog: &Catalog) -> bool {
        let Some(units) = &self.units else { return false };
        let has = |kind| catalog.tracks.iter().any(|track| track.id.kind == kind);
        let said = self.expected.filter(|expected| expected.video || expected.audio);
        let wants = said.unwrap_or(ExpectedTracks { video: true, audio: true });
        let is_complete = (!wants.video || has(TrackKind::Video)) && (!wants.audio || has(TrackKind::Audio));
        is_complete || self.bytes > self.settings.max_pending_bytes || units.len() > MAX_PENDING_UNITS
    }

    /// Those that wait, to be changed.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut AccessUnit> {
        self.units.iter_mut().flatten()
    }

    /// Ends the wait.
    pub(super) fn take(&mut self) -> Vec<AccessUnit> {
        self.units.take().unwrap_or_default()
    }
}

/// Units that may wait, however small: many seconds of sound.
const MAX_PENDING_UNITS: usize = 4096;
