//! What the relay protocol's bytes mean: control messages here, and what follows on a track's own stream in `group`. Pure. `SPEC.md` §3 to §5.
//!
//! Integers are QUIC's variable-length ones (RFC 9000 §16); signed ones are zigzag-coded into them first.

pub(super) mod coding;

mod catalog;
mod error;
mod group;
mod timing;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use media::latency::TimingReport;
use media::{Epoch, Timestamp, TrackId};

use self::coding::{
    array, bounded, byte, peek_varint, put_bytes, put_signed, put_varint, text, timestamp, track, track_byte, varint,
};
pub use self::error::Error;
pub use self::group::{GroupHeader, GroupReader, MAX_CATALOG, MAX_UNIT, ReceivedUnit, put_catalog, put_unit_head};

/// What a subscriber offers to be let in.
#[derive(Clone, PartialEq, Eq)]
pub enum Proof {
    /// Nothing: the stream is for everybody.
    None,
    /// A ticket that the CDN signed.
    Ticket(String),
    /// That it knows the code on the broadcaster's screen, bound to this TLS session.
    Code([u8; 32]),
}

/// Shows no secret.
impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Ticket(_) => "Ticket(***)",
            Self::Code(_) => "Code(***)",
        })
    }
}

/// Where a subscription starts to flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the newest IDR.
    #[default]
    LiveEdge,
    /// After the last unit of each track that the subscriber has: from the very next one, if that is held.
    After {
        /// Of which broadcast.
        epoch: Epoch,
        /// At most [`media::catalog::MAX_TRACKS`].
        have: Vec<(TrackId, Timestamp)>,
    },
}

/// From a subscriber, on the control stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    /// The first message, once.
    Subscribe {
        /// The stream's name; empty where the server has one stream only.
        name: String,
        /// Why it may.
        proof: Proof,
    },
    /// Begin to flow, or begin anew: streams of earlier generations are given up.
    Start {
        /// Rises with each start; streams name it.
        generation: u32,
        /// Where.
        at: Start,
    },
    /// Send nothing until the next start.
    Stop,
    /// Say how units came here, up to the one at `at` or to the newest, and what the clock shows.
    Timing {
        /// DTS of the last unit to tell of.
        at: Option<Timestamp>,
    },
}

/// From a server, on the control stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerMessage {
    /// The subscriber is let in.
    Accepted {
        /// That the server knows the code, where the subscriber proved it too.
        proof: Option<[u8; 32]>,
    },
    /// It is not; nothing follows.
    Refused {
        /// For programs.
        code: RefusalCode,
        /// For people.
        reason: String,
    },
    /// A group will not come, or not whole.
    Dropped {
        /// Of which start.
        generation: u32,
        /// Of which track.
        track: TrackId,
        /// Its number in the track.
        sequence: u64,
    },
    /// The broadcast is over, and all of it was sent.
    Ended,
    /// The answer to a question for stamps.
    Timing(TimingReport),
    /// Whether the server has what it takes to send this subscriber everything.
    Capacity(bool),
}

/// Why a subscriber is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalCode {
    /// There is no such stream.
    UnknownStream,
    /// The proof is none.
    Denied,
    /// No more subscribers fit.
    Busy,
    /// The server is going.
    Leaving,
    /// A code of a later version.
    Other(u64),
}

impl RefusalCode {
    /// Whether trying again, with a new proof, may help.
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

    /// Appends it.
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

    /// Appends it.
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
            Self::Capacity(has_room) => {
                body.put_u8(u8::from(*has_room));
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
                // What a peer sends ends up in logs and terminals.
                Ok(Self::Refused { code, reason: reason.chars().filter(|c| !c.is_control()).collect() })
            }
            0x13 => {
                let generation = bounded(body, "generation", u64::from(u32::MAX))? as u32;
                Ok(Self::Dropped { generation, track: track(byte(body, "a track")?), sequence: varint(body)? })
            }
            0x14 => Ok(Self::Ended),
            0x15 => Ok(Self::Timing(timing::response(body)?)),
            0x16 => match byte(body, "a word of room")? {
                room @ 0..=1 => Ok(Self::Capacity(room == 1)),
                other => Err(Error::Unknown { what: "word of room", value: other.into() }),
            },
            other => Err(Error::Unknown { what: "reply", value: other }),
        }
    }
}

/// Takes the first whole message out of what has come on a control stream; `None` while it is not all there.
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

/// Reads a subscriber's message.
pub fn client_message(message: (u64, Bytes)) -> Result<ClientMessage, Error> {
    ClientMessage::decode(message.0, message.1)
}

/// Reads a server's message.
pub fn server_message(message: (u64, Bytes)) -> Result<ServerMessage, Error> {
    ServerMessage::decode(message.0, message.1)
}

fn put_message(out: &mut BytesMut, kind: u64, body: &[u8]) {
    put_varint(out, kind);
    put_bytes(out, body);
}

/// Names the protocol and its version in the TLS handshake (RFC 7301). Another version is another name.
pub const ALPN: &[u8] = b"nearcast-relay/1";
/// A control message: a ticket and a name, and room.
pub const MAX_MESSAGE: u64 = 4 << 10;
/// A stream's name; names are at most 64 characters.
pub const MAX_NAME: u64 = 64;
/// A ticket as text.
pub const MAX_TICKET: u64 = 1 << 10;
/// A reason, in bytes.
pub const MAX_REASON: u64 = 512;
// Application error codes of the connection (RFC 9000 §20.2): SPEC.md §6.
/// The server refused the subscription.
pub(super) const REFUSED: u32 = 1;
/// The peer violated the protocol.
pub(super) const BAD_REQUEST: u32 = 2;
