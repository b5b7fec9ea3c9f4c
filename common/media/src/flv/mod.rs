//! RTMP and FLV tag bodies: legacy (Adobe FLV 10.1 §E.4) and Enhanced RTMP v1 and v2.
//!
//! [`Demuxer`] reads what a publisher sends into tracks and access units; [`sequence_header`], [`unit_header`] and
//! [`end_of_sequence`] write them, without touching payloads; [`mod@file`] puts bodies into FLV files. Metadata (`onMetaData`)
//! is AMF0, and not read here.

use crate::access_unit::{AccessUnit, TrackId};
use crate::catalog::Track;
use crate::codec;

mod body;
mod demuxer;
pub mod file;
mod muxer;

pub use demuxer::Demuxer;
pub use muxer::{MAX_UNIT_HEADER, end_of_sequence, message_kind, sequence_header, unit_header};

/// What a tag body meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A track began, or its decoder configuration changed. In force from the next unit on.
    Track(Track),
    /// An access unit.
    Unit(AccessUnit),
    /// The publisher ended this track's sequence. It may begin another.
    EndOfSequence(TrackId),
    /// The publisher's clock was set: what follows is a new broadcast, in which the tracks stay. Milliseconds on the
    /// unwrapped timeline. Units after it in the same batch still carry the old epoch, and want the caller's new one.
    Jump {
        /// Where the timeline was.
        from: i64,
        /// Where it starts again.
        to: i64,
    },
}

/// Why a tag body was refused. Bodies are independent: a caller may count it and go on with the next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The body ends too soon.
    #[error("tag body of {have} bytes ends within its {what}")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Bytes that the body has.
        have: usize,
    },
    /// A codec that Nearcast does not carry, by its number in a legacy tag.
    #[error("legacy {what} {id} is not supported")]
    LegacyCodec {
        /// `sound format` or `video codec`.
        what: &'static str,
        /// Its number.
        id: u8,
    },
    /// A codec that Nearcast does not carry, by its four-character code.
    #[error("codec {} is not supported", fourcc.escape_ascii())]
    FourCc {
        /// Its code.
        fourcc: [u8; 4],
    },
    /// A packet type, multitrack type or frame type that is reserved, or not supported.
    #[error("{what} {value} is not supported")]
    Unsupported {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u8,
    },
    /// An access unit of a track that has no decoder configuration, or one of another codec.
    #[error("track {0} has no decoder configuration yet")]
    NoConfiguration(TrackId),
    /// One track more than Nearcast carries.
    #[error("track {0} is one too many")]
    TooManyTracks(TrackId),
    /// A decoder configuration or frame header that can not be read.
    #[error("track {track}: {source}")]
    Codec {
        /// Whose.
        track: TrackId,
        /// Why.
        source: codec::Error,
    },
}

#[cfg(test)]
mod tests;
