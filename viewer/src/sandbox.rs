//! Threads that run FFmpeg on bytes from the network, with no rights but those that they need.
//!
//! On Linux such a thread, and every thread that FFmpeg starts in it, opens no file, makes no socket, runs no program, traces no process and makes no
//! memory executable: Landlock and a list of permitted system calls restrict it before it sees the first byte. It can write to the log, and to one
//! output. It shares the program's memory: the sandbox takes from a decoder that a stream has taken over what the kernel gives, not what it
//! can do to other threads. Where the system has no such restrictions, it is an ordinary thread.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Once;
use std::thread::{self, JoinHandle};

use net::doctor::Check;
use tracing::{debug, info};

/// What restricts a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restrictions {
    /// Landlock: no file, no TCP port, no process outside.
    pub landlock: bool,
    /// Seccomp: only the permitted system calls.
    pub seccomp: bool,
}

/// A file descriptor that a sandboxed thread may write to, seek in and close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output(#[cfg_attr(not(target_os = "linux"), expect(dead_code))] i32);

impl Output {
    /// Of an open file or pipe.
    #[cfg(unix)]
    pub fn of(file: &impl std::os::fd::AsFd) -> Self {
        use std::os::fd::AsRawFd;
        Self(file.as_fd().as_raw_fd())
    }

    /// Of an open file or pipe.
    #[cfg(not(unix))]
    pub fn of<F>(_: &F) -> Self {
        Self(-1)
    }
}

/// Starts a thread that restricts itself before it runs `run`. Beside its memory it has the log, and `output`.
///
/// # Errors
/// If the system starts no thread.
pub fn spawn<T: Send + 'static>(
    name: &str,
    output: Option<Output>,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        report(restrict(output));
        run()
    })
}

/// Runs `run` in a sandboxed thread of its own, and waits for its result.
///
/// # Errors
/// If the system starts no thread, or `run` panics.
pub fn run<T: Send + 'static>(name: &str, run: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    spawn(name, None, run)?.join().map_err(|_| io::Error::other(format!("the {name} thread panicked")))
}

/// What `viewer doctor` says: whether a sandboxed thread is refused what it must not do.
pub fn check() -> Check {
    let attempted = thread::spawn(|| (restrict(None), std::fs::File::open(".").is_err())).join().unwrap_or_default();
    match attempted {
        (Restrictions { seccomp: true, landlock }, true) => {
            let by = if landlock { "seccomp and Landlock" } else { "seccomp" };
            Check::ok("sandbox", format!("decoders cannot open files, sockets or programs ({by})"))
        }
        (Restrictions { landlock: true, .. }, true) => {
            Check::warn("sandbox", "decoders cannot open files (Landlock), but may make any system call", FIX)
        }
        _ => Check::warn("sandbox", "none: decoders have all rights of the user who runs the viewer", FIX),
    }
}

fn report(restrictions: Restrictions) {
    static INCOMPLETE: Once = Once::new();
    let Restrictions { landlock, seccomp } = restrictions;
    debug!(landlock, seccomp, "sandboxed");
    if !(landlock && seccomp) {
        INCOMPLETE.call_once(|| info!(landlock, seccomp, "the system restricts decoders in part or not at all: {FIX}"));
    }
}

#[cfg(target_os = "linux")]
fn restrict(output: Option<Output>) -> Restrictions {
    let landlock = linux::landlock();
    Restrictions { landlock, seccomp: linux::seccomp(output.map(|Output(descriptor)| descriptor)) }
}

#[cfg(not(target_os = "linux"))]
fn restrict(_: Option<Output>) -> Restrictions {
    Restrictions::default()
}

const FIX: &str = "play streams of strangers on Linux 5.13 or later, or as a user without files of worth";
