//! Which moment of the broadcast is due now: one epoch's mapping from media time to the local monotonic clock.
//!
//! The ideal is to be [`target`](Playout::target) behind a unit that nothing delayed. The target is what the measured jitter
//! and the slowest decoding ask for. Away from the ideal, the speed changes by at most [`MAX_SPEED_CHANGE`]; far behind it, the
//! position jumps ([`Adjustment::Skip`]), unless the viewer was asked to show everything. A unit that comes after its moment
//! pushes the position back: that is a stall. Pure: `now` is a parameter, from whatever origin.

use std::time::Duration;

use media::{Timestamp, TrackKind};

use super::jitter::JitterEstimator;

/// What the user and the source ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlayoutConfig {
    /// A fixed target instead of the measured one.
    pub fixed_target: Option<Duration>,
    /// Whether playback may leave pictures out to get back to the live edge.
    pub may_skip: bool,
    /// How much media the source brings at once: a segment's duration for HLS, zero for RTMP.
    pub burst: Duration,
}

/// What [`Playout::adjust`] wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Adjustment {
    /// Nothing that others must know.
    None,
    /// The position has jumped ahead; pictures before it are too late to show.
    Resync,
    /// As `Resync`, but so far that what is not decoded yet need not be, where a random access point allows.
    Skip,
}

/// The mapping. See the module's text.
#[derive(Debug)]
pub(super) struct Playout {
    config: PlayoutConfig,
    jitter: JitterEstimator,
    anchor: Option<Anchor>,
    /// The highest DTS that has arrived, in microseconds.
    newest: i64,
    /// Where the last jump went: what is due before has been left behind.
    jumped_to: i64,
    /// Until when the first units still come in a burst, whose spread says nothing about the path.
    settled_at: Option<Duration>,
    /// Until when that may be put off, as the burst goes on.
    settled_by: Duration,
    adjusted_at: Option<Duration>,
    target: i64,
    /// The slowest decoding of late, in microseconds.
    decoding: f64,
    correcting: bool,
    paused: bool,
    /// There is no live edge to be at.
    complete: bool,
    stalls: u64,
}

/// At `at`, media time `media` is due, and time goes on at `speed`. Microseconds.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    at: i64,
    media: i64,
    speed: f64,
}

impl Playout {
    /// Nothing has arrived.
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

    /// A unit arrived. The first one is due at once; one that is late pushes the position back.
    pub(super) fn on_arrival(&mut self, now: Duration, kind: TrackKind, dts: Timestamp) {
        let (at, media) = (micros(now), dts.as_millis().saturating_mul(1000));
        let transit = at.saturating_sub(media);
        self.newest = self.newest.max(media);
        let Some(anchor) = self.anchor else {
            self.anchor = Some(Anchor { at, media, speed: 1.0 });
            self.settle(now);
            self.jitter.record(now, kind, transit);
            return;
        };
        if self.is_settling(now) {
            // Only the least counts yet: the burst of a join lies above it by as much as the server holds.
            let least = self.jitter.min_of(kind);
            if least.is_some_and(|least| transit.saturating_add(BURST_THRESHOLD) < least) {
                // It comes faster than it was made: the burst goes on, and on a busy host it may take its time.
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
            // The spread now holds this delay too, so the new target, where it may be as large, absorbs the next one.
            self.target = self.compute_target();
            let ideal = self.jitter.min().unwrap_or(transit).saturating_add(self.target);
            let offset = ideal.max(transit);
            self.anchor = Some(Anchor { at, media: at.saturating_sub(offset), speed: 1.0 });
            self.stalls += u64::from(late > STALL_THRESHOLD && !self.is_settling(now));
        }
    }

    /// A unit that arrived before came again by a slower path.
    pub(super) fn on_duplicate(&mut self, now: Duration, kind: TrackKind, dts: Timestamp) {
        let transit = micros(now).saturating_sub(dts.as_millis().saturating_mul(1000));
        let skew = self.jitter.min_of(kind).map_or(0, |least| transit.saturating_sub(least));
        // What is resent after an outage is old, not slow.
        if skew < MAX_SKEW && !self.is_settling(now) {
            self.jitter.record(now, kind, transit);
        }
    }

    /// A picture was ready this long after it could have been: the decoder's work, and what it held back.
    pub(super) fn on_decoded(&mut self, took: Duration) {
        let took = micros(took) as f64;
        self.decoding =
            if took > self.decoding { took } else { self.decoding + (took - self.decoding) * DECODING_DECAY };
    }

    /// Sets the speed anew, and jumps if that is what it takes. To be called often; acts every [`ADJUST_EVERY`].
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
        // What has not arrived cannot be jumped to: after an outage, what comes first is old.
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

    /// Goes to the ideal position at once, or to the newest unit if that is older.
    pub(super) fn jump(&mut self, now: Duration) {
        if let (Some(least), Some(_)) = (self.jitter.min(), self.anchor) {
            let media = micros(now).saturating_sub(least).saturating_sub(self.target).min(self.newest);
            self.anchor = Some(Anchor { at: micros(now), media, speed: 1.0 });
            self.jumped_to = media;
            self.correcting = false;
        }
    }

    /// The path was opened anew: what it brings first is a burst again.
    pub(super) fn reset_timing(&mut self, now: Duration) {
        if self.anchor.is_some() {
            self.jitter.clear();
            self.settle(now);
        }
    }

    fn settle(&mut self, now: Duration) {
        // Where media comes in pieces, the next piece may still be part of the burst.
        self.settled_at = Some(now + SETTLE_TIME + self.config.burst);
        self.settled_by = now + MAX_SETTLE_TIME + self.config.burst;
    }

    /// Whether the broadcast is over and all there: it is played as it is, from wherever it starts.
    pub(super) fn set_complete(&mut self, complete: bool) {
        self.complete = complete;
    }

    /// The source changed: this is how much it brings at once.
    pub(super) fn set_burst(&mut self, burst: Duration) {
        self.config.burst = burst;
        self.jitter.set_burst(burst);
    }

    /// Holds the position, or lets it go on from where it was.
    pub(super) fn pause(&mut self, now: Duration, paused: bool) {
        if paused != self.paused {
            self.reanchor(now, if paused { 0.0 } else { 1.0 });
            self.paused = paused;
        }
    }

    /// When `pts` is to be shown, on the local clock. `None` before the first arrival and while paused.
    pub(super) fn due(&self, pts: Timestamp) -> Option<Duration> {
        let anchor = self.anchor.filter(|_| !self.paused)?;
        Some(Duration::from_micros(u64::try_from(anchor.due(pts.as_millis().saturating_mul(1000))).unwrap_or(0)))
    }

    /// Whether playback has jumped over `pts`, or is still on its way to where it will be.
    pub(super) fn is_skipped_over(&self, now: Duration, pts: Timestamp) -> bool {
        pts.as_millis().saturating_mul(1000) < self.jumped_to
            || (self.config.may_skip && !self.complete && self.is_settling(now))
    }

    /// The media time that is due at `now`, in microseconds.
    pub(super) fn position(&self, now: Duration) -> Option<i64> {
        self.anchor.map(|anchor| anchor.position(micros(now)))
    }

    /// How far behind an undelayed unit playback aims to be.
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

    /// How often a unit came so late that the picture stood still.
    pub(super) fn stalls(&self) -> u64 {
        self.stalls
    }

    /// Microseconds behind (positive) or ahead of the ideal.
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

/// Nobody hears or sees 5%: beyond it, pitch and motion are noticed.
pub const MAX_SPEED_CHANGE: f64 = 0.05;
/// How often the speed is set anew: often against [`CORRECT_WITHIN`], seldom against a picture.
const ADJUST_EVERY: Duration = Duration::from_millis(100);
/// How long the burst of a join takes to come in: a GOP of 2 s at 8 Mbit/s over a 40 Mbit/s line.
const SETTLE_TIME: Duration = Duration::from_millis(500);
/// A burst that takes longer than this is a slow line's, where what is late is left out.
const MAX_SETTLE_TIME: Duration = Duration::from_secs(8);
/// A unit that came this much sooner after its time (microseconds) than any before it is part of a burst, not of jitter.
const BURST_THRESHOLD: i64 = 5_000;
/// While settling, one picture's worth behind is reason enough to jump.
const SETTLE_ERROR: i64 = 40_000;
/// To catch up with this much at 5% takes 20 s; more is better skipped.
const SKIP_ERROR: i64 = 1_000_000;
/// Errors up to here are left alone, so that the speed is 1 nearly always.
const CORRECT_ERROR: i64 = 15_000;
/// A correction that has begun goes on to here.
const DONE_ERROR: i64 = 4_000;
/// An error of this many microseconds would be corrected at double speed; 100 ms and more are at the full 5%.
const CORRECT_WITHIN: f64 = 2_000_000.0;
/// Rounding to whole milliseconds alone makes units this late.
const LATE_TOLERANCE: i64 = 2_000;
/// A picture that stands this much longer than it should is seen to stall.
const STALL_THRESHOLD: i64 = 40_000;
/// What scheduling and the screen's refresh need beyond jitter and decoding.
const TARGET_MARGIN: i64 = 20_000;
/// No jitter is worth buffering more than this beyond what the source brings at once.
const MAX_TARGET: i64 = 3_000_000;
/// Paths that differ by more are not worth waiting for.
const MAX_SKEW: i64 = 500_000;
/// A slow picture is remembered for about a hundred pictures.
const DECODING_DECAY: f64 = 0.01;
