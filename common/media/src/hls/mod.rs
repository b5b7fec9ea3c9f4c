//! HTTP Live Streaming: the playlists of a server, and the parser and playlist client of a viewer.
//!
//! The server side turns a snapshot of the available segments ([`SegmentWindow`](crate::cmaf::SegmentWindow)) into text; what is in the segments
//! and where they end is decided in [`cmaf`](crate::cmaf). The client side parses playlists of any server and decides what to fetch next.
//! Both are pure: HTTP, timers and retries belong to the caller.
//!
//! RFC 8216 (protocol version 7), and RFC 8216bis for low latency.

mod attributes;
mod blocking_reload;
pub mod client;
mod parse;
mod playlist;
mod render;
mod resource;
#[cfg(test)]
mod tests;

pub use parse::{MAX_TEXT, parse, parse_media, parse_multivariant};
pub use playlist::{
    AudioRendition, ByteRange, Map, MediaPart, MediaPlaylist, MediaSegment, Multivariant, ParsedPlaylist, PlaylistType,
    PreloadHint, RenditionReport, ServerControl, Start, TrailingParts, Variant,
};
pub use render::{delta_update, media_playlist, multivariant};
pub use resource::Resource;

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
