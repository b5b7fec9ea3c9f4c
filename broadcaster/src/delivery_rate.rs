//! Estimates a link's delivery rate from the bytes sent and their queueing delay. Pure.
//!
//! Bytes sent while the delay grows arrive over a longer time than they were sent in, longer by the growth of the delay. So bytes divided
//! by that longer time is the delivery rate, before the queue becomes noticeable. Once there has been a queue for a while, the bytes
//! delivered meanwhile measure the capacity more precisely.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The samples of one link, over some seconds.
#[derive(Debug, Default)]
pub(crate) struct DeliveryRateEstimator {
    looks: VecDeque<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    /// Bytes sent by then.
    all: f64,
    /// Bytes known to be delivered by then.
    arrived: f64,
    /// The latest queueing delay measured.
    wait: Duration,
}

impl DeliveryRateEstimator {
    /// Adds a sample: `bytes` sent since the last one, the queueing delay `wait` and the base RTT `way`.
    pub(crate) fn note(&mut self, bytes: f64, wait: Duration, way: Duration, now: Instant) {
        let last = self.looks.back().copied();
        let all = last.map_or(0.0, |last| last.all) + bytes;
        self.looks.push_back(Sample { at: now, all, arrived: 0.0, wait });
        let arrived = now.checked_sub(wait + way).map_or(0.0, |then| self.handed_by(then));
        if let Some(look) = self.looks.back_mut() {
            look.arrived = arrived.max(last.map_or(0.0, |last| last.arrived));
        }
        while self.looks.len() > MOST {
            self.looks.pop_front();
        }
    }

    /// Attributes further bytes to the intervals before the samples so far, the latest first.
    pub(crate) fn note_before(&mut self, bytes: impl IntoIterator<Item = f64>) {
        for (n, bytes) in bytes.into_iter().enumerate() {
            let since = self.looks.len().saturating_sub(1 + n);
            self.looks.range_mut(since..).for_each(|look| look.all += bytes);
        }
    }

    /// Bytes sent by `then`, interpolated between samples; none before the first.
    fn handed_by(&self, then: Instant) -> f64 {
        let after = self.looks.partition_point(|look| look.at <= then);
        let Some(before) = after.checked_sub(1).map(|last| self.looks[last]) else { return 0.0 };
        let Some(next) = self.looks.get(after) else { return before.all };
        let part = (then - before.at).as_secs_f64() / (next.at - before.at).as_secs_f64();
        before.all + (next.all - before.all) * part
    }

    /// Delivery rate in bytes per second: the maximum over the starting points in the window, since a link that was idle before its queue
    /// began delivers more than it did then. Limited by what was sent on a link that is not full. `None` at the start.
    pub(crate) fn rate(&self) -> Option<f64> {
        let to = self.looks.back()?;
        let since = |from: &Sample| {
            let time = to.at.saturating_duration_since(from.at);
            // A decreasing delay is measured late, and would yield a rate far too low.
            let arriving = time.as_secs_f64() + (to.wait.as_secs_f64() - from.wait.as_secs_f64()).max(0.0);
            (time >= LEAST).then(|| (to.all - from.all) / arriving)
        };
        let older = self.looks.partition_point(|look| to.at.saturating_duration_since(look.at) >= OVER);
        self.looks.iter().skip(older.saturating_sub(1)).filter_map(since).max_by(f64::total_cmp)
    }

    /// Delivery rate in bytes per second while there is a queue: the capacity. `None` without a queue, or before it has lasted long
    /// enough.
    pub(crate) fn full(&self) -> Option<f64> {
        let to = self.looks.back()?;
        let queued = self.looks.iter().rev().take_while(|look| look.wait >= QUEUED);
        let from = queued.take_while(|look| to.at.saturating_duration_since(look.at) <= FULL_OVER).last()?;
        let time = to.at.saturating_duration_since(from.at);
        (time >= FULL_LEAST).then(|| (to.arrived - from.arrived) / time.as_secs_f64())
    }
}

/// Window of [`DeliveryRateEstimator::rate`]: several frames and pings. Shorter ones measure bursts, longer ones the past.
const OVER: Duration = Duration::from_millis(500);
/// Minimum interval for a rate.
const LEAST: Duration = Duration::from_millis(90);
/// Queueing delay from which on there is a queue: less is frames that meet.
const QUEUED: Duration = Duration::from_millis(20);
/// Minimum and maximum interval of [`DeliveryRateEstimator::full`].
const FULL_LEAST: Duration = Duration::from_millis(190);
const FULL_OVER: Duration = Duration::from_millis(600);
/// Samples that are kept: six seconds, longer than any queue.
const MOST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(looks: &[(u64, f64, u64)], taken: Option<f64>) {
        let start = Instant::now();
        let mut of = DeliveryRateEstimator::default();
        for (at, bytes, wait) in looks {
            of.note(*bytes, Duration::from_millis(*wait), Duration::ZERO, start + Duration::from_millis(*at));
        }
        assert_eq!(of.rate().map(f64::round), taken);
    }

    #[test]
    fn the_delivery_rate_follows_from_a_growing_delay() {
        check(&[], None);
        check(&[(0, 500.0, 0)], None);
        check(&[(0, 500.0, 0), (20, 100.0, 0)], None);
        // No queue: everything sent is delivered.
        check(&[(0, 0.0, 0), (100, 100.0, 0), (200, 100.0, 0)], Some(1000.0));
        // Two thirds are delivered.
        check(&[(0, 0.0, 0), (100, 300.0, 50), (200, 300.0, 100)], Some(2000.0));
        // It was idle before.
        check(&[(0, 0.0, 0), (100, 0.0, 0), (200, 300.0, 50)], Some(2000.0));
        // A draining queue yields no more than what was sent.
        check(&[(0, 0.0, 400), (100, 50.0, 200), (200, 50.0, 0)], Some(500.0));
        // Only the last half second counts.
        let looks: Vec<_> = (0..20).map(|n| (n * 100, if n < 10 { 900.0 } else { 100.0 }, 0)).collect();
        check(&looks, Some(1000.0));
    }
    #[test]
    fn the_delivery_rate_with_a_queue_is_the_capacity() {
        let start = Instant::now();
        let way = Duration::from_millis(50);
        let mut of = DeliveryRateEstimator::default();
        // 2000 bytes per second; after a second the capacity is 700, so that what is sent x later is delayed by 1.857 x.
        let mut full = Vec::new();
        for n in 0..22u64 {
            let now = n as f64 * 0.1;
            // The delay of what is sent at `then` is known at `then` + delay + base RTT.
            let then = (1.0 + (now - 1.0 - 0.05) / (2000.0 / 700.0)).min(now - 0.05);
            let wait = (now - 0.05 - then).max(0.0);
            of.note(200.0, Duration::from_secs_f64(wait), way, start + Duration::from_millis(n * 100));
            full.push(of.full());
        }
        assert!(full[..13].iter().all(Option::is_none), "{full:?}");
        for rate in &full[13..] {
            assert!(rate.is_some_and(|rate| (rate - 700.0).abs() < 30.0), "{full:?}");
        }
    }
    #[test]
    fn bytes_are_attributed_to_past_samples() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let mut of = DeliveryRateEstimator::default();
        for n in 0..4 {
            of.note(100.0, ms(0), ms(0), start + ms(n * 100));
        }
        // The latest first: 30 bytes in the last 100 ms, 20 in the 100 ms before.
        of.note_before([30.0, 20.0]);
        let all: Vec<f64> = of.looks.iter().map(|look| look.all).collect();
        assert_eq!(all, [100.0, 200.0, 320.0, 450.0]);
        // More intervals than samples: no panic.
        DeliveryRateEstimator::default().note_before([30.0, 20.0]);
    }
}
