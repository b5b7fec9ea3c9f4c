//! A child process with its output in files, killed by its process number when dropped.
//!
//! rustix has signal masks only among its experimental parts, so that a child's mask is reset by libc.

use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::wait::until;

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Process {
    /// Starts `command` with its output in `DIRECTORY/NAME.out` and `.err`, and nothing on its standard input. Fails when the files
    /// cannot be made or the program cannot be started.
    pub fn spawn(directory: &Path, name: &str, command: &mut Command) -> Result<Self> {
        let out = directory.join(format!("{name}.out"));
        let err = directory.join(format!("{name}.err"));
        command.stdin(Stdio::null()).stdout(File::create(&out)?).stderr(File::create(&err)?);
        // Children die with a test runner that is killed, so that no stray server keeps a port or a core.
        // SAFETY: prctl (a bare system call here), sigemptyset and pthread_sigmask are async-signal-safe and touch nothing of this process but a local set.
        unsafe {
            command.pre_exec(|| {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                // The child must not inherit the signals that this process blocks for its signal thread.
                let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
                libc::sigemptyset(none.as_mut_ptr());
                libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
                Ok(())
            });
        }
        // A group of its own, so that what it starts in turn (a browser, nginx's workers) can be ended with it.
        command.process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {name}: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, out, err })
    }

    /// The name given at start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All of its standard output so far.
    pub fn out(&self) -> String {
        read(&self.out)
    }

    /// All of its standard error so far.
    pub fn err(&self) -> String {
        read(&self.err)
    }

    /// Standard output and standard error so far, in this order.
    pub fn log(&self) -> String {
        self.out() + &self.err()
    }

    /// The file of its standard output.
    pub fn out_path(&self) -> &Path {
        &self.out
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits for a line on either output that satisfies `wanted`, and returns it. Fails after `within`, or when the process ends first.
    pub fn line(&mut self, within: Duration, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let name = self.name.clone();
        until(within, &format!("{name} to say {what}"), || {
            // Checked before reading the logs, so that they contain its last output.
            let running = self.running()?;
            let line = self.log().lines().find(|line| wanted(line)).map(str::to_owned);
            match line {
                None if !running => bail!("{name} ended without saying {what}"),
                line => Ok(line),
            }
        })
    }

    /// Waits for its end and returns its exit status; fails after `within`.
    pub fn exit(&mut self, within: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        until(within, &format!("the end of {name}"), || Ok(self.child.try_wait()?))
    }

    /// Waits for its end. Fails unless the exit status is 0.
    pub fn success(&mut self, within: Duration) -> Result<()> {
        let status = self.exit(within)?;
        if !status.success() {
            bail!("{} ended with {status} (signal {:?})", self.name, status.signal());
        }
        Ok(())
    }

    /// Sends SIGINT, as Ctrl-C does.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Sends SIGTERM, as a service manager does.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends a signal; one to a process that has ended is ignored.
    pub fn signal(&self, signal: Signal) {
        // The child is ours and not yet waited for, so its number cannot be another's. One that has ended takes no signal.
        let _ = kill_process(self.id(), signal);
    }

    /// Kills it and its process group with SIGKILL, and waits for it.
    pub fn kill(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // The group is that of our child, which has not been waited for, so its number is still its own.
            let _ = kill_process_group(self.id(), Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn id(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Resident memory in KiB.
    pub fn memory_kib(&self) -> Result<u64> {
        memory_kib(self.pid())
    }

    /// CPU time used so far, user and system, of all threads.
    pub fn processor_time(&self) -> Result<Duration> {
        processor_time(self.pid())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Resident memory of a process in KiB (`VmRSS` of proc(5)).
pub(crate) fn memory_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// CPU time of a process so far, all threads together (proc(5): utime and stime, in steps of 10 ms on every Linux).
pub(crate) fn processor_time(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is a name that may hold anything; the third begins after its parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')').context("/proc/PID/stat")?.1.split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|field| field.parse::<u64>().ok()).context("/proc/PID/stat");
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
}

/// Pins the process that `command` starts, and all of its threads, to one core; it also sees only one core when it sizes its thread pools.
pub(crate) fn pin(command: &mut Command, core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    // SAFETY: sched_setaffinity makes one system call and allocates nothing, so it may run in a forked child.
    unsafe {
        command.pre_exec(move || Ok(sched_setaffinity(None, &set)?));
    }
}

/// The cores that this process may use, by number; empty if the kernel does not report them.
pub(crate) fn cores() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_default();
    (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
}

fn read(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
