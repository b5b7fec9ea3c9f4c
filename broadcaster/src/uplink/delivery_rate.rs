//! Estimates a link's delivery rate from the bytes sent and their queueing delay. Pure.
//!
//! Bytes sent while the delay grows arrive over a longer time than they were sent in, longer by the growth of the delay. So bytes divided
//! by that longer time is the delivery rate, before the queue becomes noticeable. Once there has been a queue for a while, the bytes
//! delivered meanwhile measure the capacity more precisely.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::units::{Bytes, Rate};

/// The samples of one link, over some seconds.
#[derive(Debug, Default)]
pub(super) struct DeliveryRateEstimator {
    samples: VecDeque<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    /// Sent by then.
    sent: Bytes,
    /// Known to be delivered by then.
    delivered: Bytes,
    /// The latest queueing delay measured.
    queue_delay: Duration,
}

impl DeliveryRateEstimator {
    /// Adds a sample: `bytes` sent since the last one, the queueing delay and the minimum RTT.
    pub(super) fn on_sample(&mut self, bytes: Bytes, queue_delay: Duration, min_rtt: Duration, now: Instant) {
        let last = self.samples.back().copied();
        let sent = last.map_or(Bytes::ZERO, |last| last.sent) + bytes;
        self.samples.push_back(Sample { at: now, sent, delivered: Bytes::ZERO, queue_delay });
        let delivered = now.checked_sub(queue_delay + min_rtt).map_or(Bytes::ZERO, |then| self.sent_by(then));
        if let Some(sample) = self.samples.back_mut() {
            sample.delivered = delivered.max(last.map_or(Bytes::ZERO, |last| last.delivered));
        }
        while self.samples.len() > MAX_SAMPLES {
            self.samples.pop_front();
        }
    }

    /// Attributes further bytes to the intervals before the samples so far, the latest first.
    pub(super) fn backfill(&mut self, bytes: impl IntoIterator<Item = Bytes>) {
        for (n, bytes) in bytes.into_iter().enumerate() {
            let since = self.samples.len().saturating_sub(1 + n);
            self.samples.range_mut(since..).for_each(|sample| sample.sent += bytes);
        }
    }

    /// Bytes sent by `then`, interpolated between samples; none before the first.
    fn sent_by(&self, then: Instant) -> Bytes {
        let after = self.samples.partition_point(|sample| sample.at <= then);
        let Some(before) = after.checked_sub(1).map(|last| self.samples[last]) else { return Bytes::ZERO };
        let Some(next) = self.samples.get(after) else { return before.sent };
        let part = (then - before.at).as_secs_f64() / (next.at - before.at).as_secs_f64();
        before.sent + (next.sent - before.sent) * part
    }

    /// Delivery rate: the maximum over the starting points in the window, since a link that was idle before its queue began delivers more
    /// than it did then. Limited by what was sent on a link that is not full. `None` at the start.
    pub(super) fn rate(&self) -> Option<Rate> {
        let to = self.samples.back()?;
        let since = |from: &Sample| {
            let time = to.at.saturating_duration_since(from.at);
            // A decreasing delay is measured late, and would yield a rate far too low.
            let arriving = time + to.queue_delay.saturating_sub(from.queue_delay);
            (time >= MIN_INTERVAL).then(|| (to.sent - from.sent) / arriving)
        };
        let older = self.samples.partition_point(|sample| to.at.saturating_duration_since(sample.at) >= WINDOW);
        self.samples.iter().skip(older.saturating_sub(1)).filter_map(since).reduce(Rate::max)
    }

    /// Delivery rate while there is a queue: the capacity. `None` without a queue, or before it has lasted long enough.
    pub(super) fn saturated_rate(&self) -> Option<Rate> {
        let to = self.samples.back()?;
        let queued = self.samples.iter().rev().take_while(|sample| sample.queue_delay >= QUEUED);
        let from = queued.take_while(|sample| to.at.saturating_duration_since(sample.at) <= MAX_SATURATED).last()?;
        let time = to.at.saturating_duration_since(from.at);
        (time >= MIN_SATURATED).then(|| (to.delivered - from.delivered) / time)
    }
}

/// Window of [`DeliveryRateEstimator::rate`]: several frames and pings. Shorter ones measure bursts, longer ones the past.
const WINDOW: Duration = Duration::from_millis(500);
/// Minimum interval for a rate.
const MIN_INTERVAL: Duration = Duration::from_millis(90);
/// Queueing delay from which on there is a queue: less is frames that meet.
pub(super) const QUEUED: Duration = Duration::from_millis(20);
/// Minimum and maximum interval of [`DeliveryRateEstimator::saturated_rate`].
const MIN_SATURATED: Duration = Duration::from_millis(190);
const MAX_SATURATED: Duration = Duration::from_millis(600);
/// Samples that are kept: six seconds, longer than any queue.
const MAX_SAMPLES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(looks: &[(u64, f64, u64)], taken: Option<f64>) {
        let start = Instant::now();
        let mut of = DeliveryRateEstimator::default();
        for (at, bytes, wait) in looks {
            of.on_sample(
                Bytes::new(*bytes),
                Duration::from_millis(*wait),
                Duration::ZERO,
                start + Duration::from_millis(*at),
            );
        }
        assert_eq!(of.rate().map(|rate| (rate.as_bits_per_second() / 8.0).round()), taken);
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
            of.on_sample(Bytes::new(200.0), Duration::from_secs_f64(wait), way, start + Duration::from_millis(n * 100));
            full.push(of.saturated_rate().map(|rate| rate.as_bits_per_second() / 8.0));
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
            of.on_sample(Bytes::new(100.0), ms(0), ms(0), start + ms(n * 100));
        }
        // The latest first: 30 bytes in the last 100 ms, 20 in the 100 ms before.
        of.backfill([30.0, 20.0].map(Bytes::new));
        let all: Vec<f64> = of.samples.iter().map(|sample| sample.sent.get()).collect();
        assert_eq!(all, [100.0, 200.0, 320.0, 450.0]);
        // More intervals than samples: no panic.
        DeliveryRateEstimator::default().backfill([30.0, 20.0].map(Bytes::new));
    }
}
