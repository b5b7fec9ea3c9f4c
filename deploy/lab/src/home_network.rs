//! A home network: a LAN with a broadcaster and two viewers, and a CDN behind a router and a slow link.
//!
//! It is built from the parts in [`crate::network`].
//!
//! ```text
//!  broadcaster 10.77.0.10 ----+
//!  viewer1     10.77.0.21 ----+ lan (switch) ---- 10.77.0.1 router 10.88.0.1 ==== wan ==== 10.88.0.2 cdn
//!  viewer2     10.77.0.22 ----+
//! ```
//!
//! The router keeps the LAN's multicast on the LAN: a CDN on the same switch would receive mDNS.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Result;

use crate::host::Host;
use crate::link::Link;
use crate::link::shape::Shape;
use crate::network::{Network, Switch};

/// Parameters of a [`HomeNetwork`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HomeNetworkConfig {
    /// Seed of all random draws.
    pub seed: u64,
    /// Both directions of the link between each of the three hosts and the switch. Two hosts are two links
    /// apart, so twice its delay. `None` connects them by cables without emulation.
    pub lan: Option<Shape>,
    /// Both directions of the link between router and CDN. They can be set apart afterwards.
    pub wan: Shape,
}

/// A running home network; dropping it takes it down.
#[derive(Debug)]
pub struct HomeNetwork {
    /// Everything below belongs to it.
    pub network: Network,
    /// The switch of the LAN.
    pub switch: Switch,
    /// The sending host, [`BROADCASTER`].
    pub broadcaster: Host,
    /// The first receiving host, [`VIEWER1`].
    pub viewer1: Host,
    /// The second receiving host, [`VIEWER2`].
    pub viewer2: Host,
    /// The way out of the LAN, [`ROUTER`].
    pub router: Host,
    /// The server beyond the WAN link, [`CDN`].
    pub cdn: Host,
    /// The links of broadcaster, viewer1 and viewer2, in that order, each with the host as its first end;
    /// empty for cables without emulation.
    pub lan: Vec<Arc<Link>>,
    /// The link to the CDN; the router is its first end, so `AToB` is upload.
    pub wan: Arc<Link>,
}

impl HomeNetwork {
    /// Builds the network; returns once every link has carrier. Fails when a shape is out of range, and as
    /// [`Network::new`] does.
    pub fn build(config: &HomeNetworkConfig) -> Result<HomeNetwork> {
        let mut network = Network::new(config.seed)?;
        let switch = network.switch("lan")?;
        let router = network.host("router")?;
        let cdn = network.host("cdn")?;
        let mut lan = Vec::new();
        let mut join = |name: &str, address: Ipv4Addr| -> Result<Host> {
            let host = network.host(name)?;
            match config.lan {
                Some(shape) => lan.push(network.link(name, host.at(address), switch.port(), [shape; 2])?),
                None => network.cable(host.at(address), switch.port())?,
            }
            host.default_route(ROUTER)?;
            Ok(host)
        };
        let broadcaster = join("broadcaster", BROADCASTER)?;
        let viewer1 = join("viewer1", VIEWER1)?;
        let viewer2 = join("viewer2", VIEWER2)?;
        network.cable(router.at(ROUTER), switch.port())?;
        let wan = network.link("wan", router.at(ROUTER_WAN), cdn.at(CDN), [config.wan; 2])?;
        cdn.default_route(ROUTER_WAN)?;
        router.forward_packets()?;
        Ok(HomeNetwork { network, switch, broadcaster, viewer1, viewer2, router, cdn, lan, wan })
    }

    /// The three hosts of the LAN: broadcaster, viewer1, viewer2.
    pub fn lan_hosts(&self) -> [&Host; 3] {
        [&self.broadcaster, &self.viewer1, &self.viewer2]
    }
}

/// Address of the broadcaster.
pub const BROADCASTER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);

/// Address of the first viewer.
pub const VIEWER1: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 21);

/// Address of the second viewer.
pub const VIEWER2: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 22);

/// Address of the router on the LAN: the first of the network, by custom.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// Address of the router on the WAN link.
pub const ROUTER_WAN: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);

/// Address of the CDN: on another network than the LAN, so that it is reached only through the router.
pub const CDN: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
