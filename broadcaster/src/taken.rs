//! How much a link takes of what is handed to it, told by how long that waits: pure.
//!
//! What is handed over while the wait grows arrives over a longer time than it was handed over in, by just so much as the wait grew. So
//! bytes by that longer time is what the link takes, before the queue has grown to anything that would be felt.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The last half second of one link.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// When, all bytes by then, and how long the last of them wait.
    looks: VecDeque<(Instant, f64, Duration)>,
}

impl Taken {
    /// So many `bytes` went since the last look, and what went last waits for `wait`.
    pub(crate) fn note(&mut self, bytes: f64, wait: Duration, now: Instant) {
        let all = self.looks.back().map_or(0.0, |(_, all, _)| *all);
        self.looks.push_back((now, all + bytes, wait));
        let is_older = |(at, ..): &(Instant, f64, Duration)| now.saturating_duration_since(*at) >= OVER;
        while self.looks.len() > MOST || self.looks.get(1).is_some_and(is_older) {
            self.looks.pop_front();
        }
    }

    /// What the link takes, in bytes per second; of one that is not full, what there was. Since the moment that gives most: a link that was idle
    /// before its queue began takes more than it took then. `None` in the beginning.
    pub(crate) fn rate(&self) -> Option<f64> {
        let (to, after, last) = self.looks.back()?;
        let since = |(from, before, first): &(Instant, f64, Duration)| {
            let time = to.saturating_duration_since(*from);
            // A wait that falls is told late, and would make a narrow link of no width at all.
            let arriving = time.as_secs_f64() + (last.as_secs_f64() - first.as_secs_f64()).max(0.0);
            (time >= LEAST).then(|| (after - before) / arriving)
        };
        self.looks.iter().filter_map(since).max_by(f64::total_cmp)
    }
}

/// Several pictures and pings: less is a burst's, more is another time's.
const OVER: Duration = Duration::from_millis(500);
/// Less tells nothing.
const LEAST: Duration = Duration::from_millis(90);
/// Looks that are kept: more often than every ten milliseconds nobody looks.
const MOST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(looks: &[(u64, f64, u64)], taken: Option<f64>) {
        let start = Instant::now();
        let mut of = Taken::default();
        for (at, bytes, wait) in looks {
            of.note(*bytes, Duration::from_millis(*wait), start + Duration::from_millis(*at));
        }
        assert_eq!(of.rate().map(f64::round), taken);
    }

    #[test]
    fn what_a_growing_wait_tells() {
        check(&[], None);
        check(&[(0, 500.0, 0)], None);
        check(&[(0, 500.0, 0), (20, 100.0, 0)], None);
        // No queue: the link takes what there is.
        check(&[(0, 0.0, 0), (100, 100.0, 0), (200, 100.0, 0)], Some(1000.0));
        // Two fit in the time of three.
        check(&[(0, 0.0, 0), (100, 300.0, 50), (200, 300.0, 100)], Some(2000.0));
        // It was idle before.
        check(&[(0, 0.0, 0), (100, 0.0, 0), (200, 300.0, 50)], Some(2000.0));
        // A queue that is being emptied tells no more than what was handed over.
        check(&[(0, 0.0, 400), (100, 50.0, 200), (200, 50.0, 0)], Some(500.0));
        // Only the last half second counts, and nothing that went before its first look.
        let looks: Vec<_> = (0..20).map(|n| (n * 100, if n < 10 { 900.0 } else { 100.0 }, 0)).collect();
        check(&looks, Some(1000.0));
    }
}
