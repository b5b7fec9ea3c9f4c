//! How URLs are parsed and answers of servers are judged.

use super::server_info::stream;
use super::*;
use crate::api::{StreamCounters, StreamInfo, StreamState, TrackInfo, Urls, ViewerCounts, WindowInfo};

#[test]
fn urls_are_parsed_by_role() {
    let describe = |url: &str, role| match Target::parse(url, role) {
        Ok(Target::Server(s)) => {
            let rtmp = s.rtmp.map(|(host, port)| format!("{host}:{port}"));
            format!(
                "{} {:?} {:?} {:?} {}",
                shown(&s.origin),
                s.name,
                rtmp,
                s.hls.map(|url| url.to_string()),
                s.is_guess
            )
        }
        Ok(Target::Broadcaster(names)) => names.join(" "),
        Err(error) => format!("{error:?}"),
    };
    for (url, role, wanted) in [
        ("http://h:8080/x", Role::Subscriber, r#"http://h:8080 Some("x") None None false"#),
        ("https://u:p@h/x?token=t#f", Role::Subscriber, r#"https://h Some("x") None None false"#),
        ("http://h:8080/", Role::Subscriber, "Name"),
        ("http://h:8080/", Role::Publisher, "http://h:8080 None None None false"),
        // Below a path of a proxy.
        ("http://h/a/b", Role::Publisher, r#"http://h Some("b") None None false"#),
        ("http://h/x/index.m3u8", Role::Subscriber, r#"http://h Some("x") None Some("http://h/x/index.m3u8") false"#),
        ("http://h/a/b/c.m3u8", Role::Subscriber, r#"http://h None None Some("http://h/a/b/c.m3u8") false"#),
        ("rtmp://h/live/x", Role::Subscriber, r#"http://h:8080 Some("x") Some("h:1935") None true"#),
        ("rtmp://h/live/key", Role::Publisher, r#"http://h:8080 None Some("h:1935") None true"#),
        ("rtmp://h:1/live", Role::Publisher, r#"http://h:8080 None Some("h:1") None true"#),
        ("rtmp://[::1]/live", Role::Publisher, r#"http://[::1]:8080 None Some("::1:1935") None true"#),
        ("rtmp://h/live", Role::Subscriber, "Rtmp(Name)"),
        ("rtmps://h/live/x", Role::Subscriber, "Rtmp(Tls)"),
        ("nearcast://h:1,g:2#CODE", Role::Subscriber, "h:1 g:2"),
        ("nearcast://h#CODE", Role::Subscriber, "Port"),
        ("nearcast://h:1", Role::Publisher, "Scheme"),
        ("h/x", Role::Subscriber, "Scheme"),
    ] {
        assert_eq!(describe(url, role), wanted, "{url}");
    }
}

fn track(codec: &str, size: Option<(u32, u32)>) -> TrackInfo {
    let (width, height) = size.unzip();
    let (id, kind, codec, rfc6381) = (String::new(), String::new(), codec.to_owned(), String::new());
    TrackInfo { id, kind, codec, rfc6381, width, height, frame_rate: None, sample_rate: None, channels: None }
}

fn stream_info(state: StreamState, tracks: Vec<TrackInfo>) -> StreamInfo {
    StreamInfo {
        name: "live".to_owned(),
        state,
        since: None,
        epoch: None,
        clock: None,
        tracks,
        viewers: ViewerCounts::default(),
        bitrate: 0,
        window: WindowInfo { seconds: 0.0, bytes: 0, keyframe_interval: None, first_position: 0, next_position: 0 },
        hls: None,
        counters: StreamCounters::default(),
        urls: Urls::default(),
        advice: Vec::new(),
    }
}

#[test]
fn the_state_of_a_stream_is_classified() {
    let live = stream_info(StreamState::Live, vec![track("H.264", Some((1280, 720))), track("AAC", None)]);
    assert_eq!(stream(&live, Role::Subscriber), (Check::ok("stream", "live: H.264 1280x720, AAC"), true));
    let mut rare = live.clone();
    for (interval, status) in
        [(2.0, Status::Ok), (8.3, Status::Warn), (f64::NAN, Status::Ok), (-1.0, Status::Ok), (1e300, Status::Ok)]
    {
        rare.window.keyframe_interval = Some(interval);
        assert_eq!(stream(&rare, Role::Publisher).0.status(), status, "{interval}");
    }
    for state in [StreamState::Disconnected, StreamState::Ended, StreamState::Offline] {
        let (check, is_live) = stream(&stream_info(state, Vec::new()), Role::Publisher);
        assert_eq!((check.status(), is_live), (Status::Warn, false), "{state:?}");
    }
}

#[test]
fn one_working_transport_is_enough_for_a_viewer() {
    let (ok, warn) = (|name| Check::ok(name, ""), |name| Check::warn(name, "", ""));
    for (ways, role, wanted) in [
        (vec![warn("RTMP"), ok("relay")], Role::Subscriber, [Status::Warn, Status::Ok]),
        (vec![warn("RTMP"), warn("relay")], Role::Subscriber, [Status::Fail, Status::Fail]),
        (vec![warn("RTMP"), ok("relay")], Role::Publisher, [Status::Fail, Status::Ok]),
        (vec![ok("RTMP"), warn("relay")], Role::Publisher, [Status::Ok, Status::Warn]),
    ] {
        let statuses: Vec<Status> = weigh(ways, role).iter().map(Check::status).collect();
        assert_eq!(statuses, wanted);
    }
}

#[tokio::test]
async fn a_server_that_does_not_listen_fails_without_showing_the_url() {
    // Bound and dropped, so that nothing listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (_, lan_broadcasters) = oneshot::channel();
    let target = Target::parse(&format!("http://127.0.0.1:{port}/sekrit"), Role::Subscriber).unwrap();
    let checks = check(&target, Role::Subscriber, lan_broadcasters).await;
    assert_eq!((checks[0].name(), checks[0].status()), ("HTTP", Status::Fail));
    assert!(!format!("{checks:?} {target:?}").contains("sekrit"));
}
