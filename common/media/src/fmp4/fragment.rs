//! Fragments: one `moof` and the head of one `mdat`; the payloads follow by reference (ISO/IEC 14496-12 §8.8.4 to §8.8.8).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mp4_atom::{BufMut, Encode, Mfhd, Prft, ReferenceTime, Tfdt, Tfhd};

use super::boxes::{DEPENDENT, INDEPENDENT, write_box};
use super::ticks::TrackClock;
use super::{CORRECTIONS_BOX, Error, FILLER, ORDER_BOX, UNKNOWN, rendition, track_number};
use crate::access_unit::{AccessUnit, TrackId};
use crate::catalog::Catalog;
use crate::time::{Timestamp, WallClock};

/// A fragment. Its payloads are shared with the access units.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// `prft` if the clock is known, `moof`, and the header of `mdat`.
    pub head: Bytes,
    /// The content of `mdat`, in order.
    pub payloads: Vec<Bytes>,
}

impl Fragment {
    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.head.len() + self.payloads.iter().map(Bytes::len).sum::<usize>()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes in order. Cloning them copies no media.
    pub fn chunks(&self) -> impl Iterator<Item = Bytes> {
        std::iter::once(self.head.clone()).chain(self.payloads.iter().cloned())
    }
}

/// Writes consecutive fragments of one rendition, so that audio continues without a gap from one to the next.
#[derive(Clone, Debug)]
pub struct Fragmenter {
    sequence: u32,
    tracks: Vec<(TrackId, TrackClock)>,
    /// Samples of the next fragments that stand in for missing units.
    fillers: BTreeSet<(TrackId, Timestamp)>,
    /// The predecessors of units of the next fragments, where they are not the unit before.
    predecessors: BTreeMap<(TrackId, Timestamp), Option<Timestamp>>,
}

impl Fragmenter {
    /// A writer whose first fragment has this `sequence_number` (`mfhd`).
    pub fn new(sequence: u32, catalog: &Catalog) -> Self {
        let tracks = rendition(catalog).map(|track| (track.id, TrackClock::new(track))).collect();
        Self { sequence, tracks, fillers: BTreeSet::new(), predecessors: BTreeMap::new() }
    }

    /// States that the unit of `track` at `dts`, which a later fragment will contain, is no unit of the broadcast but stands in for missing ones.
    /// A [`Reader`](super::Reader) drops it.
    pub fn mark_filler(&mut self, track: TrackId, dts: Timestamp) {
        self.fillers.insert((track, dts));
    }

    /// States that the unit of `track` at `dts`, which a later fragment will contain, does not follow the one before it in the file but the one at
    /// `predecessor`; `None` if it is not known which.
    pub fn state_predecessor(&mut self, track: TrackId, dts: Timestamp, predecessor: Option<Timestamp>) {
        self.predecessors.insert((track, dts), predecessor);
    }

    /// The `sequence_number` of the next fragment.
    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    /// Writes a fragment with the `units` of the rendition. `next_dts` returns the DTS of the unit after the last one of a track, if it is known;
    /// otherwise the last unit gets the duration of the one before.
    ///
    /// DTS must increase within a track and not be negative ([`Error::Time`]).
    ///
    /// # Errors
    /// If there is no unit, if a DTS does not increase or is negative, or if the fragment would be too large.
    pub fn fragment(
        &mut self,
        catalog: &Catalog,
        units: &[AccessUnit],
        next_dts: impl Fn(TrackId) -> Option<Timestamp>,
    ) -> Result<Fragment, Error> {
        let of = |id: TrackId| units.iter().filter(move |unit| unit.track == id);
        let present: usize = self.tracks.iter().map(|(id, _)| of(*id).count()).sum();
        let bytes =
            self.tracks.iter().flat_map(|(id, _)| of(*id)).fold(0, |sum: usize, u| sum.saturating_add(u.payload.len()));
        if present == 0 {
            return Err(Error::NoUnit);
        }
        let mdat = u32::try_from(bytes).ok().and_then(|bytes| bytes.checked_add(8)).ok_or(Error::TooLarge { bytes })?;
        let mut out = Vec::with_capacity(256 + present * BYTES_PER_SAMPLE);
        let mut payloads = Vec::with_capacity(present);
        let mut offsets = Vec::with_capacity(2);
        let first = units.iter().find(|unit| self.tracks.first().is_some_and(|(id, _)| *id == unit.track));
        if let Some((first, (captured, (id, clock)))) =
            first.zip(first.and_then(|u| catalog.captured_at(u.pts)).zip(self.tracks.first()))
        {
            reference_time(*id, captured, clock.nearest(first.pts.as_millis())).encode(&mut out)?;
        }
        let moof = out.len();
        let (sequence, tracks) = (self.sequence, &mut self.tracks);
        let notes = Notes { fillers: &self.fillers, predecessors: &self.predecessors };
        write_box(&mut out, b"moof", |out| {
            Mfhd { sequence_number: sequence }.encode(out)?;
            let mut data = 0usize;
            for (id, clock) in tracks.iter_mut() {
                let units: Vec<_> = of(*id).collect();
                let mut rest = units.as_slice();
                while !rest.is_empty() {
                    let run = write_run(out, *id, clock, rest, next_dts(*id), notes)?;
                    let (written, later) = rest.split_at(run.samples);
                    offsets.push((run.offset_at, data));
                    payloads.extend(written.iter().map(|unit| unit.payload.clone()));
                    data += written.iter().map(|unit| unit.payload.len()).sum::<usize>();
                    rest = later;
                }
            }
            Ok(())
        })?;
        // Only now is it known where the data starts, counted from `moof`.
        let start = out.len() - moof + 8;
        for (at, data) in offsets {
            let offset = i32::try_from(start + data).map_err(|_| Error::TooLarge { bytes })?;
            out.set_slice(at, &offset.to_be_bytes());
        }
        out.extend_from_slice(&mdat.to_be_bytes());
        out.extend_from_slice(b"mdat");
        self.sequence = self.sequence.wrapping_add(1);
        // What was stated of later units is for later fragments.
        let newest: BTreeMap<_, _> = units.iter().map(|unit| (unit.track, unit.dts)).collect();
        let is_later = |(track, dts): &(TrackId, Timestamp)| newest.get(track).is_none_or(|newest| dts > newest);
        self.fillers.retain(is_later);
        self.predecessors.retain(|key, _| is_later(key));
        Ok(Fragment { head: out.into(), payloads })
    }
}

/// Writes a single fragment. For consecutive ones use a [`Fragmenter`], which joins their audio without gaps.
///
/// # Errors
/// If there is no unit, if a DTS does not increase or is negative, or if the fragment would be too large.
pub fn fragment(
    sequence: u32,
    catalog: &Catalog,
    units: &[AccessUnit],
    next_dts: impl Fn(TrackId) -> Option<Timestamp>,
) -> Result<Fragment, Error> {
    Fragmenter::new(sequence, catalog).fragment(catalog, units, next_dts)
}

/// What was stated of units of the next fragment.
#[derive(Clone, Copy)]
struct Notes<'a> {
    fillers: &'a BTreeSet<(TrackId, Timestamp)>,
    predecessors: &'a BTreeMap<(TrackId, Timestamp), Option<Timestamp>>,
}

/// A run that was written.
struct Run {
    /// Where in the output its data offset stands.
    offset_at: usize,
    samples: usize,
}

/// `traf` with the first of `units` up to a gap. There is at least one.
fn write_run(
    out: &mut Vec<u8>,
    id: TrackId,
    clock: &mut TrackClock,
    units: &[&AccessUnit],
    next_dts: Option<Timestamp>,
    notes: Notes<'_>,
) -> Result<Run, Error> {
    let mut run = Run { offset_at: 0, samples: 0 };
    let mut corrections = Vec::new();
    let mut predecessors = Vec::new();
    write_box(out, b"traf", |out| {
        let start = place(clock, units[0])?;
        Tfhd { track_id: track_number(id), default_base_is_moof: true, ..Tfhd::default() }.encode(out)?;
        Tfdt { base_media_decode_time: start.unsigned_abs() }.encode(out)?;
        write_box(out, b"trun", |out| {
            // Video samples state their flags; audio samples have those of `trex`.
            let flags = DATA_OFFSET | DURATION | SIZE | if id.is_video() { FLAGS | COMPOSITION } else { COMPOSITION };
            out.extend_from_slice(&(VERSION_1 | flags).to_be_bytes());
            let count_at = out.len();
            out.extend_from_slice(&[0, 0, 0, 0]);
            run.offset_at = out.len();
            out.extend_from_slice(&[0, 0, 0, 0]);
            let mut tick = start;
            for (n, unit) in units.iter().enumerate() {
                clock.measure(&unit.payload);
                let composition = i32::try_from(clock.nearest(unit.pts.as_millis()).saturating_sub(tick));
                // If PTS equals DTS, the composition offset is zero, whatever tick the DTS got.
                let composition = if unit.pts == unit.dts { Ok(0) } else { composition };
                let is_filler = notes.fillers.contains(&(id, unit.dts));
                corrections.push(if is_filler { FILLER } else { correction(clock, unit, tick) });
                predecessors.extend(notes.predecessors.get(&(id, unit.dts)).map(|stated| (n, *stated)));
                let next = units.get(n + 1);
                if let Some(next) = next.filter(|next| next.dts <= unit.dts) {
                    return Err(misplaced(next));
                }
                let next_dts = next.map(|next| next.dts).or(next_dts.filter(|next| *next > unit.dts));
                let ends_run = next_dts.is_none_or(|next| clock.is_gap(next.as_millis()));
                let end = match (ends_run, next, next_dts) {
                    (false, Some(next), _) => Some(place(clock, next)?),
                    (false, None, Some(next)) => Some(clock.place(next.as_millis())),
                    _ => None,
                };
                let duration = end.map_or(clock.duration(), |end| u32::try_from(end - tick).unwrap_or(u32::MAX));
                out.extend_from_slice(&duration.to_be_bytes());
                out.extend_from_slice(&(unit.payload.len() as u32).to_be_bytes());
                if id.is_video() {
                    let flags = if unit.random_access { INDEPENDENT } else { DEPENDENT };
                    out.extend_from_slice(&flags.to_be_bytes());
                }
                out.extend_from_slice(&composition.map_err(|_| misplaced(unit))?.to_be_bytes());
                run.samples += 1;
                if ends_run {
                    break;
                }
                tick = end.unwrap_or(tick);
            }
            out.set_slice(count_at, &(run.samples as u32).to_be_bytes());
            Ok(())
        })?;
        if corrections.iter().any(|correction| *correction != 0) {
            write_box(out, b"uuid", |out| {
                out.extend_from_slice(CORRECTIONS_BOX);
                corrections.iter().for_each(|correction| out.extend_from_slice(&correction.to_be_bytes()));
                Ok(())
            })?;
        }
        if predecessors.is_empty() {
            return Ok(());
        }
        write_box(out, b"uuid", |out| {
            out.extend_from_slice(ORDER_BOX);
            for (sample, predecessor) in &predecessors {
                out.extend_from_slice(&(*sample as u32).to_be_bytes());
                out.extend_from_slice(&predecessor.map_or(UNKNOWN, Timestamp::as_millis).to_be_bytes());
            }
            Ok(())
        })
    })?;
    Ok(run)
}

/// The DTS of a unit minus that of its sample, in milliseconds. Not zero where timestamps jitter and samples may not.
fn correction(clock: &TrackClock, unit: &AccessUnit, tick: i64) -> i16 {
    let difference = unit.dts.as_millis().saturating_sub(clock.to_millis(tick));
    i16::try_from(difference).unwrap_or(i16::MAX).max(FILLER + 1)
}

fn place(clock: &mut TrackClock, unit: &AccessUnit) -> Result<i64, Error> {
    if unit.dts < Timestamp::ZERO || unit.dts.as_millis() > LATEST {
        return Err(misplaced(unit));
    }
    // The first frame may get a tick half a millisecond before zero, which `tfdt` cannot express.
    Ok(clock.place(unit.dts.as_millis()).max(0))
}

fn misplaced(unit: &AccessUnit) -> Error {
    Error::Time { track: unit.track, dts: unit.dts, pts: unit.pts }
}

/// The capture time of the first unit of the reference track (ISO/IEC 14496-12 §8.16.5).
fn reference_time(id: TrackId, captured: WallClock, tick: i64) -> Prft {
    let micros = i128::from(captured.as_micros()) + NTP_EPOCH_SECONDS * 1_000_000;
    Prft {
        reference_track_id: track_number(id),
        // Seconds in the upper half, their fraction in the lower, which wraps in 2036 as NTP's does.
        ntp_timestamp: ((micros << 32) / 1_000_000) as u64,
        media_time: tick.max(0).unsigned_abs(),
        utc_time_semantics: ReferenceTime::Input,
    }
}

const VERSION_1: u32 = 1 << 24;
const DATA_OFFSET: u32 = 0x1;
const DURATION: u32 = 0x100;
const SIZE: u32 = 0x200;
const FLAGS: u32 = 0x400;
const COMPOSITION: u32 = 0x800;
/// Size of a `trun` entry: duration, size, flags, composition offset.
const BYTES_PER_SAMPLE: usize = 16;
/// Seconds from the NTP epoch, 1900, to the Unix epoch.
const NTP_EPOCH_SECONDS: i128 = 2_208_988_800;
/// Bounds a DTS in milliseconds, a thousand years, so that ticks do not overflow.
const LATEST: i64 = 1000 * 366 * 86_400_000;
