//! Bounds the log lines that a source can cause with each unit or error.

use std::fmt;
use std::time::{Duration, Instant};

/// Writes one kind of log line at most once in ten seconds ([or so often](Self::with_burst)), with the number of times since the line
/// before; what is left, when it is dropped.
pub struct LogLimiter<D> {
    write: fn(u64, &D),
    burst: u32,
    /// Since when the lines are counted, and their number.
    since: Option<Instant>,
    lines: u32,
    unreported: u64,
    /// Details of the newest unreported one.
    newest: Option<D>,
}

impl<D> LogLimiter<D> {
    /// Nothing to report yet. `write` gets the number of times, and the details of the newest.
    pub const fn new(write: fn(u64, &D)) -> Self {
        Self::with_burst(1, write)
    }

    /// The same with so many lines in ten seconds: for what happens a few times at once in the ordinary course, as when a program starts.
    pub const fn with_burst(burst: u32, write: fn(u64, &D)) -> Self {
        Self { write, burst, since: None, lines: 0, unreported: 0, newest: None }
    }

    /// It happened at `now`.
    pub fn note(&mut self, now: Instant, details: D) {
        self.note_many(now, 1, details);
    }

    /// It happened at `now`, `count` times.
    pub fn note_many(&mut self, now: Instant, count: u64, details: D) {
        self.unreported = self.unreported.saturating_add(count);
        self.newest = Some(details);
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= INTERVAL) {
            (self.since, self.lines) = (Some(now), 0);
        }
        if self.lines < self.burst {
            self.lines += 1;
            self.report();
        }
    }

    /// Writes what is left.
    pub fn finish(&mut self) {
        self.report();
    }

    fn report(&mut self) {
        if let Some(newest) = self.newest.take() {
            (self.write)(std::mem::take(&mut self.unreported), &newest);
        }
    }
}

impl<D> Drop for LogLimiter<D> {
    fn drop(&mut self) {
        self.report();
    }
}

impl<D> fmt::Debug for LogLimiter<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogLimiter").field("unreported", &self.unreported).finish_non_exhaustive()
    }
}

/// Minimum time between two lines.
const INTERVAL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    thread_local! {
        static WRITTEN: RefCell<Vec<(u64, u64)>> = const { RefCell::new(Vec::new()) };
    }

    #[test]
    fn the_first_is_written_at_once_the_others_together_and_the_rest_at_the_end() {
        let written = || WRITTEN.take();
        let mut lines = LogLimiter::new(|count, at: &u64| WRITTEN.with_borrow_mut(|lines| lines.push((count, *at))));
        let start = Instant::now();
        for millis in 0..30_000 {
            lines.note_many(start + Duration::from_millis(millis), 2, millis);
        }
        assert_eq!(written(), [(2, 0), (20_000, 10_000), (20_000, 20_000)]);
        lines.note(start + Duration::from_secs(100), 100_000);
        assert_eq!(written(), [(2 * 9_999 + 1, 100_000)]);
        drop(lines);
        assert_eq!(written(), []);
        let mut lines = LogLimiter::new(|count, at: &u64| WRITTEN.with_borrow_mut(|lines| lines.push((count, *at))));
        (0..3).for_each(|n| lines.note(start, n));
        drop(lines);
        assert_eq!(written(), [(1, 0), (2, 2)]);
        let write = |count, at: &u64| WRITTEN.with_borrow_mut(|lines| lines.push((count, *at)));
        let mut lines = LogLimiter::with_burst(3, write);
        for millis in 0..20_000 {
            lines.note(start + Duration::from_millis(millis), millis);
        }
        lines.finish();
        assert_eq!(written(), [(1, 0), (1, 1), (1, 2), (9998, 10_000), (1, 10_001), (1, 10_002), (9997, 19_999)]);
    }
}
