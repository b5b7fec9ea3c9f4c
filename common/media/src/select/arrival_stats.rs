//! How a path's units usually arrive, pictures and sound each by themselves, and so what is silence.
//!
//! Sound that goes on says nothing about pictures: where packets are lost, the larger units are held up first.

use std::time::Duration;

use crate::access_unit::TrackKind;
use crate::time::Timestamp;

/// A path that brings units.
#[derive(Clone, Copy, Debug)]
pub(super) struct ActivePath {
    /// When its first unit came.
    pub(super) since: Duration,
    /// Since when no units were left out.
    pub(super) complete_since: Duration,
    video: Option<ArrivalStats>,
    audio: Option<ArrivalStats>,
}

/// The arrivals of one kind of track.
#[derive(Clone, Copy, Debug)]
pub(super) struct ArrivalStats {
    pub(super) last: Duration,
    pub(super) newest: Timestamp,
    /// The longest step between two arrivals, slowly forgotten: bursts are part of how a path delivers.
    pub(super) max_gap: Duration,
    /// The longest step from a unit's time to that of the one that it follows, as slowly forgotten: what the broadcast itself is like.
    pub(super) frame_interval: Duration,
    /// Whether it is silent, and others were called for it.
    pub(super) stalled: bool,
    /// Whether it is the broadcast that has none of this kind any more: no other path had any either.
    pub(super) track_absent: bool,
}

impl ActivePath {
    /// Its first unit has come.
    pub(super) fn begin(now: Duration, kind: TrackKind, dts: Timestamp) -> Self {
        let mut active = Self { since: now, complete_since: now, video: None, audio: None };
        active.arrived(now, kind, dts, None);
        active
    }

    /// Another has come.
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

    /// One kind of its units.
    pub(super) fn track(&self, kind: TrackKind) -> Option<&ArrivalStats> {
        match kind {
            TrackKind::Video => self.video.as_ref(),
            TrackKind::Audio => self.audio.as_ref(),
        }
    }

    /// All kinds that have come.
    pub(super) fn tracks(&self) -> impl Iterator<Item = (TrackKind, &ArrivalStats)> {
        [TrackKind::Video, TrackKind::Audio].into_iter().filter_map(|kind| Some((kind, self.track(kind)?)))
    }

    /// The same, to be changed.
    pub(super) fn tracks_mut(&mut self) -> impl Iterator<Item = (TrackKind, &mut ArrivalStats)> {
        let video = self.video.as_mut().map(|stats| (TrackKind::Video, stats));
        video.into_iter().chain(self.audio.as_mut().map(|stats| (TrackKind::Audio, stats)))
    }

    /// The longest interval of any kind: what the broadcast's pictures are like, if it has any.
    pub(super) fn frame_interval(&self) -> Duration {
        self.tracks().map(|(_, stats)| stats.frame_interval).max().unwrap_or_default()
    }

    /// Whether it has brought a newer unit of this kind than `other`.
    pub(super) fn is_newer(&self, kind: TrackKind, other: &ArrivalStats) -> bool {
        self.track(kind).is_some_and(|own| own.newest > other.newest)
    }

    /// Whether all that `other` has brought has come here too.
    pub(super) fn covers(&self, other: &Self) -> bool {
        other.tracks().all(|(kind, theirs)| self.track(kind).is_some_and(|own| own.newest >= theirs.newest))
    }
}

/// Seconds in which half of a long step is forgotten: a bad moment must not make the next failure take long to be noticed. Where long steps
/// return less often than this, as with each IDR, false alarms are what teaches patience.
const HALF_LIFE: f64 = 1.5;
/// Bounds what one outage makes a path's silence mean afterwards; a path that delivers segments has its profile's floor.
const MAX_GAP: Duration = Duration::from_secs(1);
