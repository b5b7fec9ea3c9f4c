//! The party at fault for a connection error.

/// The party that has to change something before a connection can succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The peer: it violated the protocol or a limit, or refused.
    Peer,
    /// The network between the two.
    Network,
    /// This program: its configuration, its input, or a violation that the peer reported.
    Us,
}
