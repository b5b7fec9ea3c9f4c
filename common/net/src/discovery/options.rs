//! Options of discovery: interfaces, clock, and which broadcasts a viewer looks for.

use std::fmt;
use std::sync::Arc;

use super::NameMatcher;

/// The interfaces on which mDNS runs. Later changes are followed (RFC 6762 §14).
///
/// Point-to-point links, interfaces that are down and Apple's peer-to-peer interfaces are never used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interfaces {
    /// All interfaces that mDNS can use.
    #[default]
    All,
    /// The interfaces with these names, such as `eth0`; none if they do not exist.
    Named(Vec<String>),
}

/// Options of an [`Announcer`](super::Announcer).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct AnnouncerOptions {
    /// The interfaces to use.
    pub interfaces: Interfaces,
    /// Whether to use the loopback interface, for tests: no other host can use `127.0.0.1`.
    pub loopback: bool,
    /// The clock that decides the time slot.
    pub clock: Clock,
}

/// Options of a [`Browser`](super::Browser).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BrowserOptions {
    /// The interfaces to use.
    pub interfaces: Interfaces,
    /// Whether to use the loopback interface and loopback addresses, for tests.
    pub loopback: bool,
    /// The clock that decides the time slots for [`matchers`](Self::matchers).
    pub clock: Clock,
    /// The broadcasts to look for; others are ignored. Empty means every instance.
    ///
    /// A viewer should set it: a flood of instances then cannot displace the right one from the bounded cache, because matching names cannot
    /// be forged without the secret.
    pub matchers: Vec<NameMatcher>,
    /// Whether to query for services of any kind (RFC 6763 §9), so that
    /// [`Browser::has_heard`](super::Browser::has_heard) can tell a LAN without broadcasters from one that drops multicast.
    /// For diagnosis, as it makes every responder on the LAN answer.
    pub survey: bool,
}

/// A clock in seconds since 1970-01-01 UTC; the system's by default.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    /// A clock that calls `now`, for tests.
    pub fn from_fn(now: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The current time in seconds since 1970-01-01 UTC.
    #[must_use]
    pub fn unix_seconds(&self) -> u64 {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        // A system clock before 1970 is wrong in any case, so its value does not matter.
        Self::from_fn(crate::clock::unix_seconds)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.unix_seconds())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_clock_is_the_systems() {
        assert!(Clock::default().unix_seconds() > 1_700_000_000);
        let clock = Clock::from_fn(|| 42);
        assert_eq!(clock.unix_seconds(), 42);
        assert_eq!(format!("{clock:?}"), "Clock(42)");
    }

    #[test]
    fn by_default_all_interfaces_but_loopback() {
        let options = AnnouncerOptions::default();
        assert_eq!(options.interfaces, Interfaces::All);
        assert!(!options.loopback);
        let options = BrowserOptions::default();
        assert_eq!(options.interfaces, Interfaces::All);
        assert!(!options.loopback && !options.survey && options.matchers.is_empty());
    }
}
