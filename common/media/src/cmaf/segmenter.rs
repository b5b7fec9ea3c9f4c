//! The segmenter: access units in, parts and segments out.
//!
//! # Where segments end
//!
//! A segment ends at the IDR nearest to the segment target. A GOP that is much longer becomes one segment: the target duration is fixed when the
//! first segment is complete, from the longest GOP seen, and never changes after that (RFC 8216 §6.2.1). If a later GOP is longer than the
//! target duration, or no IDR comes at all (intra refresh), the segment is cut before it would exceed the target duration, between any two
//! pictures. Such a segment cannot be decoded by itself, which cannot be known beforehand. So playlists do not claim `EXT-X-INDEPENDENT-SEGMENTS`,
//! which they could not withdraw (RFC 8216bis §6.2.1); each part that begins with an IDR says so.
//!
//! # Where parts end
//!
//! A part ends at the picture nearest to the duration aimed at, and holds what arrived before its end and lies before it. Where pictures are away or late,
//! parts of `PART-TARGET` end between them, so that the sound goes on; a late picture is in the part in progress, since earlier ones may have been listed.
//! What has been listed never changes: no date, no duration, no part.
//!
//! # Discontinuities
//!
//! There is a discontinuity where another epoch begins, where a track joins, leaves or changes its configuration, and where the timeline has a
//! gap longer than the target duration. A publisher that reconnects and continues its epoch causes none. The media sequence number continues
//! through all of this.
//!
//! A track that joins while the first segment of its epoch is still open (most encoders send their headers one after the other) joins that
//! segment, which no client has seen yet. A track that joins later waits for the next IDR, and its units are held until then, so that the segment
//! it joins can be decoded. Pictures that do not come for some seconds of sound, from the start or in the middle, are such a track: until they come, the sound
//! is all there is. Those that go on in the middle of a GOP join at once.

use std::sync::Arc;
use std::time::Duration;

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
        let window = SegmentWindow { low_latency: config.low_latency, ..SegmentWindow::default() };
        Self {
            store,
            targets: Targets::new(&config),
            window: Arc::new(window),
            timeline: None,
            counters: SegmenterCounters::default(),
            fragment_sequence: 1,
            next_msn: config.first_sequence,
            discontinuities: 0,
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
            self.targets.on_other_tracks(true);
            let is_first = self.next_msn == self.config.first_sequence;
            self.timeline = init(catalog).map(|init| Timeline::new(catalog, init, self.fragment_sequence, !is_first));
            return;
        };
        if Arc::ptr_eq(&timeline.catalog, catalog) {
            return;
        }
        timeline.catalog = Arc::clone(catalog);
        let Some(init) = init(catalog) else { return };
        if init.id != timeline.init.id {
            self.release_held(false);
        }
        let Some(timeline) = &self.timeline else { return };
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
        timeline.do_without_pictures(unit);
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
        self.release_held(false);
        let Some(timeline) = &mut self.timeline else { return };
        timeline.update_lead(unit);
        let at = timeline.time_of(unit);
        self.close_all_units(Some(at), std::slice::from_ref(unit));
        let Some(timeline) = &mut self.timeline else { return };
        let Some(next) = timeline.next_init.take() else { return };
        // A clock that became known, or was corrected, changes no timestamp.
        if !same_tracks(&timeline.init.catalog, &next.catalog) {
            timeline.discontinuity_pending = true;
            self.targets.on_other_tracks(false);
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

    /// Adds the unit to its segment and part, which it may end, if it can be written.
    fn append(&mut self, entry: &Entry) {
        let unit = &entry.unit;
        let limit = self.targets.max_segment_millis();
        let pause = self.targets.max_part_millis();
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
        let is_gap = timeline.gap_before(unit) > limit;
        let ends_wait = timeline.ends_wait(unit, self.config.bytes / WAITING_SHARE);
        if !ends_wait && !is_gap && timeline.waits_for_sound(unit, pause) {
            timeline.held.push(entry.clone());
            return;
        }
        if ends_wait || !is_gap {
            timeline.end_silence(unit);
        }
        if ends_wait {
            self.release_held(!unit.track.is_video());
        }
        self.add(entry);
    }

    /// Adds the pictures that were held after a pause. If no sound has come, the pause is silent.
    fn release_held(&mut self, has_sound: bool) {
        let Some(timeline) = &mut self.timeline else { return };
        if !has_sound {
            timeline.fill_pause();
        }
        std::mem::take(&mut timeline.held).iter().for_each(|entry| self.add(entry));
    }

    /// Cuts before the unit if a segment or part ends there, then adds it.
    fn add(&mut self, entry: &Entry) {
        let unit = &entry.unit;
        let limit = self.targets.max_segment_millis();
        let Some(timeline) = &mut self.timeline else { return };
        if !timeline.admits(unit) {
            self.counters.refused += 1;
            return;
        }
        timeline.update_lead(unit);
        let at = timeline.time_of(unit);
        let (is_primary, gap) = (timeline.is_primary(unit.track), timeline.edge.map_or(0, |edge| at - edge));
        let step = timeline.primary_edge.map_or(0, |edge| (at - edge).clamp(0, MAX_STEP));
        if is_primary {
            timeline.observe_primary(at, unit.random_access);
        }
        if gap > limit {
            // The gap belongs to no segment: the previous segment ends with its own last unit.
            self.close_all_units(None, &[]);
        } else if is_primary {
            self.cut_before_primary(unit, at, step);
        } else {
            self.cut_before_other(unit, at);
        }
        let Some(timeline) = &mut self.timeline else { return };
        timeline.discontinuity_pending |= gap > limit;
        if is_primary {
            if gap <= limit {
                timeline.step = timeline.step.max(step);
            }
            timeline.primary_edge = timeline.primary_edge.max(Some(at));
        }
        timeline.edge = timeline.edge.max(Some(at));
        timeline.add(at, entry);
    }

    /// Ends the segment or the part at this unit of the primary track, if it is due. `step` is the duration in milliseconds of the unit before it, and
    /// the expected duration of this one.
    fn cut_before_primary(&mut self, unit: &AccessUnit, at: Timestamp, step: i64) {
        let limit = self.targets.max_segment_millis();
        let next = std::slice::from_ref(unit);
        let Some(timeline) = &mut self.timeline else { return };
        if timeline.is_silent {
            timeline.fill_silence(at);
        }
        let Some(open) = &timeline.open else { return };
        // A picture that is late is in the part in progress: those before it may have been listed.
        let is_late = at <= open.part_start;
        let at = at.max(open.part_start);
        let elapsed = at - open.start;
        let ends_at_idr = unit.random_access && timeline.ends_at_idr(elapsed, self.config.segment_target, limit);
        let is_over = elapsed + timeline.step.max(step) > limit || open.bytes > self.config.bytes / SEGMENT_SHARE;
        if ends_at_idr || (is_over && open.is_not_empty()) {
            // The part in progress may have been hinted, so it ends the segment if it has a unit.
            let part = if is_late { self.targets.max_part_millis() } else { 0 };
            let longest = open.start + Duration::from_millis(limit.unsigned_abs());
            let end = (at + Duration::from_millis(part.unsigned_abs())).min(longest.max(at));
            return self.close_segment(end, next);
        }
        let is_idr = unit.random_access && timeline.has_pictures();
        let mut has_ended = self.close_overdue_parts(at, next, true);
        let part_start = self.timeline.as_ref().and_then(|timeline| timeline.open.as_ref()).map(|open| open.part_start);
        if part_start.is_some_and(|start| self.targets.ends_part(at - start, step, is_idr)) {
            has_ended |= self.close_part(at, next);
        }
        if has_ended {
            self.update_window();
        }
    }

    /// Ends segments or parts at a unit of another track if video has stopped, not if audio is merely ahead of it, or if the segment is too large.
    fn cut_before_other(&mut self, unit: &AccessUnit, at: Timestamp) {
        let limit = self.targets.max_segment_millis();
        let next = std::slice::from_ref(unit);
        while let Some(open) = self.timeline.as_ref().and_then(|timeline| timeline.open.as_ref()) {
            let segment_end = open.start + Duration::from_millis(limit.unsigned_abs());
            if at - segment_end > MAX_AUDIO_LEAD {
                self.close_segment(segment_end, next);
            } else if open.bytes > self.config.bytes / SEGMENT_SHARE {
                return self.close_all_units(None, next);
            } else {
                let until = Timestamp::from_millis(at.as_millis() - MAX_AUDIO_LEAD);
                if self.close_overdue_parts(until, next, true) {
                    self.update_window();
                }
                return;
            }
        }
    }

    /// Ends parts before `until` where no picture ends them. Where nothing was sent for longer than a part, the part that was in progress goes on.
    /// `next` is what follows, in this segment if it `continues`. Returns whether a part ended.
    fn close_overdue_parts(&mut self, until: Timestamp, next: &[AccessUnit], continues: bool) -> bool {
        let length = self.targets.max_part_millis();
        let limit = Duration::from_millis(self.targets.max_segment_millis().unsigned_abs());
        let mut has_ended = false;
        while let Some(timeline) = &self.timeline
            && let Some(open) = &timeline.open
        {
            // The last part of a segment must have a unit too.
            let segment_end = if continues { open.start + limit } else { until };
            let left = segment_end - open.part_start - length;
            let length = if (1..length / 5).contains(&left) { length - length / 8 } else { length };
            let end = open.part_start + Duration::from_millis(length.unsigned_abs());
            if end >= until
                || !timeline.can_end_part_at(end, length, if continues { next } else { &[] })
                || !self.close_part(end, next)
            {
                break;
            }
            has_ended = true;
        }
        has_ended
    }

    /// Makes a part of the units before `end` that were added since the last one; those after it stay. `next` are units that follow. Returns whether
    /// there is one.
    fn close_part(&mut self, end: Timestamp, next: &[AccessUnit]) -> bool {
        let Some(timeline) = &mut self.timeline else { return false };
        if timeline.open.as_ref().is_none_or(|open| end <= open.part_start) {
            return false;
        }
        timeline.fill_silence(end);
        let units = timeline.take_units_before(end);
        let Some(open) = timeline.open.as_mut().filter(|_| !units.is_empty()) else { return false };
        let next_dts = |id| open.units.iter().chain(next).find(|unit| unit.track == id).map(|unit| unit.dts);
        let fragment = timeline.fragmenter.fragment(&timeline.init.catalog, &units, next_dts);
        self.fragment_sequence = timeline.fragmenter.sequence();
        let Ok(fragment) = fragment else {
            self.counters.refused += units.len() as u64;
            return false;
        };
        let has_pictures = timeline.init.catalog.video().is_some();
        // Only a part that begins with its IDR can be decoded from its start.
        let first = units.iter().find(|unit| unit.track.is_video());
        let independent = !has_pictures || first.is_some_and(|unit| unit.random_access);
        open.parts.push(Part { duration: end.since(open.part_start), independent, fragment });
        open.part_start = end.max(open.part_start);
        true
    }

    /// Ends the segment in progress at `end`; the next one begins there, with the units from then on. What is too long for one segment, such as sound
    /// that went on without pictures, becomes several.
    fn close_segment(&mut self, end: Timestamp, next: &[AccessUnit]) {
        while let Some(open) = self.timeline.as_ref().and_then(|timeline| timeline.open.as_ref()) {
            let longest = open.start + Duration::from_millis(self.targets.max_segment_millis().unsigned_abs());
            self.finish_segment(end.min(longest), next);
            // Without units a short gap is better than a segment that is too long.
            if end <= longest {
                return;
            }
        }
    }

    /// Ends the segment in progress after all its units, at `at` if that is there.
    fn close_all_units(&mut self, at: Option<Timestamp>, next: &[AccessUnit]) {
        let longest = self.targets.max_part_millis();
        if let Some(end) = self.timeline.as_ref().and_then(|timeline| timeline.last_end(longest, at)) {
            self.close_segment(end, next);
        }
    }

    fn finish_segment(&mut self, end: Timestamp, next: &[AccessUnit]) {
        self.close_overdue_parts(end, next, false);
        // Nothing was sent for a while before `end`: that belongs to the next segment, if the last part would be too long.
        let longest = Duration::from_millis(self.targets.max_part_millis().unsigned_abs());
        let part_end = self.timeline.as_ref().and_then(|timeline| timeline.end_of_units_within(longest));
        let end = part_end.filter(|_| self.targets.are_fixed()).map_or(end, |part_end| part_end.min(end));
        self.close_part(end, next);
        let Some(timeline) = &mut self.timeline else { return };
        // Without a unit for its last part, the segment ends with the part before it.
        let parts_end = timeline.open.as_ref().filter(|open| !open.parts.is_empty()).map(|open| open.part_start);
        let end = parts_end.unwrap_or(end);
        let longest = Duration::from_millis(self.targets.max_segment_millis().unsigned_abs());
        let Some(segment) = timeline.take_segment(end, longest) else { return };
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
        if let Some(first) = self.targets.on_segment(&segment, longest_gop) {
            self.store.unlist_before(first);
        }
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
        self.release_held(false);
        let Some(timeline) = &mut self.timeline else { return };
        if timeline.next_init.is_some()
            && let Some(last) = timeline.waiting.last().cloned()
        {
            self.switch_and_cut(&last.unit);
        }
        self.close_all_units(None, &[]);
    }

    fn update_window(&mut self) {
        let segments = self.store.listed();
        let mut inits = self.store.inits();
        // The first segment of an init segment is shown when it is complete: until then a track may still join it, and it may begin a new list.
        let timeline = self.timeline.as_mut().filter(|timeline| !timeline.init_is_provisional);
        let open = timeline.and_then(|timeline| {
            let segment = timeline.listed_segment()?;
            if inits.iter().all(|init| init.id != timeline.init.id) {
                inits.push(Arc::clone(&timeline.init));
            }
            Some(segment)
        });
        let open = open.map(|segment| Arc::new(self.numbered(segment)));
        let first = segments.first();
        self.window = Arc::new(SegmentWindow {
            target_duration: self.targets.target_duration().unwrap_or(0),
            part_target: self.targets.part_target().unwrap_or_default(),
            low_latency: self.config.low_latency,
            next_msn: self.next_msn,
            discontinuity_sequence: first.map_or(0, |s| s.discontinuity_sequence - u64::from(s.discontinuity)),
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
/// Units that wait for the next IDR, or for sound after a pause, may take this fraction (1/64) of the bytes that may be stored.
const WAITING_SHARE: usize = 64;
