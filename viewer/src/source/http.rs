//! The HTTP client for all of the viewer's requests, and the text of its errors.

use std::time::Duration;

use net::tls_error;
use reqwest::{RequestBuilder, Url, redirect};

use super::Error;
use super::reach::{PrivateAddress, Reach};

/// An HTTP client that reaches what [`Reach`] permits.
#[derive(Clone, Debug, Default)]
pub(super) struct HttpClient {
    client: reqwest::Client,
    reach: Reach,
}

impl HttpClient {
    /// A request for `url`.
    ///
    /// # Errors
    /// [`Error::Http`] if it is no URL, or one of an address that is not permitted.
    pub(super) fn get(&self, url: &str) -> Result<RequestBuilder, Error> {
        let failed = |reason: String| Error::Http { url: url.to_owned(), reason, retry: false };
        let parsed = Url::parse(url).map_err(|error| failed(error.to_string()))?;
        self.reach.check(&parsed).map_err(|error| failed(error.to_string()))?;
        Ok(self.client.get(parsed))
    }

    /// What it reaches.
    pub(super) fn reach(&self) -> &Reach {
        &self.reach
    }
}

/// A client with deadlines for connecting and for silence within a response.
///
/// # Errors
/// If TLS cannot be set up on this machine.
pub(super) fn client(reach: Reach) -> Result<HttpClient, Error> {
    let of_redirects = reach.clone();
    let redirects = redirect::Policy::custom(move |attempt| {
        if attempt.previous().len() > MAX_REDIRECTS {
            return attempt.error("too many redirects");
        }
        match of_redirects.check(attempt.url()) {
            Ok(()) => attempt.follow(),
            Err(error) => attempt.error(error),
        }
    });
    let client = reqwest::Client::builder()
        .dns_resolver(std::sync::Arc::new(reach.clone()))
        .redirect(redirects)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .user_agent(AGENT)
        .build();
    let client =
        client.map_err(|error| Error::Http { url: "HTTP".to_owned(), reason: root_cause(&error), retry: false });
    Ok(HttpClient { client: client?, reach })
}

/// The innermost error in words, and what to do: the outer ones repeat the URL.
pub(super) fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let cause = innermost(error);
    if let Some(text) = tls_error::explain(cause) {
        return text;
    }
    match cause.downcast_ref::<hyper::Error>() {
        Some(http) if http.is_parse() => {
            format!("what answers at this port is not HTTP; try https:// instead of http://, or another port ({cause})")
        }
        Some(http) if http.is_incomplete_message() => {
            format!("the server closed the connection without an answer; is this the port of HTTP? ({cause})")
        }
        _ => cause.to_string(),
    }
}

/// Whether another attempt may succeed: not at a port that speaks another protocol.
pub(super) fn may_retry(error: &reqwest::Error) -> bool {
    let cause = innermost(error);
    let is_not_http = cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse);
    !error.is_builder() && !cause.is::<PrivateAddress>() && tls_error::explain(cause).is_none() && !is_not_http
}

fn innermost(error: &reqwest::Error) -> &(dyn std::error::Error + 'static) {
    let mut inner: &(dyn std::error::Error + 'static) = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner
}

/// The longest silence within a response.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Redirects that are followed of one request.
const MAX_REDIRECTS: usize = 10;
const AGENT: &str = concat!("nearcast-viewer/", env!("CARGO_PKG_VERSION"));
/// Name resolution, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
