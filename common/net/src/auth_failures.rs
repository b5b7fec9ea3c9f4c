//! Failures of clients to authenticate, counted by address: what the log says of them, and which addresses fail too often.
//!
//! Pure: the caller passes the time and logs the reports. An address gets one report at its first failure, one when it reaches the limit,
//! and one with the total when its interval is over, however often it fails. Valid credentials are accepted from any address: the limit bounds
//! what failures cost, so that nobody locks out a client with whom they share an address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::connection_limit::client_prefix;

/// The failures of the current intervals. An IPv4 address or IPv6 /64 counts as one address.
#[derive(Debug, Default)]
pub struct AuthFailures(Mutex<Recent>);

#[derive(Debug, Default)]
struct Recent {
    by_prefix: HashMap<IpAddr, Count>,
    /// Failures of addresses that the table has no room for, together.
    others: Option<Count>,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    since: Instant,
    /// The address that failed last.
    address: IpAddr,
    failures: u64,
    reported: u64,
}

/// What is to be logged of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureReport {
    /// The address that failed last, or one for all that the table has no room for: see [`is_of_many`](Self::is_of_many).
    pub address: IpAddr,
    /// Whether the failures are those of many addresses.
    pub is_of_many: bool,
    /// Failures since the first one of the interval.
    pub failures: u64,
    /// Time since then.
    pub within: Duration,
}

impl AuthFailures {
    /// Whether `address` has reached [`LIMIT`] in this interval. Never for loopback, since local proxies connect from it.
    pub fn is_limited(&self, address: IpAddr) -> bool {
        let prefix = client_prefix(address);
        if prefix.is_loopback() {
            return false;
        }
        let recent = self.0.lock();
        let is_full = recent.by_prefix.len() >= MAX_ADDRESSES;
        let count = recent.by_prefix.get(&prefix).or(recent.others.as_ref().filter(|_| is_full));
        count.is_some_and(|count| count.failures >= LIMIT)
    }

    /// Counts a failure of `address`. Returns the report to log now, if one is due.
    pub fn on_failure(&self, address: IpAddr, now: Instant) -> Option<FailureReport> {
        let (address, prefix) = (address.to_canonical(), client_prefix(address));
        let mut recent = self.0.lock();
        let is_of_many = recent.by_prefix.len() >= MAX_ADDRESSES && !recent.by_prefix.contains_key(&prefix);
        let new = Count { since: now, address, failures: 0, reported: 0 };
        let count = match is_of_many {
            true => recent.others.get_or_insert(new),
            false => recent.by_prefix.entry(prefix).or_insert(new),
        };
        count.address = address;
        count.failures += 1;
        let is_due = count.failures == 1 || count.failures == LIMIT;
        is_due.then(|| count.report(is_of_many, now))
    }

    /// Forgets the counts whose interval is over at `now`. Returns reports of the failures that none has stated.
    pub fn expire(&self, now: Instant) -> Vec<FailureReport> {
        self.forget(now, |count| now.saturating_duration_since(count.since) >= INTERVAL)
    }

    /// Forgets all counts, at the end of the program. Returns reports of the failures that none has stated.
    pub fn finish(&self, now: Instant) -> Vec<FailureReport> {
        self.forget(now, |_| true)
    }

    fn forget(&self, now: Instant, is_over: impl Fn(&Count) -> bool) -> Vec<FailureReport> {
        let mut recent = self.0.lock();
        let mut over: Vec<_> =
            recent.by_prefix.extract_if(|_, count| is_over(count)).map(|(_, c)| (c, false)).collect();
        over.extend(recent.others.take_if(|count| is_over(count)).map(|count| (count, true)));
        let unstated = over.iter_mut().filter(|(count, _)| count.failures > count.reported);
        unstated.map(|(count, is_of_many)| count.report(*is_of_many, now)).collect()
    }
}

impl Count {
    fn report(&mut self, is_of_many: bool, now: Instant) -> FailureReport {
        self.reported = self.failures;
        let Self { since, address, failures, .. } = *self;
        FailureReport { address, is_of_many, failures, within: now.saturating_duration_since(since) }
    }
}

/// Failures of one address per [`INTERVAL`], after which it costs no more than a lookup. A person who mistypes a key fails a few times.
pub const LIMIT: u64 = 10;
/// The period that is counted and reported together.
pub const INTERVAL: Duration = Duration::from_secs(60);
/// Maximum number of addresses that are counted one by one; bounds the memory, and the lines of the log per interval.
const MAX_ADDRESSES: usize = 1024;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The failures that each report states.
    fn stated(reports: &[FailureReport]) -> Vec<(IpAddr, u64)> {
        reports.iter().map(|report| (report.address, report.failures)).collect()
    }

    #[test]
    fn an_address_that_fails_without_end_gets_three_reports_per_interval() {
        let (failures, start) = (AuthFailures::default(), Instant::now());
        let address = ip("192.0.2.1");
        let at = |second| start + Duration::from_secs(second);
        let now: Vec<FailureReport> = (0..5000).filter_map(|n| failures.on_failure(address, at(n / 100))).collect();
        assert_eq!(stated(&now), [(address, 1), (address, LIMIT)]);
        assert_eq!(failures.expire(at(59)), []);
        let total = FailureReport { address, is_of_many: false, failures: 5000, within: INTERVAL };
        assert_eq!(failures.expire(at(60)), [total]);
        assert_eq!(failures.expire(at(120)), [], "it is reported once");
        assert_eq!(failures.on_failure(address, at(121)).map(|report| report.failures), Some(1));
    }

    #[test]
    fn what_was_reported_is_not_repeated() {
        let (failures, start) = (AuthFailures::default(), Instant::now());
        failures.on_failure(ip("192.0.2.1"), start);
        for _ in 0..2 {
            failures.on_failure(ip("192.0.2.2"), start);
        }
        assert_eq!(stated(&failures.expire(start + INTERVAL)), [(ip("192.0.2.2"), 2)]);
    }

    #[test]
    fn what_was_not_reported_is_stated_at_the_end() {
        let (failures, start) = (AuthFailures::default(), Instant::now());
        failures.on_failure(ip("192.0.2.1"), start);
        for _ in 0..5 {
            failures.on_failure(ip("192.0.2.2"), start);
        }
        assert_eq!(failures.expire(start), []);
        assert_eq!(stated(&failures.finish(start)), [(ip("192.0.2.2"), 5)]);
        assert_eq!(failures.finish(start), []);
    }

    #[test]
    fn the_limit_is_of_an_address_or_an_ipv6_network() {
        let (failures, now) = (AuthFailures::default(), Instant::now());
        let network = |n: u64| ip(&format!("2001:db8::{n:x}"));
        for n in 1..LIMIT {
            failures.on_failure(network(n), now);
            failures.on_failure(ip("::ffff:192.0.2.1"), now);
            failures.on_failure(ip("127.0.0.1"), now);
        }
        assert!(!failures.is_limited(network(99)) && !failures.is_limited(ip("192.0.2.1")));
        let last = failures.on_failure(network(0x55), now);
        assert_eq!(last.map(|report| report.address), Some(network(0x55)), "the report names the address that failed");
        failures.on_failure(ip("192.0.2.1"), now);
        failures.on_failure(ip("127.0.0.1"), now);
        assert!(failures.is_limited(network(99)) && failures.is_limited(ip("192.0.2.1")));
        assert!(!failures.is_limited(ip("2001:db8:0:1::1")) && !failures.is_limited(ip("192.0.2.2")));
        assert!(!failures.is_limited(ip("127.0.0.1")), "it may be a proxy");
        failures.expire(now + INTERVAL);
        assert!(!failures.is_limited(network(99)));
    }

    #[test]
    fn addresses_beyond_the_table_are_counted_together() {
        let (failures, now) = (AuthFailures::default(), Instant::now());
        let address = |n: usize| IpAddr::from(Ipv4Addr::from(0x0a00_0000 + n as u32));
        let reports: Vec<_> = (0..MAX_ADDRESSES * 3).filter_map(|n| failures.on_failure(address(n), now)).collect();
        assert_eq!(reports.len(), MAX_ADDRESSES + 2, "the first of each, and the first and tenth of the others");
        assert_eq!(failures.0.lock().by_prefix.len(), MAX_ADDRESSES);
        assert!(failures.is_limited(address(MAX_ADDRESSES * 9)) && !failures.is_limited(address(0)));
        let rest = failures.expire(now + INTERVAL);
        let counts: Vec<_> = rest.iter().map(|report| (report.is_of_many, report.failures)).collect();
        assert_eq!(counts, [(true, 2 * MAX_ADDRESSES as u64)]);
    }
}
