//! The distribution of glass-to-glass latency, by one clock once the offset between the broadcaster's and this host's is known.

use std::time::Duration;

use media::latency::{ClockOffset, Histogram};

/// The latency of all presented pictures.
#[derive(Debug, Default)]
pub(crate) struct LatencyHistogram {
    synced: Histogram,
    /// Microseconds by two clocks whose offset is unknown yet; corrected once it is known.
    unsynced: Vec<i64>,
    negative: u64,
}

impl LatencyHistogram {
    /// A picture was presented so many microseconds after its capture. `clock` is the offset that `micros` is corrected by already; `None` if it is
    /// unknown.
    pub(crate) fn record(&mut self, micros: i64, clock: Option<ClockOffset>) {
        let Some(clock) = clock else {
            self.unsynced.push(micros);
            if self.unsynced.len() >= MAX_UNSYNCED {
                // The server has not reported its clock for so long that it never will.
                self.negative += record_all(&mut self.synced, &self.unsynced);
                self.unsynced.clear();
            }
            return;
        };
        for early in self.unsynced.drain(..) {
            self.synced.record(non_negative(early.saturating_add(clock.micros)).unwrap_or_default());
        }
        // By one clock no picture is shown before it is captured: a negative value is within the uncertainty.
        self.synced.record(non_negative(micros).unwrap_or_default());
    }

    /// The distribution so far, uncorrected where the offset is unknown.
    pub(crate) fn histogram(&self) -> Histogram {
        let mut all = self.synced.clone();
        record_all(&mut all, &self.unsynced);
        all
    }

    /// Pictures that were presented before they were captured, by two clocks whose offset is unknown; the histogram does not hold them.
    pub(crate) fn negative(&self) -> u64 {
        self.negative + record_all(&mut Histogram::default(), &self.unsynced)
    }
}

/// Records all values that are not negative; returns how many are.
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

/// 17 s of pictures at 60 a second; servers report their clock within the first second.
const MAX_UNSYNCED: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(latency: &LatencyHistogram, count: u64, max_ms: u64, negative: u64) {
        let all = latency.histogram();
        assert_eq!((all.count(), all.max(), latency.negative()), (count, Duration::from_millis(max_ms), negative));
    }

    #[test]
    fn latencies_recorded_before_the_offset_was_known_are_corrected() {
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
    fn an_unsynced_clock_is_accepted_after_a_timeout() {
        let mut latency = LatencyHistogram::default();
        (0..3 * MAX_UNSYNCED).for_each(|n| latency.record(if n % 2 == 0 { 40_000 } else { -40_000 }, None));
        assert!(latency.unsynced.len() < MAX_UNSYNCED);
        let half = 3 * MAX_UNSYNCED as u64 / 2;
        check(&latency, half, 40, half);
    }
}
