//! The reader: epochs, clocks, late tracks, unreadable messages.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use media::catalog::Value;
use media::{Catalog, Epoch, Timestamp, TrackId, WallClock};
use net::rtmp::{Gap, Message, Metadata};

use super::reader::{Error, Reader};
use crate::ingest::pending::PendingLimits;
use crate::ingest::track_assembler::Assembled;

const LIMITS: PendingLimits = PendingLimits { track_wait: Duration::from_secs(1), max_pending_bytes: 1000 };

/// AVC sequence header: High, 320x180.
const AVC: &[u8] = &[
    0x17, 0x00, 0x00, 0x00, 0x00, 0x01, 0x64, 0x00, 0x15, 0xff, 0xe1, 0x00, 0x1a, 0x67, 0x64, 0x00, 0x15, 0xac, 0xd9,
    0x41, 0x43, 0x3f, 0x26, 0x02, 0x20, 0x00, 0x00, 0x03, 0x00, 0x20, 0x00, 0x00, 0x03, 0x02, 0x83, 0xe2, 0x85, 0x32,
    0xc0, 0x01, 0x00, 0x06, 0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc0,
];
/// AAC sequence header: LC, 44.1 kHz, stereo.
const AAC: &[u8] = &[0xaf, 0, 0x12, 0x10];

fn video(timestamp: u32, body: &[u8]) -> Message {
    Message::Video { timestamp, body: Bytes::copy_from_slice(body) }
}

fn audio(timestamp: u32, body: &[u8]) -> Message {
    Message::Audio { timestamp, body: Bytes::copy_from_slice(body) }
}

/// An IDR of one slice.
fn idr(timestamp: u32) -> Message {
    video(timestamp, &[0x17, 1, 0, 0, 0, 0, 0, 0, 2, 0x65, 0x88])
}

fn sound(timestamp: u32) -> Message {
    audio(timestamp, &[0xaf, 1, 0x21, 0x10])
}

fn metadata(keys: &[&str], epoch: Option<u64>) -> Message {
    let values = keys.iter().map(|key| ((*key).to_owned(), Value::Number(1.0))).collect();
    let clock = epoch.map(|_| WallClock::from_micros(5));
    Message::Metadata(Metadata { values, epoch: epoch.map(Epoch), clock, dts: None })
}

fn feed(reader: &mut Reader, messages: impl IntoIterator<Item = Message>) -> Vec<Assembled> {
    let now = Instant::now();
    messages.into_iter().flat_map(|message| reader.message(message, now).unwrap()).collect()
}

fn times(units: &[Assembled]) -> Vec<(TrackId, i64)> {
    units.iter().map(|Assembled { unit, .. }| (unit.track, unit.dts.as_millis())).collect()
}

const V: TrackId = TrackId::VIDEO;
const A: TrackId = TrackId::AUDIO;

#[test]
fn units_wait_for_announced_tracks() {
    let check = |messages: Vec<Message>, expected: &[(TrackId, i64)], tracks: usize| {
        let mut reader = Reader::new(LIMITS, None);
        let units = feed(&mut reader, messages);
        assert_eq!(times(&units), expected);
        assert!(units.iter().all(|Assembled { catalog, .. }| catalog.tracks.len() == tracks));
    };
    let both = ["videocodecid", "audiocodecid"];
    check(vec![metadata(&both, None), video(0, AVC), idr(0)], &[], 0);
    check(vec![metadata(&both, None), video(0, AVC), idr(0), audio(0, AAC), sound(5)], &[(V, 0), (A, 5)], 2);
    check(vec![metadata(&["videocodecid"], None), video(0, AVC), idr(0), idr(40)], &[(V, 0), (V, 40)], 1);
    check(vec![metadata(&["audiocodecid"], None), audio(0, AAC), sound(0)], &[(A, 0)], 1);
    check(vec![video(0, AVC), idr(0), audio(0, AAC), sound(5)], &[(V, 0), (A, 5)], 2);
    check(vec![video(0, AVC), idr(0), metadata(&["videocodecid"], None)], &[(V, 0)], 1);
    check(vec![video(0, AVC), idr(0), Message::EndOfStream], &[(V, 0)], 1);
}

#[test]
fn the_wait_is_bounded_in_time_and_bytes() {
    let mut reader = Reader::new(LIMITS, None);
    assert_eq!(reader.deadline(), None);
    assert!(feed(&mut reader, [video(0, AVC), idr(0)]).is_empty());
    let deadline = reader.deadline().unwrap();
    assert!(reader.on_deadline(deadline - Duration::from_millis(1)).is_empty());
    assert_eq!(times(&reader.on_deadline(deadline)), [(V, 0)]);
    assert_eq!((reader.deadline(), times(&feed(&mut reader, [idr(40)]))), (None, vec![(V, 40)]));

    let mut reader = Reader::new(PendingLimits { max_pending_bytes: 10, ..LIMITS }, None);
    assert_eq!(feed(&mut reader, [video(0, AVC), idr(0), idr(40)]).len(), 2);
}

#[test]
fn a_late_track_makes_a_new_catalog() {
    let mut reader = Reader::new(LIMITS, None);
    let units =
        feed(&mut reader, [metadata(&["videocodecid"], None), video(0, AVC), idr(0), audio(0, AAC), sound(9), idr(40)]);
    let tracks: Vec<_> = units.iter().map(|Assembled { catalog, .. }| catalog.tracks.len()).collect();
    assert_eq!(tracks, [1, 2, 2]);
    assert!(Arc::ptr_eq(&units[1].catalog, &units[2].catalog));
    assert_eq!(units[0].catalog.epoch, units[1].catalog.epoch);
}

#[test]
fn a_stated_epoch_is_kept_exactly() {
    let last = Some((Epoch(7), Timestamp::from_millis(1_000)));
    let mut reader = Reader::new(LIMITS, last);
    let units =
        feed(&mut reader, [metadata(&["videocodecid"], Some(7)), video(0, AVC), idr(960), idr(1000), idr(1040)]);
    assert_eq!(times(&units), [(V, 960), (V, 1000), (V, 1040)]);
    assert!(
        units.iter().all(|Assembled { catalog, unit, .. }| unit.epoch == Epoch(7)
            && catalog.clock == Some(WallClock::from_micros(5)))
    );
}

#[test]
fn the_predecessor_is_the_one_that_the_publisher_states() {
    let gap = |epoch, track, dts: Option<i64>| {
        Message::Gap(Gap { epoch: Epoch(epoch), predecessors: vec![(track, dts.map(Timestamp::from_millis))] })
    };
    let follows = |units: &[Assembled]| -> Vec<_> {
        units.iter().map(|ready| ready.predecessor_dts.map(Timestamp::as_millis)).collect()
    };
    let mut reader = Reader::new(LIMITS, None);
    let begins = [metadata(&["videocodecid"], Some(7)), gap(7, V, Some(460)), video(0, AVC), idr(500), idr(540)];
    assert_eq!(follows(&feed(&mut reader, begins)), [Some(460), Some(500)], "it begins where others have been");
    let skips = [gap(7, V, Some(960)), gap(7, A, Some(3)), idr(1000), gap(8, V, Some(1)), idr(1040)];
    assert_eq!(follows(&feed(&mut reader, skips)), [Some(960), Some(1000)], "a gap of another broadcast is ignored");
    assert_eq!(follows(&feed(&mut reader, [gap(7, V, None), idr(2000)])), [None], "it does not know");
    // A publisher that states no epoch has no other path, so the order of its units determines predecessors.
    let mut reader = Reader::new(LIMITS, Some((Epoch(7), Timestamp::from_millis(60_000))));
    let units = feed(&mut reader, [metadata(&["videocodecid"], None), video(0, AVC), idr(0), idr(500), idr(533)]);
    assert_eq!(follows(&units), [None, Some(60_040), Some(60_540)]);
    // Units from before it stated the epoch get their predecessors in that epoch.
    let mut reader = Reader::new(LIMITS, Some((Epoch(6), Timestamp::from_millis(60_000))));
    let units =
        feed(&mut reader, [video(0, AVC), idr(960), idr(1000), metadata(&["videocodecid"], Some(7)), idr(1040)]);
    assert_eq!(follows(&units), [None, Some(960), Some(1000)]);
}

#[test]
fn a_resumed_broadcast_longer_than_the_rtmp_timestamp_range() {
    let far = (1i64 << 32) + 500;
    let mut reader = Reader::new(LIMITS, Some((Epoch(7), Timestamp::from_millis(far))));
    let units = feed(&mut reader, [metadata(&["videocodecid"], Some(7)), video(0, AVC), idr(540)]);
    assert_eq!(times(&units), [(V, far + 40)]);
}

#[test]
fn an_unknown_broadcast_longer_than_the_rtmp_timestamp_range() {
    let far = (1i64 << 32) + 500;
    let mut reader = Reader::new(LIMITS, Some((Epoch(8), Timestamp::from_millis(77))));
    let Message::Metadata(metadata) = metadata(&["videocodecid"], Some(7)) else { unreachable!() };
    let metadata = Metadata { dts: Some(Timestamp::from_millis(far)), ..metadata };
    let units = feed(&mut reader, [Message::Metadata(metadata), video(0, AVC), idr(540)]);
    assert_eq!(times(&units), [(V, far + 40)]);
}

#[test]
fn a_publisher_without_epoch_continues_the_last_timeline() {
    let mut reader = Reader::new(LIMITS, Some((Epoch(7), Timestamp::from_millis(60_000))));
    let units = feed(&mut reader, [metadata(&["videocodecid"], None), video(0, AVC), idr(0), idr(33)]);
    assert_eq!(times(&units), [(V, 60_040), (V, 60_073)]);
    assert_ne!(units[0].unit.epoch, Epoch(7));
}

#[test]
fn a_clock_that_is_set_continues_the_timeline() {
    let mut reader = Reader::new(LIMITS, None);
    let one = feed(&mut reader, [metadata(&["videocodecid"], None), video(0, AVC), idr(500_000), idr(500_040)]);
    let two = feed(&mut reader, [idr(0), idr(40)]);
    assert_eq!(times(&one), [(V, 500_000), (V, 500_040)]);
    assert_eq!(times(&two), [(V, 500_080), (V, 500_120)]);
    assert_eq!(one[0].unit.epoch, two[0].unit.epoch);
    assert!(two.iter().all(|Assembled { catalog, unit, .. }| catalog.epoch == unit.epoch && catalog.tracks.len() == 1));
}

#[test]
fn changed_metadata_makes_a_new_catalog() {
    let mut reader = Reader::new(LIMITS, None);
    let one = feed(&mut reader, [metadata(&["videocodecid"], None), video(0, AVC), idr(0)]);
    let same = feed(&mut reader, [metadata(&["videocodecid"], None), idr(40)]);
    let later = Instant::now() + Duration::from_secs(2);
    reader.message(metadata(&["videocodecid", "x"], None), later).unwrap();
    let other = reader.message(idr(80), later).unwrap();
    assert!(Arc::ptr_eq(&one[0].catalog, &same[0].catalog));
    assert_eq!((other[0].catalog.epoch, other[0].catalog.metadata.len()), (one[0].catalog.epoch, 2));
}

#[test]
fn frequent_metadata_changes_make_few_catalogs() {
    let mut reader = Reader::new(LIMITS, None);
    feed(&mut reader, [metadata(&["videocodecid"], None), video(0, AVC), idr(0)]);
    let start = Instant::now();
    let mut catalogs: Vec<Arc<Catalog>> = Vec::new();
    for n in 0..500u32 {
        let now = start + Duration::from_millis(10) * n;
        reader.message(metadata(&["videocodecid", &n.to_string()], None), now).unwrap();
        let units = reader.message(idr(n * 10 + 10), now).unwrap();
        catalogs.extend(units.into_iter().map(|Assembled { catalog, .. }| catalog));
    }
    // The last change is applied even if no more metadata follows.
    let now = start + Duration::from_secs(7);
    catalogs.extend(reader.message(idr(6000), now).unwrap().into_iter().map(|Assembled { catalog, .. }| catalog));
    assert!(catalogs.last().unwrap().metadata.contains_key("499"));
    catalogs.dedup_by(|a, b| Arc::ptr_eq(a, b));
    assert!((4..=7).contains(&catalogs.len()), "{}", catalogs.len());

    // Metadata of another broadcast is not deferred, and is truncated to the size limit.
    let mut values = media::catalog::Metadata::new();
    values.extend([("a".to_owned(), Value::String("x".repeat(9000))), ("b".to_owned(), Value::Boolean(true))]);
    values.extend((0..1000).map(|n| (format!("key{n}"), Value::String("x".repeat(20)))));
    reader.message(metadata(&["y"], None), now).unwrap();
    let said = Metadata { values, epoch: Some(Epoch(9)), ..Metadata::default() };
    reader.message(Message::Metadata(said), now).unwrap();
    let units = reader.message(idr(6100), now).unwrap();
    let kept = &units[0].catalog.metadata;
    assert!(units[0].catalog.epoch == Epoch(9) && kept.contains_key("b") && !kept.contains_key("a"));
    assert!(!kept.contains_key("y") && (200..500).contains(&kept.len()), "{}", kept.len());
}

#[test]
fn too_many_epochs_are_rejected() {
    let start = Instant::now();
    let stated = |n: u64| vec![metadata(&["videocodecid"], Some(n))];
    let check = |seconds_apart: u64| {
        let mut reader = Reader::new(LIMITS, None);
        feed(&mut reader, [metadata(&["videocodecid"], None), video(0, AVC)]);
        let steps = (0..100).flat_map(|n| stated(n).into_iter().map(move |m| (m, n)));
        let mut answers = steps.map(|(m, n)| reader.message(m, start + Duration::from_secs(n * seconds_apart)));
        answers.any(|answer| matches!(answer, Err(Error::TooManyEpochs(_))))
    };
    assert!(check(0) && check(1) && !check(3));
}

#[test]
fn units_before_a_stated_epoch_are_timed_as_its_own() {
    let far = (3i64 << 32) + 500;
    for (last, stated, expected) in [
        (None, None, 960),
        // The timeline of an earlier broadcast does not affect this one.
        (Some((8, 70_000)), None, 960),
        (Some((7, 70_000)), None, 960),
        (Some((7, far)), None, (3 << 32) + 960),
        (None, Some(far), (3 << 32) + 960),
    ] {
        let last_epoch = last.map(|(epoch, dts)| (Epoch(epoch), Timestamp::from_millis(dts)));
        let mut reader = Reader::new(LIMITS, last_epoch);
        let Message::Metadata(about) = metadata(&["videocodecid"], Some(7)) else { unreachable!() };
        let about = Metadata { dts: stated.map(Timestamp::from_millis), ..about };
        let units = feed(&mut reader, [video(0, AVC), idr(960), Message::Metadata(about), idr(1000)]);
        assert_eq!(times(&units), [(V, expected), (V, expected + 40)], "{last:?} {stated:?}");
        assert!(
            units.iter().all(|Assembled { catalog, unit, .. }| unit.epoch == Epoch(7) && catalog.epoch == Epoch(7))
        );
        assert!(units.iter().all(|Assembled { unit, .. }| unit.pts == unit.dts));
    }
}

#[test]
fn a_stated_dts_holds_on_both_sides_of_a_timestamp_wrap() {
    let near = Timestamp::from_millis((2 << 32) - 20);
    let about = Message::Metadata(Metadata { epoch: Some(Epoch(7)), dts: Some(near), ..Metadata::default() });
    let mut reader = Reader::new(LIMITS, None);
    let units = feed(&mut reader, [about, video(0, AVC), audio(0, AAC), sound(3), idr(u32::MAX - 9)]);
    assert_eq!(times(&units), [(A, (2 << 32) + 3), (V, (2 << 32) - 10)]);
}

#[test]
fn an_unparsable_message_is_an_error_but_not_fatal() {
    let mut reader = Reader::new(LIMITS, None);
    for body in [&[0x12][..], &[0x17, 1, 0, 0], &[0x17, 0, 0, 0, 0, 1]] {
        assert!(reader.message(video(0, body), Instant::now()).is_err(), "{body:?}");
    }
    assert_eq!(feed(&mut reader, [metadata(&["videocodecid"], None), video(0, AVC), idr(0)]).len(), 1);
}

#[test]
fn a_track_that_is_refused_beside_others_is_reported_and_they_are_kept() {
    let mut reader = Reader::new(LIMITS, None);
    feed(&mut reader, [metadata(&["videocodecid"], None), video(0, AVC)]);
    let frame = [0, 0, 6, 0, 0, 0, 2, 0x65, 0x88];
    let tracks = [b"\x96\x13avc1\0", &frame[..], b"\x01", &frame].concat();
    assert_eq!(times(&feed(&mut reader, [video(0, &tracks)])), [(V, 0)]);
    let refused = reader.take_refused();
    let other = TrackId { index: 1, ..V };
    assert!(
        matches!(&refused[..], [Error::Body(media::flv::Error::NoConfiguration(id))] if *id == other),
        "{refused:?}"
    );
    assert!(reader.take_refused().is_empty(), "they are reported once");
}
