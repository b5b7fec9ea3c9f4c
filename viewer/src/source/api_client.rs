//! The server's HTTP API for one stream, `/api/v1/streams/NAME`: its transports, and the stage timestamps of its units.
//!
//! Playback information is requested at the start, before each connection to the broadcaster (a ticket is good for one), and when another
//! broadcast is on air.

use std::time::Duration;

use media::Timestamp;
use media::latency::TimingReport;
use net::api::{PlaybackInfo, StreamTiming, Urls};
use reqwest::{StatusCode, Url, header};
use serde::de::DeserializeOwned;

use super::Error;
use super::http::{HttpClient, may_retry, root_cause};

/// A client for one stream's API.
#[derive(Clone, Debug)]
pub(super) struct ApiClient {
    http: HttpClient,
    page: Url,
    name: String,
}

impl ApiClient {
    /// For the stream whose page is `page`. The name is the path's last segment: a proxy may serve the pages below a path of its own.
    ///
    /// # Errors
    /// [`Error::Url`] if the page's path has no stream's name.
    pub(super) fn new(page: &Url, http: &HttpClient) -> Result<Self, Error> {
        let name = stream_name(page)?;
        let path = page.path().trim_end_matches('/').to_owned();
        // Without a slash at its end, so that relative URLs begin beside the page.
        let mut page = page.clone();
        page.set_path(&path);
        Ok(Self { http: http.clone(), page, name })
    }

    /// The multivariant playlist that the server tells; `None` if it tells none. Where a proxy does not say what it is called, the server names its own
    /// page and what is below it, and both are where this client found the page.
    pub(super) fn playlist_url(&self, told: &Urls) -> Option<String> {
        let playlist = told.hls.as_ref()?;
        let below = playlist.strip_prefix(&told.page).filter(|below| !told.page.is_empty() && below.starts_with('/'));
        let Some(below) = below else { return Some(playlist.clone()) };
        let mut page = self.page.clone();
        page.set_query(None);
        page.set_fragment(None);
        Some(format!("{page}{below}"))
    }

    /// The stream's name, from the page's path.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// How the stream can be played; `None` if the server has no such API.
    ///
    /// # Errors
    /// [`Error::UnknownStream`] if the server does not know the stream, [`Error::Http`] for all other failures.
    pub(super) async fn playback_info(&self) -> Result<Option<PlaybackInfo>, Error> {
        self.request("watch").await
    }

    /// Stage timestamps of the server's units up to the one with DTS `at`, or up to the newest; `None` if the server has no such API.
    pub(super) async fn timing(&self, at: Option<Timestamp>) -> Result<Option<TimingReport>, Error> {
        let question = at.map_or("timing".to_owned(), |at| format!("timing?at={}", at.as_millis()));
        Ok(self.request::<StreamTiming>(&question).await?.and_then(StreamTiming::into_report))
    }

    async fn request<T: DeserializeOwned>(&self, what: &str) -> Result<Option<T>, Error> {
        let path = format!("./api/v1/streams/{}/{what}", self.name);
        let api = self.page.join(&path).unwrap_or_else(|_| self.page.clone());
        let failed = |reason: String, retry| Error::Http { url: api.to_string(), reason, retry };
        let request = self.http.get(api.as_str())?.timeout(REQUEST_TIMEOUT);
        let mut response = request.send().await.map_err(|error| failed(root_cause(&error), may_retry(&error)))?;
        let status = response.status();
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
        let is_json = kind.to_ascii_lowercase().starts_with("application/json");
        if status == StatusCode::NOT_FOUND && is_json {
            return Err(Error::UnknownStream { address: address(&self.page), name: self.name.clone() });
        }
        if !status.is_success() || !is_json {
            return if status.is_server_error() { Err(failed(status.to_string(), true)) } else { Ok(None) };
        }
        let mut body = Vec::new();
        while let Some(bytes) = response.chunk().await.map_err(|error| failed(root_cause(&error), true))? {
            body.extend_from_slice(&bytes);
            if body.len() > MAX_RESPONSE {
                return Err(failed(format!("the answer is longer than {MAX_RESPONSE} bytes"), false));
            }
        }
        serde_json::from_slice(&body).map(Some).map_err(|error| failed(error.to_string(), false))
    }
}

/// The name of the stream whose page is `page`.
///
/// # Errors
/// [`Error::Url`] if the page's path has no stream's name.
pub(super) fn stream_name(page: &Url) -> Result<String, Error> {
    match page.path().trim_end_matches('/').rsplit('/').next().filter(|name| !name.is_empty()) {
        Some(name) => Ok(name.to_owned()),
        None => {
            let reason = format!("name a stream: {}/NAME, or a playlist that ends in .m3u8", address(page));
            Err(Error::Url { url: page.to_string(), reason })
        }
    }
}

fn address(page: &Url) -> String {
    format!("{}://{}", page.scheme(), page.authority())
}

/// How long the server may take to answer.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes; a response has under 2 kB.
const MAX_RESPONSE: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_playlist_is_where_the_server_says_or_below_the_page() {
        let told = |page: &str, hls: &str| Urls { page: page.to_owned(), hls: Some(hls.to_owned()), rtmp: None };
        let own = told("http://10.0.0.1:8080/live", "http://10.0.0.1:8080/live/index.m3u8");
        for (page, told, playlist) in [
            ("http://10.0.0.1:8080/live", &own, "http://10.0.0.1:8080/live/index.m3u8"),
            ("http://h:8080/live/", &own, "http://h:8080/live/index.m3u8"),
            ("https://h/stream/live", &own, "https://h/stream/live/index.m3u8"),
            ("https://h/a/b/live/?x=y#z", &own, "https://h/a/b/live/index.m3u8"),
            ("http://h/live", &told("http://h/live", "http://edge/live/index.m3u8"), "http://edge/live/index.m3u8"),
            ("http://h/live", &told("", "http://edge/live/index.m3u8"), "http://edge/live/index.m3u8"),
            ("http://h/live", &told("http://h/live", "http://h/live2/index.m3u8"), "http://h/live2/index.m3u8"),
        ] {
            let client = ApiClient::new(&page.parse().unwrap(), &HttpClient::default()).unwrap();
            assert_eq!((client.name(), client.playlist_url(told).as_deref()), ("live", Some(playlist)), "{page}");
        }
        assert!(ApiClient::new(&"http://h/".parse().unwrap(), &HttpClient::default()).is_err());
    }
}
