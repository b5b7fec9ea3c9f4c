//! LL-HLS: blocking requests, how long they wait, and their responses.

use super::*;
use crate::hub::PublishGuard;

/// Two segments of two seconds, and four parts of the next.
async fn on_air() -> (Fixture, PublishGuard, u64) {
    let fixture = Fixture::new();
    let publishing = fixture.publish();
    push(&publishing, 1, 0..5);
    let segment = first_segment(&fixture).await;
    let first = segment.trim_start_matches("/live/seg-").trim_end_matches(".m4s").parse().unwrap();
    (fixture, publishing, first)
}

fn playlist(directives: &str) -> String {
    format!("/live/media.m3u8?{directives}")
}

#[tokio::test(start_paused = true)]
async fn a_reload_waits_for_the_part_that_it_names() {
    let (fixture, publishing, first) = on_air().await;
    let open = first + 2;
    let whole = fixture.fetch("/live/media.m3u8", &[]).await;
    let hint = format!("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"part-{open}-4.m4s\"\n");
    assert!(whole.text().ends_with(&hint), "{}", whole.text());
    assert!(whole.text().contains("#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL=12.000,PART-HOLD-BACK="));

    // A playlist that already has the part is served at once, and is the same as without directives.
    let started = tokio::time::Instant::now();
    for there in [format!("_HLS_msn={first}"), format!("_HLS_msn={open}&_HLS_part=3"), "_HLS_msn=0&_HLS_part=99".into()]
    {
        let reply = fixture.fetch(&playlist(&there), &[]).await;
        assert_eq!((reply.status, reply.text()), (StatusCode::OK, whole.text()), "{there}");
        assert_eq!(reply.header("cache-control"), "public, max-age=12");
    }
    assert_eq!(started.elapsed(), Duration::ZERO);

    let (next, part) = (playlist(&format!("_HLS_msn={open}&_HLS_part=4")), format!("/live/part-{open}-4.m4s"));
    let (next, part, ()) = tokio::join!(fixture.fetch(&next, &[]), fixture.fetch(&part, &[]), async {
        tokio::task::yield_now().await;
        push(&publishing, 1, 5..6);
    });
    assert!(next.text().contains(&format!("URI=\"part-{open}-4.m4s\"")), "{}", next.text());
    assert_eq!((part.status, part.header("cache-control")), (StatusCode::OK, "public, max-age=31536000, immutable"));
    assert!(part.body.windows(4).any(|four| four == b"moof"));
    let ranged = fixture.fetch(&format!("/live/part-{open}-4.m4s"), &[("range", "bytes=10-19")]).await;
    assert_eq!((ranged.status.as_u16(), &ranged.body[..]), (206, &part.body[10..20]));

    // A request for a whole segment blocks too; the segment consists of its parts.
    let segment = playlist(&format!("_HLS_msn={open}"));
    let (reply, ()) = tokio::join!(fixture.fetch(&segment, &[]), async {
        tokio::task::yield_now().await;
        push(&publishing, 1, 6..7);
    });
    assert!(reply.text().contains(&format!("\nseg-{open}.m4s\n")), "{}", reply.text());
    let mut parts = Vec::new();
    for n in 0..10 {
        parts.extend(fixture.fetch(&format!("/live/part-{open}-{n}.m4s"), &[]).await.body);
    }
    assert_eq!(parts, fixture.fetch(&format!("/live/seg-{open}.m4s"), &[]).await.body);
}

#[tokio::test]
async fn a_delta_update_is_served_on_request() {
    let fixture = Fixture::new();
    let publishing = fixture.publish();
    push(&publishing, 1, 0..21);
    first_segment(&fixture).await;
    for (directives, is_delta) in
        [("", false), ("_HLS_skip=YES", true), ("_HLS_skip=v2", true), ("_HLS_skip=NO", false), ("_HLS_skip", false)]
    {
        let reply = fixture.fetch(&playlist(directives), &[]).await;
        assert_eq!(reply.text().contains("#EXT-X-SKIP:SKIPPED-SEGMENTS=4\n"), is_delta, "{}", reply.text());
        let packed = fixture.fetch(&playlist(directives), &[("accept-encoding", "gzip")]).await;
        assert_eq!((packed.header("content-encoding"), unpacked(&packed.body)), ("gzip", reply.text().to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn invalid_directives_are_rejected_at_once() {
    let (fixture, _publishing, first) = on_air().await;
    let open = first + 2;
    let started = tokio::time::Instant::now();
    for directives in [
        "_HLS_part=1".to_owned(),
        "_HLS_msn=".to_owned(),
        "_HLS_msn=-1".to_owned(),
        "_HLS_msn=+1".to_owned(),
        "_HLS_msn=1.5".to_owned(),
        "_HLS_msn=%31".to_owned(),
        "_HLS_msn=0x10".to_owned(),
        "_HLS_msn=18446744073709551615".to_owned(),
        "_HLS_msn=18446744073709551616".to_owned(),
        format!("_HLS_msn={}", "9".repeat(4000)),
        format!("_HLS_msn={}", open + 2),
        format!("_HLS_msn={open}&_HLS_part=-1"),
        format!("_HLS_msn={open}&_HLS_part=1000"),
        format!("_HLS_msn={}&_HLS_part=18446744073709551615", open + 1),
    ] {
        let reply = fixture.fetch(&playlist(&directives), &[]).await;
        assert_eq!(
            (reply.status, reply.header("cache-control")),
            (StatusCode::BAD_REQUEST, "no-store"),
            "{directives}"
        );
    }
    // Parts without a preload hint are not waited for.
    for name in [format!("part-{open}-5.m4s"), format!("part-{}-0.m4s", open + 1), "part-0-0.m4s".to_owned()] {
        let reply = fixture.fetch(&format!("/live/{name}"), &[]).await;
        assert_eq!((reply.status, reply.header("cache-control")), (StatusCode::NOT_FOUND, "no-store"), "{name}");
    }
    // Unknown parameters, and directives on the multivariant playlist.
    for path in ["/live/media.m3u8?token=x&_HLS=1&_hls_msn=-1", "/live/index.m3u8?_HLS_msn=-1"] {
        assert_eq!(fixture.fetch(path, &[]).await.status, StatusCode::OK, "{path}");
    }
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_blocking_request_that_times_out_may_be_repeated() {
    let (fixture, publishing, first) = on_air().await;
    let open = first + 2;
    let paths = [playlist(&format!("_HLS_msn={open}&_HLS_part=4")), format!("/live/part-{open}-4.m4s")];
    let told_after_six_seconds = async || {
        for path in &paths {
            let started = tokio::time::Instant::now();
            let reply = fixture.fetch(path, &[]).await;
            let found = (reply.status.as_u16(), reply.header("retry-after"), started.elapsed().as_secs());
            assert_eq!(found, (503, "2", 6), "{path}");
        }
    };
    told_after_six_seconds().await;
    drop(publishing);
    told_after_six_seconds().await;
    // The publisher resumes its broadcast.
    let publishing = fixture.publish();
    let (reply, ()) = tokio::join!(fixture.fetch(&paths[0], &[]), async {
        tokio::task::yield_now().await;
        push(&publishing, 1, 5..6);
    });
    assert!(reply.status == StatusCode::OK && !reply.text().contains("DISCONTINUITY"), "{}", reply.text());
}

#[tokio::test(start_paused = true)]
async fn blocking_requests_end_with_the_stream() {
    let (fixture, publishing, first) = on_air().await;
    let reload = playlist(&format!("_HLS_msn={}", first + 3));
    let part = format!("/live/part-{}-4.m4s", first + 2);
    let (text, part, ()) = tokio::join!(fixture.fetch(&reload, &[]), fixture.fetch(&part, &[]), async {
        tokio::task::yield_now().await;
        drop(publishing);
        fixture.hub.sweep(std::time::Instant::now() + Duration::from_secs(60));
    });
    assert!(text.text().ends_with("#EXT-X-ENDLIST\n"), "{}", text.text());
    // The part in progress when the stream ended becomes its last part.
    assert_eq!(part.status, StatusCode::OK);
    let over = fixture.fetch(&playlist("_HLS_msn=99999999999&_HLS_skip=YES"), &[]).await;
    assert!(over.text().ends_with("#EXT-X-ENDLIST\n") && !over.text().contains("SKIP:"), "{}", over.text());
}

#[tokio::test(start_paused = true)]
async fn blocking_requests_end_with_the_server() {
    let (fixture, _publishing, first) = on_air().await;
    let started = tokio::time::Instant::now();
    let paths = [playlist(&format!("_HLS_msn={}", first + 2)), format!("/live/part-{}-4.m4s", first + 2)];
    let (text, part, ()) = tokio::join!(fixture.fetch(&paths[0], &[]), fixture.fetch(&paths[1], &[]), async {
        tokio::task::yield_now().await;
        fixture.stop.cancel();
    });
    assert_eq!((text.status.as_u16(), part.status.as_u16(), started.elapsed()), (503, 503, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn sequence_numbers_continue_across_broadcasts() {
    let (fixture, publishing, first) = on_air().await;
    let reload = playlist(&format!("_HLS_msn={}&_HLS_part=0", first + 3));
    let hinted = format!("/live/part-{}-0.m4s", first + 3);
    let (text, ()) = tokio::join!(fixture.fetch(&reload, &[]), async {
        tokio::task::yield_now().await;
        drop(publishing);
        push(&fixture.publish(), 2, 0..3);
    });
    assert!(text.text().contains("#EXT-X-DISCONTINUITY\n"), "{}", text.text());
    assert_eq!(fixture.fetch(&hinted, &[]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn all_blocking_requests_share_one_text() {
    let (fixture, publishing, first) = on_air().await;
    let path = playlist(&format!("_HLS_msn={}&_HLS_part=4&_HLS_skip=YES", first + 2));
    let waiting: Vec<_> = (0..1000).map(|_| fixture.fetch(&path, &[])).collect();
    let all = async {
        let mut replies = Vec::new();
        for reply in futures_of(waiting).await {
            assert_eq!(reply.status, StatusCode::OK);
            replies.push(reply.body);
        }
        replies
    };
    let (bodies, ()) = tokio::join!(all, async {
        tokio::task::yield_now().await;
        push(&publishing, 1, 5..6);
    });
    let place = bodies[0].as_ptr();
    assert!(bodies.len() == 1000 && bodies.iter().all(|body| body.as_ptr() == place), "a copy for each");
}

/// All of them at once.
async fn futures_of<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, done) in futures.iter_mut().zip(&mut done).filter(|(_, done)| done.is_none()) {
            if let std::task::Poll::Ready(output) = future.as_mut().poll(context) {
                *done = Some(output);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test]
async fn without_ll_hls_no_request_blocks() {
    let hls = hls::HlsSettings { low_latency: false, ..hls::HlsSettings::default() };
    let fixture = Fixture::with(HttpSettings::default(), hls);
    let publishing = fixture.publish();
    push(&publishing, 1, 0..21);
    first_segment(&fixture).await;
    for directives in ["", "_HLS_msn=-1", "_HLS_msn=99999999999&_HLS_part=1", "_HLS_skip=YES"] {
        let reply = fixture.fetch(&playlist(directives), &[]).await;
        assert_eq!(reply.status, StatusCode::OK, "{directives}");
        assert!(!["PART", "HINT", "SKIP", "CONTROL"].iter().any(|tag| reply.text().contains(tag)), "{}", reply.text());
    }
    let watch = fixture.fetch("/api/v1/streams/live/watch", &[]).await.json();
    assert_eq!(watch["hls"]["low_latency"], false);
}

#[tokio::test]
async fn one_connection_brings_the_playlist_and_the_part() {
    let (fixture, _, address) = listening(Limits::default(), 8).await;
    let publishing = fixture.publish();
    push(&publishing, 1, 0..5);
    let segment = first_segment(&fixture).await;
    let first: u64 = segment.trim_start_matches("/live/seg-").trim_end_matches(".m4s").parse().unwrap();
    let mut socket = TcpStream::connect(address).await.unwrap();
    let mut text = Vec::new();
    for part in 4..8 {
        let (reload, part_of) = (playlist(&format!("_HLS_msn={}&_HLS_part={part}", first + 2)), first + 2);
        for path in [reload, format!("/live/part-{part_of}-{part}.m4s")] {
            socket.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        }
        if part == 4 {
            push(&publishing, 1, 5..7);
        }
        // A playlist and a part for each.
        while text.windows(4).filter(|four| four == b"moof").count() < part - 3 {
            assert!(socket.read_buf(&mut text).await.unwrap() > 0, "closed");
        }
        assert_eq!(String::from_utf8_lossy(&text).matches("HTTP/1.1 200 OK").count(), 2 * (part - 3));
    }
}
