//! How late pictures were shown, as a distribution, by the broadcaster's clock once somebody has told how far it is from ours.

use std::time::Duration;

use media::latency::{ClockOffset, Histogram};

/// The latencies of all pictures so far.
#[derive(Debug, Default)]
pub(crate) struct LatencyHistogram {
    known: Histogram,
    /// Microseconds by two clocks that nobody has compared yet: once they are, these are put right.
    unsure: Vec<i64>,
    too_early: u64,
}

impl LatencyHistogram {
    /// A picture was shown so many microseconds after its capture: by one clock if `clock` says how far the two are apart, else by the two.
    pub(crate) fn record(&mut self, micros: i64, clock: Option<ClockOffset>) {
        let Some(clock) = clock else {
            self.unsure.push(micros);
            if self.unsure.len() >= MAX_UNSURE {
                // A server that has told nothing for so long tells nothing.
                self.too_early += take(&mut self.known, &self.unsure);
                self.unsure.clear();
            }
            return;
        };
        for early in self.unsure.drain(..) {
            self.known.record(length(early.saturating_add(clock.micros)).unwrap_or_default());
        }
        // By one clock a picture is not shown before it is captured: what is below zero is within the doubt.
        self.known.record(length(micros).unwrap_or_default());
    }

    /// The distribution so far.
    pub(crate) fn histogram(&self) -> Histogram {
        let mut all = self.known.clone();
        take(&mut all, &self.unsure);
        all
    }

    /// How many pictures were shown before they were captured, by two clocks that nobody compares: nothing is known of their latency.
    pub(crate) fn too_early(&self) -> u64 {
        self.too_early + take(&mut Histogram::default(), &self.unsure)
    }
}

/// Adds what is not below zero; gives how many were.
fn take(histogram: &mut Histogram, all: &[i64]) -> u64 {
    let early = all.iter().filter(|micros| match length(**micros) {
        Some(latency) => {
            histogram.record(latency);
            false
        }
        None => true,
    });
    u64::try_from(early.count()).unwrap_or(u64::MAX)
}

fn length(micros: i64) -> Option<Duration> {
    u64::try_from(micros).ok().map(Duration::from_micros)
}

/// 17 s of pictures at 60 a second; servers that tell do so within the first.
const MAX_UNSURE: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lateness: &LatencyHistogram, count: u64, max_ms: u64, too_early: u64) {
        let all = lateness.histogram();
        assert_eq!((all.count(), all.max(), lateness.too_early()), (count, Duration::from_millis(max_ms), too_early));
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
        let mut lateness = LatencyHistogram::default();
        (0..3 * MAX_UNSURE).for_each(|n| lateness.record(if n % 2 == 0 { 40_000 } else { -40_000 }, None));
        assert!(lateness.unsure.len() < MAX_UNSURE);
        let half = 3 * MAX_UNSURE as u64 / 2;
        check(&lateness, half, 40, half);
    }
}
