//! Joining, idling, resuming and leaving.

use std::time::Duration;

use media::{Epoch, Timestamp, TrackId};
use tokio::time::timeout;

use super::super::server::{Ended, MAX_REQUESTS};
use super::super::wire::{Proof, ReceivedUnit, Start};
use super::super::{Error, Event, subscribe};
use super::{TestStream, connect, join, next, serve, take, watch_live};
use crate::sim::simulate;

#[test]
fn a_join_gets_the_newest_idr_at_once_and_then_every_unit() {
    simulate(|network| async move {
        let stream = TestStream::new();
        stream.push(0..25, 1000);
        let server = serve(&network, &stream);
        let (_endpoint, mut subscription) = watch_live(&network, &server).await;
        let (pictures, _) = take(&mut subscription, 5).await;
        assert_eq!(pictures, (20..25).map(|n| n * 33).collect::<Vec<_>>());
        stream.push(25..45, 1000);
        let (pictures, _) = take(&mut subscription, 20).await;
        assert_eq!(pictures, (25..45).map(|n| n * 33).collect::<Vec<_>>(), "over two ends of groups");
        stream.end();
        while !matches!(next(&mut subscription).await, Event::Ended) {}
    });
}

#[test]
fn a_join_without_an_idr_gets_sound_at_once_and_pictures_from_the_next_idr_on() {
    simulate(|network| async move {
        let stream = TestStream::new();
        stream.push(1..3, 1000);
        let server = serve(&network, &stream);
        let (_endpoint, mut subscription) = watch_live(&network, &server).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.push(3..5, 1000);
        for n in 3..5 {
            let Event::Unit(ReceivedUnit { unit, .. }) = next(&mut subscription).await else { panic!("no sound") };
            assert_eq!((unit.track, unit.dts.as_millis()), (TrackId::AUDIO, n * 33 + 5));
        }
        stream.push(5..13, 1000);
        let (pictures, _) = take(&mut subscription, 3).await;
        assert_eq!(pictures, (10..13).map(|n| n * 33).collect::<Vec<_>>());
    });
}

#[test]
fn a_subscriber_is_notified_of_capacity() {
    simulate(|network| async move {
        let stream = TestStream::new();
        stream.push(0..5, 1000);
        stream.capacity.send_replace(false);
        let server = serve(&network, &stream);
        let (_endpoint, mut subscription) = join(&network, &server).await;
        assert!(matches!(next(&mut subscription).await, Event::Capacity(false)), "before it flows");
        // Units may be sent nevertheless.
        subscription.start(Start::LiveEdge).await.unwrap();
        take(&mut subscription, 5).await;
        stream.capacity.send_replace(true);
        assert!(matches!(next(&mut subscription).await, Event::Capacity(true)));
    });
}

#[test]
fn timing_is_sent_on_request_and_too_many_requests_end_the_subscription() {
    simulate(|network| async move {
        let stream = TestStream::new();
        stream.push(0..25, 1000);
        let mut server = serve(&network, &stream);
        let (_endpoint, mut subscription) = join(&network, &server).await;
        let at = Timestamp::from_millis(33);
        subscription.request_timing(Some(at)).await.unwrap();
        let Event::Timing { report, requested_at, received_at } = next(&mut subscription).await else {
            panic!("no timing")
        };
        assert_eq!((report.units[0].dts, report.epoch), (at, Epoch(7)));
        assert_eq!(received_at - requested_at, Duration::from_millis(2), "the round trip of the simulated link");
        // A unit is reported as sent for the first time only once, however many subscribers receive it.
        subscription.start(Start::LiveEdge).await.unwrap();
        take(&mut subscription, 5).await;
        let (_other, mut second) = watch_live(&network, &server).await;
        take(&mut second, 5).await;
        assert!((5..=10).contains(&stream.first_sends()), "{} of 5 pictures and 5 sounds", stream.first_sends());
        for _ in 0..MAX_REQUESTS {
            if subscription.request_timing(None).await.is_err() {
                break;
            }
        }
        let end = timeout(Duration::from_secs(5), server.ends.recv()).await.expect("it ends").unwrap();
        assert!(matches!(end, Ended::Failed(Error::TooOften { what: "TIMING", .. })), "{end:?}");
    });
}

#[test]
fn an_idle_subscription_resumes_at_the_very_next_unit() {
    simulate(|network| async move {
        let stream = TestStream::new();
        stream.push(0..13, 1000);
        let server = serve(&network, &stream);
        let (_endpoint, mut subscription) = join(&network, &server).await;
        let nothing = timeout(Duration::from_millis(100), subscription.next()).await;
        assert!(nothing.is_err(), "an idle subscription got {nothing:?}");
        stream.push(13..18, 1000);
        let have = |video, audio| {
            let (video, audio) = (Timestamp::from_millis(video), Timestamp::from_millis(audio));
            Start::After { epoch: Epoch(7), have: vec![(TrackId::VIDEO, video), (TrackId::AUDIO, audio)] }
        };
        subscription.start(have(14 * 33, 13 * 33 + 5)).await.unwrap();
        let Event::Unit(first) = next(&mut subscription).await else { panic!("no unit") };
        let predecessor = first.predecessor_dts.map(Timestamp::as_millis);
        assert_eq!((first.unit.dts.as_millis(), predecessor), (14 * 33 + 5, Some(13 * 33 + 5)));
        let (pictures, _) = take(&mut subscription, 3).await;
        assert_eq!(pictures, [15 * 33, 16 * 33, 17 * 33], "in the middle of a group, without duplicates");
        // Stopped, and resumed ahead of the server: it waits for new units.
        subscription.stop().await.unwrap();
        stream.push(18..19, 1000);
        subscription.start(have(20 * 33, 20 * 33 + 5)).await.unwrap();
        stream.push(19..23, 1000);
        let (pictures, _) = take(&mut subscription, 2).await;
        assert_eq!(pictures, [21 * 33, 22 * 33]);
        // The next unit has left the window: the newest IDR.
        stream.push(23..500, 1000);
        subscription.start(have(0, 5)).await.unwrap();
        let (pictures, _) = take(&mut subscription, 1).await;
        assert_eq!(pictures, [490 * 33]);
        // Another broadcast than the server's.
        subscription.start(Start::After { epoch: Epoch(8), have: vec![] }).await.unwrap();
        assert_eq!(take(&mut subscription, 1).await.0, [490 * 33]);
    });
}

/// How often the server dropped a group shows where it reads: it continues at another position than where it stopped.
#[test]
fn a_subscriber_that_does_not_read_is_moved_to_the_newest_idr() {
    simulate(|network| async move {
        let stream = TestStream::new();
        stream.push(0..1, 300_000);
        let server = serve(&network, &stream);
        let (_endpoint, mut subscription) = watch_live(&network, &server).await;
        let (_, mut sounds) = take(&mut subscription, 1).await;
        // More than QUIC's windows hold, for longer than a unit may wait: the window holds twice as much.
        let mut groups = 1..20;
        while stream.jumps() == 0 {
            if let Some(n) = groups.next() {
                stream.push(n * 10..n * 10 + 10, 300_000);
            }
            timeout(Duration::from_secs(20), stream.has_read.notified()).await.expect("it drops a group");
        }
        stream.end();
        let (mut gaps, mut last) = (0, Some(0));
        loop {
            match next(&mut subscription).await {
                Event::Gap(track) => {
                    assert_eq!(track, TrackId::VIDEO, "audio is never dropped for video");
                    (gaps, last) = (gaps + 1, None);
                }
                Event::Unit(ReceivedUnit { unit, predecessor_dts, .. }) if unit.track.is_video() => {
                    let follows = predecessor_dts.map(Timestamp::as_millis) == last && last.is_some();
                    assert!(follows || unit.random_access, "a picture without its predecessors");
                    last = Some(unit.dts.as_millis());
                }
                Event::Unit(ReceivedUnit { unit, .. }) => sounds.push(unit.dts.as_millis()),
                Event::Timing { .. } | Event::Capacity(_) => panic!("nothing was requested, and there is capacity"),
                Event::Ended => break,
            }
        }
        assert!(gaps >= 1 && gaps == stream.jumps(), "{gaps} gaps, dropped {} times", stream.jumps());
        let all = [0].into_iter().chain(10..groups.start * 10);
        assert_eq!(sounds, all.map(|n| n * 33 + 5).collect::<Vec<_>>());
    });
}

#[test]
fn a_rejection_states_the_reason() {
    simulate(|network| async move {
        let stream = TestStream::new();
        let server = serve(&network, &stream);
        let (_endpoint, connection) = connect(&network, server.address, server.pin).await;
        let refused = subscribe(connection, "other", Proof::Ticket("t".into())).await.unwrap_err();
        assert_eq!(refused.to_string(), "refused (no such stream): There is no such stream.");
        assert!(!refused.retry());
    });
}

#[test]
fn a_client_that_never_subscribes_is_closed_after_the_deadline() {
    simulate(|network| async move {
        let stream = TestStream::new();
        let server = serve(&network, &stream);
        let (_endpoint, connection) = connect(&network, server.address, server.pin).await;
        let _control = connection.open_bi().await.unwrap();
        let started = tokio::time::Instant::now();
        let reason = connection.closed().await;
        assert!(matches!(reason, quinn::ConnectionError::ApplicationClosed(_)), "{reason:?}");
        assert_eq!(started.elapsed().as_secs(), super::super::server::REQUEST_TIMEOUT.as_secs());
    });
}
