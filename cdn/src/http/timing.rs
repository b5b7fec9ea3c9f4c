//! `/api/v1/streams/NAME/timing`: stage timestamps of a stream's latest units, and this server's clock, for RTMP and HLS viewers and for the
//! page. Relay viewers request it on their own connection.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header::HeaderMap;
use axum::http::{Response, StatusCode};
use media::Timestamp;
use net::api::StreamTiming;
use serde::Deserialize;

use super::api::{NO_STREAM, failure, json};
use super::shared::Shared;

/// Query parameters of the request.
#[derive(Deserialize)]
pub(super) struct TimingQuery {
    /// DTS of the last unit to report, in milliseconds; `None` for the newest.
    at: Option<i64>,
}

pub(super) async fn timing(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    query: Result<Query<TimingQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Response<Body> {
    let Some(stream) = shared.hub.stream(&name) else {
        return failure(StatusCode::NOT_FOUND, NO_STREAM, &headers);
    };
    let Ok(Query(TimingQuery { at })) = query else {
        return failure(StatusCode::BAD_REQUEST, "at is the DTS of a unit, in milliseconds", &headers);
    };
    match stream.latency().report(at.map(Timestamp::from_millis)) {
        Some(report) => json(StatusCode::OK, &StreamTiming::from(&report), &headers),
        None => failure(StatusCode::NOT_FOUND, "nothing of this stream has come yet", &headers),
    }
}
