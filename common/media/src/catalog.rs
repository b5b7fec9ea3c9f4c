//! What a broadcast consists of: its epoch, its clock, and how each track is decoded.
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
    /// Which track.
    pub id: TrackId,
    /// Its codec, decoder configuration and picture or sound format.
    pub config: CodecConfig,
}

/// A metadata value as publishers send them (AMF0 scalars; objects and arrays are dropped).
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// AMF0 number.
    Number(f64),
    /// AMF0 boolean.
    Boolean(bool),
    /// AMF0 string.
    String(String),
}

/// A publisher's `onMetaData`, unknown keys included, without Nearcast's own.
pub type Metadata = BTreeMap<String, Value>;

/// Everything about a broadcast that is not an access unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Catalog {
    /// The broadcast.
    pub epoch: Epoch,
    /// Wall-clock time of PTS 0, if the publisher told it; `None` means that nobody knows when pictures were captured.
    pub clock: Option<WallClock>,
    /// In the order in which they appeared; at most [`MAX_TRACKS`], no two with the same id.
    pub tracks: Vec<Track>,
    /// What the publisher said about itself.
    pub metadata: Metadata,
}

impl Catalog {
    /// A broadcast of which nothing is known yet.
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

    /// The track whose units say where the time goes: the first of pictures, or of sound where there are none.
    pub fn timing_track(&self) -> Option<TrackId> {
        self.video().or_else(|| self.audio()).map(|track| track.id)
    }

    /// When `pts` was captured.
    pub fn captured_at(&self, pts: Timestamp) -> Option<WallClock> {
        self.clock.map(|zero| zero.at(pts))
    }

    /// What a publisher can make it hold: decoder configuration records and metadata, in bytes.
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

/// Bounds what a publisher can make every subscriber hold: more tracks than any encoder sends.
pub const MAX_TRACKS: usize = 16;
