//! The hub: takeover, resumption, grace, cursors and counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use media::codec::{Codec, CodecConfig, Format};
use media::live_window::Bounds;
use media::{AccessUnit, Catalog, Cursor, Epoch, Timestamp, Track, TrackId};

use super::{
    Hub, HubSettings, HubStream, Interest, PublishGuard, PublishState, PublisherInfo, PushOutcome, RevokeReason,
};
use crate::auth::ValidKey;

const GRACE: Duration = Duration::from_secs(30);

fn hub() -> Arc<Hub> {
    let window = Bounds { duration: Duration::from_secs(10), bytes: 10_000 };
    Hub::new(HubSettings { window, grace: GRACE, grace_after_unpublish: Duration::from_secs(5) })
}

fn catalog(epoch: u64) -> Arc<Catalog> {
    let mut catalog = Catalog::new(Epoch(epoch));
    let format = Format::Video { width: 1, height: 1 };
    catalog.set_track(Track {
        id: TrackId::VIDEO,
        config: CodecConfig { codec: Codec::H264, record: Bytes::new(), format },
    });
    Arc::new(catalog)
}

fn unit(epoch: u64, track: TrackId, millis: i64) -> AccessUnit {
    let dts = Timestamp::from_millis(millis);
    let payload = Bytes::from_static(b"0123456789");
    AccessUnit { epoch: Epoch(epoch), track, dts, pts: dts, random_access: millis % 400 == 0, payload }
}

fn publish(stream: &Arc<HubStream>) -> PublishGuard {
    stream.publish(PublisherInfo::default())
}

/// Pushes video frames with these DTS, in milliseconds.
fn push(publishing: &PublishGuard, catalog: &Arc<Catalog>, millis: impl IntoIterator<Item = i64>) -> Vec<PushOutcome> {
    millis.into_iter().map(|at| publishing.push(catalog, unit(catalog.epoch.0, TrackId::VIDEO, at), None)).collect()
}

fn names(stream: &HubStream, cursor: &mut Cursor) -> Vec<(u64, i64)> {
    let entries = stream.read(cursor, usize::MAX).entries;
    entries.iter().map(|e| (e.unit.epoch.0, e.unit.dts.as_millis())).collect()
}

#[tokio::test]
async fn a_takeover_is_complete_at_once() {
    let stream = hub().open("live");
    let (first, a) = (publish(&stream), catalog(1));
    push(&first, &a, [0, 40]);
    let (second, b) = (publish(&stream), catalog(2));
    assert_eq!(push(&first, &a, [80]), [PushOutcome::Revoked]);
    assert_eq!(first.revoked().await, RevokeReason::TakenOver);
    assert_eq!(push(&second, &b, [0]), [PushOutcome::Accepted { position: 2 }]);
    drop(first);
    assert!(matches!(stream.state(), PublishState::Live { .. }), "the old publisher's end is not the stream's");
    let info = stream.info();
    assert_eq!((info.counters.takeovers, info.counters.publishers, info.counters.units), (1, 2, 3));
    assert_eq!(info.catalog.map(|c| c.epoch), Some(Epoch(2)));
}

#[test]
fn duplicate_units_are_dropped() {
    let stream = hub().open("live");
    let a = catalog(1);
    let first = publish(&stream);
    push(&first, &a, [0, 40, 80]);
    first.push(&a, unit(1, TrackId::AUDIO, 90), None);
    drop(first);
    let second = publish(&stream);
    let (epoch, have) = second.high_water().last().unwrap();
    assert_eq!(epoch, Epoch(1));
    assert_eq!(have, [(TrackId::VIDEO, Timestamp::from_millis(80)), (TrackId::AUDIO, Timestamp::from_millis(90))]);
    let duplicate = PushOutcome::Duplicate;
    assert_eq!(
        push(&second, &a, [0, 40, 80, 120]),
        [duplicate, duplicate, duplicate, PushOutcome::Accepted { position: 4 }]
    );
    assert_eq!(second.push(&a, unit(1, TrackId::AUDIO, 90), None), duplicate);
    // Marks survive another broadcast in between.
    let third = publish(&stream);
    push(&third, &catalog(2), [0]);
    let fourth = publish(&stream);
    assert_eq!(push(&fourth, &a, [120, 160]), [duplicate, PushOutcome::Accepted { position: 6 }]);
    assert_eq!(stream.info().counters.duplicate_units, 5);
}

#[test]
fn a_stream_waits_for_its_publisher() {
    let hub = hub();
    let stream = hub.open("live");
    assert_eq!(stream.state(), PublishState::Idle);
    let first = publish(&stream);
    assert!(matches!(stream.state(), PublishState::Live { .. }));
    drop(first);
    let now = Instant::now();
    hub.sweep(now + GRACE - Duration::from_secs(1));
    assert!(matches!(stream.state(), PublishState::Disconnected { .. }));
    let second = publish(&stream);
    hub.sweep(now + GRACE * 2);
    assert!(matches!(stream.state(), PublishState::Live { .. }), "the publisher reconnected");
    second.unpublish();
    hub.sweep(now + Duration::from_secs(4));
    assert!(matches!(stream.state(), PublishState::Disconnected { .. }));
    hub.sweep(now + Duration::from_secs(6));
    assert!(matches!(stream.state(), PublishState::Ended { .. }));
    let _third = publish(&stream);
    assert!(matches!(stream.state(), PublishState::Live { .. }));
}

#[test]
fn an_ended_stream_holds_nothing_and_sends_nothing_old() {
    let hub = hub();
    let stream = hub.open("live");
    let publishing = publish(&stream);
    push(&publishing, &catalog(1), (0..100).map(|n| n * 40));
    let mut reader = Cursor::at_live_edge();
    names(&stream, &mut reader);
    drop(publishing);
    let now = Instant::now();
    hub.sweep(now + GRACE - Duration::from_secs(1));
    assert_eq!(stream.info().window.bytes, 1000, "until the grace period is over, a publisher and players may resume");
    hub.sweep(now + GRACE);
    let window = stream.info().window;
    assert_eq!((window.bytes, window.duration), (0, Duration::ZERO));
    assert_eq!((window.first_position, window.next_position), (100, 100));
    let late = [Cursor::at_live_edge(), Cursor::at(window.first_position), Cursor::at(0)];
    for mut cursor in late {
        assert_eq!(names(&stream, &mut cursor), []);
    }
    assert_eq!(stream.lag(&Cursor::at(0), now + GRACE * 2), Duration::ZERO);
    assert!(!stream.is_removed());
    // The next broadcast reaches players that waited.
    push(&publish(&stream), &catalog(2), [0, 40]);
    assert_eq!(names(&stream, &mut reader), [(2, 0), (2, 40)]);
}

#[test]
fn readers_continue_across_publishers() {
    let stream = hub().open("live");
    let mut cursor = Cursor::at_live_edge();
    let changed = stream.changed();
    let first = publish(&stream);
    push(&first, &catalog(1), [0, 40]);
    assert_eq!(names(&stream, &mut cursor), [(1, 0), (1, 40)]);
    drop(first);
    push(&publish(&stream), &catalog(2), [400, 440]);
    assert_eq!(names(&stream, &mut cursor), [(2, 400), (2, 440)]);
    assert_eq!((changed.borrow().next_position, stream.next_position()), (4, 4));
}

#[test]
fn resyncs_are_counted() {
    let stream = hub().open("live");
    let publishing = publish(&stream);
    let mut cursor = Cursor::at_live_edge();
    push(&publishing, &catalog(1), [0]);
    stream.read(&mut cursor, usize::MAX);
    push(&publishing, &catalog(1), (1..25).map(|n| n * 40));
    assert_eq!(stream.jump_to_live_edge(&mut cursor), 19);
    assert_eq!(stream.jump_to_live_edge(&mut cursor), 0);
    // The window holds ten seconds: 250 frames later it has moved past the cursor.
    push(&publishing, &catalog(1), (25..400).map(|n| n * 40));
    let read = stream.read(&mut cursor, usize::MAX);
    let counters = stream.info().counters;
    assert_eq!((counters.resyncs, counters.skipped_units), (2, 19 + read.skipped));
    assert!(read.skipped > 0);
}

#[tokio::test]
async fn a_removed_stream_ends() {
    let hub = hub();
    let stream = hub.open("live");
    let publishing = publish(&stream);
    hub.end("live");
    assert_eq!(publishing.revoked().await, RevokeReason::KeyRevoked);
    assert!(matches!(stream.state(), PublishState::Ended { .. }));
    assert!(hub.stream("live").is_none());
    assert!(stream.is_removed() && stream.changed().borrow().ended);
    stream.removed().await;
    let publishing = publish(&hub.open("other"));
    hub.block_all();
    assert_eq!(publishing.revoked().await, RevokeReason::ShuttingDown);
}

#[tokio::test]
async fn the_publisher_whose_key_is_not_valid_is_revoked() {
    let hub = hub();
    let key = |stream: &str, id: &str| ValidKey { stream: stream.parse().unwrap(), id: id.parse().unwrap() };
    let (old, new) = (key("live", "0123456789ab"), key("live", "0123456789ac"));
    let publish_with = |stream: &Arc<HubStream>, key: &ValidKey| {
        stream.publish(PublisherInfo { key: Some(key.clone()), ..PublisherInfo::default() })
    };
    let (stream, keyless) = (hub.open("live"), publish(&hub.open("keyless")));
    let other = publish_with(&hub.open("other"), &key("other", "0123456789ad"));
    let publishing = publish_with(&stream, &old);
    hub.revoke_keys(|_| true);
    assert_eq!(publishing.revoke_reason(), None);
    hub.revoke_keys(|key| *key != old);
    assert_eq!(publishing.revoked().await, RevokeReason::KeyRevoked);
    assert!(matches!(stream.state(), PublishState::Disconnected { .. }), "a publisher may still connect");
    let publishing = publish_with(&stream, &new);
    hub.revoke_keys(|key| *key != old);
    assert_eq!([&publishing, &other, &keyless].map(PublishGuard::revoke_reason), [None; 3]);
}

#[tokio::test]
async fn publishing_to_a_removed_or_draining_stream_is_revoked() {
    let hub = hub();
    let removed = hub.open("live");
    hub.end("live");
    let (draining, other) = (hub.open("live"), hub.open("other"));
    hub.block_all();
    let late = hub.open("late");
    for (stream, why) in [
        (removed, RevokeReason::KeyRevoked),
        (draining, RevokeReason::ShuttingDown),
        (other, RevokeReason::ShuttingDown),
        (late, RevokeReason::ShuttingDown),
    ] {
        let publishing = publish(&stream);
        assert_eq!((publishing.revoke_reason(), publishing.revoked().await), (Some(why), why));
        assert_eq!(push(&publishing, &catalog(1), [0]), [PushOutcome::Revoked]);
        drop(publishing);
        assert!(!matches!(stream.state(), PublishState::Live { .. }), "{:?}", stream.state());
        assert_eq!(stream.info().counters.publishers, 0);
    }
    let stream = super::HubStream::new("fresh", *hub.settings(), None);
    assert_eq!(publish(&stream).revoke_reason(), None);
}

#[test]
fn lag_is_the_time_that_the_next_unit_has_waited() {
    let stream = hub().open("live");
    let publishing = publish(&stream);
    push(&publishing, &catalog(1), [0]);
    push(&publishing, &catalog(2), (0..100).map(|n| n * 40));
    let in_a_second = Instant::now() + Duration::from_secs(1);
    let lag = |position| stream.lag(&Cursor::at(position), in_a_second).as_secs();
    // A burst of four seconds, preceded by another epoch: a second later, half of it is not due yet.
    assert_eq!((lag(0), lag(1), lag(60), lag(101)), (1, 1, 0, 0));
    assert_eq!(stream.lag(&Cursor::at_live_edge(), in_a_second), Duration::ZERO);
}

#[test]
fn viewers_are_counted_by_protocol() {
    let stream = hub().open("live");
    let guards: Vec<_> = ["rtmp", "rtmp", "relay"].map(|p| stream.subscriber(p)).into();
    stream.set_viewers("hls", 7);
    assert_eq!(stream.info().viewers, [("hls", 7), ("relay", 1), ("rtmp", 2)].into());
    drop(guards);
    assert_eq!(stream.info().viewers, [("hls", 7), ("relay", 0), ("rtmp", 0)].into());
}

#[test]
fn wakers_are_called_for_the_events_they_registered_for() {
    #[derive(Default)]
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let stream = hub().open("live");
    let publishing = publish(&stream);
    let a = catalog(1);
    push(&publishing, &a, [0]);
    let (all, pictures) = (Arc::new(Count::default()), Arc::new(Count::default()));
    let guards = [
        stream.on_publish(Interest::EveryUnit, Waker::from(all.clone())),
        stream.on_publish(Interest::Pictures, Waker::from(pictures.clone())),
    ];
    let counts = || (all.0.load(Ordering::Relaxed), pictures.0.load(Ordering::Relaxed));
    publishing.push(&a, unit(1, TrackId::AUDIO, 10), None);
    assert_eq!(counts(), (1, 0));
    push(&publishing, &a, [40]);
    assert_eq!(counts(), (2, 1));
    publishing.push(&catalog(1), unit(1, TrackId::AUDIO, 50), None);
    assert_eq!(counts(), (3, 2), "a new catalog concerns everybody");
    drop(publishing);
    assert_eq!(counts(), (4, 3));
    drop(guards);
    push(&publish(&stream), &a, [80]);
    assert_eq!(counts(), (4, 3));
}

/// The same holds for the crates that it uses, and for the assembly of tracks in ingest: adding a protocol takes a folder and a line of
/// assembly.
#[test]
fn the_hub_names_no_protocol() {
    let package = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["src/hub", "../common/live/src"].map(|folder| package.join(folder));
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(|file| file.unwrap().path());
    let ingest = ["epochs.rs", "pending.rs", "track_assembler.rs"].map(|file| package.join("src/ingest").join(file));
    let mut read = 0;
    for file in files.filter(|file| !file.ends_with("tests.rs")).chain(ingest) {
        let found = protocols(&std::fs::read_to_string(&file).unwrap());
        assert!(found.is_empty(), "{}: {found:?}", file.display());
        read += 1;
    }
    assert!(read > 11, "{read} files");
}

#[test]
fn a_protocol_is_found_in_any_spelling() {
    for (text, expected) in [
        ("fn on_segment(&self)", vec!["segment"]),
        ("Stage::InSegment", vec!["segment"]),
        ("struct HLSStream; struct FlvTag;", vec!["hls", "flv"]),
        ("/// Playlists by HTTPS, as in index.m3u8", vec!["playlists", "https", "m3u8"]),
        ("const RTMP_PORT: u16", vec!["rtmp"]),
        ("fn on_relayed(unit: &AccessUnit); Segmentation", vec![]),
    ] {
        assert_eq!(protocols(text), expected, "{text}");
    }
}

/// The words of `text` that name a protocol or a part of one, in lower case, also in the plural.
fn protocols(text: &str) -> Vec<String> {
    let is_protocol = |word: &str| PROTOCOLS.contains(&word);
    let is_named = |word: &String| is_protocol(word) || word.strip_suffix('s').is_some_and(is_protocol);
    words(text).into_iter().filter(is_named).collect()
}

/// The words of `text` in lower case; identifiers are split at underscores and capitals.
fn words(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut words = vec![String::new()];
    for (n, c) in chars.iter().enumerate() {
        let follows_capital = n > 0 && chars[n - 1].is_uppercase();
        let precedes_small = chars.get(n + 1).is_some_and(|next| next.is_lowercase());
        if !c.is_alphanumeric() || c.is_uppercase() && (!follows_capital || precedes_small) {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| c.is_alphanumeric()) {
            word.extend(c.to_lowercase());
        }
    }
    words
}

const PROTOCOLS: [&str; 15] = [
    "axum", "flv", "hls", "http", "m3u8", "playlist", "quic", "quinn", "relay", "rtmp", "segment", "srt", "webrtc",
    "whep", "whip",
];
