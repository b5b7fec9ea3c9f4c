//! Responses of the routes: texts with entity tags and compression (RFC 9110 §8.4, §13), short messages, and the headers of all responses.

use axum::body::Body;
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_NONE_MATCH, RETRY_AFTER, VARY,
};
use axum::http::{Response, StatusCode};

use crate::precompressed::Precompressed;

/// Content type and caching of a response.
#[derive(Clone, Copy, Debug)]
pub(super) struct ContentHeaders<'a> {
    pub(super) content_type: &'static str,
    pub(super) cache_control: &'a str,
}

/// The text, compressed if the client accepts gzip; 304 if the client's entity tag matches.
pub(super) fn precompressed(document: &Precompressed, form: ContentHeaders<'_>, request: &HeaderMap) -> Response<Body> {
    let packed = document.gzip.as_ref().filter(|_| takes_gzip(request));
    let etag = match packed {
        Some(_) => format!("\"{}-gz\"", document.tag),
        None => format!("\"{}\"", document.tag),
    };
    let builder = Response::builder()
        .header(CACHE_CONTROL, form.cache_control)
        .header(VARY, ACCEPT_ENCODING.as_str())
        .header(ETAG, &etag);
    let response = if matches_etag(request, &etag) {
        builder.status(StatusCode::NOT_MODIFIED).body(Body::empty())
    } else {
        let builder = builder.header(CONTENT_TYPE, form.content_type);
        match packed {
            Some(packed) => builder.header(CONTENT_ENCODING, "gzip").body(Body::from(packed.clone())),
            None => builder.body(Body::from(document.plain.clone())),
        }
    };
    response.expect("constants and hexadecimal digits are valid header values")
}

/// A short plain-text message, readable with curl.
pub(super) fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Body::from(text.into() + "\n"));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(NO_STORE));
    response
}

/// The same with `Retry-After`, for resources that may exist soon.
pub(super) fn retry_later(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = self::text(status, text);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
    response
}

/// Whether the request's `If-None-Match` contains `etag` (RFC 9110 §13.1.2: weak comparison).
pub(super) fn matches_etag(request: &HeaderMap, etag: &str) -> bool {
    let held =
        request.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(','));
    held.map(str::trim).any(|held| held == "*" || held.strip_prefix("W/").unwrap_or(held) == etag)
}

/// Whether `Accept-Encoding` lists gzip or `*` with a weight above zero (RFC 9110 §12.5.3).
fn takes_gzip(request: &HeaderMap) -> bool {
    let codings =
        request.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()).flat_map(|l| l.split(','));
    let mut any = false;
    for coding in codings {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(|p| p.strip_prefix("q=")).map_or(1.0, |q| q.trim().parse::<f32>().unwrap_or(0.0));
        if name.eq_ignore_ascii_case("gzip") {
            return weight > 0.0;
        }
        any |= name == "*" && weight > 0.0;
    }
    any
}

/// Never cached: the response describes the current moment only.
pub(super) const NO_STORE: &str = "no-store";

/// Cached, but revalidated on each use: the response changes when the server is updated.
pub(super) const NO_CACHE: &str = "no-cache";

/// Cached permanently: the URL identifies the content.
pub(super) const IMMUTABLE: &str = "public, max-age=31536000, immutable";

/// Value of `Retry-After` in seconds: the duration of a segment.
const RETRY_AFTER_SECONDS: &str = "2";

/// Headers of every response. `Cross-Origin-Resource-Policy` lets cross-origin isolated pages embed the stream.
pub(super) const COMMON_HEADERS: [(HeaderName, HeaderValue); 3] = [
    (axum::http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("cross-origin")),
    (HeaderName::from_static("timing-allow-origin"), HeaderValue::from_static("*")),
];
