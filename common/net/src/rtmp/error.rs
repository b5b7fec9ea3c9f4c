//! What goes wrong on an RTMP connection, whose fault it is, and whether trying again helps.

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
        /// What was being done.
        during: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The peer closed the connection where more had to come.
    #[error("the peer closed the connection while we waited for {waiting_for}")]
    Closed {
        /// What had to come.
        waiting_for: &'static str,
    },
    /// A wait reached its deadline.
    #[error("no {waiting_for} within {after:?}")]
    Timeout {
        /// What did not come.
        waiting_for: &'static str,
        /// The bound that it reached.
        after: Duration,
    },
    /// The first bytes are of another protocol.
    #[error("this is not RTMP: the peer speaks {protocol}")]
    NotRtmp {
        /// Which, as far as one byte tells.
        protocol: &'static str,
    },
    /// C0 or S0 asks for a version other than 3 (RTMP 1.0 §5.2.2).
    #[error("the peer wants RTMP version {version}, only 3 is spoken here")]
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
        /// The command, as far as it was known.
        command: &'static str,
        /// What is wrong with its AMF0.
        source: amf::Error,
    },
    /// A well-formed message that makes no sense where it came.
    #[error("{what}")]
    Protocol {
        /// What was wrong.
        what: &'static str,
    },
    /// The peer asked for more than a bound allows.
    #[error("the peer exceeds the limit of {limit} {what}")]
    Limit {
        /// What is bounded.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// The server said no. Its words are shown with the stream key redacted.
    #[error("the server refused: {code}: {description}")]
    Refused {
        /// `NetConnection.Connect.Rejected`, `NetStream.Publish.BadName` and the like.
        code: String,
        /// The server's words.
        description: String,
    },
    /// The URL cannot be used.
    #[error(transparent)]
    Url(#[from] url::Error),
    /// What we were given to send cannot be sent.
    #[error("cannot send {what}")]
    Unsendable {
        /// Which.
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

    /// Whether connecting again, after a pause, may succeed. A stream name in use may become free; a peer that speaks another protocol
    /// will speak it again.
    pub fn retry(&self) -> bool {
        match self {
            Self::Io { .. } | Self::Closed { .. } | Self::Timeout { .. } => true,
            Self::Refused { code, .. } => !matches!(
                code.as_str(),
                "NetConnection.Connect.Rejected"
                    | "NetConnection.Connect.InvalidApp"
                    | "NetStream.Publish.Unauthorized"
                    | "NetStream.Publish.Denied"
                    | "NetStream.Play.Denied"
            ),
            Self::Chunk(_) | Self::Amf { .. } | Self::Protocol { .. } | Self::Limit { .. } => true,
            Self::NotRtmp { .. } | Self::Version { .. } | Self::Url(_) | Self::Unsendable { .. } => false,
        }
    }

    pub(crate) fn amf(command: &'static str) -> impl FnOnce(amf::Error) -> Self {
        move |source| Self::Amf { command, source }
    }
}
