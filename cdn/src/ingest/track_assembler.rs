//! From a publisher's messages to access units with their catalogs. Pure: time is a parameter.
//!
//! The first units wait until all tracks are known, so that the first catalog is the whole one. A publisher that states an epoch is
//! taken at its word; another is given one, and its timeline is put after what the stream had, so that a player's clock never
//! goes back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use media::access_unit::TrackKind;
use media::catalog::Value;
use media::flv::{self, Demuxer, Event};
use media::timestamp_unwrap::TimestampUnwrapper;
use media::{AccessUnit, Catalog, Epoch, Timestamp, TrackId, TrackOrder, WallClock};
use net::rtmp::{Gap, Message, Metadata};

/// Reads one publisher.
#[derive(Debug)]
pub(crate) struct TrackAssembler {
    settings: Settings,
    demuxer: Demuxer,
    /// Being made; `shared` is it as it was last given out.
    catalog: Catalog,
    shared: Option<Arc<Catalog>>,
    /// Whether the publisher stated the epoch.
    is_stated: bool,
    /// Added to the timestamps of a publisher that stated no epoch, in milliseconds; `None` before its first unit.
    timestamp_offset: Option<i64>,
    /// The newest DTS that the stream has had.
    newest: Option<Timestamp>,
    /// What the stream had of the epoch that it had last.
    last_epoch: Option<(Epoch, Timestamp)>,
    pending: Option<Pending>,
    /// Of the units that came by this connection; a publisher that left some out says so.
    order: TrackOrder,
    /// Which tracks the publisher's metadata spoke of.
    expected: Option<ExpectedTracks>,
    /// When the publisher may say something else about itself.
    next_change: Option<Instant>,
    /// What it said before it might.
    deferred_metadata: Option<PublisherMetadata>,
    /// How many broadcasts it has begun since when.
    epochs_begun: Option<(u32, Instant)>,
}

/// Why a message is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// A tag body cannot be read. The next may be right.
    #[error(transparent)]
    Body(#[from] flv::Error),
    /// Every broadcast costs the stream a catalog, and all its players their place: this publisher must go.
    #[error(
        "the publisher began more than {MAX_EPOCHS} broadcasts, or set its clock as often, within {EPOCHS_WITHIN:?}"
    )]
    TooManyEpochs,
}

/// What a publisher says about itself.
#[derive(Debug)]
struct PublisherMetadata {
    values: media::catalog::Metadata,
    clock: Option<WallClock>,
}

/// What a publisher is held to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// How long units wait for tracks.
    pub(crate) track_wait: Duration,
    /// Payload that may wait.
    pub(crate) max_pending_bytes: usize,
}

#[derive(Debug, Default)]
struct Pending {
    units: Vec<(AccessUnit, Option<Timestamp>)>,
    bytes: usize,
    until: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct ExpectedTracks {
    video: bool,
    audio: bool,
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
        let epoch = Epoch(rand::random());
        Self {
            settings,
            demuxer: Demuxer::new(epoch),
            catalog: Catalog::new(epoch),
            shared: None,
            is_stated: false,
            timestamp_offset: None,
            newest: last_epoch.map(|(_, dts)| dts),
            last_epoch,
            pending: Some(Pending::default()),
            order: TrackOrder::default(),
            expected: None,
            next_change: None,
            deferred_metadata: None,
            epochs_begun: None,
        }
    }

    /// The broadcast that units now belong to.
    pub(crate) fn epoch(&self) -> Epoch {
        self.catalog.epoch
    }

    /// Takes a message; gives the units that are ready.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn message(&mut self, message: Message, now: Instant) -> Result<Vec<Assembled>, Error> {
        if let Some(metadata) = self.deferred_metadata.take() {
            self.change(metadata, now);
        }
        let events = match message {
            Message::Metadata(metadata) => {
                let mut ready = self.metadata(metadata, now)?;
                ready.extend(self.flush_if_complete());
                return Ok(ready);
            }
            Message::Audio { timestamp, body } => self.demuxer.audio(timestamp, body)?,
            Message::Video { timestamp, body } => self.demuxer.video(timestamp, body)?,
            Message::EndOfStream => return Ok(self.flush_pending()),
            Message::Gap(gap) => {
                self.gap(&gap);
                return Ok(Vec::new());
            }
            // Dealt with before it comes here.
            Message::Peer(_) | Message::Timing(_) => return Ok(Vec::new()),
        };
        let mut ready = Vec::new();
        for event in events {
            self.event(event, now, &mut ready)?;
        }
        ready.extend(self.flush_if_complete());
        Ok(ready)
    }

    /// When [`on_deadline`](Self::on_deadline) is to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.pending.as_ref().and_then(|pending| pending.until)
    }

    /// Gives what has waited long enough by `now`.
    pub(crate) fn on_deadline(&mut self, now: Instant) -> Vec<Assembled> {
        if self.deadline().is_some_and(|until| until <= now) { self.flush_pending() } else { Vec::new() }
    }

    fn event(&mut self, event: Event, now: Instant, ready: &mut Vec<Assembled>) -> Result<(), Error> {
        match event {
            Event::Track(track) => {
                // A change in mid-wait concerns the units after it: those before it go first.
                if self.catalog.track(track.id).is_some_and(|known| *known != track) {
                    ready.extend(self.flush_pending());
                }
                if self.catalog.set_track(track) {
                    self.shared = None;
                }
            }
            Event::Unit(unit) => self.unit(unit, now, ready),
            Event::Jump { from, to } => {
                tracing::info!(from, to, "the publisher's clock jumped: a new epoch begins");
                self.count_epoch(now)?;
                ready.extend(self.flush_pending());
                self.begin_own_epoch();
            }
            Event::EndOfSequence(track) => tracing::debug!(%track, "end of sequence"),
        }
        Ok(())
    }

    fn count_epoch(&mut self, now: Instant) -> Result<(), Error> {
        let (count, since) = self.epochs_begun.filter(|(_, since)| now < *since + EPOCHS_WITHIN).unwrap_or((0, now));
        self.epochs_begun = Some((count + 1, since));
        if count < MAX_EPOCHS { Ok(()) } else { Err(Error::TooManyEpochs) }
    }

    fn unit(&mut self, mut unit: AccessUnit, now: Instant, ready: &mut Vec<Assembled>) {
        if self.catalog.track(unit.track).is_none() {
            tracing::debug!(track = %unit.track, "a unit of a track that is not carried");
            return;
        }
        unit.epoch = self.catalog.epoch;
        if !self.is_stated {
            let timestamp_offset = *self.timestamp_offset.get_or_insert_with(|| match self.newest {
                Some(newest) => newest.as_millis() + PUBLISHER_GAP_MS - unit.dts.as_millis(),
                None => 0,
            });
            unit.dts = Timestamp::from_millis(unit.dts.as_millis().saturating_add(timestamp_offset));
            unit.pts = Timestamp::from_millis(unit.pts.as_millis().saturating_add(timestamp_offset));
        }
        self.newest = self.newest.max(Some(unit.dts));
        let predecessor_dts = self.order.follow(&unit);
        match &mut self.pending {
            None => ready.push(Assembled { catalog: self.shared_catalog(), unit, predecessor_dts }),
            Some(pending) => {
                pending.until.get_or_insert(now + self.settings.track_wait);
                pending.bytes = pending.bytes.saturating_add(unit.payload.len());
                pending.units.push((unit, predecessor_dts));
                if pending.bytes > self.settings.max_pending_bytes || pending.units.len() > MAX_PENDING_UNITS {
                    ready.extend(self.flush_pending());
                }
            }
        }
    }

    /// The publisher left units out, or begins where others have been.
    fn gap(&mut self, gap: &Gap) {
        if self.is_stated && gap.epoch == self.catalog.epoch {
            for (track, predecessor) in &gap.predecessors {
                self.order.state(gap.epoch, *track, *predecessor);
            }
        }
    }

    fn metadata(&mut self, metadata: Metadata, now: Instant) -> Result<Vec<Assembled>, Error> {
        let Metadata { values, epoch, clock, dts } = metadata;
        let mut ready = Vec::new();
        if let Some(epoch) = epoch.filter(|epoch| !self.is_stated || *epoch != self.catalog.epoch) {
            self.count_epoch(now)?;
            if self.is_stated {
                ready = self.flush_pending();
            }
            self.begin_stated_epoch(epoch, dts);
            // The clock of another broadcast would date its pictures wrongly.
            self.next_change = None;
        }
        let values = within_bounds(values);
        self.expected = Some(ExpectedTracks::of(&values));
        self.change(PublisherMetadata { values, clock }, now);
        Ok(ready)
    }

    /// Takes what is new of `about`, or keeps it until the last change is old enough: each makes a catalog, which the stream's
    /// window holds and all its subscribers are sent.
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

    /// The publisher says whose units these are, and that its timestamps are exact; `dts` is near the next one.
    fn begin_stated_epoch(&mut self, epoch: Epoch, dts: Option<Timestamp>) {
        self.demuxer.set_epoch(epoch);
        self.demuxer.set_exact(true);
        let last = self.last_epoch.filter(|(last, _)| *last == epoch).map(|(_, dts)| dts);
        let near = dts.or(last);
        if let Some(near) = near {
            self.demuxer.resume_near(near);
        }
        // Units that wait are of the publisher that now says who it is: they are named and timed as it would have.
        let timestamp_offset = self.timestamp_offset.take().unwrap_or(0);
        let mut timeline = near.map_or_else(TimestampUnwrapper::new, |near| TimestampUnwrapper::near(near.as_millis()));
        for (unit, predecessor_dts) in self.pending.iter_mut().flat_map(|pending| &mut pending.units) {
            let composition = unit.pts.as_millis() - unit.dts.as_millis();
            let dts = timeline.unwrap_exact(Timestamp::from_millis(unit.dts.as_millis() - timestamp_offset).as_rtmp());
            unit.epoch = epoch;
            unit.dts = Timestamp::from_millis(dts);
            unit.pts = Timestamp::from_millis(dts + composition);
            *predecessor_dts = self.order.follow(unit);
        }
        let pending = self.pending.iter().flat_map(|pending| &pending.units).map(|(unit, _)| unit.dts).max();
        self.newest = pending.or(self.last_epoch.map(|(_, dts)| dts)).or(self.newest);
        self.begin_epoch(epoch, true);
    }

    /// Units from now on are of a broadcast that nobody has named.
    fn begin_own_epoch(&mut self) {
        let epoch = Epoch(rand::random());
        self.demuxer.set_epoch(epoch);
        self.demuxer.set_exact(false);
        self.catalog.clock = None;
        if let Some(metadata) = &mut self.deferred_metadata {
            metadata.clock = None;
        }
        self.begin_epoch(epoch, false);
    }

    fn begin_epoch(&mut self, epoch: Epoch, is_stated: bool) {
        self.catalog.epoch = epoch;
        self.is_stated = is_stated;
        self.timestamp_offset = None;
        self.shared = None;
    }

    fn flush_if_complete(&mut self) -> Vec<Assembled> {
        let has = |kind| self.catalog.tracks.iter().any(|track| track.id.kind == kind);
        let wants = self.expected.filter(|p| p.video || p.audio).unwrap_or(ExpectedTracks { video: true, audio: true });
        let is_complete = (!wants.video || has(TrackKind::Video)) && (!wants.audio || has(TrackKind::Audio));
        if is_complete { self.flush_pending() } else { Vec::new() }
    }

    /// Ends the wait.
    fn flush_pending(&mut self) -> Vec<Assembled> {
        let Some(pending) = self.pending.take().map(|pending| pending.units) else { return Vec::new() };
        let shared = self.shared_catalog();
        let ready = |(unit, predecessor_dts)| Assembled { catalog: shared.clone(), unit, predecessor_dts };
        pending.into_iter().map(ready).collect()
    }

    fn shared_catalog(&mut self) -> Arc<Catalog> {
        self.shared.get_or_insert_with(|| Arc::new(self.catalog.clone())).clone()
    }
}

impl ExpectedTracks {
    /// FLV 10.1 §E.5: `videocodecid` and `audiocodecid` are there if the track is.
    fn of(values: &media::catalog::Metadata) -> Self {
        Self { video: values.contains_key("videocodecid"), audio: values.contains_key("audiocodecid") }
    }
}

/// What is kept of a publisher's metadata, by key: it goes to every subscriber.
fn within_bounds(values: media::catalog::Metadata) -> media::catalog::Metadata {
    let mut room = MAX_METADATA;
    let fits = |(key, value): &(String, Value)| {
        let size = key.len() + if let Value::String(text) = value { text.len() } else { size_of::<f64>() };
        let left = room.checked_sub(size);
        room = left.unwrap_or(room);
        left.is_some()
    };
    values.into_iter().filter(fits).collect()
}

/// The newest DTS of all tracks that a stream had of its last epoch.
pub(crate) fn last_epoch(high_water: &crate::hub::HighWaterMarks) -> Option<(Epoch, Timestamp)> {
    let (epoch, tracks): (Epoch, &[(TrackId, Timestamp)]) = high_water.last()?;
    tracks.iter().map(|(_, dts)| *dts).max().map(|dts| (epoch, dts))
}

/// Between the timelines of two publishers, in milliseconds: about a picture.
const PUBLISHER_GAP_MS: i64 = 40;
/// How often what a publisher says about itself may change.
const CHANGE_INTERVAL: Duration = Duration::from_secs(1);
/// Keys and values that are kept, in bytes: ten times what encoders send.
const MAX_METADATA: usize = 8 << 10;
/// Broadcasts that one connection may begin within [`EPOCHS_WITHIN`]: playlists and looping files begin one an item.
const MAX_EPOCHS: u32 = 30;
const EPOCHS_WITHIN: Duration = Duration::from_secs(60);
/// Units that may wait, however small: many seconds of sound.
const MAX_PENDING_UNITS: usize = 4096;
