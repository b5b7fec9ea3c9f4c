//! The scheduling priority of the threads that send frames on time.

/// How the emulator's thread is scheduled. Anything but real time makes invalid runs likely on a busy machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// SCHED_FIFO.
    RealTime,
    /// Ordinary scheduling, with the highest niceness priority.
    Nice,
    /// Ordinary scheduling: neither was allowed.
    Normal,
}

/// Raises the calling thread as far as the machine allows.
pub(super) fn raise_priority() -> Priority {
    // SAFETY: prctl with this option takes an integer and acts on the calling thread.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
    let parameters = libc::sched_param { sched_priority: REAL_TIME_PRIORITY };
    // SAFETY: pid 0 is the calling thread, and `parameters` outlives the call.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) } == 0 {
        return Priority::RealTime;
    }
    // SAFETY: setpriority takes integers only, and 0 is the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } == 0 { Priority::Nice } else { Priority::Normal }
}

/// Priority under SCHED_FIFO, 1 to 99: above ordinary programs, below the kernel's own threads at 50.
const REAL_TIME_PRIORITY: i32 = 40;

/// Niceness where real time is not allowed: the highest priority there is.
const NICE: i32 = -20;
