//! High-water marks: the newest DTS that a stream received on each track, for the last few epochs. Pure.
//!
//! They tell a reconnecting publisher where to resume, and identify retransmitted units, which are dropped.

use std::collections::VecDeque;

use crate::access_unit::{Epoch, TrackId};
use crate::time::Timestamp;

/// The newest DTS of each `(epoch, track)`, for the last few epochs.
#[derive(Clone, Debug, Default)]
pub struct HighWaterMarks {
    /// Ordered by last use, the current epoch at the back.
    epochs: VecDeque<(Epoch, Vec<(TrackId, Timestamp)>)>,
}

impl HighWaterMarks {
    /// The current epoch and the newest DTS of each of its tracks. `None` before the first unit.
    pub fn last(&self) -> Option<(Epoch, &[(TrackId, Timestamp)])> {
        self.epochs.back().map(|(epoch, tracks)| (*epoch, tracks.as_slice()))
    }

    /// The newest DTS of the current epoch, over all tracks. `None` before the first unit.
    pub fn last_dts(&self) -> Option<Timestamp> {
        self.epochs.back().and_then(|(_, tracks)| tracks.iter().map(|(_, dts)| *dts).max())
    }

    /// Records a unit. Returns false for a duplicate: its DTS is not above the track's mark.
    pub fn accept(&mut self, epoch: Epoch, track: TrackId, dts: Timestamp) -> bool {
        if self.epochs.back().is_none_or(|(last, _)| *last != epoch) {
            let tracks = match self.epochs.iter().position(|(e, _)| *e == epoch) {
                Some(at) => self.epochs.remove(at).map(|(_, tracks)| tracks).unwrap_or_default(),
                None => Vec::new(),
            };
            self.epochs.push_back((epoch, tracks));
            if self.epochs.len() > MAX_EPOCHS {
                self.epochs.pop_front();
            }
        }
        let (_, tracks) = self.epochs.back_mut().expect("the epoch was just put there");
        match tracks.iter_mut().find(|(id, _)| *id == track) {
            Some((_, last)) if dts <= *last => false,
            Some((_, last)) => {
                *last = dts;
                true
            }
            None => {
                tracks.push((track, dts));
                true
            }
        }
    }
}

/// Bounds the epochs remembered: few publishers alternate on one key (a main and a backup encoder). The catalog bounds the tracks of
/// each epoch.
const MAX_EPOCHS: usize = 8;
