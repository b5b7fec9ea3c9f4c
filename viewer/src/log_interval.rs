//! Bounds the log lines that a source can cause with each unit.

use std::time::Duration;

/// Admits one line of its kind per [`INTERVAL`], and counts what the others would have said.
#[derive(Debug, Default)]
pub(crate) struct LogInterval {
    last: Option<Duration>,
    unreported: u64,
}

impl LogInterval {
    /// At `now`, `count` of something are to be reported. Returns how many there are since the last line, these included, if a line is due.
    pub(crate) fn due(&mut self, now: Duration, count: u64) -> Option<u64> {
        self.unreported = self.unreported.saturating_add(count);
        if self.last.is_some_and(|last| now.saturating_sub(last) < INTERVAL) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unreported))
    }
}

/// Minimum time between two lines.
const INTERVAL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_reported_at_once_and_the_others_together() {
        let mut lines = LogInterval::default();
        let reported: Vec<_> =
            (0..30_000u64).filter_map(|at| lines.due(Duration::from_millis(at), 2).map(|count| (at, count))).collect();
        assert_eq!(reported, [(0, 2), (10_000, 20_000), (20_000, 20_000)]);
        assert_eq!(lines.due(Duration::from_secs(100), 1), Some(2 * 9_999 + 1));
    }
}
