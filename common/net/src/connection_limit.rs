//! Limits a listener's connections, in total and per client; for RTMP, HTTP and the relay protocol, of a server and of a broadcaster.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

/// Counts and limits the connections of one listener.
#[derive(Debug)]
pub struct ConnectionLimiter {
    taken: Mutex<Taken>,
}

#[derive(Debug)]
struct Taken {
    limits: Limits,
    total: usize,
    by_client: HashMap<IpAddr, usize>,
    accepted: u64,
    rejected: u64,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    total: usize,
    per_ipv4: usize,
    per_ipv6_prefix: usize,
}

/// Why a connection is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejected {
    /// The listener has reached its limit.
    #[error("the limit of {limit} connections is reached")]
    Total {
        /// How many that is.
        limit: usize,
    },
    /// The peer's IPv4 address or IPv6 /64 has reached its limit.
    #[error("the limit of {limit} connections per address is reached")]
    Address {
        /// How many that is.
        limit: usize,
    },
}

impl ConnectionLimiter {
    /// Allows `total` connections at once, `per_address` of them from one IPv4 address or IPv6 /64. Loopback is exempt from the latter, because
    /// local proxies connect from it.
    pub fn new(total: usize, per_address: usize) -> Arc<Self> {
        Self::with_ipv6_limit(total, per_address, per_address)
    }

    /// The same, with a limit of its own for the connections from one IPv6 /64: on a local network, that is everybody.
    pub fn with_ipv6_limit(total: usize, per_ipv4: usize, per_ipv6_prefix: usize) -> Arc<Self> {
        let limits = Limits { total, per_ipv4, per_ipv6_prefix };
        Arc::new(Self {
            taken: Mutex::new(Taken { limits, total: 0, by_client: HashMap::new(), accepted: 0, rejected: 0 }),
        })
    }

    /// Changes the limits, as [`new`](Self::new) sets them. Open connections stay, also if they are more than the new limits.
    pub fn set_limits(&self, total: usize, per_address: usize) {
        self.taken.lock().limits = Limits { total, per_ipv4: per_address, per_ipv6_prefix: per_address };
    }

    /// Admits a connection until the permit is dropped.
    ///
    /// # Errors
    /// [`Rejected`] if a limit is reached; the rejection is counted.
    pub fn try_acquire(self: &Arc<Self>, peer: IpAddr) -> Result<ConnectionPermit, Rejected> {
        let peer = client_prefix(peer);
        let mut taken = self.taken.lock();
        let limits = taken.limits;
        let limit = if peer.is_ipv4() { limits.per_ipv4 } else { limits.per_ipv6_prefix };
        let of_client = taken.by_client.get(&peer).copied().unwrap_or(0);
        let rejected = if taken.total >= limits.total {
            Some(Rejected::Total { limit: limits.total })
        } else if !peer.is_loopback() && of_client >= limit {
            Some(Rejected::Address { limit })
        } else {
            None
        };
        if let Some(rejected) = rejected {
            taken.rejected += 1;
            return Err(rejected);
        }
        taken.by_client.insert(peer, of_client + 1);
        taken.total += 1;
        taken.accepted += 1;
        Ok(ConnectionPermit { limiter: self.clone(), peer })
    }

    /// The limit of all connections together.
    pub fn total(&self) -> usize {
        self.taken.lock().limits.total
    }

    /// Number of open connections.
    pub fn count(&self) -> usize {
        self.taken.lock().total
    }

    /// Number of connections accepted since the start.
    pub fn accepted(&self) -> u64 {
        self.taken.lock().accepted
    }

    /// Number of connections rejected since the start.
    pub fn rejected(&self) -> u64 {
        self.taken.lock().rejected
    }
}

/// One connection's share of the limits, released on drop.
#[derive(Debug)]
pub struct ConnectionPermit {
    limiter: Arc<ConnectionLimiter>,
    peer: IpAddr,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut taken = self.limiter.taken.lock();
        taken.total -= 1;
        if let Some(count) = taken.by_client.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                taken.by_client.remove(&self.peer);
            }
        }
    }
}

/// The address prefix that counts as one client: an IPv4 address, also if mapped to IPv6, or the IPv6 /64 that a provider assigns to one
/// customer. Loopback addresses are unchanged.
pub fn client_prefix(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_counted_and_released() {
        let limiter = ConnectionLimiter::new(3, 2);
        let try_acquire = |peer: &str| limiter.try_acquire(peer.parse().unwrap());
        let first = try_acquire("192.0.2.1").unwrap();
        let _second = try_acquire("::ffff:192.0.2.1").unwrap();
        assert_eq!(try_acquire("192.0.2.1").unwrap_err(), Rejected::Address { limit: 2 });
        let _third = try_acquire("2001:db8::1").unwrap();
        assert_eq!(try_acquire("198.51.100.1").unwrap_err(), Rejected::Total { limit: 3 });
        drop(first);
        assert_eq!((limiter.count(), limiter.accepted(), limiter.rejected()), (2, 3, 2));
        let _fourth = try_acquire("2001:db8::ffff").unwrap();
        assert_eq!(limiter.taken.lock().by_client.len(), 2);
        assert_eq!(try_acquire("2001:db8::2").map(drop), Err(Rejected::Total { limit: 3 }));
    }

    #[test]
    fn limits_change_while_connections_stay() {
        let limiter = ConnectionLimiter::new(2, 2);
        let peer = "192.0.2.1".parse().unwrap();
        let permits = [limiter.try_acquire(peer).unwrap(), limiter.try_acquire(peer).unwrap()];
        limiter.set_limits(3, 1);
        assert_eq!(limiter.count(), 2);
        assert_eq!(limiter.try_acquire(peer).unwrap_err(), Rejected::Address { limit: 1 });
        let _other = limiter.try_acquire("192.0.2.2".parse().unwrap()).unwrap();
        drop(permits);
        assert!(limiter.try_acquire(peer).is_ok());
    }

    #[test]
    fn loopback_has_no_limit_of_its_own() {
        let limiter = ConnectionLimiter::new(3, 1);
        let _permits: Vec<_> =
            ["127.0.0.1", "127.0.0.1", "::1"].map(|p| limiter.try_acquire(p.parse().unwrap()).unwrap()).into();
        assert!(limiter.try_acquire("127.0.0.1".parse().unwrap()).is_err());
    }

    #[test]
    fn a_local_network_of_ipv6_has_a_limit_of_its_own() {
        let limiter = ConnectionLimiter::with_ipv6_limit(9, 1, 3);
        let try_acquire = |peer: &str| limiter.try_acquire(peer.parse().unwrap());
        let _permits: Vec<_> = ["fe80::1", "fe80::2", "fe80::3", "192.0.2.1"].map(|p| try_acquire(p).unwrap()).into();
        assert_eq!(try_acquire("fe80::4").unwrap_err(), Rejected::Address { limit: 3 });
        assert_eq!(try_acquire("::ffff:192.0.2.1").unwrap_err(), Rejected::Address { limit: 1 });
    }
}
