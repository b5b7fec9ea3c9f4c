//! Playlists, init segments and segments (RFC 8216), out of memory.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, IF_RANGE, RANGE, USER_AGENT,
};
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use media::hls::Resource;

use super::payload::Payload;
use super::range::{self, Wanted};
use super::reply::{self, Form};
use super::{Peer, Shared};
use crate::document::Document;
use crate::egress::hls::{MEDIA_PLAYLIST, MULTIVARIANT_PLAYLIST, Packaged, Snapshot};
use crate::hub::State as StreamState;

/// `/NAME/FILE`.
pub(super) async fn file(
    State(shared): State<Arc<Shared>>,
    Path((name, file)): Path<(String, String)>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
) -> Response<Body> {
    let playlist: Option<fn(&Snapshot) -> Option<&Document>> = match file.as_str() {
        MULTIVARIANT_PLAYLIST => Some(|snapshot| snapshot.multivariant.as_ref()),
        MEDIA_PLAYLIST => Some(|snapshot| snapshot.media.as_ref()),
        _ => None,
    };
    let resource = Resource::from_name(&file);
    if playlist.is_none() && resource.is_none() {
        let text = format!(
            "There is no {file:?} here. A stream's playlist is at /NAME/{MULTIVARIANT_PLAYLIST}, its page at /NAME."
        );
        return reply::words(StatusCode::NOT_FOUND, text);
    }
    let Some(packaged) = shared.hls.stream(&name) else { return unknown(&name) };
    if file != MULTIVARIANT_PLAYLIST {
        packaged.seen(mark(&shared, peer.map(|Extension(peer)| peer), &headers), Instant::now());
    }
    match (playlist, resource) {
        (Some(text), _) => serve_playlist(&shared, &packaged, text, &headers).await,
        (None, Some(resource)) => serve_media(&packaged, resource, &headers),
        (None, None) => unknown(&name),
    }
}

async fn serve_playlist(
    shared: &Shared,
    packaged: &Packaged,
    text: fn(&Snapshot) -> Option<&Document>,
    headers: &HeaderMap,
) -> Response<Body> {
    let stream = packaged.stream();
    if let StreamState::Ended { since } = stream.state()
        && since.elapsed() > ENDED_IS_TOLD
    {
        return offline(stream.name());
    }
    let snapshot = packaged.playable(shared.settings.first_segment).await;
    match snapshot.as_deref().and_then(text) {
        Some(document) => {
            let mut response = reply::document(document, PLAYLIST, headers);
            if response.status() == StatusCode::OK {
                let body = http_body::Body::size_hint(response.body()).exact().unwrap_or(0);
                stream.count_sent(body);
            }
            response.headers_mut().remove(ACCEPT_RANGES);
            response
        }
        None => match stream.state() {
            StreamState::Idle | StreamState::Ended { .. } => offline(stream.name()),
            StreamState::Live { .. } | StreamState::Away { .. } => {
                let text = format!(
                    "The stream {:?} is on air, but has no complete segment yet. Ask again in a moment.",
                    stream.name()
                );
                reply::words_for_now(StatusCode::SERVICE_UNAVAILABLE, text)
            }
        },
    }
}

fn serve_media(packaged: &Packaged, resource: Resource, headers: &HeaderMap) -> Response<Body> {
    let snapshot = packaged.now();
    let (found, tag) = match resource {
        Resource::Init(id) => (snapshot.playlist.init(id).map(|bytes| vec![bytes]), format!("init-{id}")),
        Resource::Segment(msn) => (snapshot.playlist.segment(msn), format!("seg-{msn}")),
    };
    let Some(pieces) = found else {
        return reply::words(StatusCode::NOT_FOUND, "This segment is not held: it is too old, or not complete yet.");
    };
    let length = pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
    media(packaged, pieces, length, &format!("\"{tag}-{length}\""), headers)
}

fn media(packaged: &Packaged, pieces: Vec<Bytes>, length: u64, etag: &str, headers: &HeaderMap) -> Response<Body> {
    let builder = Response::builder()
        .header(CACHE_CONTROL, reply::FOR_EVER)
        .header(CONTENT_TYPE, "video/mp4")
        .header(ACCEPT_RANGES, "bytes")
        .header(ETAG, etag);
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    // A range of what the client had is worth nothing if it had something else (RFC 9110 §13.1.5).
    let is_same = headers.get(IF_RANGE).is_none_or(|held| held.as_bytes() == etag.as_bytes());
    let wanted = range::parse(header(RANGE).filter(|_| is_same), length);
    let stream = packaged.stream().clone();
    let response = match wanted {
        _ if reply::has_it(headers, etag) => builder.status(StatusCode::NOT_MODIFIED).body(Body::empty()),
        Wanted::All => builder.body(Body::new(Payload::new(pieces, 0..length, stream))),
        Wanted::Part(range) => builder
            .status(StatusCode::PARTIAL_CONTENT)
            .header(CONTENT_RANGE, format!("bytes {}-{}/{length}", range.start, range.end - 1))
            .body(Body::new(Payload::new(pieces, range, stream))),
        Wanted::Unsatisfiable => builder
            .status(StatusCode::RANGE_NOT_SATISFIABLE)
            .header(CONTENT_RANGE, format!("bytes */{length}"))
            .body(Body::empty()),
    };
    response.expect("constants and numbers are valid header values")
}

fn offline(name: &str) -> Response<Body> {
    let text =
        format!("The stream {name:?} is known here, but nobody publishes it right now. Ask again when it is on air.");
    reply::words_for_now(StatusCode::NOT_FOUND, text)
}

pub(super) fn unknown(name: &str) -> Response<Body> {
    // As long as a name may be, and no longer: it is a stranger's.
    let asked: String = name.chars().take(64).collect();
    tracing::debug!(name = ?asked, "no such stream was asked for by HTTP");
    let text =
        format!("There is no stream {name:?} here. The streams of this server are listed at / and at /api/v1/streams.");
    reply::words(StatusCode::NOT_FOUND, text)
}

/// Stands for a client: the same as long as this server runs, and useless to anybody else.
fn mark(shared: &Shared, peer: Option<Peer>, headers: &HeaderMap) -> u64 {
    let mut hasher = shared.marks.build_hasher();
    peer.map(|Peer(address)| address.ip()).hash(&mut hasher);
    headers.get(USER_AGENT).map(|agent| agent.as_bytes()).hash(&mut hasher);
    hasher.finish()
}

/// A cache in front may give the same playlist to everybody for a second, half of what a player waits between two.
const PLAYLIST: Form = Form { content_type: "application/vnd.apple.mpegurl", cache_control: "public, max-age=1" };

/// How long an ended stream's last playlist is served, so that players hear that it ended. After that a newcomer hears that it is
/// offline, in place of old pictures.
const ENDED_IS_TOLD: std::time::Duration = std::time::Duration::from_secs(60);
