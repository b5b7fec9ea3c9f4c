//! The signal that stops the capture threads: they poll it, and sleep on it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// A flag that is set once and never cleared. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct ShutdownSignal(Arc<(Mutex<bool>, Condvar)>);

impl ShutdownSignal {
    /// Sets the flag and wakes the threads that sleep on it.
    pub fn trigger(&self) {
        *self.0.0.lock() = true;
        self.0.1.notify_all();
    }

    /// Whether the flag is set.
    pub fn is_triggered(&self) -> bool {
        *self.0.0.lock()
    }

    /// Sleeps for `duration`, or until the flag is set. Returns whether to continue: `false` once the flag is set.
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
