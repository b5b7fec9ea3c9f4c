//! How streams are packaged.

use std::time::Duration;

/// The shape of segments, parts and playlists, the same for every stream of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HlsSettings {
    /// Target duration of a segment, which ends at the IDR nearest to it.
    pub segment_duration: Duration,
    /// Target duration of a part.
    pub part_duration: Duration,
    /// Whether playlists list parts, and requests may block for them (LL-HLS).
    pub low_latency: bool,
    /// Media time that a playlist lists.
    pub playlist_window: Duration,
    /// Upper bound of the bytes held for one stream, listed or not. The payloads are shared with the live window.
    pub max_bytes: usize,
    /// How long an ended stream's last playlist is served, so that players learn of the end. After that the stream counts as offline, so
    /// that new players do not start with old media, and its segments are dropped.
    pub ended_playlist_ttl: Duration,
}

impl Default for HlsSettings {
    fn default() -> Self {
        let segmenter = media::cmaf::SegmenterConfig::default();
        Self {
            segment_duration: segmenter.segment_target,
            part_duration: segmenter.part_target,
            low_latency: segmenter.low_latency,
            playlist_window: segmenter.window,
            max_bytes: segmenter.bytes,
            ended_playlist_ttl: Duration::from_secs(60),
        }
    }
}
