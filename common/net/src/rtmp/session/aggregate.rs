//! Aggregate messages (RTMP 1.0 §7.1.6): several FLV tags in one message, taken apart again.

use bytes::Bytes;

use crate::rtmp::Error;
use crate::rtmp::chunk::{RawMessage, kind};

/// The messages within an aggregate. The first has the aggregate's timestamp, the others keep their distance from it.
///
/// # Errors
/// [`Error::Protocol`] where a tag is longer than what is left. The tags before it are lost with the connection.
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
        // What an aggregate may hold; another aggregate is not among it.
        if length > 0 && matches!(header[0], kind::AUDIO | kind::VIDEO | kind::DATA) {
            if messages.len() == MAX_TAGS {
                return Err(Error::Limit { what: "tags in an aggregate message", limit: MAX_TAGS as u64 });
            }
            messages.push(RawMessage { kind: header[0], stream: aggregate.stream, timestamp, body });
        }
        // The back pointer after the last tag is left out by some.
        rest = rest.slice((11 + length + 4).min(rest.len())..);
    }
    Ok(messages)
}

const TRUNCATED: Error = Error::Protocol { what: "an aggregate message ends inside a tag" };
/// Bounds what one message becomes: servers put tens of tags into an aggregate.
const MAX_TAGS: usize = 4096;
