//! Reads tag bodies into tracks and access units.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;

use super::body::{self, Content, Packet};
use super::{Error, Event};
use crate::access_unit::{AccessUnit, Epoch, TrackId, TrackKind};
use crate::catalog::{MAX_TRACKS, Track};
use crate::codec::{self, Codec, CodecConfig, Format, aac, nal, opus};
use crate::time::Timestamp;
use crate::timestamp_mapper::{Mapped, TimestampMapper};
use crate::timestamp_unwrap::TimestampUnwrapper;

/// Reads the tag bodies of one connection.
///
/// The payloads of units are slices of the bodies: nothing is copied or changed. The exceptions are H.264 and HEVC with NAL unit lengths of 1
/// or 2 bytes, which are rewritten to 4, and AAC with ADTS headers, which are removed.
///
/// Timestamps of a foreign publisher are corrected by a [`TimestampMapper`]. Those of a publisher that states an epoch are taken as they are
/// ([`Demuxer::set_exact`]).
#[derive(Debug)]
pub struct Demuxer {
    epoch: Epoch,
    exact: bool,
    timeline: TimestampUnwrapper,
    mapper: TimestampMapper,
    tracks: BTreeMap<TrackId, State>,
}

/// When a message was made, by its publisher's clock, and when it arrived.
#[derive(Clone, Copy, Debug)]
struct MessageTime {
    /// 32-bit milliseconds that wrap.
    timestamp: u32,
    arrived: Instant,
}

#[derive(Debug)]
struct State {
    track: Track,
    /// The record as the publisher sent it, to recognise a repetition.
    sent_record: Bytes,
    /// Size of the NAL unit lengths in the bodies, if it is not 4.
    short_lengths: Option<usize>,
}

impl Demuxer {
    /// A demuxer for a connection whose units belong to `epoch`.
    pub fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            exact: false,
            timeline: TimestampUnwrapper::new(),
            mapper: TimestampMapper::new(),
            tracks: BTreeMap::new(),
        }
    }

    /// Sets the epoch of the following units. The tracks stay.
    ///
    /// With exact timestamps, another epoch is another clock: its first timestamp is taken as it is.
    pub fn set_epoch(&mut self, epoch: Epoch) {
        if self.exact && epoch != self.epoch {
            self.timeline = TimestampUnwrapper::new();
        }
        self.epoch = epoch;
    }

    /// Forgets all tracks: the next decoder configuration of each is reported again, even if it is the same. For a sender that announces every track
    /// of a new broadcast, so that a track which only the old one had disappears.
    pub fn forget_tracks(&mut self) {
        self.tracks.clear();
    }

    /// Sets whether timestamps are exact DTS, because the publisher states an epoch. Exact timestamps are not corrected and never jump.
    pub fn set_exact(&mut self, exact: bool) {
        self.exact = exact;
    }

    /// Continues a broadcast that was last seen at `dts`, so that a clock that has wrapped since its start is unwrapped to the same point. To be called
    /// before the first unit.
    pub fn resume_near(&mut self, dts: Timestamp) {
        self.timeline = TimestampUnwrapper::near(dts.as_millis());
    }

    /// The tracks so far, with which the catalog of a new epoch starts.
    pub fn tracks(&self) -> impl Iterator<Item = &Track> {
        self.tracks.values().map(|state| &state.track)
    }

    /// Reads the body of an audio message. `timestamp` is that of the message: 32-bit milliseconds that wrap. `arrived` is when the message
    /// arrived.
    ///
    /// If a body contains several tracks and one is refused, the others are still returned, and after them an [`Event::Refused`] for each error, at
    /// most [`MAX_TRACKS`]: the body is an error only if it yields nothing else.
    ///
    /// # Errors
    /// If the body is malformed, of a codec that is not supported, or of a track without a decoder configuration.
    pub fn audio(&mut self, timestamp: u32, body: Bytes, arrived: Instant) -> Result<Vec<Event>, Error> {
        self.read(TrackKind::Audio, timestamp, body, arrived)
    }

    /// Reads the body of a video message, like [`audio`](Self::audio).
    ///
    /// # Errors
    /// As for [`audio`](Self::audio).
    pub fn video(&mut self, timestamp: u32, body: Bytes, arrived: Instant) -> Result<Vec<Event>, Error> {
        self.read(TrackKind::Video, timestamp, body, arrived)
    }

    fn read(&mut self, kind: TrackKind, timestamp: u32, body: Bytes, arrived: Instant) -> Result<Vec<Event>, Error> {
        let (mut events, mut refused) = (Vec::new(), Vec::new());
        for packet in body::packets(kind, body)? {
            let read = packet.and_then(|packet| self.packet(MessageTime { timestamp, arrived }, packet, &mut events));
            let error = read.err().filter(|error| refused.len() < MAX_TRACKS && !refused.contains(error));
            refused.extend(error);
        }
        if events.is_empty() && !refused.is_empty() {
            return Err(refused.swap_remove(0));
        }
        events.extend(refused.into_iter().map(Event::Refused));
        Ok(events)
    }

    fn packet(&mut self, time: MessageTime, packet: Packet, events: &mut Vec<Event>) -> Result<(), Error> {
        let Packet { track, codec, content } = packet;
        match content {
            Content::SequenceStart(record) => self.sequence_start(track, codec, record, events),
            Content::Frame { payload, .. } if payload.is_empty() => Ok(()),
            Content::Frame { composition, payload } => self.frame(time, track, codec, composition, payload, events),
            Content::SequenceEnd => {
                if self.tracks.contains_key(&track) {
                    events.push(Event::EndOfSequence(track));
                }
                Ok(())
            }
            Content::Channels(channels) => self.channels(track, codec, channels, events),
        }
    }

    fn sequence_start(
        &mut self,
        id: TrackId,
        codec: Codec,
        record: Bytes,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        // MP3 has no sequence header. That of Opus may be empty, and the stream is then mono or stereo (Enhanced RTMP v2, `ExAudioTagBody`).
        if codec == Codec::Mp3 {
            return Ok(());
        }
        if self.tracks.get(&id).is_some_and(|state| state.track.config.codec == codec && state.sent_record == record) {
            return Ok(());
        }
        // A copy: the record outlives its message, whose memory it would hold.
        let sent_record = Bytes::copy_from_slice(record.get(..codec::MAX_RECORD + 1).unwrap_or(&record));
        let record = match codec {
            Codec::Opus if sent_record.is_empty() => opus::OpusHead::for_channels(2).map(|head| head.build()),
            _ => Ok(sent_record.clone()),
        };
        let config = record.and_then(|record| CodecConfig::from_record(codec, record));
        let config = config.map_err(|source| Error::Codec { track: id, source })?;
        let length_size = config.nal_length_size().map_err(|source| Error::Codec { track: id, source })?;
        let state = self.begin(id, config.with_four_byte_lengths(), events)?;
        state.sent_record = sent_record;
        state.short_lengths = length_size.filter(|size| *size != 4);
        Ok(())
    }

    fn frame(
        &mut self,
        time: MessageTime,
        id: TrackId,
        codec: Codec,
        composition: i32,
        payload: Bytes,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let is_known = |state: &&State| state.track.config.codec == codec;
        let payload = match self.tracks.get(&id).filter(is_known).and_then(|state| state.short_lengths) {
            Some(size) => {
                nal::with_four_byte_lengths(&payload, size).map_err(|source| Error::Codec { track: id, source })?
            }
            None => payload,
        };
        let random_access = codec::is_random_access(codec, &payload);
        // Decoders follow what the stream carries, so that is what the configuration must say, whatever the sequence header said.
        let (in_band, payload) = match codec {
            // An ADTS header does not belong here. It states less than a sequence header.
            Codec::Aac
                if self.tracks.get(&id).filter(is_known).is_none_or(|state| may_have_adts(&state.track.config)) =>
            {
                let (header, payload) =
                    aac::strip_adts(payload).map_err(|source| Error::Codec { track: id, source })?;
                let is_new = self.tracks.get(&id).is_none_or(|state| !is_known(&state));
                let record = header.filter(|_| is_new).and_then(|header| header.build().ok());
                (record.and_then(|record| CodecConfig::from_record(codec, record).ok()), payload)
            }
            _ if random_access => (CodecConfig::in_band(codec, &payload), payload),
            _ => (None, payload),
        };
        let known = self.tracks.get(&id).filter(is_known);
        match known {
            None if codec == Codec::Mp3 => {
                let config = CodecConfig::mp3(&payload).map_err(|source| Error::Codec { track: id, source })?;
                self.begin(id, config, events)?;
            }
            None if in_band.is_none() && !self.has_room(id) => return Err(Error::TooManyTracks(id)),
            None => {
                self.begin(id, in_band.ok_or(Error::NoConfiguration(id))?, events)?;
            }
            // The stream states what the record does not, and what MP3 has no record for.
            Some(state) if codec == Codec::Mp3 || lacks_size(&state.track.config) || codec == Codec::Vp9 => {
                let format =
                    codec::format_in_band(codec, &payload).filter(|format| *format != state.track.config.format);
                if let Some(format) = format {
                    let config = CodecConfig { format, ..state.track.config.clone() };
                    self.begin(id, config, events)?;
                }
            }
            Some(state) => {
                if let Some(config) = in_band.filter(|in_band| !state.track.config.contains(in_band)) {
                    self.begin(id, config, events)?;
                }
            }
        }
        let Mapped { dts, pts, correction } = if self.exact {
            let dts = self.timeline.unwrap(time.timestamp);
            let pts = dts.saturating_add(composition.into());
            Mapped { dts: Timestamp::from_millis(dts), pts: Timestamp::from_millis(pts), correction: None }
        } else {
            self.mapper.map(id, time.timestamp, composition, time.arrived)
        };
        events.extend(correction.map(|correction| Event::ClockCorrected(id, correction)));
        events.push(Event::Unit(AccessUnit { epoch: self.epoch, track: id, dts, pts, random_access, payload }));
        Ok(())
    }

    fn channels(&mut self, id: TrackId, codec: Codec, channels: u8, events: &mut Vec<Event>) -> Result<(), Error> {
        let Some(state) = self.tracks.get(&id).filter(|state| state.track.config.codec == codec) else { return Ok(()) };
        let Format::Audio { sample_rate, channels: known } = state.track.config.format else { return Ok(()) };
        let config = &state.track.config;
        let format = Format::Audio { sample_rate, channels: u16::from(channels) };
        let config = match codec {
            _ if channels == 0 || u16::from(channels) == known => return Ok(()),
            Codec::Opus if state.sent_record.is_empty() => {
                let head =
                    opus::OpusHead::for_channels(channels).map_err(|source| Error::Codec { track: id, source })?;
                CodecConfig { record: head.build(), format, ..config.clone() }
            }
            Codec::Aac if known == 0 => CodecConfig { format, ..config.clone() },
            // The codec's own description takes precedence.
            _ => return Ok(()),
        };
        self.begin(id, config, events)?;
        Ok(())
    }

    /// Whether the track is known, or one more can be.
    fn has_room(&self, id: TrackId) -> bool {
        self.tracks.contains_key(&id) || self.tracks.len() < MAX_TRACKS
    }

    /// Starts a track or changes its configuration, and reports it if anything is new.
    fn begin(&mut self, id: TrackId, config: CodecConfig, events: &mut Vec<Event>) -> Result<&mut State, Error> {
        if !self.has_room(id) {
            return Err(Error::TooManyTracks(id));
        }
        let track = Track { id, config };
        let has_changed = self.tracks.get(&id).is_none_or(|state| state.track != track);
        if has_changed {
            events.push(Event::Track(track.clone()));
        }
        let state = self.tracks.entry(id).or_insert_with(|| State {
            track: track.clone(),
            sent_record: Bytes::new(),
            short_lengths: None,
        });
        state.track = track;
        Ok(state)
    }
}

fn may_have_adts(config: &CodecConfig) -> bool {
    aac::AudioSpecificConfig::parse(&config.record).is_ok_and(|config| config.may_have_adts())
}

fn lacks_size(config: &CodecConfig) -> bool {
    matches!(config.format, Format::Video { width: 0, .. })
}
