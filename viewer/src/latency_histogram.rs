//! How late pictures were shown, as a distribution, by the broadcaster's clock once somebody has told how far it is from ours.

use std::time::Duration;

use media::latency::{ClockOffset, Histogram};

/// The latencies of all pictures so far.
#[derive(Debug, Default)]
pub(crate) struct LatencyHistogram {
    synced: Histogram,
    /// Microseconds by two clocks that nobody has compared yet: once they are, these are put right.
    unsynced: Vec<i64>,
    negative: u64,
}

impl LatencyHistogram {
    /// A picture was shown so many microseconds after its capture: by one clock if `clock` says how far the two are apart, else by the two.
    pub(crate) fn record(&mut self, micros: i64, clock: Option<ClockOffset>) {
        let Some(clock) = clock else {
            self.unsynced.push(micros);
            if self.unsynced.len() >= MAX_UNSYNCED {
                // A server that has told nothing for so long tells nothing.
                self.negative += record_all(&mut self.synced, &self.unsynced);
                self.unsynced.clear();
            }
            return;
        };
        for early in self.unsynced.drain(..) {
            self.synced.record(non_negative(early.saturating_add(clock.micros)).unwrap_or_default());
        }
        // By one clock a picture is not shown before it is captured: what is below zero is within the doubt.
        self.synced.record(non_negative(micros).unwrap_or_default());
    }

    /// The distribution so far.
    pub(crate) fn histogram(&self) -> Histogram {
        let mut all = self.synced.clone();
        record_all(&mut all, &self.unsynced);
        all
    }

    /// How many pictures were shown before they were captured, by two clocks that nobody compares: nothing is known of their latency.
    pub(crate) fn negative(&self) -> u64 {
        self.negative + record_all(&mut Histogram::default(), &self.unsynced)
    }
}

/// Adds what is not below zero; gives how many were.
fn record_all(histogram: &mut Histogram, all: &[i64]) -> u64 {
    let early = all.iter().filter(|micros| match non_negative(**micros) {
        Some(latency) => {
            histogram.record(latency);
            false
        }
        None => true,
    });
    u64::try_from(early.count()).unwrap_or(u64::MAX)
}

fn non_negative(micros: i64) -> Option<Duration> {
    u64::try_from(micros).ok().map(Duration::from_micros)
}

/// 17 s of pictures at 60 a second; servers that tell do so within the first.
const MAX_UNSYNCED: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(latency: &LatencyHistogram, count: u64, max_ms: u64, negative: u64) {
        let all = latency.histogram();
        assert_eq!((all.count(), all.max(), latency.negative()), (count, Duration::from_millis(max_ms), negative));
    }

    #[test]
    fn what_was_shown_before_the_clocks_were_compared_is_put_right() {
        let clock = |ms: i64| Some(ClockOffset { micros: ms * 1000, uncertainty: 300 });
        let mut behind = LatencyHistogram::default();
        behind.record(2_100_000, None);
        check(&behind, 1, 2_100, 0);
        behind.record(100_000, clock(-2_000));
        check(&behind, 2, 100, 0);
        let mut ahead = LatencyHistogram::default();
        ahead.record(-110_000, None);
        check(&ahead, 0, 0, 1);
        ahead.record(-200, clock(210));
        check(&ahead, 2, 100, 0);
    }

    #[test]
    fn clocks_that_nobody_compares_are_believed_in_the_end() {
        let mut latency = LatencyHistogram::default();
        (0..3 * MAX_UNSYNCED).for_each(|n| latency.record(if n % 2 == 0 { 40_000 } else { -40_000 }, None));
        assert!(latency.unsynced.len() < MAX_UNSYNCED);
        let half = 3 * MAX_UNSYNCED as u64 / 2;
        check(&latency, half, 40, half);
    }
}
