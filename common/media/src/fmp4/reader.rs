//! The incremental reader of fragmented MP4, by any writer.
//!
//! Input may be cut anywhere. A box is buffered until it is complete, within bounds; other boxes are skipped without buffering. The units of a
//! fragment come in DTS order whatever their order in the file, and their payloads are slices of the buffer that `mdat` arrived in.

use bytes::{Buf as _, Bytes, BytesMut};
use mp4_atom::{Atom, Tfdt, Tfhd, Trun};

use super::boxes::{BoxLocation, Header, NON_SYNC, children, u32_at, u64_at};
use super::moov::{self, FileTrack};
use super::ticks::to_millis;
use super::{CORRECTIONS_BOX, EPOCH_BOX, Error, FILLER, NO_CLOCK, ORDER_BOX, UNKNOWN, numbered_track};
use crate::access_unit::{AccessUnit, Epoch, TrackId, TrackKind};
use crate::catalog::{Catalog, Track};
use crate::codec::Format;
use crate::time::{Timestamp, WallClock};

/// An event of the reader, in the order of the file.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The catalog of the following units. Comes before the first unit, and again after an init segment with another catalog.
    Catalog(Catalog),
    /// The next unit of this track does not follow the one before it in the file but the one with this DTS; `None` if it is not known which. Only from
    /// a writer that [states the order](Reader::states_order).
    Predecessor(TrackId, Option<Timestamp>),
    /// The next unit.
    Unit(AccessUnit),
}

/// Reads fragmented MP4 as it arrives: an init segment, then fragments, and further init segments in between.
///
/// After an error it must not be used again.
#[derive(Debug)]
pub struct Reader {
    fallback: Epoch,
    buffer: BytesMut,
    /// Number of bytes that `buffer` must hold to continue.
    need: usize,
    /// Number of bytes to skip.
    skip: u64,
    /// Number of bytes consumed before `buffer`.
    at: u64,
    tracks: Vec<ReadTrack>,
    /// The init segment's catalog, until the first fragment proves that no epoch box is to come.
    pending_catalog: Option<Catalog>,
    catalog: Option<Catalog>,
    samples: Vec<Sample>,
    states_order: bool,
}

#[derive(Debug)]
struct ReadTrack {
    id: TrackId,
    file: FileTrack,
    /// The DTS in ticks at which the next run starts if no `tfdt` states it.
    next_tick: i64,
    last_dts: Option<i64>,
}

/// A sample that `moof` describes; its data follows in `mdat`.
#[derive(Clone, Copy, Debug)]
struct Sample {
    track: usize,
    dts: i64,
    pts: i64,
    random_access: bool,
    /// Position in the file.
    at: u64,
    size: u32,
    /// Whether it stands in for missing units.
    is_filler: bool,
    /// What the file states of the unit before it; `None` if it is the one before in the file.
    predecessor: Option<Option<Timestamp>>,
}

impl Reader {
    /// A reader at the start of a file; `fallback` is the epoch of a file that carries none.
    pub fn new(fallback: Epoch) -> Self {
        Self {
            fallback,
            buffer: BytesMut::new(),
            need: 8,
            skip: 0,
            at: 0,
            tracks: Vec::new(),
            pending_catalog: None,
            catalog: None,
            samples: Vec::new(),
            states_order: false,
        }
    }

    /// Whether the writer of the init segment in force states where units are missing: ours does. Without a statement, units then follow each other
    /// as they do in the file.
    pub fn states_order(&self) -> bool {
        self.states_order
    }

    /// Starts a new resource, for example a segment of HLS. The rest of a resource that broke off is dropped; the init segment stays in force.
    pub fn begin_segment(&mut self) {
        self.buffer.clear();
        self.samples.clear();
        (self.need, self.skip) = (8, 0);
    }

    /// Ends the resource. Fails if it ended within a box.
    ///
    /// # Errors
    /// If the resource ended within a box.
    pub fn end_segment(&self) -> Result<(), Error> {
        // A skipped box may extend to the end of the file.
        let is_cut = !self.buffer.is_empty() || (1..ENDLESS).contains(&self.skip);
        let kind = self.buffer.get(4..8).and_then(|kind| kind.try_into().ok()).unwrap_or(*b"????");
        if is_cut { Err(BoxLocation { kind, at: self.at }.malformed("the end of the segment")) } else { Ok(()) }
    }

    /// Reads the next bytes, which may end anywhere. Buffers at most 64 MiB and the bytes of one call.
    ///
    /// # Errors
    /// If a box is malformed, or exceeds a bound.
    pub fn push(&mut self, mut bytes: Bytes) -> Result<Vec<Event>, Error> {
        let mut events = Vec::new();
        if !self.buffer.is_empty() {
            self.buffer.extend_from_slice(&bytes);
            if self.buffer.len() < self.need {
                return Ok(events);
            }
            bytes = self.buffer.split().freeze();
        }
        loop {
            let passed = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
            bytes.advance(passed);
            self.skip -= passed as u64;
            self.at += passed as u64;
            let Some(header) = self.next_header(&bytes)? else { break };
            let size = header.size.unwrap_or(u64::MAX);
            let location = BoxLocation { kind: header.kind, at: self.at };
            let limit = match &header.kind {
                b"moov" | b"moof" => MAX_HEAD,
                b"mdat" => MAX_MDAT,
                b"uuid" if size <= MAX_UUID => MAX_UUID,
                _ => {
                    self.skip = size;
                    continue;
                }
            };
            if size > limit {
                return Err(location.malformed("more bytes than a reader holds"));
            }
            let size = size as usize;
            if bytes.len() < size {
                self.need = size;
                break;
            }
            let whole = bytes.split_to(size);
            self.take(&header, whole.slice(header.length..), location, &mut events)?;
            self.at += size as u64;
        }
        self.buffer.extend_from_slice(&bytes);
        Ok(events)
    }

    /// The header of the box at the start of `bytes`; `None` if it is incomplete, after setting `need`.
    fn next_header(&mut self, bytes: &[u8]) -> Result<Option<Header>, Error> {
        if !Header::is_complete(bytes) {
            self.need = if bytes.len() < 8 { 8 } else { 16 };
            return Ok(None);
        }
        let location = BoxLocation { kind: [bytes[4], bytes[5], bytes[6], bytes[7]], at: self.at };
        Header::read(bytes).map(Some).ok_or_else(|| location.malformed("a size that is less than the header's"))
    }

    fn take(
        &mut self,
        header: &Header,
        body: Bytes,
        location: BoxLocation,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        match &header.kind {
            b"moov" => self.take_moov(&body, location),
            b"uuid" => {
                self.take_epoch(&body);
                Ok(())
            }
            b"moof" => self.take_moof(&body, location, events),
            _ => self.take_mdat(self.at + header.length as u64, &body, location, events),
        }
    }

    fn take_moov(&mut self, body: &[u8], location: BoxLocation) -> Result<(), Error> {
        let mut catalog = Catalog::new(self.fallback);
        self.tracks.clear();
        self.samples.clear();
        self.states_order = false;
        let mut counts = [0u8; 2];
        for file in moov::read(body, location)? {
            let kind = match file.config.format {
                Format::Video { .. } => TrackKind::Video,
                Format::Audio { .. } => TrackKind::Audio,
            };
            let count = &mut counts[usize::from(kind == TrackKind::Audio)];
            let id = TrackId { kind, index: *count };
            *count += 1;
            catalog.set_track(Track { id, config: file.config.clone() });
            self.tracks.push(ReadTrack { id, file, next_tick: 0, last_dts: None });
        }
        self.pending_catalog = Some(catalog);
        Ok(())
    }

    /// Reads the identity of the broadcast from the `uuid` box of our own files, whose `track_ID`s are the track ids.
    fn take_epoch(&mut self, body: &[u8]) {
        let Some(content) = body.strip_prefix(EPOCH_BOX) else { return };
        let (Some(epoch), Some(clock)) = (u64_at(content, 0), u64_at(content, 8)) else { return };
        let Some(catalog) = &mut self.pending_catalog else { return };
        let clock = clock as i64;
        let mut named = Catalog::new(Epoch(epoch));
        named.clock = (clock != NO_CLOCK).then(|| WallClock::from_micros(clock));
        let ids: Option<Vec<_>> = self
            .tracks
            .iter()
            .map(|track| numbered_track(track.file.number).filter(|id| id.kind == track.id.kind))
            .collect();
        let Some(ids) = ids else { return };
        for (track, id) in self.tracks.iter_mut().zip(ids) {
            track.id = id;
            named.set_track(Track { id, config: track.file.config.clone() });
        }
        if named.tracks.len() == self.tracks.len() {
            *catalog = named;
            self.states_order = true;
        }
    }

    fn take_moof(&mut self, body: &[u8], location: BoxLocation, events: &mut Vec<Event>) -> Result<(), Error> {
        if let Some(catalog) = self.pending_catalog.take()
            && self.catalog.as_ref() != Some(&catalog)
        {
            events.push(Event::Catalog(catalog.clone()));
            self.catalog = Some(catalog);
        }
        if self.catalog.is_none() {
            return Err(location.malformed("a fragment before any init segment"));
        }
        self.samples.clear();
        // Default position of a run's data: after the run before, and for the first run at `moof`.
        let mut data = location.at;
        for found in children(body, location) {
            let (kind, traf) = found?;
            if &kind == b"traf" {
                data = self.take_traf(traf, location, data)?;
            }
        }
        Ok(())
    }

    /// Returns the position after the data of this track.
    fn take_traf(&mut self, traf: &[u8], location: BoxLocation, after: u64) -> Result<u64, Error> {
        let mut head = None;
        let mut data = after;
        // The first sample of the run that a `uuid` box would describe.
        let mut first = self.samples.len();
        for found in children(traf, location) {
            let (kind, mut body) = found?;
            match &kind {
                b"tfhd" => head = Some(Tfhd::decode_body(&mut body)?),
                b"tfdt" => {
                    let tfdt = Tfdt::decode_body(&mut body)?;
                    let tick = i64::try_from(tfdt.base_media_decode_time);
                    let tick = tick
                        .ok()
                        .filter(|tick| *tick < LATEST_TICK)
                        .ok_or_else(|| location.malformed("a time beyond any use"))?;
                    let number = head.as_ref().map(|head: &Tfhd| head.track_id);
                    if let Some(track) = self.tracks.iter_mut().find(|track| Some(track.file.number) == number) {
                        track.next_tick = tick;
                    }
                }
                b"trun" => {
                    let head = head.as_ref().ok_or_else(|| location.malformed("a run before its track's header"))?;
                    // The samples of a run may be described without a byte each: the count is checked before they are read.
                    let count = u32_at(body, 4).ok_or_else(|| location.malformed("a run without a count"))?;
                    if self.samples.len().saturating_add(count as usize) > MAX_SAMPLES {
                        return Err(location.malformed("more samples than a reader holds"));
                    }
                    let run = Trun::decode_body(&mut body)?;
                    let base = match (head.base_data_offset, head.default_base_is_moof) {
                        (Some(base), _) => base,
                        (None, true) => location.at,
                        (None, false) => after,
                    };
                    data = match run.data_offset {
                        Some(offset) => base
                            .checked_add_signed(offset.into())
                            .ok_or_else(|| location.malformed("data before the start"))?,
                        None => data,
                    };
                    first = self.samples.len();
                    data = self.take_run(&run, head, data);
                }
                b"uuid" => annotate(self.samples.get_mut(first..).unwrap_or_default(), body),
                _ => {}
            }
        }
        Ok(data)
    }

    fn take_run(&mut self, run: &Trun, head: &Tfhd, mut data: u64) -> u64 {
        let Some((index, track)) =
            self.tracks.iter_mut().enumerate().find(|(_, track)| track.file.number == head.track_id)
        else {
            return data;
        };
        let defaults = track.file.defaults;
        let default_flags = head.default_sample_flags.unwrap_or(defaults.flags);
        for sample in run.samples.iter() {
            let size = sample.size.or(head.default_sample_size).unwrap_or(defaults.size);
            let duration = sample.duration.or(head.default_sample_duration).unwrap_or(defaults.duration);
            let dts = track.next_tick.saturating_add(track.file.shift);
            let pts = dts.saturating_add(sample.cts.unwrap_or(0));
            let (mut dts, mut pts) = (to_millis(dts, track.file.timescale), to_millis(pts, track.file.timescale));
            // Foreign frames may be shorter than a millisecond, the smallest difference of two DTS.
            if let Some(last) = track.last_dts
                && dts <= last
                && last - dts < NEAR
            {
                pts += last + 1 - dts;
                dts = last + 1;
            }
            track.last_dts = Some(dts);
            let random_access =
                sample.flags.unwrap_or(default_flags) & NON_SYNC == 0 || track.id.kind == TrackKind::Audio;
            self.samples.push(Sample {
                track: index,
                dts,
                pts,
                random_access,
                at: data,
                size,
                is_filler: false,
                predecessor: None,
            });
            data = data.saturating_add(size.into());
            track.next_tick = track.next_tick.saturating_add(duration.into()).min(LATEST_TICK);
        }
        data
    }

    /// Emits the samples in this `mdat`. If a fragment has several, the other samples wait for the next one.
    fn take_mdat(
        &mut self,
        at: u64,
        body: &Bytes,
        location: BoxLocation,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let Some(epoch) = self.catalog.as_ref().map(|catalog| catalog.epoch) else { return Ok(()) };
        let end = at + body.len() as u64;
        let waiting = std::mem::take(&mut self.samples);
        let (mut here, later): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .partition(|sample| sample.at >= at && sample.at.saturating_add(sample.size.into()) <= end);
        if later.iter().any(|sample| sample.at < end) {
            return Err(location.malformed("a sample that is not inside it"));
        }
        self.samples = later;
        here.sort_by_key(|sample| sample.dts);
        if events.len().saturating_add(here.len()) > MAX_EVENTS {
            return Err(location.malformed("more samples than a reader holds"));
        }
        // A unit has at least a byte.
        let units = here.into_iter().filter(|sample| !sample.is_filler && sample.size > 0);
        for sample in units {
            let from = (sample.at - at) as usize;
            let track = self.tracks[sample.track].id;
            events.extend(sample.predecessor.map(|predecessor| Event::Predecessor(track, predecessor)));
            events.push(Event::Unit(AccessUnit {
                epoch,
                track,
                dts: Timestamp::from_millis(sample.dts),
                pts: Timestamp::from_millis(sample.pts),
                random_access: sample.random_access,
                payload: body.slice(from..from + sample.size as usize),
            }));
        }
        Ok(())
    }
}

/// Reads a `uuid` box of our own files: moves the samples of a run to the DTS of their units, or notes their predecessors.
fn annotate(samples: &mut [Sample], body: &[u8]) {
    if let Some(order) = body.strip_prefix(ORDER_BOX) {
        for stated in order.chunks_exact(12) {
            let (Some(index), Some(dts)) = (u32_at(stated, 0), u64_at(stated, 4)) else { continue };
            let predecessor = Some(dts as i64).filter(|dts| *dts != UNKNOWN).map(Timestamp::from_millis);
            if let Some(sample) = samples.get_mut(index as usize) {
                sample.predecessor = Some(predecessor);
            }
        }
        return;
    }
    let Some(corrections) = body.strip_prefix(CORRECTIONS_BOX) else { return };
    for (sample, correction) in samples.iter_mut().zip(corrections.chunks_exact(2)) {
        match i16::from_be_bytes([correction[0], correction[1]]) {
            FILLER => sample.is_filler = true,
            correction => {
                sample.dts = sample.dts.saturating_add(correction.into());
                sample.pts = sample.pts.saturating_add(correction.into());
            }
        }
    }
}

/// A number of bytes to skip that stands for the rest of the file.
const ENDLESS: u64 = 1 << 62;
/// Bounds a `moov` or `moof` box in bytes: those of a live stream have a few kilobytes.
const MAX_HEAD: u64 = 4 << 20;
/// Bounds a `uuid` box that is buffered, in bytes: ours has 40 bytes; longer ones are of other writers.
const MAX_UUID: u64 = 256;
/// Bounds an `mdat` box in bytes: ten seconds at 50 Mbit/s.
const MAX_MDAT: u64 = 64 << 20;
/// Bounds the samples of one fragment: five minutes of the shortest audio frames, or half an hour of video.
const MAX_SAMPLES: usize = 1 << 16;
/// Bounds the events of one [`Reader::push`]: those of a segment with two of the longest fragments.
const MAX_EVENTS: usize = 2 * MAX_SAMPLES;
/// In milliseconds. A DTS that falls back by less is a rounding error; by more, a jump of the source.
const NEAR: i64 = 10;
/// Bounds ticks, so that sums with durations and shifts do not overflow: 1.6 million years at 90 kHz.
const LATEST_TICK: i64 = 1 << 62;
