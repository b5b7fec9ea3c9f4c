//! Arrival statistics of a path, separately for audio and video, from which its stall timeout is derived.
//!
//! Audio that continues does not show that video does: with packet loss, larger units are delayed first.

use std::time::Duration;

use crate::access_unit::TrackKind;
use crate::time::Timestamp;

/// A path that delivers units.
#[derive(Clone, Copy, Debug)]
pub(super) struct ActivePath {
    /// Arrival of its first unit.
    pub(super) since: Duration,
    /// Time since which it has skipped no unit.
    pub(super) complete_since: Duration,
    video: Option<ArrivalStats>,
    audio: Option<ArrivalStats>,
}

/// Arrival statistics of the units of one kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct ArrivalStats {
    pub(super) last: Duration,
    pub(super) newest: Timestamp,
    /// The longest time between two arrivals, with a half-life of 1.5 s. Bursts are part of how a path delivers.
    pub(super) max_gap: Duration,
    /// The longest difference in DTS between a unit and its predecessor, with the same half-life: the frame interval of the broadcast.
    pub(super) frame_interval: Duration,
    /// Whether it has stalled and a fallback was started for it.
    pub(super) stalled: bool,
    /// Whether the broadcast no longer has a track of this kind: no other path had units of it either.
    pub(super) track_absent: bool,
}

impl ActivePath {
    /// Starts with the first unit of a path, which arrives at `now`.
    pub(super) fn begin(now: Duration, kind: TrackKind, dts: Timestamp) -> Self {
        let mut active = Self { since: now, complete_since: now, video: None, audio: None };
        active.arrived(now, kind, dts, None);
        active
    }

    /// Adds an arrival.
    pub(super) fn arrived(&mut self, now: Duration, kind: TrackKind, dts: Timestamp, predecessor: Option<Timestamp>) {
        let stats = match kind {
            TrackKind::Video => &mut self.video,
            TrackKind::Audio => &mut self.audio,
        };
        let stats = stats.get_or_insert(ArrivalStats {
            last: now,
            newest: dts,
            max_gap: Duration::ZERO,
            frame_interval: Duration::ZERO,
            stalled: false,
            track_absent: false,
        });
        if predecessor.is_some_and(|predecessor| predecessor > stats.newest) {
            self.complete_since = now;
        }
        let gone = now.saturating_sub(stats.last);
        let fade = 0.5f64.powf(gone.as_secs_f64() / HALF_LIFE);
        let frame_interval = predecessor.map_or(Duration::ZERO, |predecessor| dts.since(predecessor));
        *stats = ArrivalStats {
            last: now,
            newest: stats.newest.max(dts),
            max_gap: gone.max(stats.max_gap.mul_f64(fade)).min(MAX_GAP),
            frame_interval: frame_interval.max(stats.frame_interval.mul_f64(fade)).min(MAX_GAP),
            stalled: false,
            track_absent: false,
        };
    }

    /// The arrivals of one kind; `None` before the first unit.
    pub(super) fn track(&self, kind: TrackKind) -> Option<&ArrivalStats> {
        match kind {
            TrackKind::Video => self.video.as_ref(),
            TrackKind::Audio => self.audio.as_ref(),
        }
    }

    /// The arrivals of each kind with at least one unit.
    pub(super) fn tracks(&self) -> impl Iterator<Item = (TrackKind, &ArrivalStats)> {
        [TrackKind::Video, TrackKind::Audio].into_iter().filter_map(|kind| Some((kind, self.track(kind)?)))
    }

    /// Mutable access to the arrivals of each kind.
    pub(super) fn tracks_mut(&mut self) -> impl Iterator<Item = (TrackKind, &mut ArrivalStats)> {
        let video = self.video.as_mut().map(|stats| (TrackKind::Video, stats));
        video.into_iter().chain(self.audio.as_mut().map(|stats| (TrackKind::Audio, stats)))
    }

    /// The longest frame interval of any kind: that of the video, if there is any.
    pub(super) fn frame_interval(&self) -> Duration {
        self.tracks().map(|(_, stats)| stats.frame_interval).max().unwrap_or_default()
    }

    /// Whether it has delivered a newer unit of this kind than `other`.
    pub(super) fn is_newer(&self, kind: TrackKind, other: &ArrivalStats) -> bool {
        self.track(kind).is_some_and(|own| own.newest > other.newest)
    }

    /// Whether it has delivered everything that `other` has.
    pub(super) fn covers(&self, other: &Self) -> bool {
        other.tracks().all(|(kind, theirs)| self.track(kind).is_some_and(|own| own.newest >= theirs.newest))
    }
}

/// In seconds. A single long gap must not delay the detection of the next failure. If long gaps are less frequent than this, as with each IDR,
/// false alarms raise the stall timeout instead.
const HALF_LIFE: f64 = 1.5;
/// Bounds the effect of one outage on the stall timeout; a path that delivers segments has a longer minimum in its profile.
const MAX_GAP: Duration = Duration::from_secs(1);
