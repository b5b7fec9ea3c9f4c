//! The segmenter: access units in, parts and segments out.
//!
//! # Where segments end
//!
//! A segment ends at the IDR nearest to the segment target. A GOP that is much longer becomes one segment: the target duration is fixed when the
//! first segment is complete, from the longest GOP seen, and never changes after that (RFC 8216 §6.2.1). If a later GOP is longer than the
//! target duration, or no IDR comes at all (intra refresh), the segment is cut before it would exceed the target duration, between any two
//! pictures. Such a segment cannot be decoded by itself, so from then on [`SegmentWindow::independent`] is false and the playlist no longer claims
//! `EXT-X-INDEPENDENT-SEGMENTS`.
//!
//! # Discontinuities
//!
//! There is a discontinuity where another epoch begins, where a track joins, leaves or changes its configuration, and where the timeline has a
//! gap longer than the target duration. A publisher that reconnects and continues its epoch causes none. The media sequence number continues
//! through all of this.
//!
//! A track that joins while the first segment of its epoch is still open (most encoders send their headers one after the other) joins that
//! segment, which no client has seen yet. A track that joins later waits for the next IDR, and its units are held until then, so that the segment
//! it joins can be decoded. Pictures that are announced and do not come for some seconds are such a track: until they come, the sound is all there is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::config::{SegmenterConfig, SegmenterCounters};
use super::segment::{Init, Part, Segment, SegmentWindow};
use super::store::{MemoryStore, SegmentStore};
use super::targets::Targets;
use super::timeline::{MAX_STEP, Timeline, init, same_tracks};
use crate::access_unit::AccessUnit;
use crate::catalog::Catalog;
use crate::fmp4::rendition;
use crate::live_window::Entry;
use crate::time::{Timestamp, WallClock};

/// Cuts one stream into parts and segments, across epochs, and gives complete segments to its store.
#[derive(Debug)]
pub struct Segmenter<S = MemoryStore> {
    config: SegmenterConfig,
    store: S,
    targets: Targets,
    window: Arc<SegmentWindow>,
    timeline: Option<Timeline>,
    counters: SegmenterCounters,
    /// `sequence_number` of the next fragment's `mfhd`.
    fragment_sequence: u32,
    next_msn: u64,
    discontinuities: u64,
    /// Whether every segment so far was independent.
    independent: bool,
    ended: bool,
}

impl Segmenter {
    /// A segmenter that keeps its segments in memory.
    pub fn new(config: SegmenterConfig) -> Self {
        let store = MemoryStore::new(config.window, config.bytes);
        Self::with_store(config, store)
    }
}

impl<S: SegmentStore> Segmenter<S> {
    /// A segmenter that gives its segments to `store`, which must be empty.
    pub fn with_store(config: SegmenterConfig, store: S) -> Self {
        let window = SegmentWindow { independent: true, low_latency: config.low_latency, ..SegmentWindow::default() };
        Self {
            store,
            targets: Targets::new(&config),
            window: Arc::new(window),
            timeline: None,
            counters: SegmenterCounters::default(),
            fragment_sequence: 1,
            next_msn: config.first_sequence,
            discontinuities: 0,
            independent: true,
            ended: false,
            config,
        }
    }

    /// Adds the next unit of the stream. `arrived` dates the stream if the publisher stated no clock. Returns whether the window changed.
    pub fn push(&mut self, entry: &Entry, arrived: WallClock) -> bool {
        let before = Arc::as_ptr(&self.window);
        self.targets.on_shown();
        if std::mem::take(&mut self.ended) {
            // A player that joins now must not see the broadcast that has ended.
            self.store.unlist_before(self.next_msn);
            self.targets = Targets::new(&self.config);
            self.update_window();
        }
        self.apply_catalog(&entry.catalog, &entry.unit);
        if let Some(timeline) = &mut self.timeline {
            timeline.observe_arrival(&entry.unit, arrived);
        }
        self.accept(entry);
        before != Arc::as_ptr(&self.window)
    }

    /// Closes the segment in progress and marks the stream as ended. If units follow nevertheless, they start a new list; media sequence numbers
    /// continue.
    pub fn end(&mut self) {
        self.targets.on_shown();
        self.close_all();
        self.ended = true;
        self.update_window();
    }

    /// The newest snapshot.
    pub fn window(&self) -> Arc<SegmentWindow> {
        Arc::clone(&self.window)
    }

    /// The init segment with this [id](Init::id), while a segment that needs it is available.
    pub fn init(&self, id: u64) -> Option<Bytes> {
        self.window.init(id)
    }

    /// The bytes of the segment with this media sequence number, while it is available.
    pub fn segment(&self, msn: u64) -> Option<Vec<Bytes>> {
        self.window.segment(msn)
    }

    /// The counters so far.
    pub fn counters(&self) -> SegmenterCounters {
        self.counters
    }

    /// The store, for example to read segments that have left the window.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Starts a timeline for a new epoch, or prepares a change within the current one.
    fn apply_catalog(&mut self, catalog: &Arc<Catalog>, unit: &AccessUnit) {
        let Some(timeline) = self.timeline.as_mut().filter(|timeline| timeline.catalog.epoch == catalog.epoch) else {
            self.close_all();
            self.targets.on_other_tracks();
            let is_first = self.next_msn == self.config.first_sequence;
            self.timeline = init(catalog).map(|init| Timeline::new(catalog, init, self.fragment_sequence, !is_first));
            return;
        };
        if Arc::ptr_eq(&timeline.catalog, catalog) {
            return;
        }
        timeline.catalog = Arc::clone(catalog);
        let Some(init) = init(catalog) else { return };
        if !timeline.waiting.is_empty() {
            // The previous change is not in force yet: units that wait for it must not be written with this one.
            self.switch_and_cut(unit);
        }
        let Some(timeline) = &mut self.timeline else { return };
        if init.id == timeline.init.id {
            timeline.next_init = None;
        } else if timeline.may_become(&init.catalog) {
            timeline.switch(init);
        } else {
            timeline.next_init = Some(init);
        }
    }

    fn accept(&mut self, entry: &Entry) {
        let unit = &entry.unit;
        let Some(timeline) = &mut self.timeline else {
            self.counters.refused += 1;
            return;
        };
        timeline.do_without_late_pictures(unit);
        if timeline.waits_for_next_init(unit) {
            let bytes: usize = timeline.waiting.iter().map(|waiting| waiting.unit.payload.len()).sum();
            let limit = self.targets.max_segment_millis();
            let is_late = timeline.waiting.first().is_some_and(|first| unit.dts - first.unit.dts > limit);
            if timeline.can_switch_at(unit) || is_late || bytes > self.config.bytes / WAITING_SHARE {
                self.switch_and_cut(unit);
            } else {
                timeline.waiting.push(entry.clone());
                return;
            }
        } else if timeline.next_init.is_some() && timeline.can_switch_at(unit) {
            self.switch_and_cut(unit);
        }
        self.append(entry);
    }

    /// Closes the open segment before `unit` and starts the next one with the new init segment.
    fn switch_and_cut(&mut self, unit: &AccessUnit) {
        let Some(timeline) = &mut self.timeline else { return };
        timeline.update_lead(unit);
        let at = timeline.time_of(unit);
        let end = timeline.edge.map_or(at, |edge| edge.max(at));
        self.close_segment(end, Some(unit));
        let Some(timeline) = &mut self.timeline else { return };
        let Some(next) = timeline.next_init.take() else { return };
        // A clock that became known, or was corrected, changes no timestamp.
        if !same_tracks(&timeline.init.catalog, &next.catalog) {
            timeline.discontinuity_pending = true;
            self.targets.on_other_tracks();
        }
        timeline.switch(next);
        for waiting in std::mem::take(&mut timeline.waiting) {
            if timeline.admits(&waiting.unit) {
                // It is earlier than the video frame that opens the segment; the segment starts at the video frame nevertheless.
                timeline.add(at, &waiting);
            } else {
                self.counters.refused += 1;
            }
        }
        self.update_window();
    }

    /// Cuts before the unit if a segment or part ends there, then adds it.
    fn append(&mut self, entry: &Entry) {
        let unit = &entry.unit;
        let limit = self.targets.max_segment_millis();
        let Some(timeline) = &mut self.timeline else { return };
        if timeline.init.catalog.track(unit.track).is_none() {
            // A track of another rendition, or one that fMP4 cannot carry.
            self.counters.refused += u64::from(rendition(&timeline.catalog).any(|track| track.id == unit.track));
            return;
        }
        timeline.has_idr |= unit.track.is_video() && unit.random_access;
        if unit.track.is_video() && !timeline.has_idr {
            self.counters.undecodable += 1;
            return;
        }
        timeline.observe_sound(unit);
        timeline.end_silence(unit);
        if !timeline.admits(unit) {
            self.counters.refused += 1;
            return;
        }
        timeline.update_lead(unit);
        let at = timeline.time_of(unit);
        let is_primary = timeline.is_primary(unit.track);
        let gap = timeline.edge.map_or(0, |edge| at - edge);
        let step = timeline.primary_edge.map_or(0, |edge| (at - edge).clamp(0, MAX_STEP));
        if is_primary && unit.random_access {
            timeline.record_gop(at);
        }
        let start = if gap > limit {
            // The gap belongs to no segment: the previous segment ends with its own last unit.
            timeline.discontinuity_pending = true;
            let end = timeline.end().map_or(at, |end| end.min(at));
            self.close_segment(end, None);
            at
        } else if is_primary {
            self.cut_before_primary(unit, at, step);
            at
        } else {
            self.cut_before_other(unit, at)
        };
        let Some(timeline) = &mut self.timeline else { return };
        if is_primary {
            if gap <= limit {
                timeline.step = timeline.step.max(step);
            }
            timeline.primary_edge = timeline.primary_edge.max(Some(at));
        }
        timeline.edge = timeline.edge.max(Some(at));
        timeline.add(start, entry);
    }

    /// Ends the segment or the part at this unit of the primary track, if it is due. `step` is the duration in milliseconds of the unit before it, and
    /// the expected duration of this one.
    fn cut_before_primary(&mut self, unit: &AccessUnit, at: Timestamp, step: i64) {
        let limit = self.targets.max_segment_millis();
        let Some(timeline) = &self.timeline else { return };
        let Some(open) = &timeline.open else { return };
        let elapsed = at - open.start;
        let ends_at_idr = unit.random_access && timeline.ends_at_idr(elapsed, self.config.segment_target, limit);
        let is_over = elapsed + timeline.step.max(step) > limit || open.bytes > self.config.bytes / SEGMENT_SHARE;
        let is_idr = unit.random_access && timeline.has_pictures();
        let ends_part = self.targets.ends_part(at - open.part_start, step, is_idr);
        if ends_at_idr || (is_over && open.is_not_empty()) {
            self.close_segment(at, Some(unit));
        } else if ends_part && open.has_primary_unit(timeline.has_pictures()) {
            self.close_parts(at, std::slice::from_ref(unit));
            self.update_window();
        }
    }

    /// Ends the segment or part at a unit of another track if video has stopped, not if audio is merely ahead of it, or if the segment is too
    /// large. Returns where a segment that begins with this unit starts: at the latest end of the previous segment, or else at `at`.
    fn cut_before_other(&mut self, unit: &AccessUnit, at: Timestamp) -> Timestamp {
        let limit = self.targets.max_segment_millis();
        let Some(open) = self.timeline.as_ref().and_then(|timeline| timeline.open.as_ref()) else { return at };
        let segment_end = open.start + Duration::from_millis(limit.unsigned_abs());
        if at - segment_end > MAX_AUDIO_LEAD {
            self.split_segment(segment_end, std::slice::from_ref(unit));
            segment_end
        } else if open.bytes > self.config.bytes / SEGMENT_SHARE {
            self.close_segment(at, Some(unit));
            at
        } else {
            let until = Timestamp::from_millis(at.as_millis() - MAX_AUDIO_LEAD);
            if self.close_overdue_parts(until, self.targets.max_part_millis(), std::slice::from_ref(unit)) {
                self.update_window();
            }
            at
        }
    }

    /// Ends the part in progress at `end`, as several if it is longer than a part may be.
    fn close_parts(&mut self, end: Timestamp, next: &[AccessUnit]) {
        if let Some(open) = self.timeline.as_ref().and_then(|timeline| timeline.open.as_ref()) {
            let longest = self.targets.even_part_millis(end - open.part_start);
            self.close_overdue_parts(end, longest, next);
        }
        self.close_part(end, next);
    }

    /// Ends parts of `longest` ms before `until`, such as where pictures were away and sound went on. Each gets its own units; without a unit for it
    /// there is no part. `next` is what follows. Returns whether a part ended.
    fn close_overdue_parts(&mut self, until: Timestamp, longest: i64, next: &[AccessUnit]) -> bool {
        let longest = Duration::from_millis(longest.unsigned_abs());
        let mut has_ended = false;
        while let Some(timeline) = &mut self.timeline
            && let Some(open) = &timeline.open
            && open.part_start + longest < until
        {
            let end = open.part_start + longest;
            let is_before = |unit: &AccessUnit| timeline.time_of(unit) < end;
            if open.units.iter().all(is_before) || !open.units.iter().any(is_before) {
                break;
            }
            let (units, later): (Vec<_>, Vec<_>) = open.units.iter().cloned().partition(is_before);
            timeline.replace_units(units);
            self.close_part(end, &[&later, next].concat());
            if let Some(timeline) = &mut self.timeline {
                timeline.replace_units(later);
            }
            has_ended = true;
        }
        has_ended
    }

    /// Makes a part of the units added since the last one. `next` are units that follow.
    fn close_part(&mut self, end: Timestamp, next: &[AccessUnit]) {
        let Some(timeline) = &mut self.timeline else { return };
        timeline.fill_silence(end);
        let Some(open) = &mut timeline.open else { return };
        if open.units.is_empty() {
            return;
        }
        let units = std::mem::take(&mut open.units);
        let next_dts = |id| next.iter().find(|unit| unit.track == id).map(|unit| unit.dts);
        match timeline.fragmenter.fragment(&timeline.init.catalog, &units, next_dts) {
            Ok(fragment) => {
                let has_pictures = timeline.init.catalog.video().is_some();
                // Only a part that begins with its IDR can be decoded from its start.
                let first = units.iter().find(|unit| unit.track.is_video());
                let independent = !has_pictures || first.is_some_and(|unit| unit.random_access);
                open.parts.push(Part { duration: end.since(open.part_start), independent, fragment });
                open.part_start = end.max(open.part_start);
            }
            Err(_) => self.counters.refused += units.len() as u64,
        }
        self.fragment_sequence = timeline.fragmenter.sequence();
    }

    /// Ends the segment in progress at `end`. What is too long for one segment, such as sound that went on without pictures, becomes several.
    fn close_segment(&mut self, end: Timestamp, next: Option<&AccessUnit>) {
        let next = next.map_or(&[][..], std::slice::from_ref);
        while let Some(open) = self.timeline.as_ref().and_then(|timeline| timeline.open.as_ref()) {
            let longest = open.start + Duration::from_millis(self.targets.max_segment_millis().unsigned_abs());
            if end <= longest {
                return self.finish_segment(end, next);
            }
            if !self.split_segment(longest, next) {
                // A short gap is better than a segment that is too long.
                return;
            }
        }
    }

    /// Ends the segment in progress at `end`; the next one begins there, with the units from then on. Returns whether there are any.
    fn split_segment(&mut self, end: Timestamp, next: &[AccessUnit]) -> bool {
        let later = self.timeline.as_mut().map(|timeline| timeline.take_units_from(end)).unwrap_or_default();
        self.finish_segment(end, &[&later, next].concat());
        if let Some(timeline) = &mut self.timeline {
            timeline.add_units(end, &later);
        }
        !later.is_empty()
    }

    fn finish_segment(&mut self, end: Timestamp, next: &[AccessUnit]) {
        self.close_parts(end, next);
        let Some(timeline) = &mut self.timeline else { return };
        let Some(open) = timeline.open.take() else { return };
        if open.parts.is_empty() {
            timeline.discontinuity_pending |= open.discontinuity;
            return;
        }
        let segment = timeline.segment(open, end);
        let is_first = std::mem::take(&mut timeline.init_is_provisional);
        let longest_gop = Duration::from_millis(timeline.longest_gop().unsigned_abs());
        let init = Arc::clone(&timeline.init);
        self.store_segment(segment, &init, longest_gop, is_first);
        self.update_window();
    }

    /// `is_first`: the segment is the first with its init segment.
    fn store_segment(&mut self, segment: Segment, init: &Arc<Init>, longest_gop: Duration, is_first: bool) {
        let mut segment = self.numbered(segment);
        self.counters.dependent_segments += u64::from(!segment.independent);
        self.next_msn += 1;
        self.discontinuities = segment.discontinuity_sequence;
        self.independent &= segment.independent;
        if let Some(first) = self.targets.new_list(&segment, longest_gop) {
            self.store.unlist_before(first);
        }
        self.targets.on_segment(&segment, longest_gop);
        segment.lists_parts = !is_first || self.targets.allow_parts(&segment);
        let target_duration = Duration::from_secs(self.targets.target_duration().unwrap_or(0));
        self.store.push(Arc::new(segment), init, target_duration);
    }

    /// The segment with the numbers that the next complete segment gets.
    fn numbered(&self, segment: Segment) -> Segment {
        let discontinuity_sequence = self.discontinuities + u64::from(segment.discontinuity);
        Segment { msn: self.next_msn, discontinuity_sequence, ..segment }
    }

    /// Closes the open segment, as if nothing followed.
    fn close_all(&mut self) {
        let Some(timeline) = &mut self.timeline else { return };
        if timeline.next_init.is_some()
            && let Some(last) = timeline.waiting.last().cloned()
        {
            self.switch_and_cut(&last.unit);
        }
        if let Some(end) = self.timeline.as_ref().and_then(|timeline| timeline.last_end(self.targets.max_part_millis()))
        {
            self.close_segment(end, None);
        }
    }

    fn update_window(&mut self) {
        let segments = self.store.listed();
        let mut inits = self.store.inits();
        // The first segment of an init segment is shown when it is complete: until then a track may still join it, and it may begin a new list.
        let timeline = self.timeline.as_ref().filter(|timeline| !timeline.init_is_provisional);
        let open = timeline.and_then(|timeline| {
            let open = timeline.open.as_ref().filter(|open| !open.parts.is_empty())?;
            if inits.iter().all(|init| init.id != timeline.init.id) {
                inits.push(Arc::clone(&timeline.init));
            }
            Some(Arc::new(self.numbered(timeline.segment(open.completed_parts(), open.part_start))))
        });
        let first = segments.first();
        self.window = Arc::new(SegmentWindow {
            target_duration: self.targets.target_duration().unwrap_or(0),
            part_target: self.targets.part_target().unwrap_or_default(),
            low_latency: self.config.low_latency,
            next_msn: self.next_msn,
            discontinuity_sequence: first.map_or(0, |s| s.discontinuity_sequence - u64::from(s.discontinuity)),
            independent: self.independent,
            segments,
            unlisted: self.store.unlisted(),
            open,
            inits,
            ended: self.ended,
        });
    }
}

/// How far audio may be ahead of the video that it is interleaved with, in milliseconds. Encoders interleave more closely.
const MAX_AUDIO_LEAD: i64 = 1000;
/// One segment may take this fraction (1/8) of the bytes that may be stored, so that several can be listed.
const SEGMENT_SHARE: usize = 8;
/// Units that wait for the next IDR may take this fraction (1/64) of the bytes that may be stored.
const WAITING_SHARE: usize = 64;
