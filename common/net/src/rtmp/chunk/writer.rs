//! The chunk writer: a type 0 chunk, then type 3 chunks, so that no message depends on an earlier one.

use bytes::{BufMut, BytesMut};

use super::EXTENDED;

/// Appends the header of a message's first chunk: type 0, 12 or 16 bytes. `chunk_stream` is 2 to 63.
pub fn message_header(
    out: &mut BytesMut,
    chunk_stream: u8,
    kind: u8,
    message_stream: u32,
    timestamp: u32,
    length: usize,
) {
    debug_assert!((2..64).contains(&chunk_stream) && length <= super::MAX_LENGTH);
    let field = timestamp.min(EXTENDED);
    out.put_u8(chunk_stream);
    out.put_uint(field.into(), 3);
    out.put_uint(length as u64, 3);
    out.put_u8(kind);
    out.put_u32_le(message_stream);
    if field == EXTENDED {
        out.put_u32(timestamp);
    }
}

/// Appends the header of each further chunk of a message: type 3, with the extended timestamp again if the first chunk had one.
pub fn continuation_header(out: &mut BytesMut, chunk_stream: u8, timestamp: u32) {
    out.put_u8(0xc0 | chunk_stream);
    if timestamp >= EXTENDED {
        out.put_u32(timestamp);
    }
}

/// Appends a complete message in chunks of `chunk_size` bytes.
pub fn write(
    out: &mut BytesMut,
    chunk_size: u32,
    chunk_stream: u8,
    kind: u8,
    message_stream: u32,
    timestamp: u32,
    body: &[u8],
) {
    message_header(out, chunk_stream, kind, message_stream, timestamp, body.len());
    for (i, part) in body.chunks(chunk_size.max(1) as usize).enumerate() {
        if i > 0 {
            continuation_header(out, chunk_stream, timestamp);
        }
        out.put_slice(part);
    }
}
