//! The order to stop, which threads check and sleep on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// A flag that is raised once. Clones are the same flag.
#[derive(Clone, Debug, Default)]
pub struct ShutdownSignal(Arc<(Mutex<bool>, Condvar)>);

impl ShutdownSignal {
    /// Tells every thread to stop, and wakes those that sleep.
    pub fn trigger(&self) {
        *self.0.0.lock() = true;
        self.0.1.notify_all();
    }

    /// Whether to stop.
    pub fn is_triggered(&self) -> bool {
        *self.0.0.lock()
    }

    /// Sleeps for `duration` or until told to stop. Returns whether to go on.
    pub fn sleep(&self, duration: Duration) -> bool {
        let deadline = Instant::now() + duration;
        let mut triggered = self.0.0.lock();
        while !*triggered {
            if self.0.1.wait_until(&mut triggered, deadline).timed_out() {
                break;
            }
        }
        !*triggered
    }
}
