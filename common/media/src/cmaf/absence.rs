//! Whether pictures stay away while sound goes on.

use crate::access_unit::AccessUnit;
use crate::catalog::Track;
use crate::time::Timestamp;

/// Tells pictures that stay away from a pause of everything: time counts as sound passes. Players wait for every track of an init segment, so one without
/// pictures is to take over; but a slide show is not to change init segments with each slide.
#[derive(Debug)]
pub(super) struct Absence {
    /// Milliseconds of sound since the newest picture that can be decoded, or from the first sound.
    heard: i64,
    newest_sound: Option<Timestamp>,
    /// In milliseconds of sound: pictures that are away for longer have gone.
    patience: i64,
    /// Pictures since the last that was away for long.
    seen: u32,
    /// The track that is left out, if its pictures had begun. They may go on in the middle of a GOP: what they refer to has been sent.
    left_out: Option<Track>,
}

impl Default for Absence {
    fn default() -> Self {
        Self { heard: 0, newest_sound: None, patience: PATIENCE, seen: 0, left_out: None }
    }
}

impl Absence {
    /// Notes sound. Returns whether the pictures have gone.
    pub(super) fn hear(&mut self, unit: &AccessUnit) -> bool {
        if let Some(before) = self.newest_sound.replace(unit.dts) {
            self.heard = self.heard.saturating_add((unit.dts - before).clamp(0, MAX_SOUND_INTERVAL));
        }
        self.heard > self.patience
    }

    /// Notes a picture that can be decoded.
    pub(super) fn see(&mut self) {
        if self.heard > PATIENCE {
            if self.seen < FLUENT {
                // The next slide may take as long.
                self.patience = self.heard.saturating_mul(2).min(MAX_PATIENCE);
            }
            self.seen = 0;
        }
        self.seen = self.seen.saturating_add(1);
        if self.seen >= FLUENT {
            self.patience = PATIENCE;
        }
        self.heard = 0;
    }

    /// Notes that `track` is left out from now on.
    pub(super) fn leave_out(&mut self, track: Option<&Track>) {
        self.left_out = track.cloned();
    }

    /// Whether pictures of `track` can be decoded because they go on where they were left out.
    pub(super) fn continues(&self, track: Option<&Track>) -> bool {
        track.is_some() && self.left_out.as_ref() == track
    }
}

/// In milliseconds of sound. Encoders that begin with both tracks begin within less; browsers go on for about as long without pictures.
const PATIENCE: i64 = 3000;
/// So many pictures in a row are no slide show.
const FLUENT: u32 = 10;
/// In milliseconds of sound. Bounds how rare the pictures of a slide show may be.
const MAX_PATIENCE: i64 = 30_000;
/// In milliseconds. A longer interval between two units of sound is a pause.
const MAX_SOUND_INTERVAL: i64 = 200;
