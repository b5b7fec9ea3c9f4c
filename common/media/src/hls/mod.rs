//! HTTP Live Streaming: the segmenter and the playlists of a server, the parser and the scheduler of a client.
//!
//! The segmenter's unit is the part: one fragment of about a fifth of a second. Segments are whole numbers of parts. Playlists
//! are plain values: a snapshot goes in and text comes out, and the other way round.
//!
//! RFC 8216 (version 7), and RFC 8216bis for what concerns parts.

mod attributes;
mod blocking_reload;
pub mod client;
mod parse;
mod playlist;
mod render;
mod segment_store;
mod segmenter;
mod snapshot;
#[cfg(test)]
mod tests;
mod timeline;

pub use parse::{MAX_TEXT, parse, parse_media, parse_multivariant};
pub use playlist::{
    AudioRendition, ByteRange, Map, MediaPart, MediaPlaylist, MediaSegment, Multivariant, ParsedPlaylist, PlaylistType,
    PreloadHint, RenditionReport, ServerControl, Start, TrailingParts, Variant,
};
pub use render::{delta_update, media_playlist};
pub use segmenter::{Segmenter, SegmenterConfig, SegmenterCounters};
pub use snapshot::{Bandwidth, Init, Part, Playlist, Resource, Segment, multivariant};

/// Why a playlist could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text does not start with `#EXTM3U`.
    #[error("not a playlist: it does not start with #EXTM3U")]
    NotAPlaylist,
    /// A media playlist must say its target duration (RFC 8216 §4.3.3.1).
    #[error("the playlist has no EXT-X-TARGETDURATION")]
    NoTargetDuration,
    /// Longer than anything that makes sense.
    #[error("a playlist of {length} bytes is not read")]
    TooLong {
        /// In bytes.
        length: usize,
    },
    /// More of something than makes sense.
    #[error("the playlist has too many {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
    },
    /// Something else stands there.
    #[error("line {line} of the playlist: expected {what}")]
    Malformed {
        /// What was expected.
        what: &'static str,
        /// Counted from 1.
        line: usize,
    },
}
