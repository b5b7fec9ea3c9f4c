//! A host: a network namespace with addresses, in which programs, closures and sockets run.
//!
//! It is not a virtual machine: files, processes, users and the clock are shared with the machine. Name resolution is the machine's
//! (/etc/resolv.conf), whose name servers are unreachable, so use addresses.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::namespace::{self, Namespace, ip};

/// A host. Created by [`crate::Network::host`]; unusable once its network is dropped.
#[derive(Debug)]
pub struct Host {
    name: String,
    namespace: Arc<Namespace>,
    /// One per interface, in order: the first is that of eth0.
    addresses: Mutex<Vec<Ipv4Addr>>,
}

impl Host {
    pub(crate) fn new(name: &str, namespace: Arc<Namespace>) -> Host {
        Host { name: name.to_owned(), namespace, addresses: Mutex::new(Vec::new()) }
    }

    /// The name given at creation.
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

    /// A command that runs `program` in this host. The caller sets arguments, streams and environment, starts it and waits for it; a
    /// process still running when the network is dropped is killed with SIGKILL.
    ///
    /// Starting it fails as it does outside, and when the namespace cannot be entered.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let handle = self.namespace.handle();
        let mut command = Command::new(program);
        // SAFETY: the closure makes one system call and allocates nothing, so it may run in a forked child.
        unsafe { command.pre_exec(move || namespace::enter(&handle)) };
        command
    }

    /// Runs `work` on a new thread in this host, waits for it, and returns its value; a panic propagates to the caller. A socket created in
    /// it belongs to this host wherever it is used afterwards, so most tests only need `host.run(|| UdpSocket::bind(..))`.
    ///
    /// Fails when the thread cannot start or enter the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.namespace.run(work)
    }

    /// Sets the default route to `gateway`. Fails when the gateway is on none of the host's networks.
    pub fn default_route(&self, gateway: Ipv4Addr) -> Result<()> {
        let name = self.namespace.name();
        ip(&["-n", name, "route", "replace", "default", "via", &gateway.to_string()])
            .with_context(|| format!("default route of {}", self.name))
    }

    /// Makes the host a router: it forwards unicast packets between its networks, but no multicast.
    pub fn forward_packets(&self) -> Result<()> {
        let file = "/proc/sys/net/ipv4/ip_forward";
        self.run(|| std::fs::write(file, "1"))?.with_context(|| format!("write {file} on {}", self.name))
    }

    fn addresses(&self) -> std::sync::MutexGuard<'_, Vec<Ipv4Addr>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
