//! Who sent a request, and at which URL: of the connection, or as a trusted proxy in front of the server reports it.
//!
//! Only proxies that the operator trusts are believed: anyone can send these headers. `X-Forwarded-For` lists the addresses that a request came
//! from, each proxy appending the one that it saw, so that only the entries appended by trusted proxies are true.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::HeaderMap;
use axum::http::request::Parts;
use ipnet::IpNet;

use super::shared::{Peer, Shared};

/// The sender of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Client {
    /// Its address; `None` if it is unknown, as behind a proxy that is not trusted.
    pub(super) address: Option<IpAddr>,
    /// The scheme of the URL that it used.
    pub(super) scheme: &'static str,
    /// The path under which a proxy offers this server: empty, or begins with a slash and does not end with one.
    pub(super) prefix: String,
}

impl Client {
    fn new(peer: Option<IpAddr>, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(&address.to_canonical()));
        let direct = |address| Self { address, scheme: "http", prefix: String::new() };
        if !peer.as_ref().is_some_and(is_trusted) {
            let is_proxied = FOR_HEADERS.iter().any(|name| headers.contains_key(*name));
            return direct(peer.filter(|_| !is_proxied));
        }
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
        let hops: Vec<&str> =
            headers.get_all(X_FORWARDED_FOR).iter().flat_map(|v| v.to_str().unwrap_or("?").split(',')).collect();
        let mut address = peer;
        // The last hop that is not a trusted proxy; what is before it, the client can have written itself.
        for hop in hops.into_iter().rev() {
            address = hop.trim().parse().ok();
            if !address.as_ref().is_some_and(is_trusted) {
                break;
            }
        }
        let is_https = text("x-forwarded-proto").is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
        let prefix =
            text("x-forwarded-prefix").map(|prefix| prefix.trim_end_matches('/')).filter(|prefix| is_prefix(prefix));
        Self {
            scheme: if is_https { "https" } else { "http" },
            prefix: prefix.unwrap_or_default().to_owned(),
            ..direct(address)
        }
    }
}

impl FromRequestParts<Arc<Shared>> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Infallible> {
        let peer = parts.extensions.get::<Peer>().map(|Peer(address)| address.ip());
        Ok(Self::new(peer, &parts.headers, &shared.settings.trusted_proxies))
    }
}

/// Parses an address or a network in CIDR notation: `192.0.2.1`, `2001:db8::/32`.
pub(crate) fn parse_network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// Whether a prefix may become part of URLs that users copy.
fn is_prefix(prefix: &str) -> bool {
    let is_fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'~' | b'/');
    prefix.starts_with('/') && !prefix.starts_with("//") && prefix.len() <= MAX_PREFIX && prefix.bytes().all(is_fine)
}

const X_FORWARDED_FOR: &str = "x-forwarded-for";
/// Headers that show a proxy.
const FOR_HEADERS: [&str; 3] = [X_FORWARDED_FOR, "x-real-ip", "forwarded"];
/// Maximum length of a prefix in bytes.
const MAX_PREFIX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, headers: &[(&'static str, &'static str)]) -> Client {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let trusted = ["127.0.0.0/8", "10.1.0.0/16", "2001:db8::7"].map(|network| parse_network(network).unwrap());
        Client::new(Some(peer.parse().unwrap()), &map, &trusted)
    }

    #[test]
    fn the_client_is_the_last_hop_that_is_no_trusted_proxy() {
        for (peer, hops, expected) in [
            ("192.0.2.1", &[][..], Some("192.0.2.1")),
            ("127.0.0.1", &[], Some("127.0.0.1")),
            ("127.0.0.1", &["198.51.100.1"], Some("198.51.100.1")),
            ("::ffff:127.0.0.1", &["198.51.100.1"], Some("198.51.100.1")),
            // What the client wrote itself stands before what the proxy saw.
            ("127.0.0.1", &["203.0.113.9, 198.51.100.1"], Some("198.51.100.1")),
            ("127.0.0.1", &["203.0.113.9", "198.51.100.1"], Some("198.51.100.1")),
            ("127.0.0.1", &["198.51.100.1, 10.1.2.3"], Some("198.51.100.1")),
            ("2001:db8::7", &["198.51.100.1, 10.2.2.3"], Some("10.2.2.3")),
            ("127.0.0.1", &["10.1.2.3, 10.1.2.4"], Some("10.1.2.3")),
            ("127.0.0.1", &["198.51.100.1, unknown"], None),
            ("127.0.0.1", &[""], None),
            // Whoever is not trusted proves only that it is a proxy.
            ("192.0.2.1", &["198.51.100.1"], None),
        ] {
            let headers: Vec<_> = hops.iter().map(|hops| (X_FORWARDED_FOR, *hops)).collect();
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(client(peer, &headers).address, expected, "{peer} {hops:?}");
        }
        for header in ["x-real-ip", "forwarded"] {
            assert_eq!(client("192.0.2.1", &[(header, "198.51.100.1")]).address, None);
        }
    }

    #[test]
    fn scheme_and_prefix_are_those_of_a_trusted_proxy() {
        for (peer, prefix, expected) in [
            ("127.0.0.1", "/stream/", ("https", "/stream")),
            ("127.0.0.1", "/a/b-c_d.e~f", ("https", "/a/b-c_d.e~f")),
            ("127.0.0.1", "/", ("https", "")),
            ("127.0.0.1", "stream", ("https", "")),
            ("127.0.0.1", "//evil.example", ("https", "")),
            ("127.0.0.1", "/a\"><script>", ("https", "")),
            ("192.0.2.1", "/stream", ("http", "")),
        ] {
            let headers = [("x-forwarded-proto", "HTTPS"), ("x-forwarded-prefix", prefix)];
            let Client { scheme, prefix: got, .. } = client(peer, &headers);
            assert_eq!((scheme, got.as_str()), expected, "{peer} {prefix}");
        }
        assert_eq!(client("127.0.0.1", &[("x-forwarded-proto", "ftp")]).scheme, "http");
    }

    #[test]
    fn networks_are_addresses_or_cidr() {
        for (text, is_network) in [
            ("192.0.2.1", true),
            ("10.0.0.0/8", true),
            ("::1", true),
            ("fd00::/8", true),
            ("10.0.0.0/33", false),
            ("proxy", false),
            ("", false),
        ] {
            assert_eq!(parse_network(text).is_some(), is_network, "{text}");
        }
    }
}
