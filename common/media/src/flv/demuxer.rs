//! Reads tag bodies into tracks and access units.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::body::{self, Content, Packet};
use super::{Error, Event};
use crate::access_unit::{AccessUnit, Epoch, TrackId, TrackKind};
use crate::catalog::{MAX_TRACKS, Track};
use crate::codec::{self, Codec, CodecConfig, Format, nal, opus};
use crate::time::Timestamp;
use crate::timestamp_unwrap::{TimestampUnwrapper, Unwrapped};

/// Reads the tag bodies of one connection.
///
/// The payloads of units are slices of the bodies: nothing is copied or changed. The one exception
/// is H.264 and HEVC with NAL unit lengths of 1 or 2 bytes, which are rewritten to 4.
///
/// Timestamps of a foreign publisher are corrected: DTS is never negative and increases by at least 1 ms within a track, because rounding makes
/// equal ones at high rates. Those of a publisher that states an epoch are taken as they are ([`Demuxer::set_exact`]).
#[derive(Debug)]
pub struct Demuxer {
    epoch: Epoch,
    exact: bool,
    timeline: TimestampUnwrapper,
    tracks: BTreeMap<TrackId, State>,
}

#[derive(Debug)]
struct State {
    track: Track,
    /// The record as the publisher sent it, to recognise a repetition.
    sent_record: Bytes,
    /// Size of the NAL unit lengths in the bodies, if it is not 4.
    short_lengths: Option<usize>,
    last_dts: Option<i64>,
}

impl Demuxer {
    /// A demuxer for a connection whose units belong to `epoch`.
    pub fn new(epoch: Epoch) -> Self {
        Self { epoch, exact: false, timeline: TimestampUnwrapper::new(), tracks: BTreeMap::new() }
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

    /// Reads the body of an audio message. `timestamp` is that of the message: 32-bit milliseconds that wrap.
    ///
    /// If a body contains several tracks and one is refused, the others are still returned: there is an error only if the body yields no event.
    ///
    /// # Errors
    /// If the body is malformed, of a codec that is not supported, or of a track without a decoder configuration.
    pub fn audio(&mut self, timestamp: u32, body: Bytes) -> Result<Vec<Event>, Error> {
        self.read(TrackKind::Audio, timestamp, body)
    }

    /// Reads the body of a video message, like [`audio`](Self::audio).
    ///
    /// # Errors
    /// As for [`audio`](Self::audio).
    pub fn video(&mut self, timestamp: u32, body: Bytes) -> Result<Vec<Event>, Error> {
        self.read(TrackKind::Video, timestamp, body)
    }

    fn read(&mut self, kind: TrackKind, timestamp: u32, body: Bytes) -> Result<Vec<Event>, Error> {
        let mut events = Vec::new();
        let mut refused = None;
        for packet in body::packets(kind, body)? {
            let read = packet.and_then(|packet| self.packet(timestamp, packet, &mut events));
            refused = refused.or(read.err());
        }
        match refused {
            Some(error) if events.is_empty() => Err(error),
            _ => Ok(events),
        }
    }

    fn packet(&mut self, timestamp: u32, packet: Packet, events: &mut Vec<Event>) -> Result<(), Error> {
        let Packet { track, codec, content } = packet;
        match content {
            Content::SequenceStart(record) => self.sequence_start(track, codec, record, events),
            Content::Frame { payload, .. } if payload.is_empty() => Ok(()),
            Content::Frame { composition, payload } => {
                self.frame(timestamp, track, codec, composition, payload, events)
            }
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
        timestamp: u32,
        id: TrackId,
        codec: Codec,
        composition: i32,
        payload: Bytes,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let known = self.tracks.get(&id).filter(|state| state.track.config.codec == codec);
        match known {
            None if codec == Codec::Mp3 => {
                let config = CodecConfig::mp3(&payload).map_err(|source| Error::Codec { track: id, source })?;
                self.begin(id, config, events)?;
            }
            None => return Err(Error::NoConfiguration(id)),
            // The stream states what the record does not, and what MP3 has no record for.
            Some(state) if codec == Codec::Mp3 || lacks_size(&state.track.config) || codec == Codec::Vp9 => {
                let format =
                    codec::format_in_band(codec, &payload).filter(|format| *format != state.track.config.format);
                if let Some(format) = format {
                    let config = CodecConfig { format, ..state.track.config.clone() };
                    self.begin(id, config, events)?;
                }
            }
            Some(_) => {}
        }
        let payload = match self.tracks.get(&id).and_then(|state| state.short_lengths) {
            Some(size) => {
                nal::with_four_byte_lengths(&payload, size).map_err(|source| Error::Codec { track: id, source })?
            }
            None => payload,
        };
        let dts = self.unwrap(timestamp, id, events);
        let composition = i64::from(composition);
        let state = self.tracks.get_mut(&id).expect("the track was found or begun above");
        let (dts, pts) =
            if self.exact { (dts, dts + composition) } else { monotonic(dts, composition, state.last_dts) };
        state.last_dts = Some(dts);
        events.push(Event::Unit(AccessUnit {
            epoch: self.epoch,
            track: id,
            dts: Timestamp::from_millis(dts),
            pts: Timestamp::from_millis(pts),
            random_access: codec::is_random_access(codec, &payload),
            payload,
        }));
        Ok(())
    }

    /// Unwraps a message timestamp. Only used for units: sequence headers come with any timestamp, often zero.
    fn unwrap(&mut self, timestamp: u32, id: TrackId, events: &mut Vec<Event>) -> i64 {
        if self.exact {
            return self.timeline.unwrap_exact(timestamp);
        }
        let last_dts = self.tracks.get(&id).and_then(|state| state.last_dts);
        let (from, to) = match (self.timeline.unwrap(timestamp), last_dts) {
            (Unwrapped::Jump { from, to }, _) => (from, to),
            // Tracks are interleaved loosely, but within a track a message never comes before its turn.
            (Unwrapped::At(at), Some(last)) if at < last - MAX_REWIND => (last, self.timeline.restart(timestamp)),
            (Unwrapped::At(at), _) => return at,
        };
        for state in self.tracks.values_mut() {
            state.last_dts = None;
        }
        events.push(Event::Jump { from, to });
        to
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

    /// Starts a track or changes its configuration, and reports it if anything is new.
    fn begin(&mut self, id: TrackId, config: CodecConfig, events: &mut Vec<Event>) -> Result<&mut State, Error> {
        if !self.tracks.contains_key(&id) && self.tracks.len() >= MAX_TRACKS {
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
            last_dts: None,
        });
        state.track = track;
        Ok(state)
    }
}

fn lacks_size(config: &CodecConfig) -> bool {
    matches!(config.format, Format::Video { width: 0, .. })
}

/// Corrects a DTS so that it increases strictly and is not negative, and the PTS so that it is not before it.
fn monotonic(dts: i64, composition: i64, last: Option<i64>) -> (i64, i64) {
    let mended = dts.max(last.map_or(0, |last| last.saturating_add(1)));
    (mended, if composition < 0 { dts + composition } else { (dts + composition).max(mended) })
}

/// In milliseconds. Timestamps of one track that go back further mean that the clock was set; less is an encoder's rounding, and is
/// corrected.
const MAX_REWIND: i64 = 1000;
