//! The server's HTTP API for one stream, `/api/v1/streams/NAME`: its transports, and the stage timestamps of its units.
//!
//! Playback information is requested at the start, before each connection to the broadcaster (a ticket is good for one), and when another
//! broadcast is on air.

use std::time::Duration;

use media::Timestamp;
use media::latency::TimingReport;
use net::api::{PlaybackInfo, StreamTiming};
use reqwest::{StatusCode, Url, header};
use serde::de::DeserializeOwned;

use super::Error;
use super::http::root_cause;

/// A client for one stream's API.
#[derive(Clone, Debug)]
pub(super) struct ApiClient {
    http: reqwest::Client,
    page: Url,
    name: String,
}

impl ApiClient {
    /// For the stream whose page is `page`.
    ///
    /// # Errors
    /// [`Error::Url`] if the page's path is not a stream's name.
    pub(super) fn new(page: &Url, http: &reqwest::Client) -> Result<Self, Error> {
        let name = page.path().trim_matches('/').to_owned();
        if name.is_empty() || name.contains('/') {
            let reason = format!("name a stream: {}/NAME, or a playlist that ends in .m3u8", address(page));
            return Err(Error::Url { url: page.to_string(), reason });
        }
        Ok(Self { http: http.clone(), page: page.clone(), name })
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
        let path = format!("/api/v1/streams/{}/{what}", self.name);
        let api = self.page.join(&path).unwrap_or_else(|_| self.page.clone());
        let failed = |reason: String, retry| Error::Http { url: api.to_string(), reason, retry };
        let request = self.http.get(api.clone()).timeout(REQUEST_TIMEOUT);
        let mut response = request.send().await.map_err(|error| failed(root_cause(&error), true))?;
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

fn address(page: &Url) -> String {
    format!("{}://{}", page.scheme(), page.authority())
}

/// How long the server may take to answer.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes; a response has under 2 kB.
const MAX_RESPONSE: usize = 64 << 10;
