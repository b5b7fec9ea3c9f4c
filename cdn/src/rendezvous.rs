//! Connects viewers to broadcasters: gives a viewer the address of this server's relay and of the broadcaster's peer server, with a ticket for
//! the latter.
//!
//! A broadcaster registers over its authenticated publish session; the registration lasts as long as the session. Only admitted viewers get the
//! secret and the ticket. Only viewers on the broadcaster's network, as far as this server can tell (the same public address), get its
//! addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use data_encoding::HEXLOWER;
use media::Epoch;
use net::api::PeerInfo;
use net::connection_limit::client_prefix;
use net::rtmp::{PeerAdvertisement, TicketIssuer};
use net::trust::{self, Pin, Signer};
use parking_lot::{Mutex, RwLock};

/// The relay of this server, and the registered broadcasters by stream.
#[derive(Debug)]
pub struct PeerDirectory {
    signer: Signer,
    /// UDP port and certificate pin of this server's relay.
    relay: Option<(u16, Pin)>,
    registrations: RwLock<BTreeMap<String, Registration>>,
    rations: Mutex<TicketRations>,
}

#[derive(Debug)]
struct Registration {
    session: u64,
    offer: PeerAdvertisement,
    /// The publisher's address as seen by this server.
    from: IpAddr,
}

/// The sources of one stream that one viewer may use besides RTMP and HLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchInfo {
    /// UDP port and certificate pin of this server's relay.
    pub relay: Option<(u16, Pin)>,
    /// The broadcaster's peer server, with a ticket valid for [`trust::ticket::LIFETIME`] seconds.
    pub peer: Option<PeerInfo>,
}

impl PeerDirectory {
    /// Creates a directory without broadcasters. Tickets are signed with a key generated here, whose public key each broadcaster receives when it
    /// publishes.
    ///
    /// # Errors
    /// If the system provides no random numbers.
    pub fn new(relay: Option<(u16, Pin)>) -> Result<Arc<Self>, trust::Error> {
        Ok(Arc::new(Self {
            signer: Signer::generate()?,
            relay,
            registrations: RwLock::default(),
            rations: Mutex::default(),
        }))
    }

    /// The public key and stream name by which the publisher of the stream `name` verifies tickets.
    pub fn tickets(&self, name: &str) -> TicketIssuer {
        TicketIssuer { stream: name.to_owned(), key: self.signer.public_key() }
    }

    /// Registers the peer server of the publisher of `name`, whose address is `from`, until the guard is dropped. Replaces the registration of an
    /// earlier `session`.
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

    /// The sources of the stream `name` for a viewer at `from`; `None` if its address is unknown, as behind a proxy. `epoch` is the current
    /// broadcast; without it there is no peer. There is none either once `from` has had its ration of tickets.
    pub fn watch_info(&self, name: &str, epoch: Option<Epoch>, from: Option<IpAddr>) -> WatchInfo {
        let registrations = self.registrations.read();
        let peer = registrations.get(name).zip(epoch).and_then(|(registration, epoch)| {
            if !self.rations.lock().take(from, Instant::now()) {
                tracing::debug!(stream = name, "no ticket: the ration of the address is used up");
                return None;
            }
            let now = net::clock::unix_seconds();
            let ticket = self.signer.issue(name, epoch.0, now).ok()?;
            let is_same_network = from.is_some_and(|from| is_same_network(from, registration.from));
            Some(PeerInfo {
                pin: registration.offer.pin.to_string(),
                secret: HEXLOWER.encode(&registration.offer.secret),
                addresses: if is_same_network { registration.offer.addresses.clone() } else { Vec::new() },
                ticket,
                expires: now + trust::ticket::LIFETIME,
            })
        });
        WatchInfo { relay: self.relay, peer }
    }
}

/// Removes a registration when it is dropped, unless a later session has replaced it.
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

/// The tickets that each address may still have, by IPv4 address or IPv6 /64. Without a bound, one viewer could take so many that a broadcaster's
/// memory of used tickets is full, and nobody else is admitted.
#[derive(Debug, Default)]
struct TicketRations {
    /// Tickets left, and when they were counted. An address that is not here has a full ration.
    left: BTreeMap<Option<IpAddr>, (f64, Instant)>,
}

impl TicketRations {
    /// Takes one of the tickets of the address, if it has one left.
    fn take(&mut self, from: Option<IpAddr>, now: Instant) -> bool {
        let refilled = |(left, since): (f64, Instant)| {
            (left + now.saturating_duration_since(since).as_secs_f64() * RATION_PER_SECOND).min(RATION)
        };
        let mut prefix = from.map(client_prefix);
        if self.left.len() >= MAX_RATIONS && !self.left.contains_key(&prefix) {
            self.left.retain(|_, ration| refilled(*ration) < RATION);
            // Addresses beyond the table share the ration of those that are unknown.
            prefix = prefix.filter(|_| self.left.len() < MAX_RATIONS);
        }
        let ration = self.left.entry(prefix).or_insert((RATION, now));
        let left = refilled(*ration);
        let is_granted = left >= 1.0;
        *ration = (if is_granted { left - 1.0 } else { left }, now);
        is_granted
    }
}

/// Tickets that one address may have at once: for all viewers of a large house behind one address, when they return together. Far below what
/// fills a broadcaster's memory of used tickets.
const RATION: f64 = 512.0;
/// Tickets that an address gets back per second: [`RATION`] within the life of a ticket.
const RATION_PER_SECOND: f64 = RATION / trust::ticket::LIFETIME as f64;
/// Maximum number of addresses that have rations of their own.
const MAX_RATIONS: usize = 4096;

/// Whether two addresses seem to belong to one network: the same public address, or, if this server is inside the network, private addresses
/// (RFC 1918) of one /24.
fn is_same_network(a: IpAddr, b: IpAddr) -> bool {
    let own = |address: IpAddr| match address.to_canonical() {
        IpAddr::V4(v4) if v4.is_private() => Some(v4.to_bits() >> 8),
        _ => None,
    };
    client_prefix(a) == client_prefix(b) || own(a).is_some_and(|network| own(b) == Some(network))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn offer(address: &str) -> PeerAdvertisement {
        PeerAdvertisement { pin: Pin::of(b"x"), secret: [1; 16], addresses: vec![address.parse().unwrap()] }
    }

    fn addresses(peers: &PeerDirectory, from: Option<&str>) -> Option<usize> {
        let from = from.map(|from| from.parse().unwrap());
        peers.watch_info("live", Some(Epoch(1)), from).peer.map(|peer| peer.addresses.len())
    }

    #[test]
    fn addresses_go_only_to_viewers_on_the_same_network() {
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
        assert_eq!(peers.watch_info("live", None, None).peer, None, "the stream is not live");
        assert_eq!(peers.watch_info("other", Some(Epoch(1)), None).peer, None);
        let _guard = peers.register("live", 2, offer("[fe80::5]:4444"), "2001:db8::1".parse().unwrap());
        assert_eq!(addresses(&peers, Some("2001:db8::2")), Some(1), "the same /64");
        assert_eq!(addresses(&peers, Some("2001:db8:0:1::2")), Some(0));
    }

    #[test]
    fn tickets_are_rationed_by_address() {
        let (mut rations, start) = (TicketRations::default(), Instant::now());
        let ip = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        let mut count =
            |from: Option<IpAddr>, now| (0..RATION as usize * 2).filter(|_| rations.take(from, now)).count();
        assert_eq!(count(ip("192.0.2.1"), start), RATION as usize);
        assert_eq!(count(ip("::ffff:192.0.2.1"), start), 0);
        assert_eq!(count(ip("2001:db8::1"), start), RATION as usize);
        assert_eq!((count(ip("2001:db8::2"), start), count(ip("192.0.2.2"), start)), (0, RATION as usize));
        assert_eq!(count(None, start), RATION as usize, "those behind an unknown proxy, together");
        let half = start + Duration::from_secs(trust::ticket::LIFETIME / 2);
        assert_eq!(count(ip("192.0.2.1"), half), RATION as usize / 2);
        // Full rations are forgotten when there are too many addresses; used ones are not.
        let mut rations = TicketRations::default();
        for n in 0..MAX_RATIONS as u32 * 2 {
            assert!(
                rations.take(Some(IpAddr::from(n.to_be_bytes())), start) || n as usize >= MAX_RATIONS + RATION as usize
            );
        }
        assert!(rations.left.len() <= MAX_RATIONS + 1);
        assert!(rations.take(Some(IpAddr::from([255; 4])), start + Duration::from_secs(1)));
        assert_eq!(rations.left.len(), 2, "the new one, and those beyond the table together");
    }

    #[test]
    fn a_viewer_without_a_ticket_gets_the_relay_only() {
        let peers = PeerDirectory::new(Some((1, Pin::of(b"relay")))).unwrap();
        let _guard = peers.register("live", 1, offer("192.0.2.1:1"), "192.0.2.1".parse().unwrap());
        let ask = || peers.watch_info("live", Some(Epoch(1)), Some("192.0.2.9".parse().unwrap()));
        let infos: Vec<_> = (0..RATION as usize * 2).map(|_| ask()).collect();
        assert!(infos[0].peer.is_some() && infos.last().unwrap().peer.is_none());
        assert!(infos.iter().all(|info| info.relay.is_some()));
    }

    #[test]
    fn a_registration_ends_with_its_session_and_not_with_an_earlier_one() {
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
        assert!(!shown.contains(&ticket) && !shown.contains("1, 1, 1") && !shown.contains("010101"), "{shown}");
    }
}
