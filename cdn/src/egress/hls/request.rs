//! Requests to a packaged stream and their responses, in HLS terms. `crate::http` maps them to HTTP.

use std::time::Duration;

use bytes::Bytes;
use media::hls::Resource;

use crate::precompressed::Precompressed;

/// The last path component of the multivariant playlist.
pub const MULTIVARIANT_PLAYLIST: &str = "index.m3u8";

/// The last path component of the media playlist.
pub const MEDIA_PLAYLIST: &str = "media.m3u8";

/// A file of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The multivariant playlist.
    Multivariant,
    /// The media playlist, with delivery directives.
    Media(Directives),
    /// An init segment, a segment or a part.
    Resource(Resource),
}

/// Delivery directives of a request for a media playlist (RFC 8216bis §6.2.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// The playlist state that the request blocks for; `None` for the newest playlist at once.
    pub block_for: Option<BlockingRequest>,
    /// Whether the client accepts a delta update (`_HLS_skip`).
    pub skip: bool,
}

/// The segment or part that a blocking request waits for: `_HLS_msn` and `_HLS_part`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockingRequest {
    /// The media sequence number of a segment.
    pub msn: u64,
    /// The index of a part of the segment; `None` for the whole segment.
    pub part: Option<u64>,
}

/// Why delivery directives are invalid. Each case is the client's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidDirective {
    /// A value that is not made of decimal digits.
    #[error("_HLS_msn and _HLS_part are decimal numbers.")]
    NotANumber,
    /// A number that exceeds 64 bits.
    #[error("_HLS_msn or _HLS_part is out of range.")]
    TooLarge,
    /// `_HLS_part` without `_HLS_msn` (RFC 8216bis §6.2.5.2).
    #[error("_HLS_part requires _HLS_msn.")]
    PartWithoutMsn,
}

/// Response to a request.
#[derive(Clone, Debug)]
pub enum Response {
    /// A multivariant or media playlist.
    Playlist {
        /// Its text (RFC 8216), compressed too.
        text: Precompressed,
        /// How long a shared cache may serve it for the same URL.
        max_age: Duration,
    },
    /// An init segment, a segment or a part. Its bytes never change.
    Media {
        /// The resource that is served.
        resource: Resource,
        /// Its bytes, as consecutive pieces.
        pieces: Vec<Bytes>,
    },
}

/// Why there is nothing to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// The stream has no publisher, and the last broadcast is over.
    #[error("is not live right now")]
    Offline,
    /// The stream is on air, but its first segment is not complete yet.
    #[error("has no complete segment yet")]
    NoSegment,
    /// The stream is on air, but the playlist that the request blocked for was not ready in time.
    #[error("has had no new media for a while")]
    NoUpdate,
    /// The stream is on air, but the part was not ready in time.
    #[error("has not reached this part yet")]
    NoPart,
    /// The request names a part or segment too far ahead for a client that knows the playlist (RFC 8216bis §6.2.5.2).
    #[error("This is too far ahead of the playlist. Reload the playlist without _HLS_msn.")]
    TooFarAhead,
    /// The segment or part was evicted, or is neither complete nor announced by a preload hint.
    #[error("This is not available: it is too old, or not complete yet.")]
    NotHeld,
}

impl Request {
    /// Parses a request for the file `name` of a stream, with the URL's `query`; `None` if HLS has no such file. Directives are ignored unless
    /// `low_latency` is on.
    ///
    /// # Errors
    /// [`InvalidDirective`] if a directive is malformed. Other parameters are ignored.
    pub fn parse(name: &str, query: &str, low_latency: bool) -> Result<Option<Self>, InvalidDirective> {
        Ok(match name {
            MULTIVARIANT_PLAYLIST => Some(Self::Multivariant),
            MEDIA_PLAYLIST => Some(Self::Media(Directives::parse(if low_latency { query } else { "" })?)),
            _ => Resource::from_name(name).map(Self::Resource),
        })
    }
}

impl Directives {
    fn parse(query: &str) -> Result<Self, InvalidDirective> {
        let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let number = |name| match value(name) {
            None => Ok(None),
            Some(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse().map(Some).map_err(|_| InvalidDirective::TooLarge)
            }
            Some(_) => Err(InvalidDirective::NotANumber),
        };
        let block_for = match (number("_HLS_msn")?, number("_HLS_part")?) {
            (Some(msn), part) => Some(BlockingRequest { msn, part }),
            (None, None) => None,
            (None, Some(_)) => return Err(InvalidDirective::PartWithoutMsn),
        };
        Ok(Self { block_for, skip: matches!(value("_HLS_skip"), Some("YES" | "v2")) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_directives_become_requests() {
        let blocking = |msn, part, skip| {
            Ok(Some(Request::Media(Directives { block_for: Some(BlockingRequest { msn, part }), skip })))
        };
        for (name, query, expected) in [
            ("index.m3u8", "_HLS_msn=x", Ok(Some(Request::Multivariant))),
            ("media.m3u8", "", Ok(Some(Request::Media(Directives::default())))),
            ("media.m3u8", "token=1&_HLS_msn=7", blocking(7, None, false)),
            ("media.m3u8", "_HLS_msn=7&_HLS_part=3&_HLS_skip=YES", blocking(7, Some(3), true)),
            ("media.m3u8", "_HLS_part=3", Err(InvalidDirective::PartWithoutMsn)),
            ("media.m3u8", "_HLS_msn=-1", Err(InvalidDirective::NotANumber)),
            ("media.m3u8", "_HLS_msn=18446744073709551616", Err(InvalidDirective::TooLarge)),
            ("seg-12.m4s", "_HLS_msn=-1", Ok(Some(Request::Resource(Resource::Segment(12))))),
            ("part-12-3.m4s", "", Ok(Some(Request::Resource(Resource::Part(12, 3))))),
            ("other.txt", "", Ok(None)),
        ] {
            assert_eq!(Request::parse(name, query, true), expected, "{name}?{query}");
        }
        let ignored = Request::parse("media.m3u8", "_HLS_msn=-1", false);
        assert_eq!(ignored, Ok(Some(Request::Media(Directives::default()))), "without LL-HLS there are no directives");
    }
}
