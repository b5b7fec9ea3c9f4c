//! The access unit: the unit that all parts of the stack exchange.
//!
//! One coded picture, or one coded audio frame, exactly as the encoder made it. Its payload is allocated once and shared by
//! reference; its identity `(epoch, track, dts)` is the same on every path, server and peer.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use crate::time::Timestamp;

/// Identifies one broadcast: a random 64-bit number, chosen by the broadcaster, or by the server for a publisher that states none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// Sixteen lower-case hexadecimal digits.
impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Reads exactly what `Display` writes.
impl FromStr for Epoch {
    type Err = std::num::ParseIntError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        // The radix parser takes a sign; no epoch has one.
        let s = if s.len() == 16 && !s.starts_with('+') { s } else { "" };
        u64::from_str_radix(s, 16).map(Self)
    }
}

/// The kind of a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrackKind {
    /// Video: units are coded pictures.
    Video,
    /// Audio: units are audio frames.
    Audio,
}

/// Identifies a track in a broadcast: its kind, and its number among the tracks of that kind (Enhanced RTMP v2 `trackId`; 0 is the default).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrackId {
    /// Video or audio.
    pub kind: TrackKind,
    /// 0 for the default track of its kind.
    pub index: u8,
}

impl TrackId {
    /// The default video track.
    pub const VIDEO: Self = Self { kind: TrackKind::Video, index: 0 };
    /// The default audio track.
    pub const AUDIO: Self = Self { kind: TrackKind::Audio, index: 0 };

    /// Whether this is a video track.
    pub const fn is_video(self) -> bool {
        matches!(self.kind, TrackKind::Video)
    }
}

/// `v` or `a`, then the index: `v0`, `a1`.
impl fmt::Display for TrackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.is_video() { 'v' } else { 'a' }, self.index)
    }
}

/// One coded picture or audio frame. Cloning it copies no media.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessUnit {
    /// The broadcast it belongs to.
    pub epoch: Epoch,
    /// Its track in that broadcast.
    pub track: TrackId,
    /// Decoding time. Increases strictly within `(epoch, track)`.
    pub dts: Timestamp,
    /// Presentation time: `dts` plus the composition time, which is zero without B-frames.
    pub pts: Timestamp,
    /// Whether decoding can start here: an IDR or other clean random access picture; every audio frame.
    pub random_access: bool,
    /// The coded bytes: NAL units with 4-byte lengths (H.264, HEVC), a temporal unit of OBUs without delimiters (AV1), or one
    /// raw frame (VP9, AAC without ADTS, Opus, FLAC, MP3). Parameter sets travel in the [`Catalog`](crate::Catalog), not here.
    pub payload: Bytes,
}

/// The identity of an access unit, the same on every path and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitId {
    /// The broadcast it belongs to.
    pub epoch: Epoch,
    /// Its track in that broadcast.
    pub track: TrackId,
    /// Its decoding time, unique within the track.
    pub dts: Timestamp,
}

impl AccessUnit {
    /// Its identity `(epoch, track, dts)`.
    pub const fn id(&self) -> UnitId {
        UnitId { epoch: self.epoch, track: self.track, dts: self.dts }
    }

    /// `pts - dts` in milliseconds.
    pub fn composition_time(&self) -> i64 {
        self.pts - self.dts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoch_text_round_trips() {
        for n in [0, 1, 0xdead_beef, u64::MAX] {
            assert_eq!(Epoch(n).to_string().parse(), Ok(Epoch(n)));
        }
        for bad in ["", "1", "+000000000000001", "00000000000000001", "g000000000000000"] {
            assert!(bad.parse::<Epoch>().is_err(), "{bad}");
        }
    }
}
