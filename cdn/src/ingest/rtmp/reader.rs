//! Demuxes an RTMP publisher's messages into calls of [`TrackAssembler`]. Pure: time is a parameter.

use std::time::Instant;

use command::LogLimiter;
use media::flv::{self, Demuxer, Event};
use media::timestamp_mapper::ClockCorrection;
use media::timestamp_unwrap::TimestampUnwrapper;
use media::{Epoch, Timestamp, TrackId};
use net::rtmp::{Gap, Message, Metadata};

use crate::ingest::epochs::TooManyEpochs;
use crate::ingest::pending::{ExpectedTracks, PendingLimits};
use crate::ingest::track_assembler::{Assembled, TrackAssembler};

/// Reads the messages of one publisher.
#[derive(Debug)]
pub(crate) struct Reader {
    demuxer: Demuxer,
    assembler: TrackAssembler,
    /// Tracks of the newest message that were refused, though others were not.
    refused: Vec<Error>,
    correction_log: LogLimiter<(TrackId, ClockCorrection)>,
}

/// Why a message is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// A tag body cannot be parsed. Later messages may still be valid.
    #[error(transparent)]
    Body(#[from] flv::Error),
    /// The publisher began too many epochs and must be disconnected.
    #[error(transparent)]
    TooManyEpochs(#[from] TooManyEpochs),
}

impl Reader {
    /// `last_epoch`: the stream's last epoch before this publisher, and its newest DTS.
    pub(crate) fn new(limits: PendingLimits, last_epoch: Option<(Epoch, Timestamp)>) -> Self {
        let assembler = TrackAssembler::new(limits, last_epoch);
        let correction_log =
            LogLimiter::with_burst(4, |corrections, (track, correction): &(TrackId, ClockCorrection)| {
                tracing::info!(%track, %correction, corrections, "timestamps of the publisher are corrected");
            });
        Self { demuxer: Demuxer::new(assembler.epoch()), assembler, refused: Vec::new(), correction_log }
    }

    /// The epoch of the units that arrive now.
    pub(crate) fn epoch(&self) -> Epoch {
        self.assembler.epoch()
    }

    /// When to call [`on_deadline`](Self::on_deadline); `None` if nothing waits.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.assembler.deadline()
    }

    /// Returns the waiting units if the wait is over at `now`.
    pub(crate) fn on_deadline(&mut self, now: Instant) -> Vec<Assembled> {
        self.assembler.on_deadline(now)
    }

    /// Why tracks of the newest message were refused, though others could be read.
    pub(crate) fn take_refused(&mut self) -> Vec<Error> {
        std::mem::take(&mut self.refused)
    }

    /// Processes a message and returns the units that are ready.
    ///
    /// # Errors
    /// [`Error::Body`] if the message cannot be parsed, [`Error::TooManyEpochs`] if it begins one epoch too many.
    pub(crate) fn message(&mut self, message: Message, now: Instant) -> Result<Vec<Assembled>, Error> {
        self.assembler.on_time(now);
        let mut ready = match message {
            Message::Metadata(metadata) => self.metadata(metadata, now)?,
            Message::Audio { timestamp, body } => {
                let events = self.demuxer.audio(timestamp, body, now)?;
                self.events(events, now)
            }
            Message::Video { timestamp, body } => {
                let events = self.demuxer.video(timestamp, body, now)?;
                self.events(events, now)
            }
            Message::EndOfStream => return Ok(self.assembler.flush()),
            Message::Gap(gap) => self.gap(&gap),
            // The caller handles these.
            Message::Peer(_) | Message::Timing(_) => return Ok(Vec::new()),
        };
        ready.extend(self.assembler.flush_if_due());
        Ok(ready)
    }

    fn events(&mut self, events: Vec<Event>, now: Instant) -> Vec<Assembled> {
        let mut ready = Vec::new();
        for event in events {
            match event {
                Event::Track(track) => ready.extend(self.assembler.on_track(track)),
                Event::Unit(unit) => ready.extend(self.assembler.on_unit(unit, now)),
                Event::ClockCorrected(track, correction) => {
                    self.correction_log.note(now, (track, correction));
                }
                Event::EndOfSequence(track) => tracing::debug!(%track, "end of sequence"),
                Event::Refused(error) => self.refused.push(error.into()),
            }
        }
        ready
    }

    fn gap(&mut self, gap: &Gap) -> Vec<Assembled> {
        let stated = gap.predecessors.iter();
        stated.flat_map(|(track, predecessor)| self.assembler.on_gap(gap.epoch, *track, *predecessor)).collect()
    }

    fn metadata(&mut self, metadata: Metadata, now: Instant) -> Result<Vec<Assembled>, Error> {
        let Metadata { values, epoch, clock, dts } = metadata;
        let mut ready = Vec::new();
        let is_another = |epoch: &Epoch| !self.assembler.is_epoch_stated() || *epoch != self.assembler.epoch();
        if let Some(epoch) = epoch.filter(is_another) {
            let near = dts.or(self.assembler.last_of(epoch));
            let unwrapper = |near: Timestamp| TimestampUnwrapper::near(near.as_millis());
            let mut timeline = near.map_or_else(TimestampUnwrapper::new, unwrapper);
            let retime = |dts: Timestamp| Timestamp::from_millis(timeline.unwrap(dts.as_rtmp()));
            ready = self.assembler.begin_stated_epoch(epoch, now, retime)?;
            self.demuxer.set_epoch(epoch);
            self.demuxer.set_exact(true);
            near.into_iter().for_each(|near| self.demuxer.resume_near(near));
        }
        // The keys of FLV 10.1 §E.5. An encoder writes each if it sends the track.
        let [video, audio] = ["videocodecid", "audiocodecid"].map(|key| values.contains_key(key));
        self.assembler.on_metadata(values, clock, ExpectedTracks { video, audio }, now);
        Ok(ready)
    }
}
