//! Delay-based rate control of the encoder: keeps the queueing delay of the push low. Pure: the caller passes the time.
//!
//! [`publish`](crate::publish) reports the bytes it sends and their delay; the encoder reads the target before each frame. On overuse the
//! target drops to the measured delivery rate, and below it until the queue has drained. Without delay it rises slowly to the configured
//! bitrate; each rise that causes overuse again doubles the hold time before the next.
//!
//! LAN viewers that share the uplink yield to the push ([`peer`](crate::peer)): they can switch to the CDN, which costs this uplink
//! nothing more, whereas a lower bitrate would degrade the stream for everybody. So the bitrate stays as long as the link's whole capacity
//! suffices for the push. If viewers do not yield in time, the bitrate drops, and recovers as soon as they have.
//!
//! A link that delivers nothing at all is disconnected, not slow: a decrease shortly before the disconnect is undone.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The rate control of one broadcast. Shared by the encoder's thread and the publishing task.
#[derive(Debug, Default)]
pub struct RateControl(Mutex<Option<EncoderRateController>>);

impl RateControl {
    /// Starts rate control of an encoder configured for `ceiling` bits per second, which becomes the maximum.
    pub fn follow(&self, ceiling: u64, now: Instant) {
        *self.0.lock() = Some(EncoderRateController::new(ceiling, now));
    }

    /// Accounts `bytes` of payload written to the push's connection; `pictures`: they are video.
    pub fn pushed(&self, bytes: usize, pictures: bool) {
        if let Some(follow) = &mut *self.0.lock() {
            follow.pushed(bytes, pictures);
        }
    }

    /// Feeds the current delay of the push; `None` while disconnected. Call it for every unit: missing feedback counts as delay.
    pub fn waits(&self, wait: Option<UplinkSample>, now: Instant) {
        if let Some(follow) = &mut *self.0.lock() {
            follow.waits(wait, now);
        }
    }

    /// The encoder's target in bits per second; `None` without rate control.
    pub fn target(&self, now: Instant) -> Option<u64> {
        self.0.lock().as_mut().map(|follow| follow.target(now))
    }
}

/// The delay of the push, and the capacity of its link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UplinkSample {
    /// Queueing delay on the way, after data was written to the connection.
    pub queueing: Duration,
    /// Delay before that: media time from the oldest unit not yet written to the newest.
    pub behind: Duration,
    /// Total capacity in bits per second of a link shared with LAN viewers, which yield to the push; `None` without them.
    pub shared: Option<u64>,
}

/// The controller's state. Rates are in bits per second.
#[derive(Debug)]
struct EncoderRateController {
    ceiling: f64,
    floor: f64,
    target: f64,
    wait: Option<(UplinkSample, Instant)>,
    /// Bits written since the last sample, and the non-video bits among them.
    handed: f64,
    aside: f64,
    /// The samples of the last [`WINDOW`].
    looks: VecDeque<Sample>,
    looked: Instant,
    /// Consecutive samples with overuse.
    waited: u32,
    fallen: Option<DrainState>,
    /// Time of the last overuse.
    stirred: Instant,
    /// Time without overuse before the target rises.
    lull: Duration,
    /// When LAN viewers last failed to yield.
    in_vain: Option<Instant>,
    /// Time of the last decrease, and the target before it.
    last_fall: Option<(Instant, f64)>,
}

/// Measurements of one sampling interval.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    handed: f64,
    aside: f64,
    queueing: f64,
}

/// State while the queue drains.
#[derive(Clone, Copy, Debug)]
struct DrainState {
    /// Estimated capacity of the uplink.
    link: f64,
    /// When that was last lowered, and the delay then, in seconds.
    since: Instant,
    wait: f64,
    /// The delay at the last sample, in seconds.
    last: f64,
}

impl EncoderRateController {
    fn new(ceiling: u64, now: Instant) -> Self {
        let ceiling = ceiling as f64;
        Self {
            ceiling,
            floor: (ceiling * FLOOR).max(LEAST).min(ceiling),
            target: ceiling,
            wait: None,
            handed: 0.0,
            aside: 0.0,
            looks: VecDeque::new(),
            looked: now,
            waited: 0,
            fallen: None,
            stirred: now,
            lull: LULL,
            in_vain: None,
            last_fall: None,
        }
    }

    fn pushed(&mut self, bytes: usize, pictures: bool) {
        let bits = bytes as f64 * 8.0;
        self.handed += bits;
        if !pictures {
            self.aside += bits;
        }
    }

    fn waits(&mut self, wait: Option<UplinkSample>, now: Instant) {
        if wait.is_none() || self.wait.is_none() {
            // A new connection: samples of the previous one do not apply.
            self.looks.clear();
            (self.handed, self.aside, self.waited, self.fallen, self.looked) = (0.0, 0.0, 0, None, now);
            self.in_vain = None;
            self.broken(now);
        }
        self.wait = wait.map(|wait| (wait, now));
        self.look(now);
    }

    fn target(&mut self, now: Instant) -> u64 {
        self.look(now);
        self.target as u64
    }

    fn look(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.looked);
        let Some((wait, told)) = self.wait.filter(|_| passed >= EVERY) else { return };
        self.looked = now;
        let silent = now.saturating_duration_since(told).saturating_sub(TOLD);
        let queueing = wait.queueing.max(silent).as_secs_f64();
        let (handed, aside) = (std::mem::take(&mut self.handed), std::mem::take(&mut self.aside));
        self.looks.push_back(Sample { at: now, handed, aside, queueing });
        while self.looks.front().is_some_and(|look| now.saturating_duration_since(look.at) > WINDOW) {
            self.looks.pop_front();
        }
        // Delay before and after the write adds up.
        let shared = wait.shared.map_or(0.0, |link| link as f64);
        let wait = queueing + wait.behind.as_secs_f64();
        self.waited = if wait > TOLERATED.as_secs_f64() { self.waited + 1 } else { 0 };
        if wait > TOLERATED.as_secs_f64() {
            self.stirred = now;
        }
        if shared > 0.0 && self.waited >= MAKE_WAY {
            self.in_vain = Some(now);
        }
        let is_trusted = self.in_vain.is_none_or(|at| now.saturating_duration_since(at) > FORGET);
        let shared = if is_trusted && wait < TOO_LONG.as_secs_f64() { shared } else { 0.0 };
        match self.fallen {
            None if self.waited >= PATIENCE => self.fall(wait, shared, now),
            None => self.rise(passed.as_secs_f64(), now),
            Some(fall) => self.drain(fall, wait, shared, now),
        }
        let seen = self.seen();
        tracing::trace!(
            queue_delay_ms = (wait * 1e3) as u64,
            delivery_rate = seen.map(|seen| seen.0 as u64),
            link_rate = self.fallen.map(|fall| fall.link as u64),
            target_bitrate = self.target as u64,
            "rate control"
        );
    }

    /// Delivery rate and non-video rate over the window. Bits that were written without increasing the delay were delivered.
    fn seen(&self) -> Option<(f64, f64)> {
        let (first, last) = self.looks.front().zip(self.looks.back())?;
        let seconds = last.at.saturating_duration_since(first.at).as_secs_f64();
        if seconds < EVERY.as_secs_f64() {
            return None;
        }
        let after = self.looks.iter().skip(1);
        let (handed, aside) = after.fold((0.0, 0.0), |sum, look| (sum.0 + look.handed, sum.1 + look.aside));
        let taking = (seconds + last.queueing - first.queueing).max(seconds / 4.0);
        Some((handed / taking, aside / seconds))
    }

    /// Sets the target to a fraction of the capacity `link`, minus the non-video rate.
    fn give(&mut self, link: f64, part: f64) {
        let aside = self.seen().map_or(0.0, |seen| seen.1);
        self.target = (link * part - aside).clamp(self.floor, self.ceiling);
    }

    fn fall(&mut self, wait: f64, shared: f64, now: Instant) {
        let Some((took, aside)) = self.seen() else { return };
        let took = took.max(shared);
        if took * NEARLY >= self.target + aside {
            // A backlog, as after an outage, not overuse: it drains without a lower bitrate, or once viewers have yielded.
            return;
        }
        // A rise back to the point of the last decrease has met the same limit again.
        let is_again = self.last_fall.is_some_and(|(at, from)| {
            now.saturating_duration_since(at) < FORGET && self.target < from * BEYOND && from < self.ceiling
        });
        self.lull = if is_again { (self.lull * 2).min(LONGEST_LULL) } else { LULL };
        self.last_fall = Some((now, self.target));
        self.fallen = Some(DrainState { link: took, since: now, wait, last: wait });
        // Feedback lags: by now the delay is longer.
        self.give(took, drained(wait + UNKNOWN.as_secs_f64()));
    }

    fn drain(&mut self, fall: DrainState, wait: f64, shared: f64, now: Instant) {
        let mut fall = fall;
        let took = self.seen().map_or(fall.link, |seen| seen.0);
        if wait < CALM.as_secs_f64() {
            self.fallen = None;
            self.stirred = now;
            // While there was a queue, the delivery rate was the capacity.
            return self.give(took.clamp(fall.link, fall.link * MORE).max(shared), NEARLY);
        }
        let passed = now.saturating_duration_since(fall.since);
        if passed > SHOWN + Duration::from_secs_f64(fall.wait) {
            // Less than half of the expected drain has happened: the capacity is lower than estimated.
            let hoped = fall.wait - (1.0 - drained(fall.wait)) * passed.as_secs_f64() / 2.0;
            if wait > hoped {
                fall.link = took.clamp(fall.link / 2.0, fall.link * NEARLY);
            }
            (fall.since, fall.wait) = (now, wait);
        }
        // While the delay is not decreasing, assume the measurement lags by 500 ms.
        let unknown = if wait > fall.last * FALLS { UNKNOWN.as_secs_f64() } else { 0.0 };
        fall.last = wait;
        self.fallen = Some(fall);
        self.give(fall.link.max(shared), drained(wait + unknown));
    }

    /// After a disconnect: undoes a decrease shortly before it.
    fn broken(&mut self, now: Instant) {
        if let Some((at, from)) = self.last_fall.take_if(|(at, _)| now.saturating_duration_since(*at) < BREAKS) {
            tracing::debug!(after = ?now.saturating_duration_since(at), "rate control: restored the bitrate after a disconnect");
            self.target = self.target.max(from);
        }
    }

    fn rise(&mut self, seconds: f64, now: Instant) {
        let calm = now.saturating_duration_since(self.stirred);
        if self.target < self.ceiling && calm > self.lull {
            // The longer there is no overuse, the faster it rises.
            let hurry = 1.0 + ((calm - self.lull).as_secs_f64() / HURRY.as_secs_f64()).min(1.0);
            self.target = (self.target * (RISE * hurry * seconds).exp()).min(self.ceiling);
        }
    }
}

/// The fraction of the capacity at which a queue of `wait` seconds drains within [`DRAIN`].
fn drained(wait: f64) -> f64 {
    (1.0 - wait / DRAIN.as_secs_f64()).clamp(LITTLE, MUCH)
}

/// Lower bound, as a fraction of the maximum: with less, frames of that size are unwatchable.
const FLOOR: f64 = 0.15;
/// Lower bound in bits per second, or the maximum if that is less.
const LEAST: f64 = 100_000.0;
/// Interval between two samples of the delay.
const EVERY: Duration = Duration::from_millis(100);
/// The delivery rate is measured over this window.
const WINDOW: Duration = Duration::from_millis(600);
/// Missing feedback for longer counts as delay: several units' time.
const TOLD: Duration = Duration::from_millis(150);
/// Overuse threshold: an IDR alone causes this delay on a link not much faster than the stream.
const TOLERATED: Duration = Duration::from_millis(150);
/// Consecutive samples of overuse before the target is lowered.
const PATIENCE: u32 = 2;
/// With more delay viewers are not given time to yield: the bottleneck may be another link.
const TOO_LONG: Duration = Duration::from_millis(300);
/// Consecutive samples of overuse within which viewers yield, if they do.
const MAKE_WAY: u32 = 20;
/// Underuse threshold: below, the queue has drained.
const CALM: Duration = Duration::from_millis(60);
/// Multiplicative decrease, relative to the delivery rate.
const NEARLY: f64 = 0.85;
/// Maximum correction upwards of the estimated capacity, at once.
const MORE: f64 = 1.3;
/// Minimum and maximum of the target while draining, relative to the capacity.
const LITTLE: f64 = 0.3;
const MUCH: f64 = 0.7;
/// A queue is to drain within this time.
const DRAIN: Duration = Duration::from_millis(1500);
/// How much the measured delay lags behind the real one on first detection.
const UNKNOWN: Duration = Duration::from_millis(500);
/// Relative to the last delay: more does not count as decreasing, since two pings may report the same.
const FALLS: f64 = 0.95;
/// Time until a change of the bitrate shows in the delay, in addition to the delay itself.
const SHOWN: Duration = Duration::from_millis(600);
/// Relative increase per second without overuse.
const RISE: f64 = 0.07;
/// After this time without overuse the increase is twice as fast.
const HURRY: Duration = Duration::from_secs(10);
/// Hold time after overuse: longer than the default keyframe interval, so that an IDR has passed without overuse.
const LULL: Duration = Duration::from_millis(2200);
/// Upper bound of the hold time.
const LONGEST_LULL: Duration = Duration::from_secs(16);
/// A decrease this shortly before a disconnect was caused by it.
const BREAKS: Duration = Duration::from_secs(20);
/// Memory of a decrease, and of viewers that did not yield.
const FORGET: Duration = Duration::from_secs(60);
/// A decrease from this much more than the last one met another limit.
const BEYOND: f64 = 1.3;

#[cfg(test)]
#[path = "rate_control_tests.rs"]
mod tests;
