//! Playing by parts: blocking playlist reloads, and the next part requested by its preload hint before it exists (RFC 8216bis §6.2.5.2, §6.3).
//!
//! At the live edge each part takes two requests, which are sent while the part before it arrives: for the playlist that lists it, and for itself. A
//! hinted part is read once it is listed: only then its init segment and discontinuity are known.

use std::future::{Future, pending};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use media::WallClock;
use media::hls::MediaPlaylist;
use media::hls::client::parts::{PartClient, Reload, StartPosition};
use media::hls::client::{Fetch, resolve};
use net::clock;
use reqwest::Response;
use tokio::time::sleep;
use tracing::debug;

use super::super::http::HttpClient;
use super::super::{Error, EventSender, PathEvent, Position};
use super::burst::ReportedBurst;
use super::reader::SegmentReader;
use super::requests::{chunk, get, init, media_playlist, unsupported};
use super::segments::PlaylistGrowth;
use super::state::{HlsState, MAX_ATTEMPTS, MAX_SEGMENT, RETRY_PAUSE};

/// Plays from `first`, whose URIs are relative to `base`, until the playlist ends (`Ok`) or the path fails. `entry` is the start position; `None`
/// continues at the last position.
pub(super) async fn run(
    state: &mut HlsState,
    (first, base): (MediaPlaylist, String),
    mut burst: ReportedBurst,
    http: &HttpClient,
    entry: Option<StartPosition>,
    events: &EventSender,
) -> Result<(), Error> {
    let was_pending = std::mem::take(&mut state.fetch_pending);
    state.reader.skip();
    match entry {
        Some(entry) => state.parts.restart_at(entry),
        None if was_pending => state.parts.retry_fetch(),
        None => {}
    }
    let mut growth = PlaylistGrowth::new(state.started.elapsed(), &first);
    state.parts.on_playlist(first);
    let mut requests =
        RequestPipeline { http: http.clone(), playlist: state.playlist.clone(), base, ..RequestPipeline::default() };
    let (mut failed_loads, mut failed_fetches, mut has_played) = (0, 0, false);
    loop {
        if requests.current.is_none() {
            match state.parts.next() {
                Some(fetch) => {
                    if fetch.lost > 0 {
                        state.reader.skip();
                        if events.send(PathEvent::Gap).await.is_err() {
                            return Ok(());
                        }
                    }
                    state.fetch_pending = true;
                    requests.begin(fetch)?;
                }
                None if state.parts.has_ended() => return Ok(()),
                None => {}
            }
        }
        requests.prefetch_hint(&state.parts);
        let error = match requests.next_event().await {
            RequestEvent::Playlist(Ok((playlist, base))) => {
                let before = state.parts.reload();
                if growth.has_stopped(state.started.elapsed(), &playlist)
                    && events.send(PathEvent::Stalled).await.is_err()
                {
                    return Ok(());
                }
                if burst.update(&playlist, events).await.is_err() {
                    return Ok(());
                }
                state.parts.on_playlist(playlist);
                requests.base = base;
                failed_loads = 0;
                let is_new = before != state.parts.reload();
                if is_new && has_played && requests.has_waited {
                    state.part_failures = 0;
                }
                // Pause if the server responded without a change.
                requests.load(state.parts.reload(), if is_new { Duration::ZERO } else { RETRY_PAUSE });
                continue;
            }
            RequestEvent::Playlist(Err(error)) => {
                failed_loads += 1;
                if failed_loads > MAX_ATTEMPTS || !error.retry() {
                    return Err(error);
                }
                debug!(%error, failed_loads, "cannot load the playlist");
                // Without blocking, since a server may respond to a blocking reload with an error if nothing new appears for long.
                requests.load(None, RETRY_PAUSE * failed_loads);
                continue;
            }
            RequestEvent::PrefetchAnswered => {
                requests.prefetch.iter_mut().for_each(|prefetch| prefetch.asking = None);
                continue;
            }
            RequestEvent::Answer(Ok(answer)) => match requests.read(answer, &mut state.reader).await {
                Ok(()) => {
                    let asked = requests.current.as_ref().map(|current| current.asked);
                    match asked {
                        Some(at) if events.send(PathEvent::RequestSent(at)).await.is_err() => return Ok(()),
                        _ => continue,
                    }
                }
                Err(error) => error,
            },
            RequestEvent::Bytes(Ok(Some(bytes)), url) => {
                let units = state.reader.fmp4(bytes).map_err(|error| unsupported(&url, error))?;
                for (catalog, unit, predecessor) in units {
                    if events.send(PathEvent::Unit(catalog, unit, predecessor)).await.is_err() {
                        return Ok(());
                    }
                }
                continue;
            }
            RequestEvent::Bytes(Ok(None), url) => match state.reader.end() {
                Ok(()) => {
                    requests.current = None;
                    state.fetch_pending = false;
                    (failed_fetches, has_played) = (0, true);
                    continue;
                }
                Err(error) => Error::Http { url, reason: error.to_string(), retry: true },
            },
            RequestEvent::Answer(Err(error)) | RequestEvent::Bytes(Err(error), _) => error,
        };
        requests.current = None;
        state.reader.broken();
        failed_fetches += 1;
        if error.retry() && failed_fetches < MAX_ATTEMPTS {
            debug!(%error, failed_fetches, "cannot fetch a part");
            state.parts.retry_fetch();
            sleep(RETRY_PAUSE * failed_fetches).await;
            continue;
        }
        // The part stays pending, since a server that is down may still have it after a restart.
        if !error.retry() || media_playlist(&state.playlist, http).await.is_ok() {
            state.skip_log.note(std::time::Instant::now(), error.to_string());
            state.fetch_pending = false;
            state.parts.on_fetch_failed();
        }
        // Without the part nothing can be decoded before the next IDR; another path, or whole segments, may still have it.
        return Err(error);
    }
}

/// Where to begin after what other paths have delivered; `None` if nothing was delivered.
pub(super) fn entry(position: &Position) -> Option<StartPosition> {
    let date = position.captured_at();
    position.resume_point().map(|_| date.map_or(StartPosition::Behind, StartPosition::At))
}

type PlaylistRequest = Pin<Box<dyn Future<Output = Result<(MediaPlaylist, String), Error>> + Send>>;
type MediaRequest = Pin<Box<dyn Future<Output = Result<Response, Error>> + Send>>;

/// The requests in flight. Dropping it cancels them.
#[derive(Default)]
struct RequestPipeline {
    http: HttpClient,
    playlist: String,
    base: String,
    loading: Option<PlaylistRequest>,
    /// Whether the current reload is a blocking one.
    has_waited: bool,
    current: Option<CurrentFetch>,
    prefetch: Option<Prefetch>,
}

/// The part that is fetched and read.
struct CurrentFetch {
    fetch: Fetch,
    url: String,
    length: usize,
    asked: WallClock,
    state: FetchState,
}

enum FetchState {
    Requested(MediaRequest),
    Reading(Response),
    /// Between the two: its response is about to be read.
    Answered,
}

/// A part that was requested before it is listed. An error is kept until the part turns out to be needed.
struct Prefetch {
    url: String,
    asked: WallClock,
    /// None once it was answered.
    asking: Option<MediaRequest>,
    answer: Option<Result<Response, Error>>,
}

#[expect(clippy::large_enum_variant, reason = "one is made for each load, and taken apart at once")]
enum RequestEvent {
    Playlist(Result<(MediaPlaylist, String), Error>),
    Answer(Result<Response, Error>),
    /// The prefetched part was answered.
    PrefetchAnswered,
    /// Bytes of the current part, and its URL; `None` at its end.
    Bytes(Result<Option<Bytes>, Error>, String),
}

impl RequestPipeline {
    /// Requests this part, unless it was prefetched.
    fn begin(&mut self, fetch: Fetch) -> Result<(), Error> {
        let url = resolve(&self.base, &fetch.uri);
        if fetch.encrypted || fetch.map.is_none() {
            return Err(unsupported(&url, "the parts are encrypted, or no fragmented MP4"));
        }
        let prefetch = self.prefetch.take_if(|prefetch| prefetch.url == url && fetch.byte_range.is_none());
        let (asked, asking): (_, MediaRequest) = match prefetch {
            Some(Prefetch { asked, asking: Some(asking), .. }) => (asked, asking),
            Some(Prefetch { asked, answer: Some(answer @ Ok(_)), .. }) => (asked, Box::pin(async { answer })),
            _ => (clock::now(), self.ask(url.clone(), fetch.byte_range)),
        };
        self.current = Some(CurrentFetch { fetch, url, length: 0, asked, state: FetchState::Requested(asking) });
        Ok(())
    }

    fn ask(&self, url: String, range: Option<media::hls::ByteRange>) -> MediaRequest {
        let http = self.http.clone();
        Box::pin(async move { get(&url, range, &http).await })
    }

    /// Sends a blocking reload, and a request for the hinted part, unless they are in flight.
    fn prefetch_hint(&mut self, parts: &PartClient) {
        if self.loading.is_none() {
            self.load(parts.reload(), Duration::ZERO);
        }
        let Some(url) = parts.hint().map(|uri| resolve(&self.base, uri)) else { return };
        if self.prefetch.as_ref().is_none_or(|prefetch| prefetch.url != url) {
            let asking = Some(self.ask(url.clone(), None));
            self.prefetch = Some(Prefetch { asked: clock::now(), asking, answer: None, url });
        }
    }

    /// Loads the playlist after a pause; with `reload`, the server blocks until it has that part.
    fn load(&mut self, reload: Option<Reload>, pause: Duration) {
        let (http, url) = (self.http.clone(), with_directives(&self.playlist, reload));
        self.has_waited = reload.is_some();
        self.loading = Some(Box::pin(async move {
            sleep(pause).await;
            media_playlist(&url, &http).await
        }));
    }

    /// Begins to read the current part's response.
    async fn read(&mut self, answer: Response, reader: &mut SegmentReader) -> Result<(), Error> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let fetch = &current.fetch;
        reader.enter(fetch.discontinuity_sequence);
        if let Some(map) = fetch.map.as_ref().filter(|_| fetch.new_map || reader.wants_init()) {
            let bytes = init(&self.base, map, &self.http).await?;
            reader.init(bytes).map_err(|error| unsupported(&resolve(&self.base, &map.uri), error))?;
        }
        reader.begin(fetch.program_date_time);
        current.state = FetchState::Reading(answer);
        Ok(())
    }

    /// Waits for the next response or bytes.
    async fn next_event(&mut self) -> RequestEvent {
        let Self { loading, current, prefetch, .. } = self;
        let read = async {
            let Some(current) = current else { return pending().await };
            match &mut current.state {
                FetchState::Requested(asking) => {
                    let answer = asking.await;
                    current.state = FetchState::Answered;
                    RequestEvent::Answer(answer)
                }
                FetchState::Reading(answer) => {
                    let bytes = chunk(answer, &current.url).await;
                    current.length += bytes.as_ref().map_or(0, |bytes| bytes.as_ref().map_or(0, Bytes::len));
                    let is_too_long = current.length > MAX_SEGMENT;
                    let too_long = || unsupported(&current.url, format!("it is longer than {MAX_SEGMENT} bytes"));
                    RequestEvent::Bytes(if is_too_long { Err(too_long()) } else { bytes }, current.url.clone())
                }
                FetchState::Answered => pending().await,
            }
        };
        let load = async {
            let Some(playlist) = loading else { return pending().await };
            let playlist = playlist.await;
            *loading = None;
            RequestEvent::Playlist(playlist)
        };
        let poll_prefetch = async {
            let Some(Prefetch { asking: Some(asking), answer, .. }) = prefetch else { return pending().await };
            *answer = Some(asking.await);
            RequestEvent::PrefetchAnswered
        };
        tokio::select! {
            next_event = read => next_event,
            next_event = load => next_event,
            next_event = poll_prefetch => next_event,
        }
    }
}

/// The playlist's URL with the delivery directives of a blocking reload (RFC 8216bis §6.2.5).
fn with_directives(url: &str, reload: Option<Reload>) -> String {
    let Some(Reload { msn, part, skip }) = reload else { return url.to_owned() };
    let (url, fragment) = url.split_once('#').map_or((url, None), |(url, fragment)| (url, Some(fragment)));
    let separator = if url.contains('?') { '&' } else { '?' };
    let skip = if skip { "&_HLS_skip=YES" } else { "" };
    let fragment = fragment.map_or(String::new(), |fragment| format!("#{fragment}"));
    format!("{url}{separator}_HLS_msn={msn}&_HLS_part={part}{skip}{fragment}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delivery_directives_go_into_the_query() {
        let reload = |skip| Some(Reload { msn: 7, part: 2, skip });
        for (url, reload, wanted) in [
            ("http://h/a.m3u8", None, "http://h/a.m3u8"),
            ("http://h/a.m3u8", reload(false), "http://h/a.m3u8?_HLS_msn=7&_HLS_part=2"),
            ("http://h/a.m3u8?t=x", reload(true), "http://h/a.m3u8?t=x&_HLS_msn=7&_HLS_part=2&_HLS_skip=YES"),
            ("http://h/a.m3u8#f", reload(false), "http://h/a.m3u8?_HLS_msn=7&_HLS_part=2#f"),
        ] {
            assert_eq!(with_directives(url, reload), wanted);
        }
    }
}
