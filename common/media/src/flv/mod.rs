//! RTMP and FLV tag bodies: legacy (Adobe FLV 10.1 §E.4) and Enhanced RTMP v1 and v2.
//!
//! [`Demuxer`] turns what a publisher sends into tracks and access units; [`sequence_header`], [`unit_header`] and
//! [`end_of_sequence`] write them, without touching payloads; [`mod@file`] puts bodies into FLV files. Metadata (`onMetaData`)
//! is AMF0 and is not parsed here.

use crate::access_unit::{AccessUnit, TrackId};
use crate::catalog::Track;
use crate::codec;
use crate::timestamp_mapper::ClockCorrection;

mod body;
mod demuxer;
pub mod file;
mod muxer;

pub use demuxer::Demuxer;
pub use muxer::{MAX_UNIT_HEADER, end_of_sequence, message_kind, sequence_header, unit_header};

/// What a tag body contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A new track, or a new decoder configuration of one. In force from the next unit on.
    Track(Track),
    /// An access unit.
    Unit(AccessUnit),
    /// The timestamps of this track are corrected from the next unit on; for the log.
    ClockCorrected(TrackId, ClockCorrection),
    /// The publisher ended the sequence of this track. It may start another one.
    EndOfSequence(TrackId),
    /// What a body with several tracks has of one of them was refused; that of others was not.
    Refused(Error),
}

/// Why a tag body was refused. The publisher is at fault. Bodies are independent: the caller may count the error and continue with the next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The body ends too soon.
    #[error("tag body of {have} bytes ends within its {what}")]
    Truncated {
        /// The structure that is cut short.
        what: &'static str,
        /// Size of the body in bytes.
        have: usize,
    },
    /// A codec that Nearcast does not carry, by its number in a legacy tag.
    #[error("legacy {what} {id} is not supported")]
    LegacyCodec {
        /// `sound format` or `video codec`.
        what: &'static str,
        /// Number in the tag header.
        id: u8,
    },
    /// A codec that Nearcast does not carry, by its four-character code.
    #[error("codec {} is not supported", fourcc.escape_ascii())]
    FourCc {
        /// The four-character code.
        fourcc: [u8; 4],
    },
    /// A packet type, multitrack type or frame type that is reserved, or not supported.
    #[error("{what} {value} is not supported")]
    Unsupported {
        /// Name of the field.
        what: &'static str,
        /// The value that was read.
        value: u8,
    },
    /// An access unit of a track without decoder configuration, or with one of another codec.
    #[error("track {0} has no decoder configuration yet")]
    NoConfiguration(TrackId),
    /// The track would exceed [`MAX_TRACKS`](crate::catalog::MAX_TRACKS).
    #[error("track {0} exceeds the limit of tracks")]
    TooManyTracks(TrackId),
    /// A decoder configuration or frame header is malformed.
    #[error("track {track}: {source}")]
    Codec {
        /// The track it belongs to.
        track: TrackId,
        /// What is wrong with it.
        source: codec::Error,
    },
}

#[cfg(test)]
mod tests;
