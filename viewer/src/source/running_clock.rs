//! A clock that counts only the time during which this process could run.
//!
//! On a host that is short of processor time, or after a suspension, a path seems silent although its units wait in the socket. Path selection
//! measures silence by this clock, so that the viewer's own lateness is not taken for the path's.

use std::time::Duration;

use tokio::time::Instant;

/// Time since a start, without the time by which the process woke too late. It never goes back.
#[derive(Debug)]
pub(super) struct RunningClock {
    started: Instant,
    /// What is left out.
    late: Duration,
    newest: Duration,
}

impl RunningClock {
    pub(super) fn new(started: Instant) -> Self {
        Self { started, late: Duration::ZERO, newest: Duration::ZERO }
    }

    /// The time at `now`. After lateness it stands for a while.
    pub(super) fn at(&mut self, now: Instant) -> Duration {
        self.newest = self.newest.max(now.saturating_duration_since(self.started).saturating_sub(self.late));
        self.newest
    }

    /// When the clock will show `time`, if the process is not late until then.
    pub(super) fn instant(&self, time: Duration) -> Instant {
        self.started + time + self.late
    }

    /// The process wanted to wake at `due` at the latest, and did at `now`. As long as it was late, what it missed takes to arrive: so much is left
    /// out twice.
    pub(super) fn woke(&mut self, due: Instant, now: Instant) {
        let late = now.saturating_duration_since(due);
        if late > TOLERANCE {
            self.late += late * 2;
        }
    }
}

/// Timers have a resolution of a millisecond, and schedulers one of a few.
const TOLERANCE: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn time_stands_after_lateness() {
        let start = Instant::now();
        let mut clock = RunningClock::new(start);
        assert_eq!(clock.at(start + ms(100)), ms(100));
        // It wanted to wake at 150 ms.
        clock.woke(start + ms(150), start + ms(400));
        assert_eq!(clock.at(start + ms(400)), ms(100));
        assert_eq!(clock.instant(ms(150)), start + ms(650));
        assert_eq!([600, 650, 750].map(|at| clock.at(start + ms(at))), [100, 150, 250].map(ms));
    }

    #[test]
    fn a_process_in_time_has_an_ordinary_clock() {
        let start = Instant::now();
        let mut clock = RunningClock::new(start);
        for at in (0..10_000).step_by(7) {
            clock.woke(start + ms(at), start + ms(at + at % 5));
            assert_eq!(clock.at(start + ms(at)), ms(at));
        }
    }

    proptest! {
        #[test]
        fn it_never_goes_back(wakes in prop::collection::vec((0u64..50, 0u64..2000), 1..100)) {
            let start = Instant::now();
            let (mut clock, mut now, mut before) = (RunningClock::new(start), start, Duration::ZERO);
            for (wait, late) in wakes {
                let due = now + ms(wait);
                now = due + ms(late);
                clock.woke(due, now);
                let time = clock.at(now);
                prop_assert!(time >= before && time <= now - start);
                before = time;
            }
        }
    }
}
