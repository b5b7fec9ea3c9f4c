//! Errors of an RTMP connection, the party at fault, and whether a retry helps.

use std::io;
use std::time::Duration;

use super::{amf, chunk, url};
use crate::blame::Blame;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The socket failed.
    #[error("{during}: {source}")]
    Io {
        /// The operation that failed, as in `connecting`.
        during: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The peer closed the connection in the middle of an exchange.
    #[error("the peer closed the connection while we waited for {waiting_for}")]
    Closed {
        /// The input that was expected.
        waiting_for: &'static str,
    },
    /// The peer did not send, or accept, data in time.
    #[error("no {waiting_for} within {after:?}")]
    Timeout {
        /// The input or progress that was expected.
        waiting_for: &'static str,
        /// The time limit.
        after: Duration,
    },
    /// The first byte belongs to another protocol.
    #[error("this is not RTMP: the peer speaks {protocol}")]
    NotRtmp {
        /// The protocol, as far as the first byte shows.
        protocol: &'static str,
    },
    /// C0 or S0 asks for a version other than 3 (RTMP 1.0 §5.2.2).
    #[error("the peer requests RTMP version {version}; only version 3 is supported")]
    Version {
        /// The version byte.
        version: u8,
    },
    /// The chunk stream is malformed or exceeds a bound.
    #[error(transparent)]
    Chunk(#[from] chunk::Error),
    /// A command or data message is malformed or exceeds a bound.
    #[error("{command}: {source}")]
    Amf {
        /// The name of the command, as far as it was read.
        command: &'static str,
        /// The error in its AMF0.
        source: amf::Error,
    },
    /// A well-formed message that is not allowed in this state.
    #[error("{what}")]
    Protocol {
        /// The violation, as text.
        what: &'static str,
    },
    /// The peer exceeds a bound.
    #[error("the peer exceeds the limit of {limit} {what}")]
    Limit {
        /// The bounded quantity, with its unit.
        what: &'static str,
        /// The largest value that is accepted.
        limit: u64,
    },
    /// The server rejected the request. Its text is shown with the stream key redacted.
    #[error("the server refused: {code}: {description}")]
    Refused {
        /// `NetConnection.Connect.Rejected`, `NetStream.Publish.BadName` and the like.
        code: String,
        /// The server's text for people, with the stream key redacted.
        description: String,
    },
    /// The URL cannot be used.
    #[error(transparent)]
    Url(#[from] url::Error),
    /// The message that the caller passed cannot be encoded.
    #[error("cannot send {what}")]
    Unsendable {
        /// The kind of message.
        what: &'static str,
    },
}

impl Error {
    /// The party at fault.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Io { .. } | Self::Closed { .. } | Self::Timeout { .. } => Blame::Network,
            Self::Url(_) | Self::Unsendable { .. } => Blame::Us,
            _ => Blame::Peer,
        }
    }

    /// Whether connecting again, after a pause, may succeed: true if the stream name is in use, false if the peer speaks another protocol.
    ///
    /// True also after a malformed or forbidden message ([`Error::Chunk`], [`Error::Amf`], [`Error::Protocol`], [`Error::Limit`]), unlike
    /// the relay protocol, whose ends are both ours. RTMP servers are also other people's, and what one of them sends wrong may depend on
    /// the moment, as while it shuts down. The damage ends with the connection: the next one begins with its first chunk. Giving up would
    /// end a broadcast for one message, and the callers' growing pauses bound the cost of a server that is always wrong.
    pub fn retry(&self) -> bool {
        match self {
            Self::Io { .. } | Self::Closed { .. } | Self::Timeout { .. } => true,
            Self::Refused { code, .. } => !matches!(
                code.as_str(),
                "NetConnection.Connect.Rejected"
                    | INVALID_APP
                    | "NetStream.Publish.Unauthorized"
                    | "NetStream.Publish.Denied"
                    | "NetStream.Play.Denied"
            ),
            Self::Chunk(_) | Self::Amf { .. } | Self::Protocol { .. } | Self::Limit { .. } => true,
            Self::NotRtmp { .. } | Self::Version { .. } | Self::Url(_) | Self::Unsendable { .. } => false,
        }
    }

    /// What the user of a URL can do, after a space; empty where the error says all.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::NotRtmp { .. } => " (check the port: RTMP usually has 1935)",
            _ => "",
        }
    }

    /// Whether the server rejected the stream key or the stream, and not the application of the URL.
    pub fn is_about_the_key(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code != INVALID_APP)
    }

    pub(crate) fn amf(command: &'static str) -> impl FnOnce(amf::Error) -> Self {
        move |source| Self::Amf { command, source }
    }
}

/// Status code by which a server rejects an application that it does not have.
pub const INVALID_APP: &str = "NetConnection.Connect.InvalidApp";
