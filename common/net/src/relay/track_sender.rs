//! One half of a subscription, audio or video: a cursor on the live window, and the QUIC streams that carry its groups.
//!
//! A sender first waits for its budget and then decides which of the available units to send ([`drop_policy`](super::drop_policy)), so that
//! a small budget is spent on the newest units: audio, an IDR, and as many frames after it as the budget allows. It writes to QUIC only what
//! fits the congestion window, so that units leave at once and few have to be cancelled. Audio has a sender and a share of QUIC's send
//! buffer of its own, so that a blocked video frame never delays it; QUIC sends it first. Only a group that cannot be written at all is
//! dropped: its stream is reset, the subscriber is informed, and the cursor moves to the newest IDR.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use media::live_window::Entry;
use media::{Catalog, Cursor, Epoch, Timestamp, TrackId, TrackKind};
use quinn::{Connection, SendStream, VarInt};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::congestion::queue_delay;
use super::drop_policy::{Decision, DropPolicy};
use super::error::Error;
use super::source::{Delivery, Grant, SendGate, StreamSource, SubscriptionObserver};
use super::wire::{self, GroupHeader};

/// Sends the tracks of one kind to one subscriber.
pub(super) struct TrackSender<S, G, O> {
    pub(super) connection: Connection,
    pub(super) delivery: Delivery<S, G, O>,
    pub(super) generation: u32,
    pub(super) kind: TrackKind,
    /// The last unit of each track that the subscriber already has; units up to it are not sent.
    pub(super) have: Option<(Epoch, Vec<(TrackId, Timestamp)>)>,
    pub(super) dropped: mpsc::Sender<DroppedGroup>,
    /// Bytes granted and not sent yet.
    pub(super) budget: usize,
    pub(super) drop_policy: DropPolicy,
    pub(super) flow: Arc<Flow>,
}

/// Whether the subscriber lets units be sent to it, as the senders of its subscription see it.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Units that were written to QUIC.
    pub(super) written: AtomicU64,
    /// Writes that were begun, of units or parts of them.
    pub(super) begun: AtomicU64,
    /// Writes that wait for the subscriber.
    pub(super) pending: AtomicU64,
}

/// A write that is counted as pending until it is dropped.
struct PendingWrite<'a>(&'a Flow);

impl<'a> PendingWrite<'a> {
    fn begin(flow: &'a Flow) -> Self {
        flow.begun.fetch_add(1, Ordering::Relaxed);
        flow.pending.fetch_add(1, Ordering::Relaxed);
        Self(flow)
    }
}

impl Drop for PendingWrite<'_> {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A group whose stream was reset.
#[derive(Clone, Copy, Debug)]
pub(super) struct DroppedGroup {
    pub(super) generation: u32,
    pub(super) track: TrackId,
    pub(super) sequence: u64,
}

/// The current group of a track.
struct Group {
    track: TrackId,
    sequence: u64,
    /// `None` before its first unit, and after the group was reset.
    stream: Option<SendStream>,
    catalog: Option<Arc<Catalog>>,
}

/// The bytes that precede a unit's payload, the same for all subscribers: made once, and kept with the unit.
struct UnitHead(Bytes);

/// A newer random access point made the unit useless before it could be written.
struct Superseded;

impl<S: StreamSource, G: SendGate, O: SubscriptionObserver> TrackSender<S, G, O> {
    /// Sends from `cursor` on until the stream ends or the connection fails.
    pub(super) async fn run(mut self, mut cursor: Cursor) -> Result<(), Error> {
        let Delivery { source, observer, .. } = self.delivery.clone();
        let mut groups: Vec<Group> = Vec::new();
        let mut changed = source.changed();
        loop {
            changed.borrow_and_update();
            let has_ended = source.has_ended();
            let read = source.read(&mut cursor, READ_BATCH_BYTES);
            if read.skipped > 0 {
                groups.iter_mut().for_each(Group::finish);
            }
            if read.entries.is_empty() {
                self.drop_policy.caught_up();
                if has_ended {
                    groups.iter_mut().for_each(Group::finish);
                    return Ok(());
                }
                if changed.changed().await.is_err() {
                    return Ok(());
                }
                continue;
            }
            for entry in &read.entries {
                if entry.starts_gop {
                    groups.iter_mut().for_each(Group::finish);
                }
                if entry.unit.track.kind != self.kind
                    || self.has(entry)
                    || self.drop_policy.should_skip(entry.starts_gop)
                {
                    continue;
                }
                let wanted = entry.unit.payload.len() + UNIT_OVERHEAD;
                if self.budget < wanted {
                    self.wait_for_budget(wanted - self.budget).await;
                }
                match self.decide(entry) {
                    Decision::Send => {}
                    Decision::Skip => {
                        observer.on_dropped();
                        groups.iter_mut().for_each(Group::finish);
                        continue;
                    }
                    Decision::Jump => {
                        observer.on_dropped();
                        groups.iter_mut().for_each(Group::finish);
                        self.jump(&mut cursor, entry.position);
                        break;
                    }
                }
                match self.send(&mut groups, entry).await? {
                    Ok(bytes) => {
                        self.flow.written.fetch_add(1, Ordering::Relaxed);
                        observer.on_sent(self.kind, entry.position, bytes);
                    }
                    Err(Superseded) => {
                        observer.on_dropped();
                        self.reset_groups(&mut groups).await;
                        self.jump(&mut cursor, entry.position);
                        break;
                    }
                }
            }
        }
    }

    /// Waits until the gate grants at least one of `wanted` bytes.
    async fn wait_for_budget(&mut self, wanted: usize) {
        loop {
            let path = self.connection.stats().path;
            // Bytes buffered in QUIC cannot be replaced by newer units, so the buffer is small. Audio has a share that video never uses.
            let extra =
                if self.kind == TrackKind::Audio { EXTRA_SEND_WINDOW + AUDIO_SEND_WINDOW } else { EXTRA_SEND_WINDOW };
            self.connection.set_send_window(path.cwnd + extra);
            match self.delivery.gate.acquire(self.kind, wanted, queue_delay(&self.connection, &path)) {
                Grant::Bytes(bytes) => {
                    self.budget += bytes.max(1);
                    return;
                }
                Grant::RetryAfter(wait) => {
                    sleep(wait).await;
                    self.drop_policy.waited(wait);
                }
            }
        }
    }

    fn decide(&mut self, entry: &Entry) -> Decision {
        if !self.drop_policy.is_behind() {
            return Decision::Send;
        }
        let (lag, newest) =
            self.delivery.source.with_window(|window| (window.lag(entry.position), window.join_position()));
        self.drop_policy.decide(entry.starts_gop, lag, newest.is_some_and(|newest| newest > entry.position))
    }

    /// Moves the cursor behind the unit at `position`, which is skipped: video continues at the newest IDR, audio with the next unit that
    /// arrives. The cursor may have read that IDR already, together with the units that are skipped.
    fn jump(&self, cursor: &mut Cursor, position: u64) {
        *cursor = self.delivery.source.with_window(|window| {
            let has_video = window.newest().is_none_or(|newest| newest.catalog.video().is_some());
            if self.kind == TrackKind::Audio && has_video {
                return Cursor::at(window.next_position());
            }
            let newest = window.join_position().filter(|newest| *newest > position);
            Cursor::at(newest.unwrap_or(position + 1))
        });
    }

    /// Whether the subscriber stated in `START` that it has this unit.
    fn has(&self, entry: &Entry) -> bool {
        let unit = &entry.unit;
        let Some((_, tracks)) = self.have.as_ref().filter(|(epoch, _)| *epoch == unit.epoch) else { return false };
        tracks.iter().any(|(track, dts)| *track == unit.track && unit.dts <= *dts)
    }

    /// Sends one unit, with the group header and the catalog where they are due; returns the bytes written.
    async fn send(&mut self, groups: &mut Vec<Group>, entry: &Entry) -> Result<Result<usize, Superseded>, Error> {
        let at = match groups.iter().position(|group| group.track == entry.unit.track) {
            Some(at) => at,
            None => {
                groups.push(Group { track: entry.unit.track, sequence: 0, stream: None, catalog: None });
                groups.len() - 1
            }
        };
        let group = &mut groups[at];
        // Header and catalog that this subscriber needs before the unit.
        let mut opening = BytesMut::new();
        if group.stream.is_none() {
            let pending = PendingWrite::begin(&self.flow);
            let stream = self.connection.open_uni().await?;
            drop(pending);
            let _ = stream.set_priority(priority(self.kind, group.sequence));
            group.stream = Some(stream);
            group.catalog = None;
            let (generation, track, sequence) = (self.generation, group.track, group.sequence);
            GroupHeader { generation, track, sequence }.encode(&mut opening);
        }
        if group.catalog.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &entry.catalog)) {
            wire::put_catalog(&mut opening, &entry.catalog);
            group.catalog = Some(entry.catalog.clone());
        }
        let mut is_first = false;
        let head = entry.derived(|| {
            is_first = true;
            let mut head = BytesMut::new();
            wire::put_unit_head(&mut head, &entry.unit, entry.predecessor_dts);
            UnitHead(head.freeze())
        });
        // Called outside of the closure, on which other senders wait: an observer may write to a file.
        if is_first {
            self.delivery.observer.on_first_send(&entry.unit);
        }
        let mut left = [opening.freeze(), head.0.clone(), entry.unit.payload.clone()];
        let bytes = left.iter().map(Bytes::len).sum();
        let mut is_sent = false;
        while !is_sent {
            if self.budget == 0 {
                self.wait_for_budget(left.iter().map(Bytes::len).sum()).await;
            }
            let piece = left.each_mut().map(|chunk| {
                let piece = chunk.split_to(chunk.len().min(self.budget));
                self.budget -= piece.len();
                piece
            });
            is_sent = left.iter().all(Bytes::is_empty);
            // The group keeps the stream, and resets it if this future is dropped in the middle of a unit.
            let stream = groups[at].stream.as_mut().expect("the stream was opened above");
            if self.write_unit(stream, piece, entry.position).await?.is_err() {
                return Ok(Err(Superseded));
            }
        }
        Ok(Ok(bytes))
    }

    /// Writes a granted piece of the unit at `position`.
    async fn write_unit(
        &mut self,
        stream: &mut SendStream,
        mut piece: [Bytes; 3],
        position: u64,
    ) -> Result<Result<(), Superseded>, Error> {
        let flow = self.flow.clone();
        let _pending = PendingWrite::begin(&flow);
        // Counted in checks, not by the clock, so that a pause of this process is not a stall. Video is dropped first, which frees capacity for
        // audio.
        let allowed = if self.kind == TrackKind::Audio { 2 * STALL_CHECKS } else { STALL_CHECKS };
        let mut stalled = 0;
        let started = Instant::now();
        let mut check = interval_at(started + STALL_CHECK_INTERVAL, STALL_CHECK_INTERVAL);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut left = &mut piece[..];
        loop {
            let empty = left.iter().take_while(|chunk| chunk.is_empty()).count();
            left = &mut left[empty..];
            if left.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                written = stream.write_chunks(left) => {
                    let written = written?;
                    left = &mut left[written.chunks..];
                    stalled = 0;
                }
                _ = check.tick() => {
                    stalled += 1;
                    let newest = self.delivery.source.with_window(|window| window.join_position());
                    if stalled > allowed && newest.is_some_and(|newest| newest > position) {
                        return Ok(Err(Superseded));
                    }
                }
            }
        }
        self.drop_policy.waited(started.elapsed());
        Ok(Ok(()))
    }

    /// Resets the streams of all groups in progress and queues a message about each.
    async fn reset_groups(&self, groups: &mut [Group]) {
        for group in groups.iter_mut().filter(|group| group.stream.is_some()) {
            if let Some(mut stream) = group.stream.take() {
                let _ = stream.reset(VarInt::from_u32(SUPERSEDED));
            }
            let dropped = DroppedGroup { generation: self.generation, track: group.track, sequence: group.sequence };
            group.sequence += 1;
            let _ = self.dropped.send(dropped).await;
        }
    }
}

impl Group {
    fn finish(&mut self) {
        if let Some(mut stream) = self.stream.take() {
            let _ = stream.finish();
            self.sequence += 1;
        }
    }
}

/// Audio before video. The rest of an older group before a newer group: it is short by then, and the subscriber waits for it.
fn priority(kind: TrackKind, sequence: u64) -> i32 {
    let first = if kind == TrackKind::Audio { AUDIO_PRIORITY } else { 0 };
    first - i32::try_from(sequence).unwrap_or(AUDIO_PRIORITY).min(AUDIO_PRIORITY - 1)
}

/// Dropping a quinn stream would finish it: a group that ends inside a unit must be reset instead.
impl Drop for Group {
    fn drop(&mut self) {
        if let Some(mut stream) = self.stream.take() {
            let _ = stream.reset(VarInt::from_u32(SUPERSEDED));
        }
    }
}

/// Bounds the payload that one read takes from the window.
const READ_BATCH_BYTES: usize = 256 << 10;
/// The typical framing of a unit.
const UNIT_OVERHEAD: usize = 32;
/// QUIC's send buffer beyond the congestion window, so that the connection never idles: a few packets.
const EXTRA_SEND_WINDOW: u64 = 16 << 10;
/// Additional send buffer for audio: one second at 256 kbit/s.
const AUDIO_SEND_WINDOW: u64 = 32 << 10;
/// Above every video priority for more groups than a year has.
const AUDIO_PRIORITY: i32 = 1 << 24;
/// How often a blocked write checks whether its unit is superseded.
const STALL_CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// If nothing of a video group could be written for this many checks (1 s) while there is a newer IDR, the group is reset; an audio group
/// after twice as many.
const STALL_CHECKS: u32 = 20;
/// The stream's error code: SPEC.md §6.
const SUPERSEDED: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audio_has_priority_and_then_the_older_group() {
        use TrackKind::{Audio, Video};
        assert!(priority(Audio, u64::MAX) > priority(Video, 0));
        for kind in [Audio, Video] {
            assert!(priority(kind, 0) > priority(kind, 1));
            assert!(priority(kind, 40_000) > priority(kind, 40_001));
        }
    }
}
