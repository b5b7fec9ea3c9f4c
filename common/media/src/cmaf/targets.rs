//! The target durations of parts and segments (RFC 8216 §6.2.1, RFC 8216bis §4.4.3.7).
//!
//! The first segment of a list fixes them, since a list must not change them. A new broadcast, or other tracks, whose GOPs or parts are much shorter,
//! or too long, begin a new list.

use std::time::Duration;

use super::config::SegmenterConfig;
use super::segment::{Part, Segment};

/// The two target durations of a stream and the limits that follow from them.
#[derive(Debug)]
pub(super) struct Targets {
    segment_aim: Duration,
    part_aim: Duration,
    /// `EXT-X-TARGETDURATION` in seconds; `None` until the first segment is complete.
    target_duration: Option<u64>,
    /// `PART-TARGET`; `None` until the first segment is complete.
    part_target: Option<Duration>,
    /// Whether the tracks that fixed them are over, and the first segment of the next is not complete.
    is_provisional: bool,
    /// Whether the parts of that segment are not listed yet.
    hides_parts: bool,
    /// The segments that no client can have seen.
    unseen: Option<Unseen>,
}

/// Segments that were completed since playlists were last shown, and the targets that they need.
#[derive(Clone, Copy, Debug)]
struct Unseen {
    first_msn: u64,
    target_duration: u64,
    part_target: Duration,
}

impl Targets {
    pub(super) fn new(config: &SegmenterConfig) -> Self {
        let (segment_aim, part_aim) = (config.segment_target, config.part_target);
        Self {
            segment_aim,
            part_aim,
            target_duration: None,
            part_target: None,
            is_provisional: false,
            hides_parts: false,
            unseen: None,
        }
    }

    /// `EXT-X-TARGETDURATION` in seconds, once it is fixed.
    pub(super) fn target_duration(&self) -> Option<u64> {
        self.target_duration
    }

    /// `PART-TARGET`, once it is fixed.
    pub(super) fn part_target(&self) -> Option<Duration> {
        self.part_target
    }

    /// The longest duration of a segment in milliseconds: rounded to seconds, it must not exceed the target duration.
    pub(super) fn max_segment_millis(&self) -> i64 {
        self.target_duration.filter(|_| !self.is_provisional).unwrap_or(MAX_TARGET) as i64 * 1000 + 499
    }

    /// The longest duration of a part in milliseconds, at least 1; parts that end where no picture begins, as pictures are away or late, have it.
    pub(super) fn max_part_millis(&self) -> i64 {
        self.part_target.unwrap_or_else(|| with_tolerance(self.part_aim)).as_millis().max(1) as i64
    }

    /// Whether no part of the complete segment is longer than `PART-TARGET`, or shorter than it may be.
    pub(super) fn allow_parts(&self, segment: &Segment) -> bool {
        let Some(target) = self.part_target else { return false };
        let (last, others) = segment.parts.split_last().expect("a segment has a part");
        let is_long = |part: &Part| part.independent || part.duration * 100 >= target * MIN_PART_PERCENT as u32;
        last.duration <= target && others.iter().all(|part| part.duration <= target && is_long(part))
    }

    /// Whether clients may know them.
    pub(super) fn are_fixed(&self) -> bool {
        self.part_target.is_some() && !(self.is_provisional && self.hides_parts)
    }

    /// Whether a part of `length` ms ends before a unit that will last `step` ms: when that is nearest to the duration aimed at; and if it is long enough
    /// to end at all (RFC 8216bis §4.4.4.9), before an IDR and when it would otherwise exceed its target. What comes sooner stays within the part.
    pub(super) fn ends_part(&self, length: i64, step: i64, is_idr: bool) -> bool {
        let aim = self.part_aim.as_millis() as i64;
        let limit = self.max_part_millis();
        let is_nearest = length >= step && length * 2 + step >= aim * 2;
        let is_long = length * 100 >= limit * MIN_PART_PERCENT;
        if self.are_fixed() {
            is_long && (is_nearest || is_idr || length + step > limit)
        } else {
            is_nearest || is_long && is_idr
        }
    }

    /// Fixes the targets by the first segment of a list, together with those that no client has seen. `longest_gop` predicts how long later segments
    /// will be. If `segment` is the first with other tracks and needs other targets, a new list begins: returns the media sequence number of its first
    /// segment, which is this one or one that no client has seen.
    pub(super) fn on_segment(&mut self, segment: &Segment, longest_gop: Duration) -> Option<u64> {
        let duration = self.target_duration_for(segment, longest_gop);
        // Parts that clients may know obey the target; so it stays.
        let part =
            self.part_target.filter(|_| self.allow_parts(segment)).unwrap_or_else(|| self.part_target_for(segment));
        let other_duration = |current: u64| duration > current || duration * 2 <= current;
        let differs = self.target_duration.is_some_and(other_duration) || self.part_target.is_some_and(|it| it != part);
        let begins = std::mem::take(&mut self.is_provisional) && differs;
        if begins {
            (self.target_duration, self.part_target) = (None, None);
        }
        let none = Unseen { first_msn: segment.msn, target_duration: 0, part_target: Duration::ZERO };
        let unseen = self.unseen.get_or_insert(none);
        unseen.target_duration = unseen.target_duration.max(duration);
        unseen.part_target = unseen.part_target.max(part);
        self.target_duration.get_or_insert(unseen.target_duration);
        self.part_target.get_or_insert(unseen.part_target);
        begins.then_some(unseen.first_msn)
    }

    /// A new broadcast has begun, or other tracks: the first segment may be of any length. `hides_parts`: its parts are not listed before it is complete.
    pub(super) fn on_other_tracks(&mut self, hides_parts: bool) {
        self.is_provisional = self.target_duration.is_some();
        self.hides_parts = hides_parts;
    }

    /// Playlists have been shown: clients know all segments so far.
    pub(super) fn on_shown(&mut self) {
        self.unseen = None;
    }

    /// A part is a whole number of frames, so the parts of one segment show the duration of all parts, at any frame rate. What is typical counts: a
    /// single part is longer where a picture was late, and the last of a segment is what is left.
    fn part_target_for(&self, segment: &Segment) -> Duration {
        let (last, others) = segment.parts.split_last().expect("a segment has a part");
        let mut durations: Vec<_> = others.iter().map(|part| part.duration).collect();
        durations.sort_unstable();
        let typical = durations.get(durations.len() / 2).copied().unwrap_or(last.duration);
        let limit = Duration::from_millis(self.max_part_millis().unsigned_abs());
        match typical {
            // Pictures were away for most of the segment: its parts say nothing about them.
            _ if typical == limit => limit,
            _ if typical * 4 < self.part_aim * 3 => with_tolerance(self.part_aim),
            _ => with_tolerance(typical),
        }
    }

    fn target_duration_for(&self, segment: &Segment, longest_gop: Duration) -> u64 {
        let rounded = |duration: Duration| ((duration.as_millis() + 500) / 1000) as u64;
        let longest = self.segment_aim.max(segment.duration).max(longest_gop);
        rounded(longest).clamp(1, MAX_TARGET).max(rounded(segment.duration))
    }
}

/// The `PART-TARGET` for parts of about this duration, in whole milliseconds.
fn with_tolerance(part: Duration) -> Duration {
    Duration::from_millis((part.as_millis() as u64).saturating_mul(PART_TARGET_PERCENT.into()) / 100)
}

/// Upper bound of `EXT-X-TARGETDURATION` in seconds: the longest default GOP of encoders is 250 frames, at 25 frames per second. Players start
/// three target durations behind the live edge.
const MAX_TARGET: u64 = 10;
/// In percent of `PART-TARGET`: no part may be shorter, except the last of a segment and those with an IDR (RFC 8216bis §4.4.4.9).
const MIN_PART_PERCENT: i64 = 85;
/// `PART-TARGET` in percent of the duration aimed at. Pictures of a camera are never evenly spaced; with 8%, parts that come out a little
/// longer and a little shorter are equally far from the two limits.
const PART_TARGET_PERCENT: u32 = 108;
