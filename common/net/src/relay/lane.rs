//! One half of a subscription, sound or pictures: a cursor on the live window, and the streams that its groups go out on.
//!
//! Sound has a lane of its own, so that a picture that waits for room never holds it back; QUIC sends it first. A group of pictures
//! that is overtaken by the next while it cannot be sent is given up: its stream is reset, the subscriber is told, and the
//! cursor goes on at the newest IDR.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use media::live_window::Entry;
use media::{Catalog, Cursor, Epoch, Timestamp, TrackId, TrackKind};
use quinn::{Connection, SendStream, VarInt};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::Error;
use super::server::Source;
use super::wire::{self, GroupHeader};

/// What sends one kind of track.
pub(super) struct Lane {
    pub(super) connection: Connection,
    pub(super) generation: u32,
    pub(super) kind: TrackKind,
    /// What the subscriber has of a broadcast: that is not sent.
    pub(super) have: Option<(Epoch, Vec<(TrackId, Timestamp)>)>,
    pub(super) dropped: mpsc::Sender<Dropped>,
}

/// A group that will not come whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dropped {
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
struct Overtaken;

impl Lane {
    /// Sends until the broadcast has ended, or the connection.
    pub(super) async fn run<S: Source>(self, source: Arc<S>, mut cursor: Cursor) -> Result<(), Error> {
        let mut groups: Vec<Group> = Vec::new();
        let mut changed = source.changed();
        loop {
            changed.borrow_and_update();
            let has_ended = source.has_ended();
            let read = source.read(&mut cursor, BITE);
            if read.skipped > 0 {
                self.give_up(&mut groups).await;
            }
            if read.entries.is_empty() {
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
                if entry.unit.track.kind != self.kind || self.has(entry) {
                    continue;
                }
                source.permit(entry.unit.payload.len(), self.connection.rtt()).await;
                match self.send(&*source, &mut groups, entry).await? {
                    Ok(bytes) => source.sent(bytes),
                    Err(Overtaken) => {
                        self.give_up(&mut groups).await;
                        source.with_window(|window| cursor.jump_to_live_edge(window));
                        break;
                    }
                }
            }
        }
    }

    fn has(&self, entry: &Entry) -> bool {
        let unit = &entry.unit;
        let Some((_, tracks)) = self.have.as_ref().filter(|(epoch, _)| *epoch == unit.epoch) else { return false };
        tracks.iter().any(|(track, dts)| *track == unit.track && unit.dts <= *dts)
    }

    async fn send<S: Source>(
        &self,
        source: &S,
        groups: &mut Vec<Group>,
        entry: &Entry,
    ) -> Result<Result<usize, Overtaken>, Error> {
        let at = match groups.iter().position(|group| group.track == entry.unit.track) {
            Some(at) => at,
            None => {
                groups.push(Group { track: entry.unit.track, sequence: 0, stream: None, catalog: None });
                groups.len() - 1
            }
        };
        let group = &mut groups[at];
        let mut head = BytesMut::new();
        if group.stream.is_none() {
            let stream = self.connection.open_uni().await?;
            // The newest pictures first, and all sound before them.
            let first = if self.kind == TrackKind::Audio { SOUND } else { 0 };
            let _ = stream.set_priority(first + i32::try_from(group.sequence).unwrap_or(SOUND - 1));
            group.stream = Some(stream);
            group.catalog = None;
            let (generation, track, sequence) = (self.generation, group.track, group.sequence);
            GroupHeader { generation, track, sequence }.encode(&mut head);
        }
        if group.catalog.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &entry.catalog)) {
            wire::put_catalog(&mut head, &entry.catalog);
            group.catalog = Some(entry.catalog.clone());
        }
        wire::put_unit_head(&mut head, &entry.unit, entry.after);
        let bytes = head.len() + entry.unit.payload.len();
        let stream = group.stream.as_mut().expect("it was just opened");
        let mut chunks = [head.freeze(), entry.unit.payload.clone()];
        // Counted in looks, not by the clock: while this process itself is held up, nobody is late. Pictures go first, which makes
        // room for sound.
        let patience = if self.kind == TrackKind::Audio { 2 * LOOKS } else { LOOKS };
        let mut looks = 0;
        let mut look = interval_at(Instant::now() + LOOK, LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut left = &mut chunks[..];
        while !left.is_empty() {
            tokio::select! {
                written = stream.write_chunks(left) => {
                    let written = written?;
                    left = &mut left[written.chunks..];
                    if left.first().is_some_and(Bytes::is_empty) {
                        left = &mut left[1..];
                    }
                }
                _ = look.tick() => {
                    looks += 1;
                    let newest = source.with_window(|window| window.join_position());
                    if looks > patience && newest.is_some_and(|newest| newest > entry.position) {
                        return Ok(Err(Overtaken));
                    }
                }
            }
        }
        Ok(Ok(bytes))
    }

    /// Gives up all groups under way, and says so.
    async fn give_up(&self, groups: &mut [Group]) {
        for group in groups.iter_mut().filter(|group| group.stream.is_some()) {
            if let Some(mut stream) = group.stream.take() {
                let _ = stream.reset(VarInt::from_u32(OVERTAKEN));
            }
            let told = Dropped { generation: self.generation, track: group.track, sequence: group.sequence };
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

/// A lane that is shut down leaves no half of a unit behind that looks like a whole group: dropping a stream would finish it.
impl Drop for Group {
    fn drop(&mut self) {
        if let Some(mut stream) = self.stream.take() {
            let _ = stream.reset(VarInt::from_u32(OVERTAKEN));
        }
    }
}

/// Payload that is taken from the window at once.
const BITE: usize = 256 << 10;
/// Above every picture's priority.
const SOUND: i32 = 1 << 24;
/// How often a unit that waits for room looks whether it is overtaken.
const LOOK: Duration = Duration::from_millis(50);
/// A picture that could not be handed over within so many looks, a second, while there is a newer IDR, is given up; a sound after
/// twice as many.
const LOOKS: u32 = 20;
/// The stream's error code: SPEC.md §6.
const OVERTAKEN: u32 = 1;
