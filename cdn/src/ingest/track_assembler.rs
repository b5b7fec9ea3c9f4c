//! Combines a publisher's tracks and units into access units with catalogs, independent of the protocol. Pure: time is a parameter.
//!
//! A protocol's reader passes decoder configurations, units with 64-bit timestamps of the publisher's clock, metadata, stated epochs and
//! gaps. [`Epochs`] assigns units to epochs; [`Pending`] decides how long the first units wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use media::catalog::{Metadata, Value};
use media::{AccessUnit, Catalog, Epoch, Timestamp, Track, TrackId, TrackOrder, WallClock};

use super::epochs::{Epochs, TooManyEpochs};
use super::pending::{ExpectedTracks, Pending, PendingLimits};

/// Assembles the access units of one publisher.
#[derive(Debug)]
pub(crate) struct TrackAssembler {
    epochs: Epochs,
    pending: Pending,
    /// The current catalog. `shared` is the copy given out with units; `None` if the catalog has changed since.
    catalog: Catalog,
    shared: Option<Arc<Catalog>>,
    /// Order of the units received over this connection. A publisher that skips units states the gap.
    order: TrackOrder,
    /// When the metadata may change again; see [`CHANGE_INTERVAL`].
    next_change: Option<Instant>,
    /// Metadata received before `next_change`.
    deferred_metadata: Option<PublisherMetadata>,
}

/// Metadata of a publisher, and its clock: wall-clock time of PTS 0.
#[derive(Debug)]
struct PublisherMetadata {
    values: Metadata,
    clock: Option<WallClock>,
}

/// A unit that is ready to be pushed to the hub.
#[derive(Debug)]
pub(crate) struct Assembled {
    /// The catalog that applies to the unit.
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) unit: AccessUnit,
    /// DTS of the preceding unit of the track: as stated by the publisher, or else of the unit received before.
    pub(crate) predecessor_dts: Option<Timestamp>,
}

impl TrackAssembler {
    /// `last_epoch`: the stream's last epoch before this publisher, and its newest DTS.
    pub(crate) fn new(limits: PendingLimits, last_epoch: Option<(Epoch, Timestamp)>) -> Self {
        let epochs = Epochs::new(last_epoch);
        Self {
            catalog: Catalog::new(epochs.current()),
            epochs,
            pending: Pending::new(limits),
            shared: None,
            order: TrackOrder::default(),
            next_change: None,
            deferred_metadata: None,
        }
    }

    /// The epoch of the units that arrive now.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epochs.current()
    }

    /// Whether the publisher stated the current epoch.
    pub(crate) fn is_epoch_stated(&self) -> bool {
        self.epochs.is_stated()
    }

    /// The newest DTS of `epoch` before this publisher, if that was the stream's last epoch.
    pub(crate) fn last_of(&self, epoch: Epoch) -> Option<Timestamp> {
        self.epochs.last_of(epoch)
    }

    /// When to call [`on_deadline`](Self::on_deadline); `None` if nothing waits.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.pending.deadline()
    }

    /// Returns the waiting units if the wait is over at `now`.
    pub(crate) fn on_deadline(&mut self, now: Instant) -> Vec<Assembled> {
        if self.deadline().is_some_and(|until| until <= now) { self.flush() } else { Vec::new() }
    }

    /// Adds a track, or changes its decoder configuration. Returns units that waited and precede the change.
    pub(crate) fn on_track(&mut self, track: Track) -> Vec<Assembled> {
        // A change applies to later units only, so the waiting ones are flushed first.
        let is_change = self.catalog.track(track.id).is_some_and(|known| *known != track);
        let ready = if is_change { self.flush() } else { Vec::new() };
        if self.catalog.set_track(track) {
            self.shared = None;
        }
        ready
    }

    /// Adds a unit with timestamps of the publisher's clock, in decode order within its track. Returns it if it need not wait.
    pub(crate) fn on_unit(&mut self, mut unit: AccessUnit, now: Instant) -> Vec<Assembled> {
        if self.catalog.track(unit.track).is_none() {
            tracing::debug!(track = %unit.track, "dropped a unit of a track that is not in the catalog");
            return Vec::new();
        }
        self.epochs.adopt(&mut unit);
        match self.pending.push(unit, now) {
            Some(unit) => vec![self.assemble(unit)],
            None => Vec::new(),
        }
    }

    /// Returns the waiting units if the wait should end. Call it after adding tracks, metadata or units.
    pub(crate) fn flush_if_due(&mut self) -> Vec<Assembled> {
        if self.pending.is_due(&self.catalog) { self.flush() } else { Vec::new() }
    }

    /// Ends the wait and returns the waiting units.
    pub(crate) fn flush(&mut self) -> Vec<Assembled> {
        let pending = self.pending.take();
        pending.into_iter().map(|unit| self.assemble(unit)).collect()
    }

    /// The publisher states that the next unit of `track` follows the one at `predecessor`, because it skipped units or resumes a broadcast. Ignored
    /// unless the publisher stated the current epoch.
    pub(crate) fn on_gap(&mut self, epoch: Epoch, track: TrackId, predecessor: Option<Timestamp>) -> Vec<Assembled> {
        if !self.epochs.is_stated() || epoch != self.epochs.current() {
            return Vec::new();
        }
        // Waiting units of the track precede the gap.
        let ready = if self.pending.iter_mut().any(|unit| unit.track == track) { self.flush() } else { Vec::new() };
        self.order.state(epoch, track, predecessor);
        ready
    }

    /// Sets the publisher's metadata. Each change creates a catalog, which the window holds and every subscriber receives, so changes within
    /// [`CHANGE_INTERVAL`] of the last one are deferred until [`on_time`](Self::on_time).
    pub(crate) fn on_metadata(
        &mut self,
        values: Metadata,
        clock: Option<WallClock>,
        expected: ExpectedTracks,
        now: Instant,
    ) {
        self.pending.expect(expected);
        self.change(PublisherMetadata { values: within_bounds(values), clock }, now);
    }

    /// Applies deferred metadata once it is due.
    pub(crate) fn on_time(&mut self, now: Instant) {
        if let Some(metadata) = self.deferred_metadata.take() {
            self.change(metadata, now);
        }
    }

    /// The publisher states the epoch of its units; its timestamps are exact from now on. Units waiting without a stated epoch move to this one;
    /// `retime` maps their DTS to the exact DTS.
    ///
    /// # Errors
    /// [`TooManyEpochs`] if the publisher begins epochs too often.
    pub(crate) fn begin_stated_epoch(
        &mut self,
        epoch: Epoch,
        now: Instant,
        retime: impl FnMut(Timestamp) -> Timestamp,
    ) -> Result<Vec<Assembled>, TooManyEpochs> {
        self.epochs.count(now)?;
        let ready = if self.epochs.is_stated() { self.flush() } else { Vec::new() };
        self.epochs.begin_stated(epoch, self.pending.iter_mut(), retime);
        self.begin_epoch(epoch);
        // Deferring the new metadata would leave the previous broadcast's clock in the catalog and give wrong capture times.
        self.next_change = None;
        Ok(ready)
    }

    fn begin_epoch(&mut self, epoch: Epoch) {
        self.catalog.epoch = epoch;
        self.shared = None;
    }

    fn change(&mut self, metadata: PublisherMetadata, now: Instant) {
        self.deferred_metadata = None;
        if self.catalog.metadata == metadata.values && self.catalog.clock == metadata.clock {
            return;
        }
        if self.next_change.is_some_and(|next| now < next) {
            self.deferred_metadata = Some(metadata);
            return;
        }
        self.next_change = Some(now + CHANGE_INTERVAL);
        self.catalog.metadata = metadata.values;
        self.catalog.clock = metadata.clock;
        self.shared = None;
    }

    fn assemble(&mut self, unit: AccessUnit) -> Assembled {
        let catalog = self.shared.get_or_insert_with(|| Arc::new(self.catalog.clone())).clone();
        let predecessor_dts = self.order.follow(&unit);
        Assembled { catalog, unit, predecessor_dts }
    }
}

/// The metadata entries that fit into [`MAX_METADATA`]; they are sent to every subscriber.
fn within_bounds(values: Metadata) -> Metadata {
    let mut room = MAX_METADATA;
    let fits = |(key, value): &(String, Value)| {
        let size = key.len() + if let Value::String(text) = value { text.len() } else { size_of::<f64>() };
        let left = room.checked_sub(size);
        room = left.unwrap_or(room);
        left.is_some()
    };
    values.into_iter().filter(fits).collect()
}

/// Minimum time between two changes of a publisher's metadata.
const CHANGE_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum size of the keys and values kept, in bytes: ten times what encoders send.
const MAX_METADATA: usize = 8 << 10;
