//! A LAN for tests: network namespaces on a bridge, isolated from the host and removed afterwards. Needs root and iproute2.
//!
//! Not a simulation of Wi-Fi: nothing is lost unless a test unplugs a machine.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The address families of the machines of a testbed.
#[derive(Clone, Copy)]
pub(crate) enum Family {
    /// IPv4 only: `10.77.0.N`.
    V4,
    /// IPv6 only: a link-local address.
    V6,
    /// Both families.
    Dual,
}

/// A bridge with machines numbered from 1, each of which has one interface, `lan0`.
pub(crate) struct Testbed {
    prefix: String,
    machines: u32,
}

impl Testbed {
    /// Builds the testbed. `None` if namespaces are not allowed; a message then bypasses the test runner, which captures the output of passing
    /// tests. With `NEARCAST_NAMESPACES=required` it fails instead.
    pub(crate) fn new(machines: u32, family: Family) -> Option<Self> {
        static TESTBEDS: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("nclan{}-{}", std::process::id(), TESTBEDS.fetch_add(1, Ordering::Relaxed));
        let testbed = Self { prefix, machines };
        if let Err(why) = testbed.build(family) {
            let required = std::env::var("NEARCAST_NAMESPACES").is_ok_and(|value| value == "required");
            assert!(!required, "no network namespaces here: {why}");
            let test = thread::current().name().unwrap_or("a test").to_owned();
            let _ = writeln!(std::io::stderr(), "skipped: {test}: no network namespaces here: {why}");
            return None;
        }
        Some(testbed)
    }

    fn build(&self, family: Family) -> Result<(), String> {
        let hub = self.name(0);
        ip(&format!("netns add {hub}"))?;
        // Multicast snooping would need a querier on the LAN.
        ip(&format!("-n {hub} link add hub type bridge mcast_snooping 0"))?;
        ip(&format!("-n {hub} link set hub up"))?;
        for machine in 1..=self.machines {
            let name = self.name(machine);
            ip(&format!("netns add {name}"))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {hub} link add port{machine} type veth peer name lan0 netns {name}"))?;
            ip(&format!("-n {hub} link set port{machine} master hub up"))?;
            // Addresses are assigned manually: the kernel's own link-local address spends a second on duplicate address detection.
            ip(&format!("-n {name} link set lan0 addrgenmode none"))?;
            ip(&format!("-n {name} link set lan0 up"))?;
            if matches!(family, Family::V4 | Family::Dual) {
                ip(&format!("-n {name} addr add {}/24 dev lan0", Self::v4(machine)))?;
            }
            if matches!(family, Family::V6 | Family::Dual) {
                ip(&format!("-n {name} addr add {}/64 dev lan0 nodad", Self::v6(machine)))?;
            }
        }
        Ok(())
    }

    /// A machine's IPv4 address.
    pub(crate) fn v4(machine: u32) -> String {
        format!("10.77.0.{machine}")
    }

    /// A machine's IPv6 link-local address.
    pub(crate) fn v6(machine: u32) -> String {
        format!("fe80::77:{machine}")
    }

    /// Runs `work` on a machine: threads that it starts, and sockets that they open, stay in its namespace.
    pub(crate) fn on<T: Send + 'static>(&self, machine: u32, work: impl FnOnce() -> T + Send + 'static) -> T {
        let path = format!("/run/netns/{}", self.name(machine));
        let runtime = tokio::runtime::Handle::try_current();
        // A new thread, because this one must stay in its namespace.
        let thread = thread::spawn(move || {
            let namespace = File::open(path).unwrap();
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            let _entered = runtime.as_ref().ok().map(tokio::runtime::Handle::enter);
            work()
        });
        thread.join().unwrap()
    }

    /// Connects or disconnects a machine, at the bridge: its own interface loses the carrier.
    pub(crate) fn plug(&self, machine: u32, state: &str) {
        ip(&format!("-n {} link set port{machine} {state}", self.name(0))).unwrap();
    }

    /// Makes the bridge drop multicast to a machine, as some Wi-Fi networks do.
    pub(crate) fn drop_multicast_to(&self, machine: u32) {
        let port = format!("port{machine}");
        ip(&format!("-n {} link set {port} type bridge_slave mcast_flood off", self.name(0))).unwrap();
    }

    fn name(&self, machine: u32) -> String {
        format!("{}-{machine}", self.prefix)
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        for machine in (0..=self.machines).rev() {
            // Fails for machines that were not built, which does no harm.
            let _ = ip(&format!("netns del {}", self.name(machine)));
        }
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
