//! Root, or what stands in for it: namespaces of users, network and mounts of one's own.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Result, bail};

/// Returns when this process may make namespaces. Without root it starts anew in a user namespace, where it may; fails, saying what
/// to do, where those are not allowed.
pub(super) fn obtain() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let allowed = Command::new("unshare").args([&NAMESPACES[..], &["--", "true"]].concat()).output();
    if !allowed.is_ok_and(|tried| tried.status.success()) {
        bail!(
            "making networks needs root, or user namespaces, which are off here: run it with sudo, or turn them on \
               (sysctl user.max_user_namespaces=10000; on Debian also kernel.unprivileged_userns_clone=1; on Ubuntu also \
               kernel.apparmor_restrict_unprivileged_userns=0)"
        );
    }
    eprintln!("lab: no root: in a user namespace, without real-time priority; more runs are invalid that way");
    let mut arguments = std::env::args_os();
    arguments.next();
    // Names of namespaces are kept under /run, which is root's: a /run of one's own goes with it.
    let error = Command::new("unshare")
        .args(NAMESPACES)
        .args(["--", "sh", "-c", "mount -t tmpfs tmpfs /run && exec \"$0\" \"$@\""])
        .arg(std::env::current_exe()?)
        .args(arguments)
        .exec();
    bail!("cannot start in a user namespace: {error}")
}

const NAMESPACES: [&str; 4] = ["--user", "--map-root-user", "--net", "--mount"];
