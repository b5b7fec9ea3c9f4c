//! One half of a subscription, sound or pictures: a cursor on the live window, and the streams that its groups go out on.
//!
//! A lane is given its budget first and chooses then what to send of what there is by now ([`drop_policy`](super::drop_policy)), so that a small
//! budget is spent on what is newest: sound, an IDR, and as many of the pictures after it as the budget bears. QUIC is handed no more than
//! its congestion window takes, so that what was chosen goes at once and little has to be taken back. Sound has a lane of its own and room
//! of its own, so that a picture that waits for room never holds it back; QUIC sends it first. Only what cannot be handed over at all is
//! given up: its stream is reset, the subscriber is told, and the cursor goes on at the newest IDR.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use media::live_window::Entry;
use media::{Catalog, Cursor, Epoch, Timestamp, TrackId, TrackKind};
use quinn::{Connection, SendStream, VarInt};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::Error;
use super::drop_policy::{Decision, DropPolicy};
use super::server::{Grant, Source};
use super::wire::{self, GroupHeader};

/// What sends one kind of track.
pub(super) struct TrackSender {
    pub(super) connection: Connection,
    pub(super) generation: u32,
    pub(super) kind: TrackKind,
    /// What the subscriber has of a broadcast: that is not sent.
    pub(super) have: Option<(Epoch, Vec<(TrackId, Timestamp)>)>,
    pub(super) dropped: mpsc::Sender<DroppedGroup>,
    /// Bytes that may go and have not yet gone.
    pub(super) budget: usize,
    pub(super) drop_policy: DropPolicy,
}

/// A group that will not come whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct DroppedGroup {
    pub(super) generation: u32,
    pub(super) track: TrackId,
    pub(super) sequence: u64,
}

/// A track's stream under way.
struct Group {
    track: TrackId,
    sequence: u64,
    /// `None` before its first unit, and after a group was given up.
    stream: Option<SendStream>,
    catalog: Option<Arc<Catalog>>,
}

/// A unit could not be sent before it was overtaken.
struct Superseded;

impl TrackSender {
    /// Sends until the broadcast has ended, or the connection.
    pub(super) async fn run<S: Source>(mut self, source: Arc<S>, mut cursor: Cursor) -> Result<(), Error> {
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
                    self.wait_for_budget(&*source, wanted - self.budget).await;
                }
                match self.decide(&*source, entry) {
                    Decision::Send => {}
                    Decision::Skip => {
                        source.left_out();
                        groups.iter_mut().for_each(Group::finish);
                        continue;
                    }
                    Decision::Jump => {
                        source.left_out();
                        groups.iter_mut().for_each(Group::finish);
                        self.jump(&*source, &mut cursor);
                        break;
                    }
                }
                match self.send(&*source, &mut groups, entry).await? {
                    Ok(bytes) => source.sent(self.kind, entry.position, bytes),
                    Err(Superseded) => {
                        source.left_out();
                        self.reset_groups(&mut groups).await;
                        self.jump(&*source, &mut cursor);
                        break;
                    }
                }
            }
        }
    }

    /// Waits until something may go.
    async fn wait_for_budget<S: Source>(&mut self, source: &S, wanted: usize) {
        loop {
            let path = self.connection.stats().path;
            // What QUIC has not yet sent could not be taken back for something newer. Sound has some room that pictures never use.
            let room =
                if self.kind == TrackKind::Audio { EXTRA_SEND_WINDOW + AUDIO_SEND_WINDOW } else { EXTRA_SEND_WINDOW };
            self.connection.set_send_window(path.cwnd + room);
            match source.allow(self.kind, wanted, path.rtt.saturating_sub(path.min_rtt)) {
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

    fn decide<S: Source>(&mut self, source: &S, entry: &Entry) -> Decision {
        if !self.drop_policy.is_behind() {
            return Decision::Send;
        }
        let (lag, newest) = source.with_window(|window| (window.lag(entry.position), window.join_position()));
        self.drop_policy.decide(entry.starts_gop, lag, newest.is_some_and(|newest| newest > entry.position))
    }

    /// Pictures go on at the newest IDR, sound with the next that comes.
    fn jump<S: Source>(&self, source: &S, cursor: &mut Cursor) {
        source.with_window(|window| {
            if self.kind == TrackKind::Video || window.newest().is_some_and(|newest| newest.catalog.video().is_none()) {
                cursor.jump_to_live_edge(window);
            } else {
                *cursor = Cursor::at(window.next_position());
            }
        });
    }

    fn has(&self, entry: &Entry) -> bool {
        let unit = &entry.unit;
        let Some((_, tracks)) = self.have.as_ref().filter(|(epoch, _)| *epoch == unit.epoch) else { return false };
        tracks.iter().any(|(track, dts)| *track == unit.track && unit.dts <= *dts)
    }

    async fn send<S: Source>(
        &mut self,
        source: &S,
        groups: &mut Vec<Group>,
        entry: &Entry,
    ) -> Result<Result<usize, Superseded>, Error> {
        let at = match groups.iter().position(|group| group.track == entry.unit.track) {
            Some(at) => at,
            None => {
                groups.push(Group { track: entry.unit.track, sequence: 0, stream: None, catalog: None });
                groups.len() - 1
            }
        };
        let group = &mut groups[at];
        // What this subscriber's stream needs beside the unit.
        let mut opening = BytesMut::new();
        if group.stream.is_none() {
            let stream = self.connection.open_uni().await?;
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
        let head = entry.head(|| {
            source.relayed(&entry.unit);
            let mut head = BytesMut::new();
            wire::put_unit_head(&mut head, &entry.unit, entry.predecessor_dts);
            head.freeze()
        });
        let mut left = [opening.freeze(), head, entry.unit.payload.clone()];
        let bytes = left.iter().map(Bytes::len).sum();
        let mut is_sent = false;
        while !is_sent {
            if self.budget == 0 {
                self.wait_for_budget(source, left.iter().map(Bytes::len).sum()).await;
            }
            let piece = left.each_mut().map(|chunk| {
                let piece = chunk.split_to(chunk.len().min(self.budget));
                self.budget -= piece.len();
                piece
            });
            is_sent = left.iter().all(Bytes::is_empty);
            // It stays its group's, which resets it if this is stopped in the middle of a unit.
            let stream = groups[at].stream.as_mut().expect("it was just opened");
            if self.write_unit(source, stream, piece, entry.position).await?.is_err() {
                return Ok(Err(Superseded));
            }
        }
        Ok(Ok(bytes))
    }

    async fn write_unit<S: Source>(
        &mut self,
        source: &S,
        stream: &mut SendStream,
        mut piece: [Bytes; 3],
        position: u64,
    ) -> Result<Result<(), Superseded>, Error> {
        // Counted in looks, not by the clock: while this process itself is held up, nobody is late. Pictures go first, which makes
        // room for sound.
        let patience = if self.kind == TrackKind::Audio { 2 * STALL_CHECKS } else { STALL_CHECKS };
        let mut looks = 0;
        let begun = Instant::now();
        let mut look = interval_at(begun + STALL_CHECK_INTERVAL, STALL_CHECK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut left = &mut piece[..];
        loop {
            let empty = left.iter().take_while(|chunk| chunk.is_empty()).count();
            left = &mut left[empty..];
            if left.is_empty() {
                break;
            }
            tokio::select! {
                written = stream.write_chunks(left) => {
                    let written = written?;
                    left = &mut left[written.chunks..];
                    looks = 0;
                }
                _ = look.tick() => {
                    looks += 1;
                    let newest = source.with_window(|window| window.join_position());
                    if looks > patience && newest.is_some_and(|newest| newest > position) {
                        return Ok(Err(Superseded));
                    }
                }
            }
        }
        self.drop_policy.waited(begun.elapsed());
        Ok(Ok(()))
    }

    /// Gives up all groups under way, and says so.
    async fn reset_groups(&self, groups: &mut [Group]) {
        for group in groups.iter_mut().filter(|group| group.stream.is_some()) {
            if let Some(mut stream) = group.stream.take() {
                let _ = stream.reset(VarInt::from_u32(SUPERSEDED));
            }
            let told = DroppedGroup { generation: self.generation, track: group.track, sequence: group.sequence };
            group.sequence += 1;
            let _ = self.dropped.send(told).await;
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

/// All sound before pictures. What is left of a group before its successor: that is little by then, and a subscriber waits for it.
fn priority(kind: TrackKind, sequence: u64) -> i32 {
    let first = if kind == TrackKind::Audio { AUDIO_PRIORITY } else { 0 };
    first - i32::try_from(sequence).unwrap_or(AUDIO_PRIORITY).min(AUDIO_PRIORITY - 1)
}

/// A lane that is shut down leaves no half of a unit behind that looks like a whole group: dropping a stream would finish it.
impl Drop for Group {
    fn drop(&mut self) {
        if let Some(mut stream) = self.stream.take() {
            let _ = stream.reset(VarInt::from_u32(SUPERSEDED));
        }
    }
}

/// Payload that is taken from the window at once.
const READ_BATCH_BYTES: usize = 256 << 10;
/// What a unit weighs beside its payload, mostly.
const UNIT_OVERHEAD: usize = 32;
/// Bytes that QUIC has beyond those that it may have under way, so that it is never idle: some packets.
const EXTRA_SEND_WINDOW: u64 = 16 << 10;
/// Beyond that, for sound: a second of a good one.
const AUDIO_SEND_WINDOW: u64 = 32 << 10;
/// Above every picture's priority, for as many groups as a year has.
const AUDIO_PRIORITY: i32 = 1 << 24;
/// How often a unit that waits for room looks whether it is overtaken.
const STALL_CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// A picture of which nothing could be handed over in so many looks, a second, while there is a newer IDR, is given up; a sound after
/// twice as many.
const STALL_CHECKS: u32 = 20;
/// The stream's error code: SPEC.md §6.
const SUPERSEDED: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sound_goes_first_and_then_the_older_group() {
        use TrackKind::{Audio, Video};
        assert!(priority(Audio, u64::MAX) > priority(Video, 0));
        for kind in [Audio, Video] {
            assert!(priority(kind, 0) > priority(kind, 1));
            assert!(priority(kind, 40_000) > priority(kind, 40_001));
        }
    }
}
