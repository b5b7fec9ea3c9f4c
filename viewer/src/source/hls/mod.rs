//! A path by HLS: fetches playlists, segments and parts, returns access units.
//!
//! [`media::hls::client`] decides what to fetch next and when to reload the playlist; this module sends the requests, each with a deadline and a
//! size limit. RFC 8216 §6.3; for parts RFC 8216bis §6.3.

mod burst;
mod choose;
mod parts;
mod reader;
mod requests;
mod segments;
mod state;

use std::sync::Arc;
use std::time::Duration;

use media::hls::client::parts::has_parts;
use media::latency::DeliveryMode;
use media::select::PathProfile;
use tokio::sync::Mutex;
use tracing::warn;

use self::burst::ReportedBurst;
use self::choose::choose;
use self::requests::{media_playlist, unsupported};
use self::state::{HlsState, MAX_ATTEMPTS};
use super::path::{Cost, OpenContext, Opening, PathSource, Source, Transport, UrlPaths, UrlRequest};
use super::timing_poll::run_alongside;
use super::{Error, EventSender, PathEvent, port_probe};

/// HLS by parts, as they are made.
pub(super) static LOW_LATENCY: Transport = Transport {
    name: "ll-hls",
    help: "HLS by parts (LL-HLS) from the server",
    label: "LL-HLS",
    // Three parts of a fifth of a second, and a round trip.
    profile: PathProfile { rank: 40, can_idle: false, min_stall_timeout: Duration::from_millis(700) },
    delivery: DeliveryMode::Parts,
    states_predecessor: false,
    cost: Cost::Server,
    // Unless the user chose it, a playlist's other path (`SEGMENTS`) plays parts if there are any.
    from_url: |request| from_url(request, LowLatency::Require).filter(|_| request.is_chosen),
    from_server: |offer| {
        let url = offer.api.playlist_url(&offer.info.urls);
        let url = url.filter(|_| offer.info.hls.as_ref().is_some_and(|hls| hls.low_latency))?;
        Some(Arc::new(HlsSource::new(&url, LowLatency::Require)))
    },
};

/// HLS by whole segments.
pub(super) static SEGMENTS: Transport = Transport {
    name: "hls",
    help: "HLS by whole segments from the server",
    label: "HLS",
    // Three segments.
    profile: PathProfile { rank: 50, can_idle: false, min_stall_timeout: Duration::from_secs(6) },
    delivery: DeliveryMode::Segments,
    states_predecessor: false,
    cost: Cost::Server,
    from_url: |request| from_url(request, if request.is_chosen { LowLatency::Off } else { LowLatency::Prefer }),
    from_server: |offer| {
        let url = offer.api.playlist_url(&offer.info.urls)?;
        Some(Arc::new(HlsSource::new(&url, LowLatency::Off)))
    },
};

/// A playlist, and the state kept between openings, so that the path resumes at its last position.
#[derive(Debug)]
pub(super) struct HlsSource {
    url: String,
    low_latency: LowLatency,
    state: Mutex<Option<HlsState>>,
}

impl HlsSource {
    /// The playlist at `url`.
    pub(super) fn new(url: &str, low_latency: LowLatency) -> Self {
        Self { url: url.to_owned(), low_latency, state: Mutex::default() }
    }
}

impl PathSource for HlsSource {
    fn address(&self) -> String {
        self.url.clone()
    }

    fn open<'a>(&'a self, context: OpenContext, events: &'a EventSender) -> Opening<'a> {
        Box::pin(async move {
            let path = run(self, &context, events);
            let result = run_alongside(path, context.api.clone(), &context.position, events).await;
            match result {
                Err(error) if context.api.is_none() && context.position.resume_point().is_none() => {
                    Err(port_probe::explain(&self.url, error).await)
                }
                result => result,
            }
        })
    }
}

/// Whether a playlist is played by parts, as they are made, or by whole segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LowLatency {
    /// Play whole segments only.
    Off,
    /// Play parts if the playlist lists any, else segments.
    Prefer,
    /// Play parts; fail if there are none.
    Require,
}

/// The path of a URL that ends like a playlist's.
fn from_url(request: &UrlRequest<'_>, low_latency: LowLatency) -> UrlPaths {
    let path = reqwest::Url::parse(request.url).map(|url| url.path().to_ascii_lowercase()).ok()?;
    let is_playlist = path.ends_with(".m3u8") || path.ends_with(".m3u");
    let is_http = matches!(request.scheme, "http" | "https");
    (is_http && is_playlist).then(|| Ok(vec![Arc::new(HlsSource::new(request.url, low_latency)) as Source]))
}

/// Plays the playlist until it ends (`Ok`) or the path fails.
async fn run(source: &HlsSource, context: &OpenContext, events: &EventSender) -> Result<(), Error> {
    let HlsSource { url, low_latency, state } = source;
    let http = &context.http;
    let mut kept = state.lock().await;
    // Choose again on each opening, since the previous variant may be the one that failed.
    let playlist = choose(url, http).await?;
    let state = kept.get_or_insert_with(|| HlsState::new(playlist.clone(), context.keep_all));
    state.switch_playlist(playlist);
    let (first, base) = media_playlist(&state.playlist, http).await?;
    let complete = first.end_list;
    // If there is no other path, an ended playlist is played from its start; else the stream counts as not on air.
    if complete && !context.is_only_path {
        *kept = None;
        return Err(Error::NotLive { address: url.clone() });
    }
    let by_parts = match low_latency {
        LowLatency::Off => false,
        LowLatency::Prefer => has_parts(&first) && state.part_failures < MAX_ATTEMPTS,
        LowLatency::Require if has_parts(&first) => true,
        LowLatency::Require => return Err(unsupported(url, "the playlist lists no parts that can be waited for")),
    };
    let burst = ReportedBurst::new(by_parts, &first);
    let transport = Some(if by_parts { &LOW_LATENCY } else { &SEGMENTS });
    if events.send(PathEvent::Opened { burst: burst.last(), complete, transport }).await.is_err() {
        return Ok(());
    }
    let result = if by_parts {
        state.part_failures += 1;
        // Other paths may have delivered more since this one was open, so resume at the playback position.
        let entry = parts::entry(&context.position).filter(|_| !context.is_only_path);
        let result = parts::run(state, (first, base), burst, http, entry, events).await;
        if state.part_failures >= MAX_ATTEMPTS && *low_latency == LowLatency::Prefer {
            warn!(url, "low-latency playback (parts) failed repeatedly: switching to whole segments");
        }
        result
    } else {
        segments::run(state, (first, base), burst, http, events).await
    };
    if result.is_ok() {
        // If the stream starts again, it has a new playlist.
        *kept = None;
    }
    result
}
