//! Builds the network that a [`Topology`] describes.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::{EndpointRef, Topology, shape_syntax};
use crate::host::Host;
use crate::link::{Direction, Emulator, Link};
use crate::network::{Endpoint, Network, Switch};

/// A network built from a [`Topology`]; dropping it removes it.
#[derive(Debug)]
pub struct BuiltTopology {
    /// Everything below belongs to it.
    pub network: Network,
    /// Hosts by name.
    pub hosts: BTreeMap<String, Host>,
    /// Switches by name.
    pub switches: BTreeMap<String, Switch>,
    /// Links by name.
    pub links: BTreeMap<String, Arc<Link>>,
    /// The switch ports of each link: the switch's name and the port number there.
    pub(crate) ports: BTreeMap<String, Vec<(String, usize)>>,
}

impl Topology {
    /// Builds the network; returns once every link has carrier. Fails without root, and when an interface cannot be created; a partial
    /// network is removed.
    pub fn build(&self) -> Result<BuiltTopology> {
        let mut network = Network::new(self.seed)?;
        network.set_emulator(self.emulator);
        let mut hosts = BTreeMap::new();
        for host in &self.hosts {
            hosts.insert(host.name.clone(), network.host(&host.name)?);
        }
        let mut switches = BTreeMap::new();
        for switch in &self.switches {
            let made =
                if switch.snooping { network.snooping_switch(&switch.name) } else { network.switch(&switch.name) };
            switches.insert(switch.name.clone(), made?);
        }
        let mut used: BTreeMap<String, usize> = BTreeMap::new();
        let mut ports: BTreeMap<String, Vec<(String, usize)>> = BTreeMap::new();
        let mut links = BTreeMap::new();
        for link in &self.links {
            let endpoints = [self.endpoint_ref(&link.a)?, self.endpoint_ref(&link.b)?];
            let [a, b] = endpoints.each_ref().map(|endpoint| end(endpoint, &hosts, &switches));
            let made = network.link(&link.name, a?, b?, link.shapes()?)?;
            links.insert(link.name.clone(), made);
            for endpoint in &endpoints {
                if let EndpointRef::Switch(name) = endpoint {
                    let next = used.entry(name.clone()).or_default();
                    ports.entry(link.name.clone()).or_default().push((name.clone(), *next));
                    *next += 1;
                }
            }
        }
        for cable in &self.cables {
            let (a, b) = (self.endpoint_ref(&cable.a)?, self.endpoint_ref(&cable.b)?);
            network.cable(end(&a, &hosts, &switches)?, end(&b, &hosts, &switches)?)?;
        }
        for config in &self.hosts {
            let host = &hosts[&config.name];
            if let Some(gateway) = config.gateway {
                host.default_route(gateway).with_context(|| format!("host {}: gateway", config.name))?;
            }
            if config.router {
                host.forward_packets()?;
            }
        }
        Ok(BuiltTopology { network, hosts, switches, links, ports })
    }
}

impl BuiltTopology {
    /// The host of that name. The error lists the existing ones.
    pub fn host(&self, name: &str) -> Result<&Host> {
        self.hosts.get(name).with_context(|| format!("there is no host {name:?}; there are: {}", names(&self.hosts)))
    }

    /// The link of that name. The error lists the existing ones.
    pub fn link(&self, name: &str) -> Result<&Arc<Link>> {
        self.links.get(name).with_context(|| format!("there is no link {name:?}; there are: {}", names(&self.links)))
    }

    /// Turns client isolation on or off for a link: switches forward no frames between isolated links.
    ///
    /// Fails when the link is not connected to a switch.
    pub fn isolate(&self, link: &str, isolated: bool) -> Result<()> {
        self.link(link)?;
        let ports = self.ports.get(link).with_context(|| format!("link {link} is not connected to a switch"))?;
        for (switch, port) in ports {
            self.switches[switch].isolate(*port, isolated)?;
        }
        Ok(())
    }

    /// Hosts, switches and links with their shapes, as text.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for (name, host) in &self.hosts {
            let address = host.address().map_or("-".to_owned(), |address| address.to_string());
            let _ = writeln!(text, "host    {name:<14} {address:<14} ip netns exec {} COMMAND", host.namespace_name());
        }
        for (name, switch) in &self.switches {
            let _ = writeln!(text, "switch  {name:<14} {:<14} {}", "", switch.namespace_name());
        }
        for (name, link) in &self.links {
            let [there, back] = Direction::BOTH.map(|direction| shape_syntax::describe(&link.shape(direction)));
            let back = if there == back { "the same".to_owned() } else { back };
            let by = if link.emulator() == Emulator::Netem { "netem" } else { "" };
            let _ = writeln!(text, "link    {name:<14} a to b: {there}\n        {by:<14} b to a: {back}");
        }
        text
    }
}

pub(crate) fn names<T>(map: &BTreeMap<String, T>) -> String {
    map.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn end<'a>(
    endpoint: &EndpointRef,
    hosts: &'a BTreeMap<String, Host>,
    switches: &'a BTreeMap<String, Switch>,
) -> Result<Endpoint<'a>> {
    let end = match endpoint {
        EndpointRef::Host(name, address) => hosts.get(name).map(|host| host.at(*address)),
        EndpointRef::Switch(name) => switches.get(name).map(Switch::port),
    };
    end.with_context(|| format!("{} was not made", endpoint.name()))
}
