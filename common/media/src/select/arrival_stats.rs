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
    pub(super) whole_since: Duration,
    pictures: Option<ArrivalStats>,
    sounds: Option<ArrivalStats>,
}

/// The arrivals of one kind of track.
#[derive(Clone, Copy, Debug)]
pub(super) struct ArrivalStats {
    pub(super) last: Duration,
    pub(super) newest: Timestamp,
    /// The longest step between two arrivals, slowly forgotten: bursts are part of how a path delivers.
    pub(super) step: Duration,
    /// The longest step from a unit's time to that of the one that it follows, as slowly forgotten: what the broadcast itself is like.
    pub(super) interval: Duration,
    /// Whether it is silent, and others were called for it.
    pub(super) is_missed: bool,
    /// Whether it is the broadcast that has none of this kind any more: no other path had any either.
    pub(super) is_excused: bool,
}

impl ActivePath {
    /// Its first unit has come.
    pub(super) fn begin(now: Duration, kind: TrackKind, dts: Timestamp) -> Self {
        let mut flow = Self { since: now, whole_since: now, pictures: None, sounds: None };
        flow.arrived(now, kind, dts, None);
        flow
    }

    /// Another has come.
    pub(super) fn arrived(&mut self, now: Duration, kind: TrackKind, dts: Timestamp, after: Option<Timestamp>) {
        let rhythm = match kind {
            TrackKind::Video => &mut self.pictures,
            TrackKind::Audio => &mut self.sounds,
        };
        let rhythm = rhythm.get_or_insert(ArrivalStats {
            last: now,
            newest: dts,
            step: Duration::ZERO,
            interval: Duration::ZERO,
            is_missed: false,
            is_excused: false,
        });
        if after.is_some_and(|after| after > rhythm.newest) {
            self.whole_since = now;
        }
        let gone = now.saturating_sub(rhythm.last);
        let fade = 0.5f64.powf(gone.as_secs_f64() / HALF_LIFE);
        let interval = after.map_or(Duration::ZERO, |after| dts.since(after));
        *rhythm = ArrivalStats {
            last: now,
            newest: rhythm.newest.max(dts),
            step: gone.max(rhythm.step.mul_f64(fade)).min(LONGEST),
            interval: interval.max(rhythm.interval.mul_f64(fade)).min(LONGEST),
            is_missed: false,
            is_excused: false,
        };
    }

    /// One kind of its units.
    pub(super) fn of(&self, kind: TrackKind) -> Option<&ArrivalStats> {
        match kind {
            TrackKind::Video => self.pictures.as_ref(),
            TrackKind::Audio => self.sounds.as_ref(),
        }
    }

    /// All kinds that have come.
    pub(super) fn rhythms(&self) -> impl Iterator<Item = (TrackKind, &ArrivalStats)> {
        [TrackKind::Video, TrackKind::Audio].into_iter().filter_map(|kind| Some((kind, self.of(kind)?)))
    }

    /// The same, to be changed.
    pub(super) fn rhythms_mut(&mut self) -> impl Iterator<Item = (TrackKind, &mut ArrivalStats)> {
        let pictures = self.pictures.as_mut().map(|rhythm| (TrackKind::Video, rhythm));
        pictures.into_iter().chain(self.sounds.as_mut().map(|rhythm| (TrackKind::Audio, rhythm)))
    }

    /// The longest interval of any kind: what the broadcast's pictures are like, if it has any.
    pub(super) fn interval(&self) -> Duration {
        self.rhythms().map(|(_, rhythm)| rhythm.interval).max().unwrap_or_default()
    }

    /// Whether it has brought a newer unit of this kind than `other`.
    pub(super) fn is_newer(&self, kind: TrackKind, other: &ArrivalStats) -> bool {
        self.of(kind).is_some_and(|own| own.newest > other.newest)
    }

    /// Whether all that `other` has brought has come here too.
    pub(super) fn covers(&self, other: &Self) -> bool {
        other.rhythms().all(|(kind, theirs)| self.of(kind).is_some_and(|own| own.newest >= theirs.newest))
    }
}

/// Seconds in which half of a long step is forgotten: a bad moment must not make the next failure take long to be noticed. Where long steps
/// return less often than this, as with each IDR, false alarms are what teaches patience.
const HALF_LIFE: f64 = 1.5;
/// Bounds what one outage makes a path's silence mean afterwards; segments of HLS have the floor of their kind.
const LONGEST: Duration = Duration::from_secs(1);
