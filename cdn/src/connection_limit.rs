//! How many connections there may be, in all and from one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

/// Counts the connections of one door.
#[derive(Debug)]
pub struct ConnectionLimiter {
    total: usize,
    per_address: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
    refused: u64,
}

/// Why a connection is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejected {
    /// The server is full.
    #[error("there are {limit} connections already")]
    Total {
        /// The bound.
        limit: usize,
    },
    /// The peer has enough.
    #[error("there are {limit} connections from this address already")]
    Address {
        /// The bound.
        limit: usize,
    },
}

impl ConnectionLimiter {
    /// At most `total` connections, `per_address` of them from one address; loopback, where proxies are, counts only in all.
    pub fn new(total: usize, per_address: usize) -> Arc<Self> {
        Arc::new(Self { total, per_address, taken: Mutex::default() })
    }

    /// Lets a connection in until the seat is dropped.
    pub fn enter(self: &Arc<Self>, peer: IpAddr) -> Result<ConnectionPermit, Rejected> {
        let peer = site(peer);
        let mut taken = self.taken.lock();
        let of_address = taken.by_address.get(&peer).copied().unwrap_or(0);
        let refusal = if taken.total >= self.total {
            Some(Rejected::Total { limit: self.total })
        } else if !peer.is_loopback() && of_address >= self.per_address {
            Some(Rejected::Address { limit: self.per_address })
        } else {
            None
        };
        if let Some(refusal) = refusal {
            taken.refused += 1;
            return Err(refusal);
        }
        taken.by_address.insert(peer, of_address + 1);
        taken.total += 1;
        Ok(ConnectionPermit { admission: self.clone(), peer })
    }

    /// Connections now.
    pub fn count(&self) -> usize {
        self.taken.lock().total
    }

    /// Connections that were refused.
    pub fn refused(&self) -> u64 {
        self.taken.lock().refused
    }
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    admission: Arc<ConnectionLimiter>,
    peer: IpAddr,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut taken = self.admission.taken.lock();
        taken.total -= 1;
        if let Some(count) = taken.by_address.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                taken.by_address.remove(&self.peer);
            }
        }
    }
}

/// Who counts as one peer: an IPv4 address, mapped ones included, or an IPv6 /64, which is what one customer gets.
fn site(peer: IpAddr) -> IpAddr {
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
    fn seats_are_counted_and_given_back() {
        let admission = ConnectionLimiter::new(3, 2);
        let enter = |peer: &str| admission.enter(peer.parse().unwrap());
        let first = enter("192.0.2.1").unwrap();
        let _second = enter("::ffff:192.0.2.1").unwrap();
        assert_eq!(enter("192.0.2.1").unwrap_err(), Rejected::Address { limit: 2 });
        let _third = enter("2001:db8::1").unwrap();
        assert_eq!(enter("198.51.100.1").unwrap_err(), Rejected::Total { limit: 3 });
        drop(first);
        assert_eq!((admission.count(), admission.refused()), (2, 2));
        let _fourth = enter("2001:db8::ffff").unwrap();
        assert_eq!(admission.taken.lock().by_address.len(), 2);
    }

    #[test]
    fn loopback_counts_only_in_all() {
        let admission = ConnectionLimiter::new(3, 1);
        let _seats: Vec<_> =
            ["127.0.0.1", "127.0.0.1", "::1"].map(|p| admission.enter(p.parse().unwrap()).unwrap()).into();
        assert!(admission.enter("127.0.0.1".parse().unwrap()).is_err());
    }
}
