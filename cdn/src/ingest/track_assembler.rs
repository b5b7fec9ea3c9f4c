//! From a publisher's tracks and units to access units with their catalogs, whatever protocol brings them. Pure: time is a parameter.
//!
//! A protocol's reader feeds it decoder configurations and units with 64-bit timestamps of the publisher's own clock; what it knows beside them
//! (metadata, a stated epoch, gaps) it says by calls of their own. Which broadcast a unit belongs to is decided by [`Epochs`], how long the
//! first ones wait by [`Pending`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use media::catalog::{Metadata, Value};
use media::{AccessUnit, Catalog, Epoch, Timestamp, Track, TrackId, TrackOrder, WallClock};

use super::epochs::{Epochs, TooManyEpochs};
use super::pending::{ExpectedTracks, Pending, Settings};

/// Assembles what one publisher sends.
#[derive(Debug)]
pub(crate) struct TrackAssembler {
    epochs: Epochs,
    pending: Pending,
    /// Being made; `shared` is it as it was last given out.
    catalog: Catalog,
    shared: Option<Arc<Catalog>>,
    /// Of the units that came by this connection; a publisher that left some out says so.
    order: TrackOrder,
    /// When the publisher may say something else about itself.
    next_change: Option<Instant>,
    /// What it said before it might.
    deferred_metadata: Option<PublisherMetadata>,
}

/// What a publisher says about itself.
#[derive(Debug)]
struct PublisherMetadata {
    values: Metadata,
    clock: Option<WallClock>,
}

/// A unit that is ready for the stream.
#[derive(Debug)]
pub(crate) struct Assembled {
    /// The one in force.
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) unit: AccessUnit,
    /// DTS of the unit that it follows, as its publisher states; of one that states nothing, the unit that came before.
    pub(crate) predecessor_dts: Option<Timestamp>,
}

impl TrackAssembler {
    /// For a publisher of a stream that had, of its last epoch, units up to a DTS.
    pub(crate) fn new(settings: Settings, last_epoch: Option<(Epoch, Timestamp)>) -> Self {
        let epochs = Epochs::new(last_epoch);
        Self {
            catalog: Catalog::new(epochs.current()),
            epochs,
            pending: Pending::new(settings),
            shared: None,
            order: TrackOrder::default(),
            next_change: None,
            deferred_metadata: None,
        }
    }

    /// The broadcast that units now belong to.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epochs.current()
    }

    /// Whether the publisher named it.
    pub(crate) fn is_epoch_stated(&self) -> bool {
        self.epochs.is_stated()
    }

    /// How far the stream had come in `epoch` before this publisher, if that was its last.
    pub(crate) fn last_of(&self, epoch: Epoch) -> Option<Timestamp> {
        self.epochs.last_of(epoch)
    }

    /// When [`on_deadline`](Self::on_deadline) is to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.pending.deadline()
    }

    /// Gives what has waited long enough by `now`.
    pub(crate) fn on_deadline(&mut self, now: Instant) -> Vec<Assembled> {
        if self.deadline().is_some_and(|until| until <= now) { self.flush() } else { Vec::new() }
    }

    /// A track's decoder configuration, new or changed.
    pub(crate) fn on_track(&mut self, track: Track) -> Vec<Assembled> {
        // A change in mid-wait concerns the units after it: those before it go first.
        let is_change = self.catalog.track(track.id).is_some_and(|known| *known != track);
        let ready = if is_change { self.flush() } else { Vec::new() };
        if self.catalog.set_track(track) {
            self.shared = None;
        }
        ready
    }

    /// A unit with the publisher's own timestamps, in decode order within its track.
    pub(crate) fn on_unit(&mut self, mut unit: AccessUnit, now: Instant) -> Vec<Assembled> {
        if self.catalog.track(unit.track).is_none() {
            tracing::debug!(track = %unit.track, "a unit of a track that is not carried");
            return Vec::new();
        }
        self.epochs.adopt(&mut unit);
        match self.pending.push(unit, now) {
            Some(unit) => vec![self.assemble(unit)],
            None => Vec::new(),
        }
    }

    /// Gives what need not wait any longer: to be called after what may have completed the tracks, or the last unit that may wait.
    pub(crate) fn flush_if_due(&mut self) -> Vec<Assembled> {
        if self.pending.is_due(&self.catalog) { self.flush() } else { Vec::new() }
    }

    /// Ends the wait: gives all that waits.
    pub(crate) fn flush(&mut self) -> Vec<Assembled> {
        let pending = self.pending.take();
        pending.into_iter().map(|unit| self.assemble(unit)).collect()
    }

    /// The publisher left units out, or begins where others have been: the next unit of `track` follows the one at `predecessor`. A publisher that
    /// named no epoch can know nothing of the kind.
    pub(crate) fn on_gap(&mut self, epoch: Epoch, track: TrackId, predecessor: Option<Timestamp>) -> Vec<Assembled> {
        if !self.epochs.is_stated() || epoch != self.epochs.current() {
            return Vec::new();
        }
        // What waits of the track comes before the gap.
        let ready = if self.pending.iter_mut().any(|unit| unit.track == track) { self.flush() } else { Vec::new() };
        self.order.state(epoch, track, predecessor);
        ready
    }

    /// What the publisher says about itself. Each change makes a catalog, which the stream's window holds and all its subscribers are sent: what
    /// comes too soon after the last change is kept until [`on_time`](Self::on_time) takes it.
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

    /// Takes metadata that came too soon, if it is time.
    pub(crate) fn on_time(&mut self, now: Instant) {
        if let Some(metadata) = self.deferred_metadata.take() {
            self.change(metadata, now);
        }
    }

    /// The publisher says whose units these are, and that its timestamps are exact. What waits of an unnamed broadcast is of this one; `retime`
    /// gives the exact DTS of one by the publisher's own.
    ///
    /// # Errors
    /// [`TooManyEpochs`] if it says so too often.
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
        // The clock of another broadcast would date its pictures wrongly.
        self.next_change = None;
        Ok(ready)
    }

    /// Units from now on are of a broadcast that nobody has named: the publisher's clock jumped.
    ///
    /// # Errors
    /// [`TooManyEpochs`] if that happens too often.
    pub(crate) fn begin_own_epoch(&mut self, now: Instant) -> Result<Vec<Assembled>, TooManyEpochs> {
        self.epochs.count(now)?;
        let ready = self.flush();
        let epoch = self.epochs.begin_own();
        self.catalog.clock = None;
        if let Some(metadata) = &mut self.deferred_metadata {
            metadata.clock = None;
        }
        self.begin_epoch(epoch);
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

/// What is kept of a publisher's metadata, by key: it goes to every subscriber.
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

/// How often what a publisher says about itself may change.
const CHANGE_INTERVAL: Duration = Duration::from_secs(1);
/// Keys and values that are kept, in bytes: ten times what encoders send.
const MAX_METADATA: usize = 8 << 10;
