//! `/metrics`, in the text format of Prometheus 0.0.4.
//!
//! A request for an unknown host name is refused: a web page can point a name of its own at this address (DNS rebinding), and its scripts
//! would then read the metrics in the browser of somebody who can reach them.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use axum::http::{Response, StatusCode};
use axum::routing::get;

use super::reply;
use crate::metrics::Metrics;

#[derive(Debug)]
struct Source {
    metrics: Arc<Metrics>,
    hosts: Vec<String>,
}

/// `/metrics` for requests to an address, to `localhost` or to one of `hosts`.
pub(super) fn router(metrics: Arc<Metrics>, hosts: Vec<String>) -> Router {
    Router::new().route("/metrics", get(metrics_text)).with_state(Arc::new(Source { metrics, hosts }))
}

/// `GET /metrics`: all metrics in the Prometheus text format 0.0.4.
async fn metrics_text(State(source): State<Arc<Source>>, headers: HeaderMap) -> Response<Body> {
    if !headers.get(HOST).is_none_or(|host| host.to_str().is_ok_and(|host| is_known(host, &source.hosts))) {
        let why = "This host name is unknown here. Ask for the address, or add the name to metrics.hosts.";
        return reply::text(StatusCode::MISDIRECTED_REQUEST, why);
    }
    let mut response = reply::text(StatusCode::OK, source.metrics.render().trim_end());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}

/// Whether the host of `authority` (with a port or without) is an address, `localhost`, or in `hosts`. Browsers always send one.
fn is_known(authority: &str, hosts: &[String]) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_named = |name: &str| !name.is_empty() && host.eq_ignore_ascii_case(name);
    address.parse::<IpAddr>().is_ok() || is_named("localhost") || hosts.iter().any(|name| is_named(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_configured_names_are_known() {
        let hosts = ["Monitor.example".to_owned(), String::new()];
        for (authority, expected) in [
            ("127.0.0.1:9998", true),
            ("192.0.2.1", true),
            ("[::1]:9998", true),
            ("[2001:db8::1]", true),
            ("localhost:9998", true),
            ("LOCALHOST", true),
            ("monitor.example:9998", true),
            ("monitor.example", true),
            ("rebound.example:9998", false),
            ("monitor.example.evil.example", false),
            ("localhost.evil.example", false),
            ("", false),
            (":9998", false),
        ] {
            assert_eq!(is_known(authority, &hosts), expected, "{authority}");
        }
    }
}
