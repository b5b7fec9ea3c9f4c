//! The events of a browser: broadcasters on the LAN that appear, change or leave.

use std::net::SocketAddr;

/// A change of one instance. `instance` is an [instance name](super::instance_name).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// An instance appeared.
    Found {
        /// The instance name.
        instance: String,
        /// Addresses to try, over all interfaces and both families: 1 to 16, in order of preference. IPv6 link-local addresses have the
        /// scope ID of the interface on which they were received.
        addresses: Vec<SocketAddr>,
        /// The version of the announcement, [`VERSION`](super::VERSION) if it is this program's. Other versions are reported too, so
        /// that a viewer can say why it does not connect.
        version: u8,
    },
    /// The addresses, the port or the version of a known instance changed. The fields replace those of [`Found`](Self::Found).
    Changed {
        /// The instance name.
        instance: String,
        /// All of its addresses from now on.
        addresses: Vec<SocketAddr>,
        /// Its version from now on.
        version: u8,
    },
    /// The instance sent a goodbye, its records expired, or the interface on which they were received is gone.
    Lost {
        /// The instance name.
        instance: String,
    },
}
