//! From what the user typed to the paths that lead there.
//!
//! `rtmp://…`, `….m3u8` and `nearcast://…` are one path each. Any other `http(s)://host/NAME` is a stream's page: the server is asked what it
//! offers. What answers with a playlist instead is taken for one.

use std::sync::Arc;

use net::rtmp::Url;
use net::trust::{Code, Pin};
use reqwest::header;

use super::Error;
use super::api_client::{self, ApiClient, Watch};
use super::hls::LowLatency;

/// Which protocols may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum TransportFilter {
    /// The best that there is, and the next if that fails.
    #[default]
    Auto,
    /// The broadcaster on this network alone.
    Peer,
    /// The relay protocol from the server alone.
    Relay,
    /// RTMP alone.
    Rtmp,
    /// HLS by parts, as they are made, alone.
    #[value(name = "ll-hls")]
    LowLatencyHls,
    /// HLS by whole segments alone.
    Hls,
}

impl TransportFilter {
    fn allows(self, protocol: Self) -> bool {
        self == Self::Auto || self == protocol
    }
}

/// A way to the stream.
#[derive(Clone, Debug)]
pub enum Protocol {
    /// The relay protocol from a server.
    Relay {
        /// Host and port.
        address: String,
        /// The stream's name there.
        name: String,
        /// Of the server's certificate.
        pin: Pin,
    },
    /// The relay protocol from a broadcaster whose code is known.
    Paired {
        /// Host and port.
        address: String,
        /// What its screen shows.
        code: Arc<Code>,
    },
    /// RTMP from this URL.
    Rtmp(Url),
    /// HLS from a playlist.
    Hls {
        /// Where.
        url: String,
        /// By what.
        parts: LowLatency,
    },
}

impl Protocol {
    /// `RTMP rtmp://host/live/x`.
    pub fn describe(&self) -> String {
        match self {
            Self::Relay { address, name, .. } => format!("relay {address}/{name}"),
            Self::Paired { address, .. } => format!("LAN {address}"),
            Self::Rtmp(url) => format!("RTMP {}", url.revealed()),
            Self::Hls { url, parts: LowLatency::Require } => format!("LL-HLS {url}"),
            Self::Hls { url, .. } => format!("HLS {url}"),
        }
    }
}

/// The ways to a stream, best first.
#[derive(Clone, Debug)]
pub struct ResolvedPaths {
    /// Those that are known.
    pub paths: Vec<Protocol>,
    /// The server to ask for more: a restarted one has another certificate, and it knows where the broadcaster is.
    pub(super) api: Option<ApiClient>,
    /// Whether the broadcaster itself may be a path.
    pub(super) seeks_peer: bool,
}

impl ResolvedPaths {
    pub(super) fn of(path: Protocol) -> Self {
        Self { paths: vec![path], api: None, seeks_peer: false }
    }
}

/// Finds the ways to what `url` names.
pub async fn resolve(
    url: &str,
    filter: TransportFilter,
    code: Option<&str>,
    http: &reqwest::Client,
) -> Result<ResolvedPaths, Error> {
    let wrong = |reason: &str| Error::Url { url: url.to_owned(), reason: reason.to_owned() };
    let scheme = url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    match scheme.as_deref() {
        Some("nearcast") => paired(&url["nearcast://".len()..], code).map_err(|reason| wrong(&reason)),
        Some("rtmp" | "rtmps") if !filter.allows(TransportFilter::Rtmp) => {
            Err(wrong("an rtmp:// URL is played by RTMP; other ways need a stream's page, http://…"))
        }
        Some("rtmp" | "rtmps") => {
            let parsed = net::rtmp::url::parse(url).map_err(|error| wrong(&error.to_string()))?;
            Ok(ResolvedPaths::of(Protocol::Rtmp(parsed)))
        }
        Some("http" | "https") => {
            let parsed = reqwest::Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
            if is_playlist(parsed.path()) {
                let parts = match filter {
                    TransportFilter::Auto => LowLatency::Prefer,
                    TransportFilter::LowLatencyHls => LowLatency::Require,
                    TransportFilter::Hls => LowLatency::Off,
                    _ => {
                        return Err(wrong(
                            "a playlist is played by HLS; --transport rtmp, relay and peer need a stream's page",
                        ));
                    }
                };
                return Ok(ResolvedPaths::of(Protocol::Hls { url: url.to_owned(), parts }));
            }
            ask(&parsed, filter, http).await
        }
        _ => Err(wrong("the URL must start with http://, https://, rtmp:// or nearcast://")),
    }
}

async fn ask(page: &reqwest::Url, filter: TransportFilter, http: &reqwest::Client) -> Result<ResolvedPaths, Error> {
    let api = ApiClient::new(page, http)?;
    let failed = |reason: &str, retry| Error::Http { url: page.to_string(), reason: reason.to_owned(), retry };
    let Some(watch) = api.watch().await? else {
        let is_hls = http.get(page.clone()).timeout(api_client::REQUEST_TIMEOUT).send().await.is_ok_and(|r| {
            let playlist = ["application/vnd.apple.mpegurl", "application/x-mpegurl", "audio/mpegurl"];
            r.status().is_success() && playlist.iter().any(|kind| header_starts(&r, kind))
        });
        if is_hls {
            return Ok(ResolvedPaths::of(Protocol::Hls { url: page.to_string(), parts: LowLatency::Prefer }));
        }
        return Err(failed("this is not a Nearcast server. Give an rtmp:// URL or one that ends in .m3u8", false));
    };
    let mut paths = Vec::new();
    paths.extend(relay(&watch, api.name()).filter(|_| filter.allows(TransportFilter::Relay)));
    let rtmp = watch
        .urls
        .rtmp
        .and_then(|url| net::rtmp::url::parse(&url).ok())
        .filter(|_| filter.allows(TransportFilter::Rtmp));
    paths.extend(rtmp.map(Protocol::Rtmp));
    if let Some(url) = watch.urls.hls {
        let has_parts = watch.hls.is_some_and(|hls| hls.low_latency);
        if has_parts && filter.allows(TransportFilter::LowLatencyHls) {
            paths.push(Protocol::Hls { url: url.clone(), parts: LowLatency::Require });
        }
        if filter.allows(TransportFilter::Hls) {
            paths.push(Protocol::Hls { url, parts: LowLatency::Off });
        }
    }
    let seeks_peer = filter.allows(TransportFilter::Peer);
    if paths.is_empty() && !seeks_peer {
        return Err(failed("the server offers nothing that may be used here", false));
    }
    Ok(ResolvedPaths { paths, api: Some(api), seeks_peer })
}

/// The relay protocol from the server, as it says of itself.
pub(super) fn relay(watch: &Watch, name: &str) -> Option<Protocol> {
    let relay = watch.relay.as_ref()?;
    let address = format!("{}:{}", relay.host, relay.port);
    Some(Protocol::Relay { address, name: name.to_owned(), pin: relay.pin.parse().ok()? })
}

/// `nearcast://HOST:PORT`, or several with commas between, with the code after `#` or apart.
fn paired(rest: &str, code: Option<&str>) -> Result<ResolvedPaths, String> {
    let (address, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let code = Some(fragment).filter(|code| !code.is_empty()).or(code);
    let code =
        code.ok_or("give the code that the broadcaster shows: --pairing-code CODE, or #CODE after the address")?;
    let code: Code = code.parse().map_err(|error: net::trust::Error| error.to_string())?;
    let address = address.trim_end_matches('/');
    let addresses: Vec<String> = address.split(',').map(str::to_owned).collect();
    let has_port = |address: &String| address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if !addresses.iter().all(has_port) {
        return Err("give the port too: nearcast://HOST:PORT".to_owned());
    }
    // Whose code it is, nobody knows: those that do not know it refuse.
    let code = Arc::new(code);
    let paths = addresses.into_iter().map(|address| Protocol::Paired { address, code: code.clone() }).collect();
    Ok(ResolvedPaths { paths, api: None, seeks_peer: false })
}

fn is_playlist(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    path.ends_with(".m3u8") || path.ends_with(".m3u")
}

fn header_starts(response: &reqwest::Response, kind: &str) -> bool {
    let value = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    value.to_ascii_lowercase().starts_with(kind)
}

/// The innermost reason: the outer ones repeat the URL.
pub(super) fn plain(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    if error.is_timeout() { "no answer in time".to_owned() } else { inner.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_typed() {
        let http = reqwest::Client::new();
        for (url, filter, wanted) in [
            ("rtmp://h/live/x", TransportFilter::Auto, Ok("RTMP rtmp://h/live/x")),
            ("RTMP://h:1936/live/x", TransportFilter::Rtmp, Ok("RTMP rtmp://h:1936/live/x")),
            ("https://h/a/b.M3U8?x=y", TransportFilter::Auto, Ok("HLS https://h/a/b.M3U8?x=y")),
            ("https://h/a.m3u8", TransportFilter::LowLatencyHls, Ok("LL-HLS https://h/a.m3u8")),
            ("https://h/a.m3u8", TransportFilter::Hls, Ok("HLS https://h/a.m3u8")),
            ("rtmp://h/live/x", TransportFilter::Hls, Err("stream's page")),
            ("rtmp://h/live/x", TransportFilter::Peer, Err("stream's page")),
            ("nearcast://192.0.2.1:4444#0123-4567-89AB-CDEF", TransportFilter::Auto, Ok("LAN 192.0.2.1:4444")),
            ("nearcast://192.0.2.1:4444", TransportFilter::Auto, Err("code")),
            ("nearcast://192.0.2.1#0123-4567-89AB-CDEF", TransportFilter::Auto, Err("port")),
            ("nearcast://192.0.2.1:1#U", TransportFilter::Auto, Err("code")),
            ("http://h/a.m3u8", TransportFilter::Rtmp, Err("--transport rtmp")),
            ("http://h/a.m3u8", TransportFilter::Relay, Err("relay")),
            ("rtmp://h/x", TransportFilter::Auto, Err("rtmp://HOST/APP/NAME")),
            ("h/x", TransportFilter::Auto, Err("must start with")),
            ("ftp://h/x", TransportFilter::Auto, Err("must start with")),
            ("http://h/", TransportFilter::Auto, Err("name a stream")),
            ("http://h/a/b", TransportFilter::Auto, Err("name a stream")),
        ] {
            match (resolve(url, filter, None, &http).await, wanted) {
                (Ok(plan), Ok(wanted)) => assert_eq!(plan.paths[0].describe(), wanted, "{url}"),
                (Err(error), Err(wanted)) => {
                    assert!(error.to_string().contains(wanted) && !error.retry(), "{url}: {error}")
                }
                (got, _) => panic!("{url}: {got:?}"),
            }
        }
    }
}
