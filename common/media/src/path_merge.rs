//! Path merging: merges several paths into one sequence with each access unit once (as in SMPTE ST 2022-7, seamless protection switching).
//!
//! Units have the same identity on every path, so merging needs neither timing nor heuristics. A unit is next if its predecessor was
//! emitted; it is a duplicate if it is not newer than the last emitted unit of its track; otherwise units are missing before it, and it waits
//! for another path to deliver them. The predecessor is the one that the path states ([`Predecessor`]). If the path cannot state it, it is the
//! previous unit of the track on that path, unless a random access point follows so late that units may be missing before it. The caller
//! decides how long to wait ([`PathMerger::skip_gap`]). With a single open path the merger does not wait.
//!
//! After a loss, units are dropped up to the next random access point of their track. They are processed in the same order, so that a later
//! random access point of one path does not displace an earlier one of another.
//!
//! In the merged sequence DTS increases strictly within a track, no unit occurs twice, and the sequence starts, and continues after a loss,
//! at a random access point of the video track. Pure: [`select`](crate::select) decides which paths are open and when one has stalled.

mod waiting_units;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use self::waiting_units::{QueuedUnit, WaitingUnits};
use crate::access_unit::{AccessUnit, Epoch, TrackId};
use crate::catalog::Catalog;
use crate::time::{Timestamp, WallClock};
use crate::track_order::TrackOrder;

/// Identifies a path. The caller assigns the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub u32);

/// The predecessor of a unit: the unit before it in its track and broadcast, as far as its path states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predecessor {
    /// The unit with this DTS.
    Dts(Timestamp),
    /// The unit is the first of its track, or its predecessor is not known.
    Unknown,
    /// The path does not state predecessors (HLS, third-party servers): most likely the previous unit of the track on this path.
    PathOrder,
}

impl Predecessor {
    /// The stated DTS; `None` if no predecessor is stated.
    pub fn dts(self) -> Option<Timestamp> {
        match self {
            Self::Dts(dts) => Some(dts),
            Self::Unknown | Self::PathOrder => None,
        }
    }
}

/// Converts the predecessor stated by a path; `None` if the unit is the first of its track, or its predecessor is not known.
impl From<Option<Timestamp>> for Predecessor {
    fn from(stated: Option<Timestamp>) -> Self {
        stated.map_or(Self::Unknown, Self::Dts)
    }
}

/// A unit of the merged sequence.
#[derive(Clone, Debug)]
pub struct MergedUnit {
    /// The catalog in force for this unit.
    pub catalog: Arc<Catalog>,
    /// The access unit.
    pub unit: AccessUnit,
    /// The path that delivered it first.
    pub path: PathId,
    /// Whether that makes it the [active path](PathMerger::active_path): it is a picture, or sound while there are no pictures.
    pub leads: bool,
    /// Number of units of its track that were lost just before it, estimated from the usual frame interval; at least 1 after a known loss.
    pub lost: u32,
}

/// Totals since the merger was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergeCounters {
    /// Units in the merged sequence.
    pub units: u64,
    /// Copies of units already merged, which were dropped.
    pub duplicates: u64,
    /// Units that no path delivered, estimated from the gap.
    pub lost: u64,
    /// The video units among the lost ones.
    pub lost_pictures: u64,
    /// Units dropped because decoding could not start at them.
    pub undecodable: u64,
    /// Units dropped because the queue of a path was full.
    pub overflowed: u64,
    /// Number of changes of the [active path](PathMerger::active_path).
    pub switches: u64,
}

/// Merges paths into one sequence. See the module documentation.
#[derive(Debug, Default)]
pub struct PathMerger {
    epoch: Option<Epoch>,
    /// Wall-clock time of PTS 0 in this epoch: decides which of two epochs is the later one.
    clock: Option<WallClock>,
    /// Past epochs, oldest first, with the last merged unit of each track: a late path may still send their units, and a publisher that was
    /// replaced may return with its own epoch.
    retired: VecDeque<(Epoch, BTreeMap<TrackId, TrackProgress>)>,
    tracks: BTreeMap<TrackId, TrackProgress>,
    paths: BTreeMap<PathId, Path>,
    /// The path of the last unit that leads.
    active_path: Option<PathId>,
    /// Whether decoding has started in this epoch.
    started: bool,
    /// The newest stretch of this epoch that a path skipped without stating it.
    skipped: Option<Range<Timestamp>>,
    counters: MergeCounters,
}

#[derive(Debug)]
struct TrackProgress {
    /// The last processed unit: merged, or dropped because decoding cannot start at it.
    last: Timestamp,
    /// The last merged unit.
    merged: Timestamp,
    /// Smoothed interval between units in milliseconds; zero before the second unit.
    interval: f64,
    /// Whether units are dropped until the next random access point, because of a loss.
    needs_random_access: bool,
}

#[derive(Debug, Default)]
struct Path {
    epoch: Option<Epoch>,
    /// The last unit of each track that this path delivered since its last gap.
    order: TrackOrder,
    /// Whether the place of this path's last processed unit, of any track, in the merged sequence is known.
    contiguous: bool,
    /// Units queued until another path fills the gap before them.
    waiting: WaitingUnits,
}

impl PathMerger {
    /// An empty merger without paths.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens a path, or marks a break in one: its next unit need not follow the last one it delivered.
    pub fn open(&mut self, path: PathId) {
        self.paths.insert(path, Path::default());
    }

    /// Marks a gap in a path: its next unit need not follow the last one it delivered. Queued units are kept.
    pub fn gap(&mut self, path: PathId) {
        if let Some(path) = self.paths.get_mut(&path) {
            path.order.clear();
            path.contiguous = false;
        }
    }

    /// Closes a path and drops its queue. If one path is left, appends that path's queued units to `out`.
    pub fn close(&mut self, path: PathId, out: &mut Vec<MergedUnit>) {
        if self.paths.remove(&path).is_some() && self.paths.len() == 1 {
            self.skip_gap(out);
        }
    }

    /// Takes the next unit of a path, opens the path if necessary, and appends the units that are due to `out`.
    pub fn push(
        &mut self,
        path: PathId,
        catalog: &Arc<Catalog>,
        unit: AccessUnit,
        predecessor: Predecessor,
        out: &mut Vec<MergedUnit>,
    ) {
        self.paths.entry(path).or_default();
        if self.epoch != Some(unit.epoch) {
            // A path that delivered the current epoch decides which epoch is live. For another path, the clock decides, and whether its epoch is a
            // past one. If no open path delivered the current epoch, any path decides: nothing else could end it.
            let is_authority = self.paths.values().all(|path| path.epoch != self.epoch)
                || self.paths.get(&path).is_some_and(|path| path.epoch == self.epoch);
            let is_over = self.retired.iter().any(|(epoch, _)| *epoch == unit.epoch);
            let is_older = matches!((catalog.clock, self.clock), (Some(new), Some(now)) if new < now);
            if !is_authority && (is_over || is_older) {
                self.counters.duplicates += 1;
                return;
            }
            self.switch_epoch(unit.epoch, catalog, out);
        }
        let entry = self.paths.entry(path).or_default();
        if entry.epoch != Some(unit.epoch) {
            *entry = Path { epoch: Some(unit.epoch), ..Path::default() };
        }
        let before = entry.order.follow(&unit);
        let (predecessor, is_stated) = match predecessor {
            Predecessor::Dts(dts) => (Some(dts), true),
            Predecessor::Unknown => (None, false),
            Predecessor::PathOrder => (before, false),
        };
        let queued = QueuedUnit { catalog: catalog.clone(), unit, predecessor, is_stated };
        self.counters.overflowed += entry.waiting.push(queued);
        if self.paths.len() == 1 {
            self.skip_gap(out);
        } else {
            self.drain(out);
        }
    }

    /// The newest DTS among queued units; `None` if no unit waits for a gap to be filled.
    pub fn waiting(&self) -> Option<Timestamp> {
        self.paths.values().filter_map(|path| path.waiting.newest()).max()
    }

    /// Gives up on the missing units and processes all queued ones, earliest first.
    pub fn skip_gap(&mut self, out: &mut Vec<MergedUnit>) {
        loop {
            self.drain(out);
            let paths = self.paths.iter().filter(|(_, path)| path.epoch == self.epoch);
            let blocking = paths.flat_map(|(id, path)| path.blocking().into_iter().map(|unit| (unit, *id)));
            let first = blocking.min_by_key(|((number, waiting), id)| (waiting.unit.dts, *id, *number));
            let Some(((_, QueuedUnit { unit, .. }), path)) = first else { return };
            let (id, placement) =
                (unit.track, if unit.random_access { Placement::Next } else { Placement::Undecodable });
            if let Some(track) = self.tracks.get_mut(&id) {
                track.needs_random_access = true;
            }
            self.take(path, id, placement, out);
        }
    }

    /// Totals since the merger was created.
    pub fn counters(&self) -> MergeCounters {
        self.counters
    }

    /// The current epoch; `None` before the first unit.
    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// DTS of the last unit of each track that was merged or given up: where another path has to continue.
    pub fn position(&self) -> Vec<(TrackId, Timestamp)> {
        self.tracks.iter().map(|(id, track)| (*id, track.last)).collect()
    }

    /// The path that delivered the last video unit; the last audio unit while there are no pictures, because the broadcast has none, or
    /// because they have not begun or have ended.
    pub fn active_path(&self) -> Option<PathId> {
        self.active_path
    }

    /// Changes to another epoch. What waits of the current one is appended to `out`. A past epoch continues after its last merged unit.
    fn switch_epoch(&mut self, epoch: Epoch, catalog: &Catalog, out: &mut Vec<MergedUnit>) {
        self.skip_gap(out);
        let again =
            self.retired.iter().position(|(retired, _)| *retired == epoch).and_then(|at| self.retired.remove(at));
        let tracks = std::mem::replace(&mut self.tracks, again.map(|(_, tracks)| tracks).unwrap_or_default());
        self.retired.extend(self.epoch.replace(epoch).map(|over| (over, tracks)));
        if self.retired.len() > RETIRED_EPOCHS {
            self.retired.pop_front();
        }
        self.clock = catalog.clock;
        self.skipped = None;
        self.started = !self.tracks.is_empty();
    }

    /// Processes all queued units that need not wait any longer.
    fn drain(&mut self, out: &mut Vec<MergedUnit>) {
        let ids: Vec<PathId> = self.paths.keys().copied().collect();
        while ids.iter().any(|id| self.take_next(*id, out)) {}
    }

    /// Processes the first queued unit of a path that need not wait; `false` if there is none.
    fn take_next(&mut self, id: PathId, out: &mut Vec<MergedUnit>) -> bool {
        let is_alone = self.paths.len() == 1;
        let Some(path) = self.paths.get_mut(&id).filter(|path| path.epoch == self.epoch) else { return false };
        let (tracks, started) = (&self.tracks, self.started);
        let Some((track, placement)) = path.next_due(|path, unit| placement(tracks, path, started, is_alone, unit))
        else {
            return false;
        };
        self.take(id, track, placement, out);
        true
    }

    /// Processes the oldest queued unit of a path's track.
    fn take(&mut self, id: PathId, track: TrackId, placement: Placement, out: &mut Vec<MergedUnit>) {
        let path = self.paths.get_mut(&id).expect("the caller has looked the path up");
        let QueuedUnit { catalog, unit, is_stated, .. } = path.waiting.take(track).expect("it was just found");
        path.contiguous = matches!(placement, Placement::Next) || self.tracks.contains_key(&unit.track);
        match placement {
            Placement::Next => self.emit(id, catalog, unit, is_stated, out),
            Placement::Duplicate => self.counters.duplicates += 1,
            Placement::Undecodable | Placement::Wait => {
                self.counters.undecodable += 1;
                self.tracks.entry(unit.track).and_modify(|track| track.last = unit.dts);
            }
        }
    }

    fn emit(
        &mut self,
        id: PathId,
        catalog: Arc<Catalog>,
        unit: AccessUnit,
        is_stated: bool,
        out: &mut Vec<MergedUnit>,
    ) {
        let mut lost = 0;
        let leads = unit.track.is_video() || !self.has_pictures(unit.dts);
        match self.tracks.get_mut(&unit.track) {
            Some(track) => {
                let step = (unit.dts - track.merged) as f64;
                let missing = if track.interval > 0.0 { (step / track.interval).round() as i64 - 1 } else { 0 };
                // A server that skips without stating it skips all tracks, and continues at a random access point; a long step elsewhere is a pause
                // of the encoder.
                let may_skip = match unit.track.is_video() || catalog.video().is_none() {
                    true => unit.random_access,
                    false => self
                        .skipped
                        .as_ref()
                        .is_some_and(|skipped| track.merged < skipped.end && unit.dts > skipped.start),
                };
                let is_gap = !is_stated && step > track.interval * GAP_INTERVALS && track.interval > 0.0 && may_skip;
                if is_gap && unit.track.is_video() {
                    self.skipped = Some(track.merged..unit.dts);
                }
                if track.needs_random_access || is_gap {
                    lost = u32::try_from(missing).unwrap_or(0).max(u32::from(track.needs_random_access));
                } else {
                    let weight = if track.interval == 0.0 { 1.0 } else { 1.0 / 8.0 };
                    track.interval += (step - track.interval) * weight;
                }
                (track.last, track.merged) = (unit.dts, unit.dts);
                track.needs_random_access = false;
            }
            None => {
                let (last, merged) = (unit.dts, unit.dts);
                let progress = TrackProgress { last, merged, interval: 0.0, needs_random_access: false };
                self.tracks.insert(unit.track, progress);
            }
        }
        self.started = true;
        if leads && self.active_path != Some(id) {
            self.counters.switches += u64::from(self.active_path.is_some());
            self.active_path = Some(id);
        }
        self.counters.units += 1;
        self.counters.lost += u64::from(lost);
        self.counters.lost_pictures += if unit.track.is_video() { u64::from(lost) } else { 0 };
        out.push(MergedUnit { catalog, unit, path: id, leads, lost });
    }

    /// Whether there are pictures beside the sound at `dts`.
    fn has_pictures(&self, dts: Timestamp) -> bool {
        let pictures = self.tracks.iter().filter(|(id, _)| id.is_video());
        pictures.max_by_key(|(_, track)| track.merged).is_some_and(|(_, track)| dts - track.merged <= MAX_PICTURE_PAUSE)
    }
}

impl Path {
    /// The first queued unit that need not wait, and its placement. A unit that waits blocks its own track; on a path that does not state
    /// predecessors, it blocks all tracks.
    fn next_due(&self, placement: impl Fn(&Self, &QueuedUnit) -> Placement) -> Option<(TrackId, Placement)> {
        for (_, waiting) in self.waiting.oldest() {
            match placement(self, waiting) {
                Placement::Wait if waiting.is_stated => {}
                Placement::Wait => return None,
                found => return Some((waiting.unit.track, found)),
            }
        }
        None
    }

    /// The units that block their tracks, with their numbers, given that all queued units wait.
    fn blocking(&self) -> Vec<(u64, &QueuedUnit)> {
        let mut oldest = self.waiting.oldest();
        if let Some(blocks_all) = oldest.iter().position(|(_, waiting)| !waiting.is_stated) {
            oldest.truncate(blocks_all + 1);
        }
        oldest
    }
}

enum Placement {
    /// It follows the last processed unit of its track, and can be decoded.
    Next,
    /// It is a copy of a processed unit, or older.
    Duplicate,
    /// It cannot be decoded: there is no random access point before it.
    Undecodable,
    /// Units are missing before it.
    Wait,
}

fn placement(
    tracks: &BTreeMap<TrackId, TrackProgress>,
    path: &Path,
    started: bool,
    is_alone: bool,
    waiting: &QueuedUnit,
) -> Placement {
    let QueuedUnit { unit, predecessor, is_stated, .. } = waiting;
    let Some(track) = tracks.get(&unit.track) else {
        // The first unit of its track starts the broadcast, or joins one that has started.
        return match (started, unit.random_access) {
            // Sound does not wait for pictures, which may be long away.
            (false, true) => Placement::Next,
            // If the path states predecessors, only units before the start of the sequence can be missing.
            (true, true) if path.contiguous || *is_stated => Placement::Next,
            (true, true) => Placement::Wait,
            _ => Placement::Undecodable,
        };
    };
    if unit.dts <= track.last {
        return Placement::Duplicate;
    }
    let step = (unit.dts - track.last) as f64;
    let leaves_no_room = step < track.interval * ADJACENT_INTERVALS;
    let follows = match predecessor {
        Some(previous) if *is_stated => *previous == track.last,
        // A server that skips without stating it continues at a random access point. If that may be the case, wait for another path.
        Some(previous) => {
            let may_have_skipped = unit.random_access && track.interval > 0.0 && !leaves_no_room;
            *previous == track.last && (is_alone || !may_have_skipped)
        }
        // The first unit of its track on this path is next if the path's previous unit was emitted and no unit fits in between. HLS
        // carries the tracks of a part one after the other, so the order alone is not sufficient.
        None => path.contiguous && leaves_no_room,
    };
    match follows {
        true if track.needs_random_access && !unit.random_access => Placement::Undecodable,
        true => Placement::Next,
        false => Placement::Wait,
    }
}

/// Milliseconds. Sound that is so much ahead of the last picture is played without pictures.
const MAX_PICTURE_PAUSE: i64 = 2000;
/// Bounds the past epochs that are remembered. A path is seldom more than one behind.
const RETIRED_EPOCHS: usize = 8;
/// A step of more than this many usual intervals is a loss even on a single path: a third-party server jumps to the newest IDR without
/// stating it.
const GAP_INTERVALS: f64 = 3.5;
/// A step of fewer frame intervals than this leaves no room for a unit in between.
const ADJACENT_INTERVALS: f64 = 1.5;

#[cfg(test)]
mod tests;
