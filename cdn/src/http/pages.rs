//! The pages: `/` lists the streams, `/NAME` plays one. The same files serve every stream; they query the API for its state.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{
    ACCEPT, CONTENT_SECURITY_POLICY, HeaderMap, HeaderName, HeaderValue, LOCATION, REFERRER_POLICY,
};
use axum::http::{Response, StatusCode, Uri};

use super::assets::asset as embedded;
use super::shared::Shared;
use super::{hls, reply};

/// `GET /`: the list of streams.
pub(super) async fn index(headers: HeaderMap) -> Response<Body> {
    page("index.html", &headers)
}

/// `GET /NAME`: the player; with the query `?embed` it shows nothing around the video.
///
/// A browser gets the page even if the stream does not exist: the page says so, and plays once it exists.
pub(super) async fn player(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response<Body> {
    if shared.hub.stream(&name).is_some() {
        return page("player.html", &headers);
    }
    let reads_html = headers.get(ACCEPT).and_then(|a| a.to_str().ok()).is_some_and(|a| a.contains("text/html"));
    if !reads_html {
        return hls::unknown(&name);
    }
    let mut fresh = headers;
    fresh.remove(axum::http::header::IF_NONE_MATCH);
    let mut response = page("player.html", &fresh);
    *response.status_mut() = StatusCode::NOT_FOUND;
    response.headers_mut().insert(axum::http::header::CACHE_CONTROL, HeaderValue::from_static(reply::NO_STORE));
    response
}

/// `GET /NAME/`: redirects to `/NAME`. The location is relative, since a proxy may serve these paths below another.
pub(super) async fn without_slash(uri: Uri) -> Response<Body> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let location = format!("../{}{query}", uri.path().trim_matches('/'));
    let Ok(value) = HeaderValue::try_from(&location) else { return nothing(uri).await };
    let mut response = reply::text(StatusCode::PERMANENT_REDIRECT, format!("The page is at {location}"));
    response.headers_mut().insert(LOCATION, value);
    response
}

/// `GET /assets/PATH`: an embedded file other than a page.
pub(super) async fn asset(Path(path): Path<String>, headers: HeaderMap) -> Response<Body> {
    match embedded(&path).filter(|_| !path.ends_with(".html")) {
        Some((document, form)) => reply::precompressed(document, *form, &headers),
        None => reply::text(StatusCode::NOT_FOUND, "There is no such file."),
    }
}

/// `GET /favicon.ico`, which browsers request for every page.
pub(super) async fn favicon(headers: HeaderMap) -> Response<Body> {
    asset(Path("logo.svg".to_owned()), headers).await
}

/// `GET /robots.txt`: excludes crawlers, since live streams cannot be indexed.
pub(super) async fn robots() -> Response<Body> {
    reply::text(StatusCode::OK, "User-agent: *\nDisallow: /")
}

/// Fallback for unknown paths: 404.
pub(super) async fn nothing(uri: Uri) -> Response<Body> {
    let text = format!(
        "Nothing is served at {:?}. The streams of this server are listed at / and at /api/v1/streams.",
        uri.path()
    );
    reply::text(StatusCode::NOT_FOUND, text)
}

fn page(path: &str, headers: &HeaderMap) -> Response<Body> {
    let (document, form) = embedded(path).expect("the pages are in cdn/web");
    let mut response = reply::precompressed(document, *form, headers);
    for (name, value) in PAGE_HEADERS {
        response.headers_mut().insert(name, value);
    }
    response
}

/// Content Security Policy: no other origins and nothing inline. Media Source Extensions play video from `blob:` URLs.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors *";

const PAGE_HEADERS: [(HeaderName, HeaderValue); 3] = [
    (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (
        HeaderName::from_static("permissions-policy"),
        HeaderValue::from_static("camera=(), microphone=(), geolocation=(), payment=(), usb=()"),
    ),
];
