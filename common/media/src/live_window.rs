//! The live window: the newest GOPs of one stream, bounded in time and in bytes, and the cursors that read it.
//!
//! The window knows access units and positions, never subscribers or protocols. A subscriber is a [`Cursor`]: a position without a queue. If the
//! window has moved past it, it continues at the newest random access point and gets the number of units that it missed. Positions count access
//! units from the start of the stream and never repeat, across epochs.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::access_unit::{AccessUnit, Epoch, TrackId};
use crate::catalog::Catalog;
use crate::derived::Derived;
use crate::gop_duration::GopDurations;
use crate::time::Timestamp;
use crate::track_order::TrackOrder;

/// An access unit in the window, with the catalog in force for it. Cloning copies no media.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Number of units that the stream had before it.
    pub position: u64,
    /// Whether a subscriber can start here.
    pub starts_gop: bool,
    /// The catalog in force. Neighbours share it: compare with `Arc::ptr_eq` to see a change.
    pub catalog: Arc<Catalog>,
    /// The access unit.
    pub unit: AccessUnit,
    /// DTS of its predecessor, the unit before it in its track, as its source states: not always a unit that the window has held. `None` for
    /// the first of its track in its epoch, and if the source does not know it.
    pub predecessor_dts: Option<Timestamp>,
    /// Milliseconds on the window's own clock, which never goes back and continues across epochs.
    at: i64,
    /// Bytes that it adds to the window: its payload, and its catalog if that is a new one.
    weight: usize,
    /// Sum of the weights of all units before it since the window was empty.
    weight_before: u64,
    /// Values that readers have [derived](Self::derived) from the unit.
    derived: Arc<Derived>,
}

impl Entry {
    /// A value that one kind of reader derives from this unit. The first reader that needs it computes it; the others share it; it is dropped
    /// with the unit. Each kind of reader has a type of its own.
    pub fn derived<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        self.derived.get_or_make(make)
    }
}

/// Upper bounds of what a window holds. The newest unit is always held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Media time from the oldest unit to the newest. The newest GOP is held nevertheless, because no subscriber can start without its beginning.
    pub duration: Duration,
    /// Sum of the payloads and of the catalogs that they need. Beyond [`FREE_ENTRIES`] units, each unit counts [`ENTRY_COST`] in addition.
    pub bytes: usize,
}

/// The newest GOPs of one stream.
#[derive(Debug)]
pub struct LiveWindow {
    bounds: Bounds,
    entries: VecDeque<Entry>,
    /// Positions of the entries that start a GOP, oldest first.
    gops: VecDeque<u64>,
    next_position: u64,
    bytes: usize,
    weight: usize,
    /// Sum of the weights of all units since the window was empty.
    total_weight: u64,
    /// What to add to a DTS of the newest epoch to get the window's own clock.
    offset: i64,
    /// The GOPs of the newest epoch.
    durations: GopDurations,
    /// Duration of the newest complete one in milliseconds; zero before the first.
    last_gop: i64,
}

impl LiveWindow {
    /// An empty window.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            entries: VecDeque::new(),
            gops: VecDeque::new(),
            next_position: 0,
            bytes: 0,
            weight: 0,
            total_weight: 0,
            offset: 0,
            durations: GopDurations::default(),
            last_gop: 0,
        }
    }

    /// Appends a unit and evicts what no longer fits, oldest GOP first. At least half of what fits remains.
    ///
    /// `predecessor_dts` is the DTS of the unit before it in its track of the broadcast. Only the source knows it: if the source skipped units,
    /// the previous unit in this window is another one. The caller ensures that `unit.epoch == catalog.epoch` and that DTS increases within the
    /// track.
    pub fn push(&mut self, catalog: Arc<Catalog>, unit: AccessUnit, predecessor_dts: Option<Timestamp>) -> &Entry {
        let newest = self.entries.back().map(|last| (last.unit.epoch, last.at));
        if newest.is_none_or(|(epoch, _)| epoch != unit.epoch) {
            self.offset = newest.map_or(0, |(_, at)| at).saturating_sub(unit.dts.as_millis());
            (self.durations, self.last_gop) = (GopDurations::default(), 0);
        }
        // By the epoch's own clock: relative to the unit before, the distance between two tracks would be added repeatedly.
        let at = newest.map_or(0, |(_, at)| at).max(self.offset.saturating_add(unit.dts.as_millis()));
        let starts_gop = self.starts_gop(&catalog, &unit, at);
        let is_new_catalog = self.entries.back().is_none_or(|last| !Arc::ptr_eq(&last.catalog, &catalog));
        let weight = unit.payload.len() + if is_new_catalog { catalog.bytes() } else { 0 };
        self.bytes += unit.payload.len();
        self.weight += weight;
        if starts_gop {
            self.gops.push_back(self.next_position);
        }
        if catalog.video().is_none_or(|video| video.id == unit.track) {
            self.last_gop = self.durations.observe(at, starts_gop).unwrap_or(self.last_gop);
        }
        self.entries.push_back(Entry {
            position: self.next_position,
            starts_gop,
            catalog,
            unit,
            predecessor_dts,
            at,
            weight,
            weight_before: self.total_weight,
            derived: Arc::default(),
        });
        self.total_weight += weight as u64;
        self.next_position += 1;
        self.evict();
        self.entries.back().expect("an entry was just pushed, and eviction keeps the newest")
    }

    /// Evicts everything, as the stream has ended. Positions continue; until the next unit there is nothing to join or to read.
    pub fn clear(&mut self) {
        *self = Self { next_position: self.next_position, ..Self::new(self.bounds) };
    }

    /// Position of the oldest unit in the window; equals [`next_position`](Self::next_position) when empty.
    pub fn first_position(&self) -> u64 {
        self.next_position - self.entries.len() as u64
    }

    /// Position of the next unit.
    pub fn next_position(&self) -> u64 {
        self.next_position
    }

    /// Where a new subscriber starts: the start of the newest GOP. `None` if the window holds no start of a GOP.
    pub fn join_position(&self) -> Option<u64> {
        self.gops.back().copied()
    }

    /// The start of the GOP that contains `position`, where decoding has to start. `None` if it has left the window.
    pub fn gop_start(&self, position: u64) -> Option<u64> {
        self.gops.iter().rev().copied().find(|start| *start <= position)
    }

    /// Media time between the starts of the newest two GOPs of this epoch, or from the newest start to the newest picture if that is longer; a pause
    /// of the pictures does not count. `None` if the epoch has no start of a GOP yet, or nothing is held.
    pub fn gop_duration(&self) -> Option<Duration> {
        let open = self.durations.open().filter(|_| !self.entries.is_empty())?;
        Some(Duration::from_millis(self.last_gop.max(open) as u64))
    }

    /// The units from `position` on, oldest first; from the oldest unit if that position has left the window.
    pub fn from(&self, position: u64) -> impl Iterator<Item = &Entry> {
        let skip = position.saturating_sub(self.first_position());
        self.entries.range(usize::try_from(skip).unwrap_or(usize::MAX).min(self.entries.len())..)
    }

    /// The oldest unit of `epoch` that a receiver lacks if it has each track in `have` up to its DTS, and no unit of other tracks.
    pub fn first_missing(&self, epoch: Epoch, have: &[(TrackId, Timestamp)]) -> Option<&Entry> {
        let lacks = |unit: &AccessUnit| have.iter().all(|(track, last)| *track != unit.track || unit.dts > *last);
        self.entries.iter().find(|entry| entry.unit.epoch == epoch && lacks(&entry.unit))
    }

    /// Where a subscriber continues that has each track of `epoch` in `have` up to its DTS. `None` for the live edge, if the window lacks units in
    /// between or holds another epoch.
    pub fn resume_position(&self, epoch: Epoch, have: &[(TrackId, Timestamp)]) -> Option<u64> {
        let had = |track| have.iter().find(|(known, _)| *known == track).map(|(_, dts)| *dts);
        match self.first_missing(epoch, have) {
            // The units in between have left the window, or never reached it. The next decodable unit is an IDR.
            Some(first)
                if had(first.unit.track).is_some_and(|dts| {
                    let held = || self.newest_before(first.position, epoch, first.unit.track);
                    first.predecessor_dts != Some(dts) && held().is_none_or(|held| held.unit.dts != dts)
                }) =>
            {
                None
            }
            Some(first) => Some(first.position),
            // The subscriber has every unit of the window, or the window is empty after a restart: the next unit.
            None if self.newest().is_none_or(|newest| newest.unit.epoch == epoch) => Some(self.next_position),
            None => None,
        }
    }

    /// The held unit of the same track and epoch before the one at `position`.
    pub fn newest_before(&self, position: u64, epoch: Epoch, track: TrackId) -> Option<&Entry> {
        let held = usize::try_from(position.saturating_sub(self.first_position())).unwrap_or(usize::MAX);
        let before = self.entries.range(..held.min(self.entries.len())).rev();
        before.take_while(|entry| entry.unit.epoch == epoch).find(|entry| entry.unit.track == track)
    }

    /// DTS of the predecessor of the next unit of `track` from `position` on, whether that unit is held or has not arrived yet; `None` if it is
    /// not known.
    pub fn predecessor_of_next(&self, position: u64, epoch: Epoch, track: TrackId) -> Option<Timestamp> {
        let mut next = self.from(position).take_while(|entry| entry.unit.epoch == epoch);
        match next.find(|entry| entry.unit.track == track) {
            Some(next) => next.predecessor_dts,
            None => self.newest_before(position, epoch, track).map(|entry| entry.unit.dts),
        }
    }

    /// The track order of a reader that has read the units before `entry` without a skip, as far as the window holds them.
    pub fn order_before(&self, entry: &Entry) -> TrackOrder {
        let (mut order, epoch) = (TrackOrder::default(), entry.unit.epoch);
        for track in &entry.catalog.tracks {
            let newest = self.newest_before(entry.position, epoch, track.id);
            order.state(epoch, track.id, newest.map(|entry| entry.unit.dts));
        }
        order
    }

    /// The newest unit.
    pub fn newest(&self) -> Option<&Entry> {
        self.entries.back()
    }

    /// Media time from the unit at `position` (or the oldest one, if that has left the window) to the newest.
    pub fn lag(&self, position: u64) -> Duration {
        let (entry, newest) = (self.from(position).next(), self.entries.back());
        let millis = entry.zip(newest).map_or(0, |(entry, newest)| newest.at - entry.at);
        Duration::from_millis(millis.max(0) as u64)
    }

    /// Sum of the payloads in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Media time from the oldest unit to the newest.
    pub fn duration(&self) -> Duration {
        match (self.entries.front(), self.entries.back()) {
            (Some(first), Some(last)) => Duration::from_millis((last.at - first.at).max(0) as u64),
            _ => Duration::ZERO,
        }
    }

    /// A random access point of the first video track starts a GOP; without video, the first audio unit of every [`AUDIO_GOP`] does.
    fn starts_gop(&self, catalog: &Catalog, unit: &AccessUnit, at: i64) -> bool {
        match catalog.video() {
            Some(video) => unit.random_access && unit.track == video.id,
            None => {
                let newest_start = self.gops.back().and_then(|start| self.from(*start).next());
                newest_start
                    .is_none_or(|start| start.unit.epoch != unit.epoch || at - start.at >= AUDIO_GOP.as_millis() as i64)
            }
        }
    }

    fn evict(&mut self) {
        while self.entries.len() > 1 && self.is_over() {
            let end = self.whole_gop_end().unwrap_or(self.first_position() + 1);
            while self.first_position() < end {
                let gone = self.entries.pop_front().expect("`end` is a held position");
                self.bytes -= gone.unit.payload.len();
                self.weight -= gone.weight;
            }
            while self.gops.front().is_some_and(|start| *start < end) {
                self.gops.pop_front();
            }
        }
    }

    /// Where the next GOP starts, if the oldest one is to be evicted whole, so that the window starts where a subscriber can. A GOP is cut
    /// instead if too little would remain: its end has only just arrived, and subscribers have yet to read it.
    fn whole_gop_end(&self) -> Option<u64> {
        let next = self.gops.iter().copied().find(|start| *start > self.first_position())?;
        let (next, newest) = (self.from(next).next()?, self.entries.back()?);
        let (remains_for, remain) = (newest.at - next.at, self.total_weight - next.weight_before);
        let has_time = u128::try_from(remains_for).is_ok_and(|millis| millis * 2 >= self.bounds.duration.as_millis());
        (has_time || remain * 2 >= self.bounds.bytes as u64).then_some(next.position)
    }

    fn is_over(&self) -> bool {
        let entries = self.entries.len().saturating_sub(FREE_ENTRIES).saturating_mul(ENTRY_COST);
        let is_one_gop = self.gops.len() == 1 && self.gops.front() == Some(&self.first_position());
        self.weight.saturating_add(entries) > self.bounds.bytes || !is_one_gop && self.duration() > self.bounds.duration
    }
}

/// What a unit costs beside its payload, in bytes: its entry, the allocation of its payload, and what readers derive from it.
pub const ENTRY_COST: usize = 512;
/// Number of units whose cost is not counted: half a minute of an ordinary stream. It bounds what many tiny units cost.
pub const FREE_ENTRIES: usize = 2048;

/// A subscriber's position in a [`LiveWindow`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    next: Option<u64>,
}

/// The result of [`Cursor::read`].
#[derive(Debug, Default)]
pub struct ReadBatch {
    /// The next units for this subscriber, oldest first.
    pub entries: Vec<Entry>,
    /// Number of units that it missed because the window has moved on.
    pub skipped: u64,
}

impl Cursor {
    /// A cursor that starts at the newest GOP, or at the next one if there is none.
    pub fn at_live_edge() -> Self {
        Self { next: None }
    }

    /// A cursor that starts at `position`.
    pub fn at(position: u64) -> Self {
        Self { next: Some(position) }
    }

    /// The position of the next unit to read; `None` before it has started.
    pub fn position(&self) -> Option<u64> {
        self.next
    }

    /// Reads the units after the last read: at most `max_bytes` of payload, but at least one unit if there is one.
    pub fn read(&mut self, window: &LiveWindow, max_bytes: usize) -> ReadBatch {
        let skipped = self.catch_up(window);
        let Some(start) = self.next.or(window.join_position()) else {
            return ReadBatch { entries: Vec::new(), skipped };
        };
        let mut bytes = 0usize;
        let entries: Vec<_> = window
            .from(start)
            .take_while(|entry| {
                let is_first = bytes == 0;
                bytes = bytes.saturating_add(entry.unit.payload.len().max(1));
                is_first || bytes <= max_bytes
            })
            .cloned()
            .collect();
        self.next = Some(start + entries.len() as u64);
        ReadBatch { entries, skipped }
    }

    /// Moves ahead to the newest GOP. Returns the number of units skipped, 0 if it was there already.
    pub fn jump_to_live_edge(&mut self, window: &LiveWindow) -> u64 {
        match (self.next, window.join_position()) {
            (Some(next), Some(join)) if next < join => {
                self.next = Some(join);
                join - next
            }
            _ => 0,
        }
    }

    /// If its position has left the window, continues at the newest GOP, or at the next one. Returns the number of units skipped.
    fn catch_up(&mut self, window: &LiveWindow) -> u64 {
        let Some(next) = self.next.filter(|next| *next < window.first_position()) else { return 0 };
        self.next = window.join_position();
        self.next.unwrap_or(window.next_position()) - next
    }
}

/// Distance of the points where a stream without video can be joined. A new subscriber gets up to this much past audio.
pub const AUDIO_GOP: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
