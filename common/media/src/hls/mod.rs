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

/// Why a playlist was refused. The server is at fault; loading it again may help if it was cut off or stale.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text does not start with `#EXTM3U`.
    #[error("not a playlist: it does not start with #EXTM3U")]
    NotAPlaylist,
    /// A media playlist without target duration (RFC 8216 §4.3.3.1).
    #[error("the playlist has no EXT-X-TARGETDURATION")]
    NoTargetDuration,
    /// Longer than [`MAX_TEXT`].
    #[error("a playlist of {length} bytes exceeds the size limit")]
    TooLong {
        /// Length in bytes.
        length: usize,
    },
    /// More entries than are accepted.
    #[error("the playlist has too many {what}")]
    TooMany {
        /// The kind of entry.
        what: &'static str,
    },
    /// A line violates the specification.
    #[error("line {line} of the playlist: expected {what}")]
    Malformed {
        /// The form that was expected.
        what: &'static str,
        /// Line number, counted from 1.
        line: usize,
    },
}
