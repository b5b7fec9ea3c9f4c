//! The catalog: the epoch of a broadcast, its clock, and the decoder configuration of each track.
//!
//! A catalog is immutable and shared; a change in mid-stream (a new picture size, a track that joins) makes a new one, which
//! is in force from a given access unit on.

use std::collections::BTreeMap;

use crate::access_unit::{Epoch, TrackId, TrackKind};
use crate::codec::CodecConfig;
use crate::time::{Timestamp, WallClock};

/// A track and how to decode it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Track {
    /// Its identity in the broadcast.
    pub id: TrackId,
    /// Its codec, decoder configuration, and video or audio format.
    pub config: CodecConfig,
}

/// A metadata value as publishers send them (AMF0 scalars; objects and arrays are dropped).
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An AMF0 number: an IEEE 754 double (AMF0 §2.2).
    Number(f64),
    /// An AMF0 boolean (AMF0 §2.3).
    Boolean(bool),
    /// An AMF0 string or long string, as UTF-8 (AMF0 §2.4, §2.14).
    String(String),
}

/// A publisher's `onMetaData`, unknown keys included, without Nearcast's own.
pub type Metadata = BTreeMap<String, Value>;

/// Everything about a broadcast that is not an access unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Catalog {
    /// The broadcast it describes.
    pub epoch: Epoch,
    /// Wall-clock time of PTS 0 by the broadcaster's clock. `None` if the publisher stated none: then capture times are unknown.
    pub clock: Option<WallClock>,
    /// In order of appearance; at most [`MAX_TRACKS`], no two with the same id.
    pub tracks: Vec<Track>,
    /// The publisher's `onMetaData`.
    pub metadata: Metadata,
}

impl Catalog {
    /// A catalog without tracks, clock and metadata.
    pub fn new(epoch: Epoch) -> Self {
        Self { epoch, clock: None, tracks: Vec::new(), metadata: Metadata::new() }
    }

    /// The track with this id.
    pub fn track(&self, id: TrackId) -> Option<&Track> {
        self.tracks.iter().find(|t| t.id == id)
    }

    /// The first video track.
    pub fn video(&self) -> Option<&Track> {
        self.tracks.iter().find(|t| t.id.kind == TrackKind::Video)
    }

    /// The first audio track.
    pub fn audio(&self) -> Option<&Track> {
        self.tracks.iter().find(|t| t.id.kind == TrackKind::Audio)
    }

    /// The track that latency is measured on: the first video track, or the first audio track without video.
    pub fn timing_track(&self) -> Option<TrackId> {
        self.video().or_else(|| self.audio()).map(|track| track.id)
    }

    /// Wall-clock time at which `pts` was captured; `None` without a clock.
    pub fn captured_at(&self, pts: Timestamp) -> Option<WallClock> {
        self.clock.map(|zero| zero.at(pts))
    }

    /// Size of what the publisher sent, in bytes: decoder configuration records and metadata.
    pub fn bytes(&self) -> usize {
        let value = |value: &Value| match value {
            Value::String(text) => text.len(),
            Value::Number(_) | Value::Boolean(_) => 0,
        };
        let metadata: usize = self.metadata.iter().map(|(key, v)| key.len() + value(v)).sum();
        metadata + self.tracks.iter().map(|track| track.config.record.len()).sum::<usize>()
    }

    /// Adds `track`, or replaces the one with its id. Returns whether anything changed; a track over [`MAX_TRACKS`] is ignored.
    pub fn set_track(&mut self, track: Track) -> bool {
        match self.tracks.iter().position(|t| t.id == track.id) {
            Some(at) if self.tracks[at] == track => false,
            Some(at) => {
                self.tracks[at] = track;
                true
            }
            None if self.tracks.len() >= MAX_TRACKS => false,
            None => {
                self.tracks.push(track);
                true
            }
        }
    }
}

/// Upper bound of the tracks of a broadcast, which every subscriber has to hold. No encoder sends as many.
pub const MAX_TRACKS: usize = 16;
