//! A host of the lab: a network namespace with addresses, in which programs, closures and sockets run.
//!
//! It is not a virtual machine: a host shares files, processes, users and the clock with the machine. Its
//! name resolution is the machine's (/etc/resolv.conf), and no name server is reached, so use addresses.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::namespace::{self, Namespace, ip};

/// A host. Made by [`crate::Network::host`]; of no use once its network is dropped.
#[derive(Debug)]
pub struct Host {
    name: String,
    namespace: Arc<Namespace>,
    /// One for each interface, in order: the first is that of eth0.
    addresses: Mutex<Vec<Ipv4Addr>>,
}

impl Host {
    pub(crate) fn new(name: &str, namespace: Arc<Namespace>) -> Host {
        Host { name: name.to_owned(), namespace, addresses: Mutex::new(Vec::new()) }
    }

    /// The name it was made under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace's name, for `ip netns exec`.
    pub fn namespace_name(&self) -> &str {
        self.namespace.name()
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The address of eth0; `None` until the host is connected.
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.addresses().first().copied()
    }

    /// Takes the next interface's name for `address`.
    pub(crate) fn next_interface(&self, address: Ipv4Addr) -> String {
        let mut addresses = self.addresses();
        addresses.push(address);
        format!("eth{}", addresses.len() - 1)
    }

    /// A command that runs `program` inside this host. Arguments, streams, environment and the way of starting
    /// are the caller's, who also waits for the process; one still running when the network is dropped is
    /// ended with SIGKILL.
    ///
    /// Starting it fails as it does outside, and when the namespace cannot be entered.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let handle = self.namespace.handle();
        let mut command = Command::new(program);
        // SAFETY: the closure makes one system call and allocates nothing, so it may run in a forked child.
        unsafe { command.pre_exec(move || namespace::enter(&handle)) };
        command
    }

    /// Runs `work` on a fresh thread inside this host, waits for it, and returns its value; a panic in it goes
    /// on in the caller. A socket made in it belongs to this host wherever it is used afterwards, so most
    /// tests need nothing but `host.run(|| UdpSocket::bind(..))`.
    ///
    /// Fails when the thread cannot start or enter the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.namespace.run(work)
    }

    /// Sends what is not on one of its own networks to `gateway`. Fails when the gateway is on none of them.
    pub fn default_route(&self, gateway: Ipv4Addr) -> Result<()> {
        let name = self.namespace.name();
        ip(&["-n", name, "route", "replace", "default", "via", &gateway.to_string()])
            .with_context(|| format!("default route of {}", self.name))
    }

    /// Makes the host a router: it passes packets from one of its networks on to another. Multicast is not
    /// passed on.
    pub fn forward_packets(&self) -> Result<()> {
        let file = "/proc/sys/net/ipv4/ip_forward";
        self.run(|| std::fs::write(file, "1"))?.with_context(|| format!("write {file} on {}", self.name))
    }

    fn addresses(&self) -> std::sync::MutexGuard<'_, Vec<Ipv4Addr>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
