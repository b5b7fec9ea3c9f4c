//! The viewer's monotonic clock.

use std::time::{Duration, Instant};

/// Monotonic time since the viewer started. Copies share the origin.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that shows zero now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since [`Clock::start`].
    pub fn now(self) -> Duration {
        self.0.elapsed()
    }
}
