//! Named network namespaces: create, enter from a thread, remove, and remove those of dead processes.
//!
//! [`crate::network`] connects them, [`crate::host`] runs programs in them.
//!
//! Names are `nc<pid>-<serial>-<role>` under [`DIRECTORY`], where `ip netns` also looks, so `ip netns exec` works in them. The pid names
//! the owner: once that process is dead, the next start of a lab removes the namespace ([`sweep`]).

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};

use anyhow::{Context, Result, bail};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::interface::Interface;

/// A network namespace created by this process; removed when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    /// Open handle on the namespace: entering needs no look-up by name, and works in a forked child.
    handle: Arc<File>,
    removed: AtomicBool,
}

impl Namespace {
    /// Creates the namespace `nc<pid>-<serial>-<role>` with loopback up and IPv6 off.
    ///
    /// IPv6 is off because router solicitations and duplicate address detection at random times would disturb every run.
    ///
    /// Fails without root, without `ip`, or when `role` is not 1 to [`MAX_ROLE`] of `a-z 0-9 -`.
    pub(crate) fn create(serial: usize, role: &str) -> Result<Namespace> {
        check_role(role)?;
        let name = format!("{PREFIX}{}-{serial}-{role}", std::process::id());
        ip(&["netns", "add", &name])?;
        // From here on Drop removes the name when a later step fails.
        let path = Path::new(DIRECTORY).join(&name);
        let handle = match File::open(&path) {
            Ok(file) => Arc::new(file),
            Err(error) => {
                detach(&path);
                return Err(error).with_context(|| format!("open namespace {name}"));
            }
        };
        let namespace = Namespace { name, handle, removed: AtomicBool::new(false) };
        namespace.run(|| -> Result<()> {
            for scope in ["all", "default"] {
                let file = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
                match fs::write(&file, "1") {
                    // A kernel without IPv6 has nothing to turn off.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    other => other.with_context(|| format!("write {file}"))?,
                }
            }
            Interface::open("lo")?.up()
        })??;
        Ok(namespace)
    }

    /// The name, as `ip netns list` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The open handle, for a child that enters the namespace between fork and exec.
    pub(crate) fn handle(&self) -> Arc<File> {
        Arc::clone(&self.handle)
    }

    /// Runs `work` on a new thread in the namespace, waits for it, and returns its value. A panic in `work` propagates to the caller. Sockets
    /// created in `work` stay in the namespace wherever they are used.
    ///
    /// Fails when the thread cannot start or enter.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let entered = std::thread::Builder::new().name(format!("in {}", self.name)).spawn_scoped(scope, || {
                enter(&self.handle)?;
                io::Result::Ok(work())
            });
            match entered.context("start a thread")?.join() {
                Ok(value) => value.with_context(|| format!("enter namespace {}", self.name)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Kills every process whose main thread is inside, and removes the name. Later calls do nothing. The kernel frees the namespace and
    /// its interfaces once no socket or handle refers to it.
    pub(crate) fn remove(&self) {
        if !self.removed.swap(true, Ordering::SeqCst) {
            let path = Path::new(DIRECTORY).join(&self.name);
            end_processes_inside(&path);
            detach(&path);
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Moves the calling thread into the namespace behind `handle`. Allocates nothing, so it may run between fork
/// and exec.
pub(crate) fn enter(handle: &File) -> io::Result<()> {
    Ok(move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// Fails unless `role` can be part of a namespace's name: 1 to [`MAX_ROLE`] of `a-z 0-9 -`.
pub(crate) fn check_role(role: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if role.is_empty() || role.len() > MAX_ROLE || !role.bytes().all(plain) {
        bail!("{role:?} is not 1 to {MAX_ROLE} of a-z, 0-9 and '-'");
    }
    Ok(())
}

/// Runs the program `ip` with `arguments` and waits. Fails with what it printed.
pub(crate) fn ip(arguments: &[&str]) -> Result<()> {
    tool("ip", arguments).map(drop)
}

/// Runs the program `tc` with `arguments`, waits, and gives what it printed. Fails with what it complained of.
pub(crate) fn tc(arguments: &[&str]) -> Result<String> {
    tool("tc", arguments)
}

fn tool(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("run `{program}` (package iproute2)"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}: {}", arguments.join(" "), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Kills the processes in the lab namespaces of dead processes, removes these namespaces, and returns their names. Every
/// [`crate::Network::new`] calls it.
///
/// On its first call in a process, namespaces under the process's own pid are removed too: they belonged to an earlier process with the same
/// pid.
///
/// Fails when [`DIRECTORY`] cannot be read; a missing directory is an empty one.
pub fn sweep() -> Result<Vec<String>> {
    static FIRST: Once = Once::new();
    let mut removed = Vec::new();
    let mut outcome = Ok(());
    // Other threads wait here until the first sweep is over, so none of theirs can be taken for a leftover.
    FIRST.call_once(|| outcome = sweep_where(&mut removed, |pid| pid == std::process::id() || !lives(pid)));
    outcome?;
    sweep_where(&mut removed, |pid| !lives(pid))?;
    Ok(removed)
}

/// Removes the namespaces of this process at once and kills the processes in them: for a process that exits without dropping its
/// networks.
pub(crate) fn abandon() {
    // The next sweep removes what cannot be removed now.
    let _ = sweep_where(&mut Vec::new(), |pid| pid == std::process::id());
}

fn sweep_where(removed: &mut Vec<String>, left_over: impl Fn(u32) -> bool) -> Result<()> {
    let entries = match fs::read_dir(DIRECTORY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("read {DIRECTORY}"))?,
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("read {DIRECTORY}"))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if owner(&name).is_some_and(&left_over) {
            end_processes_inside(&entry.path());
            detach(&entry.path());
            removed.push(name);
        }
    }
    Ok(())
}

/// The pid in a lab namespace's name; `None` for any other name.
fn owner(name: &str) -> Option<u32> {
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    if pid.starts_with('0') || !pid.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    pid.parse().ok()
}

fn lives(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Sends SIGKILL to every process in the namespace at `path`, but never to this process, to init, or to
/// anything in this process's own namespace.
fn end_processes_inside(path: &Path) {
    let identity = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    let Some(target) = identity(path) else { return };
    if identity(Path::new("/proc/self/ns/net")) == Some(target) {
        return;
    }
    let Ok(processes) = fs::read_dir("/proc") else { return };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let is_other = pid > 1 && pid as u32 != std::process::id();
        if is_other && identity(&process.path().join("ns/net")) == Some(target) {
            // Ignore an error: the process may have ended meanwhile.
            let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
        }
    }
}

/// Takes the name away, as `ip netns delete` does. A failure only leaves a name for the next [`sweep`].
fn detach(path: &Path) {
    let _ = unmount(path, UnmountFlags::DETACH);
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            eprintln!("lab: cannot remove {}: {error}", path.display());
        }
        _ => {}
    }
}

/// Where named namespaces are, by the convention of iproute2.
pub const DIRECTORY: &str = "/run/netns";

/// What every lab namespace's name begins with, before the pid: short, as `ip` prints it on every line.
pub const PREFIX: &str = "nc";

/// Longest role in a name, in bytes: keeps names readable in `ip netns list`.
pub const MAX_ROLE: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lab_names_have_an_owner() {
        assert_eq!(owner("nc123-0-viewer"), Some(123));
        for other in ["nc-0-viewer", "nc12", "nc0-1-x", "nc+5-x", "ncx1-a", "blue", "nc99999999999-a"] {
            assert_eq!(owner(other), None, "{other}");
        }
    }
}
