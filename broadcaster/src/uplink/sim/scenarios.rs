//! What is demanded of the uplink's control.

use proptest::prelude::*;

use super::*;

impl Outcome {
    fn targets(&self, from: Millis, to: Millis) -> &[f64] {
        &self.targets[(from / 100) as usize..(to / 100) as usize]
    }

    fn waits(&self, from: Millis, to: Millis) -> Vec<Millis> {
        let mut waits = self.waits[(from / 100) as usize..(to / 100) as usize].to_vec();
        waits.sort_unstable();
        waits
    }

    fn mean(&self, from: Millis, to: Millis) -> f64 {
        let targets = self.targets(from, to);
        targets.iter().sum::<f64>() / targets.len() as f64
    }

    /// Bits per second of the push that were delivered.
    fn rate(&self, from: Millis, to: Millis) -> f64 {
        let delivered: usize = self.delivered[(from / 100) as usize..(to / 100) as usize].iter().sum();
        delivered as f64 * 8000.0 / (to - from) as f64
    }

    /// For failures: every half second, the target in kbit/s and the longest wait.
    fn course(&self) -> String {
        let both = self.targets.chunks(5).zip(self.waits.chunks(5));
        both.map(|(targets, waits)| format!("{:.0}/{} ", targets[0] / 1e3, waits.iter().max().unwrap())).collect()
    }
}

/// An encoder alone on a link.
fn encoder(ceiling: f64, link: impl Fn(Millis) -> f64 + 'static) -> Scenario {
    Scenario { ceiling: Some(ceiling), link: Box::new(link), settled: 0, ..Scenario::default() }
}

/// What is pushed beside the encoder's bits, framing included, in bits per second: audio and headers.
const OTHER: f64 = 160_000.0;

/// The longest time in milliseconds for which less than nine tenths of what fits was made while nothing waited.
fn longest_too_low(outcome: &Outcome, from: Millis, to: Millis, fits: f64) -> Millis {
    let seen = outcome.targets[(from / 100) as usize..(to / 100) as usize].iter();
    let waits = &outcome.waits[(from / 100) as usize..(to / 100) as usize];
    let (mut longest, mut now) = (0, 0);
    for (target, wait) in seen.zip(waits) {
        now = if *target + OTHER < (fits + OTHER) * 0.9 && *wait <= 60 { now + 100 } else { 0 };
        longest = longest.max(now);
    }
    longest
}

/// `usual` cases, or as many as `PROPTEST_CASES` says.
fn cases(usual: u32) -> ProptestConfig {
    if std::env::var_os("PROPTEST_CASES").is_some() {
        ProptestConfig::default()
    } else {
        ProptestConfig::with_cases(usual)
    }
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn the_target_stays_within_its_bounds(
        ceiling in 50_000.0..8_000_000.0f64,
        rates in prop::collection::vec(10_000.0..20_000_000.0f64, 4),
        queue in 4_000..128_000usize,
        loss in 0.0..0.05f64,
        seed: u64,
    ) {
        let scenario = encoder(ceiling, move |t| rates[(t / 5000) as usize]);
        let outcome = run(&Scenario { queue, loss, seed, until: 20_000, ..scenario });
        let floor = (ceiling * 0.15).max(100_000.0).min(ceiling);
        prop_assert!(outcome.targets.iter().all(|target| (floor - 1.0..=ceiling + 1.0).contains(target)));
    }

    #[test]
    fn the_target_stays_below_a_slow_link(part in 0.4..0.95f64, ceiling in 600_000.0..2_500_000.0f64, queue in 16_000..75_000usize) {
        let rate = ceiling * part + OTHER;
        let outcome = run(&Scenario { queue, until: 90_000, ..encoder(ceiling, move |_| rate) });
        let video = rate - OTHER;
        let mean = outcome.mean(30_000, 90_000);
        prop_assert!((0.6..=1.03).contains(&(mean / video)), "{mean} of {video}: {}", outcome.course());
        let mut targets = outcome.targets(30_000, 90_000).to_vec();
        targets.sort_unstable_by(f64::total_cmp);
        let tenth = targets[targets.len() / 10];
        prop_assert!(tenth >= video * 0.4, "p10 {tenth} of {video}: {}", outcome.course());
        let waits = outcome.waits(30_000, 90_000);
        prop_assert!(waits[waits.len() * 9 / 10] <= 300, "p90 {} ms: {}", waits[waits.len() * 9 / 10], outcome.course());
        prop_assert!(*waits.last().unwrap() <= 1000, "worst {:?} ms: {}", waits.last(), outcome.course());
        let low = longest_too_low(&outcome, 30_000, 90_000, video);
        prop_assert!(low <= 2000, "{low} ms below what fits, without a queue: {}", outcome.course());
    }

    #[test]
    fn the_target_follows_a_link_that_narrows_and_recovers(
        ceiling in 600_000.0..2_500_000.0f64, part in 0.4..0.7f64, queue in 16_000..75_000usize, base in 5..120u64,
    ) {
        let (whole, narrow) = (ceiling * 4.0, ceiling * part + OTHER);
        let scenario = encoder(ceiling, move |t| if (5000..11_000).contains(&t) { narrow } else { whole });
        let outcome = run(&Scenario { queue, base: Box::new(move |_| base), until: 20_000, ..scenario });
        // An IDR may be more than the queue holds.
        prop_assert!(outcome.targets(0, 5000).iter().all(|target| *target >= ceiling * 0.9), "left alone until then");
        let late = *outcome.waits(5000, 11_000).last().unwrap();
        prop_assert!(late <= 2000, "{late} ms late: {}", outcome.course());
        let gone = outcome.waits(8000, 11_000)[0];
        prop_assert!(gone <= 150, "{gone} ms left: {}", outcome.course());
        prop_assert!(outcome.targets(16_000, 20_000).iter().all(|target| *target >= ceiling * 0.9), "not back: {}", outcome.course());
    }

    #[test]
    fn a_longer_route_moves_nothing(
        ceiling in 600_000.0..2_500_000.0f64, base in 5..60u64, step in 50..400u64, spare in 2.5..6.0f64, at in 5000..7000u64,
    ) {
        let scenario = encoder(ceiling, move |_| ceiling * spare + OTHER);
        let base = move |t| if t < at { base } else { base + step };
        let outcome = run(&Scenario { base: Box::new(base), until: 20_000, ..scenario });
        prop_assert!(outcome.targets.iter().all(|target| *target == ceiling), "moved: {}", outcome.course());
    }

    #[test]
    fn a_full_link_behind_the_server_moves_nothing(ceiling in 600_000.0..2_500_000.0f64, wait in 100..800u64, ramp in 100..3000u64) {
        let scenario = encoder(ceiling, move |_| ceiling * 3.0 + OTHER);
        let return_queue = move |t: Millis| t.saturating_sub(5000).min(ramp) * wait / ramp;
        let outcome = run(&Scenario { return_queue: Box::new(return_queue), has_stamps: true, until: 20_000, ..scenario });
        // It takes an exchange of clocks to know.
        let moved = outcome.targets.iter().filter(|target| **target < ceiling).count() * 100;
        prop_assert!(moved <= 1500 && outcome.targets(8000, 20_000).iter().all(|target| *target == ceiling), "{}", outcome.course());
    }

    #[test]
    fn losses_at_random_are_no_queue(ceiling in 600_000.0..3_000_000.0f64, loss in 0.0..0.005f64, seed: u64) {
        let scenario = encoder(ceiling, move |_| ceiling * 4.0 + OTHER);
        let outcome = run(&Scenario { loss, seed, until: 20_000, ..scenario });
        prop_assert!(outcome.mean(2000, 20_000) >= ceiling * 0.9, "{}", outcome.course());
    }
}

#[test]
fn the_push_gets_its_half_beside_a_download() {
    for ceiling in [1_500_000.0, 2_500_000.0] {
        for queue in [32 << 10, 64 << 10, 128 << 10] {
            let scenario = encoder(ceiling, |_| 4_000_000.0);
            let download = |t: Millis| (5000..20_000).contains(&t);
            let outcome = run(&Scenario { queue, download: Box::new(download), until: 30_000, ..scenario });
            let half = 2_000_000.0f64.min(ceiling + OTHER);
            let got = outcome.rate(8000, 20_000);
            assert!(got >= half * 0.7, "{got} of {half}: {}", outcome.course());
            assert!(outcome.targets(25_000, 30_000).iter().all(|target| *target == ceiling), "{}", outcome.course());
        }
    }
}

#[test]
fn a_fast_link_keeps_the_configured_bitrate() {
    let outcome = run(&encoder(2_000_000.0, |_| 4_000_000.0));
    assert!(outcome.targets.iter().all(|target| *target == 2_000_000.0), "{}", outcome.course());
}

#[test]
fn the_backlog_of_an_outage_does_not_lower_the_target_for_long() {
    let link = |t| if (5000..7000).contains(&t) { 1.0 } else { 20_000_000.0 };
    let outcome = run(&Scenario { until: 20_000, ..encoder(1_000_000.0, link) });
    assert!(outcome.targets(12_000, 20_000).iter().all(|target| *target == 1_000_000.0), "{}", outcome.course());
}

/// Slightly more than twice the stream for three copies: every viewer gets frames, and the push is hardly delayed.
fn narrow(viewers: usize) -> Scenario {
    Scenario {
        link: Box::new(|_| 1_700_000.0),
        queue: 64 << 10,
        base: Box::new(|_| 76),
        viewers,
        ..Scenario::default()
    }
}

/// Viewers get `part` of what the push leaves, and `idrs` of the IDRs each; the push is hardly delayed, and no viewer starves another.
#[track_caller]
fn check(scenario: &Scenario, part: f64, idrs: f64) {
    let Outcome { pings, idrs: had, got, left, made, made_idrs, .. } = run(scenario);
    // Viewers cannot use more than the stream.
    let left = left.min((made * scenario.viewers) as f64);
    let (half, most) = (pings[pings.len() / 2], pings[pings.len() - 1 - pings.len() / 50]);
    let all: usize = got.iter().sum();
    println!(
        "wait {half} ms, at most {most} ms; {:.2} of what is left; {had:?} of {made_idrs} IDRs; {got:?}",
        all as f64 / left
    );
    assert!(half <= 120 && most <= 450, "the push waits {half} ms, at most {most} ms");
    assert!(all as f64 >= left * part, "{all} of {left} that are left");
    let (few, many) = (got.iter().min().unwrap(), got.iter().max().unwrap());
    assert!(*few as f64 >= *many as f64 * 0.75, "not even: {got:?}");
    assert!(had.iter().all(|had| *had as f64 >= made_idrs as f64 * idrs), "{had:?} of {made_idrs} IDRs");
}

#[test]
fn viewers_get_what_the_push_leaves() {
    check(&narrow(2), 0.7, 0.9);
}

#[test]
fn three_viewers_fill_the_uplink_of_the_paper() {
    check(&Scenario { link: Box::new(|_| 4_000_000.0), scale: 1.6, ..narrow(3) }, 0.7, 0.9);
}

/// Audio alone uses three fifths of what is left.
#[test]
fn four_viewers_get_little_more_than_idrs() {
    check(&Scenario { joins: |n| 3000 + n as u64 * 500, ..narrow(4) }, 0.7, 0.5);
}

#[test]
fn six_viewers_get_little_more_than_audio() {
    check(&Scenario { joins: |n| 3000 + n as u64 * 500, ..narrow(6) }, 0.7, 0.0);
}

#[test]
fn the_capacity_follows_a_changing_link() {
    let link = |now| if (25_000..35_000).contains(&now) { 1_200_000.0 } else { 2_400_000.0 };
    check(&Scenario { link: Box::new(link), ..narrow(2) }, 0.7, 0.8);
}

#[test]
fn short_and_long_queues_work() {
    check(&Scenario { queue: 24 << 10, ..narrow(2) }, 0.6, 0.8);
    check(&Scenario { queue: 256 << 10, ..narrow(2) }, 0.7, 0.9);
}

#[test]
fn with_free_capacity_nothing_is_limited() {
    let outcome = run(&Scenario { link: Box::new(|_| 20_000_000.0), ..narrow(2) });
    assert!(outcome.is_free);
    assert_eq!(outcome.idrs, [outcome.made_idrs; 2]);
}

/// Longest time without a frame from `from` to `until`, the time before the first included.
fn hole(shown: &[Millis], from: Millis, until: Millis) -> Millis {
    let within = shown.iter().copied().filter(|at| (from..until).contains(at));
    let all: Vec<Millis> = std::iter::once(from).chain(within).chain([until]).collect();
    all.windows(2).map(|two| two[1] - two[0]).max().unwrap_or(Millis::MAX)
}

/// Viewers join and leave, two and three at a time.
#[track_caller]
fn check_coming_and_going(scenario: Scenario, first: Millis, longest: Millis) {
    let scenario = Scenario {
        joins: |n| 5300 + n as u64 * 7000,
        leaves: |n| 5300 + n as u64 * 7000 + 16_000,
        settled: 5000,
        ..scenario
    };
    let outcome = run(&scenario);
    for (n, shown) in outcome.shown.iter().enumerate() {
        let (from, until) = ((scenario.joins)(n), (scenario.leaves)(n).min(scenario.until));
        let (came, hole) = (shown.first().map_or(Millis::MAX, |at| at - from), hole(shown, from, until));
        println!("viewer {n}: first frame after {came} ms, longest gap {hole} ms, {} frames", shown.len());
        assert!(came <= first && hole <= longest, "viewer {n}: first frame after {came} ms, longest gap {hole} ms");
    }
}

#[test]
fn the_capacity_is_kept_while_viewers_join_and_leave() {
    check_coming_and_going(narrow(4), 1500, 2000);
    check_coming_and_going(Scenario { link: Box::new(|_| 4_000_000.0), scale: 1.6, ..narrow(6) }, 600, 1500);
}

/// The push is delayed, but not by viewers: their packets are not queued.
#[test]
fn a_push_delayed_elsewhere_does_not_limit_viewers() {
    let outcome = run(&Scenario { link: Box::new(|_| 600_000.0), is_shared: false, ..narrow(2) });
    assert!(outcome.is_free);
    assert_eq!(outcome.idrs, [outcome.made_idrs; 2]);
}

/// The return path is full.
#[test]
fn delay_on_the_return_path_does_not_limit_viewers() {
    let return_queue = |now| if now > 20_000 { 400 } else { 0 };
    let scenario = Scenario { link: Box::new(|_| 4_000_000.0), scale: 1.6, ..narrow(2) };
    let outcome = run(&Scenario { return_queue: Box::new(return_queue), ..scenario });
    println!("{:?} of {}: {:?} of {}", outcome.idrs, outcome.made_idrs, outcome.got, outcome.made);
    assert!(outcome.got.iter().all(|got| *got as f64 > outcome.made as f64 * 0.98), "viewers were limited");
}

#[test]
fn earlier_viewers_have_priority() {
    let scenario = Scenario { link: Box::new(|_| 3_200_000.0), scale: 1.6, is_ranked: true, ..narrow(3) };
    let outcome = run(&scenario);
    println!("{:?} of {}", outcome.got, outcome.made);
    let part = |n: usize| outcome.got[n] as f64 / outcome.made as f64;
    assert!(part(0) > 0.99 && part(0) > part(1) && part(1) > part(2), "{:?} of {}", outcome.got, outcome.made);
}

proptest! {
    #![proptest_config(cases(24))]

    /// Rates of the link that change every six seconds: three seconds after each the target is near what fits, and it is never below that
    /// for long without a queue.
    #[test]
    fn after_any_change_the_target_is_soon_what_fits(
        ceiling in 800_000.0..2_500_000.0f64,
        parts in prop::collection::vec(0.4..4.0f64, 4),
        base in 5..120u64,
        queue in 32_000..128_000usize,
        seed: u64,
    ) {
        let rates: Vec<f64> = parts.iter().map(|part| ceiling * part + OTHER).collect();
        let schedule = rates.clone();
        let scenario = encoder(ceiling, move |t| schedule[(t / 8000) as usize]);
        let outcome = run(&Scenario { queue, seed, base: Box::new(move |_| base), until: 32_000, ..scenario });
        for (n, rate) in rates.iter().enumerate() {
            let (from, to) = (n as u64 * 8000, n as u64 * 8000 + 8000);
            let fits = (rate - OTHER).min(ceiling);
            let low = longest_too_low(&outcome, from + 3000, to, fits);
            prop_assert!(low <= 2000, "{low} ms below {fits} in {from}: {}", outcome.course());
            let mean = outcome.mean(from + 4000, to);
            prop_assert!((0.75..=1.05).contains(&(mean / fits)), "{mean} of {fits} in {from}: {}", outcome.course());
        }
    }

    /// An encoder, its viewers and route changes: what is allocated never exceeds what fits, so that the push is hardly delayed.
    #[test]
    fn viewers_do_not_lower_the_target(
        viewers in 1..5usize, part in 1.3..4.0f64, base in 5..80u64, step in 0..200u64, seed: u64,
    ) {
        let ceiling = 872_000.0;
        let scenario = encoder(ceiling, move |_| (ceiling + OTHER) * part);
        let base = move |t| if t < 30_000 { base } else { base + step };
        let outcome = run(&Scenario { viewers, seed, base: Box::new(base), is_ranked: true, queue: 64 << 10, settled: 20_000, ..scenario });
        let mean = outcome.mean(20_000, 60_000);
        prop_assert!(mean >= ceiling * 0.85, "{mean} of {ceiling}: {}", outcome.course());
        let most = outcome.pings[outcome.pings.len() - 1 - outcome.pings.len() / 50];
        prop_assert!(most <= 450, "the push waits {most} ms: {}", outcome.course());
    }
}
