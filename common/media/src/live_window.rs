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
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::catalog::Track;
    use crate::codec::{Codec, CodecConfig, Format};
    use crate::time::Timestamp;

    #[test]
    fn tiny_units_at_one_time_are_bounded() {
        let bytes = 4 << 20;
        let mut window = LiveWindow::new(Bounds { duration: Duration::from_secs(30), bytes });
        let catalog = catalog(1, false);
        for dts in 0..100_000i64 {
            let dts = Timestamp::from_millis(dts / 10_000);
            let payload = Bytes::from_static(b"x");
            let track = TrackId::AUDIO;
            let unit = AccessUnit { epoch: Epoch(1), track, dts, pts: dts, random_access: true, payload };
            window.push(Arc::clone(&catalog), unit, None);
            let entries = usize::try_from(window.next_position() - window.first_position()).unwrap();
            assert!(entries <= FREE_ENTRIES + bytes / ENTRY_COST);
        }
        assert!(size_of::<Entry>() + size_of::<Derived>() < ENTRY_COST / 2);
    }

    fn catalog(epoch: u64, video: bool) -> Arc<Catalog> {
        let mut catalog = Catalog::new(Epoch(epoch));
        if video {
            let format = Format::Video { width: 1, height: 1 };
            catalog.set_track(Track {
                id: TrackId::VIDEO,
                config: CodecConfig { codec: Codec::H264, record: Bytes::new(), format },
            });
        }
        Arc::new(catalog)
    }

    fn unit(epoch: u64, track: TrackId, dts: i64, random_access: bool, size: usize) -> AccessUnit {
        let dts = Timestamp::from_millis(dts);
        AccessUnit { epoch: Epoch(epoch), track, dts, pts: dts, random_access, payload: Bytes::from(vec![0; size]) }
    }

    fn window(millis: u64, bytes: usize) -> LiveWindow {
        LiveWindow::new(Bounds { duration: Duration::from_millis(millis), bytes })
    }

    /// Ten video frames a GOP, 40 ms apart, 10 bytes each.
    fn fill(window: &mut LiveWindow, pictures: std::ops::Range<i64>) {
        let catalog = catalog(1, true);
        for n in pictures {
            window.push(catalog.clone(), unit(1, TrackId::VIDEO, n * 40, n % 10 == 0, 10), None);
        }
    }

    #[test]
    fn a_long_gop_is_held_as_long_as_its_bytes_allow() {
        let catalog = catalog(1, true);
        let mut w = window(1000, 2000);
        for n in 0..150i64 {
            w.push(catalog.clone(), unit(1, TrackId::VIDEO, n * 40, n == 0 || n == 100, 10), None);
            let expected = if n < 100 { 0 } else { 100 };
            assert_eq!(w.join_position(), Some(expected), "{n}");
        }
        assert_eq!((w.first_position(), w.gop_duration()), (100, Some(Duration::from_millis(4000))));
        let mut w = window(1000, 500);
        for n in 0..100i64 {
            w.push(catalog.clone(), unit(1, TrackId::VIDEO, n * 40, n == 0, 10), None);
        }
        assert_eq!((w.join_position(), w.gop_duration()), (None, Some(Duration::from_millis(3960))));
        assert!(w.duration() <= Duration::from_secs(1));
    }

    #[test]
    fn joins_at_the_newest_gop() {
        let mut w = window(10_000, 10_000);
        assert!(Cursor::at_live_edge().read(&w, usize::MAX).entries.is_empty());
        fill(&mut w, 0..25);
        let read = Cursor::at_live_edge().read(&w, usize::MAX);
        assert_eq!(read.entries.iter().map(|e| e.position).collect::<Vec<_>>(), (20..25).collect::<Vec<_>>());
        assert!(read.entries[0].starts_gop);
        assert_eq!(w.gop_start(15), Some(10));
        assert_eq!([10, 24, 25].map(|position| w.lag(position).as_millis()), [560, 0, 0]);
    }

    /// A video frame every 40 ms with an audio frame after each, at the source; those at `skipped` never reached this window.
    fn fill_but(window: &mut LiveWindow, pictures: std::ops::Range<i64>, skipped: std::ops::Range<i64>) {
        let (catalog, mut order) = (catalog(1, true), TrackOrder::default());
        for n in pictures {
            for (track, dts) in [(TrackId::VIDEO, n * 40), (TrackId::AUDIO, n * 40 + 5)] {
                let unit = unit(1, track, dts, n % 10 == 0, 10);
                let predecessor = order.follow(&unit);
                if !skipped.contains(&n) {
                    window.push(catalog.clone(), unit, predecessor);
                }
            }
        }
    }

    #[test]
    fn the_predecessor_is_the_one_that_the_source_states() {
        let mut w = window(10_000, 10_000);
        fill_but(&mut w, 0..31, 3..30);
        let stated: Vec<_> = w.from(0).map(|e| e.predecessor_dts.map(Timestamp::as_millis)).collect();
        assert_eq!(stated, [None, None, Some(0), Some(5), Some(40), Some(45), Some(29 * 40), Some(29 * 40 + 5)]);
    }

    #[test]
    fn a_reader_gets_the_predecessor_of_the_next_unit_per_track() {
        let mut w = window(10_000, 10_000);
        w.push(catalog(9, true), unit(9, TrackId::VIDEO, 7, true, 1), None);
        let mut both = Catalog::clone(&catalog(1, true));
        let format = Format::Audio { sample_rate: 48_000, channels: 2 };
        let config = CodecConfig { codec: Codec::Aac, record: Bytes::new(), format };
        both.set_track(Track { id: TrackId::AUDIO, config });
        let (both, at) = (Arc::new(both), |millis| Some(Timestamp::from_millis(millis)));
        w.push(both.clone(), unit(1, TrackId::VIDEO, 400, true, 1), at(360));
        w.push(both.clone(), unit(1, TrackId::AUDIO, 410, true, 1), None);
        w.push(both.clone(), unit(1, TrackId::VIDEO, 1200, true, 1), at(1160));
        w.push(both, unit(1, TrackId::VIDEO, 1240, false, 1), at(1200));
        let told = |position| [TrackId::VIDEO, TrackId::AUDIO].map(|id| w.predecessor_of_next(position, Epoch(1), id));
        assert_eq!(told(1), [at(360), None], "video, audio");
        assert_eq!(told(3), [at(1160), at(410)], "no newer audio");
        assert_eq!(told(5), [at(1240), at(410)], "no newer units");
        assert_eq!(w.predecessor_of_next(0, Epoch(9), TrackId::VIDEO), None);
        let order = |position| {
            let order = w.order_before(w.from(position).next().unwrap());
            [TrackId::VIDEO, TrackId::AUDIO].map(|track| order.newest(Epoch(1), track))
        };
        assert_eq!((order(3), order(1)), ([at(400), at(410)], [None, None]));
    }

    #[test]
    fn data_derived_from_a_unit_is_made_once_for_all_readers() {
        let mut w = window(10_000, 10_000);
        w.push(catalog(1, true), unit(1, TrackId::VIDEO, 0, true, 1), None);
        let read = |value: u64| *Cursor::at(0).read(&w, 100).entries[0].derived(|| value);
        assert_eq!((read(1), read(2)), (1, 1));
    }

    #[test]
    fn finds_the_first_missing_unit() {
        let mut w = window(10_000, 10_000);
        let c = catalog(1, true);
        for (track, dts) in [(TrackId::VIDEO, 0), (TrackId::AUDIO, 5), (TrackId::VIDEO, 40), (TrackId::AUDIO, 26)] {
            w.push(c.clone(), unit(1, track, dts, true, 1), None);
        }
        let check = |epoch, have: &[(TrackId, i64)], expected: Option<u64>| {
            let have: Vec<_> = have.iter().map(|(track, dts)| (*track, Timestamp::from_millis(*dts))).collect();
            assert_eq!(w.first_missing(Epoch(epoch), &have).map(|entry| entry.position), expected, "{epoch} {have:?}");
        };
        check(1, &[], Some(0));
        check(1, &[(TrackId::VIDEO, 0)], Some(1));
        check(1, &[(TrackId::VIDEO, 0), (TrackId::AUDIO, 5)], Some(2));
        check(1, &[(TrackId::VIDEO, 40), (TrackId::AUDIO, 5)], Some(3));
        check(1, &[(TrackId::VIDEO, 99), (TrackId::AUDIO, 26)], None);
        check(2, &[], None);
    }

    #[test]
    fn a_subscriber_resumes_after_its_last_unit_unless_units_are_missing_in_between() {
        let (c, at) = (catalog(1, true), Timestamp::from_millis);
        let mut w = window(10_000, 10_000);
        let after = |w: &LiveWindow, epoch, dts| w.resume_position(Epoch(epoch), &[(TrackId::VIDEO, at(dts))]);
        assert_eq!(after(&w, 1, 80), Some(0), "an empty window: its first unit");
        // Frames 0 to 4, then a skip to 10, whose predecessor is 9.
        for n in [0, 1, 2, 3, 4, 10, 11] {
            w.push(c.clone(), unit(1, TrackId::VIDEO, n * 40, n % 5 == 0, 10), (n > 0).then(|| at((n - 1) * 40)));
        }
        for (dts, expected) in [
            (80, Some(3)),
            (160, Some(5)),
            (200, None),
            (360, Some(5)),
            (400, Some(6)),
            (440, Some(7)),
            (9999, Some(7)),
        ] {
            assert_eq!(after(&w, 1, dts), expected, "after {dts}");
        }
        assert_eq!(after(&w, 2, 80), None, "another broadcast is joined at its newest IDR");
        assert_eq!(w.resume_position(Epoch(1), &[(TrackId::AUDIO, at(0))]), Some(0), "no video yet");
    }

    #[test]
    fn waits_for_the_first_gop() {
        let mut w = window(10_000, 10_000);
        fill(&mut w, 3..8);
        let mut cursor = Cursor::at_live_edge();
        assert!(cursor.read(&w, usize::MAX).entries.is_empty());
        fill(&mut w, 8..12);
        assert_eq!(cursor.read(&w, usize::MAX).entries.len(), 2);
    }

    #[test]
    fn evicts_whole_gops() {
        let mut w = window(600, 10_000);
        fill(&mut w, 0..25);
        assert_eq!(w.first_position(), 10);
        let mut w = window(10_000, 150);
        fill(&mut w, 0..25);
        assert_eq!((w.first_position(), w.bytes()), (10, 150));
    }

    /// Reads five units at a time, while GOPs of each length and size end: a reader as late as that loses nothing.
    #[test]
    fn the_end_of_a_gop_is_held_until_it_can_be_read() {
        for (millis, bytes) in [(1000, 100_000), (100_000, 600), (100_000, usize::MAX)] {
            for gop in [1, 2, 10, 24, 25, 26, 27, 40, 90] {
                let (mut w, catalog) = (window(millis, bytes), catalog(1, true));
                let mut cursor = Cursor::at(0);
                for n in 0..300 {
                    w.push(catalog.clone(), unit(1, TrackId::VIDEO, n * 40, n % gop == 0, 10), None);
                    w.push(catalog.clone(), unit(1, TrackId::AUDIO, n * 40, true, 10), None);
                    if n % 5 == 4 {
                        let read = cursor.read(&w, usize::MAX);
                        assert_eq!(
                            (read.skipped, read.entries.len()),
                            (0, 10),
                            "{millis} ms, {bytes} bytes, {gop}: {n}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn an_oversized_gop_is_cut_and_cannot_be_joined() {
        let mut w = window(10_000, 50);
        let c = catalog(1, true);
        for n in 0..20 {
            w.push(c.clone(), unit(1, TrackId::VIDEO, n * 40, n == 0, 10), None);
        }
        assert_eq!((w.bytes(), w.join_position()), (50, None));
    }

    #[test]
    fn an_overtaken_cursor_jumps_and_counts() {
        let mut w = window(600, 10_000);
        fill(&mut w, 0..3);
        let mut cursor = Cursor::at_live_edge();
        assert_eq!(cursor.read(&w, usize::MAX).entries.len(), 3);
        fill(&mut w, 3..45);
        let read = cursor.read(&w, usize::MAX);
        assert_eq!((read.skipped, read.entries[0].position, read.entries.len()), (37, 40, 5));
    }

    #[test]
    fn an_overtaken_cursor_waits_if_no_gop_is_held() {
        let mut w = window(10_000, 50);
        let c = catalog(1, true);
        let mut cursor = Cursor::at_live_edge();
        for n in 0..20 {
            w.push(c.clone(), unit(1, TrackId::VIDEO, n * 40, n == 0, 10), None);
            if n == 0 {
                cursor.read(&w, usize::MAX);
            }
        }
        let read = cursor.read(&w, usize::MAX);
        assert_eq!((read.skipped, read.entries.len(), cursor.position()), (19, 0, None));
        w.push(c, unit(1, TrackId::VIDEO, 800, true, 10), None);
        assert_eq!(cursor.read(&w, usize::MAX).entries[0].position, 20);
    }

    #[test]
    fn a_cleared_window_holds_nothing_and_its_positions_continue() {
        let mut w = window(10_000, 10_000);
        fill(&mut w, 0..25);
        let (mut behind, mut at_end) = (Cursor::at(3), Cursor::at(25));
        w.clear();
        assert_eq!((w.bytes(), w.duration(), w.join_position(), w.gop_start(20)), (0, Duration::ZERO, None, None));
        assert_eq!((w.first_position(), w.next_position(), w.newest().is_none()), (25, 25, true));
        let reads = [&mut Cursor::at_live_edge(), &mut behind, &mut at_end].map(|cursor| cursor.read(&w, usize::MAX));
        assert_eq!(reads.map(|read| (read.entries.len(), read.skipped)), [(0, 0), (0, 22), (0, 0)]);
        fill(&mut w, 30..32);
        assert_eq!((w.first_position(), w.join_position(), w.duration()), (25, Some(25), Duration::from_millis(40)));
        for mut cursor in [Cursor::at_live_edge(), behind, at_end] {
            assert_eq!(cursor.read(&w, usize::MAX).entries.iter().map(|e| e.position).collect::<Vec<_>>(), [25, 26]);
        }
    }

    #[test]
    fn a_catalog_for_every_unit_counts() {
        let mut w = window(10_000, 100_000);
        for n in 0..100 {
            let mut heavy = Catalog::clone(&catalog(1, true));
            heavy.tracks[0].config.record = Bytes::from(vec![0; 10_000]);
            w.push(Arc::new(heavy), unit(1, TrackId::VIDEO, n * 40, true, 10), None);
        }
        assert_eq!(w.first_position(), 91);
    }

    #[test]
    fn reads_at_most_the_given_bytes() {
        let mut w = window(10_000, 10_000);
        fill(&mut w, 0..10);
        let mut cursor = Cursor::at_live_edge();
        assert_eq!(cursor.read(&w, 35).entries.len(), 3);
        assert_eq!(cursor.read(&w, 1).entries.len(), 1);
        assert_eq!(cursor.jump_to_live_edge(&w), 0);
        fill(&mut w, 10..12);
        assert_eq!(cursor.jump_to_live_edge(&w), 6);
    }

    #[test]
    fn audio_alone_can_be_joined_every_second() {
        let mut w = window(10_000, 10_000);
        let c = catalog(1, false);
        for n in 0..100 {
            w.push(c.clone(), unit(1, TrackId::AUDIO, n * 23, true, 1), None);
        }
        assert_eq!(w.join_position(), Some(88));
    }

    #[test]
    fn interleaved_tracks_do_not_advance_the_clock_twice() {
        let mut w = window(60_000, 1 << 20);
        let c = catalog(1, true);
        for n in 0..100 {
            w.push(c.clone(), unit(1, TrackId::VIDEO, n * 40, n % 25 == 0, 1), None);
            w.push(c.clone(), unit(1, TrackId::AUDIO, n * 40 - 30, true, 1), None);
        }
        assert_eq!(w.duration(), Duration::from_millis(99 * 40));
        // The clock of another epoch continues where this one ended.
        let c = catalog(2, true);
        w.push(c.clone(), unit(2, TrackId::VIDEO, 500_000, true, 1), None);
        w.push(c, unit(2, TrackId::VIDEO, 500_040, false, 1), None);
        assert_eq!(w.duration(), Duration::from_millis(100 * 40));
    }

    proptest! {
        #[test]
        fn never_exceeds_its_bounds(units in prop::collection::vec((0u64..3, any::<bool>(), any::<bool>(), 0i64..500, 0usize..200), 1..200)) {
            let mut w = window(1000, 1000);
            let mut dts = 0;
            for (n, (epoch, video, random_access, step, size)) in units.into_iter().enumerate() {
                dts += step;
                let track = if video { TrackId::VIDEO } else { TrackId::AUDIO };
                w.push(catalog(epoch, true), unit(epoch, track, dts, random_access, size), None);
                prop_assert!(w.entries.len() == 1 || w.bytes() <= 1000);
                let is_one_gop = w.gops.len() == 1 && w.join_position() == Some(w.first_position());
                prop_assert!(is_one_gop || w.entries.len() == 1 || w.duration() <= Duration::from_millis(1000));
                prop_assert_eq!(w.bytes(), w.entries.iter().map(|e| e.unit.payload.len()).sum::<usize>());
                prop_assert_eq!(w.next_position(), n as u64 + 1);
                prop_assert!(w.gops.iter().all(|g| w.from(*g).next().is_some_and(|e| e.position == *g && e.starts_gop)));
            }
        }
    }
}
