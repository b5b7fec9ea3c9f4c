//! Root, or a user namespace with its own network and mount namespaces.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Result, bail};

/// Returns when this process may create namespaces. Without root it re-executes itself in a user namespace; where these are disabled, the
/// error says how to enable them.
pub(super) fn obtain() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let allowed = Command::new("unshare").args([&NAMESPACES[..], &["--", "true"]].concat()).output();
    if !allowed.is_ok_and(|tried| tried.status.success()) {
        bail!(
            "networks need root or user namespaces, which are disabled here: use sudo, or enable them \
               (sysctl user.max_user_namespaces=10000; on Debian also kernel.unprivileged_userns_clone=1; on Ubuntu also \
               kernel.apparmor_restrict_unprivileged_userns=0)"
        );
    }
    eprintln!("lab: not root: running in a user namespace without real-time priority, where more runs are invalid");
    let mut arguments = std::env::args_os();
    arguments.next();
    // The names of namespaces are files under /run, which belongs to root: mount a private one.
    let error = Command::new("unshare")
        .args(NAMESPACES)
        .args(["--", "sh", "-c", "mount -t tmpfs tmpfs /run && exec \"$0\" \"$@\""])
        .arg(std::env::current_exe()?)
        .args(arguments)
        .exec();
    bail!("cannot start in a user namespace: {error}")
}

const NAMESPACES: [&str; 4] = ["--user", "--map-root-user", "--net", "--mount"];
