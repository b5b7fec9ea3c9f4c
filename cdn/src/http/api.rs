//! `/api/v1`: the streams and their state, for programs and for the page. `net::api` defines the JSON.

use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::body::Body;
use axum::extract::{self, Path};
use axum::http::header::HeaderMap;
use axum::http::{Response, StatusCode};
use media::catalog::Value;
use media::codec::Format;
use media::time::WallClock;
use media::{Catalog, Track};
use net::api::{
    ApiError, PlaylistInfo, ServerTime, StreamCounters, StreamInfo, StreamList, StreamState, TrackInfo, Urls,
    ViewerCounts, WindowInfo, keyframe_advice,
};
use net::clock;
use serde::Serialize;

use super::forwarded::Origin;
use super::reply::{self, ContentHeaders};
use super::shared::Shared;
use crate::egress::hls::{HlsStream, MULTIVARIANT_PLAYLIST};
use crate::hub::{HubStream, Info, PublishState};
use crate::precompressed::Precompressed;

/// `GET /api/v1/streams`: all streams as a JSON array.
pub(super) async fn streams(
    extract::State(shared): extract::State<Arc<Shared>>,
    Extension(origin): Extension<Origin>,
    headers: HeaderMap,
) -> Response<Body> {
    let base_url = BaseUrl::of(origin, &shared);
    let streams = shared.hub.streams().iter().map(|stream| describe(&shared, stream, &base_url)).collect();
    json(StatusCode::OK, &StreamList { streams, publish: base_url.rtmp_app() }, &headers)
}

/// `GET /api/v1/streams/NAME`: one stream as a JSON object.
pub(super) async fn stream(
    extract::State(shared): extract::State<Arc<Shared>>,
    Path(name): Path<String>,
    Extension(origin): Extension<Origin>,
    headers: HeaderMap,
) -> Response<Body> {
    match shared.hub.stream(&name) {
        Some(stream) => json(StatusCode::OK, &describe(&shared, &stream, &BaseUrl::of(origin, &shared)), &headers),
        None => failure(StatusCode::NOT_FOUND, NO_STREAM, &headers),
    }
}

/// `GET /api/v1/time`: this server's clock, so that a page can compute its latency even if its own clock is wrong.
pub(super) async fn time(headers: HeaderMap) -> Response<Body> {
    let now = clock::now();
    json(StatusCode::OK, &ServerTime { now_us: now.as_micros(), now: now.to_rfc3339() }, &headers)
}

/// All other paths of `/api`.
pub(super) async fn unknown(headers: HeaderMap) -> Response<Body> {
    let error = "there is nothing here; see /api/v1/streams, /api/v1/streams/NAME, /api/v1/streams/NAME/watch, /api/v1/streams/NAME/timing and /api/v1/time";
    failure(StatusCode::NOT_FOUND, error, &headers)
}

pub(super) fn json(status: StatusCode, value: &impl Serialize, headers: &HeaderMap) -> Response<Body> {
    let text = serde_json::to_vec(value).expect("plain structures with string keys serialise");
    let mut response = reply::precompressed(&Precompressed::new(text), JSON, headers);
    if response.status() == StatusCode::OK {
        *response.status_mut() = status;
    }
    response
}

pub(super) fn failure(status: StatusCode, error: &str, headers: &HeaderMap) -> Response<Body> {
    json(status, &ApiError { error: error.to_owned() }, headers)
}

fn describe(shared: &Shared, stream: &HubStream, base_url: &BaseUrl) -> StreamInfo {
    let Info { name, state, catalog, viewers, window, bitrate, counters, .. } = stream.info();
    let (state, since) = match state {
        PublishState::Idle => (StreamState::Offline, None),
        PublishState::Live { since } => (StreamState::Live, Some(since)),
        PublishState::Disconnected { since, .. } => (StreamState::Disconnected, Some(since)),
        PublishState::Ended { since } => (StreamState::Ended, Some(since)),
    };
    let advice = window.gop_duration.and_then(keyframe_advice).into_iter().collect();
    let by_protocol = viewers.iter().map(|(protocol, count)| ((*protocol).to_owned(), *count)).collect();
    StreamInfo {
        state,
        since: since.map(|since| wall_clock(since).to_rfc3339()),
        epoch: catalog.as_ref().map(|c| c.epoch.to_string()),
        clock: catalog.as_ref().and_then(|c| c.clock).map(WallClock::to_rfc3339),
        tracks: catalog
            .as_ref()
            .map(|c| c.tracks.iter().map(|track| describe_track(track, c)).collect())
            .unwrap_or_default(),
        viewers: ViewerCounts { total: viewers.values().sum(), by_protocol },
        bitrate,
        window: WindowInfo {
            seconds: window.duration.as_secs_f64(),
            bytes: window.bytes,
            keyframe_interval: window.gop_duration.map(|interval| interval.as_secs_f64()),
            first_position: window.first_position,
            next_position: window.next_position,
        },
        hls: shared.hls.stream(&name).as_deref().and_then(describe_hls),
        counters: StreamCounters {
            units: counters.units,
            received_bytes: counters.bytes,
            sent_bytes: counters.sent_bytes,
            duplicate_units: counters.duplicate_units,
            publishers: counters.publishers,
            takeovers: counters.takeovers,
            resyncs: counters.resyncs,
            skipped_units: counters.skipped_units,
        },
        urls: base_url.urls(&name),
        advice,
        name,
    }
}

fn describe_track(track: &Track, catalog: &Catalog) -> TrackInfo {
    let (width, height, sample_rate, channels) = match track.config.format {
        // Zero if the decoder configuration does not state the size.
        Format::Video { width, height } => {
            (Some(width).filter(|w| *w > 0), Some(height).filter(|h| *h > 0), None, None)
        }
        Format::Audio { sample_rate, channels } => (None, None, Some(sample_rate), Some(channels)),
    };
    let frame_rate = ["framerate", "videoframerate"].iter().find_map(|key| match catalog.metadata.get(*key) {
        Some(Value::Number(rate)) if *rate > 0.0 && track.id.is_video() => Some(*rate),
        _ => None,
    });
    TrackInfo {
        id: track.id.to_string(),
        kind: if track.id.is_video() { "video" } else { "audio" }.to_owned(),
        codec: track.config.codec.name().to_owned(),
        rfc6381: track.config.rfc6381(),
        width,
        height,
        frame_rate,
        sample_rate,
        channels,
    }
}

fn describe_hls(hls_stream: &HlsStream) -> Option<PlaylistInfo> {
    let playlist = hls_stream.now().playlist.clone();
    let first = playlist.segments.first()?;
    Some(PlaylistInfo {
        media_sequence: first.msn,
        segments: playlist.segments.len(),
        seconds: playlist.segments.iter().map(|s| s.duration.as_secs_f64()).sum(),
        target_duration_seconds: playlist.target_duration,
        part_target_seconds: playlist.low_latency.then(|| playlist.part_target.as_secs_f64()),
    })
}

/// The URL of this server that a client used, since URLs in the response must work for that client.
pub(super) struct BaseUrl {
    origin: Origin,
    public_host: Option<String>,
    rtmp: Option<(u16, String)>,
}

impl BaseUrl {
    pub(super) fn of(origin: Origin, shared: &Shared) -> Self {
        let rtmp = shared.settings.rtmp_port.map(|port| (port, shared.settings.rtmp_app.clone()));
        Self { origin, public_host: shared.settings.live.read().public_host.clone(), rtmp }
    }

    pub(super) fn urls(&self, name: &str) -> Urls {
        let Origin { scheme, authority, prefix, .. } = &self.origin;
        let base = format!("{scheme}://{authority}{prefix}/{name}");
        let rtmp = self.rtmp_app().map(|app| format!("{app}/{name}"));
        Urls { hls: Some(format!("{base}/{MULTIVARIANT_PLAYLIST}")), page: base, rtmp }
    }

    /// The URL of the RTMP application, which stream keys and names are appended to.
    fn rtmp_app(&self) -> Option<String> {
        self.rtmp.as_ref().map(|(port, app)| match port {
            1935 => format!("rtmp://{}/{app}", self.host()),
            port => format!("rtmp://{}:{port}/{app}", self.host()),
        })
    }

    /// The host for URLs with other ports: the configured one, or the authority without its port. Handles IPv6 literals such as `[::1]`.
    pub(super) fn host(&self) -> &str {
        if let Some(host) = &self.public_host {
            return host;
        }
        match self.origin.authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => host,
            _ => &self.origin.authority,
        }
    }
}

fn wall_clock(instant: Instant) -> WallClock {
    let ago = i64::try_from(instant.elapsed().as_micros()).unwrap_or(i64::MAX);
    WallClock::from_micros(clock::now().as_micros().saturating_sub(ago))
}

/// Error text for an unknown stream name.
pub(super) const NO_STREAM: &str = "there is no stream of this name here";

const JSON: ContentHeaders<'static> =
    ContentHeaders { content_type: "application/json", cache_control: reply::NO_STORE };
