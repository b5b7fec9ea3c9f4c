//! Validates the services that mdns-sd resolves. Pure.
//!
//! Only the form is checked (RFC 6763 §4.1, §6.4): a valid record is not authenticated. Invalid records are ignored, because any host on the
//! LAN can send them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use mdns_sd::{ResolvedService, ScopedIp};

use super::{SERVICE, name};

/// An instance as its current records describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceRecord {
    /// The first label of its full name.
    pub(super) instance: String,
    /// Addresses to try: 1 to [`MAX_ADDRESSES`], distinct, in the order of [`rank`].
    pub(super) addresses: Vec<SocketAddr>,
    /// `v` of its TXT record.
    pub(super) version: u8,
}

/// Why a record is invalid.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("its name is not a Nearcast instance name")]
    Name,
    #[error("its port is zero")]
    Port,
    #[error("its TXT record has no version from 0 to 255")]
    Version,
    #[error("it has no usable address")]
    Addresses,
}

/// Validates `resolved`. Loopback addresses count only if `loopback`.
///
/// mdns-sd resolves from its whole cache, over all interfaces and both families, so the result replaces earlier ones.
pub(super) fn read(resolved: &ResolvedService, loopback: bool) -> Result<ServiceRecord, Malformed> {
    let instance = instance_of(&resolved.fullname).ok_or(Malformed::Name)?;
    if resolved.port == 0 {
        return Err(Malformed::Port);
    }
    let version = resolved.get_property_val_str("v").and_then(version).ok_or(Malformed::Version)?;
    let mut addresses: Vec<SocketAddr> = resolved
        .addresses
        .iter()
        .filter_map(|scoped| {
            let scope = match scoped {
                ScopedIp::V6(v6) => v6.scope_id().index,
                _ => 0,
            };
            usable(scoped.to_ip_addr(), scope, resolved.port, loopback)
        })
        .collect();
    addresses.sort_unstable_by_key(|address| (rank(address.ip()), *address));
    addresses.dedup();
    addresses.truncate(MAX_ADDRESSES);
    if addresses.is_empty() {
        return Err(Malformed::Addresses);
    }
    Ok(ServiceRecord { instance: instance.to_owned(), addresses, version })
}

/// The instance name in a full name of [`SERVICE`], if it has the form of one.
pub(super) fn instance_of(fullname: &str) -> Option<&str> {
    let label = fullname.strip_suffix(SERVICE)?.strip_suffix('.')?;
    name::is_instance_name(label).then_some(label)
}

/// The full name of an instance (RFC 6763 §4.1). It needs no escapes: see [`name::is_instance_name`].
pub(super) fn fullname(instance: &str) -> String {
    format!("{instance}.{SERVICE}")
}

/// Parses decimal digits only: `u8`'s parser also accepts a sign.
fn version(text: &str) -> Option<u8> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The socket address, unless no host on the LAN can have it.
fn usable(ip: IpAddr, scope: u32, port: u16, loopback: bool) -> Option<SocketAddr> {
    if ip.is_unspecified() || ip.is_multicast() || (ip.is_loopback() && !loopback) {
        return None;
    }
    match ip {
        IpAddr::V4(v4) if v4.is_broadcast() => None,
        IpAddr::V4(_) => Some(SocketAddr::new(ip, port)),
        // An IPv4-mapped address, which would bypass the checks above.
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => None,
        IpAddr::V6(v6) if v6.is_unicast_link_local() => scoped(v6, scope, port),
        // A scope ID on any other address would prevent routing from choosing the interface.
        IpAddr::V6(_) => Some(SocketAddr::new(ip, port)),
    }
}

/// A link-local address is valid only with the interface on which it was received (RFC 4007 §6).
fn scoped(ip: Ipv6Addr, scope: u32, port: u16) -> Option<SocketAddr> {
    (scope != 0).then(|| SocketAddrV6::new(ip, port, 0, scope).into())
}

/// Link-local addresses sort last: the others survive a change of interface.
fn rank(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(v4) => u8::from(v4.is_link_local()),
        IpAddr::V6(v6) => u8::from(v6.is_unicast_link_local()),
    }
}

/// Bounds the addresses of an instance. A laptop has a few; hundreds are an attack that makes the viewer try them all.
pub(super) const MAX_ADDRESSES: usize = 16;

#[cfg(test)]
mod tests {
    use mdns_sd::ServiceInfo;

    use super::*;

    const NAME: &str = "abcdefghijklmn27";

    fn resolved(instance: &str, ips: &[&str], port: u16, txt: &[(&str, &str)]) -> ResolvedService {
        let ips: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        ServiceInfo::new(SERVICE, instance, "h.local.", &ips[..], port, txt).unwrap().as_resolved_service()
    }

    #[test]
    fn a_valid_record_is_accepted() {
        let seen =
            read(&resolved(NAME, &["192.0.2.7", "2001:db8::7", "169.254.3.4"], 4433, &[("v", "1")]), false).unwrap();
        assert_eq!((seen.instance.as_str(), seen.version), (NAME, 1));
        let expected = ["192.0.2.7:4433", "[2001:db8::7]:4433", "169.254.3.4:4433"];
        assert_eq!(seen.addresses, expected.map(|address| address.parse::<SocketAddr>().unwrap()));
    }

    #[test]
    fn malformed_records_are_rejected_with_the_reason() {
        let good = ["192.0.2.7"];
        let table = [
            (resolved("Living room", &good, 1, &[("v", "1")]), Malformed::Name),
            (resolved("a.b", &good, 1, &[("v", "1")]), Malformed::Name),
            (resolved(NAME, &good, 0, &[("v", "1")]), Malformed::Port),
            (resolved(NAME, &good, 1, &[]), Malformed::Version),
            (resolved(NAME, &good, 1, &[("v", "")]), Malformed::Version),
            (resolved(NAME, &good, 1, &[("v", "+1")]), Malformed::Version),
            (resolved(NAME, &good, 1, &[("v", "256")]), Malformed::Version),
            (resolved(NAME, &good, 1, &[("w", "1")]), Malformed::Version),
            (resolved(NAME, &["127.0.0.1", "0.0.0.0", "224.0.0.251"], 1, &[("v", "1")]), Malformed::Addresses),
        ];
        for (record, why) in table {
            assert_eq!(read(&record, false), Err(why), "{record:?}");
        }
    }

    #[test]
    fn unusable_addresses_are_left_out() {
        let table = [
            ("192.0.2.7", 0, Some("192.0.2.7:9")),
            ("255.255.255.255", 0, None),
            ("0.0.0.0", 0, None),
            ("ff02::fb", 2, None),
            ("::", 0, None),
            ("::ffff:192.0.2.7", 0, None),
            ("::ffff:127.0.0.1", 0, None),
            ("fe80::1", 0, None),
            ("fe80::1", 3, Some("[fe80::1%3]:9")),
            ("fd00::1", 3, Some("[fd00::1]:9")),
        ];
        for (ip, scope, expected) in table {
            let found = usable(ip.parse().unwrap(), scope, 9, false).map(|address| address.to_string());
            assert_eq!(found.as_deref(), expected, "{ip}%{scope}");
        }
        for ip in ["127.0.0.1", "::1"] {
            assert!(usable(ip.parse().unwrap(), 1, 9, false).is_none());
            assert!(usable(ip.parse().unwrap(), 1, 9, true).is_some());
        }
    }

    #[test]
    fn addresses_are_bounded() {
        let many: Vec<String> = (0..100).map(|host| format!("192.0.2.{host}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let seen = read(&resolved(NAME, &many, 1, &[("v", "1")]), false).unwrap();
        assert_eq!(seen.addresses.len(), MAX_ADDRESSES);
    }

    #[test]
    fn full_names_round_trip() {
        assert_eq!(instance_of(&fullname(NAME)), Some(NAME));
        for other in ["", SERVICE, "abcdefghijklmn27._http._tcp.local.", "x.abcdefghijklmn27._nearcast._udp.local."] {
            assert_eq!(instance_of(other), None, "{other}");
        }
    }
}
