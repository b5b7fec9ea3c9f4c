//! The lab on a kernel with netem: in a virtual machine, because the host's kernel may have none.
//!
//! `deploy/test --only netem` builds the image first, with the program `lab` and its netem tests in it.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::TestEnv;
use e2e::qemu_vm::{BOOT_TIMEOUT, COMMAND_TIMEOUT, QemuVm};

#[test]
fn links_use_netem_where_the_kernel_supports_it() -> Result<()> {
    let env = TestEnv::new()?;
    let mut guest = QemuVm::boot(&env)?;
    // Namespaces need a directory for their names; neither netem nor bridges are loaded yet.
    guest.run("mkdir -p /run/netns && mount -t tmpfs none /run/netns", COMMAND_TIMEOUT)?;
    guest.run("modprobe veth && modprobe bridge && cat /proc/sys/kernel/osrelease", COMMAND_TIMEOUT)?;

    let up = |options: &str| {
        format!("(sleep {A_WHILE}; echo stats; echo quit) | timeout -s INT 60 lab up paper-a {options} 2>&1")
    };
    let without = guest.run(&up("--links netem"), BOOT_TIMEOUT)?;
    ensure!(
        without.contains("modprobe sch_netem") && without.contains("--links userspace"),
        "the error names no remedy:\n{without}"
    );
    let own = guest.run(&up(""), BOOT_TIMEOUT)?;
    ensure!(
        own.contains("up as process") && !own.contains("netem"),
        "without netem, links are emulated in userspace:\n{own}"
    );

    guest.run("modprobe sch_netem", COMMAND_TIMEOUT)?;
    let netem = guest.run(&up(""), BOOT_TIMEOUT)?;
    ensure!(netem.contains("by netem") && netem.contains("delay=30ms"), "with netem, links use it:\n{netem}");
    ensure!(netem.contains("lost or dropped at the full queue"), "its counters are not reported:\n{netem}");
    println!("{netem}");

    let listed = guest.run("links-by-netem --list --format terse 2>&1", COMMAND_TIMEOUT)?;
    let count = listed.lines().filter(|line| line.trim_end().ends_with(": test")).count();
    ensure!(count > 0, "no test of links by netem:\n{listed}");
    let tests = guest.run("links-by-netem --test-threads=1 --color never 2>&1", LINKS)?;
    println!("{tests}");
    ensure!(tests.contains(&format!("test result: ok. {count} passed; 0 failed; 0 ignored")), "in the guest:\n{tests}");
    let left = guest.run("ls /run/netns; /bin/ip link show", COMMAND_TIMEOUT)?;
    ensure!(!left.contains("nc"), "namespaces or interfaces remain:\n{left}");
    Ok(())
}

/// Seconds in which the emulated machine builds a network.
const A_WHILE: u32 = 8;

/// Timeout for all tests of links on an emulated CPU.
const LINKS: Duration = Duration::from_secs(600);
