//! The encoding of the relay protocol: control messages here, the frames of a group's stream in `group`. Pure. `SPEC.md` §3 to §5.
//!
//! Integers are QUIC's variable-length ones (RFC 9000 §16); signed ones are zigzag-coded into them first.

pub(super) mod coding;

mod catalog;
mod error;
mod group;
mod timing;

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use media::latency::TimingReport;
use media::{Epoch, Timestamp, TrackId};

use self::coding::{
    array, bounded, byte, peek_varint, put_bytes, put_signed, put_varint, text, timestamp, track, track_byte, varint,
};
pub use self::error::Error;
pub use self::group::{GroupHeader, GroupReader, MAX_CATALOG, MAX_UNIT, ReceivedUnit, put_catalog, put_unit_head};

/// A subscriber's proof of admission.
#[derive(Clone, PartialEq, Eq)]
pub enum Proof {
    /// Nothing: the stream is public.
    None,
    /// A ticket signed by the CDN, as text; see [`trust::ticket`](crate::trust::ticket).
    Ticket(String),
    /// An HMAC that proves knowledge of the pairing code, bound to this TLS session.
    Code([u8; 32]),
}

/// Redacts tickets and proofs.
impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Ticket(_) => "Ticket(***)",
            Self::Code(_) => "Code(***)",
        })
    }
}

/// Where a subscription starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the newest IDR.
    #[default]
    LiveEdge,
    /// After the last unit of each track that the subscriber has: at the very next one, if the window still has it.
    After {
        /// The broadcast that the units belong to.
        epoch: Epoch,
        /// The last DTS of each track; at most [`media::catalog::MAX_TRACKS`].
        have: Vec<(TrackId, Timestamp)>,
    },
}

/// A message from a subscriber on the control stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    /// Opens the subscription: the first message, once.
    Subscribe {
        /// The name of the stream; empty where the server has one stream only.
        name: String,
        /// The proof of admission.
        proof: Proof,
    },
    /// Starts or restarts the flow; streams of earlier generations are dropped.
    Start {
        /// Increases with each start; each group's stream carries it.
        generation: u32,
        /// The position of the first unit.
        at: Start,
    },
    /// Makes the subscription idle until the next start.
    Stop,
    /// Requests the timing of units and an exchange of clocks.
    Timing {
        /// The DTS of the last unit to report; `None` for the newest.
        at: Option<Timestamp>,
    },
}

/// A message from a server on the control stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerMessage {
    /// The subscription is accepted.
    Accepted {
        /// The server's proof of the pairing code, if the subscriber proved it.
        proof: Option<[u8; 32]>,
    },
    /// The subscription is refused; nothing follows.
    Refused {
        /// The reason code.
        code: RefusalCode,
        /// The reason as text for people; at most [`MAX_REASON`] bytes.
        reason: String,
    },
    /// A group was reset: it does not arrive, or not completely.
    Dropped {
        /// The generation of the start that the group belongs to.
        generation: u32,
        /// The track of the group.
        track: TrackId,
        /// The sequence number of the group in its track and generation, from 0.
        sequence: u64,
    },
    /// The broadcast is over and all of it was sent.
    Ended,
    /// The answer to a `TIMING` request.
    Timing(TimingReport),
    /// Whether the server has the capacity to send this subscriber the whole stream.
    Capacity(bool),
}

/// Why a subscription is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalCode {
    /// The server has no stream of this name.
    UnknownStream,
    /// The proof is missing or invalid.
    Denied,
    /// The server has reached its limit of subscribers.
    Busy,
    /// The server is shutting down.
    Leaving,
    /// A code that this version does not define.
    Other(u64),
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownStream => f.write_str("no such stream"),
            Self::Denied => f.write_str("not admitted"),
            Self::Busy => f.write_str("at its limit"),
            Self::Leaving => f.write_str("shutting down"),
            Self::Other(number) => write!(f, "code {number}"),
        }
    }
}

impl RefusalCode {
    /// Whether subscribing again, with a new proof, may succeed.
    pub const fn retry(self) -> bool {
        !matches!(self, Self::UnknownStream)
    }

    const fn number(self) -> u64 {
        match self {
            Self::UnknownStream => 1,
            Self::Denied => 2,
            Self::Busy => 3,
            Self::Leaving => 4,
            Self::Other(number) => number,
        }
    }

    const fn from_number(number: u64) -> Self {
        match number {
            1 => Self::UnknownStream,
            2 => Self::Denied,
            3 => Self::Busy,
            4 => Self::Leaving,
            other => Self::Other(other),
        }
    }
}

impl ClientMessage {
    /// The name of the message in `SPEC.md`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Subscribe { .. } => "SUBSCRIBE",
            Self::Start { .. } => "START",
            Self::Stop => "STOP",
            Self::Timing { .. } => "TIMING",
        }
    }

    /// Appends the message to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        let mut body = BytesMut::new();
        let kind = match self {
            Self::Subscribe { name, proof } => {
                put_bytes(&mut body, name.as_bytes());
                match proof {
                    Proof::None => body.put_u8(0),
                    Proof::Ticket(ticket) => {
                        body.put_u8(1);
                        put_bytes(&mut body, ticket.as_bytes());
                    }
                    Proof::Code(proof) => {
                        body.put_u8(2);
                        body.put_slice(proof);
                    }
                }
                0x01
            }
            Self::Start { generation, at } => {
                put_varint(&mut body, u64::from(*generation));
                match at {
                    Start::LiveEdge => body.put_u8(0),
                    Start::After { epoch, have } => {
                        body.put_u8(1);
                        body.put_u64(epoch.0);
                        put_varint(&mut body, have.len() as u64);
                        for (track, dts) in have {
                            body.put_u8(track_byte(*track));
                            put_signed(&mut body, dts.as_millis());
                        }
                    }
                }
                0x02
            }
            Self::Stop => 0x03,
            Self::Timing { at } => {
                timing::put_request(&mut body, *at);
                0x04
            }
        };
        put_message(out, kind, &body);
    }

    fn decode(kind: u64, mut body: Bytes) -> Result<Self, Error> {
        let body = &mut body;
        match kind {
            0x01 => {
                let name = text(body, "a stream's name", MAX_NAME)?;
                let proof = match byte(body, "a proof")? {
                    0 => Proof::None,
                    1 => Proof::Ticket(text(body, "a ticket", MAX_TICKET)?),
                    2 => Proof::Code(array(body, "a proof of the code")?),
                    other => return Err(Error::Unknown { what: "kind of proof", value: other.into() }),
                };
                Ok(Self::Subscribe { name, proof })
            }
            0x02 => {
                let generation = bounded(body, "generation", u64::from(u32::MAX))? as u32;
                let at = match byte(body, "a start")? {
                    0 => Start::LiveEdge,
                    1 => {
                        let epoch = Epoch(u64::from_be_bytes(array(body, "an epoch")?));
                        let count = bounded(body, "number of tracks", media::catalog::MAX_TRACKS as u64)?;
                        let mut have = Vec::with_capacity(count as usize);
                        for _ in 0..count {
                            have.push((track(byte(body, "a track")?), timestamp(body)?));
                        }
                        Start::After { epoch, have }
                    }
                    other => return Err(Error::Unknown { what: "kind of start", value: other.into() }),
                };
                Ok(Self::Start { generation, at })
            }
            0x03 => Ok(Self::Stop),
            0x04 => Ok(Self::Timing { at: timing::request(body)? }),
            other => Err(Error::Unknown { what: "request", value: other }),
        }
    }
}

impl ServerMessage {
    /// The name of the message in `SPEC.md`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Accepted { .. } => "ACCEPTED",
            Self::Refused { .. } => "REFUSED",
            Self::Dropped { .. } => "DROPPED",
            Self::Ended => "ENDED",
            Self::Timing(_) => "TIMING",
            Self::Capacity(_) => "CAPACITY",
        }
    }

    /// Appends the message to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        let mut body = BytesMut::new();
        let kind = match self {
            Self::Accepted { proof } => {
                body.put_u8(u8::from(proof.is_some()));
                proof.iter().for_each(|proof| body.put_slice(proof));
                0x11
            }
            Self::Refused { code, reason } => {
                put_varint(&mut body, code.number());
                put_bytes(&mut body, reason.as_bytes());
                0x12
            }
            Self::Dropped { generation, track, sequence } => {
                put_varint(&mut body, u64::from(*generation));
                body.put_u8(track_byte(*track));
                put_varint(&mut body, *sequence);
                0x13
            }
            Self::Ended => 0x14,
            Self::Timing(report) => {
                timing::put_response(&mut body, report);
                0x15
            }
            Self::Capacity(available) => {
                body.put_u8(u8::from(*available));
                0x16
            }
        };
        put_message(out, kind, &body);
    }

    fn decode(kind: u64, mut body: Bytes) -> Result<Self, Error> {
        let body = &mut body;
        match kind {
            0x11 => {
                let has_proof = byte(body, "an acceptance")? != 0;
                Ok(Self::Accepted { proof: has_proof.then(|| array(body, "a proof of the code")).transpose()? })
            }
            0x12 => {
                let code = RefusalCode::from_number(varint(body)?);
                let reason = text(body, "a reason", MAX_REASON)?;
                // The text is shown in logs and terminals.
                Ok(Self::Refused { code, reason: reason.chars().filter(|c| !c.is_control()).collect() })
            }
            0x13 => {
                let generation = bounded(body, "generation", u64::from(u32::MAX))? as u32;
                Ok(Self::Dropped { generation, track: track(byte(body, "a track")?), sequence: varint(body)? })
            }
            0x14 => Ok(Self::Ended),
            0x15 => Ok(Self::Timing(timing::response(body)?)),
            0x16 => match byte(body, "a capacity")? {
                capacity @ 0..=1 => Ok(Self::Capacity(capacity == 1)),
                other => Err(Error::Unknown { what: "capacity", value: other.into() }),
            },
            other => Err(Error::Unknown { what: "reply", value: other }),
        }
    }
}

/// Splits the first complete message, as its type and body, off the bytes of a control stream; `None` while it is incomplete.
///
/// # Errors
/// If the message is longer than a message may be.
pub fn take_message(buffer: &mut BytesMut) -> Result<Option<(u64, Bytes)>, Error> {
    let mut peek = &buffer[..];
    let (Some(kind), Some(len)) = (peek_varint(&mut peek), peek_varint(&mut peek)) else { return Ok(None) };
    if len > MAX_MESSAGE {
        return Err(Error::Limit { what: "control message", value: len, limit: MAX_MESSAGE });
    }
    let len = len as usize;
    if peek.len() < len {
        return Ok(None);
    }
    let head = buffer.len() - peek.len();
    buffer.advance(head);
    Ok(Some((kind, buffer.split_to(len).freeze())))
}

/// Decodes a subscriber's message.
///
/// # Errors
/// If the message is malformed, or of an unknown type.
pub fn client_message(message: (u64, Bytes)) -> Result<ClientMessage, Error> {
    ClientMessage::decode(message.0, message.1)
}

/// Decodes a server's message.
///
/// # Errors
/// If the message is malformed, or of an unknown type.
pub fn server_message(message: (u64, Bytes)) -> Result<ServerMessage, Error> {
    ServerMessage::decode(message.0, message.1)
}

fn put_message(out: &mut BytesMut, kind: u64, body: &[u8]) {
    put_varint(out, kind);
    put_bytes(out, body);
}

/// The protocol and its version in the TLS handshake (RFC 7301). Each version has its own name.
pub const ALPN: &[u8] = b"nearcast-relay/1";
/// Bounds a control message, in bytes: a ticket and a name, with a reserve.
pub const MAX_MESSAGE: u64 = 4 << 10;
/// Bounds the name of a stream, in bytes.
pub const MAX_NAME: u64 = 64;
/// Bounds a ticket, in bytes of text.
pub const MAX_TICKET: u64 = 1 << 10;
/// Bounds the text of a refusal, in bytes.
pub const MAX_REASON: u64 = 512;
// Application error codes of the connection (RFC 9000 §20.2): SPEC.md §6.
/// The server refused the subscription.
pub(super) const REFUSED: u32 = 1;
/// The peer violated the protocol.
pub(super) const BAD_REQUEST: u32 = 2;
