//! Parts, segments and init segments, and the snapshot of all that is available at one moment.
//!
//! A server keeps the newest snapshot and answers requests from it without a lock: everything in it is shared, and nothing in it changes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::catalog::Catalog;
use crate::fmp4::Fragment;
use crate::time::WallClock;

/// A part: one fragment.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// `moof` and `mdat`; the payloads are shared with the access units.
    pub fragment: Fragment,
    /// Media time from its start to the start of the next part.
    pub duration: Duration,
    /// Whether it contains an IDR, or has no video: decoding can start in it (`INDEPENDENT`, RFC 8216bis §4.4.4.9).
    pub independent: bool,
}

/// A segment: a sequence of parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// Media sequence number. Each segment's is one more than that of the segment before, across epochs.
    pub msn: u64,
    /// Whether `EXT-X-DISCONTINUITY` precedes it.
    pub discontinuity: bool,
    /// Number of discontinuities since the start of the stream, its own included.
    pub discontinuity_sequence: u64,
    /// Wall-clock time of its start: by the broadcaster's clock, or time of arrival if the publisher stated no clock.
    pub program_date_time: WallClock,
    /// Media time from its start to its end, at most the target duration when rounded to seconds.
    pub duration: Duration,
    /// Whether its first video frame is an IDR, or it has no video: decoding can start with it.
    pub independent: bool,
    /// [`Init::id`] of its init segment.
    pub init: u64,
    /// At least one.
    pub parts: Vec<Part>,
    /// Whether playlists list the parts: not if one that no client has seen is longer than `PART-TARGET`, which was fixed later.
    pub lists_parts: bool,
    /// Sum over all parts.
    pub bytes: usize,
    /// The usual intervals between its pictures, by which their rate is stated; none while it is in progress.
    pub intervals: Intervals,
}

/// Intervals between pictures that follow each other at the frame rate, without those where pictures are away or late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Intervals {
    /// How many there are.
    pub count: u32,
    /// Their sum in milliseconds.
    pub millis: u32,
}

/// An init segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Init {
    /// Hash of `bytes`: equal content has an equal id, so caches may keep it for ever.
    pub id: u64,
    /// The tracks that it describes: those of the rendition that fMP4 can carry.
    pub catalog: Arc<Catalog>,
    /// `ftyp` and `moov`.
    pub bytes: Bytes,
}

/// The segments and parts of a stream that are available at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SegmentWindow {
    /// `EXT-X-TARGETDURATION` in seconds. 0 until the first segment is complete; changes only with a new list.
    pub target_duration: u64,
    /// `PART-TARGET`: no part is longer, unless nothing was sent for longer than that. Zero until the first segment is complete; changes only with a new
    /// list.
    pub part_target: Duration,
    /// Whether parts are listed and may be requested before they exist.
    pub low_latency: bool,
    /// Media sequence number of the segment after the last complete one.
    pub next_msn: u64,
    /// `EXT-X-DISCONTINUITY-SEQUENCE`: discontinuities before the first listed segment.
    pub discontinuity_sequence: u64,
    /// The listed segments, oldest first.
    pub segments: Vec<Arc<Segment>>,
    /// Segments that have left the playlist and are still available, oldest first.
    pub unlisted: Vec<Arc<Segment>>,
    /// The complete parts of the segment in progress, as a segment; `None` if there are none.
    pub open: Option<Arc<Segment>>,
    /// The init segments of all of these.
    pub inits: Vec<Arc<Init>>,
    /// Whether the stream has ended.
    pub ended: bool,
}

/// Bit rate of a rendition, in bits per second, container included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bandwidth {
    /// Of the largest segment (RFC 8216 §4.1, "peak segment bit rate").
    pub peak: u64,
    /// Over all listed segments.
    pub average: u64,
}

impl Segment {
    /// What it costs to hold, in bytes.
    pub fn cost(&self) -> usize {
        let samples: usize = self.parts.iter().map(|part| part.fragment.payloads.len()).sum();
        self.bytes.saturating_add(samples.saturating_mul(SAMPLE_COST))
    }
}

impl SegmentWindow {
    /// The init segment with this [id](Init::id).
    pub fn init(&self, id: u64) -> Option<Bytes> {
        self.inits.iter().find(|init| init.id == id).map(|init| init.bytes.clone())
    }

    /// The bytes of a complete segment, listed or not. Cloning them copies no media.
    pub fn segment(&self, msn: u64) -> Option<Vec<Bytes>> {
        let segment = self.segments.iter().chain(&self.unlisted).find(|s| s.msn == msn)?;
        Some(segment.parts.iter().flat_map(|part| part.fragment.chunks()).collect())
    }

    /// The bytes of part `index` of a segment, complete or in progress. Cloning them copies no media.
    pub fn part(&self, msn: u64, index: u64) -> Option<Vec<Bytes>> {
        let segment = self.segments.iter().chain(&self.unlisted).chain(&self.open).find(|s| s.msn == msn)?;
        Some(segment.parts.get(usize::try_from(index).ok()?)?.fragment.chunks().collect())
    }

    /// The tracks of the newest listed segment; `None` if none is listed.
    pub fn catalog(&self) -> Option<&Arc<Catalog>> {
        let newest = self.segments.last()?;
        self.inits.iter().find(|init| init.id == newest.init).map(|init| &init.catalog)
    }

    /// Bit rate of the listed segments; `None` if none is listed.
    pub fn bandwidth(&self) -> Option<Bandwidth> {
        let rate =
            |bytes: usize, duration: Duration| (bytes as f64 * 8.0 / duration.as_secs_f64().max(0.001)).ceil() as u64;
        let (bytes, duration) = self
            .segments
            .iter()
            .fold((0, Duration::ZERO), |(bytes, duration), s| (bytes + s.bytes, duration + s.duration));
        let average = (!self.segments.is_empty()).then(|| rate(bytes, duration))?;
        // RFC 8216 §4.1: the peak is that of runs between 0.5 and 1.5 target durations.
        let shortest = Duration::from_millis(self.target_duration * 500);
        let peak = self.segments.iter().filter(|s| s.duration >= shortest).map(|s| rate(s.bytes, s.duration)).max();
        Some(Bandwidth { peak: peak.unwrap_or(0).max(average), average })
    }

    /// The highest frame rate of the listed segments of the newest init segment (RFC 8216bis §4.4.6.2), in frames per second to two decimals; `None`
    /// without video.
    pub fn frame_rate(&self) -> Option<f64> {
        let newest = self.segments.last()?.init;
        let all = || self.segments.iter().filter(|s| s.init == newest).map(|s| s.intervals);
        let highest = all().filter_map(Intervals::rate).reduce(f64::max)?;
        // Timestamps are in milliseconds: over all segments with that rate the rounding cancels out.
        let of_highest = all().filter(|intervals| intervals.rate().is_some_and(|rate| rate > highest * SAME_RATE));
        let sum = of_highest.reduce(|a, b| Intervals { count: a.count + b.count, millis: a.millis + b.millis })?;
        sum.rate().map(|rate| (rate * 100.0).round() / 100.0)
    }
}

impl Intervals {
    /// Those of `intervals`, in milliseconds, that are near their median.
    pub(super) fn usual(mut intervals: Vec<u32>) -> Self {
        intervals.sort_unstable();
        let median = intervals.get(intervals.len() / 2).copied().unwrap_or(0);
        let usual = intervals.into_iter().filter(|interval| interval.abs_diff(median) <= (median / 4).max(1));
        usual.fold(Self::default(), |sum, interval| Self { count: sum.count + 1, millis: sum.millis + interval })
    }

    fn rate(self) -> Option<f64> {
        (self.millis > 0).then(|| f64::from(self.count) * 1000.0 / f64::from(self.millis))
    }
}

/// Segments whose frame rates differ by less have the same.
const SAME_RATE: f64 = 0.95;

/// What a sample costs beside its payload, in bytes.
pub(super) const SAMPLE_COST: usize = 128;
