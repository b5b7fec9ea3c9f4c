//! What a path is like, as data: the choice among paths names no protocol.

use std::time::Duration;

/// What a path is like, as far as the choice among paths goes by it. Which protocol it speaks is the caller's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathProfile {
    /// Order of preference: of two paths, the one with the lower rank is better. Paths of one rank keep the order in which they were added.
    pub rank: u8,
    /// Whether it can be connected and admitted while no units flow, one round trip from flowing.
    pub can_idle: bool,
    /// How unevenly it delivers: the shortest time without a unit that counts as a stall, however even its arrivals were.
    pub min_stall_timeout: Duration,
}
