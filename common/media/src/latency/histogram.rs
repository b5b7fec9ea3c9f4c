//! The distribution of a latency, with pictures that were never shown counted as infinitely late.
//!
//! The `hdrhistogram` crate counts the samples; this module adds samples without a value.

use std::time::Duration;

use hdrhistogram::Histogram as Buckets;

/// A histogram of latencies from 1 µs to 1 h with a relative error below 0.8%. Its memory is fixed: 26 KiB.
///
/// A picture that was never shown counts as infinitely late. If it were left out, a path that loses half of its pictures would look like a fast
/// one.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Buckets<u64>,
    unpresented: u64,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = Buckets::new_with_max(MAX_MICROS, SIGNIFICANT_DIGITS).expect("the bounds are valid");
        Self { buckets, unpresented: 0, max: Duration::ZERO }
    }
}

impl Histogram {
    /// Adds a sample. More than an hour is counted as an hour.
    pub fn record(&mut self, latency: Duration) {
        self.buckets.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        self.max = self.max.max(latency);
    }

    /// Adds `samples` pictures that were never shown.
    pub fn record_unpresented(&mut self, samples: u64) {
        self.unpresented = self.unpresented.saturating_add(samples);
    }

    /// Number of samples with a latency.
    pub fn count(&self) -> u64 {
        self.buckets.len()
    }

    /// Number of pictures that were never shown.
    pub fn unpresented(&self) -> u64 {
        self.unpresented
    }

    /// The largest latency, exactly; zero without samples.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// The latency that a fraction of `quantile` (0 to 1) of all samples does not exceed. `None` without samples, and if it is infinite because too
    /// many pictures were never shown.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let all = self.count().saturating_add(self.unpresented);
        let wanted = ((all as f64 * quantile.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0u64;
        let bucket = self.buckets.iter_recorded().find(|bucket| {
            seen = seen.saturating_add(bucket.count_at_value());
            seen >= wanted
        })?;
        let upper_bound = self.buckets.highest_equivalent(bucket.value_iterated_to());
        Some(Duration::from_micros(upper_bound).min(self.max))
    }
}

/// The largest latency in microseconds, one hour: a longer one is caused by a clock that was set.
const MAX_MICROS: u64 = 3_600_000_000;
/// Significant digits of the histogram: two, 128 buckets for each power of two.
const SIGNIFICANT_DIGITS: u8 = 2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantiles_are_exact_to_one_percent() {
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
    fn an_unpresented_picture_counts_as_infinitely_late() {
        let mut histogram = Histogram::default();
        (0..98).for_each(|_| histogram.record(Duration::from_millis(10)));
        histogram.record_unpresented(2);
        assert!(histogram.quantile(0.98).is_some());
        assert_eq!((histogram.quantile(0.99), histogram.count(), histogram.unpresented()), (None, 98, 2));
    }

    proptest! {
        #[test]
        fn a_quantile_is_at_most_one_bucket_above_the_sample(micros in 0..=MAX_MICROS, more in 0..=MAX_MICROS) {
            let mut histogram = Histogram::default();
            histogram.record(Duration::from_micros(micros));
            histogram.record(Duration::from_micros(micros.saturating_add(more)));
            let found = histogram.quantile(0.5).unwrap().as_micros() as u64;
            prop_assert!(found >= micros.min(MAX_MICROS));
            prop_assert!(found as f64 <= (micros as f64 * (1.0 + 1.0 / 128.0)).max(255.0));
        }

        #[test]
        fn any_duration_is_counted(micros: u64) {
            let mut histogram = Histogram::default();
            histogram.record(Duration::from_micros(micros));
            prop_assert_eq!(histogram.count(), 1);
            prop_assert!(histogram.quantile(1.0).is_some());
        }
    }
}
