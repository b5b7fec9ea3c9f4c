//! Windowed minimum of the RTT: the RTT of a path without queues, as in BBR (draft-cardwell-iccrg-bbr-congestion-control §4.3). Pure: the
//! caller passes the time.
//!
//! A route may become longer at any time, by a handover between access points or by a change in the network. A minimum without a window would take
//! the difference for a queue for ever.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The minimum RTT of the last [`MIN_RTT_WINDOW`].
#[derive(Clone, Debug, Default)]
pub struct WindowedMinRtt {
    /// Samples that no later one undercuts, oldest and smallest first.
    samples: VecDeque<(Instant, Duration)>,
}

impl WindowedMinRtt {
    /// Adds the sample `rtt`, and drops the samples that have left the window; `now` does not go back.
    pub fn update(&mut self, rtt: Duration, now: Instant) {
        while self.samples.pop_back_if(|(_, later)| *later >= rtt).is_some() {}
        self.samples.push_back((now, rtt));
        while self.samples.pop_front_if(|(at, _)| now.saturating_duration_since(*at) > MIN_RTT_WINDOW).is_some() {}
        // Samples that rise with each other are as many as there were in the window.
        if self.samples.len() > MAX_SAMPLES {
            self.samples.pop_back();
        }
    }

    /// The minimum; `None` before the first sample. The last sample counts, however old it is.
    pub fn value(&self) -> Option<Duration> {
        self.samples.front().map(|(_, rtt)| *rtt)
    }
}

/// Longer than a queue lasts that rate control drains, and short enough that a longer route is soon known. BBR uses the same.
pub const MIN_RTT_WINDOW: Duration = Duration::from_secs(10);
/// Bounds the memory: one sample every 40 ms, the frames of an ordinary stream.
const MAX_SAMPLES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(samples: &[(u64, u64)], expected: Option<u64>) {
        let start = Instant::now();
        let mut filter = WindowedMinRtt::default();
        for (at, rtt) in samples {
            filter.update(Duration::from_millis(*rtt), start + Duration::from_millis(*at));
        }
        assert_eq!(filter.value(), expected.map(Duration::from_millis));
    }

    #[test]
    fn the_minimum_is_that_of_the_window() {
        check(&[], None);
        check(&[(0, 20)], Some(20));
        check(&[(0, 20), (100, 30), (200, 25)], Some(20));
        check(&[(0, 20), (100, 10), (200, 25)], Some(10));
        check(&[(0, 20), (100, 180), (10_000, 180)], Some(20));
        check(&[(0, 20), (100, 180), (10_001, 190)], Some(180));
        // After a pause the new sample counts alone.
        check(&[(0, 20), (60_000, 180)], Some(180));
    }

    #[test]
    fn memory_is_bounded() {
        let start = Instant::now();
        let mut filter = WindowedMinRtt::default();
        for n in 0..10_000 {
            filter.update(Duration::from_micros(n), start + Duration::from_micros(n));
        }
        assert!(filter.samples.len() <= MAX_SAMPLES);
        assert_eq!(filter.value(), Some(Duration::ZERO));
    }
}
