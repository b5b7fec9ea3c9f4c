//! Playlists, init segments, segments and parts (RFC 8216, RFC 8216bis), out of memory.
//!
//! A request may wait: for the playlist that has a certain part (`_HLS_msn`, `_HLS_part`) and for the part that the playlist hints at.
//! Waiting takes a connection, of which there are only so many from one address, and lasts three target durations at most.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, IF_RANGE, RANGE, USER_AGENT,
};
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use media::hls::Resource;

use super::payload::Payload;
use super::range::{self, RequestedRange};
use super::reply::{self, ContentHeaders};
use super::{Peer, Shared};
use crate::egress::hls::{BlockingRequest, BlockingResult, HlsStream, MEDIA_PLAYLIST, MULTIVARIANT_PLAYLIST, Snapshot};
use crate::hub::State as StreamState;
use crate::precompressed::Precompressed;

/// `/NAME/FILE`.
pub(super) async fn file(
    State(shared): State<Arc<Shared>>,
    Path((name, file)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
) -> Response<Body> {
    let playlist: Option<Text> = match file.as_str() {
        MULTIVARIANT_PLAYLIST => Some(Snapshot::multivariant),
        MEDIA_PLAYLIST => Some(Snapshot::media),
        _ => None,
    };
    let resource = Resource::from_name(&file);
    if playlist.is_none() && resource.is_none() {
        let text = format!(
            "There is no {file:?} here. A stream's playlist is at /NAME/{MULTIVARIANT_PLAYLIST}, its page at /NAME."
        );
        return reply::text(StatusCode::NOT_FOUND, text);
    }
    let Some(hls_stream) = shared.hls.stream(&name) else { return unknown(&name) };
    if file != MULTIVARIANT_PLAYLIST {
        hls_stream.on_request(client_hash(&shared, peer.map(|Extension(peer)| peer), &headers), Instant::now());
    }
    match (playlist, resource) {
        (Some(text), _) => {
            let has_directives = file == MEDIA_PLAYLIST && shared.settings.hls.low_latency;
            match Directives::parse(query.as_deref().filter(|_| has_directives).unwrap_or_default()) {
                Ok(directives) => serve_playlist(&shared, &hls_stream, text, directives, &headers).await,
                Err(what) => reply::text(StatusCode::BAD_REQUEST, what),
            }
        }
        (None, Some(resource)) => serve_media(&hls_stream, resource, &headers).await,
        (None, None) => unknown(&name),
    }
}

/// Which of a snapshot's texts is served.
type Text = fn(&Snapshot) -> Option<&Precompressed>;

/// What a client asks of a media playlist by its query (RFC 8216bis §6.2.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Directives {
    wanted: Option<BlockingRequest>,
    skip: bool,
}

impl Directives {
    /// Parameters of other names are other people's; of these, what is no decimal number is refused, and why.
    fn parse(query: &str) -> Result<Self, &'static str> {
        let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let number = |name| match value(name) {
            None => Ok(None),
            Some(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse().map(Some).map_err(|_| "A number of this size names no segment and no part.")
            }
            Some(_) => Err("_HLS_msn and _HLS_part are decimal numbers."),
        };
        let wanted = match (number("_HLS_msn")?, number("_HLS_part")?) {
            (Some(msn), part) => Some(BlockingRequest { msn, part }),
            (None, None) => None,
            (None, Some(_)) => return Err("_HLS_part says nothing without _HLS_msn."),
        };
        Ok(Self { wanted, skip: matches!(value("_HLS_skip"), Some("YES" | "v2")) })
    }
}

async fn serve_playlist(
    shared: &Shared,
    hls_stream: &HlsStream,
    text: Text,
    directives: Directives,
    headers: &HeaderMap,
) -> Response<Body> {
    let stream = hls_stream.stream();
    if let StreamState::Ended { since } = stream.state()
        && since.elapsed() > ENDED_PLAYLIST_TTL
    {
        return offline(stream.name());
    }
    let Some(mut snapshot) = hls_stream.playable(shared.settings.first_segment_wait).await else {
        return unavailable(hls_stream, "has no complete segment yet");
    };
    if let Some(wanted) = directives.wanted {
        snapshot = match hls_stream.blocking_reload(snapshot, wanted).await {
            BlockingResult::Ready(snapshot) => snapshot,
            BlockingResult::TooFarAhead => {
                let text = "This is further off than the playlist says that anything is. Read it without _HLS_msn.";
                return reply::text(StatusCode::BAD_REQUEST, text);
            }
            BlockingResult::TimedOut => return unavailable(hls_stream, "has had nothing new for a while"),
        };
    }
    let text = if directives.skip { Snapshot::delta } else { text };
    let Some(document) = text(&snapshot) else { return unavailable(hls_stream, "has no complete segment yet") };
    let form = if directives.wanted.is_some() { BLOCKING_PLAYLIST } else { PLAYLIST };
    let mut response = reply::precompressed(document, form, headers);
    if response.status() == StatusCode::OK {
        let body = http_body::Body::size_hint(response.body()).exact().unwrap_or(0);
        stream.count_sent(body);
    }
    response.headers_mut().remove(ACCEPT_RANGES);
    response
}

/// What to say where there is nothing to give out for now.
fn unavailable(hls_stream: &HlsStream, why: &str) -> Response<Body> {
    let stream = hls_stream.stream();
    match stream.state() {
        StreamState::Idle | StreamState::Ended { .. } => offline(stream.name()),
        StreamState::Live { .. } | StreamState::Disconnected { .. } => {
            let text = format!("The stream {:?} is on air, but {why}. Ask again in a moment.", stream.name());
            reply::retry_later(StatusCode::SERVICE_UNAVAILABLE, text)
        }
    }
}

async fn serve_media(hls_stream: &HlsStream, resource: Resource, headers: &HeaderMap) -> Response<Body> {
    let snapshot = match resource {
        Resource::Part(msn, index) => match hls_stream.part(msn, index).await {
            BlockingResult::Ready(snapshot) => snapshot,
            BlockingResult::TooFarAhead | BlockingResult::TimedOut => {
                return unavailable(hls_stream, "this part of it has not come");
            }
        },
        Resource::Init(_) | Resource::Segment(_) => hls_stream.now(),
    };
    let (found, tag) = match resource {
        Resource::Init(id) => (snapshot.playlist.init(id).map(|bytes| vec![bytes]), format!("init-{id}")),
        Resource::Segment(msn) => (snapshot.playlist.segment(msn), format!("seg-{msn}")),
        Resource::Part(msn, index) => (snapshot.playlist.part(msn, index), format!("part-{msn}-{index}")),
    };
    let Some(pieces) = found else {
        return reply::text(StatusCode::NOT_FOUND, "This is not held: it is too old, or not complete yet.");
    };
    let length = pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
    media(hls_stream, pieces, length, &format!("\"{tag}-{length}\""), headers)
}

fn media(hls_stream: &HlsStream, pieces: Vec<Bytes>, length: u64, etag: &str, headers: &HeaderMap) -> Response<Body> {
    let builder = Response::builder()
        .header(CACHE_CONTROL, reply::IMMUTABLE)
        .header(CONTENT_TYPE, "video/mp4")
        .header(ACCEPT_RANGES, "bytes")
        .header(ETAG, etag);
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    // A range of what the client had is worth nothing if it had something else (RFC 9110 §13.1.5).
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

fn offline(name: &str) -> Response<Body> {
    let text =
        format!("The stream {name:?} is known here, but nobody publishes it right now. Ask again when it is on air.");
    reply::retry_later(StatusCode::NOT_FOUND, text)
}

pub(super) fn unknown(name: &str) -> Response<Body> {
    // As long as a name may be, and no longer: it is a stranger's.
    let asked: String = name.chars().take(64).collect();
    tracing::debug!(name = ?asked, "no such stream was asked for by HTTP");
    let text =
        format!("There is no stream {name:?} here. The streams of this server are listed at / and at /api/v1/streams.");
    reply::text(StatusCode::NOT_FOUND, text)
}

/// Stands for a client: the same as long as this server runs, and useless to anybody else.
fn client_hash(shared: &Shared, peer: Option<Peer>, headers: &HeaderMap) -> u64 {
    let mut hasher = shared.client_hash_keys.build_hasher();
    peer.map(|Peer(address)| address.ip()).hash(&mut hasher);
    headers.get(USER_AGENT).map(|agent| agent.as_bytes()).hash(&mut hasher);
    hasher.finish()
}

/// A cache in front may give the same playlist to everybody for a second, half of what a player waits between two.
const PLAYLIST: ContentHeaders =
    ContentHeaders { content_type: "application/vnd.apple.mpegurl", cache_control: "public, max-age=1" };

/// A playlist that was waited for: its address names a part that it has, so that it is as true later, and of no use once segments are gone
/// (RFC 8216bis §6.2.5.2 leaves it to the server; this is the six target durations that caches are advised to keep it).
const BLOCKING_PLAYLIST: ContentHeaders = ContentHeaders { cache_control: "public, max-age=12", ..PLAYLIST };

/// How long an ended stream's last playlist is served, so that players hear that it ended. After that a newcomer hears that it is
/// offline, in place of old pictures.
const ENDED_PLAYLIST_TTL: std::time::Duration = std::time::Duration::from_secs(60);
