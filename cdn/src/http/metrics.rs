//! `/metrics`, in the text format of Prometheus 0.0.4.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{Response, StatusCode};

use super::reply;
use crate::metrics::Metrics;

/// `GET /metrics`: all metrics in the Prometheus text format 0.0.4.
pub(super) async fn metrics(State(metrics): State<Arc<Metrics>>) -> Response<Body> {
    let mut response = reply::text(StatusCode::OK, metrics.render().trim_end());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}
