//! The transports of this viewer, best first. To add one, add a module with its description, and a line here.

use std::str::FromStr;

use super::path::{Transport, TransportFilter};
use super::{hls, peer, relay, rtmp};

/// All transports, in the order of preference.
pub static TRANSPORTS: [&Transport; 5] =
    [&peer::TRANSPORT, &relay::TRANSPORT, &rtmp::TRANSPORT, &hls::LOW_LATENCY, &hls::SEGMENTS];

impl FromStr for TransportFilter {
    type Err = String;

    /// `auto`, or a transport's name.
    fn from_str(name: &str) -> Result<Self, String> {
        if name == AUTO {
            return Ok(Self::AUTO);
        }
        let transport = TRANSPORTS.into_iter().find(|transport| transport.name == name);
        transport.map(|transport| Self(Some(transport))).ok_or_else(|| format!("there is no transport named {name}"))
    }
}

/// The name that stands for all transports.
pub const AUTO: &str = "auto";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_ranks_rise() {
        for pair in TRANSPORTS.windows(2) {
            assert!(pair[0].profile.rank < pair[1].profile.rank, "{:?} {:?}", pair[0], pair[1]);
        }
        for transport in TRANSPORTS {
            let filter: TransportFilter = transport.name.parse().unwrap();
            let allowed: Vec<_> = TRANSPORTS.into_iter().filter(|other| filter.allows(other)).collect();
            assert_eq!(allowed, [transport]);
        }
        assert!(TRANSPORTS.into_iter().all(|transport| TransportFilter::AUTO.allows(transport)));
        assert!("carrier-pigeon".parse::<TransportFilter>().is_err());
    }

    #[test]
    fn a_path_that_can_idle_states_predecessors() {
        // A path that starts in the middle of a group must say what its first unit follows.
        assert!(TRANSPORTS.into_iter().all(|t| t.states_predecessor || !t.profile.can_idle));
    }
}
