//! Blocking playlist reload and preload hints: which segments and parts exist, which comes next, and which requests to reject
//! (RFC 8216bis §6.2.5.2, §4.4.5.3).

use std::time::Duration;

use crate::cmaf::SegmentWindow;

impl SegmentWindow {
    /// The next part, as media sequence number and index in the segment. `None` without low latency, and after the end of the stream.
    pub fn preload_hint(&self) -> Option<(u64, u64)> {
        let open = || self.open.as_ref().map_or((self.next_msn, 0), |open| (open.msn, open.parts.len() as u64));
        (self.low_latency && !self.ended).then(open)
    }

    /// Whether the segment `msn`, or its part `part` if given, or anything later is available. A part index beyond the last part of a complete
    /// segment means the first part of the next segment.
    pub fn contains(&self, msn: u64, part: Option<u64>) -> bool {
        let Some(last) = self.segments.last() else { return false };
        let Some(part) = part else { return msn <= last.msn };
        if msn < last.msn || (msn == last.msn && part < last.parts.len() as u64) {
            return true;
        }
        let open = self.open.as_ref().map_or(0, |open| open.parts.len() as u64);
        match msn == last.msn {
            true => open > 0,
            false => msn == last.msn.saturating_add(1) && part < open,
        }
    }

    /// Whether a request for this segment or part is to be rejected (400) instead of blocked: no client that has loaded the playlist has a
    /// reason to make it yet.
    pub fn is_too_far_ahead(&self, msn: u64, part: Option<u64>) -> bool {
        let Some(last) = self.segments.last() else { return true };
        let open = self.open.as_ref().map_or(0, |open| open.parts.len() as u64);
        let ahead = msn.saturating_sub(last.msn);
        let parts = match ahead {
            // It exists, or means the first part of the next segment.
            0 => 0,
            1 => part.unwrap_or(0).saturating_sub(open),
            _ => part.unwrap_or(0),
        };
        ahead > SEGMENTS_AHEAD || parts > advance_part_limit(self.part_target)
    }

    /// How long a request may block before it is answered with 503: three target durations (§6.2.5.2).
    pub fn blocking_timeout(&self) -> Duration {
        Duration::from_secs(self.target_duration) * BLOCKING_TARGETS
    }
}

/// The Advance Part Limit (§6.2.5.2): three seconds of parts, rounded up, and at least three parts.
fn advance_part_limit(part_target: Duration) -> u64 {
    let parts = 3000u128.div_ceil(part_target.as_millis().max(1));
    u64::try_from(parts).unwrap_or(u64::MAX).max(3)
}

/// How far a requested media sequence number may be beyond the last complete segment (§6.2.5.2).
const SEGMENTS_AHEAD: u64 = 2;
/// Blocking timeout in target durations (§6.2.5.2).
const BLOCKING_TARGETS: u32 = 3;
