//! Checks of this host: its addresses, and whether it can send and receive UDP.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use if_addrs::IfAddr;
use quinn::Endpoint;

use super::probe::{self, ProbeError, as_millis, millis};
use super::report::Check;
use crate::discovery;
use crate::listen::ListenAddress;
use crate::relay::{self, Side};
use crate::trust::{Identity, tls};

/// The networks of this host's interfaces.
#[derive(Clone, Debug, Default)]
pub(super) struct Networks(Vec<Network>);

#[derive(Clone, Debug)]
struct Network {
    interface: String,
    address: IpAddr,
    prefix: u8,
}

impl Networks {
    pub(super) fn own() -> Self {
        // Only addresses that are advertised to viewers.
        let shared: Vec<IpAddr> = discovery::own_addresses(0).into_iter().map(|address| address.ip()).collect();
        let interfaces = if_addrs::get_if_addrs().unwrap_or_default().into_iter();
        let networks = interfaces.filter(|interface| shared.contains(&interface.ip())).map(|interface| Network {
            address: interface.ip(),
            prefix: match interface.addr {
                IfAddr::V4(v4) => v4.prefixlen,
                IfAddr::V6(v6) => v6.prefixlen,
            },
            interface: interface.name,
        });
        Self(networks.collect())
    }

    /// Where an address is, as text: this machine, a local network, or elsewhere.
    pub(super) fn describe(&self, of: IpAddr) -> String {
        let of = of.to_canonical();
        if self.is_own(of) {
            return "this machine".to_owned();
        }
        match self.0.iter().find(|network| network.has(of)) {
            Some(network) => format!("the network of {}", network.interface),
            None => "another network".to_owned(),
        }
    }

    /// Whether an address is this host's own.
    pub(super) fn is_own(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_loopback() || self.0.iter().any(|network| network.address == address)
    }

    /// Whether an address is on one of this host's networks, or its own.
    pub(super) fn contain(&self, address: IpAddr) -> bool {
        address.to_canonical().is_loopback() || self.0.iter().any(|network| network.has(address.to_canonical()))
    }
}

impl Network {
    fn has(&self, other: IpAddr) -> bool {
        let prefix = u32::from(self.prefix);
        match (self.address, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (own.to_bits() ^ other.to_bits()).leading_zeros() >= prefix,
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits() ^ other.to_bits()).leading_zeros() >= prefix,
            _ => false,
        }
    }
}

/// Checks at which addresses other hosts may reach this one.
pub fn interfaces() -> Check {
    let networks = Networks::own();
    if networks.0.iter().all(|network| network.address.is_loopback()) {
        return Check::warn(
            "interfaces",
            "no network: only loopback is up",
            "connect a cable or join a Wi-Fi network; `ip addr` lists the interfaces",
        );
    }
    let mut text = String::new();
    let mut last = "";
    for Network { interface, address, prefix } in &networks.0 {
        let separator = if last.is_empty() { "" } else { ", " };
        let name = if last == interface { String::new() } else { format!("{interface} ") };
        let _ = write!(text, "{separator}{name}{address}/{prefix}");
        last = interface;
    }
    Check::ok("interfaces", text)
}

/// Checks whether UDP is received at `listen`, or at any free port, by a QUIC handshake with itself. It cannot show whether other hosts can
/// reach it.
pub async fn udp(listen: Option<ListenAddress>) -> Check {
    let identity = match Identity::generate() {
        Ok(identity) => identity,
        Err(error) => return Check::fail("UDP", error.to_string(), "check the system's random number generator"),
    };
    let mut config = tls::server_config(&identity, relay::wire::ALPN);
    config.transport_config(Arc::new(relay::transport(Side::Server)));
    let bound = listen.unwrap_or(ListenAddress::AnyAddress(0)).bind_udp().and_then(|socket| {
        Endpoint::new(quinn::EndpointConfig::default(), Some(config), socket, Arc::new(quinn::TokioRuntime))
    });
    // Without a requested port this is a warning only: RTMP works without UDP.
    let cannot = |found: String, fix: String| match listen {
        Some(_) => Check::fail("UDP", found, fix),
        None => Check::warn("UDP", found, fix),
    };
    let wanted = listen.map_or("a UDP port".to_owned(), |address| format!("UDP {address}"));
    let bound = bound.and_then(|endpoint| Ok((endpoint.local_addr()?, endpoint)));
    let (local, endpoint) = match bound {
        Ok(bound) => bound,
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let fix =
                format!("stop the program that uses it (`ss -ulpn sport = :{}`), or choose another port", port(listen));
            return cannot(format!("{wanted} is in use"), fix);
        }
        Err(error) => {
            let fix = "choose an address of this machine, and a port above 1023 unless you are root; check restrictions by a container, AppArmor or SELinux";
            return cannot(format!("{wanted} cannot be opened: {error}"), fix.to_owned());
        }
    };
    let mut own = discovery::own_addresses(local.port());
    if !local.ip().is_unspecified() {
        own = vec![local];
    }
    own.truncate(1);
    let answering = tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let _ = incoming.await;
        }
    });
    let heard = probe::quic(&own, Some(identity.pin())).await;
    answering.abort();
    match heard {
        Ok((address, round_trip)) => {
            let found =
                format!("port {} is open and reachable at {} in {}", local.port(), address.ip(), millis(round_trip));
            Check::ok("UDP", found).with("port", local.port().into()).with("round_trip_ms", as_millis(round_trip))
        }
        Err(trouble) => {
            let place = own.first().map_or(String::new(), SocketAddr::to_string);
            let found = match trouble {
                ProbeError::Silent => {
                    format!("port {} is open, but receives no packets that this machine sends to {place}", local.port())
                }
                other => other.found(&place),
            };
            let fix = "allow inbound UDP in this machine's firewall: sudo ufw allow proto udp from LOCAL_NETWORK; `sudo nft list ruleset` lists its rules";
            Check::warn("UDP", found, fix)
        }
    }
}

fn port(listen: Option<ListenAddress>) -> u16 {
    listen.map_or(0, |address| address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_located_on_networks() {
        let network =
            |address: &str, prefix| Network { interface: "eth0".to_owned(), address: address.parse().unwrap(), prefix };
        let networks = Networks(vec![network("192.168.1.5", 24), network("fd00::5", 64)]);
        for (address, place, is_near) in [
            ("192.168.1.5", "this machine", true),
            ("::ffff:192.168.1.5", "this machine", true),
            ("127.0.0.1", "this machine", true),
            ("192.168.1.200", "the network of eth0", true),
            ("192.168.2.5", "another network", false),
            ("fd00::77", "the network of eth0", true),
            ("fd01::77", "another network", false),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!((networks.describe(address).as_str(), networks.contain(address)), (place, is_near), "{address}");
        }
        assert!(Networks(vec![network("10.0.0.1", 0)]).contain("8.8.8.8".parse().unwrap()));
    }

    #[tokio::test]
    async fn a_port_in_use_fails() {
        let holder = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let check = udp(Some(holder.local_addr().unwrap().into())).await;
        assert_eq!(check.status(), super::super::report::Status::Fail);
        drop(holder);
        let check = udp(Some("127.0.0.1:0".parse().unwrap())).await;
        assert_eq!(check.status(), super::super::report::Status::Ok, "{check:?}");
    }
}
