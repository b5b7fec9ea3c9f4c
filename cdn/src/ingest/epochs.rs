//! Which broadcast a publisher's units belong to, and where its timeline lies. Pure: time is a parameter.
//!
//! A publisher that states an epoch is taken at its word. Another is given one, and its timeline is put after what the stream had, so that a
//! player's clock never goes back.

use std::time::{Duration, Instant};

use media::{AccessUnit, Epoch, Timestamp};

/// The epochs of one publisher.
#[derive(Debug)]
pub(super) struct Epochs {
    current: Epoch,
    /// Whether the publisher stated it.
    is_stated: bool,
    /// Added to the timestamps of a publisher that stated no epoch, in milliseconds; `None` before its first unit.
    timestamp_offset: Option<i64>,
    /// The newest DTS that the stream has had.
    newest: Option<Timestamp>,
    /// The epoch that the stream had before this publisher, and how far.
    last: Option<(Epoch, Timestamp)>,
    /// How many it has begun since when.
    begun: Option<(u32, Instant)>,
}

/// Every broadcast costs the stream a catalog, and all its players their place: this publisher must go.
#[derive(Debug, thiserror::Error)]
#[error("the publisher began more than {MAX_EPOCHS} broadcasts, or set its clock as often, within {EPOCHS_WITHIN:?}")]
pub(crate) struct TooManyEpochs;

impl Epochs {
    /// For a publisher of a stream that had units of `last` up to a DTS.
    pub(super) fn new(last: Option<(Epoch, Timestamp)>) -> Self {
        let (current, newest) = (Epoch(rand::random()), last.map(|(_, dts)| dts));
        Self { current, is_stated: false, timestamp_offset: None, newest, last, begun: None }
    }

    /// The one that units now belong to.
    pub(super) fn current(&self) -> Epoch {
        self.current
    }

    /// Whether the publisher stated it, and has exact timestamps.
    pub(super) fn is_stated(&self) -> bool {
        self.is_stated
    }

    /// How far the stream had come in `epoch` before this publisher, if that was the last that it had.
    pub(super) fn last_of(&self, epoch: Epoch) -> Option<Timestamp> {
        self.last.filter(|(last, _)| *last == epoch).map(|(_, dts)| dts)
    }

    /// Counts one that is about to begin.
    ///
    /// # Errors
    /// [`TooManyEpochs`] if it is one too many.
    pub(super) fn count(&mut self, now: Instant) -> Result<(), TooManyEpochs> {
        let (count, since) = self.begun.filter(|(_, since)| now < *since + EPOCHS_WITHIN).unwrap_or((0, now));
        self.begun = Some((count + 1, since));
        if count < MAX_EPOCHS { Ok(()) } else { Err(TooManyEpochs) }
    }

    /// The publisher stated that its units are of `epoch`. Units that are pending are of it too, and are timed by `retime`, which takes the
    /// publisher's own DTS.
    pub(super) fn begin_stated<'a>(
        &mut self,
        epoch: Epoch,
        pending: impl IntoIterator<Item = &'a mut AccessUnit>,
        mut retime: impl FnMut(Timestamp) -> Timestamp,
    ) {
        let offset = self.timestamp_offset.take().unwrap_or(0);
        let mut newest = None;
        for unit in pending {
            let composition = unit.composition_time();
            unit.epoch = epoch;
            unit.dts = retime(Timestamp::from_millis(unit.dts.as_millis() - offset));
            unit.pts = Timestamp::from_millis(unit.dts.as_millis() + composition);
            newest = newest.max(Some(unit.dts));
        }
        self.newest = newest.or(self.last.map(|(_, dts)| dts)).or(self.newest);
        (self.current, self.is_stated) = (epoch, true);
    }

    /// Units from now on are of a broadcast that nobody has named.
    pub(super) fn begin_own(&mut self) -> Epoch {
        (self.current, self.is_stated, self.timestamp_offset) = (Epoch(rand::random()), false, None);
        self.current
    }

    /// Names a unit that came with the publisher's own timestamps, and puts it where it belongs on the stream's timeline.
    pub(super) fn adopt(&mut self, unit: &mut AccessUnit) {
        unit.epoch = self.current;
        if !self.is_stated {
            let offset = *self.timestamp_offset.get_or_insert_with(|| match self.newest {
                Some(newest) => newest.as_millis() + PUBLISHER_GAP_MS - unit.dts.as_millis(),
                None => 0,
            });
            unit.dts = Timestamp::from_millis(unit.dts.as_millis().saturating_add(offset));
            unit.pts = Timestamp::from_millis(unit.pts.as_millis().saturating_add(offset));
        }
        self.newest = self.newest.max(Some(unit.dts));
    }
}

/// Between the timelines of two publishers, in milliseconds: about a picture.
const PUBLISHER_GAP_MS: i64 = 40;
/// Broadcasts that one connection may begin within [`EPOCHS_WITHIN`]: playlists and looping files begin one an item.
const MAX_EPOCHS: u32 = 30;
/// See [`MAX_EPOCHS`].
const EPOCHS_WITHIN: Duration = Duration::from_secs(60);
