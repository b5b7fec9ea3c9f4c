//! Latency: where the time between lens and eye goes, and how it is distributed.
//!
//! Every stage stamps a unit with the wall clock of its own host; differences between hosts are only as good as their clock
//! offset, which the caller has taken out. Pure: instants are parameters.

use std::time::Duration;

use crate::time::WallClock;

/// A point in the life of an access unit, in the order in which it passes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The picture left the lens, or the sound the microphone: wall-clock time of its PTS.
    Captured,
    /// It came out of the viewer's source: the network is behind it.
    Received,
    /// It came out of the splice.
    Spliced,
    /// Its picture came out of the decoder.
    Decoded,
    /// Its picture was shown.
    Presented,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Self; 5] = [Self::Captured, Self::Received, Self::Spliced, Self::Decoded, Self::Presented];

    /// The name in statistics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Captured => "captured",
            Self::Received => "received",
            Self::Spliced => "spliced",
            Self::Decoded => "decoded",
            Self::Presented => "presented",
        }
    }
}

/// When one access unit passed each stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamps([Option<WallClock>; 5]);

impl Stamps {
    /// Notes that `stage` was passed at `at`.
    pub fn stamp(&mut self, stage: Stage, at: WallClock) {
        self.0[stage as usize] = Some(at);
    }

    /// When `stage` was passed.
    pub fn at(&self, stage: Stage) -> Option<WallClock> {
        self.0[stage as usize]
    }

    /// Signed microseconds from one stage to another; `None` unless both are known.
    pub fn micros(&self, from: Stage, to: Stage) -> Option<i64> {
        Some(self.at(to)?.micros_since(self.at(from)?))
    }
}

/// The distribution of a latency: a histogram of fixed size with a relative error under 0.8%.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], count: 0, max: Duration::ZERO }
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

    /// How many samples there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// The latency that a share of `quantile` (0 to 1) of the samples does not exceed; `None` without samples.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let wanted = ((self.count as f64 * quantile.clamp(0.0, 1.0)).ceil() as u64).max(1);
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
    fn stamps_give_differences() {
        let mut stamps = Stamps::default();
        stamps.stamp(Stage::Captured, WallClock::from_micros(1_000));
        assert_eq!(stamps.micros(Stage::Captured, Stage::Presented), None);
        stamps.stamp(Stage::Presented, WallClock::from_micros(41_000));
        assert_eq!(stamps.micros(Stage::Captured, Stage::Presented), Some(40_000));
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
