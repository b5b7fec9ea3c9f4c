//! The path merger: several paths in, one sequence of access units out, each unit once.
//!
//! Paths carry the same units under the same names, so merging needs no timing and no guesswork. Each path is contiguous in
//! itself: what follows a unit on a path is what follows it in the broadcast. So a unit is next if its predecessor on its own
//! path has been put out; it is a repeat if it is not newer than the last one put out; otherwise units are missing before it,
//! and it waits for another path to bring them. A path that says of each unit which one it follows (the relay does) is believed, and
//! need not be in order over its tracks. The caller decides how long ([`PathMerger::skip_gap`]); with one path open there is
//! nobody to wait for, and the path merger goes on at once, at the next random access point.
//!
//! What comes out rises strictly in DTS within a track, holds no unit twice, and starts (and goes on after a loss) at a random
//! access point of the video track. Pure: which paths run, and when one is silent, is [`select`](crate::select)'s business.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::access_unit::{AccessUnit, TrackId};
use crate::catalog::{Catalog, Epoch};
use crate::time::{Timestamp, WallClock};

/// A path that units come by; the caller numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub u32);

/// A unit of the merged sequence.
#[derive(Clone, Debug)]
pub struct MergedUnit {
    /// What it is decoded with.
    pub catalog: Arc<Catalog>,
    /// The unit.
    pub unit: AccessUnit,
    /// The path that brought it first.
    pub path: PathId,
    /// Units of its track that are missing before it, estimated from the usual interval; at least 1 after a known loss.
    pub lost: u32,
}

/// What the path merger has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergeCounters {
    /// Units put out.
    pub units: u64,
    /// Units that came again, and were dropped.
    pub duplicates: u64,
    /// Units that never came, estimated where they left a hole.
    pub lost: u64,
    /// Pictures among those.
    pub lost_pictures: u64,
    /// Units dropped because decoding could not start at them.
    pub undecodable: u64,
    /// Units dropped because the queue of waiting ones was full.
    pub overflowed: u64,
    /// Times that the path which brings video changed.
    pub switches: u64,
}

/// Merges paths. See the module's text.
#[derive(Debug, Default)]
pub struct PathMerger {
    epoch: Option<Epoch>,
    /// Wall-clock time of PTS 0 in this epoch: tells which of two epochs is the later one.
    clock: Option<WallClock>,
    /// Epochs that are over, oldest first, and how far they had come: a late path may still send them, and a publisher that
    /// was displaced may come back with its own.
    retired: VecDeque<(Epoch, BTreeMap<TrackId, TrackProgress>)>,
    tracks: BTreeMap<TrackId, TrackProgress>,
    paths: BTreeMap<PathId, Path>,
    /// The path that brought the last unit of video (or of sound, where there is no video).
    active_path: Option<PathId>,
    /// Whether decoding has started in this epoch.
    started: bool,
    counters: MergeCounters,
}

#[derive(Debug)]
struct TrackProgress {
    last: Timestamp,
    /// Milliseconds between units, smoothed; zero until two have come.
    interval: f64,
    /// After a loss, nothing goes out before the next random access point.
    needs_random_access: bool,
}

#[derive(Debug, Default)]
struct Path {
    epoch: Option<Epoch>,
    /// The last unit that this path brought of each track, if it has been put out.
    previous: BTreeMap<TrackId, Timestamp>,
    /// Whether the last unit of whatever track that this path brought has been put out.
    contiguous: bool,
    /// Units that wait for another path to fill the hole before them, oldest first.
    waiting: VecDeque<QueuedUnit>,
    bytes: usize,
}

#[derive(Debug)]
struct QueuedUnit {
    catalog: Arc<Catalog>,
    unit: AccessUnit,
    /// The unit that it follows, as its path says.
    predecessor: Option<Timestamp>,
}

impl PathMerger {
    /// A merger that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens a path, or begins it anew: what it brings next need not follow on what it brought before.
    pub fn open(&mut self, path: PathId) {
        self.paths.insert(path, Path::default());
    }

    /// Closes a path. What it had waiting is dropped; if one path is left, that one goes on into `out`.
    pub fn close(&mut self, path: PathId, out: &mut Vec<MergedUnit>) {
        if self.paths.remove(&path).is_some() && self.paths.len() == 1 {
            self.skip_gap(out);
        }
    }

    /// Takes the next unit of a path (which opens it) and puts what is due into `out`. `predecessor` is the DTS of the unit of its track that
    /// it follows, if the path says so; `None` leaves it to the order in which the path brings its units.
    pub fn push(
        &mut self,
        path: PathId,
        catalog: &Arc<Catalog>,
        unit: AccessUnit,
        predecessor: Option<Timestamp>,
        out: &mut Vec<MergedUnit>,
    ) {
        let is_alone = self.paths.keys().all(|id| *id == path);
        let entry = self.paths.entry(path).or_default();
        if self.epoch != Some(unit.epoch) {
            // Who has been in step, or has no rival, knows what is on air now. Of another path, only the clock or the fact that
            // its epoch is over can tell.
            let is_authority = is_alone || entry.epoch == self.epoch;
            let is_over = self.retired.iter().any(|(epoch, _)| *epoch == unit.epoch);
            let is_older = matches!((catalog.clock, self.clock), (Some(new), Some(now)) if new < now);
            if !is_authority && (is_over || is_older) {
                self.counters.duplicates += 1;
                return;
            }
            self.switch_epoch(unit.epoch, catalog);
        }
        let entry = self.paths.entry(path).or_default();
        if entry.epoch != Some(unit.epoch) {
            *entry = Path { epoch: Some(unit.epoch), ..Path::default() };
        }
        self.enqueue(path, QueuedUnit { catalog: catalog.clone(), unit, predecessor });
        if self.paths.len() == 1 {
            self.skip_gap(out);
        } else {
            self.drain(out);
        }
    }

    /// Whether units are missing that an open path might still bring; the newest DTS that waits.
    pub fn waiting(&self) -> Option<Timestamp> {
        self.paths.values().filter_map(|p| p.waiting.back()).map(|waiting| waiting.unit.dts).max()
    }

    /// Gives up on what is missing: goes on with the earliest unit that waits and can be decoded.
    pub fn skip_gap(&mut self, out: &mut Vec<MergedUnit>) {
        loop {
            self.drain(out);
            let earliest = self.paths.iter().filter(|(_, p)| p.epoch == self.epoch).filter_map(|(id, path)| {
                let unit = &path.waiting.front()?.unit;
                Some((unit.dts, *id, unit.track))
            });
            let Some((_, path, track)) = earliest.min() else { return };
            match self.tracks.get_mut(&track) {
                Some(state) => state.needs_random_access = true,
                None => self.paths.entry(path).or_default().contiguous = true,
            }
            if !self.process_front(path, out) {
                return;
            }
        }
    }

    /// What has happened so far.
    pub fn counters(&self) -> MergeCounters {
        self.counters
    }

    /// The epoch that goes out now.
    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// The last unit put out of each track: what to ask a server to go on after.
    pub fn position(&self) -> Vec<(TrackId, Timestamp)> {
        self.tracks.iter().map(|(id, track)| (*id, track.last)).collect()
    }

    /// The path that brings the pictures now.
    pub fn active_path(&self) -> Option<PathId> {
        self.active_path
    }

    /// Leaves the current epoch for another; one that was on air before goes on after what it had put out.
    fn switch_epoch(&mut self, epoch: Epoch, catalog: &Catalog) {
        let again =
            self.retired.iter().position(|(retired, _)| *retired == epoch).and_then(|at| self.retired.remove(at));
        let tracks = std::mem::replace(&mut self.tracks, again.map(|(_, tracks)| tracks).unwrap_or_default());
        self.retired.extend(self.epoch.replace(epoch).map(|over| (over, tracks)));
        if self.retired.len() > RETIRED_EPOCHS {
            self.retired.pop_front();
        }
        self.clock = catalog.clock;
        self.started = !self.tracks.is_empty();
        for path in self.paths.values_mut() {
            (path.waiting, path.bytes) = (VecDeque::new(), 0);
        }
    }

    /// Queues a unit behind what waits on its path.
    fn enqueue(&mut self, id: PathId, waiting: QueuedUnit) {
        let path = self.paths.get_mut(&id).expect("the caller has looked the path up");
        path.bytes += waiting.unit.payload.len();
        path.waiting.push_back(waiting);
        while path.bytes > MAX_WAITING_BYTES && path.waiting.len() > 1 {
            if let Some(QueuedUnit { unit: dropped, .. }) = path.waiting.pop_front() {
                path.bytes -= dropped.payload.len();
                path.previous.remove(&dropped.track);
                self.counters.overflowed += 1;
            }
        }
    }

    /// Lets go whatever waits no longer, on any path.
    fn drain(&mut self, out: &mut Vec<MergedUnit>) {
        let ids: Vec<PathId> = self.paths.keys().copied().collect();
        while ids.iter().any(|id| self.process_front(*id, out)) {}
    }

    /// Deals with the first unit that waits on a path; `false` if there is none or it must go on waiting.
    fn process_front(&mut self, id: PathId, out: &mut Vec<MergedUnit>) -> bool {
        let Some(path) = self.paths.get_mut(&id) else { return false };
        let Some(front) = path.waiting.front() else { return false };
        if path.epoch != self.epoch {
            return false;
        }
        let placement = placement(&self.tracks, path, self.started, front);
        if matches!(placement, Placement::Wait) {
            return false;
        }
        let QueuedUnit { catalog, unit, .. } = path.waiting.pop_front().expect("there is a front");
        path.bytes -= unit.payload.len();
        path.contiguous = matches!(placement, Placement::Next | Placement::Duplicate);
        match path.contiguous {
            true => path.previous.insert(unit.track, unit.dts),
            false => path.previous.remove(&unit.track),
        };
        match placement {
            Placement::Next => self.emit(id, catalog, unit, out),
            Placement::Duplicate => self.counters.duplicates += 1,
            Placement::Undecodable | Placement::Wait => self.counters.undecodable += 1,
        }
        true
    }

    fn emit(&mut self, id: PathId, catalog: Arc<Catalog>, unit: AccessUnit, out: &mut Vec<MergedUnit>) {
        let mut lost = 0;
        match self.tracks.get_mut(&unit.track) {
            Some(track) => {
                let step = (unit.dts - track.last) as f64;
                let missing = if track.interval > 0.0 { (step / track.interval).round() as i64 - 1 } else { 0 };
                // A server that skips goes on at a random access point; elsewhere a long step is an encoder that paused.
                let is_gap = step > track.interval * GAP_INTERVALS && track.interval > 0.0 && unit.random_access;
                if track.needs_random_access || is_gap {
                    lost = u32::try_from(missing).unwrap_or(0).max(u32::from(track.needs_random_access));
                } else {
                    let weight = if track.interval == 0.0 { 1.0 } else { 1.0 / 8.0 };
                    track.interval += (step - track.interval) * weight;
                }
                track.last = unit.dts;
                track.needs_random_access = false;
            }
            None => {
                self.tracks
                    .insert(unit.track, TrackProgress { last: unit.dts, interval: 0.0, needs_random_access: false });
            }
        }
        self.started = true;
        if (unit.track.is_video() || catalog.video().is_none()) && self.active_path != Some(id) {
            self.counters.switches += u64::from(self.active_path.is_some());
            self.active_path = Some(id);
        }
        self.counters.units += 1;
        self.counters.lost += u64::from(lost);
        self.counters.lost_pictures += if unit.track.is_video() { u64::from(lost) } else { 0 };
        out.push(MergedUnit { catalog, unit, path: id, lost });
    }
}

enum Placement {
    /// It follows on what was put out.
    Next,
    /// It was put out before.
    Duplicate,
    /// Decoding has not started, or was broken off, and cannot start here.
    Undecodable,
    /// Units are missing before it.
    Wait,
}

fn placement(tracks: &BTreeMap<TrackId, TrackProgress>, path: &Path, started: bool, waiting: &QueuedUnit) -> Placement {
    let QueuedUnit { catalog, unit, predecessor } = waiting;
    let is_key = unit.random_access && (unit.track.is_video() || catalog.video().is_none());
    let Some(track) = tracks.get(&unit.track) else {
        // The first of its track: it starts the broadcast, or joins one that has started.
        return match (started, unit.random_access) {
            (false, _) if is_key => Placement::Next,
            // Of a path that says what follows what, only one that follows a unit that never came could be missed: before the start.
            (true, true) if path.contiguous || predecessor.is_some() => Placement::Next,
            (true, true) => Placement::Wait,
            _ => Placement::Undecodable,
        };
    };
    if unit.dts <= track.last {
        return Placement::Duplicate;
    }
    let follows = match predecessor.as_ref().or(path.previous.get(&unit.track)) {
        Some(previous) => *previous == track.last,
        // The first of its track on this path follows on the unit of another track before it, if no hole shows. HLS carries
        // the tracks of a part one after the other, so the order alone is not proof.
        None => path.contiguous && ((unit.dts - track.last) as f64) < track.interval * ADJACENT_INTERVALS,
    };
    match (follows, track.needs_random_access) {
        (true, false) => Placement::Next,
        (_, true) if unit.random_access => Placement::Next,
        (_, true) => Placement::Undecodable,
        (false, false) => Placement::Wait,
    }
}

/// How many past epochs are told from new ones: a path is seldom more than one behind.
const RETIRED_EPOCHS: usize = 8;
/// Bounds what a path may have waiting: 8 s of a 16 Mbit/s stream.
const MAX_WAITING_BYTES: usize = 16 << 20;
/// A step of this many usual intervals is a hole even on one path: a server that jumped to the newest IDR says nothing.
const GAP_INTERVALS: f64 = 3.5;
/// A step of fewer usual intervals than this leaves no room for a unit in between.
const ADJACENT_INTERVALS: f64 = 1.5;

#[cfg(test)]
mod tests;
