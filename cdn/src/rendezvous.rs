//! What an admitted viewer is told: how to reach the stream here, who its broadcaster is, and a ticket that lets it in there.
//!
//! A broadcaster offers itself over its authenticated publish session; the offer lives as long as that session. The secret and the ticket
//! go to admitted viewers only; addresses only to those who come from the broadcaster's own network, as far as this server can
//! see: behind the same public address.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use media::Epoch;
use net::rtmp::{PeerAdvertisement, TicketIssuer};
use net::trust::{self, Pin, Signer};
use parking_lot::RwLock;

/// Who may be told what.
#[derive(Debug)]
pub struct PeerDirectory {
    signer: Signer,
    /// The relay of this server: its port and its certificate.
    relay: Option<(u16, Pin)>,
    registrations: RwLock<BTreeMap<String, Registration>>,
}

#[derive(Debug)]
struct Registration {
    session: u64,
    offer: PeerAdvertisement,
    /// Where this server sees its publisher.
    from: IpAddr,
}

/// What one viewer is told of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchInfo {
    /// The relay of this server.
    pub relay: Option<(u16, Pin)>,
    /// The broadcaster's.
    pub peer: Option<PeerInfo>,
}

/// How a broadcaster is found and lets a viewer in.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// Of its certificate.
    pub pin: Pin,
    /// What its names on the network are derived from.
    pub secret: [u8; 16],
    /// Where it listens, if the viewer seems to be where it is.
    pub addresses: Vec<SocketAddr>,
    /// Opens one connection to it, for [`trust::ticket::LIFETIME`] seconds.
    pub ticket: String,
    /// When the ticket is over, in seconds of Unix time.
    pub expires: u64,
}

/// Shows neither secret nor ticket.
impl std::fmt::Debug for PeerInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerInfo").field("pin", &self.pin).finish_non_exhaustive()
    }
}

impl PeerDirectory {
    /// Nobody has offered anything. Tickets are signed with a key of this run: a broadcaster is told it with each session.
    ///
    /// # Errors
    /// Where the system gives no random numbers.
    pub fn new(relay: Option<(u16, Pin)>) -> Result<Arc<Self>, trust::Error> {
        Ok(Arc::new(Self { signer: Signer::generate()?, relay, registrations: RwLock::default() }))
    }

    /// What the publisher of the stream called `name` must know to let viewers in.
    pub fn tickets(&self, name: &str) -> TicketIssuer {
        TicketIssuer { stream: name.to_owned(), key: self.signer.public_key() }
    }

    /// The publisher of `name`, in its `session`, offers itself; it is seen at `from`. What an earlier session offered is over.
    pub fn register(
        self: &Arc<Self>,
        name: &str,
        session: u64,
        offer: PeerAdvertisement,
        from: IpAddr,
    ) -> RegistrationGuard {
        self.registrations.write().insert(name.to_owned(), Registration { session, offer, from: from.to_canonical() });
        RegistrationGuard { peers: self.clone(), name: name.to_owned(), session }
    }

    /// What a viewer seen at `from` is told of the stream called `name`, whose broadcast is `epoch`. `None` for `from` where that is not
    /// known, as behind a proxy.
    pub fn watch_info(&self, name: &str, epoch: Option<Epoch>, from: Option<IpAddr>) -> WatchInfo {
        let registrations = self.registrations.read();
        let peer = registrations.get(name).zip(epoch).and_then(|(registration, epoch)| {
            let now = net::clock::unix_seconds();
            let ticket = self.signer.issue(name, epoch.0, now).ok()?;
            let is_same_network = from.is_some_and(|from| is_same_network(from, registration.from));
            Some(PeerInfo {
                pin: registration.offer.pin,
                secret: registration.offer.secret,
                addresses: if is_same_network { registration.offer.addresses.clone() } else { Vec::new() },
                ticket,
                expires: now + trust::ticket::LIFETIME,
            })
        });
        WatchInfo { relay: self.relay, peer }
    }
}

/// An offer, until this is dropped.
#[derive(Debug)]
pub struct RegistrationGuard {
    peers: Arc<PeerDirectory>,
    name: String,
    session: u64,
}

impl Drop for RegistrationGuard {
    fn drop(&mut self) {
        let mut registrations = self.peers.registrations.write();
        if registrations.get(&self.name).is_some_and(|registration| registration.session == self.session) {
            registrations.remove(&self.name);
        }
    }
}

/// Whether two addresses seem to be of one network: behind one public address, or, where this server is inside that network and sees
/// everybody's own, private ones (RFC 1918) of one /24.
fn is_same_network(a: IpAddr, b: IpAddr) -> bool {
    let own = |address: IpAddr| match address.to_canonical() {
        IpAddr::V4(v4) if v4.is_private() => Some(v4.to_bits() >> 8),
        _ => None,
    };
    client_prefix(a) == client_prefix(b) || own(a).is_some_and(|network| own(b) == Some(network))
}

/// What one network shows of itself: an IPv4 address, or an IPv6 /64.
fn client_prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(address: &str) -> PeerAdvertisement {
        PeerAdvertisement { pin: Pin::of(b"x"), secret: [1; 16], addresses: vec![address.parse().unwrap()] }
    }

    fn addresses(peers: &PeerDirectory, from: Option<&str>) -> Option<usize> {
        let from = from.map(|from| from.parse().unwrap());
        peers.watch_info("live", Some(Epoch(1)), from).peer.map(|peer| peer.addresses.len())
    }

    #[test]
    fn addresses_go_to_the_neighbours_only() {
        let peers = PeerDirectory::new(None).unwrap();
        assert_eq!(addresses(&peers, Some("203.0.113.7")), None);
        let _guard = peers.register("live", 1, offer("192.168.1.5:4444"), "::ffff:203.0.113.7".parse().unwrap());
        assert_eq!(addresses(&peers, Some("203.0.113.7")), Some(1));
        assert_eq!(addresses(&peers, Some("203.0.113.8")), Some(0));
        assert_eq!(addresses(&peers, None), Some(0));
        for (a, b, near) in [
            ("192.168.1.5", "192.168.1.77", true),
            ("192.168.1.5", "192.168.2.77", false),
            ("203.0.113.5", "203.0.113.77", false),
            ("192.168.1.5", "203.0.113.5", false),
        ] {
            assert_eq!(is_same_network(a.parse().unwrap(), b.parse().unwrap()), near, "{a} {b}");
        }
        assert_eq!(peers.watch_info("live", None, None).peer, None, "nothing is on air");
        assert_eq!(peers.watch_info("other", Some(Epoch(1)), None).peer, None);
        let _guard = peers.register("live", 2, offer("[fe80::5]:4444"), "2001:db8::1".parse().unwrap());
        assert_eq!(addresses(&peers, Some("2001:db8::2")), Some(1), "the same /64");
        assert_eq!(addresses(&peers, Some("2001:db8:0:1::2")), Some(0));
    }

    #[test]
    fn an_offer_goes_with_its_session_and_not_with_an_earlier_one() {
        let peers = PeerDirectory::new(None).unwrap();
        let from = "192.0.2.1".parse().unwrap();
        let first = peers.register("live", 1, offer("192.0.2.1:1"), from);
        let second = peers.register("live", 2, offer("192.0.2.1:2"), from);
        drop(first);
        assert_eq!(addresses(&peers, None), Some(0));
        drop(second);
        assert_eq!(addresses(&peers, None), None);
    }

    #[test]
    fn secrets_are_not_shown() {
        let peers = PeerDirectory::new(None).unwrap();
        let _guard = peers.register("live", 1, offer("192.0.2.1:1"), "192.0.2.1".parse().unwrap());
        let info = peers.watch_info("live", Some(Epoch(1)), None);
        let ticket = info.peer.as_ref().unwrap().ticket.clone();
        let shown = format!("{info:?} {peers:?}");
        assert!(!shown.contains(&ticket) && !shown.contains("1, 1, 1"), "{shown}");
    }
}
