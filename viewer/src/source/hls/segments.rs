//! Playing by whole segments: fMP4 is read as its bytes arrive, MPEG-TS once a segment is complete.

use std::time::Duration;

use bytes::BytesMut;
use media::hls;
use media::hls::client::{Fetch, PlaylistAction, resolve};
use net::clock;
use tokio::time::{sleep, sleep_until};
use tracing::debug;

use super::super::http::HttpClient;
use super::super::{Closed, Error, EventSender, PathEvent};
use super::burst::ReportedBurst;
use super::reader::SegmentReader;
use super::requests::{chunk, get, init, media_playlist, unsupported};
use super::state::{HlsState, MAX_ATTEMPTS, MAX_SEGMENT, RETRY_PAUSE};

/// Plays from `first`, whose URIs are relative to `base`, until the playlist ends (`Ok`) or the path fails.
pub(super) async fn run(
    state: &mut HlsState,
    (first, mut base): (hls::MediaPlaylist, String),
    mut burst: ReportedBurst,
    http: &HttpClient,
    events: &EventSender,
) -> Result<(), Error> {
    state.reader.skip();
    if std::mem::take(&mut state.fetch_pending) {
        state.playlist_client.retry_fetch();
    }
    let began = state.started.elapsed();
    let mut growth = PlaylistGrowth::new(began, &first);
    state.playlist_client.on_playlist(began, first);
    let (mut failed_loads, mut failed_fetches, mut lost) = (0, 0, 0);
    loop {
        match state.playlist_client.next() {
            PlaylistAction::End => return Ok(()),
            PlaylistAction::Reload(at) => {
                sleep_until(state.started + at).await;
                let began = state.started.elapsed();
                match media_playlist(&state.playlist, http).await {
                    Ok((playlist, now_at)) => {
                        (failed_loads, base) = (0, now_at);
                        if growth.has_stopped(began, &playlist) && events.send(PathEvent::Stalled).await.is_err() {
                            return Ok(());
                        }
                        if burst.update(&playlist, events).await.is_err() {
                            return Ok(());
                        }
                        state.playlist_client.on_playlist(began, playlist);
                    }
                    Err(error) => {
                        failed_loads += 1;
                        if failed_loads > MAX_ATTEMPTS || !error.retry() {
                            return Err(error);
                        }
                        debug!(%error, failed_loads, "cannot load the playlist");
                        state.playlist_client.on_load_failed(state.started.elapsed());
                    }
                }
            }
            PlaylistAction::Fetch(fetch) => {
                state.fetch_pending = true;
                if fetch.lost > 0 {
                    state.reader.skip();
                    if events.send(PathEvent::Gap).await.is_err() {
                        return Ok(());
                    }
                }
                let error = match segment(&base, http, &mut state.reader, &fetch, events).await {
                    Ok(Ok(())) => {
                        state.fetch_pending = false;
                        (failed_fetches, lost) = (0, 0);
                        continue;
                    }
                    Ok(Err(Closed)) => return Ok(()),
                    Err(error) => error,
                };
                state.reader.broken();
                failed_fetches += 1;
                if error.retry() && failed_fetches < MAX_ATTEMPTS {
                    debug!(%error, msn = fetch.msn, failed_fetches, "cannot fetch a segment");
                    state.playlist_client.retry_fetch();
                    sleep(RETRY_PAUSE * failed_fetches).await;
                    continue;
                }
                // The segment stays pending, since a server that is down may still have it after a restart.
                if error.retry() && media_playlist(&state.playlist, http).await.is_err() {
                    return Err(error);
                }
                state.skip_log.note(std::time::Instant::now(), format!("{error} (segment {})", fetch.msn));
                state.fetch_pending = false;
                state.playlist_client.on_fetch_failed();
                (failed_fetches, lost) = (0, lost + 1);
                if !error.retry() || lost >= MAX_ATTEMPTS {
                    return Err(error);
                }
            }
        }
    }
}

/// Watches whether a live playlist grows.
pub(super) struct PlaylistGrowth {
    last: u64,
    since: Duration,
    is_told: bool,
}

impl PlaylistGrowth {
    pub(super) fn new(now: Duration, playlist: &hls::MediaPlaylist) -> Self {
        Self { last: playlist.next_msn(), since: now, is_told: false }
    }

    /// Whether the time since the last new segment has just become too long; true once for each stall.
    pub(super) fn has_stopped(&mut self, now: Duration, playlist: &hls::MediaPlaylist) -> bool {
        if playlist.next_msn() != self.last {
            *self = Self::new(now, playlist);
        }
        let is_late = now.saturating_sub(self.since) > playlist.target_duration * STALL_TARGET_DURATIONS;
        is_late && !std::mem::replace(&mut self.is_told, is_late)
    }
}

/// Fetches a segment, and its init segment if that is new, and reports their units.
async fn segment(
    base: &str,
    http: &HttpClient,
    reader: &mut SegmentReader,
    fetch: &Fetch,
    events: &EventSender,
) -> Result<Result<(), Closed>, Error> {
    let url = resolve(base, &fetch.uri);
    if fetch.encrypted {
        return Err(unsupported(&url, "the stream is encrypted, and this viewer decrypts nothing"));
    }
    reader.enter(fetch.discontinuity_sequence);
    if let Some(map) = fetch.map.as_ref().filter(|_| fetch.new_map || reader.wants_init()) {
        let bytes = init(base, map, http).await?;
        reader.init(bytes).map_err(|error| unsupported(&resolve(base, &map.uri), error))?;
    }
    reader.begin(fetch.program_date_time);
    let asked = clock::now();
    let mut response = get(&url, fetch.byte_range, http).await?;
    if events.send(PathEvent::RequestSent(asked)).await.is_err() {
        return Ok(Err(Closed));
    }
    let (mut length, mut whole) = (0, BytesMut::new());
    while let Some(bytes) = chunk(&mut response, &url).await? {
        length += bytes.len();
        if length > MAX_SEGMENT {
            return Err(unsupported(&url, format!("the segment is longer than {MAX_SEGMENT} bytes")));
        }
        if fetch.map.is_none() {
            whole.extend_from_slice(&bytes);
            continue;
        }
        for (catalog, unit, predecessor) in reader.fmp4(bytes).map_err(|error| unsupported(&url, error))? {
            if events.send(PathEvent::Unit(catalog, unit, predecessor)).await.is_err() {
                return Ok(Err(Closed));
            }
        }
    }
    if fetch.map.is_some() {
        let cut = |reason| Error::Http { url: url.clone(), reason, retry: true };
        reader.end().map_err(|error| cut(error.to_string()))?;
    } else {
        let units = reader.whole(whole.freeze()).await.map_err(|reason| unsupported(&url, reason))?;
        for (catalog, unit, predecessor) in units {
            if events.send(PathEvent::Unit(catalog, unit, predecessor)).await.is_err() {
                return Ok(Err(Closed));
            }
        }
    }
    Ok(Ok(()))
}

/// Target durations without a new segment before the stream counts as stalled.
const STALL_TARGET_DURATIONS: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_playlist_that_does_not_grow_is_reported_once_for_each_stall() {
        let mut playlist = hls::MediaPlaylist { target_duration: Duration::from_secs(2), ..Default::default() };
        let mut growth = PlaylistGrowth::new(Duration::ZERO, &playlist);
        let mut told = Vec::new();
        for second in 0..30 {
            playlist.media_sequence += u64::from(second == 10);
            told.extend(growth.has_stopped(Duration::from_secs(second), &playlist).then_some(second));
        }
        assert_eq!(told, [7, 17], "once for each stall");
    }
}
