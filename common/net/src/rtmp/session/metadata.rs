//! Metadata (`onMetaData`) in the data messages of a publisher or of a server.

use crate::rtmp::amf::{self, Value};
use crate::rtmp::chunk::{Skipped, kind};
use crate::rtmp::{Error, Metadata};

/// Reads the metadata of a connection.
#[derive(Default)]
pub(super) struct MetadataReader {
    dropped: u64,
    skipped: u64,
}

impl MetadataReader {
    /// The metadata in a data message; `None` if it has none, or none that is well-formed and within the bounds of [`amf`]: files carry an
    /// index of their key frames there. The media needs none of it.
    pub(super) fn read(&mut self, message_kind: u8, body: &[u8]) -> Option<Metadata> {
        metadata(message_kind, body).unwrap_or_else(|error| {
            self.dropped += 1;
            if self.dropped.is_power_of_two() {
                tracing::warn!(%error, bytes = body.len(), dropped = self.dropped, "metadata is dropped");
            }
            None
        })
    }

    /// Data messages were skipped because of their length. `is_known`: the peer is one that this program has admitted, or has connected to.
    pub(super) fn skipped(&mut self, skipped: &Skipped, is_known: bool) {
        let Skipped { kind, length: bytes, name, count } = skipped;
        let before = self.skipped;
        self.skipped = before.saturating_add(*count);
        if is_known && (before == 0 || self.skipped.ilog2() > before.ilog2()) {
            tracing::warn!(name, kind, bytes, skipped = self.skipped, "a message that is too long is skipped");
        }
    }
}

/// `onMetaData` from a data message, with or without `@setDataFrame` before it, with or without its own name. Other data messages
/// (`onTextData`, `onCuePoint`) are ignored.
fn metadata(message_kind: u8, body: &[u8]) -> Result<Option<Metadata>, Error> {
    let body = match (message_kind, body.split_first()) {
        (kind::DATA_AMF3, Some((0, body))) => body,
        _ => body,
    };
    // Text and cue points may have any form; only metadata must be well-formed.
    if !body.starts_with(b"\x02\0\x0d@setDataFrame") && !body.starts_with(b"\x02\0\x0aonMetaData") {
        return Ok(None);
    }
    let values = amf::decode(body).map_err(Error::amf("onMetaData"))?;
    Ok(values.into_iter().skip(1).find(|v| matches!(v, Value::Object(_))).map(amf::scalars).map(Metadata::from_values))
}
