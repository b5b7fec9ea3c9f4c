//! The capacity of a link that the push shares with viewers, adapted by their queueing delay. Pure: the caller passes the time.
//!
//! The estimate decreases while the queueing delay exceeds [`TARGET`] and increases while it is below, in proportion to the distance, with
//! a derivative term that damps oscillation, like SCReAM (RFC 8298 §4.1.2). If the delivery rate through the full link is below half of the
//! estimate, or above it, the estimate restarts from the delivery rate.

use std::time::{Duration, Instant};

use super::units::Rate;

/// The estimate. See the module documentation.
#[derive(Debug)]
pub(super) struct Capacity {
    rate: Rate,
    /// Since when there is an estimate.
    since: Instant,
    /// Slightly below the estimate before its last decrease: the increase is fast up to here and slow beyond.
    last_good: Rate,
    /// Start of the current decrease, and the estimate then.
    decrease: Option<(Instant, Rate)>,
    /// When there was last a queue.
    last_queue: Instant,
}

/// What was measured since the last update.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    /// The time since the last update.
    pub(super) interval: Duration,
    /// The queueing delay, and its change, in seconds.
    pub(super) delay: f64,
    pub(super) change: f64,
    /// Whether viewers' packets are in the queue.
    pub(super) is_shared: bool,
    /// The delivery rate while the link was full.
    pub(super) saturated: Option<Rate>,
    /// Time since a viewer last waited for its share, and whether those count that follow an IDR.
    pub(super) since_limited: Duration,
    /// The push's mean rate, which the link is known to carry.
    pub(super) push: Rate,
}

impl Capacity {
    /// The first estimate: `delivered` is the delivery rate when the push was first delayed.
    pub(super) fn new(delivered: Rate, push: Rate, now: Instant) -> Self {
        let first = delivered.max(push) * FIRST;
        Self {
            rate: first.max(push + LEAST),
            since: now,
            last_good: delivered.max(push) * NEARLY,
            decrease: Some((now, first)),
            last_queue: now,
        }
    }

    pub(super) fn rate(&self) -> Rate {
        self.rate
    }

    /// Whether the estimate has existed for longer than `time`.
    pub(super) fn is_older(&self, time: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.since) > time
    }

    /// Adapts the estimate.
    pub(super) fn update(&mut self, measured: &Measured, now: Instant) {
        let off = 1.0 - measured.delay / TARGET.as_secs_f64();
        // The viewers' packets are not queued: they do not cause the delay.
        if off < 0.0 && !measured.is_shared {
            return;
        }
        if measured.delay > CALM.as_secs_f64() {
            self.last_queue = now;
        }
        let seconds = measured.interval.as_secs_f64();
        // The longer there has been no delay, the less relevant the last decrease is.
        let calm = now.saturating_duration_since(self.last_queue).saturating_sub(HOLD).as_secs_f64();
        let returns = self.rate < self.last_good;
        let rise = if returns { RETURN } else { (RISE * (1.0 + PROBE * calm)).min(MAX_RISE) };
        let proportional = if off > 0.0 { rise * off } else { FALL * off.max(-2.0) };
        let derivative = if off > 0.0 { 0.0 } else { (-DERIVATIVE * measured.change / seconds).clamp(-0.3, 0.0) };
        let factor = (proportional * seconds + derivative).exp();
        if factor < 1.0 {
            // Feedback lags: decrease by no more than half before the effect can be seen.
            let (since, from) = self.decrease.unwrap_or((now, self.rate));
            if self.decrease.is_none() {
                // A decrease during recovery keeps part of the goal.
                self.last_good = (self.rate * NEARLY).max(self.last_good * AGAIN);
            }
            let is_shown = now.saturating_duration_since(since) > SHOWN;
            let (since, from) = if is_shown { (now, self.rate) } else { (since, from) };
            self.decrease = Some((since, from));
            self.rate = (self.rate * factor).max(from * 0.5).min(self.rate);
        } else {
            self.decrease = None;
            // Increase only while the capacity is used: unused capacity is not measured.
            if measured.since_limited < if returns { GROUP } else { AT_PRESENT } {
                self.rate = self.rate * factor;
            }
        }
        // The delivery rate of a full link is a measurement: adopt it at once if it is far below the estimate, or above it.
        if let Some(full) = measured.saturated.filter(|full| off < 0.0 && *full < self.rate * MUCH_LESS) {
            self.rate = full * FIRST;
            (self.last_good, self.decrease) = (full * NEARLY, Some((now, self.rate)));
        } else if let Some(full) = measured.saturated.filter(|full| measured.is_shared && *full * FIRST > self.rate) {
            self.rate = full * FIRST;
            (self.last_good, self.decrease) = (self.last_good.max(full * NEARLY), None);
        }
        self.rate = self.rate.max(measured.push + LEAST);
    }
}

/// Target queueing delay of the push: below an IDR's transmission time on a slow link it is noise, far above it is noticeable.
pub(super) const TARGET: Duration = Duration::from_millis(60);
/// Minimum for all viewers together.
pub(super) const LEAST: Rate = Rate::bits_per_second(80_000.0);
/// The first estimate, relative to the delivery rate when the push is first delayed.
const FIRST: f64 = 0.8;
/// A delivery rate below this fraction of the estimate means another bottleneck.
const MUCH_LESS: f64 = 0.5;
/// Relative increase per second without delay, up to the last good rate.
const RETURN: f64 = 0.5;
/// Fraction of the last good rate that is kept on a decrease during recovery.
const AGAIN: f64 = 0.8;
/// The last good rate, relative to the estimate before a decrease.
const NEARLY: f64 = 0.95;
/// Relative increase per second without delay, beyond the last good rate.
const RISE: f64 = 0.05;
/// Its maximum while it accelerates: what is sent beyond the capacity until that is measured must fit into a short queue.
const MAX_RISE: f64 = 0.2;
/// Relative decrease per second at twice the target delay; at three times or more, twice that.
const FALL: f64 = 0.5;
/// Time until the effect of a decrease is measured.
const SHOWN: Duration = Duration::from_millis(1000);
/// Time without delay before the increase accelerates: longer than a keyframe interval.
const HOLD: Duration = Duration::from_millis(3000);
/// Acceleration of the increase per second without delay.
const PROBE: f64 = 8.0;
/// Delay below this counts as none.
const CALM: Duration = Duration::from_millis(20);
/// Gain of the derivative term.
const DERIVATIVE: f64 = 0.2;
/// How long after a viewer waited the capacity counts as used: a viewer that skipped the rest of a group requests nothing until the next.
const GROUP: Duration = Duration::from_millis(2500);
/// The same beyond the last good rate: two updates.
const AT_PRESENT: Duration = Duration::from_millis(200);
