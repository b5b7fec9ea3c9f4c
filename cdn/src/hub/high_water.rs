//! Which access units a stream has had: the newest DTS of each track of the last few epochs.
//!
//! A publisher that comes back is told where to resume, and what it sends twice is dropped by name.

use std::collections::VecDeque;

use media::{Epoch, Timestamp, TrackId};

/// The newest DTS of each `(epoch, track)`, for the last few epochs.
#[derive(Clone, Debug, Default)]
pub struct HighWaterMarks {
    /// The epoch that was heard last is at the back.
    epochs: VecDeque<(Epoch, Vec<(TrackId, Timestamp)>)>,
}

impl HighWaterMarks {
    /// The epoch that the stream had last, and the newest DTS of each of its tracks.
    pub fn last(&self) -> Option<(Epoch, &[(TrackId, Timestamp)])> {
        self.epochs.back().map(|(epoch, tracks)| (*epoch, tracks.as_slice()))
    }

    /// The newest DTS of all tracks of the epoch that the stream had last.
    pub fn last_dts(&self) -> Option<Timestamp> {
        self.epochs.back().and_then(|(_, tracks)| tracks.iter().map(|(_, dts)| *dts).max())
    }

    /// Notes a unit. False if it is one that the stream has had.
    pub(super) fn accept(&mut self, epoch: Epoch, track: TrackId, dts: Timestamp) -> bool {
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

/// Publishers that take turns on one key (a main and a backup encoder) are few. Each epoch has as many tracks as its catalog,
/// which is bounded.
const MAX_EPOCHS: usize = 8;
