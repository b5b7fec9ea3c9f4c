//! Simulation of an uplink with one queue and an encoder that follows its target.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// Milliseconds since the start.
type Millis = u64;

/// The result of one run.
struct Run {
    /// Every 100 ms: the target in bits per second, and the delay of what is pushed then, in milliseconds.
    seen: Vec<(u64, u64)>,
}

impl Run {
    fn targets(&self, from: Millis, to: Millis) -> impl Iterator<Item = u64> {
        self.seen[(from / 100) as usize..(to / 100) as usize].iter().map(|seen| seen.0)
    }

    fn waits(&self, from: Millis, to: Millis) -> impl Iterator<Item = u64> {
        self.seen[(from / 100) as usize..(to / 100) as usize].iter().map(|seen| seen.1)
    }

    fn mean(&self, from: Millis, to: Millis) -> f64 {
        self.targets(from, to).sum::<u64>() as f64 / self.targets(from, to).count() as f64
    }
}

/// 25 frames per second with an IDR every two seconds and 128 kbit/s of audio, over a link of `rate` bits per second at each time. The
/// connection buffers `held` bits; pings are sent every 250 ms, and the lower of two RTTs counts.
fn run(ceiling: u64, held: f64, until: Millis, rate: impl Fn(Millis) -> f64) -> Run {
    run_beside(ceiling, held, until, rate, None)
}

/// The same with LAN viewers, which leave the push `rate` of the reported capacity.
fn run_beside(ceiling: u64, held: f64, until: Millis, rate: impl Fn(Millis) -> f64, shared: Option<u64>) -> Run {
    let start = Instant::now();
    let at = |t: Millis| start + Duration::from_millis(t);
    let mut follow = EncoderRateController::new(ceiling, start);
    // Pieces of the link's queue and of what waits before it: bits, since when, whether it is a ping.
    let mut link: VecDeque<(f64, Millis, bool)> = VecDeque::new();
    let mut window: VecDeque<(f64, Millis, bool)> = VecDeque::new();
    let (mut carried, mut pings, mut pending) = (0.0, [0u64; 2], None);
    let mut seen = Vec::new();
    for t in 0..until {
        if t % 40 == 0 {
            let bits = follow.target(at(t)) as f64 / 25.0;
            let part = if t % 2000 == 0 { 5.0 } else { 45.0 / 49.0 };
            window.push_back((bits * part, t, true));
        }
        if t % 20 == 0 {
            window.push_back((128_000.0 / 50.0, t, false));
        }
        let mut is_told = t % 100 == 0 && window.is_empty();
        while let Some((bits, _, pictures)) = window.front().copied() {
            if link.iter().map(|piece| piece.0).sum::<f64>() > held {
                break;
            }
            window.pop_front();
            follow.pushed((bits / 8.0) as usize, pictures);
            link.push_back((bits, t, false));
            is_told = true;
        }
        if t % 250 == 0 && pending.is_none() {
            pending = Some(t);
            link.push_back((0.0, t, true));
        }
        carried += rate(t) / 1000.0;
        while let Some(piece) = link.front_mut() {
            let bits = piece.0.min(carried);
            (piece.0, carried) = (piece.0 - bits, carried - bits);
            if piece.0 > 0.0 {
                break;
            }
            if piece.2 {
                (pings, pending) = ([t - piece.1, pings[0]], None);
            }
            link.pop_front();
        }
        if link.is_empty() {
            carried = 0.0;
        }
        let waits = |queue: &VecDeque<(f64, Millis, bool)>| queue.front().map_or(0, |piece| t - piece.1);
        if is_told {
            let queueing = pings[0].min(pings[1]).max(pending.map_or(0, |since| t - since));
            let behind = Duration::from_millis(waits(&window));
            let wait = UplinkSample { queueing: Duration::from_millis(queueing), behind, shared };
            follow.waits(Some(wait), at(t));
        }
        if t % 100 == 0 {
            seen.push((follow.target(at(t)), waits(&link) + waits(&window)));
        }
    }
    Run { seen }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_target_stays_within_its_bounds(
        ceiling in 50_000u64..8_000_000,
        rates in proptest::collection::vec(10_000.0..20_000_000.0f64, 4),
        held in 10_000.0..1_000_000.0f64,
    ) {
        let run = run(ceiling, held, 20_000, |t| rates[(t / 5000) as usize]);
        let floor = (ceiling * 15 / 100).max(100_000).min(ceiling);
        prop_assert!(run.targets(0, 20_000).all(|target| (floor..=ceiling).contains(&target)));
    }

    #[test]
    fn the_target_stays_below_a_slow_link(part in 0.4..0.95f64, ceiling in 600_000u64..4_000_000, held in 100_000.0..600_000.0f64) {
        let rate = ceiling as f64 * part + 128_000.0;
        let run = run(ceiling, held, 90_000, |_| rate);
        let pictures = rate - 128_000.0;
        let mean = run.mean(30_000, 90_000);
        prop_assert!((0.6..=1.03).contains(&(mean / pictures)), "{mean} of {pictures}");
        let mut targets: Vec<_> = run.targets(30_000, 90_000).collect();
        targets.sort_unstable();
        let tenth = targets[targets.len() / 10] as f64;
        prop_assert!(tenth >= pictures * 0.4, "p10 {tenth} of {pictures}");
        let mut waits: Vec<_> = run.waits(30_000, 90_000).collect();
        waits.sort_unstable();
        prop_assert!(waits[waits.len() * 9 / 10] <= 300, "p90 {} ms", waits[waits.len() * 9 / 10]);
        prop_assert!(*waits.last().unwrap() <= 1000, "worst {:?} ms", waits.last());
    }

    #[test]
    fn the_target_follows_a_link_that_halves_and_recovers(ceiling in 600_000u64..4_000_000, part in 0.4..0.7f64, held in 100_000.0..600_000.0f64) {
        let whole = ceiling as f64 * 4.0;
        let narrow = ceiling as f64 * part + 128_000.0;
        let run = run(ceiling, held, 40_000, |t| if (5000..11_000).contains(&t) { narrow } else { whole });
        prop_assert!(run.targets(0, 5000).all(|target| target == ceiling), "left alone until then");
        let late = run.waits(5000, 11_000).max().unwrap();
        prop_assert!(late <= 2000, "{late} ms late");
        let gone = run.waits(8000, 11_000).min().unwrap();
        prop_assert!(gone <= 150, "{gone} ms left");
        prop_assert!(run.targets(31_000, 40_000).all(|target| target == ceiling), "not back: {:?}", run.targets(11_000, 31_000).collect::<Vec<_>>());
    }
}

#[test]
fn a_fast_link_keeps_the_configured_bitrate() {
    let run = run(2_000_000, 300_000.0, 60_000, |_| 4_000_000.0);
    assert!(run.targets(0, 60_000).all(|target| target == 2_000_000));
}

#[test]
fn the_backlog_of_an_outage_does_not_lower_the_target() {
    let run = run(1_000_000, 100_000.0, 20_000, |t| if (5000..7000).contains(&t) { 1.0 } else { 20_000_000.0 });
    assert!(run.targets(16_000, 20_000).all(|target| target >= 150_000));
}

#[test]
fn viewers_yield_before_the_target_is_lowered() {
    let comes = |t| if (5000..6200).contains(&t) { 900_000.0 } else { 2_000_000.0 };
    let alone = run(1_000_000, 100_000.0, 20_000, comes);
    assert!(alone.targets(5000, 7000).any(|target| target < 1_000_000));
    let beside = run_beside(1_000_000, 100_000.0, 20_000, comes, Some(2_000_000));
    assert!(beside.targets(0, 20_000).all(|target| target == 1_000_000));
    // On a link too slow for the push alone, the target is lowered at once.
    let narrow = run_beside(1_000_000, 100_000.0, 20_000, comes, Some(900_000));
    assert!(narrow.targets(5000, 7000).any(|target| target < 1_000_000));
}

#[test]
fn the_target_recovers_at_once_when_viewers_yield_late() {
    let late = |t| if (5000..6500).contains(&t) { 500_000.0 } else { 2_000_000.0 };
    let alone = run(1_000_000, 100_000.0, 20_000, late);
    assert!(alone.targets(7500, 10_000).all(|target| target < 900_000));
    let beside = run_beside(1_000_000, 100_000.0, 20_000, late, Some(2_000_000));
    assert!(beside.targets(5000, 6500).any(|target| target < 500_000));
    assert!(beside.targets(7500, 20_000).all(|target| target == 1_000_000));
}

#[test]
fn viewers_that_do_not_yield_delay_the_decrease_by_two_seconds() {
    let stay = |t| if t < 5000 { 2_000_000.0 } else { 1_050_000.0 };
    let run = run_beside(1_000_000, 100_000.0, 30_000, stay, Some(2_000_000));
    assert!(run.targets(0, 7000).all(|target| target == 1_000_000));
    assert!(run.mean(10_000, 30_000) < 922_000.0);
    assert!(run.waits(12_000, 30_000).all(|wait| wait < 400), "{:?}", run.waits(12_000, 30_000).max());
}

#[test]
fn a_disconnect_does_not_lower_the_target() {
    let start = Instant::now();
    let mut follow = EncoderRateController::new(1_000_000, start);
    let mut stuck = |from: Millis, to: Millis| {
        for t in (from..to).step_by(20) {
            follow.pushed(if t < 2000 { 2500 } else { 0 }, true);
            let wait = Duration::from_millis(t.saturating_sub(2000));
            follow.waits(
                Some(UplinkSample { queueing: wait, ..UplinkSample::default() }),
                start + Duration::from_millis(t),
            );
        }
        let target = follow.target(start + Duration::from_millis(to));
        follow.waits(None, start + Duration::from_millis(to));
        (target, follow.target(start + Duration::from_millis(to)))
    };
    assert_eq!(stuck(0, 7000), (150_000, 1_000_000));
    // A link that was slow for long is still slow after a reconnect.
    let mut narrow = EncoderRateController::new(1_000_000, start);
    narrow.last_fall = Some((start, 1_000_000.0));
    narrow.target = 400_000.0;
    narrow.waits(None, start + Duration::from_secs(30));
    assert_eq!(narrow.target(start + Duration::from_secs(30)), 400_000);
}

/// The push's RTT grows by 160 ms for good, without a queue.
#[test]
fn a_longer_route_does_not_pin_the_target() {
    let start = Instant::now();
    let mut follow = EncoderRateController::new(2_500_000, start);
    let mut min_rtt = net::min_rtt::WindowedMinRtt::default();
    for t in (0..60_000).step_by(40) {
        let now = start + Duration::from_millis(t);
        let rtt = Duration::from_millis(if t < 5000 { 20 } else { 180 });
        min_rtt.update(rtt, now);
        let bits = follow.target(now) / 25;
        follow.pushed((bits / 8) as usize, true);
        let queueing = rtt.saturating_sub(min_rtt.value().unwrap());
        follow.waits(Some(UplinkSample { queueing, ..UplinkSample::default() }), now);
    }
    assert_eq!(follow.target(start + Duration::from_secs(60)), 2_500_000);
}

#[test]
fn without_an_encoder_there_is_no_target() {
    let uplink = RateControl::default();
    let now = Instant::now();
    uplink.pushed(1000, true);
    uplink.waits(Some(UplinkSample::default()), now);
    assert_eq!(uplink.target(now), None);
    uplink.follow(1_000_000, now);
    assert_eq!(uplink.target(now), Some(1_000_000));
}
