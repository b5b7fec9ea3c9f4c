//! `/api/v1/streams/NAME/watch`: all that a viewer needs to take the best path to a stream, and to be let in there.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{FORWARDED, HeaderMap};
use axum::http::{Response, StatusCode};
use data_encoding::HEXLOWER;
use serde::Serialize;

use super::api::{BaseUrl, ErrorJson, UrlsJson, json};
use super::{Peer, Shared};
use crate::rendezvous::{PeerInfo, WatchInfo};

#[derive(Serialize)]
struct PlaybackInfoJson {
    name: String,
    /// Of the newest broadcast: 16 hexadecimal digits.
    epoch: Option<String>,
    urls: UrlsJson,
    hls: HlsJson,
    relay: Option<RelayJson>,
    peer: Option<PeerJson>,
}

/// How the playlist can be played.
#[derive(Serialize)]
struct HlsJson {
    /// By parts, as they are made.
    low_latency: bool,
}

/// The relay protocol from this server.
#[derive(Serialize)]
struct RelayJson {
    host: String,
    port: u16,
    /// SHA-256 of its certificate, 64 hexadecimal digits.
    pin: String,
}

/// The relay protocol from the broadcaster.
#[derive(Serialize)]
struct PeerJson {
    pin: String,
    /// What its mDNS names are derived from: 32 hexadecimal digits.
    secret: String,
    /// Only for a viewer behind the same public address.
    addresses: Vec<SocketAddr>,
    /// Lets this viewer in once.
    ticket: String,
    /// When the ticket is over, in seconds of Unix time.
    expires: u64,
}

pub(super) async fn playback_info(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
) -> Response<Body> {
    let Some(stream) = shared.hub.stream(&name) else {
        return json(StatusCode::NOT_FOUND, &ErrorJson { error: "there is no stream of this name here" }, &headers);
    };
    let epoch = stream.catalog().map(|catalog| catalog.epoch);
    let is_proxied = PROXY_HEADERS.iter().any(|name| headers.contains_key(*name)) || headers.contains_key(FORWARDED);
    let from = peer.map(|Extension(Peer(address))| address.ip()).filter(|_| !is_proxied);
    let info = shared.settings.peers.as_ref().map(|all| all.watch_info(&name, epoch, from));
    let WatchInfo { relay, peer } = info.unwrap_or(WatchInfo { relay: None, peer: None });
    let base_url = BaseUrl::of(&headers, &shared);
    let answer = PlaybackInfoJson {
        urls: base_url.urls(&name),
        hls: HlsJson { low_latency: shared.settings.hls.low_latency },
        relay: relay.map(|(port, pin)| RelayJson { host: base_url.host().to_owned(), port, pin: pin.to_string() }),
        peer: peer.map(|PeerInfo { pin, secret, addresses, ticket, expires }| PeerJson {
            pin: pin.to_string(),
            secret: HEXLOWER.encode(&secret),
            addresses,
            ticket,
            expires,
        }),
        epoch: epoch.map(|epoch| epoch.to_string()),
        name,
    };
    json(StatusCode::OK, &answer, &headers)
}

/// Behind a proxy the address that a viewer comes from is the proxy's.
const PROXY_HEADERS: [&str; 2] = ["x-forwarded-for", "x-real-ip"];
