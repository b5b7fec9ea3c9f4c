//! The emulator's timing error: a lock-free histogram that the forwarding threads write, and snapshots that decide whether a run is valid.
//!
//! Lateness is actual minus ideal send time; the ideal follows from the kernel's receive timestamp and the link's shape, including queueing
//! and jitter. So it is the delay that the machine's scheduling added.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts of latenesses in log-linear buckets; written by one thread, read by any.
#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: Box<[AtomicU64]>,
    max: AtomicU64,
}

impl Histogram {
    /// An empty histogram.
    pub(crate) fn new() -> Histogram {
        Histogram { buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(), max: AtomicU64::new(0) }
    }

    /// Counts one frame that was sent `nanoseconds` late.
    pub(crate) fn record(&self, nanoseconds: u64) {
        self.buckets[bucket_of(nanoseconds)].fetch_add(1, Ordering::Relaxed);
        self.max.fetch_max(nanoseconds, Ordering::Relaxed);
    }

    /// What has been counted so far.
    pub(crate) fn snapshot(&self) -> Lateness {
        Lateness {
            counts: self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect(),
            max: self.max.load(Ordering::Relaxed),
        }
    }
}

/// Latenesses counted up to some moment, of one link or of several together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lateness {
    counts: Vec<u64>,
    /// The largest lateness, in nanoseconds, not rounded to a bucket.
    max: u64,
}

impl Lateness {
    /// Adds another link's latenesses to these.
    pub fn merge(&mut self, other: &Lateness) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.max = self.max.max(other.max);
    }

    /// What was counted since `earlier`, a snapshot of the same link or network: for one phase of a run. The maximum remains that of the
    /// whole time.
    pub fn since(&self, earlier: &Lateness) -> Lateness {
        let counts = self.counts.iter().zip(&earlier.counts).map(|(now, then)| now.saturating_sub(*then)).collect();
        Lateness { counts, max: self.max }
    }

    /// Number of frames counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Median; zero when there are no frames.
    pub fn p50(&self) -> Duration {
        self.quantile(0.50)
    }

    /// 99th percentile; zero when there are no frames.
    pub fn p99(&self) -> Duration {
        self.quantile(0.99)
    }

    /// Maximum; zero when there are no frames.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }

    /// The quantile `q` (0 to 1), rounded up to the end of its bucket: at most 1/[`STEPS`] too large.
    pub fn quantile(&self, q: f64) -> Duration {
        let count = self.count();
        if count == 0 {
            return Duration::ZERO;
        }
        let rank = ((count as f64 * q).ceil() as u64).clamp(1, count);
        let mut seen = 0;
        for (bucket, here) in self.counts.iter().enumerate() {
            seen += here;
            if seen >= rank {
                return Duration::from_nanos(end_of(bucket).min(self.max));
            }
        }
        self.max()
    }

    /// Whether the run is invalid: the 99th percentile exceeds [`MAX_VALID_P99`].
    pub fn is_invalid(&self) -> bool {
        self.p99() > MAX_VALID_P99
    }
}

impl fmt::Display for Lateness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} frames, late p50 {:?} p99 {:?} max {:?}", self.count(), self.p50(), self.p99(), self.max())
    }
}

/// Values under [`STEPS`] have a bucket each; above, every doubling is cut into [`STEPS`] equal buckets.
fn bucket_of(nanoseconds: u64) -> usize {
    if nanoseconds < STEPS as u64 {
        return nanoseconds as usize;
    }
    let doubling = nanoseconds.ilog2() - STEPS.ilog2();
    let step = (nanoseconds >> doubling) as usize - STEPS;
    (doubling as usize + 1) * STEPS + step
}

/// The greatest value that falls in the bucket.
fn end_of(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let (doubling, step) = (bucket / STEPS - 1, (bucket % STEPS + STEPS) as u64);
    // The last bucket ends at 2^64 - 1: the shift is done before the step's end can overflow.
    (step << doubling) + ((1 << doubling) - 1)
}

/// Above this 99th percentile of lateness a run is invalid: the shortest delays measured in the lab are a few milliseconds, and an error above a
/// quarter of that would dominate the result.
pub const MAX_VALID_P99: Duration = Duration::from_millis(1);

/// Buckets for each doubling; a power of two. Sixteen bound the error of a quantile to 6%, which is finer than
/// any decision taken by it.
pub const STEPS: usize = 16;

/// Buckets for all of `u64`.
const BUCKETS: usize = (u64::BITS as usize - STEPS.ilog2() as usize + 1) * STEPS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_counted_in_the_first_bucket_that_contains_it() {
        for value in (0..100_000).chain([1 << 20, (1 << 33) + 12345, u64::MAX / 2, u64::MAX]) {
            let bucket = bucket_of(value);
            assert!(end_of(bucket) >= value, "{value}");
            assert!(bucket == 0 || end_of(bucket - 1) < value, "{value}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_within_a_step() {
        let histogram = Histogram::new();
        for value in 1..=1000 {
            histogram.record(value * 1000);
        }
        let lateness = histogram.snapshot();
        assert_eq!(lateness.count(), 1000);
        assert_eq!(lateness.max(), Duration::from_millis(1));
        let p50 = lateness.p50().as_micros();
        assert!((500..=532).contains(&p50), "{p50}");
        let p99 = lateness.p99().as_micros();
        assert!((990..=1000).contains(&p99), "{p99}");
        assert!(!lateness.is_invalid());
    }

    #[test]
    fn merged_and_later_counts_add_up() {
        let (first, second) = (Histogram::new(), Histogram::new());
        first.record(10);
        second.record(5_000_000);
        let before = first.snapshot();
        let mut both = before.clone();
        both.merge(&second.snapshot());
        assert_eq!((both.count(), both.max()), (2, Duration::from_millis(5)));
        assert!(both.is_invalid());
        assert_eq!(both.since(&before).count(), 1);
        assert_eq!(Histogram::new().snapshot().p99(), Duration::ZERO);
    }
}
