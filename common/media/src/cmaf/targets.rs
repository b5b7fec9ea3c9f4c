//! The target durations of parts and segments, fixed by the first segment (RFC 8216 §6.2.1, RFC 8216bis §4.4.3.7).

use std::time::Duration;

use super::config::SegmenterConfig;
use super::segment::Segment;

/// The two target durations of a stream and the limits that follow from them.
#[derive(Debug)]
pub(super) struct Targets {
    segment_aim: Duration,
    part_aim: Duration,
    /// `EXT-X-TARGETDURATION` in seconds; `None` until the first segment is complete.
    target_duration: Option<u64>,
    /// `PART-TARGET`; `None` until the first segment is complete.
    part_target: Option<Duration>,
}

impl Targets {
    pub(super) fn new(config: &SegmenterConfig) -> Self {
        let (segment_aim, part_aim) = (config.segment_target, config.part_target);
        Self { segment_aim, part_aim, target_duration: None, part_target: None }
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
        self.target_duration.unwrap_or(MAX_TARGET) as i64 * 1000 + 499
    }

    /// The longest duration of a part in milliseconds.
    pub(super) fn max_part_millis(&self) -> i64 {
        self.part_target.unwrap_or_else(|| part_target_for(self.part_aim)).as_millis() as i64
    }

    /// Whether a part of `length` ms ends before a unit that will last `step` ms: when that is nearest to the duration aimed at, when the part
    /// would otherwise exceed its target, and before an IDR if the part is long enough to end at all (RFC 8216bis §4.4.4.9). An IDR that comes
    /// sooner stays within the part.
    pub(super) fn ends_part(&self, length: i64, step: i64, is_idr: bool) -> bool {
        let aim = self.part_aim.as_millis() as i64;
        let limit = self.max_part_millis();
        length * 2 + step >= aim * 2 || length + step > limit || (is_idr && length * 100 >= limit * MIN_PART_PERCENT)
    }

    /// Fixes the targets by the first segment; later segments change nothing. `longest_gop` predicts how long later segments will be.
    pub(super) fn on_segment(&mut self, segment: &Segment, longest_gop: Duration) {
        self.target_duration.get_or_insert_with(|| {
            let rounded = |duration: Duration| ((duration.as_millis() + 500) / 1000) as u64;
            let longest = self.segment_aim.max(segment.duration).max(longest_gop);
            rounded(longest).clamp(1, MAX_TARGET).max(rounded(segment.duration))
        });
        // A part is a whole number of frames, so the first segment's parts show the duration of all parts, at any frame rate.
        self.part_target.get_or_insert_with(|| {
            let longest = segment.parts.iter().map(|part| part.duration).max().unwrap_or_default();
            part_target_for(if longest * 4 < self.part_aim * 3 { self.part_aim } else { longest })
        });
    }
}

/// The `PART-TARGET` for parts of about this duration, in whole milliseconds.
fn part_target_for(part: Duration) -> Duration {
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
