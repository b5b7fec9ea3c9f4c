//! What a caller decides about discovery: on which interfaces, by which clock, and whom a viewer looks for.

use std::fmt;
use std::sync::Arc;

use super::NameMatcher;

/// Where mDNS is spoken. Interfaces that come or go later are followed (RFC 6762 §14).
///
/// Point-to-point links, those that are down and Apple's peer-to-peer ones never count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interfaces {
    /// On all of them.
    #[default]
    All,
    /// On those with one of these names only, such as `eth0`; none at all if there is no such interface.
    Named(Vec<String>),
}

/// How a broadcaster announces itself.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct AnnouncerOptions {
    /// Where.
    pub interfaces: Interfaces,
    /// Whether loopback counts as an interface. For tests: no viewer elsewhere can use `127.0.0.1`.
    pub loopback: bool,
    /// What time it is, which decides the slot.
    pub clock: Clock,
}

/// How a viewer looks around.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BrowserOptions {
    /// Where.
    pub interfaces: Interfaces,
    /// Whether loopback counts as an interface, and a loopback address as an address. For tests.
    pub loopback: bool,
    /// What time it is, which decides the slots that match [`matchers`](Self::matchers).
    pub clock: Clock,
    /// The broadcasts to look for; all others are ignored. Empty means every instance.
    ///
    /// A viewer should say whom it wants: whoever floods the LAN with instances then cannot crowd the right one out of the bounded
    /// number that is held, since the names to hold cannot be made up without the secret.
    pub matchers: Vec<NameMatcher>,
    /// Whether to ask which services of any kind the LAN has (RFC 6763 §9), so that
    /// [`Browser::has_heard`](super::Browser::has_heard) can tell a LAN without broadcasters from one that drops multicast.
    /// For diagnosis: it makes every responder on the LAN answer.
    pub survey: bool,
}

/// What time it is, in seconds since 1970-01-01 UTC. By default the system's clock; tests bring their own.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    /// The clock that `now` reads.
    pub fn from_fn(now: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Seconds since 1970-01-01 UTC.
    #[must_use]
    pub fn unix_seconds(&self) -> u64 {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        // A system clock before 1970 is wrong in any case, so what it counts as does not matter.
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
