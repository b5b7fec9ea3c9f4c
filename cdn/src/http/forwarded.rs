//! Where a request comes from and what URL its client sees, also through reverse proxies.
//!
//! The `X-Forwarded-…` headers of a proxy count only if the proxy's address is trusted, since any client can send them.

use std::net::IpAddr;

use axum::http::header::{FORWARDED, HOST, HeaderMap, HeaderName};
use ipnet::IpNet;

/// The client's view of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// The client's address; `None` behind a proxy that is not trusted, or that does not state it.
    pub(super) client: Option<IpAddr>,
    /// `http` or `https`.
    pub(super) scheme: &'static str,
    /// Host, with the port if the URL has one.
    pub(super) authority: String,
    /// Path below which the proxy serves this server: empty, or `/stream`, without a slash at the end.
    pub(super) prefix: String,
}

impl Origin {
    /// The origin of a request with `headers` from `peer`, the remote address of its connection.
    pub(super) fn of(headers: &HeaderMap, peer: Option<IpAddr>, trusted: &[IpNet]) -> Self {
        let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(&address));
        let from_proxy = peer.is_some_and(is_trusted);
        // The first of several values is that of the proxy nearest to the client.
        let stated = |name: HeaderName| {
            let value = headers.get(name).filter(|_| from_proxy)?.to_str().ok()?;
            value.split(',').next().map(str::trim)
        };
        let host = || headers.get(HOST).and_then(|value| value.to_str().ok()).filter(|host| is_authority(host));
        let authority = stated(X_FORWARDED_HOST).filter(|host| is_authority(host)).or_else(host);
        Self {
            client: client(headers, peer, is_trusted),
            scheme: match stated(X_FORWARDED_PROTO) {
                Some(scheme) if scheme.eq_ignore_ascii_case("https") => "https",
                _ => "http",
            },
            authority: authority.unwrap_or("localhost").to_owned(),
            prefix: stated(X_FORWARDED_PREFIX).and_then(prefix).unwrap_or_default(),
        }
    }
}

/// The last address of `X-Forwarded-For` that is not a trusted proxy: each proxy appends the address that it sees, and what a client writes stands
/// before.
fn client(headers: &HeaderMap, peer: Option<IpAddr>, is_trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let peer = peer?;
    let is_proxied = [X_FORWARDED_FOR, X_REAL_IP, FORWARDED].iter().any(|name| headers.contains_key(name));
    if !is_proxied {
        return Some(peer);
    }
    if !is_trusted(peer) {
        return None;
    }
    let mut client = None;
    for value in headers.get_all(X_FORWARDED_FOR).into_iter().rev() {
        for address in value.to_str().ok()?.rsplit(',') {
            let address = address.trim().parse::<IpAddr>().ok()?.to_canonical();
            client = Some(address);
            if !is_trusted(address) {
                return client;
            }
        }
    }
    client
}

/// A prefix that may stand in URLs which users copy: segments of unreserved characters (RFC 3986 §2.3).
fn prefix(text: &str) -> Option<String> {
    let path = text.trim_end_matches('/');
    let is_segment = |segment: &str| {
        !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
    };
    let segments = path.strip_prefix('/')?;
    (path.len() <= MAX_PREFIX && segments.split('/').all(is_segment)).then(|| path.to_owned())
}

/// Whether a `Host` header is a valid authority; it becomes part of URLs that users copy.
fn is_authority(host: &str) -> bool {
    let is_fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    !host.is_empty() && host.len() <= MAX_HOST && host.bytes().all(is_fine)
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Not read: proxies that are configured by hand set it, and it shows that the connection is a proxy's.
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Maximum length of an authority: a domain name of maximum length, and a port.
const MAX_HOST: usize = 260;
/// Maximum length of a prefix: more than any path that an operator types.
const MAX_PREFIX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(peer: &str, headers: &[(&'static str, &str)]) -> Origin {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let trusted: Vec<IpNet> =
            ["127.0.0.0/8", "10.1.0.0/16", "::1/128"].iter().map(|n| n.parse().unwrap()).collect();
        Origin::of(&map, peer.parse().ok(), &trusted)
    }

    #[test]
    fn the_client_is_the_last_address_that_is_no_trusted_proxy() {
        for (peer, headers, expected) in [
            ("192.0.2.7", &[][..], Some("192.0.2.7")),
            ("127.0.0.1", &[], Some("127.0.0.1")),
            ("", &[], None),
            ("127.0.0.1", &[("x-forwarded-for", "192.0.2.7")], Some("192.0.2.7")),
            ("::1", &[("x-forwarded-for", "2001:db8::7")], Some("2001:db8::7")),
            // What the client wrote itself stands first.
            ("127.0.0.1", &[("x-forwarded-for", "6.6.6.6, 192.0.2.7")], Some("192.0.2.7")),
            ("127.0.0.1", &[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "192.0.2.7")], Some("192.0.2.7")),
            ("127.0.0.1", &[("x-forwarded-for", "192.0.2.7, 10.1.2.3")], Some("192.0.2.7")),
            ("127.0.0.1", &[("x-forwarded-for", "10.1.9.9, 10.1.2.3")], Some("10.1.9.9")),
            ("127.0.0.1", &[("x-forwarded-for", "::ffff:192.0.2.7")], Some("192.0.2.7")),
            ("127.0.0.1", &[("x-forwarded-for", "unknown")], None),
            ("127.0.0.1", &[("x-real-ip", "192.0.2.7")], None),
            ("127.0.0.1", &[("forwarded", "for=192.0.2.7")], None),
            ("192.0.2.7", &[("x-forwarded-for", "198.51.100.1")], None),
        ] {
            let client = origin(peer, headers).client;
            assert_eq!(client, expected.map(|address| address.parse().unwrap()), "{peer} {headers:?}");
        }
    }

    #[test]
    fn only_a_trusted_proxy_says_what_url_the_client_sees() {
        let forwarded = [
            ("host", "127.0.0.1:8080"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "tv.example"),
            ("x-forwarded-prefix", "/stream/"),
        ];
        let shown = |origin: Origin| format!("{}://{}{}", origin.scheme, origin.authority, origin.prefix);
        assert_eq!(shown(origin("127.0.0.1", &forwarded)), "https://tv.example/stream");
        assert_eq!(shown(origin("192.0.2.7", &forwarded)), "http://127.0.0.1:8080");
        assert_eq!(shown(origin("", &forwarded)), "http://127.0.0.1:8080");
    }

    #[test]
    fn what_cannot_stand_in_a_url_is_ignored() {
        for (text, expected) in [
            ("/stream", "/stream"),
            ("/a/b.c_d~e-1/", "/a/b.c_d~e-1"),
            ("/", ""),
            ("stream", ""),
            ("//evil.example", ""),
            ("/a//b", ""),
            ("/a?b", ""),
            ("/\"><script>", ""),
        ] {
            assert_eq!(origin("127.0.0.1", &[("x-forwarded-prefix", text)]).prefix, expected, "{text}");
        }
        let long = format!("/{}", "a".repeat(MAX_PREFIX));
        assert_eq!(origin("127.0.0.1", &[("x-forwarded-prefix", &long)]).prefix, "");
        for (host, expected) in [("h:1", "h:1"), ("[::1]:80", "[::1]:80"), ("a/b", "localhost"), ("", "localhost")] {
            assert_eq!(origin("192.0.2.7", &[("host", host)]).authority, expected);
        }
    }
}
