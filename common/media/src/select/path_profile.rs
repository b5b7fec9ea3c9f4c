//! The properties of a path as data, so that path selection depends on no protocol.

use std::time::Duration;

/// The properties of a path that path selection uses. The protocol is the caller's concern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathProfile {
    /// Order of preference: of two paths, the one with the lower rank is better. Paths of one rank keep the order in which they were added.
    pub rank: u8,
    /// Whether it can be connected and admitted without units, one round trip from its first unit.
    pub can_idle: bool,
    /// The lower bound of the stall timeout, however even its arrivals are.
    pub min_stall_timeout: Duration,
}
