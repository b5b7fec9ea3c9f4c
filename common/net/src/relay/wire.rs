//! What the relay protocol's bytes mean: control messages, group headers, frames. Pure. `SPEC.md` §3 to §5.
//!
//! Integers are QUIC's variable-length ones (RFC 9000 §16); signed ones are zigzag-coded into them first.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use media::{AccessUnit, Catalog, Epoch, Timestamp, TrackId};

use super::catalog;
use super::coding::{
    array, bounded, byte, limit, peek_varint, put_bytes, put_signed, put_varint, text, timestamp, track, track_byte,
    unzigzag, varint,
};

/// What is wrong with the bytes of a peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// They end inside a structure.
    #[error("{0} is cut short")]
    Truncated(&'static str),
    /// A length or a count is over its bound.
    #[error("{what} of {value} is over the limit of {limit}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// What it says.
        value: u64,
        /// What it may say.
        limit: u64,
    },
    /// A value that means nothing.
    #[error("{what} {value} means nothing")]
    Unknown {
        /// Of what.
        what: &'static str,
        /// What it says.
        value: u64,
    },
    /// A unit came before the catalog that it needs.
    #[error("a unit came before any catalog")]
    NoCatalog,
    /// Text that is not UTF-8.
    #[error("{0} is not UTF-8")]
    Text(&'static str),
}

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
pub enum Ask {
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
}

/// From a server, on the control stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
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

/// What begins each group's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupHeader {
    /// Of which start.
    pub generation: u32,
    /// Of which track.
    pub track: TrackId,
    /// Its number in the track, from 0 at each start.
    pub sequence: u64,
}

/// A unit as it comes out of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrived {
    /// What it is decoded with.
    pub catalog: Arc<Catalog>,
    /// The unit.
    pub unit: AccessUnit,
    /// The unit of its track that it follows; `None` for the first of its epoch.
    pub after: Option<Timestamp>,
}

impl Ask {
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
            other => Err(Error::Unknown { what: "request", value: other }),
        }
    }
}

impl Reply {
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
pub fn ask(message: (u64, Bytes)) -> Result<Ask, Error> {
    Ask::decode(message.0, message.1)
}

/// Reads a server's message.
pub fn reply(message: (u64, Bytes)) -> Result<Reply, Error> {
    Reply::decode(message.0, message.1)
}

impl GroupHeader {
    /// Appends it.
    pub fn encode(self, out: &mut BytesMut) {
        put_varint(out, u64::from(self.generation));
        out.put_u8(track_byte(self.track));
        put_varint(out, self.sequence);
    }
}

/// Appends a catalog frame.
pub fn put_catalog(out: &mut BytesMut, catalog: &Catalog) {
    let mut body = BytesMut::new();
    catalog::encode(&mut body, catalog);
    out.put_u8(0);
    put_bytes(out, &body);
}

/// Appends the head of a unit frame; the payload follows it.
pub fn put_unit_head(out: &mut BytesMut, unit: &AccessUnit, after: Option<Timestamp>) {
    let after = after.and_then(|after| u64::try_from(unit.dts - after).ok());
    out.put_u8(UNIT | if unit.random_access { RANDOM_ACCESS } else { 0 } | if after.is_some() { FOLLOWS } else { 0 });
    put_signed(out, unit.dts.as_millis());
    put_signed(out, unit.composition_time());
    if let Some(step) = after {
        put_varint(out, step);
    }
    put_varint(out, unit.payload.len() as u64);
}

/// Reads a group's stream as its bytes come.
#[derive(Debug, Default)]
pub struct GroupReader {
    buffer: BytesMut,
    header: Option<GroupHeader>,
    catalog: Option<Arc<Catalog>>,
}

impl GroupReader {
    /// Takes bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The header, once it is there.
    pub fn header(&mut self) -> Result<Option<GroupHeader>, Error> {
        if self.header.is_none() {
            let mut peek = &self.buffer[..];
            let header = (|| {
                let generation = peek_varint(&mut peek)?;
                let track_byte = *peek.first()?;
                peek = &peek[1..];
                Some((generation, track_byte, peek_varint(&mut peek)?))
            })();
            let Some((generation, track_byte, sequence)) = header else { return Ok(None) };
            let generation = u32::try_from(generation).map_err(|_| Error::Limit {
                what: "generation",
                value: generation,
                limit: u32::MAX.into(),
            })?;
            let used = self.buffer.len() - peek.len();
            self.buffer.advance(used);
            self.header = Some(GroupHeader { generation, track: track(track_byte), sequence });
        }
        Ok(self.header)
    }

    /// The next unit, once it is whole.
    pub fn unit(&mut self) -> Result<Option<Arrived>, Error> {
        let Some(header) = self.header()? else { return Ok(None) };
        loop {
            let mut peek = &self.buffer[..];
            let Some(&kind) = peek.first() else { return Ok(None) };
            peek = &peek[1..];
            if kind == 0 {
                let Some(len) = peek_varint(&mut peek) else { return Ok(None) };
                limit("catalog", len, MAX_CATALOG)?;
                if (peek.len() as u64) < len {
                    return Ok(None);
                }
                let head = self.buffer.len() - peek.len();
                self.buffer.advance(head);
                let mut body = self.buffer.split_to(len as usize).freeze();
                self.catalog = Some(Arc::new(catalog::decode(&mut body)?));
                continue;
            }
            if kind & UNIT == 0 || kind > (UNIT | RANDOM_ACCESS | FOLLOWS) {
                return Err(Error::Unknown { what: "frame", value: kind.into() });
            }
            let head = (|| {
                let dts = unzigzag(peek_varint(&mut peek)?);
                let composition = unzigzag(peek_varint(&mut peek)?);
                let step = if kind & FOLLOWS != 0 { Some(peek_varint(&mut peek)?) } else { None };
                Some((dts, composition, step, peek_varint(&mut peek)?))
            })();
            let Some((dts, composition, step, len)) = head else { return Ok(None) };
            limit("access unit", len, MAX_UNIT)?;
            if (peek.len() as u64) < len {
                // One allocation for the rest of it, however it comes, unless it is so large that only what comes of it is believed.
                let missing = len as usize - peek.len();
                self.buffer.reserve(missing.min(BELIEVED));
                return Ok(None);
            }
            let Some(catalog) = self.catalog.clone() else { return Err(Error::NoCatalog) };
            let used = self.buffer.len() - peek.len();
            self.buffer.advance(used);
            let payload = self.buffer.split_to(len as usize).freeze();
            let after =
                step.map(|step| Timestamp::from_millis(dts.saturating_sub(i64::try_from(step).unwrap_or(i64::MAX))));
            let unit = AccessUnit {
                epoch: catalog.epoch,
                track: header.track,
                dts: Timestamp::from_millis(dts),
                pts: Timestamp::from_millis(dts.saturating_add(composition)),
                random_access: kind & RANDOM_ACCESS != 0,
                payload,
            };
            return Ok(Some(Arrived { catalog, unit, after }));
        }
    }

    /// Bytes that are held of a frame that is not whole.
    pub fn held(&self) -> usize {
        self.buffer.len()
    }

    /// Whether the stream may end here: not inside a frame.
    pub fn is_between_frames(&self) -> bool {
        self.header.is_some() && self.buffer.is_empty()
    }
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
/// A catalog: decoder configurations and metadata as ingest bounds them, for all tracks.
pub const MAX_CATALOG: u64 = 256 << 10;
/// An access unit: what RTMP can carry at most.
pub const MAX_UNIT: u64 = (1 << 24) - 1;
/// What is allocated for a unit at once because its head says so.
const BELIEVED: usize = 1 << 20;
// A unit frame's first byte.
const UNIT: u8 = 1;
const RANDOM_ACCESS: u8 = 2;
const FOLLOWS: u8 = 4;
