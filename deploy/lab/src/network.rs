//! A network: creates hosts, switches, cables and links, and removes everything when dropped.
//!
//! The machine's own network is not touched: veth pairs are created in the namespaces, and no address or route is set outside them. A
//! ready-made network is in [`crate::home_network`].

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, anyhow, ensure};

use crate::host::Host;
use crate::interface::Interface;
use crate::lateness::{Histogram, Lateness};
use crate::link::shape::Shape;
use crate::link::timer_probe::TimerProbe;
use crate::link::{Emulator, Link, netem};
use crate::namespace::{self, Namespace, ip};

/// One network of hosts and switches. Dropping it stops its links, ends the processes still running in its
/// namespaces, and removes them.
#[derive(Debug)]
pub struct Network {
    serial: usize,
    seed: u64,
    /// The namespace of the emulator's ends of the links.
    wire: Namespace,
    namespaces: Vec<Arc<Namespace>>,
    links: Vec<Arc<Link>>,
    emulator: Emulator,
    /// The probe of netem's timing error, or why the kernel has no netem; `None` until it was needed.
    netem: Option<Result<TimerProbe, String>>,
}

/// A switch: a Linux bridge in a namespace of its own. It floods multicast to every port, as an unmanaged switch does, unless IGMP snooping is
/// on. It runs no spanning tree, so loops are not allowed.
#[derive(Debug)]
pub struct Switch {
    name: String,
    namespace: Arc<Namespace>,
    ports: AtomicUsize,
}

/// An end of a cable or link: [`Host::at`] or [`Switch::port`].
#[derive(Clone, Copy, Debug)]
pub enum Endpoint<'a> {
    /// A new interface of the host, with this address.
    Host(&'a Host, Ipv4Addr),
    /// A new port of the switch.
    Switch(&'a Switch),
}

impl Host {
    /// This host as the end of a cable or link: a new interface (`eth0`, `eth1`, ...) with this address and a
    /// prefix of [`PREFIX_LENGTH`]. The address must be in 10.0.0.0/8.
    pub fn at(&self, address: Ipv4Addr) -> Endpoint<'_> {
        Endpoint::Host(self, address)
    }
}

impl Switch {
    /// The name it was made under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace's name, for `ip netns exec`.
    pub fn namespace_name(&self) -> &str {
        self.namespace.name()
    }

    /// Turns client isolation on or off for a port (numbered from 0 in the order of connection): the switch forwards no frames between
    /// isolated ports. A port that is not isolated reaches all.
    ///
    /// Fails when there is no such port.
    pub fn isolate(&self, port: usize, isolated: bool) -> Result<()> {
        let (port, state) = (format!("p{port}"), if isolated { "on" } else { "off" });
        ip(&["-n", self.namespace.name(), "link", "set", "dev", &port, "type", "bridge_slave", "isolated", state])
    }

    /// The switch as the end of a cable or link: a new port.
    pub fn port(&self) -> Endpoint<'_> {
        Endpoint::Switch(self)
    }
}

impl Network {
    /// An empty network. All random draws follow from `seed` and the order in which links are created; a run is reproducible as far as
    /// frames arrive in the same order.
    ///
    /// First removes the namespaces of dead processes ([`namespace::sweep`]). Fails without root or without `ip`.
    pub fn new(seed: u64) -> Result<Network> {
        static SERIAL: AtomicUsize = AtomicUsize::new(0);
        namespace::sweep()?;
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let wire = Namespace::create(serial, "wire")?;
        Ok(Network {
            serial,
            seed,
            wire,
            namespaces: Vec::new(),
            links: Vec::new(),
            emulator: Emulator::default(),
            netem: None,
        })
    }

    /// Sets the emulator of links created from now on; the default is [`Emulator::Userspace`].
    pub fn set_emulator(&mut self, emulator: Emulator) {
        self.emulator = emulator;
    }

    /// A host with loopback only. `name`: 1 to [`namespace::MAX_ROLE`] of `a-z 0-9 -`, once in a network, and
    /// not `wire`.
    pub fn host(&mut self, name: &str) -> Result<Host> {
        Ok(Host::new(name, self.namespace(name)?))
    }

    /// A switch without ports; its name as for [`Network::host`].
    pub fn switch(&mut self, name: &str) -> Result<Switch> {
        self.bridge(name, "type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
    }

    /// A switch with IGMP snooping and an IGMP querier: it forwards multicast only to ports whose hosts joined the group.
    pub fn snooping_switch(&mut self, name: &str) -> Result<Switch> {
        self.bridge(name, "type bridge stp_state 0 forward_delay 0 mcast_snooping 1 mcast_querier 1")
    }

    fn bridge(&mut self, name: &str, options: &str) -> Result<Switch> {
        let namespace = self.namespace(name)?;
        let mut arguments = vec!["-n", namespace.name(), "link", "add", BRIDGE];
        arguments.extend(options.split(' '));
        ip(&arguments)?;
        namespace.run(|| Interface::open(BRIDGE)?.up())??;
        Ok(Switch { name: name.to_owned(), namespace, ports: AtomicUsize::new(0) })
    }

    /// Connects two endpoints by a veth pair without emulation. Returns once both ends have carrier.
    ///
    /// Fails when an address is outside 10.0.0.0/8, or an interface cannot be made.
    pub fn cable(&self, a: Endpoint<'_>, b: Endpoint<'_>) -> Result<()> {
        let (a_name, b_name) = (a.next_interface()?, b.next_interface()?);
        veth((a.namespace(), &a_name), (b.namespace(), &b_name))?;
        for (end, name) in [(a, &a_name), (b, &b_name)] {
            end.configure(name)?;
        }
        for (end, name) in [(a, &a_name), (b, &b_name)] {
            end.interface(name)?.await_running(true)?;
        }
        Ok(())
    }

    /// Connects two endpoints by an emulated link; `shapes` are those from `a` to `b` and from `b` to `a`. Returns once it forwards and both
    /// ends have carrier.
    ///
    /// Fails when a shape is out of range, when the emulator is netem and the kernel does not support it, and as [`Network::cable`] does.
    pub fn link(&mut self, name: &str, a: Endpoint<'_>, b: Endpoint<'_>, shapes: [Shape; 2]) -> Result<Arc<Link>> {
        for shape in &shapes {
            shape.validate().with_context(|| format!("link {name}"))?;
        }
        let uses_netem = self.uses_netem(&shapes).with_context(|| format!("link {name}"))?;
        let number = self.links.len();
        let near = [format!("w{number}a"), format!("w{number}b")];
        let mut far = Vec::new();
        for (end, near) in [a, b].into_iter().zip(&near) {
            let name = end.next_interface()?;
            veth((end.namespace(), &name), (&self.wire, near))?;
            self.wire.run(|| {
                let interface = Interface::open(near)?;
                interface.offloads_off()?;
                interface.up()
            })??;
            end.configure(&name)?;
            far.push(end.interface(&name)?);
        }
        let far: [Interface; 2] = far.try_into().expect("one interface was pushed for each of two ends");
        far.iter().try_for_each(|end| end.await_running(true))?;
        let seeds = [0, 1].map(|way| self.seed.wrapping_add((2 * number as u64 + way).wrapping_mul(SEED_STRIDE)));
        let seeds = (!uses_netem).then_some(seeds);
        let link = Link::start(name, &self.wire, near.each_ref().map(String::as_str), far, shapes, seeds);
        let link = Arc::new(link.with_context(|| format!("link {name}"))?);
        self.links.push(Arc::clone(&link));
        Ok(link)
    }

    /// Whether netem emulates a link of these shapes.
    fn uses_netem(&mut self, shapes: &[Shape; 2]) -> Result<bool> {
        let possible = || shapes.iter().try_for_each(|shape| netem::arguments(shape).map(drop));
        match self.emulator {
            Emulator::Userspace => Ok(false),
            Emulator::Auto => Ok(possible().is_ok() && self.netem().is_ok()),
            Emulator::Netem => {
                possible()?;
                self.netem().as_ref().map(|_| true).map_err(|why| {
                    anyhow!("this kernel has no netem: load it (modprobe sch_netem), or use --links userspace. {why}")
                })
            }
        }
    }

    /// Starts the timer probe on first use, which tells whether the kernel has netem.
    fn netem(&mut self) -> &Result<TimerProbe, String> {
        self.netem.get_or_insert_with(|| TimerProbe::start(&self.wire).map_err(|why| format!("{why:#}")))
    }

    /// The emulated links, in the order of creation.
    pub fn links(&self) -> &[Arc<Link>] {
        &self.links
    }

    /// The timing error so far of all links together, and of netem's probe frames; zero frames when there is no link.
    pub fn lateness(&self) -> Lateness {
        let mut all = Histogram::new().snapshot();
        self.links.iter().filter_map(|link| link.lateness()).chain(self.netem_lateness()).for_each(|of| all.merge(&of));
        all
    }

    fn netem_lateness(&self) -> Option<Lateness> {
        self.netem.as_ref()?.as_ref().ok().map(TimerProbe::lateness)
    }

    /// Fails, with the reason, when measurements in this network are invalid: a link's thread has failed, its timing error exceeds
    /// [`crate::lateness::MAX_VALID_P99`], or the emulator dropped frames.
    pub fn ensure_valid(&self) -> Result<()> {
        for link in &self.links {
            ensure!(link.is_running(), "run is invalid: link {} has stopped", link.name());
            let drops = link.stats().improper_drops();
            if let Some(lateness) = link.lateness() {
                ensure!(!lateness.is_invalid(), "run is invalid: link {}: {lateness}", link.name());
            }
            ensure!(drops == 0, "run is invalid: link {}: {drops} frames dropped by the emulator", link.name());
        }
        if let Some(lateness) = self.netem_lateness() {
            ensure!(!lateness.is_invalid(), "run is invalid: netem: {lateness}");
        }
        Ok(())
    }

    fn namespace(&mut self, role: &str) -> Result<Arc<Namespace>> {
        let namespace = Arc::new(Namespace::create(self.serial, role)?);
        self.namespaces.push(Arc::clone(&namespace));
        Ok(namespace)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.links.iter().for_each(|link| link.stop());
        self.netem = None;
        // The caller may still hold hosts and links: the names are removed all the same.
        self.namespaces.iter().for_each(|namespace| namespace.remove());
        self.wire.remove();
    }
}

impl Endpoint<'_> {
    fn namespace(&self) -> &Namespace {
        match self {
            Endpoint::Host(host, _) => host.namespace(),
            Endpoint::Switch(switch) => &switch.namespace,
        }
    }

    fn next_interface(&self) -> Result<String> {
        match self {
            Endpoint::Host(host, address) => {
                ensure!(address.octets()[0] == 10, "address {address} of {} is not in 10.0.0.0/8", host.name());
                Ok(host.next_interface(*address))
            }
            Endpoint::Switch(switch) => Ok(format!("p{}", switch.ports.fetch_add(1, Ordering::Relaxed))),
        }
    }

    fn interface(&self, name: &str) -> Result<Interface> {
        self.namespace().run(|| Interface::open(name))?
    }

    /// Configures the new interface `name`: offloads off, address or bridge, up.
    fn configure(&self, name: &str) -> Result<()> {
        let namespace = self.namespace().name();
        let interface = self.interface(name)?;
        interface.offloads_off()?;
        match self {
            Endpoint::Host(_, address) => {
                let address = format!("{address}/{PREFIX_LENGTH}");
                ip(&["-n", namespace, "address", "add", &address, "broadcast", "+", "dev", name])?;
            }
            Endpoint::Switch(_) => ip(&["-n", namespace, "link", "set", name, "master", BRIDGE])?,
        }
        interface.up()
    }
}

/// Creates a veth pair with each end in its namespace.
fn veth(a: (&Namespace, &str), b: (&Namespace, &str)) -> Result<()> {
    // From inside: kernels before 6.13 look the name up in the namespace of the caller, which often has an eth0.
    let first = ["-n", a.0.name(), "link", "add", a.1, "type", "veth"];
    let second = ["peer", "name", b.1, "netns", b.0.name()];
    ip(&[&first[..], &second].concat())
}

/// Prefix length of every address: a home network's, and no test needs more hosts.
pub const PREFIX_LENGTH: u8 = 24;

/// The bridge's name in a switch's namespace.
const BRIDGE: &str = "br0";

/// Between the seeds of two directions: odd and large (2^64 over the golden ratio), so that no two directions
/// share a seed and neighbouring run seeds do not meet.
const SEED_STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;
