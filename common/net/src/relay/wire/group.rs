//! The stream of a group: a header, then frames of catalogs and units. `SPEC.md` §5.

use std::sync::Arc;

use bytes::{Buf, BufMut, BytesMut};
use media::{AccessUnit, Catalog, Timestamp, TrackId};

use super::catalog;
use super::coding::{limit, peek_varint, put_bytes, put_signed, put_varint, track, track_byte, unzigzag};
use super::error::Error;

/// The header of a group's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupHeader {
    /// The generation of the start that it belongs to.
    pub generation: u32,
    /// The track of all units in the group.
    pub track: TrackId,
    /// Its sequence number in the track, from 0 at each start.
    pub sequence: u64,
}

/// A unit as received.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceivedUnit {
    /// The catalog in force, which its decoder needs.
    pub catalog: Arc<Catalog>,
    /// The access unit; its payload is a slice of the receive buffer.
    pub unit: AccessUnit,
    /// The DTS of the unit before it in its track and epoch; `None` for the first.
    pub predecessor_dts: Option<Timestamp>,
}

impl GroupHeader {
    /// Appends the header to `out`.
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

/// Appends the head of a unit frame; the payload must follow. `after` is the DTS of the predecessor.
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

/// Parses a group's stream incrementally, with bounded memory.
#[derive(Debug, Default)]
pub struct GroupReader {
    buffer: BytesMut,
    header: Option<GroupHeader>,
    catalog: Option<Arc<Catalog>>,
}

impl GroupReader {
    /// Appends bytes from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The header, once it is complete.
    ///
    /// # Errors
    /// If the stream is malformed, or exceeds a bound.
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

    /// The next unit, once it is complete.
    ///
    /// # Errors
    /// If the stream is malformed, or exceeds a bound.
    pub fn unit(&mut self) -> Result<Option<ReceivedUnit>, Error> {
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
                // One allocation for the rest of the unit, unless the stated length is so large that only received bytes count.
                let missing = len as usize - peek.len();
                self.buffer.reserve(missing.min(MAX_RESERVE));
                return Ok(None);
            }
            let Some(catalog) = self.catalog.clone() else { return Err(Error::NoCatalog) };
            let used = self.buffer.len() - peek.len();
            self.buffer.advance(used);
            let payload = self.buffer.split_to(len as usize).freeze();
            let predecessor_dts =
                step.map(|step| Timestamp::from_millis(dts.saturating_sub(i64::try_from(step).unwrap_or(i64::MAX))));
            let unit = AccessUnit {
                epoch: catalog.epoch,
                track: header.track,
                dts: Timestamp::from_millis(dts),
                pts: Timestamp::from_millis(dts.saturating_add(composition)),
                random_access: kind & RANDOM_ACCESS != 0,
                payload,
            };
            return Ok(Some(ReceivedUnit { catalog, unit, predecessor_dts }));
        }
    }

    /// Bytes held of an incomplete frame.
    pub fn held(&self) -> usize {
        self.buffer.len()
    }

    /// Whether the stream may end here, and not inside a frame.
    pub fn is_between_frames(&self) -> bool {
        self.header.is_some() && self.buffer.is_empty()
    }
}

/// Bounds a catalog, in bytes: the decoder configurations and metadata that ingest accepts, for all tracks.
pub const MAX_CATALOG: u64 = 256 << 10;
/// Bounds the payload of an access unit, in bytes: the most that RTMP can carry.
pub const MAX_UNIT: u64 = (1 << 24) - 1;
/// Bounds the memory allocated at once for a length stated by a peer.
const MAX_RESERVE: usize = 1 << 20;
// A unit frame's first byte.
const UNIT: u8 = 1;
const RANDOM_ACCESS: u8 = 2;
const FOLLOWS: u8 = 4;
