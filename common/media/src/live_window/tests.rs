//! The window's bounds, its cursors and predecessors: by examples, and by properties of any sequence of units.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::catalog::Track;
use crate::codec::{Codec, CodecConfig, Format};
use crate::time::Timestamp;

#[test]
fn tiny_units_at_one_time_are_bounded() {
    let bytes = 4 << 20;
    let mut window = LiveWindow::new(Bounds { duration: Duration::from_secs(30), bytes });
    let catalog = catalog(1, false);
    for dts in 0..100_000i64 {
        let dts = Timestamp::from_millis(dts / 10_000);
        let payload = Bytes::from_static(b"x");
        let track = TrackId::AUDIO;
        let unit = AccessUnit { epoch: Epoch(1), track, dts, pts: dts, random_access: true, payload };
        window.push(Arc::clone(&catalog), unit, None);
        let entries = usize::try_from(window.next_position() - window.first_position()).unwrap();
        assert!(entries <= FREE_ENTRIES + bytes / ENTRY_COST);
    }
    assert!(size_of::<Entry>() + size_of::<Derived>() < ENTRY_COST / 2);
}

fn catalog(epoch: u64, video: bool) -> Arc<Catalog> {
    let mut catalog = Catalog::new(Epoch(epoch));
    if video {
        let format = Format::Video { width: 1, height: 1 };
        catalog.set_track(Track {
            id: TrackId::VIDEO,
            config: CodecConfig { codec: Codec::H264, record: Bytes::new(), format },
        });
    }
    Arc::new(catalog)
}

fn unit(epoch: u64, track: TrackId, dts: i64, random_access: bool, size: usize) -> AccessUnit {
    let dts = Timestamp::from_millis(dts);
    AccessUnit { epoch: Epoch(epoch), track, dts, pts: dts, random_access, payload: Bytes::from(vec![0; size]) }
}

fn window(millis: u64, bytes: usize) -> LiveWindow {
    LiveWindow::new(Bounds { duration: Duration::from_millis(millis), bytes })
}

/// Ten video frames a GOP, 40 ms apart, 10 bytes each.
fn fill(window: &mut LiveWindow, pictures: std::ops::Range<i64>) {
    let catalog = catalog(1, true);
    for n in pictures {
        window.push(catalog.clone(), unit(1, TrackId::VIDEO, n * 40, n % 10 == 0, 10), None);
    }
}

#[test]
fn a_long_gop_is_held_as_long_as_its_bytes_allow() {
    let catalog = catalog(1, true);
    let mut w = window(1000, 2000);
    for n in 0..150i64 {
        w.push(catalog.clone(), unit(1, TrackId::VIDEO, n * 40, n == 0 || n == 100, 10), None);
        let expected = if n < 100 { 0 } else { 100 };
        assert_eq!(w.join_position(), Some(expected), "{n}");
    }
    assert_eq!((w.first_position(), w.gop_duration()), (100, Some(Duration::from_millis(4000))));
    let mut w = window(1000, 500);
    for n in 0..100i64 {
        w.push(catalog.clone(), unit(1, TrackId::VIDEO, n * 40, n == 0, 10), None);
    }
    assert_eq!((w.join_position(), w.gop_duration()), (None, Some(Duration::from_millis(3960))));
    assert!(w.duration() <= Duration::from_secs(1));
}

#[test]
fn joins_at_the_newest_gop() {
    let mut w = window(10_000, 10_000);
    assert!(Cursor::at_live_edge().read(&w, usize::MAX).entries.is_empty());
    fill(&mut w, 0..25);
    let read = Cursor::at_live_edge().read(&w, usize::MAX);
    assert_eq!(read.entries.iter().map(|e| e.position).collect::<Vec<_>>(), (20..25).collect::<Vec<_>>());
    assert!(read.entries[0].starts_gop);
    assert_eq!(w.gop_start(15), Some(10));
    assert_eq!([10, 24, 25].map(|position| w.lag(position).as_millis()), [560, 0, 0]);
}

/// A video frame every 40 ms with an audio frame after each, at the source; those at `skipped` never reached this window.
fn fill_but(window: &mut LiveWindow, pictures: std::ops::Range<i64>, skipped: std::ops::Range<i64>) {
    let (catalog, mut order) = (catalog(1, true), TrackOrder::default());
    for n in pictures {
        for (track, dts) in [(TrackId::VIDEO, n * 40), (TrackId::AUDIO, n * 40 + 5)] {
            let unit = unit(1, track, dts, n % 10 == 0, 10);
            let predecessor = order.follow(&unit);
            if !skipped.contains(&n) {
                window.push(catalog.clone(), unit, predecessor);
            }
        }
    }
}

#[test]
fn the_predecessor_is_the_one_that_the_source_states() {
    let mut w = window(10_000, 10_000);
    fill_but(&mut w, 0..31, 3..30);
    let stated: Vec<_> = w.from(0).map(|e| e.predecessor_dts.map(Timestamp::as_millis)).collect();
    assert_eq!(stated, [None, None, Some(0), Some(5), Some(40), Some(45), Some(29 * 40), Some(29 * 40 + 5)]);
}

#[test]
fn a_reader_gets_the_predecessor_of_the_next_unit_per_track() {
    let mut w = window(10_000, 10_000);
    w.push(catalog(9, true), unit(9, TrackId::VIDEO, 7, true, 1), None);
    let mut both = Catalog::clone(&catalog(1, true));
    let format = Format::Audio { sample_rate: 48_000, channels: 2 };
    let config = CodecConfig { codec: Codec::Aac, record: Bytes::new(), format };
    both.set_track(Track { id: TrackId::AUDIO, config });
    let (both, at) = (Arc::new(both), |millis| Some(Timestamp::from_millis(millis)));
    w.push(both.clone(), unit(1, TrackId::VIDEO, 400, true, 1), at(360));
    w.push(both.clone(), unit(1, TrackId::AUDIO, 410, true, 1), None);
    w.push(both.clone(), unit(1, TrackId::VIDEO, 1200, true, 1), at(1160));
    w.push(both, unit(1, TrackId::VIDEO, 1240, false, 1), at(1200));
    let told = |position| [TrackId::VIDEO, TrackId::AUDIO].map(|id| w.predecessor_of_next(position, Epoch(1), id));
    assert_eq!(told(1), [at(360), None], "video, audio");
    assert_eq!(told(3), [at(1160), at(410)], "no newer audio");
    assert_eq!(told(5), [at(1240), at(410)], "no newer units");
    assert_eq!(w.predecessor_of_next(0, Epoch(9), TrackId::VIDEO), None);
    let order = |position| {
        let order = w.order_before(w.from(position).next().unwrap());
        [TrackId::VIDEO, TrackId::AUDIO].map(|track| order.newest(Epoch(1), track))
    };
    assert_eq!((order(3), order(1)), ([at(400), at(410)], [None, None]));
}

#[test]
fn data_derived_from_a_unit_is_made_once_for_all_readers() {
    let mut w = window(10_000, 10_000);
    w.push(catalog(1, true), unit(1, TrackId::VIDEO, 0, true, 1), None);
    let read = |value: u64| *Cursor::at(0).read(&w, 100).entries[0].derived(|| value);
    assert_eq!((read(1), read(2)), (1, 1));
}

#[test]
fn finds_the_first_missing_unit() {
    let mut w = window(10_000, 10_000);
    let c = catalog(1, true);
    for (track, dts) in [(TrackId::VIDEO, 0), (TrackId::AUDIO, 5), (TrackId::VIDEO, 40), (TrackId::AUDIO, 26)] {
        w.push(c.clone(), unit(1, track, dts, true, 1), None);
    }
    let check = |epoch, have: &[(TrackId, i64)], expected: Option<u64>| {
        let have: Vec<_> = have.iter().map(|(track, dts)| (*track, Timestamp::from_millis(*dts))).collect();
        assert_eq!(w.first_missing(Epoch(epoch), &have).map(|entry| entry.position), expected, "{epoch} {have:?}");
    };
    check(1, &[], Some(0));
    check(1, &[(TrackId::VIDEO, 0)], Some(1));
    check(1, &[(TrackId::VIDEO, 0), (TrackId::AUDIO, 5)], Some(2));
    check(1, &[(TrackId::VIDEO, 40), (TrackId::AUDIO, 5)], Some(3));
    check(1, &[(TrackId::VIDEO, 99), (TrackId::AUDIO, 26)], None);
    check(2, &[], None);
}

#[test]
fn a_subscriber_resumes_after_its_last_unit_unless_units_are_missing_in_between() {
    let (c, at) = (catalog(1, true), Timestamp::from_millis);
    let mut w = window(10_000, 10_000);
    let after = |w: &LiveWindow, epoch, dts| w.resume_position(Epoch(epoch), &[(TrackId::VIDEO, at(dts))]);
    assert_eq!(after(&w, 1, 80), Some(0), "an empty window: its first unit");
    // Frames 0 to 4, then a skip to 10, whose predecessor is 9.
    for n in [0, 1, 2, 3, 4, 10, 11] {
        w.push(c.clone(), unit(1, TrackId::VIDEO, n * 40, n % 5 == 0, 10), (n > 0).then(|| at((n - 1) * 40)));
    }
    for (dts, expected) in
        [(80, Some(3)), (160, Some(5)), (200, None), (360, Some(5)), (400, Some(6)), (440, Some(7)), (9999, Some(7))]
    {
        assert_eq!(after(&w, 1, dts), expected, "after {dts}");
    }
    assert_eq!(after(&w, 2, 80), None, "another broadcast is joined at its newest IDR");
    assert_eq!(w.resume_position(Epoch(1), &[(TrackId::AUDIO, at(0))]), Some(0), "no video yet");
}

#[test]
fn waits_for_the_first_gop() {
    let mut w = window(10_000, 10_000);
    fill(&mut w, 3..8);
    let mut cursor = Cursor::at_live_edge();
    assert!(cursor.read(&w, usize::MAX).entries.is_empty());
    fill(&mut w, 8..12);
    assert_eq!(cursor.read(&w, usize::MAX).entries.len(), 2);
}

#[test]
fn evicts_whole_gops() {
    let mut w = window(600, 10_000);
    fill(&mut w, 0..25);
    assert_eq!(w.first_position(), 10);
    let mut w = window(10_000, 150);
    fill(&mut w, 0..25);
    assert_eq!((w.first_position(), w.bytes()), (10, 150));
}

/// Reads five units at a time, while GOPs of each length and size end: a reader as late as that loses nothing.
#[test]
fn the_end_of_a_gop_is_held_until_it_can_be_read() {
    for (millis, bytes) in [(1000, 100_000), (100_000, 600), (100_000, usize::MAX)] {
        for gop in [1, 2, 10, 24, 25, 26, 27, 40, 90] {
            let (mut w, catalog) = (window(millis, bytes), catalog(1, true));
            let mut cursor = Cursor::at(0);
            for n in 0..300 {
                w.push(catalog.clone(), unit(1, TrackId::VIDEO, n * 40, n % gop == 0, 10), None);
                w.push(catalog.clone(), unit(1, TrackId::AUDIO, n * 40, true, 10), None);
                if n % 5 == 4 {
                    let read = cursor.read(&w, usize::MAX);
                    assert_eq!((read.skipped, read.entries.len()), (0, 10), "{millis} ms, {bytes} bytes, {gop}: {n}");
                }
            }
        }
    }
}

#[test]
fn an_oversized_gop_is_cut_and_cannot_be_joined() {
    let mut w = window(10_000, 50);
    let c = catalog(1, true);
    for n in 0..20 {
        w.push(c.clone(), unit(1, TrackId::VIDEO, n * 40, n == 0, 10), None);
    }
    assert_eq!((w.bytes(), w.join_position()), (50, None));
}

#[test]
fn an_overtaken_cursor_jumps_and_counts() {
    let mut w = window(600, 10_000);
    fill(&mut w, 0..3);
    let mut cursor = Cursor::at_live_edge();
    assert_eq!(cursor.read(&w, usize::MAX).entries.len(), 3);
    fill(&mut w, 3..45);
    let read = cursor.read(&w, usize::MAX);
    assert_eq!((read.skipped, read.entries[0].position, read.entries.len()), (37, 40, 5));
}

#[test]
fn an_overtaken_cursor_waits_if_no_gop_is_held() {
    let mut w = window(10_000, 50);
    let c = catalog(1, true);
    let mut cursor = Cursor::at_live_edge();
    for n in 0..20 {
        w.push(c.clone(), unit(1, TrackId::VIDEO, n * 40, n == 0, 10), None);
        if n == 0 {
            cursor.read(&w, usize::MAX);
        }
    }
    let read = cursor.read(&w, usize::MAX);
    assert_eq!((read.skipped, read.entries.len(), cursor.position()), (19, 0, None));
    w.push(c, unit(1, TrackId::VIDEO, 800, true, 10), None);
    assert_eq!(cursor.read(&w, usize::MAX).entries[0].position, 20);
}

#[test]
fn a_cleared_window_holds_nothing_and_its_positions_continue() {
    let mut w = window(10_000, 10_000);
    fill(&mut w, 0..25);
    let (mut behind, mut at_end) = (Cursor::at(3), Cursor::at(25));
    w.clear();
    assert_eq!((w.bytes(), w.duration(), w.join_position(), w.gop_start(20)), (0, Duration::ZERO, None, None));
    assert_eq!((w.first_position(), w.next_position(), w.newest().is_none()), (25, 25, true));
    let reads = [&mut Cursor::at_live_edge(), &mut behind, &mut at_end].map(|cursor| cursor.read(&w, usize::MAX));
    assert_eq!(reads.map(|read| (read.entries.len(), read.skipped)), [(0, 0), (0, 22), (0, 0)]);
    fill(&mut w, 30..32);
    assert_eq!((w.first_position(), w.join_position(), w.duration()), (25, Some(25), Duration::from_millis(40)));
    for mut cursor in [Cursor::at_live_edge(), behind, at_end] {
        assert_eq!(cursor.read(&w, usize::MAX).entries.iter().map(|e| e.position).collect::<Vec<_>>(), [25, 26]);
    }
}

#[test]
fn a_catalog_for_every_unit_counts() {
    let mut w = window(10_000, 100_000);
    for n in 0..100 {
        let mut heavy = Catalog::clone(&catalog(1, true));
        heavy.tracks[0].config.record = Bytes::from(vec![0; 10_000]);
        w.push(Arc::new(heavy), unit(1, TrackId::VIDEO, n * 40, true, 10), None);
    }
    assert_eq!(w.first_position(), 91);
}

#[test]
fn reads_at_most_the_given_bytes() {
    let mut w = window(10_000, 10_000);
    fill(&mut w, 0..10);
    let mut cursor = Cursor::at_live_edge();
    assert_eq!(cursor.read(&w, 35).entries.len(), 3);
    assert_eq!(cursor.read(&w, 1).entries.len(), 1);
    assert_eq!(cursor.jump_to_live_edge(&w), 0);
    fill(&mut w, 10..12);
    assert_eq!(cursor.jump_to_live_edge(&w), 6);
}

#[test]
fn audio_alone_can_be_joined_every_second() {
    let mut w = window(10_000, 10_000);
    let c = catalog(1, false);
    for n in 0..100 {
        w.push(c.clone(), unit(1, TrackId::AUDIO, n * 23, true, 1), None);
    }
    assert_eq!(w.join_position(), Some(88));
}

#[test]
fn interleaved_tracks_do_not_advance_the_clock_twice() {
    let mut w = window(60_000, 1 << 20);
    let c = catalog(1, true);
    for n in 0..100 {
        w.push(c.clone(), unit(1, TrackId::VIDEO, n * 40, n % 25 == 0, 1), None);
        w.push(c.clone(), unit(1, TrackId::AUDIO, n * 40 - 30, true, 1), None);
    }
    assert_eq!(w.duration(), Duration::from_millis(99 * 40));
    // The clock of another epoch continues where this one ended.
    let c = catalog(2, true);
    w.push(c.clone(), unit(2, TrackId::VIDEO, 500_000, true, 1), None);
    w.push(c, unit(2, TrackId::VIDEO, 500_040, false, 1), None);
    assert_eq!(w.duration(), Duration::from_millis(100 * 40));
}

proptest! {
    #[test]
    fn never_exceeds_its_bounds(units in prop::collection::vec((0u64..3, any::<bool>(), any::<bool>(), 0i64..500, 0usize..200), 1..200)) {
        let mut w = window(1000, 1000);
        let mut dts = 0;
        for (n, (epoch, video, random_access, step, size)) in units.into_iter().enumerate() {
            dts += step;
            let track = if video { TrackId::VIDEO } else { TrackId::AUDIO };
            w.push(catalog(epoch, true), unit(epoch, track, dts, random_access, size), None);
            prop_assert!(w.entries.len() == 1 || w.bytes() <= 1000);
            let is_one_gop = w.gops.len() == 1 && w.join_position() == Some(w.first_position());
            prop_assert!(is_one_gop || w.entries.len() == 1 || w.duration() <= Duration::from_millis(1000));
            prop_assert_eq!(w.bytes(), w.entries.iter().map(|e| e.unit.payload.len()).sum::<usize>());
            prop_assert_eq!(w.next_position(), n as u64 + 1);
            prop_assert!(w.gops.iter().all(|g| w.from(*g).next().is_some_and(|e| e.position == *g && e.starts_gop)));
        }
    }
}
