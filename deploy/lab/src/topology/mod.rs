//! A topology as text: what a TOML file says of hosts, switches and links, checked before anything is made.
//!
//! It is not the network ([`build`] makes that) nor any one topology (those are in `deploy/lab/topologies`). Every error names the
//! key and says what to write instead.
//!
//! ```toml
//! seed = 7
//!
//! [[host]]
//! name = "broadcaster"
//! address = "10.77.0.10"
//!
//! [[host]]
//! name = "viewer"
//! address = "10.77.0.21"
//!
//! [[switch]]
//! name = "lan"
//!
//! [[link]]
//! name = "uplink"
//! a = "broadcaster"
//! b = "lan"
//! both = { rate = "4M", delay = "8ms" }
//! a-to-b = { loss = "1%" }
//!
//! [[cable]]
//! a = "viewer"
//! b = "lan"
//! ```

pub mod build;
pub mod commands;
pub mod shape_syntax;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::latency_bound::Hop;
use crate::link::shape::Shape;
use crate::link::{Direction, Emulator};

/// An emulated network, as in a TOML file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Topology {
    /// A one-line description for `lab list`.
    #[serde(default)]
    pub about: String,
    /// Seed of all random draws.
    #[serde(default)]
    pub seed: u64,
    /// The link emulator; not part of the file.
    #[serde(skip)]
    pub emulator: Emulator,
    /// Network namespaces that run programs (`[[host]]`).
    #[serde(default, rename = "host")]
    pub hosts: Vec<HostConfig>,
    /// Ethernet bridges (`[[switch]]`).
    #[serde(default, rename = "switch")]
    pub switches: Vec<SwitchConfig>,
    /// Links with emulated rate, delay and loss (`[[link]]`).
    #[serde(default, rename = "link")]
    pub links: Vec<LinkConfig>,
    /// Links without emulation.
    #[serde(default, rename = "cable")]
    pub cables: Vec<CableConfig>,
}

/// A host of the topology, from a `[[host]]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HostConfig {
    /// Its name: `a-z`, `0-9`, `-`.
    pub name: String,
    /// Its address, in 10.0.0.0/8, wherever a link names none; the prefix is 24 bits.
    pub address: Option<Ipv4Addr>,
    /// Where packets for other networks go.
    pub gateway: Option<Ipv4Addr>,
    /// Whether it passes packets from one of its networks on to another.
    #[serde(default)]
    pub router: bool,
}

/// A switch of the topology, from a `[[switch]]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SwitchConfig {
    /// Its name: `a-z`, `0-9`, `-`.
    pub name: String,
    /// Whether multicast goes only to ports that asked for it by IGMP; an unmanaged switch at home floods it.
    #[serde(default)]
    pub snooping: bool,
}

/// An emulated link.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LinkConfig {
    /// Its name, for commands and results.
    pub name: String,
    /// One end: `SWITCH`, `HOST`, or `HOST ADDRESS`.
    pub a: String,
    /// The other end.
    pub b: String,
    /// What both directions do.
    #[serde(default)]
    pub both: BTreeMap<String, toml::Value>,
    /// What is different from a to b.
    #[serde(default)]
    pub a_to_b: BTreeMap<String, toml::Value>,
    /// What is different from b to a.
    #[serde(default)]
    pub b_to_a: BTreeMap<String, toml::Value>,
}

/// A link as fast as the machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CableConfig {
    /// One end: `SWITCH`, `HOST`, or `HOST ADDRESS`.
    pub a: String,
    /// The other end.
    pub b: String,
}

/// An end of a link, as the topology names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EndpointRef {
    Host(String, Ipv4Addr),
    Switch(String),
}

impl EndpointRef {
    fn name(&self) -> &str {
        let (EndpointRef::Host(name, _) | EndpointRef::Switch(name)) = self;
        name
    }
}

impl LinkConfig {
    /// What it does from a to b, and from b to a.
    pub fn shapes(&self) -> Result<[Shape; 2]> {
        let shaped = |key: &str, table: &BTreeMap<String, toml::Value>, onto: Shape| {
            shape_syntax::from_table(onto, table).with_context(|| format!("link {}: {key}", self.name))
        };
        let both = shaped("both", &self.both, Shape::PERFECT)?;
        Ok([shaped("a-to-b", &self.a_to_b, both)?, shaped("b-to-a", &self.b_to_a, both)?])
    }
}

impl Topology {
    /// Reads and validates a file. The error names the file, the line of a TOML error, and the key.
    pub fn read(path: &Path) -> Result<Topology> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read the topology {}", path.display()))?;
        text.parse::<Topology>().with_context(|| format!("topology {}", path.display()))
    }

    /// The link of that name. The error lists the existing ones.
    pub fn link(&self, name: &str) -> Result<&LinkConfig> {
        let names: Vec<&str> = self.links.iter().map(|link| link.name.as_str()).collect();
        let found = self.links.iter().find(|link| link.name == name);
        found.with_context(|| format!("there is no link {name:?}; there are: {}", names.join(", ")))
    }

    /// The links of the shortest path (fewest hops) from one host to another, across switches and routers. Cables count as links without delay.
    /// Fails when there is no such host or no path.
    pub fn hops(&self, from: &str, to: &str) -> Result<Vec<Hop>> {
        for name in [from, to] {
            ensure!(self.hosts.iter().any(|host| host.name == name), "there is no host {name:?}; there are: {}", {
                self.hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>().join(", ")
            });
        }
        let mut ways: Vec<(String, String, Hop)> = Vec::new();
        for link in &self.links {
            let (a, b) = (self.endpoint_ref(&link.a)?, self.endpoint_ref(&link.b)?);
            let shapes = link.shapes()?;
            for direction in Direction::BOTH {
                let (near, far, shape) = match direction {
                    Direction::AToB => (&a, &b, shapes[0]),
                    Direction::BToA => (&b, &a, shapes[1]),
                };
                ways.push((near.name().to_owned(), far.name().to_owned(), shape.into()));
            }
        }
        for cable in &self.cables {
            let (a, b) = (self.endpoint_ref(&cable.a)?, self.endpoint_ref(&cable.b)?);
            for (near, far) in [(&a, &b), (&b, &a)] {
                ways.push((near.name().to_owned(), far.name().to_owned(), Shape::PERFECT.into()));
            }
        }
        let mut reached = BTreeMap::from([(from.to_owned(), Vec::new())]);
        let mut open = VecDeque::from([from.to_owned()]);
        while let Some(here) = open.pop_front() {
            let hops = reached[&here].clone();
            if here == to {
                return Ok(hops);
            }
            for (_, far, hop) in ways.iter().filter(|(near, ..)| *near == here) {
                if !reached.contains_key(far) {
                    reached.insert(far.clone(), [&hops[..], &[*hop]].concat());
                    open.push_back(far.clone());
                }
            }
        }
        bail!("no link leads from {from} to {to}")
    }

    /// Parses the text of an endpoint: `SWITCH`, `HOST`, or `HOST ADDRESS`.
    pub(crate) fn endpoint_ref(&self, text: &str) -> Result<EndpointRef> {
        let mut words = text.split_whitespace();
        let name = words.next().context("is empty: name a switch, a host, or a host and its address there")?;
        let address = words.next();
        ensure!(words.next().is_none(), "{text:?}: expected a host and its address");
        if self.switches.iter().any(|switch| switch.name == name) {
            ensure!(address.is_none(), "{text:?}: a switch has no address");
            return Ok(EndpointRef::Switch(name.to_owned()));
        }
        let host = self.hosts.iter().find(|host| host.name == name);
        let host = host.with_context(|| format!("{name:?} is neither a [[host]] nor a [[switch]]"))?;
        let address = match address {
            Some(address) => address.parse().with_context(|| format!("{address:?} is not an IPv4 address"))?,
            None => host.address.with_context(|| {
                format!("host {name} has no address: give it `address`, or write \"{name} 10.…\" at this end")
            })?,
        };
        Ok(EndpointRef::Host(name.to_owned(), address))
    }

    /// Validates what building would otherwise only find in a partially built network. The error names the key.
    fn check(&self) -> Result<()> {
        let mut names = BTreeSet::new();
        let named =
            self.hosts.iter().map(|h| ("host", &h.name)).chain(self.switches.iter().map(|s| ("switch", &s.name)));
        for (kind, name) in named {
            crate::namespace::check_role(name).with_context(|| format!("[[{kind}]] name"))?;
            ensure!(name != "wire", "[[{kind}]] name: `wire` is reserved; use another");
            ensure!(
                names.insert(name),
                "[[{kind}]] name: {name:?} is used twice; names are unique among hosts and switches"
            );
        }
        ensure!(!self.hosts.is_empty(), "there is no [[host]]; a network needs at least one");
        let mut names = BTreeSet::new();
        for link in &self.links {
            ensure!(names.insert(&link.name), "[[link]] name: {:?} is used twice; name each link once", link.name);
            link.shapes()?;
        }
        let mut addresses: BTreeMap<Ipv4Addr, String> = BTreeMap::new();
        let links = self.links.iter().map(|link| (format!("link {}", link.name), &link.a, &link.b));
        let cables = self.cables.iter().map(|cable| (format!("cable {} to {}", cable.a, cable.b), &cable.a, &cable.b));
        for (what, a, b) in links.chain(cables) {
            let a = self.endpoint_ref(a).with_context(|| format!("{what}: a"))?;
            let b = self.endpoint_ref(b).with_context(|| format!("{what}: b"))?;
            ensure!(a.name() != b.name(), "{what}: both ends are {}; a link needs two", a.name());
            for endpoint in [a, b] {
                let EndpointRef::Host(host, address) = endpoint else { continue };
                ensure!(address.octets()[0] == 10, "{what}: address {address} of {host} is not in 10.0.0.0/8");
                if let Some(other) = addresses.insert(address, format!("{host} at {what}")) {
                    bail!("{what}: address {address} of {host} is already that of {other}; each end has its own");
                }
            }
        }
        Ok(())
    }
}

impl std::str::FromStr for Topology {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Topology> {
        let topology: Topology = toml::from_str(text)?;
        topology.check()?;
        Ok(topology)
    }
}

#[cfg(test)]
mod tests;
