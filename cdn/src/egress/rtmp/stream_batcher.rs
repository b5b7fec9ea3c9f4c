//! One stream in one shard: the shard's cursor, the newest batch, and the players that receive it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use media::{Catalog, Cursor, Epoch, Timestamp, TrackOrder};

use super::batch::{self, Batch};
use crate::hub::{HubStream, PublishState, WakerGuard};

/// A stream with players in this shard.
#[derive(Debug)]
pub(super) struct StreamBatcher {
    pub(super) stream: Arc<HubStream>,
    /// Keys of its players.
    pub(super) members: Vec<usize>,
    pub(super) is_live: bool,
    cursor: Cursor,
    position: u64,
    newest: Option<NewestBatch>,
    catalog: Option<Arc<Catalog>>,
    /// Order of the units sent to a player that received all batches.
    order: TrackOrder,
    looked: Instant,
    /// DTS of the last video frame. `picture_interval` is the DTS difference to the one before.
    last_picture: Option<(Epoch, Timestamp)>,
    picture_interval: Option<Duration>,
    _waker: WakerGuard,
}

/// The newest units, serialised.
#[derive(Debug)]
pub(super) struct NewestBatch {
    from: u64,
    pub(super) to: u64,
    catalog_before: Option<Arc<Catalog>>,
    pub(super) catalog_after: Arc<Catalog>,
    pub(super) batch: Arc<Batch>,
}

/// Change of the stream's state since the last poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StateChange {
    None,
    /// The grace period is over, or the stream is removed.
    Ended,
}

impl StreamBatcher {
    pub(super) fn new(stream: Arc<HubStream>, waker: WakerGuard, now: Instant) -> Self {
        // The waker is registered already, so units after this position wake the shard.
        let position = stream.next_position();
        let is_live = matches!(stream.state(), PublishState::Live { .. } | PublishState::Disconnected { .. });
        Self {
            catalog: stream.catalog(),
            stream,
            members: Vec::new(),
            is_live,
            cursor: Cursor::at(position),
            position,
            newest: None,
            order: TrackOrder::default(),
            looked: now,
            last_picture: None,
            picture_interval: None,
            _waker: waker,
        }
    }

    /// Window position at which the next batch starts.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Makes a batch of the new units. Returns whether there were any.
    pub(super) fn advance(&mut self, now: Instant) -> bool {
        self.looked = now;
        let read = self.stream.read(&mut self.cursor, BATCH);
        let (Some(first), Some(last)) = (read.entries.first(), read.entries.last()) else { return false };
        let (from, to) = (first.position, last.position + 1);
        for entry in read.entries.iter().filter(|entry| entry.unit.track.is_video()) {
            let unit = &entry.unit;
            let before = self.last_picture.replace((unit.epoch, unit.dts));
            self.picture_interval =
                before.filter(|(epoch, _)| *epoch == unit.epoch).map(|(_, dts)| unit.dts.since(dts));
        }
        read.entries.iter().for_each(|entry| self.stream.latency().on_relayed(&entry.unit, "rtmp"));
        let catalog_before = self.catalog.clone();
        let batch = Arc::new(batch::encode(&read.entries, &mut self.catalog, &mut self.order));
        let catalog_after = last.catalog.clone();
        self.newest = Some(NewestBatch { from, to, catalog_before, catalog_after, batch });
        self.position = to;
        true
    }

    /// The newest batch, if it starts at `position` and was encoded for receivers that have `catalog`.
    pub(super) fn newest_for(&self, position: Option<u64>, catalog: Option<&Arc<Catalog>>) -> Option<&NewestBatch> {
        let newest = self.newest.as_ref().filter(|newest| Some(newest.from) == position)?;
        match (&newest.catalog_before, catalog) {
            (Some(before), Some(known)) => Arc::ptr_eq(before, known).then_some(newest),
            (None, None) => Some(newest),
            _ => None,
        }
    }

    /// Drops the newest batch, so that it does not keep payload alive that the window evicted. Players that lag read the window instead.
    pub(super) fn forget_batch(&mut self) {
        self.newest = None;
    }

    /// When to poll the stream without a new video frame, since audio alone does not wake the shard. `None` while the stream is not on air.
    pub(super) fn deadline(&self, audio_batch_delay: Duration) -> Option<Instant> {
        // If a video frame is due soon, audio is sent with it: one write per player instead of two.
        let rides = self.picture_interval.filter(|interval| *interval <= FREQUENT).map(|interval| interval * 3 / 2);
        let wait = rides.map_or(audio_batch_delay, |rides| rides.max(audio_batch_delay));
        self.is_live.then_some(self.looked + wait)
    }

    /// Compares the stream's state with the last poll.
    pub(super) fn poll_state(&mut self) -> StateChange {
        let was_live = self.is_live;
        self.is_live = matches!(self.stream.state(), PublishState::Live { .. } | PublishState::Disconnected { .. });
        let has_ended = was_live && !self.is_live || self.stream.is_removed();
        if has_ended { StateChange::Ended } else { StateChange::None }
    }
}

/// Maximum payload of one batch. Only a publisher's burst exceeds it; the rest follows in the next pass.
const BATCH: usize = 1 << 20;
/// Audio waits for video frames only if their interval is at most this.
const FREQUENT: Duration = Duration::from_millis(100);
