//! Tests of the pipe in virtual time: exact times, exact drops, and long-run fractions.
//!
//! Nothing here runs in real time or needs root; the emulator on real interfaces is tested in tests/links.rs.

use std::time::Duration;

use super::super::shape::BurstLoss;
use super::*;

const MS: u64 = 1_000_000;

fn pipe(shape: Shape, seed: u64) -> (Pipe, Arc<Counters>) {
    shape.validate().unwrap();
    let counters = Arc::new(Counters::default());
    (Pipe::new(shape, seed, Arc::clone(&counters)), counters)
}

fn frame(length: usize, mark: u8) -> Box<[u8]> {
    vec![mark; length].into_boxed_slice()
}

/// Runs the pipe's own events to the end; times and marks in order of arrival.
fn drain(pipe: &mut Pipe) -> Vec<(u64, u8)> {
    let mut arrivals = Vec::new();
    while let Some(now) = pipe.next_event() {
        pipe.advance(now);
        while let Some((at, frame)) = pipe.leave(now) {
            arrivals.push((at, frame[0]));
        }
    }
    arrivals
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[test]
fn frames_queue_behind_each_other_at_the_rate_and_then_take_the_delay() {
    let shape = Shape { rate: Some(8_000_000), delay: Duration::from_millis(30), ..Shape::default() };
    let (mut pipe, _) = pipe(shape, 1);
    // 1000 bytes take 1 ms at 8 Mbit/s; the third comes when the link is idle again.
    pipe.enter(0, frame(1000, 1));
    pipe.enter(0, frame(1000, 2));
    pipe.enter(5 * MS, frame(1000, 3));
    assert_eq!(drain(&mut pipe), [(31 * MS, 1), (32 * MS, 2), (36 * MS, 3)]);
}

#[test]
fn a_late_frame_starts_serialisation_when_the_link_became_idle() {
    let (mut pipe, _) = pipe(Shape { rate: Some(8_000_000), ..Shape::default() }, 1);
    pipe.enter(0, frame(1000, 1));
    pipe.advance(10 * MS);
    pipe.enter(MS / 2, frame(1000, 2));
    pipe.advance(10 * MS);
    pipe.enter(7 * MS, frame(1000, 3));
    assert_eq!(drain(&mut pipe), [(MS, 1), (2 * MS, 2), (8 * MS, 3)]);
}

#[test]
fn the_queue_drops_the_tail_and_frees_as_it_drains() {
    let (mut pipe, counters) = pipe(Shape { rate: Some(8_000_000), queue: 2500, ..Shape::default() }, 1);
    for mark in 1..=4 {
        pipe.enter(0, frame(1000, mark));
    }
    assert_eq!(get(&counters.queue_drops), 2);
    pipe.enter(MS, frame(1000, 5));
    assert_eq!(drain(&mut pipe).iter().map(|a| a.1).collect::<Vec<_>>(), [1, 2, 5]);
}

#[test]
fn a_new_rate_applies_from_the_next_frame() {
    let (mut pipe, _) = pipe(Shape { rate: Some(8_000_000), ..Shape::default() }, 1);
    for mark in 1..=3 {
        pipe.enter(0, frame(1000, mark));
    }
    pipe.set(Shape { rate: Some(4_000_000), ..Shape::default() });
    assert_eq!(drain(&mut pipe), [(MS, 1), (3 * MS, 2), (5 * MS, 3)]);
}

#[test]
fn loss_and_duplication_rates_match_their_probabilities() {
    let (mut pipe, counters) = pipe(Shape { loss: 0.3, duplicate: 0.1, ..Shape::default() }, 42);
    for i in 0..100_000 {
        pipe.enter(i, frame(60, 0));
    }
    let arrived = drain(&mut pipe).len() as f64;
    assert!((get(&counters.lost) as f64 / 1e5 - 0.3).abs() < 0.01);
    assert!((get(&counters.duplicated) as f64 / 7e4 - 0.1).abs() < 0.01);
    assert!((arrived / 1e5 - 0.77).abs() < 0.01);
}

#[test]
fn burst_loss_has_its_mean_and_comes_in_bursts() {
    let burst = BurstLoss { to_bad: 0.01, to_good: 0.1, loss_good: 0.0, loss_bad: 1.0 };
    let (mut pipe, counters) = pipe(Shape { burst: Some(burst), ..Shape::default() }, 3);
    let (mut bursts, mut before) = (0, false);
    for i in 0..200_000 {
        let lost = get(&counters.lost);
        pipe.enter(i, frame(60, 0));
        let now = get(&counters.lost) > lost;
        bursts += u64::from(now && !before);
        before = now;
    }
    let lost = get(&counters.lost);
    assert!((lost as f64 / 2e5 - burst.mean_loss()).abs() < 0.01);
    // A bad stretch of mean length 1 / to_good.
    assert!((lost as f64 / bursts as f64 - 10.0).abs() < 1.0);
}

#[test]
fn the_same_seed_gives_the_same_arrivals_and_another_seed_does_not() {
    let shape = Shape {
        delay: Duration::from_millis(20),
        jitter: Jitter::Normal(Duration::from_millis(5)),
        reorder: true,
        loss: 0.1,
        ..Shape::default()
    };
    let run = |seed| {
        let (mut pipe, _) = pipe(shape, seed);
        (0..200).for_each(|i| pipe.enter(i * MS, frame(100, i as u8)));
        drain(&mut pipe)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn jitter_stays_in_its_bounds_and_reorders_only_when_allowed() {
    for (reorder, jitter) in [
        (false, Jitter::Uniform(Duration::from_millis(8))),
        (true, Jitter::Uniform(Duration::from_millis(8))),
        (true, Jitter::Normal(Duration::from_millis(2))),
    ] {
        let shape = Shape { delay: Duration::from_millis(10), jitter, reorder, ..Shape::default() };
        let (mut pipe, _) = pipe(shape, 9);
        let mut delays = Vec::new();
        let mut order = Vec::new();
        // One frame every millisecond, in runs of 250 so that a mark names a frame.
        for run in 0..40 {
            (0..250u64).for_each(|i| pipe.enter((run * 1000 + i) * MS, frame(100, i as u8)));
            for (at, mark) in drain(&mut pipe) {
                delays.push((at - (run * 1000 + u64::from(mark)) * MS) as f64 / MS as f64);
                order.push(mark);
            }
        }
        assert!(delays.iter().all(|d| (2.0..=18.0).contains(d)), "{jitter:?}");
        let overtaken = order.windows(2).any(|pair| pair[1] < pair[0] && pair[1] != 0);
        assert_eq!(overtaken, reorder, "{jitter:?}");
        if reorder {
            let mean = delays.iter().sum::<f64>() / delays.len() as f64;
            assert!((mean - 10.0).abs() < 0.2, "{jitter:?} {mean}");
        }
    }
}

#[test]
fn a_closed_pipe_drops_queued_and_arriving_frames() {
    let (mut pipe, counters) =
        pipe(Shape { rate: Some(8_000_000), delay: Duration::from_secs(1), ..Shape::default() }, 1);
    pipe.enter(0, frame(1000, 1));
    pipe.enter(MS, frame(1000, 2));
    pipe.set_open(false);
    pipe.enter(2 * MS, frame(1000, 3));
    assert_eq!((pipe.next_event(), get(&counters.link_down_drops)), (None, 3));
    pipe.set_open(true);
    pipe.enter(9 * MS, frame(1000, 4));
    assert_eq!(drain(&mut pipe), [(1010 * MS, 4)]);
}

#[test]
fn the_delay_line_is_bounded() {
    let (mut pipe, counters) = pipe(Shape { delay: Duration::from_secs(10), ..Shape::default() }, 1);
    for _ in 0..MAX_IN_FLIGHT_BYTES / 65_536 + 3 {
        pipe.enter(0, frame(65_536, 0));
    }
    assert_eq!(get(&counters.emulator_drops), 3);
}
