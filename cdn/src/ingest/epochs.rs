//! Assigns a publisher's units to epochs and maps their timestamps to the stream's timeline. Pure: time is a parameter.
//!
//! The epoch and timestamps of a publisher that states an epoch are used unchanged. Any other publisher gets a random epoch, and its timestamps
//! are shifted past the newest DTS of the stream, so that a player's clock never goes back.

use std::time::{Duration, Instant};

use media::{AccessUnit, Epoch, Timestamp};

/// The epochs of one publisher.
#[derive(Debug)]
pub(super) struct Epochs {
    current: Epoch,
    /// Whether the publisher stated the current epoch.
    is_stated: bool,
    /// Added to the timestamps of a publisher that stated no epoch, in milliseconds; `None` before its first unit.
    timestamp_offset: Option<i64>,
    /// The newest DTS of the stream, from this publisher or an earlier one.
    newest: Option<Timestamp>,
    /// The stream's last epoch before this publisher, and its newest DTS.
    last: Option<(Epoch, Timestamp)>,
    /// Number of epochs begun in the current counting interval, and its start.
    begun: Option<(u32, Instant)>,
}

/// The publisher began more than [`MAX_EPOCHS`] epochs within [`EPOCHS_WITHIN`] and is disconnected: each new epoch costs the stream a catalog
/// and makes all players start over.
#[derive(Debug, thiserror::Error)]
#[error("the publisher began more than {MAX_EPOCHS} broadcasts within {EPOCHS_WITHIN:?}")]
pub(crate) struct TooManyEpochs;

impl Epochs {
    /// `last`: the stream's last epoch before this publisher, and its newest DTS.
    pub(super) fn new(last: Option<(Epoch, Timestamp)>) -> Self {
        let (current, newest) = (Epoch(rand::random()), last.map(|(_, dts)| dts));
        Self { current, is_stated: false, timestamp_offset: None, newest, last, begun: None }
    }

    /// The epoch of the units that arrive now.
    pub(super) fn current(&self) -> Epoch {
        self.current
    }

    /// Whether the publisher stated the current epoch; if so, its timestamps are used unchanged.
    pub(super) fn is_stated(&self) -> bool {
        self.is_stated
    }

    /// The newest DTS of `epoch` before this publisher, if that was the stream's last epoch.
    pub(super) fn last_of(&self, epoch: Epoch) -> Option<Timestamp> {
        self.last.filter(|(last, _)| *last == epoch).map(|(_, dts)| dts)
    }

    /// Counts an epoch that is about to begin.
    ///
    /// # Errors
    /// [`TooManyEpochs`] if that exceeds [`MAX_EPOCHS`] within [`EPOCHS_WITHIN`].
    pub(super) fn count(&mut self, now: Instant) -> Result<(), TooManyEpochs> {
        let (count, since) = self.begun.filter(|(_, since)| now < *since + EPOCHS_WITHIN).unwrap_or((0, now));
        self.begun = Some((count + 1, since));
        if count < MAX_EPOCHS { Ok(()) } else { Err(TooManyEpochs) }
    }

    /// Begins `epoch`, which the publisher stated. Pending units move to it; `retime` maps the publisher's DTS to the exact DTS.
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

    /// Sets a unit's epoch, and maps its timestamps from the publisher's clock to the stream's timeline.
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

/// Gap between the timelines of two publishers, in milliseconds: about one frame.
const PUBLISHER_GAP_MS: i64 = 40;
/// Epochs that one connection may begin within [`EPOCHS_WITHIN`].
const MAX_EPOCHS: u32 = 30;
/// Interval over which [`MAX_EPOCHS`] is counted.
const EPOCHS_WITHIN: Duration = Duration::from_secs(60);
