//! The encoding of integers, byte strings and tracks. Pure. `SPEC.md` §3, RFC 9000 §16.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use media::{Timestamp, TrackId, TrackKind};

use super::error::Error;

/// Appends the length as a varint, then the bytes.
pub(super) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

/// Appends an integer below 2^62 (RFC 9000 §16); larger ones are written as 2^62 - 1.
pub(in crate::relay) fn put_varint(out: &mut BytesMut, value: u64) {
    match value {
        0..0x40 => out.put_u8(value as u8),
        0x40..0x4000 => out.put_u16(value as u16 | 0x4000),
        0x4000..0x4000_0000 => out.put_u32(value as u32 | 0x8000_0000),
        _ => out.put_u64(value.min(MAX_VARINT) | 0xc000_0000_0000_0000),
    }
}

pub(super) fn put_signed(out: &mut BytesMut, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

pub(super) fn peek_varint(bytes: &mut &[u8]) -> Option<u64> {
    let first = *bytes.first()?;
    let len = 1 << (first >> 6);
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken[1..].iter().fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte)))
}

pub(super) fn varint(body: &mut Bytes) -> Result<u64, Error> {
    let mut peek = &body[..];
    let value = peek_varint(&mut peek).ok_or(Error::Truncated("an integer"))?;
    let used = body.len() - peek.len();
    body.advance(used);
    Ok(value)
}

pub(super) fn signed(body: &mut Bytes) -> Result<i64, Error> {
    varint(body).map(unzigzag)
}

pub(super) fn timestamp(body: &mut Bytes) -> Result<Timestamp, Error> {
    signed(body).map(Timestamp::from_millis)
}

pub(super) fn bounded(body: &mut Bytes, what: &'static str, most: u64) -> Result<u64, Error> {
    let value = varint(body)?;
    limit(what, value, most)?;
    Ok(value)
}

pub(super) fn limit(what: &'static str, value: u64, limit: u64) -> Result<(), Error> {
    if value > limit { Err(Error::Limit { what, value, limit }) } else { Ok(()) }
}

pub(super) fn byte(body: &mut Bytes, what: &'static str) -> Result<u8, Error> {
    body.try_get_u8().map_err(|_| Error::Truncated(what))
}

pub(super) fn array<const N: usize>(body: &mut Bytes, what: &'static str) -> Result<[u8; N], Error> {
    let mut array = [0; N];
    body.try_copy_to_slice(&mut array).map_err(|_| Error::Truncated(what))?;
    Ok(array)
}

pub(super) fn bytes(body: &mut Bytes, what: &'static str, most: u64) -> Result<Bytes, Error> {
    let len = bounded(body, what, most)? as usize;
    if body.len() < len {
        return Err(Error::Truncated(what));
    }
    Ok(body.split_to(len))
}

pub(super) fn text(body: &mut Bytes, what: &'static str, most: u64) -> Result<String, Error> {
    String::from_utf8(bytes(body, what, most)?.to_vec()).map_err(|_| Error::Text(what))
}

pub(super) fn track_byte(track: TrackId) -> u8 {
    track.index & 0x7f | if track.is_video() { 0 } else { 0x80 }
}

pub(super) fn track(byte: u8) -> TrackId {
    TrackId { kind: if byte & 0x80 == 0 { TrackKind::Video } else { TrackKind::Audio }, index: byte & 0x7f }
}

/// The largest variable-length integer.
const MAX_VARINT: u64 = (1 << 62) - 1;
