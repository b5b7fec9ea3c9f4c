//! How a latency is distributed, with the pictures that never came counted in.

use std::time::Duration;

/// The distribution of a latency: a histogram of fixed size with a relative error under 0.8%.
///
/// What was never shown is infinitely late: left out, a path that loses half of its pictures would look like a quick one.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
    unpresented: u64,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], count: 0, unpresented: 0, max: Duration::ZERO }
    }
}

impl Histogram {
    /// Adds a sample; what is over an hour counts as an hour.
    pub fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).min(LONGEST_MICROS);
        self.counts[bucket(micros)] += 1;
        self.count += 1;
        self.max = self.max.max(latency);
    }

    /// Adds `samples` that never came.
    pub fn record_unpresented(&mut self, samples: u64) {
        self.unpresented = self.unpresented.saturating_add(samples);
    }

    /// How many samples came.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many never came.
    pub fn unpresented(&self) -> u64 {
        self.unpresented
    }

    /// The longest of those that came.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// The latency that a share of `quantile` (0 to 1) of the samples does not exceed. `None` without samples, and where it is infinite
    /// because too many never came.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let all = self.count.saturating_add(self.unpresented);
        let wanted = ((all as f64 * quantile.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0;
        let at = self.counts.iter().position(|n| {
            seen += n;
            seen >= wanted
        })?;
        Some(Duration::from_micros(upper_bound(at)).min(self.max))
    }
}

/// 128 steps to each doubling; the first 128 microseconds have a bucket each.
fn bucket(micros: u64) -> usize {
    let doubling = (micros | 1).ilog2().saturating_sub(STEP_BITS);
    (usize::try_from(doubling).unwrap_or(0) << STEP_BITS) + (micros >> doubling) as usize
}

fn upper_bound(bucket: usize) -> u64 {
    let doubling = (bucket >> STEP_BITS).saturating_sub(1);
    let step = bucket - (doubling << STEP_BITS);
    ((step as u64 + 1) << doubling) - 1
}

/// 2^7 steps to each doubling: 1/128 of relative error, in 26 KiB.
const STEP_BITS: u32 = 7;
const LONGEST_MICROS: u64 = 3_600_000_000;
/// An hour falls into bucket 24 * 128 + 214.
const BUCKETS: usize = 26 << STEP_BITS;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantiles() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        for millis in 1..=100 {
            histogram.record(Duration::from_millis(millis));
        }
        for (quantile, millis) in [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)] {
            let got = histogram.quantile(quantile).unwrap().as_secs_f64() * 1e3;
            assert!((got / millis - 1.0).abs() < 0.008, "{quantile}: {got} ms for {millis} ms");
        }
        assert_eq!((histogram.count(), histogram.max()), (100, Duration::from_millis(100)));
    }

    #[test]
    fn what_never_came_is_later_than_all_that_did() {
        let mut histogram = Histogram::default();
        (0..98).for_each(|_| histogram.record(Duration::from_millis(10)));
        histogram.record_unpresented(2);
        assert!(histogram.quantile(0.98).is_some());
        assert_eq!((histogram.quantile(0.99), histogram.count(), histogram.unpresented()), (None, 98, 2));
    }

    proptest! {
        #[test]
        fn a_bucket_holds_what_is_put_into_it(micros in 0..=LONGEST_MICROS) {
            let at = bucket(micros);
            prop_assert!(at < BUCKETS);
            prop_assert!(upper_bound(at) >= micros && (at == 0 || upper_bound(at - 1) < micros));
            prop_assert!(upper_bound(at) as f64 <= (micros as f64 * (1.0 + 1.0 / 128.0)).max(127.0));
        }

        #[test]
        fn any_duration_is_taken(micros: u64) {
            Histogram::default().record(Duration::from_micros(micros));
        }
    }
}
