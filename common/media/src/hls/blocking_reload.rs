//! What a request that waits is waiting for: which parts there are, which is next, and what is too far off
//! (RFC 8216bis §6.2.5.2, §4.4.5.3).

use std::time::Duration;

use super::snapshot::Playlist;

impl Playlist {
    /// The part that will be complete next, as media sequence number and index; none where nothing will be.
    pub fn preload_hint(&self) -> Option<(u64, u64)> {
        let open = || self.open.as_ref().map_or((self.next_msn, 0), |open| (open.msn, open.parts.len() as u64));
        (self.low_latency && !self.ended).then(open)
    }

    /// Whether the playlist contains the segment `msn`, or with an index that part of it, or anything later. An index beyond the
    /// last of a complete segment is the first of the next.
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

    /// Whether nobody who has read the playlist would ask for this yet: it is refused, not waited for.
    pub fn is_too_far_ahead(&self, msn: u64, part: Option<u64>) -> bool {
        let Some(last) = self.segments.last() else { return true };
        let open = self.open.as_ref().map_or(0, |open| open.parts.len() as u64);
        let ahead = msn.saturating_sub(last.msn);
        let parts = match ahead {
            // There, or to be rolled over.
            0 => 0,
            1 => part.unwrap_or(0).saturating_sub(open),
            _ => part.unwrap_or(0),
        };
        ahead > SEGMENTS_AHEAD || parts > advance_part_limit(self.part_target)
    }

    /// How long a request may be kept waiting before it is told to ask again: three target durations (§6.2.5.2).
    pub fn blocking_timeout(&self) -> Duration {
        Duration::from_secs(self.target_duration) * WAIT
    }
}

/// The Advance Part Limit (§6.2.5.2): three seconds of parts, rounded up, or three.
fn advance_part_limit(part_target: Duration) -> u64 {
    let parts = 3000u128.div_ceil(part_target.as_millis().max(1));
    u64::try_from(parts).unwrap_or(u64::MAX).max(3)
}

/// How far the number of a segment that is waited for may be beyond that of the last one (§6.2.5.2).
const SEGMENTS_AHEAD: u64 = 2;
/// In target durations.
const WAIT: u32 = 3;
