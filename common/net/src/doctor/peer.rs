//! Checks the direct path to the broadcaster of a stream, at the addresses from the server and from multicast DNS.

use std::net::SocketAddr;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::machine::Networks;
use super::multicast::LanBroadcasters;
use super::probe::{self, PROBE_TIMEOUT, ProbeError, as_millis, millis};
use super::report::Check;
use super::role::Role;
use crate::api::PeerInfo;
use crate::clock;
use crate::discovery::NameMatcher;
use crate::rtmp::MAX_PEER_ADDRESSES;

/// Checks whether the broadcaster answers. `description` is the server's description of it; its ticket is not used.
pub(super) async fn check(
    description: Option<&PeerInfo>,
    lan_broadcasters: oneshot::Receiver<LanBroadcasters>,
    role: Role,
) -> Check {
    let parsed = description.and_then(|peer| Some((peer.pin()?, peer.secret()?, addresses_of(peer))));
    let Some((pin, secret, mut addresses)) = parsed else {
        let fix = match role {
            Role::Publisher => "none needed if OBS or ffmpeg publishes; else broadcast without --no-lan",
            Role::Subscriber => "none needed if OBS or ffmpeg publishes; else run the broadcaster without --no-lan",
        };
        return Check::warn("direct", "the publisher does not serve LAN viewers", fix);
    };
    let lan_broadcasters = timeout(PROBE_TIMEOUT, lan_broadcasters).await.ok().and_then(Result::ok).unwrap_or_default();
    let (wanted, now) = (NameMatcher::new(&secret), clock::unix_seconds());
    let heard: Vec<SocketAddr> =
        lan_broadcasters.into_iter().filter(|(name, _)| wanted.matches(name, now)).flat_map(|(_, all)| all).collect();
    for address in &heard {
        if !addresses.contains(address) && addresses.len() < 2 * MAX_PEER_ADDRESSES {
            addresses.push(*address);
        }
    }
    if addresses.is_empty() {
        return Check::warn(
            "direct",
            "the server reports no address of the broadcaster for this network, and mDNS does not find it",
            "none needed if it is on another network: the server delivers the stream; otherwise give its address: viewer --peer HOST:PORT",
        );
    }
    let networks = Networks::own();
    match probe::quic(&addresses, Some(pin)).await {
        Ok((address, round_trip)) => {
            let place = networks.describe(address.ip());
            let by = if heard.contains(&address) { "; also found by mDNS" } else { "" };
            let found = format!("{address} answers in {}, on {place}{by}", millis(round_trip));
            Check::ok("direct", found).with("round_trip_ms", as_millis(round_trip))
        }
        Err(trouble) => {
            let shown: Vec<String> = addresses.iter().take(MAX_SHOWN).map(ToString::to_string).collect();
            let near = addresses.iter().find(|address| networks.contain(address.ip()));
            let place = near.map_or("no network of this machine".to_owned(), |near| networks.describe(near.ip()));
            let found = format!("{} (on {place})", trouble.found(&shown.join(", ")));
            Check::warn("direct", found, fix(&trouble, near, addresses[0].port()))
        }
    }
}

/// Checks whether any relay answers at these addresses, without a pin.
pub(super) async fn anybody(addresses: &[SocketAddr]) -> Check {
    let shown: Vec<String> = addresses.iter().take(MAX_SHOWN).map(ToString::to_string).collect();
    match probe::quic(addresses, None).await {
        Ok((address, round_trip)) => {
            let place = Networks::own().describe(address.ip());
            let found = format!("{address} answers in {}, on {place}; not authenticated yet", millis(round_trip));
            Check::ok("direct", found).with("round_trip_ms", as_millis(round_trip))
        }
        Err(trouble) => {
            let port = addresses.first().map_or(0, SocketAddr::port);
            let fix = format!(
                "use the address and port that the broadcaster shows; open UDP {port} in its machine's firewall: sudo ufw allow {port}/udp; \
                 turn off client isolation in the access point"
            );
            Check::fail("direct", trouble.found(&shown.join(", ")), fix)
        }
    }
}

fn fix(trouble: &ProbeError, near: Option<&SocketAddr>, port: u16) -> String {
    match (trouble, near) {
        (ProbeError::WrongPin, _) => {
            "retry in a moment: the broadcaster was just restarted, or another program uses its port".to_owned()
        }
        (_, Some(_)) => format!(
            "open UDP {port} in the firewall of the broadcaster's machine: sudo ufw allow {port}/udp (broadcaster --lan-listen 0.0.0.0:{port} keeps \
             the port), and turn off client isolation in the access point; until then, the server delivers the stream"
        ),
        (_, None) => "join the broadcaster's network, or route to it; until then, the server delivers".to_owned(),
    }
}

fn addresses_of(peer: &PeerInfo) -> Vec<SocketAddr> {
    peer.addresses.iter().copied().take(MAX_PEER_ADDRESSES).collect()
}

/// Bounds the addresses in a line of output.
const MAX_SHOWN: usize = 3;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::report::Status;
    use super::*;

    #[tokio::test]
    async fn a_broadcaster_without_a_valid_pin_or_secret_is_not_asked() {
        let pin = "ab".repeat(32);
        let good = json!({ "pin": pin, "secret": "00".repeat(16), "ticket": "x" });
        let checked = async |peer: Option<PeerInfo>| {
            let (_, lan_broadcasters) = oneshot::channel();
            let check = check(peer.as_ref(), lan_broadcasters, Role::Subscriber).await;
            assert_eq!(check.status(), Status::Warn);
            format!("{check:?}")
        };
        let found = checked(Some(serde_json::from_value(good.clone()).unwrap())).await;
        assert!(found.contains("on another network"), "{found}");
        for (key, value) in [("secret", "0".to_owned()), ("secret", "zz".repeat(16)), ("pin", "x".to_owned())] {
            let mut bad = good.clone();
            bad[key] = value.into();
            let found = checked(Some(serde_json::from_value(bad).unwrap())).await;
            assert!(found.contains("does not serve LAN viewers"), "{found}");
        }
        assert!(checked(None).await.contains("does not serve LAN viewers"));
    }

    #[test]
    fn the_addresses_of_a_broadcaster_are_bounded() {
        let addresses: Vec<_> = (0..50).map(|n| format!("192.0.2.7:{}", 4000 + n)).collect();
        let peer = json!({ "pin": "", "secret": "", "addresses": addresses, "ticket": "" });
        assert_eq!(addresses_of(&serde_json::from_value(peer).unwrap()).len(), MAX_PEER_ADDRESSES);
    }
}
