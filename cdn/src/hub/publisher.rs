//! Who publishes, what becomes of its units, and why it must go.

/// Who publishes, for people and monitoring. Holds no secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublisherInfo {
    /// Its address.
    pub peer: String,
    /// What it calls itself.
    pub agent: Option<String>,
    /// How it came.
    pub protocol: &'static str,
}

/// Why a publisher must go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevokeReason {
    /// Another came with the same key.
    TakenOver,
    /// The stream was taken away.
    KeyRevoked,
    /// The server is going.
    ShuttingDown,
}

/// What became of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushOutcome {
    /// It is in the window.
    Accepted {
        /// How many units the stream had before it.
        position: u64,
    },
    /// The stream had it.
    Duplicate,
    /// Its publisher was dismissed.
    Revoked,
}
