//! Which addresses the viewer connects to: those that the user asked for, and from there only the internet.
//!
//! Servers name further addresses: in redirects, in playlists, and in what their API tells. A server on the internet must not direct the viewer to
//! its own machine or network, where routers, printers and local services trust their neighbours. Addresses are judged when they are connected to,
//! after name resolution, so that no name and no notation hides one. If the host in the user's URL is private itself, any address is permitted.
//!
//! The exception are the addresses of a broadcaster on the viewer's network, which its server tells: see [`Reach::may_be_broadcaster`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use net::discovery::own_addresses;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// The addresses that may be connected to; shared by all connections of a stream.
#[derive(Clone, Debug, Default)]
pub(super) struct Reach(Arc<Rule>);

#[derive(Debug)]
struct Rule {
    /// The host in the user's URL.
    asked: Option<String>,
    /// Its addresses when it was first looked up. A name that changes its address afterwards has no more rights than any other.
    first: OnceLock<Vec<IpAddr>>,
    lookup: Lookup,
    is_public: fn(IpAddr) -> bool,
}

/// Resolves a host name, to addresses with the scope of link-local ones (RFC 4007 §11) and without a port.
type Lookup = fn(String) -> Pin<Box<dyn Future<Output = std::io::Result<Vec<SocketAddr>>> + Send>>;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A server named an address that the user did not ask for.
#[derive(Debug, thiserror::Error)]
#[error(
    "{host} is at the private address {address}, and a server on the internet must not direct this viewer there. \
     If this is your own stream, play it by that address"
)]
pub(super) struct PrivateAddress {
    host: String,
    address: IpAddr,
}

impl Reach {
    /// What the host in the user's URL permits.
    pub(super) fn of(url: &str) -> Self {
        let host = Url::parse(url).ok().and_then(|url| url.host_str().map(bare));
        Self::with(host, system_lookup, is_public)
    }

    /// Any address: for those that the user gave.
    pub(super) fn anywhere() -> Self {
        Self::with(None, system_lookup, |_| true)
    }

    fn with(asked: Option<String>, lookup: Lookup, is_public: fn(IpAddr) -> bool) -> Self {
        let first = OnceLock::new();
        if let Some(address) = asked.as_ref().and_then(|host| host.parse().ok()) {
            let _ = first.set(vec![address]);
        }
        Self(Arc::new(Rule { asked, first, lookup, is_public }))
    }

    /// The permitted addresses of a host.
    ///
    /// # Errors
    /// If it cannot be resolved; [`PrivateAddress`] if none is permitted.
    pub(super) async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, BoxError> {
        let host = bare(host);
        let found = match host.parse() {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => (self.0.lookup)(host.clone()).await?,
        };
        let mut permitted = self.permitted(&host, found)?;
        permitted.iter_mut().for_each(|address| address.set_port(port));
        Ok(permitted)
    }

    /// Whether `url` may be requested, as far as that shows before its host is resolved: HTTP clients do not look up addresses.
    ///
    /// # Errors
    /// [`PrivateAddress`] if its host is an address that is not permitted.
    pub(super) fn check(&self, url: &Url) -> Result<(), PrivateAddress> {
        let host = bare(url.host_str().unwrap_or_default());
        host.parse().map_or(Ok(()), |address| self.permitted(&host, vec![SocketAddr::new(address, 0)]).map(drop))
    }

    /// Whether the server may name this address for the broadcaster on the viewer's network. It is on a private network, or shares its network with this
    /// machine; and its port is not one of a well-known service (below 1024). Nothing else is sent there than the first packets of a QUIC
    /// handshake, which only the holder of the pinned certificate can complete.
    pub(super) fn may_be_broadcaster(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        if self.is_anywhere() {
            return !ip.is_multicast() && !ip.is_unspecified();
        }
        let is_local = match ip {
            IpAddr::V4(v4) => v4.is_private() || v4.is_link_local() || is_shared(v4),
            IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
        };
        let shares_network = || own_addresses(0).into_iter().any(|own| network(own.ip()) == network(ip));
        address.port() >= FIRST_USER_PORT && (is_local || (self.0.is_public)(ip) && shares_network())
    }

    fn is_anywhere(&self) -> bool {
        self.0.first.get().is_some_and(|first| first.iter().all(|address| !(self.0.is_public)(*address)))
    }

    fn permitted(&self, host: &str, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, PrivateAddress> {
        let is_asked = self.0.asked.as_ref().is_some_and(|asked| asked.eq_ignore_ascii_case(host));
        let first =
            if is_asked { Some(self.0.first.get_or_init(|| found.iter().map(SocketAddr::ip).collect())) } else { None };
        if self.is_anywhere() {
            return Ok(found);
        }
        let is_permitted = |address: &SocketAddr| {
            (self.0.is_public)(address.ip()) || first.is_some_and(|first| first.contains(&address.ip()))
        };
        let (permitted, refused): (Vec<_>, Vec<_>) = found.into_iter().partition(is_permitted);
        match refused.first() {
            Some(address) if permitted.is_empty() => {
                Err(PrivateAddress { host: host.to_owned(), address: address.ip().to_canonical() })
            }
            _ => Ok(permitted),
        }
    }
}

impl Default for Rule {
    fn default() -> Self {
        Self { asked: None, first: OnceLock::new(), lookup: system_lookup, is_public }
    }
}

impl Resolve for Reach {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = if is_proxy(name.as_str()) { Self::anywhere() } else { self.clone() };
        Box::pin(async move {
            let found = reach.addresses(name.as_str(), 0).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// A host without the brackets of an IPv6 address and the dot of a complete name.
fn bare(host: &str) -> String {
    host.trim_matches(['[', ']']).trim_end_matches('.').to_owned()
}

fn system_lookup(host: String) -> Pin<Box<dyn Future<Output = std::io::Result<Vec<SocketAddr>>> + Send>> {
    Box::pin(async move { Ok(tokio::net::lookup_host((host, 0)).await?.collect()) })
}

/// Whether the user's environment names this host as the proxy that connects to everything else.
fn is_proxy(host: &str) -> bool {
    let variables = ["http_proxy", "https_proxy", "all_proxy"];
    let values = variables.iter().flat_map(|name| [std::env::var(name), std::env::var(name.to_uppercase())]);
    let host_of = |value: &str| {
        let url = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
        Url::parse(&url).ok().and_then(|url| url.host_str().map(bare))
    };
    values.flatten().filter_map(|value| host_of(&value)).any(|proxy| proxy.eq_ignore_ascii_case(host))
}

/// Whether an address is on the internet (IANA's registries of special-purpose addresses). Documentation ranges count as such: nothing is there.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let is_special = v4.is_private() || v4.is_loopback() || v4.is_link_local() || is_shared(v4);
            // 0/8, 192.0.0/24, benchmarking, multicast and reserved.
            !(is_special || a == 0 || (a, b, c) == (192, 0, 0) || a == 198 && b & 0xfe == 18 || a >= 224)
        }
        IpAddr::V6(v6) => match embedded(v6) {
            Some(v4) => is_public(v4.into()),
            // Global unicast is 2000::/3.
            None => v6.segments()[0] & 0xe000 == 0x2000,
        },
    }
}

/// The IPv4 address that an IPv6 address leads to: NAT64 (RFC 6052) and 6to4 (RFC 3056).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match (a, b) {
        (0x64, 0xff9b) if (c, d, e, f) == (0, 0, 0, 0) => Some(v4(g, h)),
        (0x2002, _) => Some(v4(b, c)),
        _ => None,
    }
}

/// Addresses between a provider and its customers (RFC 6598): 100.64/10.
fn is_shared(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    a == 100 && b & 0xc0 == 64
}

/// The usual extent of one network: an IPv4 /24, an IPv6 /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => Ipv4Addr::from(v4.to_bits() & !0xff).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// Ports below are those of well-known services (RFC 6335 §6).
const FIRST_USER_PORT: u16 = 1024;

#[cfg(test)]
mod tests;
