//! Sources against servers on loopback: a path that breaks resumes where it was, one that fails is replaced by the next, and one that can never work
//! is reported.
#![allow(clippy::unwrap_used)] // All of this crate is tests, its helping functions too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use media::codec::{Codec, CodecConfig};
use media::path_merge::PathMerger;
use media::{AccessUnit, Catalog, Epoch, Timestamp, Track, TrackId, WallClock, flv, fmp4};
use net::rtmp::server::{self, PlayRequest, Player, Request};
use net::rtmp::{Limits, Message, Metadata};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use viewer::source::{self, Error, Event, PathOptions, Position, State, TransportFilter};

const EPOCH: Epoch = Epoch(0x1234);
/// Ends a test that hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// A broadcast of audio only: AAC LC, 48 kHz, stereo. The frames' content does not matter here.
fn track() -> Track {
    let record = Bytes::from_static(&[0x11, 0x90]);
    Track { id: TrackId::AUDIO, config: CodecConfig::from_record(Codec::Aac, record).unwrap() }
}

fn catalog() -> Arc<Catalog> {
    let mut catalog = Catalog::new(EPOCH);
    catalog.clock = Some(WallClock::from_micros(1_700_000_000_000_000));
    catalog.set_track(track());
    Arc::new(catalog)
}

fn unit(n: i64) -> AccessUnit {
    let dts = Timestamp::from_millis(n * 20);
    let payload = Bytes::from(format!("frame {n}"));
    AccessUnit { epoch: EPOCH, track: TrackId::AUDIO, dts, pts: dts, random_access: true, payload }
}

/// Merges a source's events as the viewer does, and collects them.
struct Watcher {
    events: mpsc::Receiver<Event>,
    merger: PathMerger,
    position: Position,
    units: Vec<AccessUnit>,
    catalog: Option<Arc<Catalog>>,
    opened: Vec<String>,
    states: Vec<State>,
    /// The number of units received before each change of the burst, and the burst.
    bursts: Vec<(usize, Duration)>,
    failure: Option<Error>,
    ended: bool,
}

impl Watcher {
    fn start(url: &str, filter: TransportFilter) -> Self {
        Self::keeping(url, filter, false)
    }

    fn keeping(url: &str, filter: TransportFilter, keep_all: bool) -> Self {
        let (sender, events) = mpsc::channel(8);
        let position = Position::default();
        let options = PathOptions { transport: filter, keep_all, ..PathOptions::default() };
        tokio::spawn(source::run(url.to_owned(), options, position.clone(), sender));
        Self {
            events,
            merger: PathMerger::new(),
            position,
            units: Vec::new(),
            catalog: None,
            opened: Vec::new(),
            states: Vec::new(),
            bursts: Vec::new(),
            failure: None,
            ended: false,
        }
    }

    /// Receives events until `is_enough`, or until the source has ended.
    async fn watch(&mut self, is_enough: impl Fn(&Self) -> bool) {
        let watch = async {
            while !is_enough(self) {
                let Some(event) = self.events.recv().await else { return };
                let mut out = Vec::new();
                match event {
                    Event::Opened { path, source, .. } => {
                        self.merger.open(path);
                        self.opened.push(source);
                    }
                    Event::BurstChanged { burst, .. } => self.bursts.push((self.units.len(), burst)),
                    Event::Gap(path) => self.merger.gap(path),
                    Event::Idle(path) => self.merger.open(path),
                    Event::Closed { path, .. } => self.merger.close(path, &mut out),
                    Event::Stalled(_) | Event::NoCapacity(_) | Event::RequestSent { .. } | Event::Timing { .. } => {}
                    Event::Unit { path, catalog, unit, predecessor } => {
                        self.merger.push(path, &catalog, unit, predecessor, &mut out);
                        self.catalog = Some(catalog);
                    }
                    Event::State(state) => self.states.push(state),
                    Event::Ended => self.ended = true,
                    Event::Failed(error) => self.failure = Some(error),
                }
                self.units.extend(out.into_iter().map(|merged| merged.unit));
                if let Some(epoch) = self.merger.epoch() {
                    self.position.set(epoch, self.merger.position(), None);
                }
            }
        };
        tokio::time::timeout(DEADLINE, watch).await.expect("the source delivers what is waited for");
    }
}

fn low_latency_hls() -> TransportFilter {
    "ll-hls".parse().unwrap()
}

async fn bind() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

async fn play_request(listener: &TcpListener) -> PlayRequest<TcpStream> {
    let (socket, _) = listener.accept().await.unwrap();
    match server::accept(socket, &Limits::default()).await.unwrap() {
        Request::Play(request) => request,
        Request::Publish(_) => panic!("a viewer does not publish"),
    }
}

async fn begin(request: PlayRequest<TcpStream>) -> Player<TcpStream> {
    let mut player = request.accept().await.unwrap();
    let metadata = Metadata { epoch: Some(EPOCH), clock: catalog().clock, ..Metadata::default() };
    player.send(&Message::Metadata(metadata)).await.unwrap();
    player.send(&Message::Audio { timestamp: 0, body: flv::sequence_header(&track()) }).await.unwrap();
    player
}

async fn send(player: &mut Player<TcpStream>, units: std::ops::Range<i64>) {
    for unit in units.map(unit) {
        let body = [flv::unit_header(&track(), &unit), unit.payload.clone()].concat();
        player.send(&Message::Audio { timestamp: unit.dts.as_rtmp(), body: body.into() }).await.unwrap();
    }
}

#[tokio::test]
async fn an_rtmp_path_resumes_after_its_last_unit() {
    let (listener, address) = bind().await;
    let server = tokio::spawn(async move {
        let request = play_request(&listener).await;
        assert_eq!((request.app.as_str(), request.name.as_str(), request.query.len()), ("live", "show", 0));
        let mut player = begin(request).await;
        send(&mut player, 0..50).await;
        drop(player);
        let request = play_request(&listener).await;
        let query: BTreeMap<_, _> = request.query.iter().cloned().collect();
        assert_eq!(query["nearcastEpoch"], EPOCH.to_string());
        let (track, dts) = query["nearcastAfter"].split_once(':').unwrap();
        let after: i64 = dts.parse().unwrap();
        assert_eq!(track, "a0");
        // From the start of a GOP: some units are sent again.
        let mut player = begin(request).await;
        send(&mut player, (after / 20 - 10).max(0)..80).await;
        player
    });
    let mut watcher = Watcher::start(&format!("rtmp://{address}/live/show"), TransportFilter::AUTO);
    watcher.watch(|w| w.units.len() >= 80).await;
    assert_eq!(watcher.units, (0..80).map(unit).collect::<Vec<_>>());
    assert_eq!(watcher.opened.len(), 2);
    assert_eq!(watcher.catalog.unwrap().clock, catalog().clock);
    assert!(watcher.states.iter().any(|s| matches!(s, State::Reconnecting { .. })));
    drop(server.await.unwrap());
}

#[tokio::test]
async fn an_unknown_stream_fails_once_the_server_has_said_so_for_a_while() {
    let (listener, address) = bind().await;
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    tokio::spawn(async move {
        loop {
            let request = play_request(&listener).await;
            counted.fetch_add(1, Ordering::Relaxed);
            let _ = request.reject("NetStream.Play.StreamNotFound", "no such stream").await;
        }
    });
    let mut watcher = Watcher::start(&format!("rtmp://{address}/live/shwo"), TransportFilter::AUTO);
    watcher.watch(|w| w.failure.is_some()).await;
    let error = watcher.failure.unwrap();
    assert!(matches!(&error, Error::UnknownStream { name, .. } if name == "shwo"), "{error}");
    assert!(error.to_string().contains("cdn key new shwo"));
    assert!(requests.load(Ordering::Relaxed) > 2);
}

#[tokio::test]
async fn a_viewer_waits_for_a_stream_that_is_not_live() {
    let (listener, address) = bind().await;
    let (published, publishing) = tokio::sync::oneshot::channel();
    let server = tokio::spawn(async move {
        let mut player = play_request(&listener).await.accept().await.unwrap();
        // The server sends nothing until a publisher connects.
        publishing.await.unwrap();
        player.send(&Message::Audio { timestamp: 0, body: flv::sequence_header(&track()) }).await.unwrap();
        send(&mut player, 0..5).await;
        player
    });
    let mut watcher = Watcher::start(&format!("rtmp://{address}/live/show"), TransportFilter::AUTO);
    watcher.watch(|w| w.states.contains(&State::Waiting)).await;
    published.send(()).unwrap();
    watcher.watch(|w| w.units.len() == 5).await;
    assert_eq!(watcher.states, [State::Connecting, State::Waiting, State::Live]);
    // The server states no epoch: the viewer chooses one.
    assert!(watcher.units.iter().all(|u| u.epoch == watcher.units[0].epoch));
    drop(server.await.unwrap());
}

#[tokio::test]
async fn the_wait_for_a_stream_resumes_after_the_server_ends_it() {
    let (listener, address) = bind().await;
    let server = tokio::spawn(async move {
        // As Nearcast's server does after an hour without a publisher.
        let (socket, play) = play_request(&listener).await.accept().await.unwrap().into_parts();
        let (mut socket, mut play) = (socket, play);
        socket.write_all(&play.close_message("NetStream.Play.Failed", "The stream is not live.")).await.unwrap();
        drop(socket);
        let mut player = begin(play_request(&listener).await).await;
        send(&mut player, 0..5).await;
        player
    });
    let mut watcher = Watcher::start(&format!("rtmp://{address}/live/show"), TransportFilter::AUTO);
    watcher.watch(|w| w.units.len() == 5 || w.failure.is_some()).await;
    assert!(watcher.failure.is_none(), "{:?}", watcher.failure);
    drop(server.await.unwrap());
}

/// An HTTP server with these pages: path to content type and body. All other paths are 404.
async fn serve(listener: TcpListener, pages: BTreeMap<String, (&'static str, Bytes)>) {
    serve_with(listener, move |path, _| pages.get(path).cloned()).await;
}

/// An HTTP server whose nth response (from 0) for a path is a content type and a body, or 404. The type `redirect` makes the body a redirect's
/// location, and `later` makes it a 404 with Retry-After.
async fn serve_with(
    listener: TcpListener,
    answer: impl Fn(&str, usize) -> Option<(&'static str, Bytes)> + Send + Sync + 'static,
) {
    let answer = Arc::new(answer);
    let asked = Arc::new(std::sync::Mutex::new(BTreeMap::<String, usize>::new()));
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let (answer, asked) = (answer.clone(), asked.clone());
        tokio::spawn(async move {
            let mut socket = BufReader::new(socket);
            let mut request = String::new();
            while socket.read_line(&mut request).await.unwrap_or(0) > 2 {}
            let path = request.split(' ').nth(1).unwrap_or("").to_owned();
            let times = {
                let mut asked = asked.lock().unwrap();
                let times = asked.entry(path.clone()).or_default();
                *times += 1;
                *times - 1
            };
            let (status, kind, body) = match answer(&path, times) {
                Some(("redirect", to)) => {
                    let to = String::from_utf8_lossy(&to).into_owned();
                    let head = format!(
                        "HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                    );
                    let _ = socket.write_all(head.as_bytes()).await;
                    return;
                }
                Some(("later", body)) => ("404 Not Found\r\nretry-after: 2", "text/plain", body),
                Some((kind, body)) => ("200 OK", kind, body),
                None => ("404 Not Found", "application/json", Bytes::from_static(b"{}")),
            };
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
            );
            let _ = socket.write_all(head.as_bytes()).await;
            let _ = socket.write_all(&body).await;
        });
    }
}

/// Four segments of a second each, and their playlist with EXT-X-ENDLIST.
fn hls_pages() -> BTreeMap<String, (&'static str, Bytes)> {
    const PLAYLIST: &str = "application/vnd.apple.mpegurl";
    let catalog = catalog();
    let mut pages = BTreeMap::new();
    let mut playlist =
        "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:7\n#EXT-X-MAP:URI=\"init.mp4\"\n"
            .to_owned();
    for segment in 0..4 {
        let units: Vec<_> = (segment * 50..segment * 50 + 50).map(unit).collect();
        let next = unit(segment * 50 + 50).dts;
        let fragment = fmp4::fragment(segment as u32 + 1, &catalog, &units, |_| Some(next)).unwrap();
        let body: Vec<u8> = fragment.chunks().flat_map(|chunk| chunk.to_vec()).collect();
        pages.insert(format!("/show/{segment}.m4s"), ("video/mp4", body.into()));
        playlist += &format!("#EXTINF:1.0,\n{segment}.m4s\n");
    }
    playlist += "#EXT-X-ENDLIST\n";
    pages.insert("/show/init.mp4".to_owned(), ("video/mp4", fmp4::init_segment(&catalog).unwrap()));
    pages.insert("/show/media.m3u8".to_owned(), (PLAYLIST, playlist.into()));
    let list = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1000,CODECS=\"mp4a.40.2\"\nmedia.m3u8\n\
                #EXT-X-STREAM-INF:BANDWIDTH=9000,CODECS=\"xyz1.1\"\nnot-understood.m3u8\n";
    pages.insert("/show/index.m3u8".to_owned(), (PLAYLIST, Bytes::from_static(list.as_bytes())));
    pages
}

#[tokio::test]
async fn hls_delivers_the_same_units() {
    let (listener, address) = bind().await;
    tokio::spawn(serve(listener, hls_pages()));
    let mut watcher = Watcher::start(&format!("http://{address}/show/index.m3u8"), TransportFilter::AUTO);
    watcher.watch(|w| w.ended).await;
    // A playlist that ends is played from its start.
    assert_eq!(watcher.units, (0..200).map(unit).collect::<Vec<_>>());
    assert_eq!(watcher.catalog.as_deref(), Some(&*catalog()));
}

#[tokio::test]
async fn a_target_duration_that_changes_is_reported_before_the_units_of_the_new_list() {
    let (listener, address) = bind().await;
    let pages = hls_pages();
    let ended = String::from_utf8(pages["/show/media.m3u8"].1.to_vec()).unwrap();
    let began = ended.replace("DURATION:1\n", "DURATION:2\n");
    let began = began[..began.find("#EXTINF:1.0,\n2.m4s").unwrap()].to_owned();
    tokio::spawn(serve_with(listener, move |path, nth| match path {
        // The first time to learn what kind of playlist it is.
        "/show/media.m3u8" if nth < 2 => Some(("application/vnd.apple.mpegurl", began.clone().into())),
        _ => pages.get(path).cloned(),
    }));
    let mut watcher = Watcher::keeping(&format!("http://{address}/show/media.m3u8"), TransportFilter::AUTO, true);
    watcher.watch(|w| w.ended).await;
    assert_eq!(watcher.units, (0..200).map(unit).collect::<Vec<_>>());
    assert_eq!(watcher.bursts, [(100, Duration::from_secs(1))]);
}

#[tokio::test]
async fn a_playlist_is_polled_until_the_stream_is_live() {
    let (listener, address) = bind().await;
    let pages = hls_pages();
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    tokio::spawn(serve_with(listener, move |path, nth| {
        if path == "/show/index.m3u8" {
            count.fetch_add(1, Ordering::Relaxed);
            if nth < 2 {
                return Some(("later", Bytes::new()));
            }
        }
        pages.get(path).cloned()
    }));
    let mut watcher = Watcher::start(&format!("http://{address}/show/index.m3u8"), TransportFilter::AUTO);
    watcher.watch(|w| w.ended).await;
    assert_eq!(watcher.units.len(), 200);
    assert_eq!(watcher.states, [State::Connecting, State::Waiting, State::Live]);
    assert_eq!(requests.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_playlist_that_is_not_found_without_retry_after_fails_at_once() {
    let (listener, address) = bind().await;
    tokio::spawn(serve(listener, hls_pages()));
    let mut watcher = Watcher::start(&format!("http://{address}/shwo/index.m3u8"), TransportFilter::AUTO);
    watcher.watch(|w| w.failure.is_some()).await;
    let error = watcher.failure.unwrap().to_string();
    assert!(error.contains("/shwo/index.m3u8") && error.contains("404"), "{error}");
}

#[tokio::test]
async fn a_segment_is_requested_again_and_then_skipped() {
    // The nth response for the second segment; the units that are missing.
    type Answer = fn(usize, Bytes) -> Option<Bytes>;
    let cases: [(&str, Answer, std::ops::Range<i64>); 3] = [
        ("is late", |times, body| (times >= 2).then_some(body), 0..0),
        ("is cut", |times, body| Some(if times == 0 { body.slice(..body.len() - 100) } else { body }), 0..0),
        ("never comes", |_, _| None, 50..100),
    ];
    for (name, answer, missing) in cases {
        let (listener, address) = bind().await;
        let pages = hls_pages();
        tokio::spawn(serve_with(listener, move |path, times| {
            let (kind, body) = pages.get(path)?.clone();
            let body = if path == "/show/1.m4s" { answer(times, body)? } else { body };
            Some((kind, body))
        }));
        let mut watcher = Watcher::keeping(&format!("http://{address}/show/media.m3u8"), TransportFilter::AUTO, true);
        watcher.watch(|w| w.ended).await;
        let wanted: Vec<_> = (0..200).filter(|n| !missing.contains(n)).map(unit).collect();
        assert_eq!(watcher.units, wanted, "{name}");
        assert_eq!(watcher.opened.len(), 1, "{name}");
    }
}

/// The first two segments of [`hls_pages`], followed by parts of a fifth of a second. The playlist lists as many parts as its query asks for, at least
/// one.
fn low_latency_page(pages: &BTreeMap<String, (&'static str, Bytes)>, path: &str) -> Option<(&'static str, Bytes)> {
    let (name, query) = path.split_once('?').unwrap_or((path, ""));
    let part = |n: i64| {
        let units: Vec<_> = (100 + n * 10..110 + n * 10).map(unit).collect();
        let fragment = fmp4::fragment(10 + n as u32, &catalog(), &units, |_| Some(unit(110 + n * 10).dts)).unwrap();
        Bytes::from(fragment.chunks().flat_map(|chunk| chunk.to_vec()).collect::<Vec<_>>())
    };
    if let Some(n) = name.strip_prefix("/show/part-").and_then(|n| n.parse().ok()) {
        return Some(("video/mp4", part(n)));
    }
    if name != "/show/media.m3u8" {
        return pages.get(name).cloned();
    }
    let value = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.parse::<i64>().ok());
    assert!(value("_HLS_msn=").is_none_or(|msn| msn == 9), "{query}");
    let count = value("_HLS_part=").unwrap_or(0) + 1;
    let mut text = "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:1\n\
        #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL=6.0,PART-HOLD-BACK=0.6\n#EXT-X-PART-INF:PART-TARGET=0.2\n\
        #EXT-X-MEDIA-SEQUENCE:7\n#EXT-X-MAP:URI=\"init.mp4\"\n#EXTINF:1.0,\n0.m4s\n#EXTINF:1.0,\n1.m4s\n"
        .to_owned();
    for n in 0..count.min(5) {
        text += &format!("#EXT-X-PART:DURATION=0.2,URI=\"part-{n}\",INDEPENDENT=YES\n");
    }
    text += &if count > 5 {
        "#EXTINF:1.0,\nx\n#EXT-X-ENDLIST\n".into()
    } else {
        format!("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"part-{count}\"\n")
    };
    Some(("application/vnd.apple.mpegurl", text.into()))
}

#[tokio::test]
async fn ll_hls_delivers_the_same_units_by_parts() {
    for (filter, by) in [(TransportFilter::AUTO, "LL-HLS"), (low_latency_hls(), "LL-HLS")] {
        let (listener, address) = bind().await;
        let pages = hls_pages();
        tokio::spawn(serve_with(listener, move |path, _| low_latency_page(&pages, path)));
        let url = format!("http://{address}/show/media.m3u8");
        let mut watcher = Watcher::start(&url, filter);
        watcher.watch(|w| w.ended).await;
        // From the beginning of a segment more than three parts behind the live edge to the last part.
        assert_eq!(watcher.units, (50..150).map(unit).collect::<Vec<_>>());
        assert_eq!(watcher.opened, [format!("{by} {url}")]);
    }
}

#[tokio::test]
async fn playback_falls_back_from_parts_to_segments() {
    let (listener, address) = bind().await;
    let pages = hls_pages();
    tokio::spawn(serve_with(listener, move |path, _| {
        low_latency_page(&pages, path).filter(|_| !path.starts_with("/show/part-"))
    }));
    let url = format!("http://{address}/show/media.m3u8");
    let mut watcher = Watcher::start(&url, TransportFilter::AUTO);
    watcher.watch(|w| w.opened.last() == Some(&format!("HLS {url}"))).await;
    assert_eq!(watcher.opened[0], format!("LL-HLS {url}"));
}

#[tokio::test]
async fn ll_hls_fails_with_a_playlist_without_parts() {
    let (listener, address) = bind().await;
    tokio::spawn(serve(listener, hls_pages()));
    let mut watcher = Watcher::start(&format!("http://{address}/show/media.m3u8"), low_latency_hls());
    watcher.watch(|w| w.failure.is_some()).await;
    let error = watcher.failure.unwrap().to_string();
    assert!(error.contains("no parts that can be waited for"), "{error}");
}

#[tokio::test]
async fn a_path_whose_segments_are_missing_is_reopened() {
    let (listener, address) = bind().await;
    let pages = hls_pages();
    tokio::spawn(serve_with(listener, move |path, times| {
        let (kind, body) = pages.get(path)?.clone();
        (path.ends_with("8") || path.ends_with("init.mp4") && times > 100).then_some((kind, body))
    }));
    let mut watcher = Watcher::start(&format!("http://{address}/show/media.m3u8"), TransportFilter::AUTO);
    watcher.watch(|w| w.opened.len() > 1).await;
    assert!(watcher.units.is_empty());
}

#[tokio::test]
async fn uris_are_relative_to_the_playlist_after_redirects() {
    let (listener, address) = bind().await;
    let mut pages = hls_pages();
    for (from, to) in [("/x/y.m3u8", "/show/index.m3u8"), ("/old.m3u8", "/show/media.m3u8")] {
        pages.insert(from.to_owned(), ("redirect", Bytes::from_static(to.as_bytes())));
    }
    tokio::spawn(serve(listener, pages));
    for path in ["x/y.m3u8", "old.m3u8"] {
        let mut watcher = Watcher::start(&format!("http://{address}/{path}"), TransportFilter::AUTO);
        watcher.watch(|w| w.ended || w.failure.is_some()).await;
        assert_eq!(watcher.units.len(), 200, "{path}: {:?}", watcher.failure);
    }
}

#[tokio::test]
async fn the_next_path_of_a_page_is_tried_when_one_fails() {
    let (closed, nobody) = bind().await;
    drop(closed);
    let (listener, address) = bind().await;
    let mut pages = hls_pages();
    let answer = format!(
        r#"{{"name":"show","urls":{{"page":"x","rtmp":"rtmp://{nobody}/live/show","hls":"http://{address}/show/index.m3u8"}}}}"#
    );
    pages.insert("/api/v1/streams/show/watch".to_owned(), ("application/json", answer.into()));
    // A live playlist has no EXT-X-ENDLIST.
    let (_, playlist) = pages.get_mut("/show/media.m3u8").unwrap();
    *playlist = String::from_utf8_lossy(playlist).replace("#EXT-X-ENDLIST\n", "").into();
    tokio::spawn(serve(listener, pages));
    let mut watcher = Watcher::start(&format!("http://{address}/show"), TransportFilter::AUTO);
    watcher.watch(|w| w.units.last() == Some(&unit(199))).await;
    assert_eq!(watcher.opened, [format!("HLS http://{address}/show/index.m3u8")]);

    let mut watcher = Watcher::start(&format!("http://{address}/shwo"), TransportFilter::AUTO);
    watcher.watch(|w| w.failure.is_some()).await;
    assert!(matches!(watcher.failure, Some(Error::UnknownStream { .. })), "{:?}", watcher.failure);
}

#[tokio::test]
async fn a_response_that_is_not_hls_fails_with_a_reason() {
    let (listener, address) = bind().await;
    let page = |text: &'static str| ("text/plain", Bytes::from_static(text.as_bytes()));
    let pages = BTreeMap::from([
        ("/a.m3u8".to_owned(), page("<html>hello")),
        ("/b.m3u8".to_owned(), page("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nx.aac\n#EXT-X-ENDLIST\n")),
        (
            "/c.m3u8".to_owned(),
            page("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-KEY:METHOD=AES-128,URI=\"k\"\n#EXTINF:1,\nx.aac\n"),
        ),
        ("/x.aac".to_owned(), page("neither of the two")),
    ]);
    tokio::spawn(serve(listener, pages));
    for (name, wanted) in [("a", "#EXTM3U"), ("b", "neither fMP4"), ("c", "encrypted")] {
        let mut watcher = Watcher::start(&format!("http://{address}/{name}.m3u8"), TransportFilter::AUTO);
        watcher.watch(|w| w.failure.is_some()).await;
        let error = watcher.failure.unwrap().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}
