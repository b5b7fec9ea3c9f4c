//! How unevenly units arrive: the spread of their transit times over a sliding window.
//!
//! A unit's *transit* is its arrival on the local monotonic clock minus its DTS. Its absolute value means nothing (the clocks
//! have different origins); the least of the window is a unit that nothing delayed, and how far the others lie above it is
//! the jitter that a buffer must absorb. The window slides, so that the drift between two crystals never accumulates.

use std::collections::VecDeque;
use std::time::Duration;

/// Transit times of the last while.
#[derive(Debug)]
pub(super) struct Jitter {
    window: Duration,
    /// Arrival, and transit in microseconds.
    samples: VecDeque<(Duration, i64)>,
}

impl Jitter {
    /// Nothing measured yet; forgets what is older than `window`.
    pub(super) fn new(window: Duration) -> Self {
        Self { window, samples: VecDeque::new() }
    }

    /// A unit arrived at `now` with this transit in microseconds.
    pub(super) fn record(&mut self, now: Duration, transit: i64) {
        while self.samples.len() >= MAX_SAMPLES || self.samples.front().is_some_and(|(at, _)| *at + self.window < now) {
            self.samples.pop_front();
        }
        self.samples.push_back((now, transit));
    }

    /// The least transit of the window, in microseconds.
    pub(super) fn least(&self) -> Option<i64> {
        self.samples.iter().map(|(_, transit)| *transit).min()
    }

    /// How far the slow ones lie above the least: the [`PERCENTILE`]th percentile, in microseconds.
    pub(super) fn spread(&self) -> i64 {
        let mut transits: Vec<i64> = self.samples.iter().map(|(_, transit)| *transit).collect();
        if transits.is_empty() {
            return 0;
        }
        let at = (transits.len() - 1) * PERCENTILE / 100;
        let least = transits.iter().copied().min().unwrap_or(0);
        let (_, slow, _) = transits.select_nth_unstable(at);
        slow.saturating_sub(least)
    }

    /// Forgets everything: what follows comes by another way.
    pub(super) fn clear(&mut self) {
        self.samples.clear();
    }
}

/// One in a hundred may come late: to buffer for the very slowest would make everything wait for one hiccup.
const PERCENTILE: usize = 99;
/// Bounds the window whatever a stream's rate is: 10 s of 60 pictures and 100 sounds a second, and room.
const MAX_SAMPLES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_over_the_least() {
        let mut jitter = Jitter::new(Duration::from_secs(10));
        assert_eq!((jitter.least(), jitter.spread()), (None, 0));
        for n in 0..200 {
            jitter.record(Duration::from_millis(n * 20), 500 + if n % 10 == 0 { 30_000 } else { 0 });
        }
        assert_eq!((jitter.least(), jitter.spread()), (Some(500), 30_000));
    }

    #[test]
    fn one_hiccup_is_not_jitter_and_is_forgotten() {
        let mut jitter = Jitter::new(Duration::from_secs(1));
        for n in 0..200u64 {
            jitter.record(Duration::from_millis(n * 5), if n == 100 { 900_000 } else { 0 });
        }
        assert_eq!(jitter.spread(), 0);
        jitter.record(Duration::from_secs(5), 70);
        assert_eq!((jitter.least(), jitter.samples.len()), (Some(70), 1));
    }
}
