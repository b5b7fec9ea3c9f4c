//! A server that plays one on the internet, at 127.0.0.1, directs the viewer to a server that plays a private one, at 127.0.0.2.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::super::hls::{HlsSource, LowLatency};
use super::super::http::{self, HttpClient};
use super::super::path::{OpenContext, PathSource};
use super::super::{Error, EventSender, Position};
use super::*;

const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
const PRIVATE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// `private.*` is private, `rebound.*` only from its second lookup on, all other names are public.
fn names(host: String) -> Pin<Box<dyn Future<Output = std::io::Result<Vec<SocketAddr>>> + Send>> {
    static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
    let is_private =
        host.starts_with("private.") || host.starts_with("rebound.") && LOOKUPS.fetch_add(1, Ordering::Relaxed) > 0;
    Box::pin(async move { Ok(vec![SocketAddr::new(if is_private { PRIVATE } else { PUBLIC }, 0)]) })
}

fn reach_of(host: &str) -> Reach {
    Reach::with(Some(host.to_owned()), names, |address| address.to_canonical() == PUBLIC)
}

/// Servers at both addresses and one port. The public one redirects `/STATUS/URL` to `URL`, and serves a playlist of `URL` at `/KIND/URL`; the private
/// one counts what reaches it.
async fn servers() -> (u16, Arc<AtomicUsize>) {
    let public = TcpListener::bind((PUBLIC, 0)).await.unwrap();
    let port = public.local_addr().unwrap().port();
    let private = TcpListener::bind((PRIVATE, port)).await.unwrap();
    let reached = Arc::new(AtomicUsize::new(0));
    let count = reached.clone();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = private.accept().await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            let _ = socket.read(&mut [0; 4096]).await;
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = public.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = socket.read(&mut request).await.unwrap();
            let text = String::from_utf8_lossy(&request[..length]).into_owned();
            let path = text.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
            let (kind, url) = path.split_once('/').unwrap_or_default();
            let head = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:1\n";
            let body = match kind {
                "segment" => format!("{head}#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n"),
                "map" => format!("{head}#EXT-X-MAP:URI=\"{url}\"\n#EXTINF:1,\ns.m4s\n#EXT-X-ENDLIST\n"),
                "variant" => format!("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{url}\n"),
                _ => String::new(),
            };
            let status = if body.is_empty() { kind } else { "200" };
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status} X\r\nlocation: {url}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    (port, reached)
}

/// Opens a path to the playlist at `url` until it ends.
async fn open(url: &str, http: &HttpClient) -> Result<(), Error> {
    let (events, mut inbox) = mpsc::channel(64);
    tokio::spawn(async move { while inbox.recv().await.is_some() {} });
    let sender = EventSender { path: media::path_merge::PathId(0), opening: 1, events };
    let context = OpenContext {
        position: Position::default(),
        http: http.clone(),
        is_only_path: true,
        keep_all: false,
        endpoint: None,
        active: watch::channel(true).1,
        api: None,
        is_reopening: false,
        candidates: Vec::new(),
    };
    HlsSource::new(url, LowLatency::Off).open(context, &sender).await
}

/// The same, where a private address is refused for good; returns the error.
async fn refused(url: &str, http: &HttpClient) -> String {
    let error = open(url, http).await.unwrap_err();
    assert!(!error.retry(), "{error}");
    error.to_string()
}

#[tokio::test]
async fn a_public_server_directs_the_viewer_to_no_private_address() {
    let (port, reached) = servers().await;
    let http = http::client(reach_of("public.test")).unwrap();
    let public = format!("http://public.test:{port}");
    for kind in ["301", "302", "303", "307", "308", "segment", "map", "variant"] {
        for host in ["127.0.0.2", "[::ffff:127.0.0.2]", "0x7f.2", "private.test", "private.test."] {
            let error = refused(&format!("{public}/{kind}/http://{host}:{port}/x"), &http).await;
            assert!(error.contains("private address 127.0.0.2"), "{kind} {host}: {error}");
        }
    }
    assert_eq!(reached.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn redirects_and_playlists_lead_to_public_addresses() {
    let (port, _) = servers().await;
    let http = http::client(reach_of("public.test")).unwrap();
    for kind in ["302", "segment", "map", "variant"] {
        let url = format!("http://public.test:{port}/{kind}/http://other.test:{port}/404/");
        if let Err(error) = open(&url, &http).await {
            assert!(!error.to_string().contains("private"), "{kind}: {error}");
        }
    }
}

#[tokio::test]
async fn a_user_who_asks_for_a_private_address_reaches_private_addresses() {
    let (port, reached) = servers().await;
    for asked in ["private.test", "127.0.0.2"] {
        let http = http::client(reach_of(asked)).unwrap();
        let before = reached.load(Ordering::Relaxed);
        // The user's own server is looked up first.
        http.get(&format!("http://{asked}:{port}/")).unwrap().send().await.unwrap();
        http.get(&format!("http://public.test:{port}/302/http://127.0.0.2:{port}/")).unwrap().send().await.unwrap();
        assert_eq!(reached.load(Ordering::Relaxed) - before, 2, "{asked}");
    }
}

#[tokio::test]
async fn a_name_that_becomes_private_is_refused() {
    let (port, reached) = servers().await;
    let http = http::client(reach_of("rebound.test")).unwrap();
    let error = refused(&format!("http://rebound.test:{port}/302/http://rebound.test:{port}/x"), &http).await;
    assert!(error.contains("private address"), "{error}");
    assert_eq!(reached.load(Ordering::Relaxed), 0);
}

/// A broadcaster that mDNS has found at a link-local address is reached by its interface.
#[tokio::test]
async fn a_link_local_address_keeps_its_scope() {
    let found = Reach::anywhere().addresses("[fe80::1%1]", 4444).await.unwrap();
    let [SocketAddr::V6(address)] = found[..] else { panic!("{found:?}") };
    assert_eq!((address.scope_id(), address.port()), (1, 4444));
}

#[test]
fn the_internet_is_told_from_everything_else() {
    for (address, wanted) in [
        ("1.1.1.1", true),
        ("172.32.0.1", true),
        ("2001:4860:4860::8888", true),
        ("64:ff9b::808:808", true),
        ("2002:808:808::1", true),
        ("10.0.0.1", false),
        ("172.16.0.1", false),
        ("192.168.1.1", false),
        ("127.0.0.1", false),
        ("169.254.169.254", false),
        ("100.64.0.1", false),
        ("0.0.0.0", false),
        ("192.0.0.8", false),
        ("198.18.0.1", false),
        ("224.0.0.251", false),
        ("255.255.255.255", false),
        ("::1", false),
        ("::", false),
        ("::ffff:192.168.1.1", false),
        ("::7f00:1", false),
        ("64:ff9b::a00:1", false),
        ("2002:a00:1::1", false),
        ("fe80::1", false),
        ("fd00::1", false),
        ("fec0::1", false),
        ("ff02::fb", false),
    ] {
        assert_eq!(is_public(address.parse().unwrap()), wanted, "{address}");
    }
}

#[test]
fn a_server_names_broadcasters_on_the_viewers_network_only() {
    let public = Reach::of("http://1.1.1.1/live");
    for (address, wanted) in [
        ("192.168.1.5:4444", true),
        ("[fe80::5]:4444", true),
        ("[fd00::5]:4444", true),
        ("192.168.1.5:53", false),
        ("127.0.0.1:4444", false),
        ("[::1]:4444", false),
        ("[::ffff:127.0.0.1]:4444", false),
        ("224.0.0.251:5353", false),
        ("255.255.255.255:4444", false),
        ("0.0.0.0:4444", false),
        ("8.8.8.8:4444", false),
        ("[2001:db8::1]:4444", false),
    ] {
        assert_eq!(public.may_be_broadcaster(address.parse().unwrap()), wanted, "{address}");
    }
    let own = Reach::of("http://127.0.0.1:8080/live");
    assert!(own.may_be_broadcaster("127.0.0.1:4444".parse().unwrap()));
    assert!(!own.may_be_broadcaster("224.0.0.251:5353".parse().unwrap()));
}
