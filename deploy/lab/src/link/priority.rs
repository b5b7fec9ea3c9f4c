//! The scheduling priority of the threads that send frames on time.
//!
//! rustix has no `sched_setscheduler`, so that one call is libc's.

use std::num::NonZeroU64;

/// The scheduling class of the emulator's thread. Other than real time, invalid runs are likely on a busy machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Real-time scheduling (`SCHED_FIFO`).
    RealTime,
    /// `SCHED_OTHER` with the lowest nice value, -20.
    Nice,
    /// `SCHED_OTHER` as inherited: neither of the others was permitted.
    Normal,
}

/// Raises the calling thread's priority as far as the machine permits, and returns the class that was reached.
pub(super) fn raise_priority() -> Priority {
    // One nanosecond, the minimum: by default timers are up to 50 µs late.
    let _ = rustix::thread::set_current_timer_slack(Some(NonZeroU64::MIN));
    let parameters = libc::sched_param { sched_priority: REAL_TIME_PRIORITY };
    // SAFETY: pid 0 is the calling thread, and `parameters` outlives the call.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) } == 0 {
        return Priority::RealTime;
    }
    // On Linux this acts on the calling thread alone (setpriority(2), "C library/kernel differences").
    if rustix::process::setpriority_process(None, NICE).is_ok() { Priority::Nice } else { Priority::Normal }
}

/// Priority under SCHED_FIFO, 1 to 99: above ordinary programs, below the kernel's own threads at 50.
const REAL_TIME_PRIORITY: i32 = 40;

/// Nice value where real time is not permitted: the highest priority.
const NICE: i32 = -20;
