//! The two clocks that the viewer reads: one that only rises, and the wall's.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use media::WallClock;

/// Monotonic time since the viewer started. Copies share the origin.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    pub fn now(self) -> Duration {
        self.0.elapsed()
    }
}

/// The time of day, as far as this host knows it.
pub fn wall() -> WallClock {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallClock::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
