//! Playout: one epoch's mapping from media time to the viewer's monotonic clock.
//!
//! The ideal position is [`target`](Playout::target) behind a unit without queueing delay. The target covers the measured jitter and the slowest
//! decoding. Away from the ideal, the speed changes by at most [`MAX_SPEED_CHANGE`]; far behind it, the position jumps ([`Adjustment::Skip`]), unless
//! nothing may be skipped. A unit that arrives after it was due moves the position back: that is a stall. Pure: `now` is a parameter.

use std::time::Duration;

use media::{Timestamp, TrackKind};

use super::jitter::JitterEstimator;

/// Requirements of the user and the path on playout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlayoutConfig {
    /// A fixed playout delay instead of the adaptive one.
    pub fixed_target: Option<Duration>,
    /// Whether pictures may be skipped to get back to the live edge.
    pub may_skip: bool,
    /// How much media the path delivers at once: a segment's duration for HLS, zero for RTMP.
    pub burst: Duration,
}

/// What [`Playout::adjust`] asks its caller to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Adjustment {
    /// The position continues without a jump.
    None,
    /// The position has jumped ahead; pictures before it are too late to present.
    Resync,
    /// As `Resync`, but far enough that undecoded units can be skipped, up to a random access point.
    Skip,
}

/// The mapping. See the module's documentation.
#[derive(Debug)]
pub(super) struct Playout {
    config: PlayoutConfig,
    jitter: JitterEstimator,
    anchor: Option<Anchor>,
    /// The highest DTS that has arrived, in microseconds.
    newest: i64,
    /// Where the last jump went, in microseconds: media before it was skipped over.
    jumped_to: i64,
    /// Until when the first units are a burst, whose spread does not represent the path.
    settled_at: Option<Duration>,
    /// Until when that may be extended while the burst continues.
    settled_by: Duration,
    adjusted_at: Option<Duration>,
    target: i64,
    /// The slowest recent decoding in microseconds, decaying.
    decoding: f64,
    correcting: bool,
    paused: bool,
    /// The broadcast is over: there is no live edge.
    complete: bool,
    stalls: u64,
}

/// At `at`, media time `media` is due, and media time advances at `speed`. Microseconds.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    at: i64,
    media: i64,
    speed: f64,
}

impl Playout {
    /// A mapping without units: the first one will be due at once.
    pub(super) fn new(config: PlayoutConfig) -> Self {
        let mut playout = Self {
            config,
            jitter: JitterEstimator::new(config.burst),
            anchor: None,
            newest: i64::MIN,
            jumped_to: i64::MIN,
            settled_at: None,
            settled_by: Duration::ZERO,
            adjusted_at: None,
            target: 0,
            decoding: 0.0,
            correcting: false,
            paused: false,
            complete: false,
            stalls: 0,
        };
        playout.target = playout.compute_target();
        playout
    }

    /// A unit arrived. The first one is due at once; one that is late moves the position back.
    pub(super) fn on_arrival(&mut self, now: Duration, kind: TrackKind, dts: Timestamp) {
        let (at, media) = (micros(now), dts.as_millis().saturating_mul(1000));
        let transit = at.saturating_sub(media);
        self.newest = self.newest.max(media);
        self.jitter.heard(now);
        let Some(anchor) = self.anchor else {
            self.anchor = Some(Anchor { at, media, speed: 1.0 });
            self.settle(now);
            self.jitter.record(now, kind, transit);
            return;
        };
        if self.is_settling(now) {
            // Only the minimum counts yet: the burst of a join lies above it by as much as the server holds.
            let least = self.jitter.min_of(kind);
            if least.is_some_and(|least| transit.saturating_add(BURST_THRESHOLD) < least) {
                // It arrives faster than real time, so the burst continues; on a busy host it may take longer.
                self.settled_at = self.settled_at.max(Some((now + SETTLE_TIME).min(self.settled_by)));
            }
            if least.is_none_or(|least| transit < least) {
                self.jitter.clear_of(kind);
                self.jitter.record(now, kind, transit);
            }
        } else {
            self.jitter.record(now, kind, transit);
        }
        let late = at.saturating_sub(anchor.due(media));
        if late > LATE_TOLERANCE && !self.paused {
            // The spread now includes this delay, so that the new target, within its bound, absorbs the next one.
            self.target = self.compute_target();
            let ideal = self.jitter.min().unwrap_or(transit).saturating_add(self.target);
            let offset = ideal.max(transit);
            self.anchor = Some(Anchor { at, media: at.saturating_sub(offset), speed: 1.0 });
            self.stalls += u64::from(late > STALL_THRESHOLD && !self.is_settling(now));
        }
    }

    /// A duplicate of a unit arrived by a slower path.
    pub(super) fn on_duplicate(&mut self, now: Duration, kind: TrackKind, dts: Timestamp) {
        let transit = micros(now).saturating_sub(dts.as_millis().saturating_mul(1000));
        let skew = self.jitter.min_of(kind).map_or(0, |least| transit.saturating_sub(least));
        self.jitter.heard(now);
        // Units resent after an outage are old, not delayed by the path.
        if skew < MAX_SKEW && !self.is_settling(now) {
            self.jitter.record(now, kind, transit);
        }
    }

    /// Decoding delayed a picture by this much, in work and in reordering.
    pub(super) fn on_decoded(&mut self, took: Duration) {
        let took = micros(took) as f64;
        self.decoding =
            if took > self.decoding { took } else { self.decoding + (took - self.decoding) * DECODING_DECAY };
    }

    /// Updates target and speed, and jumps if necessary. To be called often; acts every [`ADJUST_EVERY`].
    pub(super) fn adjust(&mut self, now: Duration) -> Adjustment {
        if self.paused || self.adjusted_at.is_some_and(|at| now < at + ADJUST_EVERY) {
            return Adjustment::None;
        }
        self.adjusted_at = Some(now);
        self.target = self.compute_target();
        if self.complete {
            self.reanchor(now, 1.0);
            return Adjustment::None;
        }
        let Some(error) = self.error(now) else { return Adjustment::None };
        // Only media that has arrived can be jumped to: after an outage, the first units are old.
        let reachable = error.min(self.newest.saturating_sub(self.position(now).unwrap_or(i64::MAX)));
        if self.config.may_skip && self.is_settling(now) && reachable > SETTLE_ERROR {
            self.jump(now);
            return Adjustment::Resync;
        }
        if self.config.may_skip && reachable > SKIP_ERROR {
            self.jump(now);
            return Adjustment::Skip;
        }
        self.correcting = error.abs() > if self.correcting { DONE_ERROR } else { CORRECT_ERROR };
        let change = if self.correcting { error as f64 / CORRECT_WITHIN } else { 0.0 };
        self.reanchor(now, 1.0 + change.clamp(-MAX_SPEED_CHANGE, MAX_SPEED_CHANGE));
        Adjustment::None
    }

    /// Jumps to the ideal position, or to the newest unit if that is older.
    pub(super) fn jump(&mut self, now: Duration) {
        if let (Some(least), Some(_)) = (self.jitter.min(), self.anchor) {
            let media = micros(now).saturating_sub(least).saturating_sub(self.target).min(self.newest);
            self.anchor = Some(Anchor { at: micros(now), media, speed: 1.0 });
            self.jumped_to = media;
            self.correcting = false;
        }
    }

    /// The path was reopened: its first units are a burst again.
    pub(super) fn reset_timing(&mut self, now: Duration) {
        if self.anchor.is_some() {
            self.jitter.clear();
            self.settle(now);
        }
    }

    /// Another path delivers from now on, because the one before has failed.
    pub(super) fn path_switched(&mut self, now: Duration) {
        self.jitter.path_switched(now);
    }

    fn settle(&mut self, now: Duration) {
        // Where media is delivered in pieces, the next piece may still be part of the burst.
        self.settled_at = Some(now + SETTLE_TIME + self.config.burst);
        self.settled_by = now + MAX_SETTLE_TIME + self.config.burst;
    }

    /// Sets whether the broadcast is over and complete: then it is played at normal speed from its start.
    pub(super) fn set_complete(&mut self, complete: bool) {
        self.complete = complete;
    }

    /// The path changed: this is how much media it delivers at once.
    pub(super) fn set_burst(&mut self, burst: Duration) {
        self.config.burst = burst;
        self.jitter.set_burst(burst);
    }

    /// Pauses at the position, or resumes from it.
    pub(super) fn pause(&mut self, now: Duration, paused: bool) {
        if paused != self.paused {
            self.reanchor(now, if paused { 0.0 } else { 1.0 });
            self.paused = paused;
        }
    }

    /// When `pts` is to be presented, on the viewer's clock; `None` before the first arrival and while paused.
    pub(super) fn due(&self, pts: Timestamp) -> Option<Duration> {
        let anchor = self.anchor.filter(|_| !self.paused)?;
        Some(Duration::from_micros(u64::try_from(anchor.due(pts.as_millis().saturating_mul(1000))).unwrap_or(0)))
    }

    /// Whether playback has skipped over `pts`, or is still moving to the live edge after joining.
    pub(super) fn is_skipped_over(&self, now: Duration, pts: Timestamp) -> bool {
        pts.as_millis().saturating_mul(1000) < self.jumped_to
            || (self.config.may_skip && !self.complete && self.is_settling(now))
    }

    /// The media time that is due at `now`, in microseconds.
    pub(super) fn position(&self, now: Duration) -> Option<i64> {
        self.anchor.map(|anchor| anchor.position(micros(now)))
    }

    /// The playout delay that is aimed at, behind a unit without queueing delay.
    pub(super) fn target(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.target).unwrap_or(0))
    }

    /// Media seconds per second.
    pub(super) fn speed(&self) -> f64 {
        self.anchor.map_or(1.0, |anchor| anchor.speed)
    }

    /// Spread of the transit times.
    pub(super) fn jitter(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.jitter.spread()).unwrap_or(0))
    }

    /// How often a unit arrived so late that the picture froze.
    pub(super) fn stalls(&self) -> u64 {
        self.stalls
    }

    /// Microseconds behind (positive) or ahead of (negative) the ideal position; `None` without arrivals.
    fn error(&self, now: Duration) -> Option<i64> {
        let offset = micros(now).saturating_sub(self.position(now)?);
        Some(offset.saturating_sub(self.jitter.min()?).saturating_sub(self.target))
    }

    fn is_settling(&self, now: Duration) -> bool {
        self.settled_at.is_some_and(|at| now < at)
    }

    fn compute_target(&self) -> i64 {
        if let Some(latency) = self.config.fixed_target {
            return micros(latency);
        }
        let burst = micros(self.config.burst);
        let spread = self.jitter.spread().max(burst);
        (spread + TARGET_MARGIN + self.decoding as i64).min(burst + MAX_TARGET)
    }

    fn reanchor(&mut self, now: Duration, speed: f64) {
        if let Some(anchor) = &mut self.anchor {
            let at = micros(now);
            *anchor = Anchor { at, media: anchor.position(at), speed };
        }
    }
}

impl Anchor {
    fn position(self, at: i64) -> i64 {
        self.media.saturating_add((at.saturating_sub(self.at) as f64 * self.speed) as i64)
    }

    fn due(self, media: i64) -> i64 {
        let speed = if self.speed > 0.0 { self.speed } else { 1.0 };
        self.at.saturating_add((media.saturating_sub(self.media) as f64 / speed) as i64)
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// As a fraction of normal speed. More is noticed in pitch and motion.
pub const MAX_SPEED_CHANGE: f64 = 0.05;
/// How often the speed is updated: often against [`CORRECT_WITHIN`], seldom against a picture's duration.
const ADJUST_EVERY: Duration = Duration::from_millis(100);
/// How long the burst of a join takes to come in: a GOP of 2 s at 8 Mbit/s over a 40 Mbit/s line.
const SETTLE_TIME: Duration = Duration::from_millis(500);
/// The longest time that a burst may take; after it, late media is skipped.
const MAX_SETTLE_TIME: Duration = Duration::from_secs(8);
/// Microseconds. A unit whose transit time is shorter by this much than any before it is part of a burst, not of jitter.
const BURST_THRESHOLD: i64 = 5_000;
/// Microseconds. While settling, being behind by one picture is reason enough to jump.
const SETTLE_ERROR: i64 = 40_000;
/// Microseconds. To catch up with this at 5% takes 20 s; more is skipped.
const SKIP_ERROR: i64 = 1_000_000;
/// Microseconds. Smaller errors are not corrected, so that the speed is 1 nearly always.
const CORRECT_ERROR: i64 = 15_000;
/// Microseconds. A correction continues until the error is below this.
const DONE_ERROR: i64 = 4_000;
/// An error of this many microseconds would be corrected at double speed; 100 ms and more are at the full 5%.
const CORRECT_WITHIN: f64 = 2_000_000.0;
/// Microseconds. Rounding to whole milliseconds alone makes units this late.
const LATE_TOLERANCE: i64 = 2_000;
/// Microseconds. A picture that is shown this much longer than its duration is seen to freeze.
const STALL_THRESHOLD: i64 = 40_000;
/// Microseconds for scheduling and the screen's refresh, beyond jitter and decoding.
const TARGET_MARGIN: i64 = 20_000;
/// Microseconds. Bounds the target beyond what the path delivers at once.
const MAX_TARGET: i64 = 3_000_000;
/// Microseconds. Playback does not wait for a path that is slower by more.
const MAX_SKEW: i64 = 500_000;
/// Weight of a new decoding time below the current one: a slow picture counts for about a hundred pictures.
const DECODING_DECAY: f64 = 0.01;
