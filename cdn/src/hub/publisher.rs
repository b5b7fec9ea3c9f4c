//! A stream's publisher: its identity, the outcome of a push, and why it is revoked.

use std::fmt;

use crate::auth::ValidKey;

/// Identity of a publisher, for people and monitoring. Contains no secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublisherInfo {
    /// Remote address as `IP:PORT`.
    pub peer: String,
    /// The name and version that its software reports, if any.
    pub agent: Option<String>,
    /// Name of the ingest protocol.
    pub protocol: &'static str,
    /// The key that it was admitted by, if any.
    pub key: Option<ValidKey>,
}

/// Why a publisher is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevokeReason {
    /// Another publisher connected with the same key.
    TakenOver,
    /// The key was replaced or removed, or its end is over.
    KeyRevoked,
    /// The server is shutting down.
    ShuttingDown,
}

impl fmt::Display for RevokeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TakenOver => "another publisher took over with the same key",
            Self::KeyRevoked => "its key is no longer valid",
            Self::ShuttingDown => "this server is stopping",
        })
    }
}

/// Outcome of pushing a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushOutcome {
    /// The unit was added to the window.
    Accepted {
        /// Its position: the number of units that the stream accepted before it.
        position: u64,
    },
    /// A unit with this DTS or a later one was accepted before; the unit was dropped.
    Duplicate,
    /// The publisher has been revoked; the unit was dropped.
    Revoked,
}
