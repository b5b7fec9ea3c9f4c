//! Parses `rtmp://host[:port]/app[/more]/name[?query]`, and shows it without its secret.
//!
//! The last path segment is the name; the segments before it are the app. For a publisher the name is the stream key, so `Display` and
//! `Debug` never show it.

use std::fmt;

/// A parsed RTMP URL.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    /// Host name or address, IPv6 without brackets.
    pub host: String,
    /// TCP port; by default 1935.
    pub port: u16,
    /// The application, possibly with slashes.
    pub app: String,
    /// Play name or stream key, with its query if it has one.
    pub name: String,
}

/// Why a URL cannot be used. Never shows the URL, which contains a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The scheme is not `rtmp`.
    #[error("the URL must start with rtmp://")]
    Scheme,
    /// The host is missing or malformed.
    #[error("the URL has no valid host")]
    Host,
    /// The port is not a number from 1 to 65535.
    #[error("the URL's port is not a number from 1 to 65535")]
    Port,
    /// The path has fewer than two segments.
    #[error("the URL must be rtmp://HOST/APP/NAME: the stream's name or key is missing")]
    Name,
    /// The scheme is `rtmps`, which is not implemented.
    #[error(
        "rtmps:// (RTMP over TLS) is not supported; use rtmp://, which is not encrypted, within a network or VPN that you trust"
    )]
    Tls,
    /// The URL is longer than [`MAX_URL`].
    #[error("the URL is longer than {MAX_URL} bytes")]
    Length,
}

/// Parses an RTMP URL of at most [`MAX_URL`] bytes; a missing port gets the default of its scheme.
///
/// # Errors
/// If the text is no RTMP URL with an application and a name.
pub fn parse(text: &str) -> Result<Url, Error> {
    if text.len() > MAX_URL {
        return Err(Error::Length);
    }
    let (scheme, rest) = text.trim().split_once("://").ok_or(Error::Scheme)?;
    match scheme.to_ascii_lowercase().as_str() {
        "rtmp" => {}
        "rtmps" => return Err(Error::Tls),
        _ => return Err(Error::Scheme),
    }
    let (authority, path) = rest.split_once('/').ok_or(Error::Name)?;
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (host, after) = v6.split_once(']').ok_or(Error::Host)?;
            (host, if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or(Error::Host)?) })
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && c != '@';
    if host.is_empty() || !host.chars().all(plain) {
        return Err(Error::Host);
    }
    let port = match port {
        None => 1935,
        Some(text) => text.parse::<u16>().ok().filter(|p| *p != 0).ok_or(Error::Port)?,
    };
    // The path ends at the first question mark: a key's query may contain slashes.
    let (plain_path, query) = path.split_once('?').map_or((path, None), |(p, q)| (p, Some(q)));
    let (app, name) = plain_path.trim_start_matches('/').rsplit_once('/').ok_or(Error::Name)?;
    let app = app.trim_end_matches('/');
    if app.is_empty() || name.is_empty() {
        return Err(Error::Name);
    }
    let name = query.map_or_else(|| name.to_owned(), |q| format!("{name}?{q}"));
    Ok(Url { host: host.to_owned(), port, app: app.to_owned(), name })
}

impl Url {
    /// The `tcUrl` of `connect`: the URL up to the app.
    pub fn tc_url(&self) -> String {
        format!("rtmp://{}/{}", self.authority(), self.app)
    }

    /// The URL with its name. For players only, whose name is public: it would show a publisher's key.
    pub fn revealed(&self) -> String {
        format!("{}/{}", self.tc_url(), self.name)
    }

    fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == 1935 { host } else { format!("{host}:{}", self.port) }
    }
}

/// Redacts the name: `rtmp://host/live/***`.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/***", self.tc_url())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({self})")
    }
}

/// Splits `name?key=value&key` into the name and its query. At most [`MAX_QUERY`] pairs are kept; `%XX` and `+` are decoded.
pub fn split_query(name: &str) -> (String, Vec<(String, String)>) {
    let Some((name, query)) = name.split_once('?') else { return (name.to_owned(), Vec::new()) };
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).take(MAX_QUERY).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key), decode(value))
    });
    (name.to_owned(), pairs.collect())
}

/// The part of an app that logs may show: its first segment. The rest may contain a key that the operator put into the server URL.
pub fn shown_app(app: &str) -> &str {
    app.split('/').next().unwrap_or_default()
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = |i: usize| bytes.get(i).and_then(|b| (*b as char).to_digit(16));
        match (byte, hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
                continue;
            }
            (b'+', ..) => out.push(b' '),
            _ => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Bounds a URL in bytes: longer ones are mistakes.
pub const MAX_URL: usize = 4096;
/// Bounds the pairs of a query: real ones have a few.
pub const MAX_QUERY: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_parsed() {
        let url = |host: &str, port, app: &str, name: &str| {
            Ok(Url { host: host.into(), port, app: app.into(), name: name.into() })
        };
        for (text, expected) in [
            ("rtmp://h/live/key", url("h", 1935, "live", "key")),
            ("RTMP://h:1/live/key?a=b/c", url("h", 1, "live", "key?a=b/c")),
            ("rtmp://h//a/b/c/key", url("h", 1935, "a/b/c", "key")),
            ("rtmps://h/app//key", Err(Error::Tls)),
            ("rtmp://[::1]:7/a/k", url("::1", 7, "a", "k")),
            ("rtmp://[::1]/a/k", url("::1", 1935, "a", "k")),
            ("http://h/a/k", Err(Error::Scheme)),
            ("h/a/k", Err(Error::Scheme)),
            ("rtmp://h", Err(Error::Name)),
            ("rtmp://h/a", Err(Error::Name)),
            ("rtmp://h/a/", Err(Error::Name)),
            ("rtmp:///a/k", Err(Error::Host)),
            ("rtmp://[::1/a/k", Err(Error::Host)),
            ("rtmp://[::1]x/a/k", Err(Error::Host)),
            ("rtmp://a b/a/k", Err(Error::Host)),
            ("rtmp://h:0/a/k", Err(Error::Port)),
            ("rtmp://h:65536/a/k", Err(Error::Port)),
            ("rtmp://h:x/a/k", Err(Error::Port)),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
        assert_eq!(parse(&format!("rtmp://h/a/{}", "k".repeat(MAX_URL))), Err(Error::Length));
    }

    #[test]
    fn display_and_debug_do_not_show_the_key() {
        let url = parse("rtmp://host:1936/live/sekrit?pass=sekrit").unwrap();
        assert_eq!(url.to_string(), "rtmp://host:1936/live/***");
        assert!(!format!("{url:?} {url:#?} {url}").contains("sekrit"));
        assert_eq!(url.revealed(), "rtmp://host:1936/live/sekrit?pass=sekrit");
        assert_eq!(parse("rtmp://[::1]/live/k").unwrap().tc_url(), "rtmp://[::1]/live");
    }

    #[test]
    fn queries() {
        let pairs = |p: &[(&str, &str)]| p.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>();
        for (text, name, query) in [
            ("live", "live", pairs(&[])),
            ("live?", "live", pairs(&[])),
            ("live?a=1&&b&c=%41+%zz%", "live", pairs(&[("a", "1"), ("b", ""), ("c", "A %zz%")])),
            ("?a=b?c", "", pairs(&[("a", "b?c")])),
        ] {
            assert_eq!(split_query(text), (name.to_owned(), query), "{text}");
        }
        assert_eq!(split_query(&format!("n?{}", "a&".repeat(999))).1.len(), MAX_QUERY);
    }
}
