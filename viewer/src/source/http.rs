//! The HTTP client for all of the viewer's requests, and the text of its errors.

use std::time::Duration;

use super::Error;

/// A client with deadlines for connecting and for silence within a response.
///
/// # Errors
/// If TLS cannot be set up on this machine.
pub(super) fn client() -> Result<reqwest::Client, Error> {
    let client = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .user_agent(AGENT)
        .build();
    client.map_err(|error| Error::Http { url: "HTTP".to_owned(), reason: root_cause(&error), retry: false })
}

/// The innermost error in words: the outer ones repeat the URL.
pub(super) fn root_cause(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    if error.is_timeout() { "no answer in time".to_owned() } else { inner.to_string() }
}

/// The longest silence within a response.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(10);
const AGENT: &str = concat!("nearcast-viewer/", env!("CARGO_PKG_VERSION"));
/// Name resolution, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
