//! One player: a socket, a cursor on its stream's window, and at most one batch in flight.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use media::live_window::Cursor;
use media::{AccessUnit, Catalog, TrackKind};
use mio::net::TcpStream;
use net::bbr::ProbeRttSuppressor;
use net::connection_slots::ConnectionSlot;
use net::rtmp::framing::{self, PLAY_CHUNK_SIZE};
use net::rtmp::server::PlayState;
use net::rtmp::session::PlayerEvent;
use net::rtmp::{self, Message};
use socket2::SockRef;

use super::batch::{self, Batch};
use super::stream_batcher::StreamBatcher;
use crate::hub::{HubStream, SubscriberGuard};

/// A player of one shard.
pub(super) struct Subscriber {
    pub(super) socket: TcpStream,
    /// Its feed's key in the shard.
    pub(super) feed: usize,
    /// Its index in its feed's list of members.
    pub(super) member: usize,
    /// Whether the shard will write to it in its next pass.
    pub(super) is_queued: bool,
    /// Start of the write timeout: when the socket last accepted bytes, or when a batch was put in flight after none was.
    pub(super) progress: Instant,
    /// Since when it waits for the stream to come on air; `None` while it does not wait.
    waiting_since: Option<Instant>,
    /// False from a write that found the socket full until the kernel reports it writable.
    pub(super) has_room: bool,
    play: PlayState,
    cursor: Cursor,
    /// The catalog sent last.
    catalog: Option<Arc<Catalog>>,
    /// The next unit does not follow the last one sent, so a gap message must precede it.
    is_at_gap: bool,
    in_flight: Option<InFlight>,
    /// Set when a write finds the socket full, cleared when the player has caught up. Only a slow player is moved to the newest IDR.
    is_slow: bool,
    /// It resumes an interrupted play and is not moved to the newest IDR until it has caught up.
    is_resuming: bool,
    is_paused: bool,
    selection: Selection,
    /// Whether the player has sent something since its replies were last taken. Checking this flag on each frame is cheaper than asking `play`.
    may_have_replies: bool,
    /// It receives no more media, and is closed when everything is written.
    is_leaving: bool,
    steady: ProbeRttSuppressor,
    _counted: SubscriberGuard,
    /// Its slot among the connections of its listener.
    pub(super) slot: ConnectionSlot,
    /// Whether it waits, as its slot was told last.
    told_waiting: Option<bool>,
}

/// The kinds of media that the player wants (`receiveAudio`, `receiveVideo`).
#[derive(Debug, Default)]
struct Selection {
    without_audio: bool,
    without_video: bool,
    /// It wants video, and gets it from the next IDR on.
    awaits_idr: bool,
    /// Whether the newest unit of each kind was withheld.
    withheld_audio: bool,
    withheld_video: bool,
    /// Units of a kind of which some were withheld go on, so a gap message must precede them.
    goes_on: bool,
}

impl Selection {
    fn set(&mut self, kind: TrackKind, receive: bool) {
        match kind {
            TrackKind::Audio => self.without_audio = !receive,
            TrackKind::Video => {
                self.awaits_idr |= receive && self.without_video;
                self.without_video = !receive;
            }
        }
    }

    /// Where the player joins the stream: at the newest GOP; where there is none, with the sound at once and pictures from the next IDR on.
    fn join(&mut self, stream: &HubStream) -> Cursor {
        stream.with_window(|window| {
            let can_join = window.join_position().is_some();
            self.awaits_idr |= !can_join;
            if can_join { Cursor::at_live_edge() } else { Cursor::at(window.next_position()) }
        })
    }

    /// Whether the player gets every unit of a stream with these tracks.
    fn is_all(&self, catalog: &Catalog) -> bool {
        let all_audio = !self.without_audio && !self.withheld_audio;
        let all_video = !self.without_video && !self.awaits_idr && !self.withheld_video;
        (all_audio || catalog.audio().is_none()) && (all_video || catalog.video().is_none())
    }

    /// Whether the player gets this unit, the next one of the stream.
    fn admits(&mut self, unit: &AccessUnit) -> bool {
        let is_admitted = self.wants(unit);
        let withheld = if unit.track.is_video() { &mut self.withheld_video } else { &mut self.withheld_audio };
        self.goes_on |= std::mem::replace(withheld, !is_admitted) && is_admitted;
        is_admitted
    }

    fn wants(&mut self, unit: &AccessUnit) -> bool {
        if !unit.track.is_video() {
            return !self.without_audio;
        }
        if self.without_video {
            return false;
        }
        self.awaits_idr &= !unit.random_access;
        !self.awaits_idr
    }
}

#[derive(Debug)]
struct InFlight {
    batch: Arc<Batch>,
    sent: usize,
}

/// Why a player was disconnected.
#[derive(Debug, thiserror::Error)]
pub(super) enum DisconnectReason {
    #[error("the player closed the connection")]
    Closed,
    #[error("the player stopped playback")]
    Ended,
    #[error("its slot was needed")]
    Evicted,
    #[error("the stream ended")]
    StreamEnded,
    #[error("write timeout")]
    WriteTimeout,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Protocol(#[from] rtmp::Error),
}

/// A player on its way to a shard; see [`AcceptedPlayer`](super::AcceptedPlayer).
pub(super) struct NewSubscriber {
    pub(super) socket: TcpStream,
    pub(super) play: PlayState,
    pub(super) stream: Arc<HubStream>,
    pub(super) start: Cursor,
    pub(super) is_resuming: bool,
    pub(super) slot: ConnectionSlot,
}

impl Subscriber {
    pub(super) fn new(new: NewSubscriber, feed: usize, member: usize, now: Instant) -> Self {
        let steady = ProbeRttSuppressor::new(SockRef::from(&new.socket), now);
        Self {
            socket: new.socket,
            feed,
            member,
            is_queued: false,
            progress: now,
            waiting_since: None,
            has_room: true,
            play: new.play,
            cursor: new.start,
            catalog: None,
            is_at_gap: true,
            in_flight: None,
            is_slow: false,
            is_resuming: new.is_resuming,
            is_paused: false,
            selection: Selection::default(),
            may_have_replies: true,
            is_leaving: false,
            steady,
            _counted: new.stream.subscriber("rtmp"),
            slot: new.slot,
            told_waiting: None,
        }
    }

    /// Whether any media has been sent to it.
    pub(super) fn has_started(&self) -> bool {
        self.catalog.is_some()
    }

    /// Puts a batch in flight if none is: replies first, then the feed's newest batch if it starts at this player's position, else units read
    /// from the window.
    pub(super) fn prepare(
        &mut self,
        feed: &StreamBatcher,
        max_lag: Duration,
        now: Instant,
    ) -> Result<(), DisconnectReason> {
        if self.in_flight.is_some() {
            return Ok(());
        }
        let has_heard = std::mem::take(&mut self.may_have_replies);
        let replies = if has_heard { self.play.replies() } else { Bytes::new() };
        if !replies.is_empty() {
            self.start(Arc::new(batch::control(replies)), now);
            return Ok(());
        }
        if self.is_leaving {
            return Err(DisconnectReason::StreamEnded);
        }
        if self.is_paused {
            return Ok(());
        }
        if self.cursor.position().is_none() {
            self.cursor = self.selection.join(&feed.stream);
        }
        let newest = feed.newest_for(self.cursor.position(), self.catalog.as_ref());
        if let Some(newest) = newest.filter(|newest| !self.is_at_gap && self.selection.is_all(&newest.catalog_after)) {
            self.cursor = Cursor::at(newest.to);
            self.catalog = Some(newest.catalog_after.clone());
            self.is_slow = false;
            self.waiting_since = None;
            self.start(newest.batch.clone(), now);
            return Ok(());
        }
        if self.is_slow && !self.is_resuming && feed.stream.lag(&self.cursor, now) > max_lag {
            self.is_at_gap |= feed.stream.jump_to_live_edge(&mut self.cursor) > 0;
        }
        let mut read = feed.stream.read(&mut self.cursor, READ_BATCH_BYTES);
        self.is_at_gap |= read.skipped > 0;
        // Stop at the feed's position, so that the feed's next batch continues from it.
        let within = read.entries.partition_point(|entry| entry.position < feed.position());
        if let Some(beyond) = read.entries.get(within) {
            self.cursor = Cursor::at(beyond.position);
        }
        read.entries.truncate(within);
        if read.entries.is_empty() {
            self.is_slow = false;
            self.is_resuming = false;
            return Ok(());
        }
        read.entries.retain(|entry| self.selection.admits(&entry.unit));
        self.is_at_gap |= std::mem::take(&mut self.selection.goes_on);
        if read.entries.is_empty() {
            return Ok(());
        }
        let entries = &read.entries;
        let gap = if std::mem::take(&mut self.is_at_gap) {
            feed.stream.with_window(|window| batch::gap_before(entries, window))
        } else {
            None
        };
        let batch = match gap {
            Some(gap) => batch::encode_after(gap, entries, &mut self.catalog),
            None => {
                let mut order = feed.stream.with_window(|window| window.order_before(&entries[0]));
                batch::encode(entries, &mut self.catalog, &mut order)
            }
        };
        self.waiting_since = None;
        self.start(Arc::new(batch), now);
        Ok(())
    }

    /// Puts `batch` in flight. Nothing was in flight before, so the write timeout starts now.
    fn start(&mut self, batch: Arc<Batch>, now: Instant) {
        if !batch.is_empty() {
            self.progress = now;
            self.in_flight = Some(InFlight { batch, sent: 0 });
        }
    }

    /// Records whether the stream is on air, which decides whether the player may be evicted, and returns how long the player has
    /// waited for it. Requests of the player do not extend the wait.
    pub(super) fn wait(&mut self, is_live: bool, now: Instant) -> Option<Duration> {
        let since = if is_live { None } else { Some(self.waiting_since.unwrap_or(now)) };
        self.waiting_since = since;
        let is_waiting = since.is_some() || self.is_paused;
        if self.told_waiting.replace(is_waiting) != Some(is_waiting) {
            // It fails only after an eviction, of which the shard is notified.
            let _ = self.slot.set_subscriber(is_waiting);
        }
        since.map(|since| now.saturating_duration_since(since))
    }

    /// Keeps BBR from its periodic slow phase (ProbeRTT) on the connection.
    pub(super) fn keep_steady(&mut self, now: Instant) {
        if !self.is_slow && !self.is_blocked() && self.steady.is_due(now) {
            self.steady.restart(SockRef::from(&self.socket), now);
        }
    }

    /// The batch to write, and how many of its bytes have been sent; `None` while the socket is full.
    pub(super) fn under_way(&self) -> Option<(&[Bytes], usize)> {
        self.in_flight.as_ref().filter(|_| self.has_room).map(|f| (f.batch.parts.as_slice(), f.sent))
    }

    /// Whether a batch is in flight.
    pub(super) fn is_blocked(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Records the outcome of a write. Returns the number of bytes sent.
    pub(super) fn on_written(&mut self, outcome: io::Result<usize>, now: Instant) -> Result<usize, DisconnectReason> {
        match outcome {
            Ok(0) => Err(DisconnectReason::Closed),
            Ok(bytes) => {
                self.progress = now;
                if let Some(in_flight) = &mut self.in_flight {
                    in_flight.sent += bytes;
                    if in_flight.sent >= in_flight.batch.len {
                        self.in_flight = None;
                    }
                }
                Ok(bytes)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.has_room = false;
                self.is_slow = true;
                Ok(0)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(e) => Err(e.into()),
        }
    }

    /// Reads the player's messages. Replies stay in `play` until the batch in flight is written.
    pub(super) fn read_input(&mut self, buffer: &mut [u8]) -> Result<(), DisconnectReason> {
        // Bounded, so that a peer that keeps sending does not delay others.
        for _ in 0..READS_AT_ONCE {
            let bytes = match self.socket.read(buffer) {
                Ok(0) => return Err(DisconnectReason::Closed),
                Ok(count) => &buffer[..count],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            };
            let events = self.play.input(bytes)?;
            self.handle_events(events)?;
        }
        Err(io::Error::other("it sends without end").into())
    }

    /// Handles bytes received before the socket was handed over.
    pub(super) fn read_buffered_input(&mut self) -> Result<(), DisconnectReason> {
        let events = self.play.input(&[])?;
        self.handle_events(events)
    }

    fn handle_events(&mut self, events: Vec<PlayerEvent>) -> Result<(), DisconnectReason> {
        self.may_have_replies = true;
        for event in events {
            match event {
                PlayerEvent::Pause(true) => self.is_paused = true,
                PlayerEvent::Pause(false) if self.is_paused => {
                    self.is_paused = false;
                    self.cursor = Cursor::at_live_edge();
                    self.is_at_gap = true;
                }
                PlayerEvent::Receive(kind, receive) => self.selection.set(kind, receive),
                PlayerEvent::Close => return Err(DisconnectReason::Ended),
                _ => {}
            }
        }
        Ok(())
    }

    /// Shuts down gracefully: finishes the batch in flight, sends a status message, then closes the connection.
    pub(super) fn shutdown(&mut self, code: &str, description: &str, now: Instant) {
        if self.is_leaving {
            return;
        }
        self.is_leaving = true;
        let mut bytes = Vec::new();
        if let Ok(end) = framing::message(&Message::EndOfStream, PLAY_CHUNK_SIZE) {
            bytes.extend_from_slice(&end.to_bytes());
        }
        bytes.extend_from_slice(&self.play.close_message(code, description));
        let goodbye = batch::control(bytes.into());
        match &mut self.in_flight {
            None => self.start(Arc::new(goodbye), now),
            Some(in_flight) => {
                let mut parts = in_flight.batch.parts.clone();
                parts.extend(goodbye.parts);
                let len = parts.iter().map(Bytes::len).sum();
                in_flight.batch = Arc::new(Batch { parts, len });
            }
        }
    }
}

/// Maximum payload read from the window at once: bounds what one player keeps alive after the window evicts it.
const READ_BATCH_BYTES: usize = 1 << 20;
/// Reads per socket event. Players send little: an acknowledgement every few megabytes.
const READS_AT_ONCE: usize = 64;

#[cfg(test)]
mod tests {
    use media::{Epoch, Timestamp, TrackId};

    use super::*;

    #[test]
    fn a_player_gets_the_kinds_that_it_wants_and_video_from_an_idr_on() {
        let unit = |track, random_access| {
            let (dts, pts) = (Timestamp::ZERO, Timestamp::ZERO);
            AccessUnit { epoch: Epoch(1), track, dts, pts, random_access, payload: Bytes::from_static(b"x") }
        };
        let mut selection = Selection::default();
        let mut check = |set: Option<(TrackKind, bool)>, expected: [bool; 4]| {
            set.into_iter().for_each(|(kind, receive)| selection.set(kind, receive));
            let units = [
                unit(TrackId::VIDEO, false),
                unit(TrackId::AUDIO, true),
                unit(TrackId::VIDEO, true),
                unit(TrackId::VIDEO, false),
            ];
            assert_eq!(units.map(|unit| selection.admits(&unit)), expected, "{set:?}");
        };
        check(None, [true; 4]);
        check(Some((TrackKind::Video, false)), [false, true, false, false]);
        check(Some((TrackKind::Audio, false)), [false; 4]);
        check(Some((TrackKind::Video, true)), [false, false, true, true]);
        check(Some((TrackKind::Audio, true)), [true; 4]);
        check(Some((TrackKind::Video, true)), [true; 4]);
    }
}
