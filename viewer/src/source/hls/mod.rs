//! A path by HLS: playlists, segments and parts in, access units out.
//!
//! What is next, and when the playlist is loaded again, is decided by [`media::hls::client`]; here are the requests, each with a deadline
//! and a size limit. RFC 8216 §6.3; for parts RFC 8216bis §6.3.

mod choose;
mod parts;
mod reader;
mod requests;
mod segments;

use std::sync::Arc;
use std::time::Duration;

use media::hls::client::PlaylistClient;
use media::hls::client::parts::{PartClient, has_parts};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::warn;

use self::choose::choose;
use self::reader::SegmentReader;
pub(super) use self::requests::client;
use self::requests::{media_playlist, unsupported};
use super::{Error, EventSender, PathEvent, Position};

/// What is kept while the path is closed, so that it goes on where it was.
#[derive(Clone, Debug, Default)]
pub(super) struct HlsPath(Arc<Mutex<Option<HlsState>>>);

#[derive(Debug)]
struct HlsState {
    playlist: String,
    playlist_client: PlaylistClient,
    parts: PartClient,
    reader: SegmentReader,
    started: Instant,
    /// Whether a segment was asked for and has not come whole yet.
    fetch_pending: bool,
    /// How often playing by parts broke, in a row.
    part_failures: u32,
}

/// Whether a playlist is played by parts, as they are made, or by whole segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LowLatency {
    /// By segments.
    Off,
    /// By parts where that can be, and by segments where not.
    Prefer,
    /// By parts, or not at all.
    Require,
}

/// How a playlist is to be played.
#[derive(Clone, Copy, Debug)]
pub(super) struct HlsOptions {
    /// Whether there is no other path: a playlist that has ended already is played from its start then; else it is a stream that is not on
    /// the air.
    pub alone: bool,
    /// After an outage, go on at the oldest segment, not at the live edge.
    pub keep_all: bool,
    /// By what.
    pub parts: LowLatency,
}

/// Plays the playlist at `url` until it ends (`Ok`) or breaks.
pub(super) async fn run(
    url: &str,
    http: &reqwest::Client,
    path: &HlsPath,
    options: HlsOptions,
    position: &Position,
    reporter: &EventSender,
) -> Result<(), Error> {
    let mut kept = path.0.lock().await;
    // Chosen anew each time: what was there before may not be what broke it.
    let playlist = choose(url, http).await?;
    let state = kept.get_or_insert_with(|| HlsState {
        playlist: playlist.clone(),
        playlist_client: PlaylistClient::new(None).keep_all(options.keep_all),
        parts: PartClient::new(options.keep_all),
        reader: SegmentReader::default(),
        started: Instant::now(),
        fetch_pending: false,
        part_failures: 0,
    });
    if state.playlist != playlist {
        state.playlist = playlist;
        state.playlist_client.on_rendition_change();
    }
    let (first, base) = media_playlist(&state.playlist, http).await?;
    let complete = first.end_list;
    if complete && !options.alone {
        *kept = None;
        return Err(Error::NotLive { address: url.to_owned() });
    }
    let by_parts = match options.parts {
        LowLatency::Off => false,
        LowLatency::Prefer => has_parts(&first) && state.part_failures < MAX_ATTEMPTS,
        LowLatency::Require if has_parts(&first) => true,
        LowLatency::Require => return Err(unsupported(url, "the playlist lists no parts that can be waited for")),
    };
    let burst = first.part_target.filter(|_| by_parts).unwrap_or(first.target_duration);
    if reporter.send(PathEvent::Opened { burst, complete, by_parts }).await.is_err() {
        return Ok(());
    }
    let result = if by_parts {
        state.part_failures += 1;
        // Others may have gone on since this path was open, and where they are tells where to go on best.
        let entry = parts::entry(position).filter(|_| !options.alone);
        let result = parts::run(state, first, base, http, entry, reporter).await;
        if state.part_failures >= MAX_ATTEMPTS && options.parts == LowLatency::Prefer {
            warn!(url, "playing by parts broke again and again: by segments from here on");
        }
        result
    } else {
        segments::run(state, first, base, http, reporter).await
    };
    if result.is_ok() {
        // Should it begin anew, it does so with another playlist.
        *kept = None;
    }
    result
}

/// Attempts at a playlist or a segment before it is given up, segments lost in a row before the path is, and times that playing by
/// parts breaks before it is not tried any more.
const MAX_ATTEMPTS: u32 = 3;
/// Pause before a segment is asked for again, longer each time: one that is listed a moment too early is there then.
const RETRY_PAUSE: Duration = Duration::from_millis(300);
/// Ten seconds at 100 Mbit/s.
const MAX_SEGMENT: usize = 128 << 20;
