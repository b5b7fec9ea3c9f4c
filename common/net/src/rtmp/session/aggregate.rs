//! Splits aggregate messages (RTMP 1.0 §7.1.6), which contain several FLV tags.

use bytes::Bytes;

use crate::rtmp::Error;
use crate::rtmp::chunk::{RawMessage, kind};

/// The messages in an aggregate. The first gets the aggregate's timestamp; the others keep their offset from it.
///
/// # Errors
/// [`Error::Protocol`] if a tag is longer than the rest of the message. The tags before it are lost with the connection.
pub(super) fn split(aggregate: &RawMessage) -> Result<Vec<RawMessage>, Error> {
    let mut rest = aggregate.body.clone();
    let mut first = None;
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let header: [u8; 11] = *rest.first_chunk().ok_or(TRUNCATED)?;
        let length = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
        let stamp = u32::from_be_bytes([header[7], header[4], header[5], header[6]]);
        if rest.len() < 11 + length {
            return Err(TRUNCATED);
        }
        let body: Bytes = rest.slice(11..11 + length);
        let timestamp = aggregate.timestamp.wrapping_add(stamp.wrapping_sub(*first.get_or_insert(stamp)));
        // An aggregate may contain audio, video and data, but no aggregate.
        if length > 0 && matches!(header[0], kind::AUDIO | kind::VIDEO | kind::DATA) {
            if messages.len() == MAX_TAGS {
                return Err(Error::Limit { what: "tags in an aggregate message", limit: MAX_TAGS as u64 });
            }
            messages.push(RawMessage { kind: header[0], stream: aggregate.stream, timestamp, body });
        }
        // Some senders omit the back pointer after the last tag.
        rest = rest.slice((11 + length + 4).min(rest.len())..);
    }
    Ok(messages)
}

const TRUNCATED: Error = Error::Protocol { what: "an aggregate message ends inside a tag" };
/// Bounds the tags of an aggregate: servers send tens of them.
const MAX_TAGS: usize = 4096;
