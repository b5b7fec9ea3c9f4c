//! Outages are told from jitter: traces of arrivals, and the target that playback has before, in and after them.

use super::*;

/// When picture `n` arrives, in ms.
type Trace = dyn Fn(u64) -> u64;

/// Uneven by up to 12 ms, as on a quiet network.
fn quiet(n: u64) -> u64 {
    n * PICTURE + n * 7 % 13
}

/// Nothing arrives from `from` until `from + length`, then everything at once.
fn outage(from: u64, length: u64, n: u64) -> u64 {
    let at = quiet(n);
    if at < from {
        return at;
    }
    // The backlog comes in at four times the rate.
    at.max(from + length + (n * PICTURE).saturating_sub(from) / 4)
}

/// Plays the trace for `seconds`; returns the target in ms at the end of each second.
fn targets(seconds: u64, at: &Trace) -> Vec<u64> {
    let mut viewer = Viewer::new(live(None));
    let arrivals = pictures(0..seconds * 1000 / PICTURE, 50, at);
    let mut later = arrivals.as_slice();
    (0..seconds)
        .map(|second| {
            let (now, end) = (second * 1000, second * 1000 + 1000);
            let due = later.partition_point(|(at, _)| *at < end);
            viewer.run(now, end, &later[..due]);
            later = &later[due..];
            viewer.playback.target().as_millis() as u64
        })
        .collect()
}

#[test]
fn after_an_outage_the_target_is_what_it_was() {
    for length in [250, 500, 1000, 2000, 4000, 10_000, 30_000] {
        let targets = targets(20 + length / 1000 + 40, &move |n| outage(20_000, length, n));
        let (before, after) = (targets[19], &targets[(20_000 + length) as usize / 1000 + 10..]);
        assert!(before < 50, "{before} ms");
        assert!(after.iter().all(|after| after.abs_diff(before) <= 15), "{length} ms: {before} ms, then {targets:?}");
    }
}

#[test]
fn two_outages_a_minute_apart_are_outages() {
    let targets = targets(120, &|n| if n < 1250 { outage(20_000, 2000, n) } else { outage(80_000, 2000, n) });
    assert!(targets[92..].iter().all(|target| *target < 60), "{targets:?}");
}

#[test]
fn a_delivery_in_bursts_is_jitter() {
    for period in [200, 300, 500, 700, 1000] {
        let targets = targets(60, &move |n| (n * PICTURE).next_multiple_of(period));
        let steady = &targets[10..];
        assert!(
            steady.iter().all(|target| (period - 60..period + 60).contains(target)),
            "every {period} ms: {targets:?}"
        );
    }
}

/// Bursts begin after a quiet time, and an outage among them changes nothing.
#[test]
fn jitter_that_begins_raises_the_target_at_its_second_burst() {
    let bursts = |n: u64| if n < 500 { quiet(n) } else { (n * PICTURE).next_multiple_of(500) };
    let targets = targets(60, &move |n| if (1000..1100).contains(&n) { 44_000 } else { bursts(n) });
    assert!(targets[19] < 50 && targets[21] > 450, "{targets:?}");
    assert!(targets[22..].iter().all(|target| (440..560).contains(target)), "{targets:?}");
}

#[test]
fn slow_wi_fi_is_jitter() {
    // Each second one picture of 25 and those behind it wait for 90 to 180 ms.
    let delay = |n: u64| if n % 25 == 7 { 90 + n * 31 % 90 } else { 0 };
    let late = move |n: u64| (n.saturating_sub(5)..=n).map(|n| n * PICTURE + delay(n)).max().unwrap_or_default();
    let targets = targets(60, &late);
    assert!(targets[5..].iter().all(|target| (120..260).contains(target)), "{targets:?}");
}

/// Another path goes on after the silence of the first; it takes longer all the time, or less.
#[test]
fn a_switch_of_the_path_is_not_jitter() {
    for (silence, shift) in [(120, 0), (120, 80), (300, 0), (300, 80), (600, 200), (1500, 80)] {
        let mut viewer = Viewer::new(live(None));
        viewer.run(0, 20_000, &pictures(0..500, 50, quiet));
        let before = viewer.playback.target().as_millis() as u64;
        viewer.playback.path_switched(ms(20_000 + silence));
        let after = pictures(500..1000, 50, |n| (quiet(n) + shift).max(20_000 + silence));
        let soon = after.partition_point(|(at, _)| *at < 30_000 + silence);
        viewer.run(20_000, 30_000 + silence, &after[..soon]);
        let target = viewer.playback.target().as_millis() as u64;
        assert!(target.abs_diff(before) <= 15, "{silence} ms, {shift} ms longer: {before} ms, then {target} ms");
    }
}
