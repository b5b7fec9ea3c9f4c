//! Network emulation on one Linux machine: hosts in network namespaces, connected by switches and emulated links, so that unmodified programs
//! run over a network with known properties.
//!
//! It is not a simulator: the kernel's TCP and UDP run in real time over real interfaces. Whether scheduling delays distorted a run is
//! measured; [`Network::ensure_valid`] reports it. It is not a sandbox: only the network is isolated, files and processes are shared.
//!
//! # Map
//!
//! | module | what it does |
//! | --- | --- |
//! | [`network`] | [`Network`], [`Switch`], [`Endpoint`]: creates namespaces, bridges and veth pairs |
//! | [`host`] | [`Host`]: runs programs, closures and sockets in one namespace |
//! | [`home_network`] | [`HomeNetwork`]: a LAN with a broadcaster and two viewers, and a CDN behind a router |
//! | [`link`] | [`Link`]: the handle of an emulated link; [`Shape`]: rate, delay, loss, queue |
//! | [`topology`] | [`Topology`]: a network as TOML, parsed, validated and built; commands while it runs |
//! | [`latency_bound`] | the lower bound on an access unit's latency |
//! | [`load`] | the load generator: many viewers by one protocol |
//! | [`process`] | [`Process`]: a child process with its output in files |
//! | [`lateness`] | [`Lateness`]: the emulator's timing error, and whether the run is invalid |
//! | [`namespace`] | names, lifetime and cleanup of namespaces |
//! | `interface` | ioctls on one interface: up, down, offloads |
//! | `link::userspace` | the link emulator in userspace |
//! | `link::netem`, `link::timer_probe` | the kernel's emulator, and its timing error |
//! | `link::pipe` | the model of one direction: queue, serialisation, loss, delay; no I/O |
//! | `link::forward` | the thread that runs both directions between two packet sockets |
//! | `link::packet_socket` | the AF_PACKET socket and its receive timestamps |
//!
//! # The path of a frame over an emulated link
//!
//! ```text
//!  host namespace        namespace "wire"              switch namespace
//!  eth0 ==veth== w0a -> socket -> pipe -> socket -> w0b ==veth== p0 -- br0
//! ```
//!
//! A cable without emulation ([`Network::cable`]) is one veth pair that bypasses the wire namespace.
//!
//! # Requirements
//!
//! Root (CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_NET_RAW; CAP_SYS_NICE for real-time priority), the program `ip` of
//! iproute2, and a kernel with network namespaces, veth, bridges and packet sockets. netem is optional ([`Emulator`]).
//!
//! # Example
//!
//! ```no_run
//! use std::time::Duration;
//! use lab::{Direction, HomeNetwork, HomeNetworkConfig, Shape};
//!
//! # fn main() -> anyhow::Result<()> {
//! let wan = Shape { rate: Some(4_000_000), delay: Duration::from_millis(30), ..Shape::default() };
//! let home = HomeNetwork::build(&HomeNetworkConfig { seed: 7, lan: None, wan })?;
//! let mut server = home.cdn.command("sleep").arg("60").spawn()?;
//! home.wan.set(Direction::BToA, Shape { loss: 0.05, ..wan })?;
//! home.network.ensure_valid()?;
//! server.kill()?;
//! server.wait()?;
//! # Ok(())
//! # }
//! ```

pub mod app;
pub mod experiment;
mod figure;
pub mod home_network;
pub mod host;
mod interface;
pub mod latency_bound;
pub mod lateness;
pub mod link;
pub mod load;
mod machine_lock;
pub mod namespace;
pub mod network;
mod outer_uid;
pub mod process;
mod signals;
pub mod topology;
mod wait;

pub use home_network::{HomeNetwork, HomeNetworkConfig};
pub use host::Host;
pub use lateness::Lateness;
pub use link::shape::{BurstLoss, Jitter, Shape};
pub use link::{Direction, Emulator, FrameCounts, Link, Priority, Stats};
pub use machine_lock::{lock_machine, share_machine};
pub use network::{Endpoint, Network, Switch};
pub use process::Process;
pub use topology::Topology;
pub use wait::{TIMEOUT, until};
