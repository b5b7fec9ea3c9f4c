//! `/api/v1/streams/NAME/watch`: all transports of a stream, with the addresses, pins and tickets that a viewer needs for them.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::HeaderMap;
use axum::http::{Response, StatusCode};
use net::api::{HlsInfo, PlaybackInfo, RelayInfo};

use super::api::{BaseUrl, NO_STREAM, failure, json};
use super::forwarded::Origin;
use super::shared::Shared;
use crate::rendezvous::WatchInfo;

pub(super) async fn playback_info(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Extension(origin): Extension<Origin>,
    headers: HeaderMap,
) -> Response<Body> {
    let Some(stream) = shared.hub.stream(&name) else {
        return failure(StatusCode::NOT_FOUND, NO_STREAM, &headers);
    };
    let epoch = stream.catalog().map(|catalog| catalog.epoch);
    let peers = shared.settings.peers.as_ref();
    let WatchInfo { relay, peer } =
        peers.map(|peers| peers.watch_info(&name, epoch, origin.client)).unwrap_or_default();
    let base_url = BaseUrl::of(origin, &shared);
    let info = PlaybackInfo {
        urls: base_url.urls(&name),
        hls: Some(HlsInfo { low_latency: shared.hls.settings().low_latency }),
        relay: relay.map(|(port, pin)| RelayInfo { host: base_url.host().to_owned(), port, pin: pin.to_string() }),
        peer,
        epoch: epoch.map(|epoch| epoch.to_string()),
        name,
    };
    json(StatusCode::OK, &info, &headers)
}
