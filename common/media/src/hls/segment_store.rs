//! The complete segments: numbered, listed for a while, then served for a while longer, within bounds (RFC 8216 §6.2.2).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::segmenter::{MAX_TARGET, SegmenterConfig, part_target_for};
use super::snapshot::{Init, Playlist, Segment};

/// What a stream keeps, in order of time: `unlisted`, then `listed`.
#[derive(Debug)]
pub(super) struct SegmentStore {
    segment_target: Duration,
    part_aim: Duration,
    window: Duration,
    bytes: usize,
    next_msn: u64,
    discontinuities: u64,
    /// In seconds, once it is known.
    target: Option<u64>,
    /// What parts are promised not to exceed, once it is known.
    part_target: Option<Duration>,
    independent: bool,
    listed: VecDeque<Arc<Segment>>,
    unlisted: VecDeque<Unlisted>,
    inits: Vec<Arc<Init>>,
    /// Media time so far, holes not counted.
    elapsed: Duration,
    longest_listing: Duration,
}

#[derive(Debug)]
struct Unlisted {
    segment: Arc<Segment>,
    /// When `elapsed` is this, nobody needs it any more.
    until: Duration,
}

impl SegmentStore {
    pub(super) fn new(settings: &SegmenterConfig) -> Self {
        Self {
            segment_target: settings.segment_target,
            part_aim: settings.part_target,
            window: settings.window,
            bytes: settings.bytes,
            next_msn: settings.first_sequence,
            discontinuities: 0,
            target: None,
            part_target: None,
            independent: true,
            listed: VecDeque::new(),
            unlisted: VecDeque::new(),
            inits: Vec::new(),
            elapsed: Duration::ZERO,
            longest_listing: Duration::ZERO,
        }
    }

    /// Whether there ever was a segment.
    pub(super) fn has_segments(&self) -> bool {
        !self.listed.is_empty() || !self.unlisted.is_empty()
    }

    /// Lists nothing any more: what follows is another occasion, and whoever joins it is not to see the last one.
    pub(super) fn unlist_all(&mut self) {
        while !self.listed.is_empty() {
            self.unlist();
        }
    }

    /// How long a segment may be, in milliseconds: rounded to seconds it must not exceed the target duration.
    pub(super) fn limit(&self) -> i64 {
        self.target.unwrap_or(MAX_TARGET) as i64 * 1000 + 499
    }

    /// What parts are promised not to exceed, once it is known.
    pub(super) fn part_target(&self) -> Option<Duration> {
        self.part_target
    }

    /// The segment as it will be listed next.
    pub(super) fn numbered(&self, segment: Segment) -> Segment {
        let discontinuity_sequence = self.discontinuities + u64::from(segment.discontinuity);
        Segment { msn: self.next_msn, discontinuity_sequence, ..segment }
    }

    /// Lists a segment. `longest_gop` tells how long others will be.
    pub(super) fn push(&mut self, segment: Segment, init: Arc<Init>, longest_gop: Duration) {
        let segment = self.numbered(segment);
        self.next_msn += 1;
        self.discontinuities = segment.discontinuity_sequence;
        self.independent &= segment.independent;
        self.elapsed += segment.duration;
        self.target.get_or_insert_with(|| {
            let rounded = |duration: Duration| ((duration.as_millis() + 500) / 1000) as u64;
            let longest = self.segment_target.max(segment.duration).max(longest_gop);
            rounded(longest).clamp(1, MAX_TARGET).max(rounded(segment.duration))
        });
        // Parts are whole pictures: what the first ones came to tells what all will, at 12 pictures a second as at 60.
        self.part_target.get_or_insert_with(|| {
            let longest = segment.parts.iter().map(|part| part.duration).max().unwrap_or_default();
            part_target_for(if longest * 4 < self.part_aim * 3 { self.part_aim } else { longest })
        });
        if self.inits.iter().all(|held| held.id != init.id) {
            self.inits.push(init);
        }
        self.listed.push_back(Arc::new(segment));
        self.slide();
    }

    /// A snapshot with `open` after the last segment.
    pub(super) fn snapshot(&self, open: Option<(Segment, Arc<Init>)>, low_latency: bool, ended: bool) -> Playlist {
        let mut inits = self.inits.clone();
        if let Some((_, init)) = &open
            && inits.iter().all(|held| held.id != init.id)
        {
            inits.push(Arc::clone(init));
        }
        let first = self.listed.front();
        Playlist {
            target_duration: self.target.unwrap_or(0),
            part_target: self.part_target.unwrap_or_default(),
            low_latency,
            next_msn: self.next_msn,
            discontinuity_sequence: first.map_or(0, |s| s.discontinuity_sequence - u64::from(s.discontinuity)),
            independent: self.independent,
            segments: self.listed.iter().cloned().collect(),
            unlisted: self.unlisted.iter().map(|gone| Arc::clone(&gone.segment)).collect(),
            open: open.map(|(segment, _)| Arc::new(segment)),
            inits,
            ended,
        }
    }

    fn slide(&mut self) {
        let least = Duration::from_secs(self.target.unwrap_or(MAX_TARGET) * 3);
        let mut listing: Duration = self.listed.iter().map(|segment| segment.duration).sum();
        while let Some(oldest) = self.listed.front() {
            let without = listing.saturating_sub(oldest.duration);
            if listing <= self.window || without < least {
                break;
            }
            self.unlist();
            listing = without;
        }
        self.longest_listing = self.longest_listing.max(listing);
        let elapsed = self.elapsed;
        while self.unlisted.front().is_some_and(|gone| gone.until <= elapsed) {
            self.unlisted.pop_front();
        }
        // The bound on memory is over all others.
        while self.held() > self.bytes && self.listed.len() + self.unlisted.len() > 1 {
            if self.unlisted.is_empty() {
                self.unlist();
            }
            self.unlisted.pop_front();
        }
        let Self { inits, listed, unlisted, .. } = self;
        inits.retain(|init| {
            listed.iter().chain(unlisted.iter().map(|gone| &gone.segment)).any(|segment| segment.init == init.id)
        });
    }

    /// A segment that leaves the playlist is available for its own duration and that of the longest playlist that had it.
    fn unlist(&mut self) {
        if let Some(segment) = self.listed.pop_front() {
            let until = self.elapsed + segment.duration + self.longest_listing;
            self.unlisted.push_back(Unlisted { segment, until });
        }
    }

    fn held(&self) -> usize {
        self.listed.iter().chain(self.unlisted.iter().map(|gone| &gone.segment)).map(|segment| segment.bytes).sum()
    }
}
