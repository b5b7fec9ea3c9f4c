//! HTTP requests with small, bounded answers.

use std::io;

use reqwest::{Client, Url, header};
use serde::de::DeserializeOwned;

use super::probe::{PROBE_TIMEOUT, ProbeError};
use crate::tls_error;

/// An HTTP response.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    is_json: bool,
}

impl Answer {
    /// The body as `T`, if it is JSON by its content type: a Nearcast server answers in JSON, errors included.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Option<T> {
        self.is_json.then(|| serde_json::from_slice(&self.body).ok()).flatten()
    }
}

/// One client for all requests, so that they share a connection.
pub(super) fn client() -> Result<Client, ProbeError> {
    Client::builder().timeout(PROBE_TIMEOUT).build().map_err(|error| trouble(&error))
}

/// Sends one request.
pub(super) async fn get(client: &Client, url: Url) -> Result<Answer, ProbeError> {
    let mut response = client.get(url).send().await.map_err(|error| trouble(&error))?;
    let status = response.status().as_u16();
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let is_json = kind.to_ascii_lowercase().starts_with("application/json");
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await.map_err(|error| trouble(&error))? {
        body.extend_from_slice(&bytes);
        if body.len() > MAX_ANSWER {
            return Err(ProbeError::Other(format!("the response is longer than {MAX_ANSWER} bytes")));
        }
    }
    Ok(Answer { status, body, is_json })
}

/// The innermost error: outer ones repeat the URL.
fn trouble(error: &reqwest::Error) -> ProbeError {
    if error.is_timeout() {
        return ProbeError::Silent;
    }
    let mut inner: &(dyn std::error::Error + 'static) = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    if let Some(text) = tls_error::explain(inner) {
        return ProbeError::Other(text);
    }
    inner.downcast_ref::<io::Error>().map_or_else(|| ProbeError::Other(inner.to_string()), ProbeError::of)
}

/// Bounds a response in bytes: a stream's description has about 2 kB, and a server has a few hundred at most.
const MAX_ANSWER: usize = 1 << 20;
