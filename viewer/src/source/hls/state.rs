//! State that an HLS path keeps between openings, and limits shared by playback of parts and of segments.

use std::time::Duration;

use command::LogLimiter;
use media::hls::client::PlaylistClient;
use media::hls::client::parts::PartClient;
use tokio::time::Instant;
use tracing::warn;

use super::reader::SegmentReader;

/// The path's position in its playlist.
#[derive(Debug)]
pub(super) struct HlsState {
    /// URL of the media playlist.
    pub(super) playlist: String,
    /// For playing by segments.
    pub(super) playlist_client: PlaylistClient,
    /// For playing by parts.
    pub(super) parts: PartClient,
    pub(super) reader: SegmentReader,
    /// The origin of the schedulers' times.
    pub(super) started: Instant,
    /// Whether a segment or part was requested and has not arrived whole.
    pub(super) fetch_pending: bool,
    /// How often playing by parts failed, in a row.
    pub(super) part_failures: u32,
    /// Segments and parts that were skipped, with the error.
    pub(super) skip_log: LogLimiter<String>,
}

impl HlsState {
    /// Nothing loaded yet.
    pub(super) fn new(playlist: String, keep_all: bool) -> Self {
        Self {
            playlist,
            playlist_client: PlaylistClient::new(None).keep_all(keep_all),
            parts: PartClient::new(keep_all),
            reader: SegmentReader::default(),
            started: Instant::now(),
            fetch_pending: false,
            part_failures: 0,
            skip_log: LogLimiter::new(|skipped, error: &String| warn!(error, skipped, "a segment or part was skipped")),
        }
    }

    /// Continues with another media playlist of the same stream.
    pub(super) fn switch_playlist(&mut self, playlist: String) {
        if self.playlist != playlist {
            self.playlist = playlist;
            self.playlist_client.on_rendition_change();
        }
    }
}

/// Maximum attempts at a playlist or segment, maximum consecutive lost segments before the path fails, and maximum failures of low-latency
/// playback (parts) before it is abandoned.
pub(super) const MAX_ATTEMPTS: u32 = 3;
/// Pause before a segment is requested again, longer each time: a segment that is listed slightly too early is available by then.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(300);
/// Bytes: ten seconds at 100 Mbit/s.
pub(super) const MAX_SEGMENT: usize = 128 << 20;
