//! RTMP egress over loopback, with both engines: joins, resumption, changes, audio only, and slow players.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use cdn::config::FanoutEngine;
use cdn::hub::PublisherInfo;
use media::{Timestamp, TrackId};
use support::{Server, audio, catalog, picture, sound, video, viewers};

const V: TrackId = TrackId::VIDEO;
const A: TrackId = TrackId::AUDIO;
const ENGINES: [FanoutEngine; 2] = [FanoutEngine::Auto, FanoutEngine::Epoll];

#[tokio::test]
async fn a_join_starts_at_the_newest_idr_at_once() {
    for engine in ENGINES {
        let server = Server::start(engine, |_| {}).await;
        server.key("live");
        let stream = server.hub.stream("live").unwrap();
        let publishing = stream.publish(PublisherInfo::default());
        let c = catalog(1, &[video(), audio()]);
        for n in 0..25 {
            publishing.push(&c, picture(1, n * 40, n % 10 == 0, 5000), None);
            publishing.push(&c, sound(1, n * 40 + 7), None);
        }
        let mut viewer = server.play("live").await.unwrap();
        assert_eq!(viewer.times(3).await, [(V, 800), (A, 807), (V, 840)]);
        assert_eq!(viewer.catalog, *c);
        // Then it continues with new units.
        assert_eq!(viewer.times(7).await.last(), Some(&(A, 967)));
        publishing.push(&c, picture(1, 1000, false, 200_000), None);
        let unit = viewer.next().await.unwrap();
        assert_eq!((unit.id(), unit.payload.len()), (picture(1, 1000, false, 200_000).id(), 200_000));
    }
}

#[tokio::test]
async fn a_resuming_player_misses_no_unit() {
    let server = Server::start(FanoutEngine::Auto, |_| {}).await;
    server.key("live");
    let stream = server.hub.stream("live").unwrap();
    let publishing = stream.publish(PublisherInfo::default());
    let c = catalog(0xabc, &[video()]);
    for n in 0..60 {
        publishing.push(&c, picture(0xabc, n * 40, n % 10 == 0, 100), None);
    }
    for (after, first) in [
        ("nearcastEpoch=0000000000000abc&nearcastAfter=v0:840", 800),
        // The first new unit is an IDR: the GOP before it shows that nothing is missing.
        ("nearcastEpoch=0000000000000abc&nearcastAfter=v0:1160", 800),
        ("nearcastEpoch=0000000000000abc&nearcastAfter=v0:999999", 2000),
        // Another broadcast, another track, nonsense.
        ("nearcastEpoch=0000000000000abd&nearcastAfter=v0:840", 2000),
        ("nearcastEpoch=0000000000000abc&nearcastAfter=a0:840", 2000),
        ("nearcastEpoch=0000000000000abc&nearcastAfter=v0:-1", 2000),
        ("nearcastEpoch=&nearcastAfter=", 2000),
    ] {
        let mut viewer = server.play(&format!("live?{after}")).await.unwrap();
        assert_eq!(viewer.times(1).await, [(V, first)], "{after}");
    }
}

/// DTS of the frame before the one at `dts`.
fn before(dts: i64) -> Option<Timestamp> {
    (dts > 0).then(|| Timestamp::from_millis(dts - 40))
}

#[tokio::test]
async fn a_player_receives_the_predecessor_of_each_unit() {
    for engine in ENGINES {
        let server = Server::start(engine, |_| {}).await;
        server.key("live");
        let stream = server.hub.stream("live").unwrap();
        let mut early = server.play("live").await.unwrap();
        viewers(&stream, 1).await;
        let publishing = stream.publish(PublisherInfo::default());
        let c = catalog(1, &[video(), audio()]);
        // A publisher that skipped frames 4 to 19 and their audio.
        let push = |n: i64| {
            publishing.push(&c, picture(1, n * 40, n % 10 == 0, 100), before(n * 40));
            publishing.push(
                &c,
                sound(1, n * 40 + 7),
                before(n * 40).map(|dts| Timestamp::from_millis(dts.as_millis() + 7)),
            );
        };
        push(0);
        assert_eq!((early.times(2).await, early.predecessor), (vec![(V, 0), (A, 7)], None), "the first of all");
        (1..4).chain(20..24).for_each(push);
        let mut late = server.play("live").await.unwrap();
        for (viewer, pictures) in [(&mut early, [1, 2, 3, 20, 21, 22, 23].as_slice()), (&mut late, &[20, 21, 22, 23])] {
            for n in pictures {
                assert_eq!(
                    (viewer.next().await.unwrap().dts.as_millis(), viewer.predecessor),
                    (n * 40, before(n * 40))
                );
                viewer.next().await.unwrap();
                let expected = before(n * 40).map(|dts| dts.as_millis() + 7);
                assert_eq!(viewer.predecessor.map(Timestamp::as_millis), expected, "the sound of {n}");
            }
        }
        // Both get the same bytes from here on; the next audio unit is the late player's first.
        push(24);
        for viewer in [&mut early, &mut late] {
            for expected in [23 * 40, 23 * 40 + 7] {
                viewer.next().await.unwrap();
                assert_eq!(viewer.predecessor.map(Timestamp::as_millis), Some(expected));
            }
        }
    }
}

#[tokio::test]
async fn a_catalog_change_precedes_the_unit_that_needs_it() {
    for engine in ENGINES {
        let server = Server::start(engine, |_| {}).await;
        server.key("live");
        let stream = server.hub.stream("live").unwrap();
        let mut viewer = server.play("live").await.unwrap();
        viewers(&stream, 1).await;
        let publishing = stream.publish(PublisherInfo::default());
        let one = catalog(1, &[video()]);
        publishing.push(&one, picture(1, 0, true, 100), None);
        assert_eq!((viewer.times(1).await, viewer.catalog.tracks.len()), (vec![(V, 0)], 1));
        let two = catalog(1, &[video(), audio()]);
        publishing.push(&two, sound(1, 5), None);
        assert_eq!((viewer.times(1).await, viewer.catalog.tracks.len()), (vec![(A, 5)], 2));
        let three = catalog(3, &[video(), audio()]);
        publishing.push(&three, picture(3, 0, true, 100), None);
        assert_eq!((viewer.times(1).await, viewer.catalog.epoch), (vec![(V, 0)], three.epoch));
    }
}

#[tokio::test]
async fn audio_alone_does_not_wait_for_video() {
    for engine in ENGINES {
        let server = Server::start(engine, |_| {}).await;
        server.key("live");
        let stream = server.hub.stream("live").unwrap();
        let mut viewer = server.play("live").await.unwrap();
        viewers(&stream, 1).await;
        let publishing = stream.publish(PublisherInfo::default());
        let c = catalog(1, &[audio()]);
        for n in 0..50 {
            publishing.push(&c, sound(1, n * 23), None);
            assert_eq!(viewer.times(1).await, [(A, n * 23)]);
        }
    }
}

#[tokio::test]
async fn a_slow_player_delays_no_other_and_resyncs_at_an_idr() {
    for engine in ENGINES {
        let server = Server::start(engine, |config| {
            config.hub.buffer_bytes = bytesize::ByteSize::mib(8);
            // The window's size, not time, limits how far it falls behind: on a busy machine the fast player lags in time too.
            config.fanout.max_lag = Duration::from_secs(60);
            config.rtmp.write_timeout = Duration::from_secs(60);
        })
        .await;
        server.key("live");
        let stream = server.hub.stream("live").unwrap();
        let publishing = stream.publish(PublisherInfo::default());
        let c = catalog(1, &[video()]);
        let mut slow = server.play("live").await.unwrap();
        let mut fast = server.play("live").await.unwrap();
        viewers(&stream, 2).await;
        // 40 MB, of which the slow player reads nothing: more than its socket buffer and the window hold.
        for n in 0..400 {
            publishing.push(&c, picture(1, n * 40, n % 10 == 0, 100_000), before(n * 40));
            assert_eq!(
                fast.times(1).await,
                [(V, n * 40)],
                "the fast player gets each picture while the other is stuck"
            );
        }
        // Units already in its socket arrive complete; then an IDR follows.
        let mut last = slow.next().await.unwrap().dts.as_millis();
        let (mut gaps, mut received) = (0, 1);
        while last != 399 * 40 {
            let unit = slow.next().await.unwrap();
            assert_eq!(slow.predecessor, before(unit.dts.as_millis()), "the gap is stated");
            if unit.dts.as_millis() != last + 40 {
                assert!(unit.random_access && unit.dts.as_millis() > last, "{last} to {}", unit.dts);
                gaps += 1;
            }
            last = unit.dts.as_millis();
            received += 1;
        }
        let counters = stream.info().counters;
        assert!(gaps > 0 && counters.resyncs >= gaps, "{counters:?}");
        assert_eq!(counters.skipped_units + received, 400);
    }
}

#[tokio::test]
async fn a_player_that_reads_nothing_times_out() {
    for engine in ENGINES {
        let server = Server::start(engine, |config| config.rtmp.write_timeout = Duration::from_secs(1)).await;
        server.key("live");
        let stream = server.hub.stream("live").unwrap();
        let publishing = stream.publish(PublisherInfo::default());
        let c = catalog(1, &[video()]);
        let _stuck = server.play("live").await.unwrap();
        viewers(&stream, 1).await;
        for n in 0..200 {
            publishing.push(&c, picture(1, n * 40, n % 10 == 0, 100_000), None);
            tokio::task::yield_now().await;
        }
        viewers(&stream, 0).await;
        let (timeouts, players) = ("nearcast_rtmp_write_timeouts_total", "nearcast_rtmp_players");
        assert_eq!((server.metric(timeouts).await, server.metric(players).await), (1, 0));
    }
}

#[tokio::test]
async fn players_wait_for_a_publisher_and_are_notified_of_the_end() {
    let server = Server::start(FanoutEngine::Auto, |config| config.hub.grace = Duration::from_secs(60)).await;
    server.key("live");
    let stream = server.hub.stream("live").unwrap();
    assert!(server.play("other").await.is_err(), "a name without a key is refused");
    let mut viewer = server.play("live").await.unwrap();
    viewers(&stream, 1).await;
    let c = catalog(1, &[video()]);
    let first = stream.publish(PublisherInfo::default());
    first.push(&c, picture(1, 0, true, 100), None);
    assert_eq!(viewer.times(1).await, [(V, 0)]);
    drop(first);
    // The publisher has disconnected; the player receives the next one on the same connection.
    let second = stream.publish(PublisherInfo::default());
    second.push(&c, picture(1, 40, false, 100), None);
    assert_eq!(viewer.times(1).await, [(V, 40)]);
    drop(second);
    server.hub.sweep(Instant::now() + Duration::from_secs(61));
    assert_eq!(viewer.times(1).await, []);
    viewers(&stream, 0).await;
}

#[tokio::test]
async fn players_are_notified_of_a_shutdown() {
    let server = Server::start(FanoutEngine::Auto, |_| {}).await;
    server.key("live");
    let stream = server.hub.stream("live").unwrap();
    let mut viewer = server.play("live").await.unwrap();
    viewers(&stream, 1).await;
    server.shut_down();
    assert_eq!(viewer.times(1).await, []);
    server.stopped().await;
}

#[tokio::test]
async fn several_servers_run_in_one_process() {
    let (one, two) =
        tokio::join!(Server::start(FanoutEngine::Auto, |_| {}), Server::start(FanoutEngine::Epoll, |_| {}));
    let c = catalog(1, &[video()]);
    for (server, millis) in [(&one, 0), (&two, 400)] {
        server.key("live");
        let publishing = server.hub.stream("live").unwrap().publish(PublisherInfo::default());
        publishing.push(&c, picture(1, millis, true, 100), None);
        assert_eq!(server.play("live").await.unwrap().times(1).await, [(V, millis)]);
    }
    one.stopped().await;
    assert!(two.play("live").await.is_ok(), "the other runs on");
    two.stopped().await;
}
