//! The media clock: microseconds since PTS 0, by the machine's monotonic clock, and the wall-clock time of PTS 0.
//!
//! It is started once. Setting the wall clock while the broadcast runs moves no timestamp.

use std::time::{Duration, Instant};

use media::WallClock;
use net::clock;

/// The time of PTS 0, on the monotonic clock and on the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct BroadcastClock {
    started: Instant,
    wall: WallClock,
}

impl BroadcastClock {
    /// Starts a clock that reads [`LEAD`] now.
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
            wall: WallClock::from_micros(clock::now().as_micros() - LEAD.as_micros() as i64),
        }
    }

    /// Wall-clock time of PTS 0.
    pub fn zero(&self) -> WallClock {
        self.wall
    }

    /// Microseconds since PTS 0.
    pub fn now(&self) -> i64 {
        self.at(Instant::now())
    }

    /// The reading at `instant`, in microseconds since PTS 0.
    pub fn at(&self, instant: Instant) -> i64 {
        let since = match instant.checked_duration_since(self.started) {
            Some(after) => after.as_micros() as i64,
            None => -(self.started.duration_since(instant).as_micros() as i64),
        };
        since + LEAD.as_micros() as i64
    }

    /// Time from now until the clock reads `micros` microseconds; zero if that has passed.
    pub fn until(&self, micros: i64) -> Duration {
        Duration::from_micros(u64::try_from(micros - self.now()).unwrap_or(0))
    }

    /// The reading at a device's capture timestamp, in microseconds since PTS 0. Falls back to now if the timestamp is absent or
    /// on neither of the clocks that drivers use.
    ///
    /// V4L2 uses `CLOCK_MONOTONIC`; x11grab, ALSA and PulseAudio use the time of day; both in microseconds.
    pub fn at_device_timestamp(&self, stamp: Option<i64>) -> i64 {
        let now = self.now();
        timestamp_age(stamp, [monotonic_micros(), clock::system().as_micros()]).map_or(now, |age| now - age)
    }
}

/// Age of `stamp` in microseconds on the first clock that it can be on; `None` if it is on none.
fn timestamp_age(stamp: Option<i64>, clocks: [i64; 2]) -> Option<i64> {
    let stamp = stamp?;
    clocks
        .into_iter()
        .map(|now| now.saturating_sub(stamp))
        .find(|age| (0..=MAX_TIMESTAMP_AGE.as_micros() as i64).contains(age))
}

#[cfg(unix)]
fn monotonic_micros() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

#[cfg(not(unix))]
fn monotonic_micros() -> i64 {
    i64::MIN
}

/// The clock's first reading. The first DTS precede their PTS by the reordering delay (16 B-frames at 24 fps: 0.7 s), and an
/// audio encoder's first frame precedes its first sample: this lead keeps every DTS above zero.
pub const LEAD: Duration = Duration::from_secs(1);

/// An older timestamp is not that of the frame just read: slow cameras deliver within 0.3 s.
const MAX_TIMESTAMP_AGE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_timestamps_are_recognised_by_their_clock() {
        let clocks = [5_000_000, 1_700_000_000_000_000];
        for (stamp, age) in [
            (None, None),
            (Some(4_990_000), Some(10_000)),
            (Some(5_000_000), Some(0)),
            (Some(5_000_001), None),
            (Some(1_000_000), None),
            (Some(1_699_999_999_950_000), Some(50_000)),
            (Some(0), None),
            (Some(i64::MIN), None),
            (Some(i64::MAX), None),
        ] {
            assert_eq!(timestamp_age(stamp, clocks), age, "{stamp:?}");
        }
    }

    #[test]
    fn the_clock_starts_at_one_second() {
        let clock = BroadcastClock::start();
        assert_eq!(clock.at(clock.started), 1_000_000);
        assert_eq!(clock.at(clock.started + Duration::from_millis(40)), 1_040_000);
        assert_eq!(clock.until(0), Duration::ZERO);
    }
}
