//! The kinds of paths, in order of preference, and what each can do.

use std::time::Duration;

/// The kind of a path, in order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathKind {
    /// The relay protocol from the broadcaster on the same LAN.
    Peer,
    /// The relay protocol from a server.
    Relay,
    /// RTMP from a server.
    Rtmp,
    /// Low-latency HLS from a server, by parts.
    LowLatencyHls,
    /// HLS from a server, by whole segments.
    Hls,
}

impl PathKind {
    /// Whether a path of this kind can be connected and admitted without sending, one round trip from its first unit.
    pub const fn can_idle(self) -> bool {
        matches!(self, Self::Peer | Self::Relay)
    }

    /// The shortest stall timeout, however evenly the path delivers: scheduling alone delays units.
    pub(super) const fn min_stall_timeout(self) -> Duration {
        match self {
            Self::Peer => Duration::from_millis(40),
            Self::Relay => Duration::from_millis(60),
            Self::Rtmp => Duration::from_millis(300),
            // Three parts of 200 ms, and a round trip.
            Self::LowLatencyHls => Duration::from_millis(700),
            // Three segments.
            Self::Hls => Duration::from_secs(6),
        }
    }
}
