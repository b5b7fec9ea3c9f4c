//! What is sent in one go: consecutive access units as RTMP chunks, made once for all who are at the same place.

use std::sync::Arc;

use bytes::Bytes;
use media::live_window::Entry;
use media::{Catalog, flv};
use net::rtmp::framing::{self, Framed, PLAY_CHUNK_SIZE};
use net::rtmp::{Message, Metadata};

/// Bytes for a socket: chunk headers and shared slices of payloads, in order.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// None is empty.
    pub(super) parts: Vec<Bytes>,
    /// Sum of the parts.
    pub(super) len: usize,
}

/// Turns units into a batch. `catalog` is what the receivers know, and is brought up to date: a change of it goes before
/// the first unit that needs it.
pub(super) fn encode(entries: &[Entry], catalog: &mut Option<Arc<Catalog>>) -> Batch {
    let mut batch = Batch::default();
    for entry in entries {
        if catalog.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &entry.catalog)) {
            announce(&mut batch, catalog.as_deref(), entry);
            *catalog = Some(entry.catalog.clone());
        }
        let (unit, id) = (&entry.unit, entry.unit.track);
        let Some(track) = entry.catalog.track(id) else { continue };
        let head = flv::unit_header(track, unit);
        let message = framing::media_message(id.kind, unit.dts.as_rtmp(), &head, &unit.payload, PLAY_CHUNK_SIZE);
        batch.push(message, "access unit");
    }
    batch
}

/// Bytes that are no media: an answer, a goodbye.
pub(super) fn control(bytes: Bytes) -> Batch {
    let mut batch = Batch::default();
    batch.push_bytes(bytes);
    batch
}

/// Metadata and the decoder configurations that are new, or all of them when a new epoch begins.
fn announce(batch: &mut Batch, known: Option<&Catalog>, entry: &Entry) {
    let new = &entry.catalog;
    let known = known.filter(|known| known.epoch == new.epoch);
    let is_same_metadata = known.is_some_and(|known| known.metadata == new.metadata && known.clock == new.clock);
    if !is_same_metadata {
        let (values, dts) = (new.metadata.clone(), Some(entry.unit.dts));
        let metadata = Metadata { values, epoch: Some(new.epoch), clock: new.clock, dts };
        batch.push(framing::message(&Message::Metadata(metadata), PLAY_CHUNK_SIZE), "metadata");
    }
    for track in &new.tracks {
        let is_known = known.and_then(|known| known.track(track.id)).is_some_and(|known| known == track);
        let header = if is_known { Bytes::new() } else { flv::sequence_header(track) };
        if !header.is_empty() {
            let timestamp = entry.unit.dts.as_rtmp();
            batch.push(
                framing::media_message(track.id.kind, timestamp, &[], &header, PLAY_CHUNK_SIZE),
                "sequence header",
            );
        }
    }
}

impl Batch {
    /// Whether there is nothing to send.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn push(&mut self, framed: Result<Framed, net::rtmp::Error>, what: &'static str) {
        match framed {
            Ok(framed) => framed.parts.into_iter().for_each(|part| self.push_bytes(part)),
            // Ingest lets through no message longer than RTMP can say, so this costs a stream nothing that it had.
            Err(error) => tracing::warn!(%error, what, "not sent"),
        }
    }

    fn push_bytes(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.len += bytes.len();
            self.parts.push(bytes);
        }
    }
}
