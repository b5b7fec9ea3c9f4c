//! From what the user typed to the paths that lead there.
//!
//! `rtmp://…` and `….m3u8` are one path each. Any other `http(s)://host/NAME` is a stream's page: the server is asked what it
//! offers. What answers with a playlist instead is taken for one.

use std::time::Duration;

use net::rtmp::Url;
use reqwest::{StatusCode, header};
use serde::Deserialize;

use super::Error;

/// Which protocols may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Via {
    /// The best that the server offers, and the next if that fails.
    #[default]
    Auto,
    /// RTMP alone.
    Rtmp,
    /// HLS alone.
    Hls,
}

/// A way to the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RTMP from this URL.
    Rtmp(Url),
    /// HLS from this playlist.
    Hls(String),
}

impl Protocol {
    /// `RTMP rtmp://host/live/x`.
    pub fn describe(&self) -> String {
        match self {
            Self::Rtmp(url) => format!("RTMP {}", url.revealed()),
            Self::Hls(url) => format!("HLS {url}"),
        }
    }
}

/// The ways to a stream, best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// At least one.
    pub paths: Vec<Protocol>,
}

/// The part of `/api/v1/streams/NAME` that is of use here.
#[derive(Debug, Deserialize)]
struct StreamInfo {
    urls: Urls,
}

#[derive(Debug, Deserialize)]
struct Urls {
    hls: Option<String>,
    rtmp: Option<String>,
}

/// Finds the ways to what `url` names.
pub async fn resolve(url: &str, via: Via, http: &reqwest::Client) -> Result<Plan, Error> {
    let wrong = |reason: &str| Error::Url { url: url.to_owned(), reason: reason.to_owned() };
    let scheme = url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    match scheme.as_deref() {
        Some("rtmp" | "rtmps") if via == Via::Hls => Err(wrong("--via hls needs an http:// URL")),
        Some("rtmp" | "rtmps") => {
            let parsed = net::rtmp::url::parse(url).map_err(|error| wrong(&error.to_string()))?;
            Ok(Plan { paths: vec![Protocol::Rtmp(parsed)] })
        }
        Some("http" | "https") => {
            let parsed = reqwest::Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
            if is_playlist(parsed.path()) {
                return match via {
                    Via::Rtmp => Err(wrong("--via rtmp needs an rtmp:// URL, or a stream's page")),
                    _ => Ok(Plan { paths: vec![Protocol::Hls(url.to_owned())] }),
                };
            }
            ask(&parsed, via, http).await
        }
        _ => Err(wrong("the URL must start with rtmp://, http:// or https://")),
    }
}

async fn ask(page: &reqwest::Url, via: Via, http: &reqwest::Client) -> Result<Plan, Error> {
    let name = page.path().trim_matches('/');
    let address = format!("{}://{}", page.scheme(), page.authority());
    if name.is_empty() || name.contains('/') {
        let reason = format!("name a stream: {address}/NAME, or a playlist that ends in .m3u8");
        return Err(Error::Url { url: page.to_string(), reason });
    }
    let api = page.join(&format!("/api/v1/streams/{name}")).unwrap_or_else(|_| page.clone());
    let failed = |reason: String, retry| Error::Http { url: api.to_string(), reason, retry };
    let response = http.get(api.clone()).timeout(ASK).send().await.map_err(|error| failed(plain(&error), true))?;
    let status = response.status();
    let is_json = header_starts(&response, "application/json");
    if status == StatusCode::NOT_FOUND && is_json {
        return Err(Error::UnknownStream { address, name: name.to_owned() });
    }
    if !status.is_success() || !is_json {
        let is_hls = http.get(page.clone()).timeout(ASK).send().await.is_ok_and(|r| {
            let playlist = ["application/vnd.apple.mpegurl", "application/x-mpegurl", "audio/mpegurl"];
            r.status().is_success() && playlist.iter().any(|kind| header_starts(&r, kind))
        });
        if is_hls {
            return Ok(Plan { paths: vec![Protocol::Hls(page.to_string())] });
        }
        let reason = format!("{status}; this is not a Nearcast server. Give an rtmp:// URL or one that ends in .m3u8");
        return Err(failed(reason, status.is_server_error()));
    }
    let mut response = response;
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await.map_err(|error| failed(plain(&error), true))? {
        body.extend_from_slice(&bytes);
        if body.len() > MAX_ANSWER {
            return Err(failed(format!("the answer is longer than {MAX_ANSWER} bytes"), false));
        }
    }
    let info: StreamInfo = serde_json::from_slice(&body).map_err(|error| failed(error.to_string(), false))?;
    let rtmp = info.urls.rtmp.and_then(|url| net::rtmp::url::parse(&url).ok()).filter(|_| via != Via::Hls);
    let hls = info.urls.hls.filter(|_| via != Via::Rtmp);
    let paths: Vec<_> = rtmp.map(Protocol::Rtmp).into_iter().chain(hls.map(Protocol::Hls)).collect();
    if paths.is_empty() {
        return Err(failed("the server offers nothing that may be used here".to_owned(), false));
    }
    Ok(Plan { paths })
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

/// How long a server may take to say what it offers.
const ASK: Duration = Duration::from_secs(10);
/// A stream with sixteen tracks is described in 4 kB.
const MAX_ANSWER: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_typed() {
        let http = reqwest::Client::new();
        for (url, via, wanted) in [
            ("rtmp://h/live/x", Via::Auto, Ok("RTMP rtmp://h/live/x")),
            ("RTMP://h:1936/live/x", Via::Rtmp, Ok("RTMP rtmp://h:1936/live/x")),
            ("https://h/a/b.M3U8?x=y", Via::Auto, Ok("HLS https://h/a/b.M3U8?x=y")),
            ("rtmp://h/live/x", Via::Hls, Err("--via hls")),
            ("http://h/a.m3u8", Via::Rtmp, Err("--via rtmp")),
            ("rtmp://h/x", Via::Auto, Err("rtmp://HOST/APP/NAME")),
            ("h/x", Via::Auto, Err("must start with")),
            ("ftp://h/x", Via::Auto, Err("must start with")),
            ("http://h/", Via::Auto, Err("name a stream")),
            ("http://h/a/b", Via::Auto, Err("name a stream")),
        ] {
            match (resolve(url, via, &http).await, wanted) {
                (Ok(plan), Ok(wanted)) => assert_eq!(plan.paths[0].describe(), wanted, "{url}"),
                (Err(error), Err(wanted)) => {
                    assert!(error.to_string().contains(wanted) && !error.retry(), "{url}: {error}")
                }
                (got, _) => panic!("{url}: {got:?}"),
            }
        }
    }
}
