//! The path merger over paths that lag, break, skip and return: increasing DTS, no duplicates, every start at an IDR.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::catalog::Track;
use crate::codec::{Codec, CodecConfig, Format};

const A: PathId = PathId(1);
const B: PathId = PathId(2);

fn catalog(epoch: u64, clock: Option<i64>, video: bool) -> Arc<Catalog> {
    let mut catalog = Catalog { clock: clock.map(WallClock::from_micros), ..Catalog::new(Epoch(epoch)) };
    let (id, codec, format) = match video {
        true => (TrackId::VIDEO, Codec::H264, Format::Video { width: 1, height: 1 }),
        false => (TrackId::AUDIO, Codec::Aac, Format::Audio { sample_rate: 48_000, channels: 2 }),
    };
    catalog.set_track(Track { id, config: CodecConfig { codec, record: Bytes::new(), format } });
    Arc::new(catalog)
}

/// Unit `n` of a broadcast: a video frame every 40 ms, every tenth an IDR, with an audio frame between two video frames.
fn unit(epoch: u64, n: i64) -> AccessUnit {
    let (track, dts) = if n % 2 == 0 { (TrackId::VIDEO, n / 2 * 40) } else { (TrackId::AUDIO, n / 2 * 40 + 20) };
    let dts = Timestamp::from_millis(dts);
    AccessUnit {
        epoch: Epoch(epoch),
        track,
        dts,
        pts: dts,
        random_access: n % 2 == 1 || n % 20 == 0,
        payload: Bytes::new(),
    }
}

fn number(merged: &MergedUnit) -> i64 {
    merged.unit.dts.as_millis() / 20
}

struct Run {
    merger: PathMerger,
    out: Vec<MergedUnit>,
}

impl Run {
    fn new() -> Self {
        Self { merger: PathMerger::new(), out: Vec::new() }
    }

    fn push(&mut self, path: PathId, numbers: impl IntoIterator<Item = i64>) -> &mut Self {
        let catalog = catalog(1, None, true);
        for n in numbers {
            self.merger.push(path, &catalog, unit(1, n), Predecessor::PathOrder, &mut self.out);
        }
        self
    }

    /// Units whose predecessors are stated.
    fn push_stated(&mut self, path: PathId, numbers: impl IntoIterator<Item = i64>) -> &mut Self {
        let catalog = catalog(1, None, true);
        for n in numbers {
            let predecessor = (n >= 2).then(|| unit(1, n - 2).dts);
            self.merger.push(path, &catalog, unit(1, n), predecessor.into(), &mut self.out);
        }
        self
    }

    fn close(&mut self, path: PathId) -> &mut Self {
        self.merger.close(path, &mut self.out);
        self
    }

    fn numbers(&self) -> Vec<i64> {
        self.out.iter().map(number).collect()
    }
}

#[test]
fn pictures_start_at_an_idr_and_sound_at_once() {
    let mut run = Run::new();
    run.push(A, 13..30);
    assert_eq!(run.numbers(), [13, 15, 17, 19].into_iter().chain(20..30).collect::<Vec<_>>());
    assert_eq!(run.merger.counters(), MergeCounters { units: 14, undecodable: 3, ..MergeCounters::default() });
}

#[test]
fn sound_leads_while_there_are_no_pictures() {
    let mut run = Run::new();
    let leader = |run: &mut Run, path, numbers: &mut dyn Iterator<Item = i64>| {
        run.push_stated(path, numbers);
        run.merger.active_path()
    };
    // The first pictures cannot be decoded, and there are no others until the IDR at 60. A closes after 39.
    let sound = |range: std::ops::Range<i64>| range.filter(|n| n % 2 == 1);
    assert_eq!(leader(&mut run, A, &mut (1..20)), Some(A));
    assert_eq!(leader(&mut run, B, &mut sound(1..20)), Some(A), "copies");
    assert_eq!(leader(&mut run, A, &mut sound(21..41)), Some(A));
    run.close(A);
    assert_eq!(leader(&mut run, B, &mut sound(21..61)), Some(B));
    // A brings the pictures, and B's sound leads no more, until they have been away for two seconds.
    assert_eq!(leader(&mut run, A, &mut (60..70).filter(|n| n % 2 == 0)), Some(A));
    assert_eq!(leader(&mut run, B, &mut sound(61..167)), Some(A));
    assert_eq!(leader(&mut run, B, &mut sound(167..171)), Some(B));
    assert_eq!(leader(&mut run, A, &mut [70].into_iter()), Some(A), "they go on");
    assert_eq!(run.merger.counters().switches, 4);
    assert!(run.out.iter().all(|merged| merged.leads || number(merged) % 2 == 1));
}

#[test]
fn with_two_active_paths_the_first_copy_wins() {
    let mut run = Run::new();
    run.push(A, 0..5).push(B, 0..8).push(A, 5..9).push(B, 8..12);
    assert_eq!(run.numbers(), (0..12).collect::<Vec<_>>());
    let counters = run.merger.counters();
    assert_eq!((counters.lost, counters.duplicates, counters.switches), (0, 9, 3));
}

#[test]
fn a_path_that_is_ahead_waits_for_the_gap_to_be_filled() {
    let mut run = Run::new();
    run.push(A, 0..10).push(B, 20..25);
    assert_eq!(run.numbers().len(), 10);
    assert_eq!(run.merger.waiting(), Some(Timestamp::from_millis(480)));
    run.push(A, 10..21);
    assert_eq!(run.numbers(), (0..25).collect::<Vec<_>>());
    assert_eq!(run.merger.counters().lost, 0);
}

#[test]
fn when_a_path_closes_the_other_continues_with_the_next_unit() {
    let mut run = Run::new();
    run.push(A, 0..15).push(B, 0..12).close(A).push(B, 12..30);
    assert_eq!(run.numbers(), (0..30).collect::<Vec<_>>());
}

#[test]
fn units_that_no_path_has_are_counted_and_skipped_up_to_an_idr() {
    let mut run = Run::new();
    run.push(A, 0..10).push(B, 33..50);
    assert_eq!(run.numbers(), (0..10).collect::<Vec<_>>());
    run.close(A);
    let expected: Vec<_> = (0..10).chain((33..40).filter(|n| n % 2 == 1)).chain(40..50).collect();
    assert_eq!(run.numbers(), expected);
    // Video frames 10, 12, … 38 and audio frames 11, 13, … 31.
    assert_eq!(run.merger.counters().lost, 15 + 11);
}

#[test]
fn a_reconnected_path_overlaps_or_skips() {
    let mut run = Run::new();
    run.push(A, 0..30);
    run.merger.open(A);
    run.push(A, 20..35);
    assert_eq!(run.numbers(), (0..35).collect::<Vec<_>>());
    assert_eq!(run.merger.counters().lost, 0);
    run.merger.open(A);
    run.push(A, 60..62);
    assert_eq!(run.numbers(), (0..35).chain(60..62).collect::<Vec<_>>());
    assert_eq!(run.out[35].lost, 12);
}

#[test]
fn a_skip_on_a_single_path_is_counted() {
    let mut run = Run::new();
    run.push(A, 0..30).push(A, 60..64);
    assert_eq!(run.merger.counters().lost, 30);
}

#[test]
fn an_encoder_pause_is_no_loss() {
    let mut run = Run::new();
    run.push(A, (0..30).step_by(2)).push(A, (50..60).step_by(2));
    assert_eq!(run.merger.counters(), MergeCounters { units: 20, ..MergeCounters::default() });
}

/// A path that states predecessors: audio and video may overtake each other, and the order is exact from the first unit on.
#[test]
fn stated_predecessors_decide_the_order() {
    let mut run = Run::new();
    run.push(A, 0..11);
    // From the next unit on, with audio ahead of video, and without an overlap.
    run.push_stated(B, [11, 13, 15, 12, 14]);
    assert_eq!(run.numbers(), (0..11).chain([11, 13, 15, 12, 14]).collect::<Vec<_>>());
    // A gap of a single frame is detected at once.
    run.push_stated(B, [18, 20]);
    assert_eq!(run.merger.waiting(), Some(Timestamp::from_millis(400)));
    run.push(A, 11..19);
    assert_eq!(run.numbers().len(), 20);
    assert_eq!(run.merger.counters().lost, 0);
}

/// No path has video 12 to 16. One has the IDR 20, the other only the next one.
#[test]
fn after_a_loss_a_later_idr_does_not_displace_an_earlier_one_of_another_path() {
    let mut run = Run::new();
    run.push_stated(A, (0..=10).step_by(2)).push_stated(B, (0..=10).step_by(2));
    run.push_stated(A, (40..50).step_by(2)).push_stated(B, (18..40).step_by(2));
    assert_eq!(run.numbers().len(), 6, "units are missing");
    run.merger.skip_gap(&mut run.out);
    assert_eq!(run.numbers(), (0..12).chain(20..50).filter(|n| n % 2 == 0).collect::<Vec<_>>());
    let counters = run.merger.counters();
    assert_eq!((counters.lost, counters.undecodable, run.merger.waiting()), (4, 1, None));
}

#[test]
fn a_new_epoch_does_not_drop_units_that_wait() {
    let mut run = Run::new();
    run.push_stated(A, 0..10).push_stated(B, 20..25);
    run.merger.push(A, &catalog(2, None, true), unit(2, 0), Predecessor::Unknown, &mut run.out);
    assert_eq!(run.numbers(), (0..10).chain([20, 22, 24, 21, 23, 0]).collect::<Vec<_>>());
}

/// The only path that delivered the live epoch is gone, and all others deliver a past one.
#[test]
fn an_epoch_that_no_open_path_delivers_ends() {
    let mut run = Run::new();
    let (first, second) = (catalog(1, Some(100), true), catalog(2, Some(200), true));
    let push = |run: &mut Run, path, catalog: &Arc<Catalog>, n| {
        let predecessor = (n >= 2).then(|| unit(1, n - 2).dts);
        run.merger.push(path, catalog, unit(catalog.epoch.0, n), predecessor.into(), &mut run.out);
    };
    push(&mut run, B, &first, 0);
    push(&mut run, A, &second, 0);
    run.close(A);
    push(&mut run, B, &first, 1);
    assert_eq!(run.merger.epoch(), Some(Epoch(1)), "the only path decides");
    push(&mut run, A, &second, 1);
    assert_eq!(run.merger.epoch(), Some(Epoch(1)), "the other path still delivers it");
    run.close(B);
    run.merger.open(B);
    push(&mut run, A, &second, 2);
    assert_eq!((run.merger.epoch(), run.out.len()), (Some(Epoch(2)), 4));
}

#[test]
fn a_new_epoch_retires_the_old_one() {
    let mut run = Run::new();
    run.push(A, 0..10).push(B, 0..5);
    let new = catalog(2, None, true);
    run.merger.push(A, &new, unit(2, 0), Predecessor::PathOrder, &mut run.out);
    run.push(B, 5..20);
    run.merger.push(A, &new, unit(2, 1), Predecessor::PathOrder, &mut run.out);
    assert_eq!(run.numbers(), (0..10).chain(0..2).collect::<Vec<_>>());
    assert_eq!(run.merger.epoch(), Some(Epoch(2)));
}

#[test]
fn a_stale_path_does_not_bring_back_a_past_epoch() {
    let mut run = Run::new();
    let (today, yesterday) = (catalog(2, Some(200), true), catalog(1, Some(100), true));
    run.merger.push(A, &today, unit(2, 0), Predecessor::PathOrder, &mut run.out);
    run.merger.push(B, &yesterday, unit(1, 0), Predecessor::PathOrder, &mut run.out);
    run.merger.push(A, &today, unit(2, 1), Predecessor::PathOrder, &mut run.out);
    run.merger.push(B, &yesterday, unit(1, 1), Predecessor::PathOrder, &mut run.out);
    assert_eq!(run.out.iter().map(|s| s.unit.epoch.0).collect::<Vec<_>>(), [2, 2]);
}

#[test]
fn a_replaced_publisher_returns_with_its_epoch() {
    let mut run = Run::new();
    let (ours, theirs) = (catalog(1, Some(100), true), catalog(2, Some(200), true));
    for n in 0..10 {
        run.merger.push(A, &ours, unit(1, n), Predecessor::PathOrder, &mut run.out);
    }
    for n in 0..4 {
        run.merger.push(A, &theirs, unit(2, n), Predecessor::PathOrder, &mut run.out);
    }
    // Its first epoch continues, with an overlap.
    for n in 0..15 {
        run.merger.push(A, &ours, unit(1, n), Predecessor::PathOrder, &mut run.out);
    }
    assert_eq!(run.numbers(), (0..10).chain(0..4).chain(10..15).collect::<Vec<_>>());
    assert_eq!(run.merger.counters().lost, 0);
}

#[test]
fn a_publisher_with_an_earlier_clock_takes_over() {
    let mut run = Run::new();
    let (ours, theirs) = (catalog(1, Some(200), true), catalog(2, Some(100), true));
    run.merger.push(A, &ours, unit(1, 0), Predecessor::PathOrder, &mut run.out);
    run.merger.push(A, &theirs, unit(2, 0), Predecessor::PathOrder, &mut run.out);
    assert_eq!(run.merger.epoch(), Some(Epoch(2)));
    assert_eq!(run.out.len(), 2);
}

#[test]
fn audio_alone_starts_at_any_unit() {
    let mut run = Run::new();
    let catalog = catalog(1, None, false);
    for n in [7, 9, 11] {
        run.merger.push(A, &catalog, unit(1, n), Predecessor::PathOrder, &mut run.out);
    }
    assert_eq!(run.numbers(), [7, 9, 11]);
}

#[test]
fn the_queue_of_a_path_is_bounded() {
    let mut run = Run::new();
    run.push(A, 0..10);
    let catalog = catalog(1, None, true);
    for n in 20..60 {
        let payload = Bytes::from(vec![0; 1 << 20]);
        run.merger.push(B, &catalog, AccessUnit { payload, ..unit(1, n) }, Predecessor::PathOrder, &mut run.out);
    }
    // 16 MiB hold 15 such units and what they cost beside their payload.
    assert_eq!(run.merger.counters().overflowed, 25);
}

#[derive(Clone, Debug)]
enum Op {
    /// Path, and number of units.
    Advance(u32, i64),
    /// Path, and number of units that it goes back.
    Reopen(u32, i64),
    Close(u32),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        8 => (1u32..4, 1i64..30).prop_map(|(p, n)| Op::Advance(p, n)),
        1 => (1u32..4, -40i64..60).prop_map(|(p, n)| Op::Reopen(p, n)),
        1 => (1u32..4).prop_map(Op::Close),
    ];
    prop::collection::vec(op, 1..80)
}

fn play(ops: &[Op]) -> (Run, BTreeMap<u32, i64>) {
    let mut run = Run::new();
    let mut at: BTreeMap<u32, i64> = BTreeMap::new();
    for op in ops {
        match *op {
            Op::Advance(path, count) => {
                let from = *at.entry(path).or_insert(0);
                run.push(PathId(path), from..from + count);
                at.insert(path, from + count);
            }
            Op::Reopen(path, back) => {
                run.merger.open(PathId(path));
                let from = at.entry(path).or_insert(0);
                *from = (*from - back).max(0);
            }
            Op::Close(path) => {
                run.close(PathId(path));
            }
        }
    }
    (run, at)
}

proptest! {
    #[test]
    fn dts_increases_without_duplicates_and_starts_at_an_idr(ops in ops()) {
        let (run, _) = play(&ops);
        let mut last: BTreeMap<TrackId, Timestamp> = BTreeMap::new();
        for merged in &run.out {
            let before = last.insert(merged.unit.track, merged.unit.dts);
            prop_assert!(before < Some(merged.unit.dts));
            let follows = before.is_some_and(|dts| merged.unit.dts - dts == 40);
            prop_assert!(follows || merged.unit.random_access, "a picture without its predecessor: {:?}", merged.unit);
        }
    }

    #[test]
    fn no_unit_is_lost_while_one_path_delivers(ops in ops()) {
        // Path 1 never restarts, so all of its units are emitted, whatever the other paths do.
        let ops: Vec<_> = ops.into_iter().filter(|op| !matches!(op, Op::Reopen(1, _) | Op::Close(1))).collect();
        let mut all = vec![Op::Advance(1, 1)];
        all.extend(ops);
        let (run, at) = play(&all);
        let numbers = run.numbers();
        for n in 0..at[&1] {
            prop_assert!(numbers.contains(&n), "unit {} is missing", n);
        }
        prop_assert_eq!(run.merger.counters().lost, 0);
    }
}

/// On a path that states no predecessors, sound that is away while the pictures go on was not made: a server that skips units skips all tracks.
#[test]
fn sound_that_was_not_made_is_not_lost() {
    let mut run = Run::new();
    run.push(A, (0..1000).filter(|n| n % 2 == 0 || !(200..600).contains(n)));
    assert_eq!((run.out.len(), run.merger.counters().lost), (800, 0));
    // All tracks at once, up to an IDR.
    let mut run = Run::new();
    run.push(A, (0..200).chain(600..1000));
    assert!(run.merger.counters().lost >= 199, "{:?}", run.merger.counters());
}

/// A hostile path sends units of which each lacks its predecessor: as many as the bound permits wait, and all are given up one after the other.
#[test]
fn a_full_queue_of_tiny_units_costs_little() {
    let mut merger = PathMerger::new();
    let (catalog, mut out) = (catalog(1, None, true), Vec::new());
    merger.open(B);
    merger.push(A, &catalog, unit(1, 0), Predecessor::Unknown, &mut out);
    let began = std::time::Instant::now();
    for n in 1..=65_000i64 {
        let dts = Timestamp::from_millis(n * 10);
        let unit = AccessUnit { dts, pts: dts, random_access: true, ..unit(1, 0) };
        merger.push(A, &catalog, unit, Predecessor::Dts(Timestamp::from_millis(n * 10 - 5)), &mut out);
    }
    assert_eq!((out.len(), merger.waiting()), (1, Some(Timestamp::from_millis(650_000))));
    merger.skip_gap(&mut out);
    assert_eq!((out.len(), merger.waiting()), (65_001, None));
    let took = began.elapsed();
    assert!(took < std::time::Duration::from_secs(5), "{took:?}");
}
