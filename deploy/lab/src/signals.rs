//! Runs a callback on SIGINT, SIGTERM or SIGHUP, in a thread that only waits for these signals.
//!
//! rustix has no `sigwait`, so that these calls are libc's.

use std::mem::MaybeUninit;
use std::ptr;

use anyhow::{Result, ensure};

/// Starts a thread that waits for SIGINT, SIGTERM or SIGHUP and runs `then` on the first. Call it before other threads are started: they
/// inherit the blocked signals, as child processes do unless [`crate::Process`] starts them.
pub(crate) fn on_signal(then: impl FnOnce() + Send + 'static) -> Result<()> {
    let mut signals = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set that its pointer refers to, and sigaddset adds to it.
    let signals = unsafe {
        libc::sigemptyset(signals.as_mut_ptr());
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(signals.as_mut_ptr(), signal);
        }
        signals.assume_init()
    };
    // SAFETY: the set is initialised and outlives the call.
    let blocked = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, ptr::null_mut()) };
    ensure!(blocked == 0, "cannot block signals: error {blocked}");
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut signal = 0;
        // SAFETY: both pointers are to live values.
        while unsafe { libc::sigwait(&raw const signals, &raw mut signal) } != 0 {}
        then();
    })?;
    Ok(())
}
