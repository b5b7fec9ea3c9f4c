//! HLS over HTTP: maps responses of `crate::egress::hls` to status codes, caching headers, ranges and entity tags.
//!
//! A blocking request occupies a connection, whose number per address is limited, for at most three target durations.

use std::hash::{BuildHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, IF_RANGE, RANGE, USER_AGENT,
};
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use media::hls::Resource;
use net::api::keyframe_advice;

use super::forwarded::Origin;
use super::payload::Payload;
use super::range::{self, RequestedRange};
use super::reply::{self, ContentHeaders};
use super::shared::Shared;
use crate::egress::hls::{self, HlsStream, MULTIVARIANT_PLAYLIST, Request, Unavailable};
use crate::hub::{HubStream, PublishState};
use crate::precompressed::Precompressed;

/// `GET /NAME/FILE`: a playlist, segment, part or init segment.
pub(super) async fn file(
    State(shared): State<Arc<Shared>>,
    Path((name, file)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    Extension(origin): Extension<Origin>,
    headers: HeaderMap,
) -> Response<Body> {
    let parsed = Request::parse(&file, query.as_deref().unwrap_or_default(), shared.hls.settings().low_latency);
    let Some(request) = parsed.transpose() else {
        let text = format!(
            "There is no file {file:?}. A stream's playlist is at /NAME/{MULTIVARIANT_PLAYLIST}, its page at /NAME."
        );
        return reply::text(StatusCode::NOT_FOUND, text);
    };
    let Some(hls_stream) = shared.hls.stream(&name) else { return unknown(&name) };
    if file != MULTIVARIANT_PLAYLIST {
        hls_stream.on_request(client_hash(&shared, origin.client, &headers), Instant::now());
    }
    let request = match request {
        Ok(request) => request,
        Err(why) => return reply::text(StatusCode::BAD_REQUEST, why.to_string()),
    };
    match hls_stream.respond(request, shared.settings.first_segment_wait).await {
        Ok(hls::Response::Playlist { text, max_age }) => playlist(&hls_stream, &text, max_age, &headers),
        Ok(hls::Response::Media { resource, pieces }) => {
            let length = pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
            media(&hls_stream, pieces, length, &format!("\"{}-{length}\"", tag(resource)), &headers)
        }
        Err(why) => unavailable(hls_stream.stream(), why),
    }
}

fn playlist(hls_stream: &HlsStream, text: &Precompressed, max_age: Duration, headers: &HeaderMap) -> Response<Body> {
    let cache_control = format!("public, max-age={}", max_age.as_secs());
    let form = ContentHeaders { content_type: "application/vnd.apple.mpegurl", cache_control: &cache_control };
    let mut response = reply::precompressed(text, form, headers);
    if response.status() == StatusCode::OK {
        let body = http_body::Body::size_hint(response.body()).exact().unwrap_or(0);
        hls_stream.stream().count_sent(body);
    }
    response.headers_mut().remove(ACCEPT_RANGES);
    response
}

/// The HTTP response if there is nothing to serve.
fn unavailable(stream: &HubStream, why: Unavailable) -> Response<Body> {
    let name = stream.name();
    match why {
        Unavailable::Offline => {
            let text = format!("The stream {name:?} exists, but {why}. Retry when it is live.");
            reply::retry_later(StatusCode::NOT_FOUND, text)
        }
        Unavailable::NoSegment | Unavailable::NoUpdate | Unavailable::NoPart => {
            let mut text = match stream.state() {
                PublishState::Live { .. } => format!("The stream {name:?} is live, but {why}. Retry in a moment."),
                _ => format!("The publisher of the stream {name:?} is disconnected. Retry in a moment."),
            };
            if let Some(advice) = stream.info().window.gop_duration.and_then(keyframe_advice) {
                text = format!("{text} {advice}");
            }
            reply::retry_later(StatusCode::SERVICE_UNAVAILABLE, text)
        }
        Unavailable::TooFarAhead => reply::text(StatusCode::BAD_REQUEST, why.to_string()),
        Unavailable::NotHeld => reply::text(StatusCode::NOT_FOUND, why.to_string()),
    }
}

/// Prefix of a resource's entity tag. Together with the length it identifies the content, because media never changes.
fn tag(resource: Resource) -> String {
    match resource {
        Resource::Init(id) => format!("init-{id}"),
        Resource::Segment(msn) => format!("seg-{msn}"),
        Resource::Part(msn, index) => format!("part-{msn}-{index}"),
    }
}

fn media(hls_stream: &HlsStream, pieces: Vec<Bytes>, length: u64, etag: &str, headers: &HeaderMap) -> Response<Body> {
    let builder = Response::builder()
        .header(CACHE_CONTROL, reply::IMMUTABLE)
        .header(CONTENT_TYPE, "video/mp4")
        .header(ACCEPT_RANGES, "bytes")
        .header(ETAG, etag);
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    // Ignore the range if the client's copy is another representation (RFC 9110 §13.1.5).
    let is_same = headers.get(IF_RANGE).is_none_or(|held| held.as_bytes() == etag.as_bytes());
    let wanted = range::parse(header(RANGE).filter(|_| is_same), length);
    let stream = hls_stream.stream().clone();
    let response = match wanted {
        _ if reply::matches_etag(headers, etag) => builder.status(StatusCode::NOT_MODIFIED).body(Body::empty()),
        RequestedRange::All => builder.body(Body::new(Payload::new(pieces, 0..length, stream))),
        RequestedRange::Part(range) => builder
            .status(StatusCode::PARTIAL_CONTENT)
            .header(CONTENT_RANGE, format!("bytes {}-{}/{length}", range.start, range.end - 1))
            .body(Body::new(Payload::new(pieces, range, stream))),
        RequestedRange::Unsatisfiable => builder
            .status(StatusCode::RANGE_NOT_SATISFIABLE)
            .header(CONTENT_RANGE, format!("bytes */{length}"))
            .body(Body::empty()),
    };
    response.expect("constants and numbers are valid header values")
}

pub(super) fn unknown(name: &str) -> Response<Body> {
    // Limited to the maximum length of a name, since the client chose it.
    let asked: String = name.chars().take(64).collect();
    tracing::debug!(name = ?asked, "HTTP request for an unknown stream");
    let text =
        format!("There is no stream {name:?}. The streams of this server are listed at / and at /api/v1/streams.");
    reply::text(StatusCode::NOT_FOUND, text)
}

/// A keyed hash that identifies a client while this server runs, and from which the address cannot be recovered.
fn client_hash(shared: &Shared, client: Option<IpAddr>, headers: &HeaderMap) -> u64 {
    let mut hasher = shared.client_hash_keys.build_hasher();
    client.hash(&mut hasher);
    headers.get(USER_AGENT).map(|agent| agent.as_bytes()).hash(&mut hasher);
    hasher.finish()
}
