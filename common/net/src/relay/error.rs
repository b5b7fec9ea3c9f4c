//! What ends a subscription, whose fault it is, and whether connecting again helps.

use std::ops::RangeInclusive;
use std::time::Duration;

use quinn::{ConnectionError, ReadError, TransportErrorCode, VarInt, WriteError};

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
    #[error("refused ({code}): {reason}")]
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
    /// The subscriber lets nothing be sent to it: no unit while it is active, or no message.
    #[error("the subscriber took nothing for {after:?}")]
    NotTaken {
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
            Self::Closed { .. } | Self::Timeout { .. } | Self::NotTaken { .. } => Blame::Network,
            Self::Connection(_) | Self::Write(_) | Self::Read(_) => {
                self.connection_violator().unwrap_or(Blame::Network)
            }
        }
    }

    /// Whether one end violates this version of the protocol: the peer as we read it, or we as the peer does. Connecting again fails the same
    /// way, even if the connection worked for a while.
    pub fn is_violation(&self) -> bool {
        match self {
            Self::Protocol(_) | Self::Unexpected { .. } | Self::TooOften { .. } => true,
            Self::Connection(_) | Self::Write(_) | Self::Read(_) => self.connection_violator().is_some(),
            Self::Refused { .. } | Self::Closed { .. } | Self::Timeout { .. } | Self::NotTaken { .. } => false,
        }
    }

    /// Whether connecting again, after a pause, may succeed.
    pub fn retry(&self) -> bool {
        match self {
            Self::Refused { code, .. } => code.retry(),
            _ => !self.is_violation(),
        }
    }

    /// The party whose violation ended the connection, if it ended for one; the same whether the loss was noticed by reading, by writing or
    /// on the connection itself.
    fn connection_violator(&self) -> Option<Blame> {
        match self {
            Self::Connection(error)
            | Self::Write(WriteError::ConnectionLost(error))
            | Self::Read(ReadError::ConnectionLost(error)) => violator(error),
            _ => None,
        }
    }
}

fn violator(error: &ConnectionError) -> Option<Blame> {
    match error {
        ConnectionError::VersionMismatch => Some(Blame::Peer),
        ConnectionError::TransportError(error) if is_violation(error.code) => Some(Blame::Peer),
        ConnectionError::ConnectionClosed(close) if is_violation(close.error_code) => Some(Blame::Us),
        ConnectionError::ApplicationClosed(close) if close.error_code == VarInt::from_u32(BAD_REQUEST) => {
            Some(Blame::Us)
        }
        _ => None,
    }
}

/// Whether a QUIC error code (RFC 9000 §20.1) says that one end sent what it must not send. The others describe the state of an endpoint,
/// and another connection may succeed: INTERNAL_ERROR, for example, is also QUIC's answer to too many gaps in a stream on a lossy network.
fn is_violation(code: TransportErrorCode) -> bool {
    matches!(
        code,
        TransportErrorCode::FLOW_CONTROL_ERROR
            | TransportErrorCode::STREAM_LIMIT_ERROR
            | TransportErrorCode::STREAM_STATE_ERROR
            | TransportErrorCode::FINAL_SIZE_ERROR
            | TransportErrorCode::FRAME_ENCODING_ERROR
            | TransportErrorCode::TRANSPORT_PARAMETER_ERROR
            | TransportErrorCode::CONNECTION_ID_LIMIT_ERROR
            | TransportErrorCode::PROTOCOL_VIOLATION
            | TransportErrorCode::CRYPTO_BUFFER_EXCEEDED
            | TransportErrorCode::KEY_UPDATE_ERROR
    ) || CRYPTO_ALERTS.contains(&u64::from(code))
}

/// CRYPTO_ERROR: the alerts of TLS (RFC 9001 §4.8), such as `no_application_protocol`: the peer does not know this version of the relay
/// protocol.
const CRYPTO_ALERTS: RangeInclusive<u64> = 0x0100..=0x01ff;

#[cfg(test)]
mod tests {
    use quinn::{ApplicationClose, ConnectionClose};

    use super::*;

    fn closed(code: u32) -> ConnectionError {
        ConnectionError::ApplicationClosed(ApplicationClose { error_code: VarInt::from_u32(code), reason: "".into() })
    }

    /// A transport error that this end detected.
    fn detected(code: TransportErrorCode) -> ConnectionError {
        ConnectionError::TransportError(code.into())
    }

    /// A transport error that the peer reported.
    fn reported(code: TransportErrorCode) -> ConnectionError {
        ConnectionError::ConnectionClosed(ConnectionClose { error_code: code, frame_type: None, reason: "".into() })
    }

    #[test]
    fn violations_are_not_retried_and_network_errors_are() {
        let truncated = || Error::Protocol(wire::Error::Truncated("a track"));
        for (error, blame, retry) in [
            (truncated(), Blame::Peer, false),
            (Error::Unexpected { message: "STOP", expected: "SUBSCRIBE" }, Blame::Peer, false),
            (Error::TooOften { what: "START", limit: 1, within: Duration::ZERO }, Blame::Peer, false),
            (Error::Write(WriteError::Stopped(VarInt::from_u32(BAD_REQUEST))), Blame::Network, true),
            (Error::Read(ReadError::Reset(VarInt::from_u32(BAD_REQUEST))), Blame::Network, true),
            (Error::Closed { waiting_for: "a unit" }, Blame::Network, true),
            (Error::Timeout { waiting_for: "a unit", after: Duration::ZERO }, Blame::Network, true),
            (Error::Refused { code: RefusalCode::UnknownStream, reason: String::new() }, Blame::Peer, false),
            (Error::Refused { code: RefusalCode::Busy, reason: String::new() }, Blame::Peer, true),
        ] {
            assert_eq!((error.blame(), error.retry()), (blame, retry), "{error:?}");
            let refused = matches!(error, Error::Refused { .. });
            assert_eq!(error.is_violation(), !retry && !refused, "{error:?}");
        }
    }

    #[test]
    fn a_lost_connection_is_judged_the_same_wherever_it_is_noticed() {
        let no_application_protocol = TransportErrorCode::crypto(120);
        for (lost, blame, retry) in [
            (closed(BAD_REQUEST), Blame::Us, false),
            (closed(0), Blame::Network, true),
            (ConnectionError::VersionMismatch, Blame::Peer, false),
            (detected(TransportErrorCode::PROTOCOL_VIOLATION), Blame::Peer, false),
            (detected(TransportErrorCode::FRAME_ENCODING_ERROR), Blame::Peer, false),
            (detected(no_application_protocol), Blame::Peer, false),
            (detected(TransportErrorCode::INTERNAL_ERROR), Blame::Network, true),
            (reported(TransportErrorCode::PROTOCOL_VIOLATION), Blame::Us, false),
            (reported(TransportErrorCode::FLOW_CONTROL_ERROR), Blame::Us, false),
            (reported(TransportErrorCode::KEY_UPDATE_ERROR), Blame::Us, false),
            (reported(TransportErrorCode::crypto(0)), Blame::Us, false),
            (reported(no_application_protocol), Blame::Us, false),
            (reported(TransportErrorCode::crypto(255)), Blame::Us, false),
            (reported(TransportErrorCode::NO_ERROR), Blame::Network, true),
            (reported(TransportErrorCode::INTERNAL_ERROR), Blame::Network, true),
            (reported(TransportErrorCode::CONNECTION_REFUSED), Blame::Network, true),
            (reported(TransportErrorCode::INVALID_TOKEN), Blame::Network, true),
            (reported(TransportErrorCode::APPLICATION_ERROR), Blame::Network, true),
            (reported(TransportErrorCode::AEAD_LIMIT_REACHED), Blame::Network, true),
            (reported(TransportErrorCode::NO_VIABLE_PATH), Blame::Network, true),
            (ConnectionError::TimedOut, Blame::Network, true),
            (ConnectionError::Reset, Blame::Network, true),
        ] {
            for error in [
                Error::Connection(lost.clone()),
                Error::Write(WriteError::ConnectionLost(lost.clone())),
                Error::Read(ReadError::ConnectionLost(lost)),
            ] {
                let judged = (error.blame(), error.retry(), error.is_violation());
                assert_eq!(judged, (blame, retry, !retry), "{error:?}");
            }
        }
    }
}
