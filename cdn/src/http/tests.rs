//! The HTTP server in memory, from access units in the hub to status lines and headers; and its limits, over loopback.

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use media::codec::{Codec, CodecConfig};
use media::live_window::Bounds;
use media::{AccessUnit, Catalog, Epoch, Timestamp, Track, TrackId, WallClock};
use net::connection_limit::ConnectionLimiter;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::shared::Peer;
use super::{HttpServer, HttpSettings, Limits, LiveSettings};
use crate::egress::hls::{self, Hls};
use crate::hub::{self, Hub, PublishGuard, PublisherInfo};
use crate::metrics::{self, Metrics};

mod low_latency;
mod timing;

const PEER: &str = "203.0.113.77:50123";

struct Fixture {
    hub: Arc<Hub>,
    hls: Arc<Hls>,
    server: HttpServer,
    stop: CancellationToken,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Fixture {
    /// Its requests come from a trusted proxy.
    fn new() -> Self {
        let trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
        let live = LiveSettings { trusted_proxies, ..LiveSettings::default() };
        let settings = HttpSettings { live: Arc::new(parking_lot::RwLock::new(live)), ..HttpSettings::default() };
        Self::with(settings, hls::HlsSettings::default())
    }

    fn with(settings: HttpSettings, hls: hls::HlsSettings) -> Self {
        Self::with_grace(settings, hls, Duration::from_secs(10))
    }

    fn with_grace(settings: HttpSettings, hls: hls::HlsSettings, grace: Duration) -> Self {
        let window = Bounds { duration: Duration::from_secs(30), bytes: 1 << 20 };
        let hub = Hub::new(hub::HubSettings { window, grace, grace_after_unpublish: grace });
        let hls = Hls::new(hub.clone(), hls);
        let server = HttpServer::new(hub.clone(), hls.clone(), settings);
        let stop = CancellationToken::new();
        tokio::spawn(hls.clone().run(stop.clone()));
        Self { hub, hls, server, stop }
    }

    fn publish(&self) -> PublishGuard {
        self.hub.open("live").publish(PublisherInfo {
            peer: PEER.to_owned(),
            protocol: "rtmp",
            ..PublisherInfo::default()
        })
    }

    async fn ask(&self, mut request: Request<Body>) -> Reply {
        request.extensions_mut().insert(Peer(std::net::SocketAddr::from(([127, 0, 0, 1], 1))));
        let response: Response<Body> = self.server.router().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        Reply { status: parts.status, headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    async fn fetch(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.method(Method::GET, path, headers).await
    }

    async fn method(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Reply {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.ask(request.body(Body::empty()).unwrap()).await
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Reply {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

fn catalog(epoch: u64) -> Arc<Catalog> {
    let mut catalog = Catalog::new(Epoch(epoch));
    catalog.clock = Some(WallClock::from_micros(1_795_352_493_250_000));
    let video = CodecConfig::from_record(Codec::H264, Bytes::from_static(AVCC)).unwrap();
    let audio = CodecConfig::from_record(Codec::Aac, Bytes::from_static(&[0x11, 0x90])).unwrap();
    catalog.set_track(Track { id: TrackId::VIDEO, config: video });
    catalog.set_track(Track { id: TrackId::AUDIO, config: audio });
    Arc::new(catalog)
}

/// Pushes 25 video frames per second with known content, an IDR each second, and audio that starts with them.
fn push(publishing: &PublishGuard, epoch: u64, seconds: std::ops::Range<i64>) {
    let catalog = catalog(epoch);
    for n in seconds.start * 25..seconds.end * 25 {
        let dts = Timestamp::from_millis(n * 40);
        for track in [TrackId::VIDEO, TrackId::AUDIO] {
            let is_idr = n % 25 == 0;
            let nal = if is_idr { 0x65 } else { 0x41 };
            let payload = Bytes::from([&[0, 0, 1, 0, nal][..], &[n as u8; 255]].concat());
            let random_access = is_idr || !track.is_video();
            publishing.push(
                &catalog,
                AccessUnit { epoch: Epoch(epoch), track, dts, pts: dts, random_access, payload },
                None,
            );
        }
    }
}

fn unpacked(body: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(body).read_to_string(&mut text).unwrap();
    text
}

#[tokio::test]
async fn every_path_has_a_status_a_type_and_a_cache_policy() {
    let fixture = Fixture::new();
    fixture.hub.open("live");
    let html = "text/html; charset=utf-8";
    let plain = "text/plain; charset=utf-8";
    for (path, status, content_type, cache) in [
        ("/", 200, html, "no-cache"),
        ("/live", 200, html, "no-cache"),
        ("/nobody", 404, plain, "no-store"),
        ("/live?embed", 200, html, "no-cache"),
        ("/live/", 308, plain, "no-store"),
        ("/nobody/", 308, plain, "no-store"),
        ("/assets/player.js", 200, "text/javascript; charset=utf-8", "no-cache"),
        ("/assets/page.css", 200, "text/css; charset=utf-8", "no-cache"),
        ("/assets/hls/hls.light.min.js", 200, "text/javascript; charset=utf-8", "no-cache"),
        ("/assets/hls/LICENSE", 200, plain, "no-cache"),
        ("/assets/package.json", 404, plain, "no-store"),
        ("/assets/recovery.js", 200, "text/javascript; charset=utf-8", "no-cache"),
        ("/assets/recovery.test.js", 404, plain, "no-store"),
        ("/assets/player.html", 404, plain, "no-store"),
        ("/assets/../Cargo.toml", 404, plain, "no-store"),
        ("/favicon.ico", 200, "image/svg+xml", "no-cache"),
        ("/robots.txt", 200, plain, "no-store"),
        ("/healthz", 200, plain, "no-store"),
        ("/readyz", 200, plain, "no-store"),
        ("/api/v1/streams", 200, "application/json", "no-store"),
        ("/api/v1/streams/live", 200, "application/json", "no-store"),
        ("/api/v1/streams/nobody", 404, "application/json", "no-store"),
        ("/api/v1/time", 200, "application/json", "no-store"),
        ("/api/v2", 404, "application/json", "no-store"),
        ("/metrics", 404, plain, "no-store"),
        ("/live/index.m3u8", 404, plain, "no-store"),
        ("/nobody/index.m3u8", 404, plain, "no-store"),
        ("/live/seg-0.m4s", 404, plain, "no-store"),
        ("/live/other.txt", 404, plain, "no-store"),
        ("/a/b/c", 404, plain, "no-store"),
    ] {
        let reply = fixture.fetch(path, &[]).await;
        let found = (reply.status.as_u16(), reply.header("content-type"), reply.header("cache-control"));
        assert_eq!(found, (status, content_type, cache), "{path}");
        assert_eq!(reply.header("access-control-allow-origin"), "*", "{path}");
        assert_eq!(reply.header("x-content-type-options"), "nosniff", "{path}");
        assert!(!reply.body.is_empty(), "{path} has a body");
        let posted = fixture.method(Method::POST, path, &[]).await.status;
        assert!(posted == StatusCode::METHOD_NOT_ALLOWED || path == "/a/b/c", "{path}: {posted}");
    }
}

#[tokio::test]
async fn pages_load_nothing_from_elsewhere() {
    let fixture = Fixture::new();
    fixture.hub.open("live");
    for (path, status) in [("/", 200), ("/live", 200), ("/nobody", 404)] {
        let page = fixture.fetch(path, &[("accept", "text/html,*/*")]).await;
        assert_eq!(page.status.as_u16(), status);
        let policy = page.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"), "{policy}");
        assert!(!page.text().contains("http://") && !page.text().contains("https://"), "{path}");
        assert!(!page.text().contains(" style=") && !page.text().contains(" onclick="), "{path}");
        for asset in page.text().split(['"', '\'']).filter(|text| text.starts_with("/assets/")) {
            assert_eq!(fixture.fetch(asset, &[]).await.status, StatusCode::OK, "{asset}");
        }
    }
}

#[tokio::test]
async fn a_trailing_slash_redirects_to_the_page() {
    let fixture = Fixture::new();
    for (path, location) in [
        ("/live/", "../live"),
        ("/live/?embed", "../live?embed"),
        ("/caf%C3%A9/", "../caf%C3%A9"),
        ("/https:evil.example/", "../https:evil.example"),
    ] {
        let reply = fixture.fetch(path, &[]).await;
        assert_eq!((reply.status, reply.header("location")), (StatusCode::PERMANENT_REDIRECT, location), "{path}");
    }
    assert_eq!(fixture.fetch("//evil.example/", &[]).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn any_origin_may_read() {
    let fixture = Fixture::new();
    for path in ["/live/index.m3u8", "/live/seg-1.m4s", "/api/v1/streams", "/nothing/at/all"] {
        let asked = [("origin", "https://example.org"), ("access-control-request-method", "GET")];
        let preflight = fixture
            .method(Method::OPTIONS, path, &[&asked[..], &[("access-control-request-headers", "range")]].concat())
            .await;
        assert_eq!(preflight.status, StatusCode::OK, "{path}");
        assert_eq!(preflight.header("access-control-allow-origin"), "*");
        assert_eq!(preflight.header("access-control-allow-methods"), "GET,HEAD");
        assert_eq!(preflight.header("access-control-allow-headers"), "*");
        assert_eq!(preflight.header("access-control-max-age"), "86400");
        let reply = fixture.fetch(path, &[("origin", "https://example.org")]).await;
        let exposed = reply.header("access-control-expose-headers");
        assert!(
            ["date", "content-length", "content-range", "etag"].iter().all(|name| exposed.contains(name)),
            "{exposed}"
        );
    }
}

#[tokio::test]
async fn only_configured_origins_may_read_pins_and_tickets() {
    let path = "/api/v1/streams/live/watch";
    let preflight = [("origin", "https://tv.example"), ("access-control-request-method", "GET")];
    for (origins, expected, policy) in [
        (&[][..], "", "same-origin"),
        (&["https://other.example"], "", "cross-origin"),
        (&["https://other.example", "https://tv.example"], "https://tv.example", "cross-origin"),
        (&["*"], "*", "cross-origin"),
    ] {
        let watch_origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
        let fixture =
            Fixture::with(HttpSettings { watch_origins, ..HttpSettings::default() }, hls::HlsSettings::default());
        fixture.hub.open("live");
        let reply = fixture.fetch(path, &[("origin", "https://tv.example")]).await;
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(reply.header("access-control-allow-origin"), expected, "{origins:?}");
        assert_eq!(reply.header("cross-origin-resource-policy"), policy, "{origins:?}");
        let reply = fixture.method(Method::OPTIONS, path, &preflight).await;
        assert_eq!(reply.header("access-control-allow-origin"), expected, "{origins:?}");
        // Everything else is public.
        assert_eq!(fixture.fetch("/api/v1/streams", &[]).await.header("access-control-allow-origin"), "*");
        assert_eq!(fixture.fetch("/a/b/c", &[]).await.header("access-control-allow-origin"), "*");
    }
}

#[tokio::test]
async fn texts_are_compressed_for_clients_that_accept_gzip() {
    let fixture = Fixture::new();
    let publishing = fixture.publish();
    push(&publishing, 1, 0..5);
    let check = async |path: &str, accepted: &str, expected: &str| {
        let reply = fixture.fetch(path, &[("accept-encoding", accepted)]).await;
        assert_eq!(reply.header("content-encoding"), expected, "{path} for {accepted:?}");
        assert!(reply.header("vary").contains("accept-encoding"), "{path}");
        let packed = (expected == "gzip").then(|| unpacked(&reply.body));
        let plain = fixture.fetch(path, &[]).await;
        if path != "/api/v1/streams" {
            assert_eq!(packed.as_deref().unwrap_or_else(|| reply.text()), plain.text(), "{path}");
            assert_eq!(reply.header("etag") == plain.header("etag"), packed.is_none(), "{path}");
        }
    };
    for path in ["/live/media.m3u8", "/live", "/assets/hls/hls.light.min.js", "/api/v1/streams"] {
        check(path, "gzip, deflate, br", "gzip").await;
        check(path, "*", "gzip").await;
        check(path, "br", "").await;
        check(path, "gzip;q=0", "").await;
        check(path, "", "").await;
    }
    let segment = first_segment(&fixture).await;
    assert_eq!(fixture.fetch(&segment, &[("accept-encoding", "gzip")]).await.header("content-encoding"), "");
}

#[tokio::test]
async fn a_matching_etag_is_answered_with_304() {
    let fixture = Fixture::new();
    let publishing = fixture.publish();
    push(&publishing, 1, 0..5);
    for path in ["/live/media.m3u8", "/live", "/assets/player.js", &first_segment(&fixture).await] {
        let etag = fixture.fetch(path, &[]).await.header("etag").to_owned();
        for held in [etag.clone(), format!("W/{etag}"), format!("\"x\", {etag}"), "*".to_owned()] {
            let reply = fixture.fetch(path, &[("if-none-match", &held)]).await;
            assert_eq!((reply.status, reply.body.len()), (StatusCode::NOT_MODIFIED, 0), "{path} {held}");
            assert_eq!(reply.header("etag"), etag);
        }
        assert_eq!(fixture.fetch(path, &[("if-none-match", "\"x\"")]).await.status, StatusCode::OK);
    }
}

async fn first_segment(fixture: &Fixture) -> String {
    let playlist = fixture.fetch("/live/media.m3u8", &[]).await;
    assert_eq!(playlist.status, StatusCode::OK, "{}", playlist.text());
    let name = playlist.text().lines().find(|line| line.starts_with("seg-")).expect("a segment is listed").to_owned();
    format!("/live/{name}")
}

#[tokio::test]
async fn playlists_reference_the_init_segment_and_segments() {
    let fixture = Fixture::new();
    let publishing = fixture.publish();
    push(&publishing, 1, 0..7);
    let multivariant = fixture.fetch("/live/index.m3u8", &[]).await;
    assert_eq!(multivariant.header("content-type"), "application/vnd.apple.mpegurl");
    assert!(multivariant.text().contains("CODECS=\"avc1.") && multivariant.text().ends_with("media.m3u8\n"));
    let media = fixture.fetch("/live/media.m3u8", &[]).await;
    assert_eq!(media.header("cache-control"), "public, max-age=1");
    assert!(media.text().contains("#EXT-X-PROGRAM-DATE-TIME:2026-11-22T13:01:33.250Z"), "{}", media.text());
    let map = media.text().split_once("#EXT-X-MAP:URI=\"").unwrap().1.split_once('"').unwrap().0;
    for (path, holds) in [(format!("/live/{map}"), &b"ftyp"[..]), (first_segment(&fixture).await, b"moof")] {
        let reply = fixture.fetch(&path, &[]).await;
        assert_eq!(reply.status, StatusCode::OK, "{path}");
        assert_eq!(reply.header("content-type"), "video/mp4");
        assert_eq!(reply.header("cache-control"), "public, max-age=31536000, immutable");
        assert_eq!(reply.header("accept-ranges"), "bytes");
        assert!(reply.body.windows(4).any(|w| w == holds), "{path}");
        let head = fixture.method(Method::HEAD, &path, &[]).await;
        assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
        assert_eq!(head.header("content-length"), reply.body.len().to_string());
    }
}

#[tokio::test]
async fn one_range_of_a_segment_is_served() {
    let fixture = Fixture::new();
    let publishing = fixture.publish();
    push(&publishing, 1, 0..5);
    let path = first_segment(&fixture).await;
    let whole = fixture.fetch(&path, &[]).await;
    let (length, etag) = (whole.body.len(), whole.header("etag"));
    let check = async |headers: &[(&str, &str)], status: u16, expected: std::ops::Range<usize>| {
        let reply = fixture.fetch(&path, headers).await;
        assert_eq!((reply.status.as_u16(), &reply.body[..]), (status, &whole.body[expected.clone()]), "{headers:?}");
        if status == 206 {
            assert_eq!(
                reply.header("content-range"),
                format!("bytes {}-{}/{length}", expected.start, expected.end - 1)
            );
        }
    };
    check(&[("range", "bytes=0-0")], 206, 0..1).await;
    check(&[("range", "bytes=3-9000")], 206, 3..9001.min(length)).await;
    check(&[("range", "bytes=-7")], 206, length - 7..length).await;
    check(&[("range", "bytes=700-"), ("if-range", etag)], 206, 700..length).await;
    check(&[("range", "bytes=700-"), ("if-range", "\"other\"")], 200, 0..length).await;
    check(&[("range", "bytes=0-1,5-6")], 200, 0..length).await;
    let reply = fixture.fetch(&path, &[("range", &format!("bytes={length}-"))]).await;
    assert_eq!((reply.status.as_u16(), reply.header("content-range")), (416, &*format!("bytes */{length}")));
}

#[tokio::test(start_paused = true)]
async fn a_playlist_waits_for_the_first_segment() {
    let fixture = Fixture::new();
    let publishing = fixture.publish();
    push(&publishing, 1, 0..1);
    let started = tokio::time::Instant::now();
    let reply = fixture.fetch("/live/index.m3u8", &[]).await;
    assert_eq!((reply.status.as_u16(), reply.header("retry-after"), started.elapsed().as_secs()), (503, "2", 8));
    assert!(reply.text().contains("no complete segment yet"));
    let wait = fixture.fetch("/live/index.m3u8", &[]);
    let publish = async { push(&publishing, 1, 1..5) };
    assert_eq!(tokio::join!(wait, publish).0.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_a_publisher_has_no_bitrate_and_is_not_called_live() {
    let fixture = Fixture::new();
    let publishing = fixture.publish();
    push(&publishing, 1, 0..5);
    first_segment(&fixture).await;
    let bitrate = async || fixture.fetch("/api/v1/streams/live", &[]).await.json()["bitrate"].as_u64();
    assert!(bitrate().await > Some(0));
    drop(publishing);
    assert_eq!(bitrate().await, Some(0));
    let next = fixture.hls.stream("live").unwrap().now().playlist.next_msn;
    let reply = fixture.fetch(&format!("/live/media.m3u8?_HLS_msn={next}"), &[]).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(reply.text().contains("publisher of the stream \"live\" is disconnected"), "{}", reply.text());
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_key_frame_is_told_why() {
    let fixture = Fixture::new();
    let publishing = fixture.publish();
    let catalog = catalog(1);
    for n in 0..200 {
        let (dts, track) = (Timestamp::from_millis(n * 40), TrackId::VIDEO);
        let payload = Bytes::from_static(&[0, 0, 1, 0, 0x41]);
        let unit = AccessUnit { epoch: Epoch(1), track, dts, pts: dts, random_access: n == 0, payload };
        publishing.push(&catalog, unit, None);
    }
    let reply = fixture.fetch("/live/index.m3u8", &[]).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(reply.text().contains("key frames are 8.0 s apart or more"), "{}", reply.text());
}

#[tokio::test(start_paused = true)]
async fn an_offline_stream_is_reported_at_once() {
    let fixture = Fixture::new();
    fixture.hub.open("live");
    let started = tokio::time::Instant::now();
    let offline = fixture.fetch("/live/media.m3u8", &[]).await;
    assert_eq!((offline.status.as_u16(), offline.header("retry-after")), (404, "2"));
    assert!(offline.text().contains("is not live right now"), "{}", offline.text());
    let unknown = fixture.fetch("/nobody/media.m3u8", &[]).await;
    assert_eq!((unknown.status.as_u16(), unknown.header("retry-after")), (404, ""));
    assert!(unknown.text().contains("no stream \"nobody\""), "{}", unknown.text());
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn sequence_numbers_continue_when_the_publisher_returns() {
    let fixture = Fixture::new();
    let publishing = fixture.publish();
    push(&publishing, 1, 0..5);
    let first = first_segment(&fixture).await;
    let number = |path: &str| path.trim_start_matches("/live/seg-").trim_end_matches(".m4s").parse::<u64>().unwrap();
    assert!(
        number(&first) > 1_700_000_000_000,
        "above all numbers of an earlier run, whose segments may have been short"
    );
    drop(publishing);
    assert!(!fixture.fetch("/live/media.m3u8", &[]).await.text().contains("ENDLIST"));
    let publishing = fixture.publish();
    push(&publishing, 2, 0..5);
    let text = loop {
        let text = fixture.fetch("/live/media.m3u8", &[]).await.text().to_owned();
        if text.contains("#EXT-X-DISCONTINUITY\n") {
            break text;
        }
        tokio::task::yield_now().await;
    };
    let numbers: Vec<_> =
        text.lines().filter(|l| l.starts_with("seg-")).map(|l| number(&format!("/live/{l}"))).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1) && numbers[0] == number(&first), "{text}");
}

#[tokio::test]
async fn an_ended_stream_is_marked_and_can_restart() {
    let fixture = Fixture::new();
    let publishing = fixture.publish();
    push(&publishing, 1, 0..5);
    let first = first_segment(&fixture).await;
    drop(publishing);
    fixture.hub.sweep(std::time::Instant::now() + Duration::from_secs(60));
    let playlist = async || fixture.fetch("/live/media.m3u8", &[]).await.text().to_owned();
    while !playlist().await.contains("#EXT-X-ENDLIST") {
        tokio::task::yield_now().await;
    }
    let publishing = fixture.publish();
    let (text, ()) = tokio::join!(playlist(), async { push(&publishing, 2, 0..5) });
    assert!(!text.contains("#EXT-X-ENDLIST") && text.contains("#EXT-X-DISCONTINUITY\n"), "{text}");
    assert!(
        !text.contains(first.trim_start_matches("/live/")),
        "a new viewer does not see the previous broadcast: {text}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_ended_playlist_is_dropped_with_its_segments() {
    let hls = hls::HlsSettings { ended_playlist_ttl: Duration::ZERO, ..hls::HlsSettings::default() };
    let fixture = Fixture::with_grace(HttpSettings::default(), hls, Duration::ZERO);
    let publishing = fixture.publish();
    push(&publishing, 1, 0..5);
    let first = first_segment(&fixture).await;
    let number = |text: &str| text.lines().find_map(|line| line.strip_prefix("#EXT-X-MEDIA-SEQUENCE:")?.parse().ok());
    let before: Option<u64> = number(fixture.fetch("/live/media.m3u8", &[]).await.text());
    let held = fixture.hls.stream("live").unwrap();
    drop(publishing);
    fixture.hub.sweep(std::time::Instant::now());
    while !held.now().playlist.segments.is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(fixture.fetch(&first, &[]).await.status, StatusCode::NOT_FOUND);
    // Media sequence numbers do not go back.
    let publishing = fixture.publish();
    push(&publishing, 2, 0..5);
    first_segment(&fixture).await;
    let after = number(fixture.fetch("/live/media.m3u8", &[]).await.text());
    assert!(after > before && before.is_some(), "{before:?} {after:?}");
}

#[tokio::test]
async fn the_api_describes_streams_and_leaks_no_addresses() {
    let fixture = Fixture::new();
    fixture.hub.open("idle");
    let publishing = fixture.publish();
    push(&publishing, 0xabc, 0..5);
    first_segment(&fixture).await;
    let host = [("host", "media.example:8080")];
    let all = fixture.fetch("/api/v1/streams", &host).await;
    assert_eq!(all.json()["streams"][0]["state"], "offline");
    let one = fixture.fetch("/api/v1/streams/live", &host).await;
    let json = one.json();
    assert_eq!(all.json()["streams"][1]["name"], json["name"]);
    for (pointer, expected) in [
        ("/name", serde_json::json!("live")),
        ("/state", "live".into()),
        ("/epoch", "0000000000000abc".into()),
        ("/clock", "2026-11-22T13:01:33.250Z".into()),
        ("/tracks/0/id", "v0".into()),
        ("/tracks/0/codec", "H.264".into()),
        ("/tracks/0/rfc6381", "avc1.42C00A".into()),
        ("/tracks/0/width", 64.into()),
        ("/tracks/0/height", 64.into()),
        ("/tracks/1/codec", "AAC".into()),
        ("/tracks/1/rfc6381", "mp4a.40.2".into()),
        ("/tracks/1/sample_rate", 48_000.into()),
        ("/viewers/hls", 1.into()),
        ("/viewers/total", 1.into()),
        ("/window/next_position", 250.into()),
        ("/hls/target_duration_seconds", 2.into()),
        ("/counters/units", 250.into()),
        ("/urls/page", "http://media.example:8080/live".into()),
        ("/urls/hls", "http://media.example:8080/live/index.m3u8".into()),
        ("/urls/rtmp", "rtmp://media.example/live/live".into()),
    ] {
        assert_eq!(json.pointer(pointer), Some(&expected), "{pointer} of {json}");
    }
    let mut metrics = Metrics::default();
    metrics.register(metrics::Streams::new(fixture.hub.clone(), fixture.hls.clone()));
    metrics.register(fixture.server.responses());
    let metrics = metrics.render();
    for text in [one.text(), all.text(), &metrics] {
        assert!(!text.contains("203.0.113") && !text.contains("50123"), "{text}");
    }
    for line in [
        "# TYPE nearcast_stream_received_units_total counter",
        "nearcast_stream_live{stream=\"live\"} 1",
        "nearcast_stream_live{stream=\"idle\"} 0",
        "nearcast_stream_received_units_total{stream=\"live\"} 250",
        "nearcast_stream_viewers{stream=\"live\",protocol=\"hls\"} 1",
        "nearcast_http_responses_total{class=\"2xx\"} 3",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn urls_follow_the_host_of_the_request() {
    let fixture = Fixture::new();
    fixture.hub.open("live");
    let check = async |headers: &[(&str, &str)], page: &str, rtmp: &str| {
        let urls = fixture.fetch("/api/v1/streams/live", headers).await.json()["urls"].clone();
        assert_eq!((urls["page"].as_str(), urls["rtmp"].as_str()), (Some(page), Some(rtmp)), "{headers:?}");
        let publish = fixture.fetch("/api/v1/streams", headers).await.json()["publish"].clone();
        assert_eq!(publish.as_str(), rtmp.strip_suffix("/live"), "{headers:?}");
    };
    check(&[("host", "[::1]:8080")], "http://[::1]:8080/live", "rtmp://[::1]/live/live").await;
    check(&[("host", "[::1]")], "http://[::1]/live", "rtmp://[::1]/live/live").await;
    // The proxy's own host is shown where it forwards no other.
    check(
        &[("host", "tv.example"), ("x-forwarded-proto", "https"), ("x-forwarded-prefix", "/stream")],
        "https://tv.example/stream/live",
        "rtmp://tv.example/live/live",
    )
    .await;
    check(&[("host", "evil\"><script>")], "http://localhost/live", "rtmp://localhost/live/live").await;
    let settings = HttpSettings {
        rtmp_port: Some(1936),
        rtmp_app: "in".to_owned(),
        live: Arc::new(parking_lot::RwLock::new(LiveSettings {
            public_host: Some("tv.example".to_owned()),
            ..LiveSettings::default()
        })),
        ..HttpSettings::default()
    };
    let list = Fixture::with(settings, hls::HlsSettings::default())
        .fetch("/api/v1/streams", &[("host", "10.0.0.1:8080")])
        .await;
    assert_eq!(list.json()["publish"], "rtmp://tv.example:1936/in");
}

#[tokio::test]
async fn a_draining_server_is_not_ready_but_healthy() {
    let fixture = Fixture::new();
    assert_eq!(fixture.fetch("/readyz", &[]).await.status, StatusCode::OK);
    fixture.server.shared.is_draining.store(true, Ordering::Relaxed);
    let reply = fixture.fetch("/readyz", &[]).await;
    assert_eq!((reply.status, reply.header("connection")), (StatusCode::SERVICE_UNAVAILABLE, "close"));
    assert_eq!(fixture.fetch("/healthz", &[]).await.status, StatusCode::OK);
}

/// A server on loopback that accepts at most `connections` connections.
async fn listening(limits: Limits, connections: usize) -> (Fixture, Arc<ConnectionLimiter>, std::net::SocketAddr) {
    let settings = HttpSettings { limits, drain: Duration::ZERO, ..HttpSettings::default() };
    let fixture = Fixture::with(settings, hls::HlsSettings::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (server, stop) = (fixture.server.clone(), fixture.stop.clone());
    let limiter = ConnectionLimiter::new(connections, connections);
    tokio::spawn({
        let limiter = limiter.clone();
        async move { server.serve(listener, limiter, stop).await }
    });
    (fixture, limiter, address)
}

/// All bytes until the server closes the connection.
async fn rest(socket: &mut TcpStream) -> String {
    let mut text = Vec::new();
    // A reset counts as a close.
    let _ = socket.read_to_end(&mut text).await;
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn a_header_that_never_ends_times_out() {
    let limits = Limits { header_timeout: Duration::from_millis(50), ..Limits::default() };
    let (_fixture, _, address) = listening(limits, 8).await;
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.unwrap();
    assert!(!rest(&mut slow).await.contains("200 OK"));
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(rest(&mut idle).await.starts_with("HTTP/1.1 200 OK"), "and the connection is closed when it is idle");
}

#[tokio::test]
async fn a_header_that_is_too_long_is_rejected() {
    let (_fixture, _, address) = listening(Limits::default(), 8).await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    let (mut reader, mut writer) = socket.split();
    let long = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "a".repeat(100_000));
    let mut text = String::new();
    let (_, _) = tokio::join!(writer.write_all(long.as_bytes()), reader.read_to_string(&mut text));
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 431"), "{text}");
}

#[tokio::test]
async fn a_connection_beyond_the_limit_is_closed_at_once() {
    let (fixture, limiter, address) = listening(Limits::default(), 1).await;
    let mut first = TcpStream::connect(address).await.unwrap();
    first.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut word = [0; 12];
    first.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"HTTP/1.1 200");
    let mut second = TcpStream::connect(address).await.unwrap();
    assert_eq!(rest(&mut second).await, "");
    assert_eq!((limiter.count(), limiter.accepted(), limiter.rejected()), (1, 1, 1));
    fixture.stop.cancel();
    rest(&mut first).await;
    assert_eq!(limiter.count(), 0);
}

/// `AVCDecoderConfigurationRecord` of x264's baseline, 64×64.
const AVCC: &[u8] = &[
    0x01, 0x42, 0xc0, 0x0a, 0xff, 0xe1, 0x00, 0x17, 0x67, 0x42, 0xc0, 0x0a, 0xd9, 0x04, 0x26, 0xc0, 0x44, 0x00, 0x00,
    0x03, 0x00, 0x04, 0x00, 0x00, 0x03, 0x00, 0xc8, 0x3c, 0x48, 0x99, 0x20, 0x01, 0x00, 0x05, 0x68, 0xcb, 0x83, 0xcb,
    0x20,
];
