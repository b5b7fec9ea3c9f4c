//! `/healthz`: the process is alive. `/readyz`: the server accepts work; fails once shutdown has begun.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Response, StatusCode};

use super::reply;
use super::shared::Shared;

pub(super) async fn healthz() -> Response<Body> {
    reply::text(StatusCode::OK, "ok")
}

pub(super) async fn readyz(State(shared): State<Arc<Shared>>) -> Response<Body> {
    if shared.is_draining.load(Ordering::Relaxed) {
        reply::text(StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else {
        reply::text(StatusCode::OK, "ready")
    }
}
