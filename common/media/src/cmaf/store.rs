//! The store of complete segments.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::segment::{Init, Segment};

/// Keeps complete segments and decides how long each one is listed and how long it stays available (RFC 8216 §6.2.2).
///
/// The segmenter calls it for each segment, in the order of media sequence numbers, and copies the listed segments into its snapshot.
/// Implementations must not block: one that writes to a disk or to an object store passes the segment to a task of its own.
pub trait SegmentStore: fmt::Debug {
    /// Adds the next segment, and drops what no longer fits. `init` is the init segment that it needs; `target_duration` is
    /// `EXT-X-TARGETDURATION`, and a playlist must list at least three times as much.
    fn push(&mut self, segment: Arc<Segment>, init: &Arc<Init>, target_duration: Duration);

    /// Removes the segments before this media sequence number from the list. They stay available for as long as if they had left it one by one.
    fn unlist_before(&mut self, msn: u64);

    /// The segments that playlists list, oldest first.
    fn listed(&self) -> Vec<Arc<Segment>>;

    /// The segments that have left the playlists and are still available, oldest first. All are older than the listed ones.
    fn unlisted(&self) -> Vec<Arc<Segment>>;

    /// The init segments of all available segments, each once.
    fn inits(&self) -> Vec<Arc<Init>>;
}

/// Keeps segments in memory, within bounds of media time and of bytes.
#[derive(Debug)]
pub struct MemoryStore {
    window: Duration,
    bytes: usize,
    listed: VecDeque<Arc<Segment>>,
    unlisted: VecDeque<Unlisted>,
    inits: Vec<Arc<Init>>,
    /// Media time pushed so far, without gaps in the timeline.
    elapsed: Duration,
    longest_listing: Duration,
}

#[derive(Debug)]
struct Unlisted {
    segment: Arc<Segment>,
    /// The value of `elapsed` at which it may be dropped.
    until: Duration,
}

impl MemoryStore {
    /// An empty store that lists `window` of media time, and holds at most `bytes` (but at least one segment) and at most 4096 segments.
    pub fn new(window: Duration, bytes: usize) -> Self {
        Self {
            window,
            bytes,
            listed: VecDeque::new(),
            unlisted: VecDeque::new(),
            inits: Vec::new(),
            elapsed: Duration::ZERO,
            longest_listing: Duration::ZERO,
        }
    }

    fn evict(&mut self, target_duration: Duration) {
        let least = target_duration * MIN_LISTED_TARGETS;
        let mut listing: Duration = self.listed.iter().map(|segment| segment.duration).sum();
        while let Some(oldest) = self.listed.front() {
            let without = listing.saturating_sub(oldest.duration);
            if listing <= self.window || without < least {
                break;
            }
            self.unlist_oldest();
            listing = without;
        }
        self.longest_listing = self.longest_listing.max(listing);
        let elapsed = self.elapsed;
        while self.unlisted.front().is_some_and(|unlisted| unlisted.until <= elapsed) {
            self.unlisted.pop_front();
        }
        // The bounds on memory and on the length of playlists take precedence over all others.
        while self.exceeds_bounds() && self.listed.len() + self.unlisted.len() > 1 {
            if self.unlisted.is_empty() {
                self.unlist_oldest();
            }
            self.unlisted.pop_front();
        }
        let Self { inits, listed, unlisted, .. } = self;
        inits.retain(|init| {
            let mut available = listed.iter().chain(unlisted.iter().map(|unlisted| &unlisted.segment));
            available.any(|segment| segment.init == init.id)
        });
    }

    /// A segment that leaves the playlist stays available for its own duration and that of the longest playlist that listed it (RFC 8216 §6.2.2).
    fn unlist_oldest(&mut self) {
        if let Some(segment) = self.listed.pop_front() {
            let until = self.elapsed + segment.duration + self.longest_listing;
            self.unlisted.push_back(Unlisted { segment, until });
        }
    }

    fn exceeds_bounds(&self) -> bool {
        self.listed.len() + self.unlisted.len() > MAX_SEGMENTS || self.stored_bytes() > self.bytes
    }

    fn stored_bytes(&self) -> usize {
        let unlisted = self.unlisted.iter().map(|unlisted| &unlisted.segment);
        self.listed.iter().chain(unlisted).map(|segment| segment.cost()).sum()
    }
}

impl SegmentStore for MemoryStore {
    fn push(&mut self, segment: Arc<Segment>, init: &Arc<Init>, target_duration: Duration) {
        self.elapsed += segment.duration;
        if self.inits.iter().all(|stored| stored.id != init.id) {
            self.inits.push(Arc::clone(init));
        }
        self.listed.push_back(segment);
        self.evict(target_duration);
    }

    fn unlist_before(&mut self, msn: u64) {
        while self.listed.front().is_some_and(|oldest| oldest.msn < msn) {
            self.unlist_oldest();
        }
    }

    fn listed(&self) -> Vec<Arc<Segment>> {
        self.listed.iter().cloned().collect()
    }

    fn unlisted(&self) -> Vec<Arc<Segment>> {
        self.unlisted.iter().map(|unlisted| Arc::clone(&unlisted.segment)).collect()
    }

    fn inits(&self) -> Vec<Arc<Init>> {
        self.inits.clone()
    }
}

/// Bounds the segments, listed or not: 40 s of a stream whose tracks change with each picture, at 100 pictures per second.
const MAX_SEGMENTS: usize = 4096;
/// A playlist must list at least this many target durations (RFC 8216 §6.2.2).
const MIN_LISTED_TARGETS: u32 = 3;
