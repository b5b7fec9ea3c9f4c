//! Resolves the user's URL to paths.
//!
//! Each transport in turn is asked whether the URL is its own (`rtmp://…`, `….m3u8`, `nearcast://…`). Any other `http(s)://host/NAME` is a
//! stream's page, whose server lists the transports. If the response is a playlist instead, it is played as one.

use std::sync::Arc;

use reqwest::header;

use super::Error;
use super::api_client::{self, ApiClient};
use super::hls;
use super::http::HttpClient;
use super::path::{PathDescription, PathOptions, ServerOffer, Transport, UrlRequest};
use super::transport::TRANSPORTS;

/// The paths to a stream, best first.
#[derive(Clone, Debug)]
pub(super) struct ResolvedPaths {
    /// The known paths; never empty.
    pub(super) paths: Vec<PathDescription>,
    /// The server's API, if the stream was named by its page: a restarted server has another certificate, and it knows where the broadcaster is.
    pub(super) api: Option<ApiClient>,
}

/// What a URL names.
enum Named {
    /// Paths by the transport that the URL belongs to.
    Paths(Vec<PathDescription>),
    /// A stream's page, whose server lists the transports.
    Page(reqwest::Url),
}

/// Checks the URL as far as that is possible without a connection.
///
/// # Errors
/// [`Error::Url`] if the URL makes no sense or `options` exclude its transport.
pub fn check(url: &str, options: &PathOptions) -> Result<(), Error> {
    read(url, options).map(drop)
}

/// Finds the paths to what `url` names.
///
/// # Errors
/// [`Error::Url`] as [`check`]; [`Error::Http`] and [`Error::UnknownStream`] from the server.
pub(super) async fn resolve(url: &str, options: &PathOptions, http: &HttpClient) -> Result<ResolvedPaths, Error> {
    match read(url, options)? {
        Named::Paths(paths) => Ok(ResolvedPaths { paths, api: None }),
        Named::Page(page) => from_server(&page, options, http).await,
    }
}

fn read(url: &str, options: &PathOptions) -> Result<Named, Error> {
    let wrong = |reason: String| Error::Url { url: url.to_owned(), reason };
    let scheme = url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase()).unwrap_or_default();
    let paths = from_url(url, &scheme, options).map_err(wrong)?;
    if !paths.is_empty() {
        return Ok(Named::Paths(paths));
    }
    if !matches!(scheme.as_str(), "http" | "https") {
        return Err(wrong("the URL must start with http://, https://, rtmp:// or nearcast://".to_owned()));
    }
    let page = reqwest::Url::parse(url).map_err(|error| wrong(error.to_string()))?;
    api_client::stream_name(&page)?;
    Ok(Named::Page(page))
}

/// The paths of a URL that belongs to a transport; empty if it belongs to none.
fn from_url(url: &str, scheme: &str, options: &PathOptions) -> Result<Vec<PathDescription>, String> {
    let pairing_code = options.pairing_code.as_deref();
    let paths_by = |transport: &'static Transport, is_chosen| {
        let sources = (transport.from_url)(&UrlRequest { url, scheme, pairing_code, is_chosen })?;
        let describe = |source| PathDescription { transport, source };
        Some(sources.map(|sources| sources.into_iter().map(describe).collect::<Vec<_>>()))
    };
    let mut paths = Vec::new();
    for transport in TRANSPORTS.into_iter().filter(|transport| options.transport.allows(transport)) {
        paths.extend(paths_by(transport, options.transport.names(transport)).transpose()?.unwrap_or_default());
    }
    let owner = TRANSPORTS.into_iter().find(|transport| paths_by(transport, false).is_some());
    match (owner, options.transport.0) {
        (Some(owner), Some(chosen)) if paths.is_empty() => Err(format!(
            "this URL is played by {}; --transport {} needs a stream's page, http://HOST/NAME",
            owner.label, chosen.name
        )),
        _ => Ok(paths),
    }
}

/// The paths that the server of a stream's page offers.
async fn from_server(page: &reqwest::Url, options: &PathOptions, http: &HttpClient) -> Result<ResolvedPaths, Error> {
    let api = ApiClient::new(page, http)?;
    let failed = |reason: &str, retry| Error::Http { url: page.to_string(), reason: reason.to_owned(), retry };
    let Some(info) = api.playback_info().await? else {
        let is_playlist = http.get(page.as_str())?.timeout(api_client::REQUEST_TIMEOUT).send().await.is_ok_and(|r| {
            let types = ["application/vnd.apple.mpegurl", "application/x-mpegurl", "audio/mpegurl"];
            r.status().is_success() && types.iter().any(|kind| is_of_type(&r, kind))
        });
        if is_playlist {
            let source = Arc::new(hls::HlsSource::new(page.as_str(), hls::LowLatency::Prefer));
            return Ok(ResolvedPaths { paths: vec![PathDescription { transport: &hls::SEGMENTS, source }], api: None });
        }
        return Err(failed("this is not a Nearcast server. Give an rtmp:// URL or one that ends in .m3u8", false));
    };
    let offered = |transport: &'static Transport| {
        let is_chosen = options.transport.names(transport);
        let offer = ServerOffer { info: &info, api: &api, peer_addresses: &options.peer_addresses, is_chosen };
        (transport.from_server)(&offer).map(|source| PathDescription { transport, source })
    };
    let allowed = TRANSPORTS.into_iter().filter(|transport| options.transport.allows(transport));
    let paths: Vec<PathDescription> = allowed.filter_map(offered).collect();
    if paths.is_empty() {
        return Err(failed("the server offers nothing that may be used here", false));
    }
    Ok(ResolvedPaths { paths, api: Some(api) })
}

fn is_of_type(response: &reqwest::Response, kind: &str) -> bool {
    let value = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    value.to_ascii_lowercase().starts_with(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_url_is_played_by_its_own_transport() {
        let http = HttpClient::default();
        for (url, transport, wanted) in [
            ("rtmp://h/live/x", "auto", Ok("RTMP rtmp://h/live/x")),
            ("RTMP://h:1936/live/x", "rtmp", Ok("RTMP rtmp://h:1936/live/x")),
            ("https://h/a/b.M3U8?x=y", "auto", Ok("HLS https://h/a/b.M3U8?x=y")),
            ("https://h/a.m3u8", "ll-hls", Ok("LL-HLS https://h/a.m3u8")),
            ("https://h/a.m3u8", "hls", Ok("HLS https://h/a.m3u8")),
            ("rtmp://h/live/x", "hls", Err("stream's page")),
            ("rtmp://h/live/x", "peer", Err("stream's page")),
            ("nearcast://192.0.2.1:4444#0123-4567-89AB-CDEF", "auto", Ok("LAN 192.0.2.1:4444")),
            ("nearcast://192.0.2.1:4444#0123-4567-89AB-CDEF", "rtmp", Err("stream's page")),
            ("nearcast://192.0.2.1:4444", "auto", Err("code")),
            ("nearcast://192.0.2.1#0123-4567-89AB-CDEF", "auto", Err("port")),
            ("nearcast://192.0.2.1:1#U", "auto", Err("code")),
            ("http://h/a.m3u8", "rtmp", Err("--transport rtmp")),
            ("http://h/a.m3u8", "relay", Err("relay")),
            ("rtmp://h/x", "auto", Err("rtmp://HOST/APP/NAME")),
            ("rtmps://h/live/x", "auto", Err("rtmps:// (RTMP over TLS) is not supported")),
            ("h/x", "auto", Err("must start with")),
            ("ftp://h/x", "auto", Err("must start with")),
            ("http://h/", "auto", Err("name a stream")),
        ] {
            let options = PathOptions { transport: transport.parse().unwrap(), ..PathOptions::default() };
            match (resolve(url, &options, &http).await, wanted) {
                (Ok(resolved), Ok(wanted)) => {
                    let names: Vec<_> = resolved.paths.iter().map(PathDescription::name).collect();
                    assert_eq!(names, [wanted], "{url}");
                }
                (Err(error), Err(wanted)) => {
                    assert!(error.to_string().contains(wanted) && !error.retry(), "{url}: {error}");
                    assert!(
                        matches!(check(url, &options), Err(Error::Url { .. })),
                        "{url} is not checked before a window opens"
                    );
                }
                (got, _) => panic!("{url}: {got:?}"),
            }
        }
    }
}
