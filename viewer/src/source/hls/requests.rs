//! HTTP requests for playlists and media, each with a deadline and a size limit.

use bytes::{Bytes, BytesMut};
use media::hls::client::resolve;
use media::hls::{self, ByteRange, Map};
use reqwest::{StatusCode, header};
use tokio::time::timeout;

use super::super::Error;
use super::super::http::{HttpClient, READ_TIMEOUT, may_retry, root_cause};

/// The playlist, and the base of its URIs: its URL after redirects (RFC 3986 §5.1.3).
pub(super) async fn media_playlist(url: &str, http: &HttpClient) -> Result<(hls::MediaPlaylist, String), Error> {
    let (text, base) = text(get(url, None, http).await?, url).await?;
    let playlist = hls::parse_media(&text).map_err(|error| unsupported(&base, error))?;
    Ok((playlist, base))
}

/// A playlist's text, and its URL after redirects.
pub(super) async fn text(mut response: reqwest::Response, url: &str) -> Result<(String, String), Error> {
    let base = response.url().to_string();
    let mut body = BytesMut::new();
    while let Some(bytes) = chunk(&mut response, url).await? {
        body.extend_from_slice(&bytes);
        if body.len() > MAX_PLAYLIST {
            return Err(unsupported(url, format!("the playlist is longer than {MAX_PLAYLIST} bytes")));
        }
    }
    let text = String::from_utf8(body.into()).map_err(|_| unsupported(url, "the playlist is not UTF-8"))?;
    Ok((text, base))
}

pub(super) async fn get(url: &str, range: Option<ByteRange>, http: &HttpClient) -> Result<reqwest::Response, Error> {
    checked(request(url, range, http).await?, url)
}

/// The response, with any status.
pub(super) async fn request(
    url: &str,
    range: Option<ByteRange>,
    http: &HttpClient,
) -> Result<reqwest::Response, Error> {
    let mut request = http.get(url)?;
    if let Some(ByteRange { length, offset }) = range.filter(|range| range.length > 0) {
        request = request.header(header::RANGE, format!("bytes={offset}-{}", offset.saturating_add(length - 1)));
    }
    let failed = |reason: String, retry| Error::Http { url: url.to_owned(), reason, retry };
    let answer =
        timeout(READ_TIMEOUT, request.send()).await.map_err(|_| failed("no answer in time".to_owned(), true))?;
    answer.map_err(|error| failed(root_cause(&error), may_retry(&error)))
}

/// The response, if its status is a success.
pub(super) fn checked(response: reqwest::Response, url: &str) -> Result<reqwest::Response, Error> {
    match response.status() {
        status if status.is_success() => Ok(response),
        // The playlist may exist once a broadcast starts.
        StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_EARLY => {
            Err(Error::NotLive { address: url.to_owned() })
        }
        status => {
            let retry = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
            Err(Error::Http { url: url.to_owned(), reason: status.to_string(), retry })
        }
    }
}

pub(super) async fn chunk(response: &mut reqwest::Response, url: &str) -> Result<Option<Bytes>, Error> {
    response.chunk().await.map_err(|error| Error::Http { url: url.to_owned(), reason: root_cause(&error), retry: true })
}

/// The bytes of an init segment.
pub(super) async fn init(base: &str, map: &Map, http: &HttpClient) -> Result<Bytes, Error> {
    let url = resolve(base, &map.uri);
    let mut response = get(&url, map.byte_range, http).await?;
    let mut init = BytesMut::new();
    while let Some(bytes) = chunk(&mut response, &url).await? {
        init.extend_from_slice(&bytes);
        if init.len() > MAX_INIT {
            return Err(unsupported(&url, format!("the init segment is longer than {MAX_INIT} bytes")));
        }
    }
    Ok(init.freeze())
}

pub(super) fn unsupported(url: &str, reason: impl ToString) -> Error {
    Error::Unsupported { url: url.to_owned(), reason: reason.to_string() }
}

/// Bytes: a day of two-second segments takes under 4 MB.
const MAX_PLAYLIST: usize = 8 << 20;
/// Bytes; decoder configurations take a few hundred.
const MAX_INIT: usize = 1 << 20;
