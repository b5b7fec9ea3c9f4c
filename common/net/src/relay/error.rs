//! What ends a subscription, whose fault it is, and whether connecting again helps.

use std::time::Duration;

use quinn::{ConnectionError, ReadError, VarInt, WriteError};

use super::wire::{self, BAD_REQUEST, RefusalCode};
use crate::blame::Blame;

/// Why a subscription ended, or did not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection could not be established, or is lost.
    #[error("the connection was lost: {0}")]
    Connection(#[from] ConnectionError),
    /// The server refused the subscription.
    #[error("refused: {reason} ({code:?})")]
    Refused {
        /// The reason code.
        code: RefusalCode,
        /// The reason as text for people; at most [`wire::MAX_REASON`] bytes, without control characters.
        reason: String,
    },
    /// The peer sent malformed bytes.
    #[error("the peer violates the relay protocol: {0}")]
    Protocol(#[from] wire::Error),
    /// The peer sent a well-formed message where the protocol does not allow it.
    #[error("the peer violates the relay protocol: {message} where {expected} was expected")]
    Unexpected {
        /// The message that was received.
        message: &'static str,
        /// What the protocol allows there.
        expected: &'static str,
    },
    /// The peer closed the control stream.
    #[error("the peer closed the subscription while we waited for {waiting_for}")]
    Closed {
        /// The message that was expected.
        waiting_for: &'static str,
    },
    /// The peer did not answer in time.
    #[error("no {waiting_for} within {after:?}")]
    Timeout {
        /// The message that was expected.
        waiting_for: &'static str,
        /// The time limit.
        after: Duration,
    },
    /// The peer sent a costly request more often than allowed.
    #[error("more than {limit} {what} requests within {within:?}")]
    TooOften {
        /// The name of the request in `SPEC.md`: `START` or `TIMING`.
        what: &'static str,
        /// The number of requests allowed within `within`.
        limit: u32,
        /// The period that `limit` applies to.
        within: Duration,
    },
    /// Writing to a stream failed.
    #[error("cannot write: {0}")]
    Write(#[from] WriteError),
    /// Reading from a stream failed.
    #[error("cannot read: {0}")]
    Read(#[from] ReadError),
}

impl Error {
    /// The party at fault.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Refused { .. } | Self::Protocol(_) | Self::Unexpected { .. } | Self::TooOften { .. } => Blame::Peer,
            Self::Closed { .. } | Self::Timeout { .. } => Blame::Network,
            Self::Connection(_) | Self::Write(_) | Self::Read(_) => match self.lost_connection() {
                Some(ConnectionError::TransportError(_) | ConnectionError::VersionMismatch) => Blame::Peer,
                Some(error) if is_bad_request(error) => Blame::Us,
                _ => Blame::Network,
            },
        }
    }

    /// Whether one end violates this version of the protocol: the peer as we read it, or we as the peer does. Connecting again fails the same
    /// way, even if the connection worked for a while.
    pub fn is_violation(&self) -> bool {
        match self {
            Self::Protocol(_) | Self::Unexpected { .. } | Self::TooOften { .. } => true,
            Self::Connection(_) | Self::Write(_) | Self::Read(_) => self.lost_connection().is_some_and(is_bad_request),
            Self::Refused { .. } | Self::Closed { .. } | Self::Timeout { .. } => false,
        }
    }

    /// Whether connecting again, after a pause, may succeed.
    pub fn retry(&self) -> bool {
        match self {
            Self::Refused { code, .. } => code.retry(),
            Self::Connection(ConnectionError::TransportError(_) | ConnectionError::VersionMismatch) => false,
            _ => !self.is_violation(),
        }
    }

    fn lost_connection(&self) -> Option<&ConnectionError> {
        match self {
            Self::Connection(error)
            | Self::Write(WriteError::ConnectionLost(error))
            | Self::Read(ReadError::ConnectionLost(error)) => Some(error),
            _ => None,
        }
    }
}

fn is_bad_request(error: &ConnectionError) -> bool {
    matches!(error, ConnectionError::ApplicationClosed(close) if close.error_code == VarInt::from_u32(BAD_REQUEST))
}

#[cfg(test)]
mod tests {
    use quinn::ApplicationClose;

    use super::*;

    fn closed(code: u32) -> ConnectionError {
        ConnectionError::ApplicationClosed(ApplicationClose { error_code: VarInt::from_u32(code), reason: "".into() })
    }

    #[test]
    fn violations_are_not_retried_and_network_errors_are() {
        let truncated = || Error::Protocol(wire::Error::Truncated("a track"));
        for (error, blame, retry) in [
            (truncated(), Blame::Peer, false),
            (Error::Unexpected { message: "STOP", expected: "SUBSCRIBE" }, Blame::Peer, false),
            (Error::TooOften { what: "START", limit: 1, within: Duration::ZERO }, Blame::Peer, false),
            (Error::Connection(closed(BAD_REQUEST)), Blame::Us, false),
            (Error::Write(WriteError::ConnectionLost(closed(BAD_REQUEST))), Blame::Us, false),
            (Error::Read(ReadError::ConnectionLost(closed(BAD_REQUEST))), Blame::Us, false),
            (Error::Connection(ConnectionError::VersionMismatch), Blame::Peer, false),
            (Error::Connection(ConnectionError::TimedOut), Blame::Network, true),
            (Error::Connection(ConnectionError::Reset), Blame::Network, true),
            (Error::Connection(closed(0)), Blame::Network, true),
            (Error::Read(ReadError::ConnectionLost(ConnectionError::TimedOut)), Blame::Network, true),
            (Error::Closed { waiting_for: "a unit" }, Blame::Network, true),
            (Error::Timeout { waiting_for: "a unit", after: Duration::ZERO }, Blame::Network, true),
            (Error::Refused { code: RefusalCode::UnknownStream, reason: String::new() }, Blame::Peer, false),
            (Error::Refused { code: RefusalCode::Busy, reason: String::new() }, Blame::Peer, true),
        ] {
            assert_eq!((error.blame(), error.retry()), (blame, retry), "{error:?}");
            let refused = matches!(error, Error::Refused { .. } | Error::Connection(ConnectionError::VersionMismatch));
            assert_eq!(error.is_violation(), !retry && !refused, "{error:?}");
        }
    }
}
