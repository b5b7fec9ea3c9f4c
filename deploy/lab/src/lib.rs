//! Network lab of Nearcast: hosts in network namespaces on one Linux machine, joined by switches and
//! emulated links, so that a program under test runs unchanged against a network that is known.
//!
//! It is not a simulator: real kernels' TCP and UDP run in real time over real interfaces, and a run is only
//! worth what the machine's scheduling allows, which [`Network::ensure_valid`] judges from measured
//! lateness. It is not a sandbox either: only the network is separate, files and processes are shared.
//!
//! # Map
//!
//! | module | holds |
//! | --- | --- |
//! | [`network`] | [`Network`], [`Switch`], [`Endpoint`]: what is made, and how it is wired |
//! | [`host`] | [`Host`]: programs, closures and sockets inside one namespace |
//! | [`home_network`] | [`HomeNetwork`]: a home LAN with a broadcaster, two viewers, and a CDN behind a router |
//! | [`link`] | [`Link`]: the emulated link's handle; [`Shape`]: what it does to frames |
//! | [`topology`] | [`Topology`]: a topology as TOML, checked and made; commands to it while it runs |
//! | [`latency_bound`] | how soon the last bit of a unit can arrive, by arithmetic |
//! | [`load`] | a crowd of viewers by one protocol, and what each of them got |
//! | [`process`] | [`Process`]: a program with its output in files |
//! | [`lateness`] | [`Lateness`]: how late the emulator was, and whether the run is invalid |
//! | [`namespace`] | the namespaces' names, life and clean-up |
//! | `interface` | ioctls on one interface: up, down, offloads |
//! | `link::userspace` | the lab's own emulator of a link |
//! | `link::netem`, `link::timer_probe` | the kernel's, and how late that is |
//! | `link::pipe` | the model of one direction: queue, serialisation, loss, delay; no input or output |
//! | `link::forward` | the thread that runs two pipes between two packet sockets |
//! | `link::packet_socket` | the AF_PACKET socket and its receive timestamps |
//!
//! # How a frame travels an emulated link
//!
//! ```text
//!  host namespace        namespace "wire"              switch namespace
//!  eth0 ==veth== w0a -> socket -> pipe -> socket -> w0b ==veth== p0 -- br0
//! ```
//!
//! A cable without emulation ([`Network::cable`]) is one veth pair and goes past the wire namespace.
//!
//! # Needs
//!
//! Root (CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_NET_RAW; CAP_SYS_NICE for real-time priority), the program `ip` of
//! iproute2, and a kernel with network namespaces, veth, bridges and packet sockets. No queueing discipline
//! such as netem is needed; [`Emulator`] has it used where there is one.
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
pub use machine_lock::{lock_machine, lock_machine_shared};
pub use network::{Endpoint, Network, Switch};
pub use process::Process;
pub use topology::Topology;
pub use wait::{TIMEOUT, until};
