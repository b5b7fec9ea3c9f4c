//! This host's own addresses, at which others on its networks may reach it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// `port` at each address of each interface that is up: IPv4 first, without loopback and link-local addresses, which are not valid elsewhere.
/// On a host without any other, the IPv4 loopback address.
pub fn own_addresses(port: u16) -> Vec<SocketAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let mut addresses: Vec<IpAddr> = interfaces.into_iter().map(|interface| interface.ip()).filter(is_shared).collect();
    addresses.sort();
    addresses.dedup();
    if addresses.is_empty() {
        addresses.push(Ipv4Addr::LOCALHOST.into());
    }
    addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect()
}

fn is_shared(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_others_can_reach_are_shared() {
        for (address, is) in [
            ("192.168.1.5", true),
            ("127.0.0.1", false),
            ("169.254.3.4", false),
            ("fe80::1", false),
            ("2001:db8::1", true),
            ("::1", false),
        ] {
            assert_eq!(is_shared(&address.parse().unwrap()), is, "{address}");
        }
        let own = own_addresses(4444);
        assert!(!own.is_empty() && own.iter().all(|address| address.port() == 4444));
    }
}
