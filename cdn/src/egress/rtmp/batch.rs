//! Consecutive access units as RTMP chunks, serialised once for all players at the same position.

use std::sync::Arc;

use bytes::Bytes;
use media::live_window::Entry;
use media::{Catalog, LiveWindow, TrackOrder, flv};
use net::rtmp::framing::{self, Framed, PLAY_CHUNK_SIZE};
use net::rtmp::{Gap, Message, Metadata};

/// Bytes for a socket: chunk headers and shared slices of payloads, in order.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// No part is empty.
    pub(super) parts: Vec<Bytes>,
    /// Sum of the parts.
    pub(super) len: usize,
}

/// Serialises units. `catalog` and `order` are the receivers' state and are updated: a catalog change is sent before the first unit that needs
/// it, and a gap message before a unit whose predecessor the receivers lack.
pub(super) fn encode(entries: &[Entry], catalog: &mut Option<Arc<Catalog>>, order: &mut TrackOrder) -> Batch {
    let mut batch = Batch::default();
    encode_into(&mut batch, entries, catalog, order);
    batch
}

/// The same for one receiver that lacks units before `entries`. `gap` is sent first and states the predecessor of each track's next unit.
pub(super) fn encode_after(gap: Gap, entries: &[Entry], catalog: &mut Option<Arc<Catalog>>) -> Batch {
    let mut batch = Batch::default();
    let mut order = TrackOrder::default();
    for (track, predecessor) in &gap.predecessors {
        order.state(gap.epoch, *track, *predecessor);
    }
    entries.iter().take(1).for_each(|first| change_catalog(&mut batch, catalog, first));
    batch.gap(gap);
    encode_into(&mut batch, entries, catalog, &mut order);
    batch
}

/// The gap message for a receiver that begins with `entries`: the predecessor of the next unit of every track, also of tracks without a unit in
/// `entries`. `None` without entries.
pub(super) fn gap_before(entries: &[Entry], window: &LiveWindow) -> Option<Gap> {
    let (first, last) = (entries.first()?, entries.last()?);
    let epoch = first.unit.epoch;
    let predecessor = |track| match entries.iter().find(|entry| (entry.unit.epoch, entry.unit.track) == (epoch, track))
    {
        Some(next) => next.predecessor_dts,
        None => window.predecessor_of_next(last.position + 1, epoch, track),
    };
    let predecessors = first.catalog.tracks.iter().map(|track| (track.id, predecessor(track.id))).collect();
    Some(Gap { epoch, predecessors })
}

fn encode_into(batch: &mut Batch, entries: &[Entry], catalog: &mut Option<Arc<Catalog>>, order: &mut TrackOrder) {
    for entry in entries {
        change_catalog(batch, catalog, entry);
        let (unit, id) = (&entry.unit, entry.unit.track);
        let Some(track) = entry.catalog.track(id) else { continue };
        if order.must_state(unit, entry.predecessor_dts) {
            batch.gap(Gap { epoch: unit.epoch, predecessors: vec![(id, entry.predecessor_dts)] });
        }
        let head = flv::unit_header(track, unit);
        let message = framing::media_message(id.kind, unit.dts.as_rtmp(), &head, &unit.payload, PLAY_CHUNK_SIZE);
        batch.push(message, "access unit");
    }
}

fn change_catalog(batch: &mut Batch, catalog: &mut Option<Arc<Catalog>>, entry: &Entry) {
    if catalog.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &entry.catalog)) {
        announce(batch, catalog.as_deref(), entry);
        *catalog = Some(entry.catalog.clone());
    }
}

/// A batch of control bytes: replies and status messages.
pub(super) fn control(bytes: Bytes) -> Batch {
    let mut batch = Batch::default();
    batch.push_bytes(bytes);
    batch
}

/// Writes changed metadata and new decoder configurations; all of them if the epoch is new.
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

    fn gap(&mut self, gap: Gap) {
        self.push(framing::message(&Message::Gap(gap), PLAY_CHUNK_SIZE), "gap");
    }

    fn push(&mut self, framed: Result<Framed, net::rtmp::Error>, what: &'static str) {
        match framed {
            Ok(framed) => framed.parts.into_iter().for_each(|part| self.push_bytes(part)),
            // Ingest accepts no message longer than RTMP can carry, so this drops no unit of a stream.
            Err(error) => tracing::warn!(%error, kind = what, "cannot encode a message"),
        }
    }

    fn push_bytes(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.len += bytes.len();
            self.parts.push(bytes);
        }
    }
}
