//! The relay protocol: live windows published and subscribed over QUIC. `SPEC.md` beside this file is its specification.
//!
//! The model is Media over QUIC's: a track's groups of pictures are groups, one unidirectional stream each, so that a
//! late one can be given up; sound goes before pictures. A subscription may be idle: open, let in and one round trip from flowing. Units keep
//! their names `(epoch, track, dts)`, and each says which one it follows.
//!
//! One protocol serves a viewer from the broadcaster on its network and from a server. In the order that bytes meet it: [`wire`] (pure:
//! what they mean), [`server`] (a live window out), [`reassembly`] (pure: groups back in order), [`client`]. Who may subscribe is the
//! caller's to say: a request is handed over with what it offers as proof, and nothing is sent before it is accepted.

pub mod client;
pub mod reassembly;
pub mod server;
pub mod wire;

mod congestion;
mod drop_policy;
mod track_sender;
mod transport;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;

pub use client::{Event, Subscription, subscribe};
pub use server::{Grant, Request, Source, accept};
pub use transport::{Side, endpoint_config, transport};
pub use wire::{Proof, RefusalCode, Start};

/// Why a subscription ends, or does not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection could not be made, or is lost.
    #[error("the connection is lost: {0}")]
    Connection(#[from] quinn::ConnectionError),
    /// The other end says no.
    #[error("refused: {reason} ({code:?})")]
    Refused {
        /// Why, for programs.
        code: RefusalCode,
        /// Why, for people; at most [`wire::MAX_REASON`] bytes, without control characters.
        reason: String,
    },
    /// What came is not the protocol.
    #[error("the peer breaks the relay protocol: {0}")]
    Protocol(#[from] wire::Error),
    /// The other end closed the control stream.
    #[error("the peer closed the subscription while we waited for {waiting_for}")]
    Closed {
        /// What.
        waiting_for: &'static str,
    },
    /// It took too long.
    #[error("no {waiting_for} within {after:?}")]
    Timeout {
        /// What.
        waiting_for: &'static str,
        /// How long we waited.
        after: std::time::Duration,
    },
    /// The other end asks for more than it may.
    #[error("more than {most} {what} requests within {within:?}")]
    TooOften {
        /// For what.
        what: &'static str,
        /// How often it may.
        most: u32,
        /// Within how long.
        within: std::time::Duration,
    },
    /// Writing to a stream failed.
    #[error("cannot write: {0}")]
    Write(#[from] quinn::WriteError),
    /// Reading from a stream failed.
    #[error("cannot read: {0}")]
    Read(#[from] quinn::ReadError),
}

impl Error {
    /// Whether trying again may help.
    pub fn retry(&self) -> bool {
        match self {
            Self::Refused { code, .. } => code.retry(),
            Self::Connection(quinn::ConnectionError::TransportError(_) | quinn::ConnectionError::VersionMismatch) => {
                false
            }
            _ => true,
        }
    }
}
