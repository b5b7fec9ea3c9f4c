//! Estimates the number of HLS viewers. HLS has no sessions, so clients with a recent media request count.
//!
//! Viewers behind one address with the same browser count as one, those behind a caching proxy as the proxy.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Clients with a recent request, and its time. Holds opaque hashes, never addresses.
#[derive(Debug, Default)]
pub(super) struct RecentClients(Mutex<HashMap<u64, Instant>>);

impl RecentClients {
    /// Records a request of `client`. Returns true if the client is new and was added.
    pub(super) fn on_request(&self, client: u64, now: Instant) -> bool {
        let mut seen = self.0.lock();
        if let Some(last) = seen.get_mut(&client) {
            *last = now;
            return false;
        }
        if seen.len() >= MAX_CLIENTS {
            return false;
        }
        seen.insert(client, now);
        true
    }

    /// Number of clients with a request within [`EXPIRY`]; removes the others.
    pub(super) fn count(&self, now: Instant) -> usize {
        let mut seen = self.0.lock();
        seen.retain(|_, last| now.saturating_duration_since(*last) < EXPIRY);
        seen.len()
    }
}

/// A player sends a request at least once per target duration: this is three target durations of four seconds.
const EXPIRY: Duration = Duration::from_secs(12);

/// Bounds memory against clients that change their identity: 24 bytes each.
const MAX_CLIENTS: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_recent_distinct_clients() {
        let (clients, start) = (RecentClients::default(), Instant::now());
        assert!(clients.on_request(1, start));
        assert!(!clients.on_request(1, start));
        assert!(clients.on_request(2, start + EXPIRY / 2));
        assert_eq!(clients.count(start + EXPIRY / 2), 2);
        assert_eq!(clients.count(start + EXPIRY), 1);
        assert_eq!(clients.count(start + EXPIRY * 2), 0);
    }

    #[test]
    fn is_bounded() {
        let (clients, now) = (RecentClients::default(), Instant::now());
        for client in 0..MAX_CLIENTS as u64 + 10 {
            clients.on_request(client, now);
        }
        assert_eq!(clients.count(now), MAX_CLIENTS);
    }
}
