//! When each unit is due at a reader; a slow reader's lag is measured against it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use media::{Epoch, Timestamp};

/// When each held unit is due at a reader, to within [`RESOLUTION`].
///
/// A unit is due on arrival. But a reconnecting publisher sends its backlog faster than real time, and a reader without the bandwidth for
/// that must not count as slow. So within a burst, due times advance at [`CATCH_UP_RATE`] times real time. The allowance shrinks as the stream
/// continues in real time.
#[derive(Debug, Default)]
pub(super) struct DueTimes {
    /// `(position, due time)` pairs, oldest first. A mark applies to all positions up to the next mark.
    marks: VecDeque<(u64, Instant)>,
    last: Option<Last>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    epoch: Epoch,
    /// The newest DTS of the epoch, over all tracks.
    dts: Timestamp,
    due: Instant,
}

impl DueTimes {
    /// Records that the unit at `position` arrived at `now`.
    pub(super) fn on_unit(&mut self, position: u64, epoch: Epoch, dts: Timestamp, now: Instant) {
        let last = self.last.filter(|last| last.epoch == epoch);
        let playing = last.map_or(Duration::ZERO, |last| dts.since(last.dts)).min(MAX_STEP);
        let due = now.max(self.last.map_or(now, |last| last.due + playing / CATCH_UP_RATE));
        let dts = last.map_or(dts, |last| last.dts.max(dts));
        self.last = Some(Last { epoch, dts, due });
        if self.marks.back().is_none_or(|(_, at)| due.saturating_duration_since(*at) >= RESOLUTION) {
            self.marks.push_back((position, due));
        }
    }

    /// Removes the marks that apply only to positions before `first_held`.
    pub(super) fn evict_before(&mut self, first_held: u64) {
        while self.marks.get(1).is_some_and(|(next, _)| *next <= first_held) {
            self.marks.pop_front();
        }
    }

    /// How long the unit at `position` has been overdue at `now`; zero for one that has not arrived yet.
    pub(super) fn lateness(&self, position: u64, now: Instant) -> Duration {
        let after = self.marks.partition_point(|(from, _)| *from <= position);
        let due = self.marks.get(after.saturating_sub(1)).map(|(_, at)| *at);
        due.map_or(Duration::ZERO, |due| now.saturating_duration_since(due))
    }
}

/// Multiple of real time at which a reader must take a backlog.
const CATCH_UP_RATE: u32 = 2;
/// Granularity of the marks: how much too early a unit may count as due.
const RESOLUTION: Duration = Duration::from_millis(100);
/// Bounds how far one unit advances the due time, so that a jump of the publisher's clock does not excuse slow readers.
const MAX_STEP: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    /// What `units`, as (epoch, DTS, arrival) in milliseconds, make of (position, time) pairs: their overdue in milliseconds.
    #[track_caller]
    fn check(units: impl IntoIterator<Item = (u64, i64, u64)>, expected: &[(u64, u64, u128)]) {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut due_times = DueTimes::default();
        for (position, (epoch, dts, arrival)) in units.into_iter().enumerate() {
            due_times.on_unit(position as u64, Epoch(epoch), Timestamp::from_millis(dts), at(arrival));
        }
        for (position, now, late) in expected {
            let found = due_times.lateness(*position, at(*now)).as_millis();
            assert!((*late..=*late + RESOLUTION.as_millis()).contains(&found), "{position} at {now}: {found}");
        }
    }

    #[test]
    fn units_in_real_time_are_due_on_arrival() {
        let units = (0..100).map(|n| (1, n as i64 * 40, n * 40));
        check(units, &[(0, 0, 0), (0, 4000, 4000), (50, 2000, 0), (50, 5000, 3000), (200, 4000, 0)]);
        check([], &[(0, 1000, 0)]);
    }

    #[test]
    fn a_backlog_is_due_at_twice_its_playback_speed() {
        // Twenty seconds at once, after half a minute of silence; then real time.
        let burst = (0..500).map(|n| (1, n * 40, 30_000));
        let live = (500..1500).map(|n| (1, n * 40, 30_000 + (n as u64 - 500) * 40));
        check(
            burst.chain(live),
            &[(0, 30_000, 0), (250, 30_000, 0), (250, 36_000, 1000), (499, 40_000, 0), (1400, 68_000, 2000)],
        );
    }

    #[test]
    fn a_new_epoch_or_clock_jump_gives_no_due_time() {
        let units = [(1, 0, 0), (2, 3_600_000, 40), (2, 3_600_040, 80), (2, 9_000_000, 120), (2, 9_000_040, 160)];
        check(units, &[(1, 2040, 2000), (4, 2600, 2000)]);
    }

    #[test]
    fn due_times_of_evicted_units_are_removed() {
        let (mut due_times, start) = (DueTimes::default(), Instant::now());
        for n in 0..10_000u64 {
            let now = start + Duration::from_millis(n * 40);
            due_times.on_unit(n, Epoch(1), Timestamp::from_millis(n as i64 * 40), now);
            due_times.evict_before(n.saturating_sub(100));
        }
        assert!(due_times.marks.len() < 50, "{}", due_times.marks.len());
    }
}
