//! Cuts a live window's entries into parts and segments.
//!
//! # How segments are cut
//!
//! A segment ends at the IDR nearest to the segment target. A GOP much longer than that is one segment: `EXT-X-TARGETDURATION`
//! is chosen when the first segment is complete, by the longest GOP seen, at most [`MAX_TARGET`], and never changes after
//! that (RFC 8216 §6.2.1). Where a later GOP is longer than it, or no IDR comes at all (intra-refresh), a segment is cut before
//! it would exceed the target, between any two pictures. It can not be decoded by itself, so from then on the playlist does not
//! claim `EXT-X-INDEPENDENT-SEGMENTS` any more: a promise that is not kept is worse than one that is withdrawn.
//!
//! # When there is a discontinuity
//!
//! Where another epoch begins; where a track joins, leaves or is configured anew; and where the timeline has a hole longer than
//! the target duration. Never else: a publisher that returns and goes on with its epoch leaves no trace. The media sequence
//! number goes on through all of this.
//!
//! A track that joins while the first segment of its epoch is still open (most encoders send their headers one after the other)
//! joins that segment; nobody has seen it yet. A later one waits for the next IDR with what it brings until then, so that the
//! segment that it joins can be decoded.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::segment_store::SegmentStore;
use super::snapshot::{Part, Playlist};
use super::timeline::{MAX_STEP, OpenSegment, Timeline, adds_only, init, same_tracks};
use crate::access_unit::AccessUnit;
use crate::catalog::Catalog;
use crate::fmp4::rendition;
use crate::live_window::Entry;
use crate::time::{Timestamp, WallClock};

/// How a stream is cut and how much of it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmenterConfig {
    /// Segments end at the IDR nearest to this.
    pub segment_target: Duration,
    /// Parts end at the picture nearest to this. What a playlist promises (`PART-TARGET`) is a little more: see
    /// [`Playlist::part_target`].
    pub part_target: Duration,
    /// Whether playlists list parts, and say that they can be waited for.
    pub low_latency: bool,
    /// How much a playlist lists; never less than three target durations (RFC 8216 §6.2.2). As much again is still served.
    pub window: Duration,
    /// Sum of all that is held, listed or not. At least one segment is held.
    pub bytes: usize,
    /// The first media sequence number: higher than any before a restart of the server, so that players and caches do not take
    /// new segments for old ones.
    pub first_sequence: u64,
}

impl Default for SegmenterConfig {
    /// Two-second segments, a fifth of a second a part, twenty seconds listed, 256 MiB.
    ///
    /// A fifth of a second is a whole number of pictures at 5, 10, 15, 20, 25, 30, 50 and 60 a second, and divides GOPs of one and two
    /// seconds. A third would save two requests in five, and cost a player 0.4 s: it stays three parts behind.
    fn default() -> Self {
        Self {
            segment_target: Duration::from_secs(2),
            part_target: Duration::from_millis(200),
            low_latency: true,
            window: Duration::from_secs(20),
            bytes: 256 << 20,
            first_sequence: 0,
        }
    }
}

/// What a segmenter could not do, counted from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmenterCounters {
    /// Units that fMP4 can not carry: no usable configuration record, or a DTS that does not rise.
    pub refused: u64,
    /// Pictures before the first IDR of their epoch.
    pub undecodable: u64,
    /// Segments that had to be cut where there was no IDR.
    pub dependent_segments: u64,
}

/// Cuts one stream, whatever epochs come and go.
#[derive(Debug)]
pub struct Segmenter {
    settings: SegmenterConfig,
    store: SegmentStore,
    playlist: Arc<Playlist>,
    current: Option<Timeline>,
    counters: SegmenterCounters,
    sequence: u32,
    ended: bool,
}

impl Segmenter {
    /// A segmenter that has seen nothing.
    pub fn new(settings: SegmenterConfig) -> Self {
        let playlist = Playlist { independent: true, low_latency: settings.low_latency, ..Playlist::default() };
        let store = SegmentStore::new(&settings);
        let counters = SegmenterCounters::default();
        Self { settings, store, playlist: Arc::new(playlist), current: None, counters, sequence: 1, ended: false }
    }

    /// Takes the next entry; `arrived` dates it where the publisher tells no clock. Returns whether the snapshot changed.
    pub fn push(&mut self, entry: &Entry, arrived: WallClock) -> bool {
        let before = Arc::as_ptr(&self.playlist);
        if std::mem::take(&mut self.ended) {
            self.store.unlist_all();
            self.publish();
        }
        self.apply_catalog(&entry.catalog, &entry.unit, arrived);
        self.accept(&entry.unit);
        before != Arc::as_ptr(&self.playlist)
    }

    /// The stream is over: what is open is closed, and the playlist says so. A publisher that comes all the same
    /// begins another list, whose numbers go on.
    pub fn end(&mut self) {
        self.close_all();
        self.ended = true;
        self.publish();
    }

    /// The newest snapshot.
    pub fn playlist(&self) -> Arc<Playlist> {
        Arc::clone(&self.playlist)
    }

    /// The init segment with this id, while anything that needs it is held.
    pub fn init(&self, id: u64) -> Option<Bytes> {
        self.playlist.init(id)
    }

    /// The bytes of the segment with this media sequence number, while it is held.
    pub fn segment(&self, msn: u64) -> Option<Vec<Bytes>> {
        self.playlist.segment(msn)
    }

    /// What could not be done.
    pub fn counters(&self) -> SegmenterCounters {
        self.counters
    }

    /// Starts a broadcast, or notes what changes within one.
    fn apply_catalog(&mut self, catalog: &Arc<Catalog>, unit: &AccessUnit, arrived: WallClock) {
        let Some(current) = self.current.as_mut().filter(|current| current.catalog.epoch == catalog.epoch) else {
            self.close_all();
            self.current = init(catalog)
                .map(|init| Timeline::new(catalog, init, unit, arrived, self.sequence, self.store.has_segments()));
            return;
        };
        if Arc::ptr_eq(&current.catalog, catalog) {
            return;
        }
        current.catalog = Arc::clone(catalog);
        let Some(init) = init(catalog) else { return };
        if !current.waiting.is_empty() {
            // Another change before the last one came into force: what waits for that must not come under this one.
            self.switch_and_cut(unit);
        }
        let Some(current) = &mut self.current else { return };
        if init.id == current.init.id {
            current.next_init = None;
        } else if current.init_is_provisional && adds_only(&current.init.catalog, &init.catalog) {
            current.switch(init);
        } else {
            current.next_init = Some(init);
        }
    }

    fn accept(&mut self, unit: &AccessUnit) {
        let Some(current) = &mut self.current else {
            self.counters.refused += 1;
            return;
        };
        if current.waits_for_next_init(unit) {
            let bytes: usize = current.waiting.iter().map(|unit| unit.payload.len()).sum();
            let is_late = current.waiting.first().is_some_and(|first| unit.dts - first.dts > self.store.limit());
            if current.can_switch_at(unit) || is_late || bytes > self.settings.bytes / WAITING_SHARE {
                self.switch_and_cut(unit);
            } else {
                current.waiting.push(unit.clone());
                return;
            }
        } else if current.next_init.is_some() && current.can_switch_at(unit) {
            self.switch_and_cut(unit);
        }
        self.append(unit);
    }

    /// Closes the open segment before `unit` and starts the next with the new init segment.
    fn switch_and_cut(&mut self, unit: &AccessUnit) {
        let Some(current) = &mut self.current else { return };
        current.update_lead(unit);
        let at = current.time_of(unit);
        let end = current.edge.map_or(at, |edge| edge.max(at));
        self.close_segment(end, Some(unit));
        let Some(current) = &mut self.current else { return };
        let Some(next) = current.next_init.take() else { return };
        // A clock that became known, or was corrected, moves no timestamp.
        current.discontinuity_pending |= !same_tracks(&current.init.catalog, &next.catalog);
        current.switch(next);
        for waiting in std::mem::take(&mut current.waiting) {
            if current.admits(&waiting) {
                // It is earlier than the picture that opens the segment, which starts there nevertheless.
                let discontinuity_pending = &mut current.discontinuity_pending;
                current
                    .open
                    .get_or_insert_with(|| OpenSegment::new(at, std::mem::take(discontinuity_pending)))
                    .add(&waiting);
            } else {
                self.counters.refused += 1;
            }
        }
        self.publish();
    }

    /// Cuts before the unit where that is due, then adds it.
    fn append(&mut self, unit: &AccessUnit) {
        let limit = self.store.limit();
        let Some(current) = &mut self.current else { return };
        if current.init.catalog.track(unit.track).is_none() {
            // Of another rendition, or of a track that fMP4 can not carry.
            self.counters.refused += u64::from(rendition(&current.catalog).any(|track| track.id == unit.track));
            return;
        }
        current.has_idr |= unit.track.is_video() && unit.random_access;
        if unit.track.is_video() && !current.has_idr {
            self.counters.undecodable += 1;
            return;
        }
        if !current.admits(unit) {
            self.counters.refused += 1;
            return;
        }
        current.update_lead(unit);
        let at = current.time_of(unit);
        let is_primary = current.is_primary(unit.track);
        let hole = current.edge.map_or(0, |edge| at - edge);
        let step = current.primary_edge.map_or(0, |edge| (at - edge).clamp(0, MAX_STEP));
        if is_primary && unit.random_access {
            current.record_gop(at);
        }
        let start = if hole > limit {
            // What is missing belongs to no segment; the one before lasts as long as its pictures do.
            current.discontinuity_pending = true;
            let end = current.end().map_or(at, |end| end.min(at));
            self.close_segment(end, None);
            at
        } else if is_primary {
            self.cut_before_primary(unit, at, step);
            at
        } else {
            self.cut_before_other(unit, at)
        };
        let Some(current) = &mut self.current else { return };
        if is_primary {
            if hole <= limit {
                current.step = current.step.max(step);
            }
            current.primary_edge = current.primary_edge.max(Some(at));
        }
        current.edge = current.edge.max(Some(at));
        let discontinuity_pending = &mut current.discontinuity_pending;
        current.open.get_or_insert_with(|| OpenSegment::new(start, std::mem::take(discontinuity_pending))).add(unit);
    }

    /// Ends the segment or the part where this unit of the track that is cut by begins, if that is due. `step` is how long the
    /// unit before it lasted, and this one will.
    fn cut_before_primary(&mut self, unit: &AccessUnit, at: Timestamp, step: i64) {
        let limit = self.store.limit();
        let Some(current) = &self.current else { return };
        let Some(open) = &current.open else { return };
        let elapsed = at - open.start;
        let ends_at_idr = unit.random_access && current.ends_at_idr(elapsed, self.settings.segment_target, limit);
        let is_over = elapsed + current.step.max(step) > limit || open.bytes > self.settings.bytes / SEGMENT_SHARE;
        let is_part_over = self.is_part_over(at - open.part_start, step, unit.random_access && current.has_pictures());
        if ends_at_idr || (is_over && open.is_not_empty()) {
            self.close_segment(at, Some(unit));
        } else if is_part_over && open.has_picture_or_sound(current.has_pictures()) {
            self.close_part(at, Some(unit));
            self.publish();
        }
    }

    /// Sound cuts only where pictures stopped, not where it runs ahead of them. Returns where a segment begins that begins with
    /// this unit: where the one before had to end.
    fn cut_before_other(&mut self, unit: &AccessUnit, at: Timestamp) -> Timestamp {
        let (limit, part_limit) = (self.store.limit(), self.part_limit());
        let Some(open) = self.current.as_ref().and_then(|current| current.open.as_ref()) else { return at };
        let after = |start: Timestamp, millis: i64| start + Duration::from_millis(millis.unsigned_abs());
        let (segment_end, part_end) = (after(open.start, limit), after(open.part_start, part_limit));
        if at - segment_end > MAX_AUDIO_LEAD {
            self.close_segment(segment_end, Some(unit));
            segment_end
        } else if open.bytes > self.settings.bytes / SEGMENT_SHARE {
            self.close_segment(at, Some(unit));
            at
        } else {
            if at - part_end > MAX_AUDIO_LEAD {
                self.close_part(part_end, Some(unit));
                self.publish();
            }
            at
        }
    }

    /// Whether a part of this length ends before a unit that will last `step`: where it is nearest to what is aimed at, where it would
    /// else be longer than was promised, and before an IDR if it is long enough to end at all (RFC 8216bis §4.4.4.9). An IDR that comes
    /// sooner than that is within the part.
    fn is_part_over(&self, length: i64, step: i64, is_idr: bool) -> bool {
        let aim = self.settings.part_target.as_millis() as i64;
        let limit = self.part_limit();
        length * 2 + step >= aim * 2 || length + step > limit || (is_idr && length * 100 >= limit * MIN_PART_PERCENT)
    }

    /// In milliseconds.
    fn part_limit(&self) -> i64 {
        self.store.part_target().unwrap_or_else(|| part_target_for(self.settings.part_target)).as_millis() as i64
    }

    /// Makes a part of the units since the last one. `next` is the unit that follows.
    fn close_part(&mut self, end: Timestamp, next: Option<&AccessUnit>) {
        let Some(current) = &mut self.current else { return };
        let Some(open) = &mut current.open else { return };
        if open.units.is_empty() {
            return;
        }
        let units = std::mem::take(&mut open.units);
        let next_dts = |id| next.filter(|unit| unit.track == id).map(|unit| unit.dts);
        match current.fragmenter.fragment(&current.init.catalog, &units, next_dts) {
            Ok(fragment) => {
                let has_pictures = current.init.catalog.video().is_some();
                let independent = !has_pictures || units.iter().any(|unit| unit.track.is_video() && unit.random_access);
                open.parts.push(Part { duration: end.since(open.part_start), independent, fragment });
                open.part_start = end.max(open.part_start);
            }
            Err(_) => self.counters.refused += units.len() as u64,
        }
        self.sequence = current.fragmenter.sequence();
    }

    fn close_segment(&mut self, end: Timestamp, next: Option<&AccessUnit>) {
        let limit = self.store.limit();
        let Some(current) = &mut self.current else { return };
        let Some(open) = &mut current.open else { return };
        // A unit that comes later than the limit allows leaves a short hole rather than a segment that is too long.
        let end = end.min(open.start + Duration::from_millis(limit.unsigned_abs()));
        self.close_part(end, next);
        let Some(current) = &mut self.current else { return };
        let Some(open) = current.open.take() else { return };
        if open.parts.is_empty() {
            current.discontinuity_pending |= open.discontinuity;
            return;
        }
        let segment = current.segment(open, end);
        if !segment.independent {
            self.counters.dependent_segments += 1;
        }
        current.init_is_provisional = false;
        let longest_gop = current.gops.iter().copied().max().unwrap_or(0);
        let init = Arc::clone(&current.init);
        self.store.push(segment, init, Duration::from_millis(longest_gop.unsigned_abs()));
        self.publish();
    }

    /// Closes what is open, as if nothing followed.
    fn close_all(&mut self) {
        let Some(current) = &mut self.current else { return };
        if current.next_init.is_some()
            && let Some(last) = current.waiting.last().cloned()
        {
            self.switch_and_cut(&last);
        }
        if let Some(end) = self.current.as_ref().and_then(Timeline::end) {
            self.close_segment(end, None);
        }
    }

    fn publish(&mut self) {
        let open = self.current.as_ref().filter(|current| !current.init_is_provisional).and_then(|current| {
            let open = current.open.as_ref().filter(|open| !open.parts.is_empty())?;
            let segment = current.segment(open.completed_parts(), open.part_start);
            Some((self.store.numbered(segment), Arc::clone(&current.init)))
        });
        self.playlist = Arc::new(self.store.snapshot(open, self.settings.low_latency, self.ended));
    }
}

/// The `PART-TARGET` for parts that are about this long: whole milliseconds.
pub(super) fn part_target_for(part: Duration) -> Duration {
    Duration::from_millis((part.as_millis() as u64).saturating_mul(PART_TARGET_PERCENT.into()) / 100)
}

/// `EXT-X-TARGETDURATION` at most, in seconds: encoders' longest default GOP is 250 pictures, at 25 a second. Players start
/// three of these behind the live edge.
pub(super) const MAX_TARGET: u64 = 10;
/// In percent of `PART-TARGET`: no part may be shorter, but the last of a segment and those with an IDR (RFC 8216bis §4.4.4.9).
const MIN_PART_PERCENT: i64 = 85;
/// `PART-TARGET` in percent of what is aimed at: parts that are a little longer and a little shorter are then equally far from what
/// is allowed, since encoders with a camera's clock put no two pictures the same time apart.
const PART_TARGET_PERCENT: u32 = 108;
/// In milliseconds: how far sound may be ahead of the pictures that it was sent with. Encoders interleave more closely.
const MAX_AUDIO_LEAD: i64 = 1000;
/// One segment may take this part of the bytes that may be held, so that some are always listed.
const SEGMENT_SHARE: usize = 8;
/// What waits for the next IDR may take this part of them.
const WAITING_SHARE: usize = 64;
