//! The lab on a kernel that has netem: an emulated machine, as the host's may have none.
//!
//! `deploy/test --only netem` makes the image first, with the program `lab` and its tests of netem in it.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::TestEnv;
use e2e::qemu_vm::{BOOT_TIMEOUT, COMMAND_TIMEOUT, QemuVm};

#[test]
fn links_use_netem_where_the_kernel_supports_it() -> Result<()> {
    let env = TestEnv::new()?;
    let mut guest = QemuVm::boot(&env)?;
    // Networks need a place for their names; the machine has neither netem nor bridges yet.
    guest.run("mkdir -p /run/netns && mount -t tmpfs none /run/netns", COMMAND_TIMEOUT)?;
    guest.run("modprobe veth && modprobe bridge && cat /proc/sys/kernel/osrelease", COMMAND_TIMEOUT)?;

    let up = |options: &str| {
        format!("(sleep {A_WHILE}; echo stats; echo quit) | timeout -s INT 60 lab up paper-a {options} 2>&1")
    };
    let without = guest.run(&up("--links netem"), BOOT_TIMEOUT)?;
    ensure!(
        without.contains("modprobe sch_netem") && without.contains("--links userspace"),
        "no cure is named:\n{without}"
    );
    let own = guest.run(&up(""), BOOT_TIMEOUT)?;
    ensure!(own.contains("up as process") && !own.contains("netem"), "without netem, links are the lab's own:\n{own}");

    guest.run("modprobe sch_netem", COMMAND_TIMEOUT)?;
    let netem = guest.run(&up(""), BOOT_TIMEOUT)?;
    ensure!(netem.contains("by netem") && netem.contains("delay=30ms"), "with it, they are netem's:\n{netem}");
    ensure!(netem.contains("lost or dropped at the full queue"), "its counts are not told:\n{netem}");
    println!("{netem}");

    let tests = guest.run("links-by-netem --test-threads=1 --color never 2>&1", LINKS)?;
    println!("{tests}");
    ensure!(tests.contains("test result: ok. 8 passed"), "in the guest:\n{tests}");
    let left = guest.run("ls /run/netns; /bin/ip link show", COMMAND_TIMEOUT)?;
    ensure!(!left.contains("nc"), "something was left behind:\n{left}");
    Ok(())
}

/// Seconds in which a network is made there.
const A_WHILE: u32 = 8;

/// All tests of links, on an emulated processor.
const LINKS: Duration = Duration::from_secs(600);
