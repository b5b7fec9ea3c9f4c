//! Rate control of the encoder by the uplink's delay: keeps the queueing delay of the push low. Pure: the caller passes the time.
//!
//! On overuse the target drops to the delivery rate, and below it until the queue has drained. Without a queue it rises, slowly at first
//! and then faster and faster, to the configured bitrate. A queue that does not follow is not ours, as that of a download or a longer
//! route: the target returns, and the delay counts as the path's own.
//!
//! LAN viewers that share the uplink yield to the push ([`admission`](super::admission)): they can switch to the CDN, which costs this
//! uplink nothing more, whereas a lower bitrate would degrade the stream for everybody. So the bitrate stays as long as the link's whole
//! capacity suffices for the push. If viewers do not yield in time, the bitrate drops, and recovers as soon as they have.
//!
//! A link that delivers nothing at all is disconnected, not slow: a decrease shortly before the disconnect is undone.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::delivery_rate::QUEUED;
use super::link::{Estimate, LinkState};
use super::units::{Bytes, Rate};

/// The controller of one encoder. See the module documentation.
#[derive(Debug)]
pub(super) struct RateController {
    ceiling: Rate,
    floor: Rate,
    target: Rate,
    /// Of the push, what the encoder does not make: bytes since the last update, and those of the last updates.
    other: Bytes,
    others: VecDeque<(Instant, Bytes)>,
    is_connected: bool,
    updated: Instant,
    /// Consecutive updates with overuse.
    overuse: u32,
    drain: Option<Drain>,
    last_overuse: Instant,
    /// Since when there has been a queue.
    queued: Option<Instant>,
    /// When LAN viewers last failed to yield.
    sharing_distrusted_at: Option<Instant>,
    /// Time of the last decrease, and the target before it.
    last_decrease: Option<(Instant, Rate)>,
    /// When there was last a queue that is not ours.
    foreign: Option<Instant>,
    /// For how long the target has been rising.
    rising: Duration,
}

/// State while the queue drains.
#[derive(Clone, Copy, Debug)]
struct Drain {
    /// Estimated capacity of the uplink for the push.
    capacity: Rate,
    /// When that was last judged, and the delay then, in seconds.
    since: Instant,
    delay: f64,
    /// The delay at the last update, and the longest since it was judged, in seconds.
    last: f64,
    most: f64,
    /// The most that was delivered meanwhile.
    delivered: Rate,
    /// The RTT without a queue at first.
    min_rtt: Duration,
    /// Whether nothing was delivered for a while: the link was interrupted, which does not make it slow.
    stalled: bool,
    /// Whether everything sent was delivered when the delay was found: the queue did not grow, or it is none of ours.
    is_level: bool,
}

/// What an update found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    Nothing,
    /// The delay did not follow when less was sent: it is not that of our own queue.
    ForeignQueue,
}

impl RateController {
    /// `ceiling` is the configured bitrate of the encoder.
    pub(super) fn new(ceiling: Rate, now: Instant) -> Self {
        Self {
            ceiling,
            floor: (ceiling * FLOOR).max(MIN_RATE).min(ceiling),
            target: ceiling,
            other: Bytes::ZERO,
            others: VecDeque::new(),
            is_connected: false,
            updated: now,
            overuse: 0,
            drain: None,
            last_overuse: now,
            queued: None,
            sharing_distrusted_at: None,
            last_decrease: None,
            foreign: None,
            rising: Duration::ZERO,
        }
    }

    /// The encoder's target.
    pub(super) fn target(&self) -> Rate {
        self.target
    }

    /// Accounts what was pushed and is not the encoder's.
    pub(super) fn on_other_sent(&mut self, bytes: Bytes) {
        self.other += bytes;
    }

    /// Adapts the target to a new estimate of the link.
    pub(super) fn on_estimate(&mut self, estimate: &Estimate, now: Instant) -> Finding {
        let passed = now.saturating_duration_since(std::mem::replace(&mut self.updated, now));
        self.others.push_back((now, std::mem::take(&mut self.other)));
        while self.others.pop_front_if(|(at, _)| now.saturating_duration_since(*at) > WINDOW).is_some() {}
        let is_connected = estimate.state != LinkState::Down;
        if is_connected != std::mem::replace(&mut self.is_connected, is_connected) {
            self.on_disconnect(now);
        }
        if matches!(estimate.state, LinkState::Down | LinkState::Undecided) {
            return Finding::Nothing;
        }
        let delay = estimate.queue_delay.as_secs_f64();
        let threshold = if estimate.is_slow { SLOW_THRESHOLD } else { OVERUSE_THRESHOLD };
        let is_over = estimate.queue_delay > threshold;
        self.overuse = if is_over { self.overuse + 1 } else { 0 };
        if is_over {
            self.last_overuse = now;
        }
        self.queued = Some(self.queued.unwrap_or(now)).filter(|_| estimate.queue_delay > QUEUED * 2);
        let shared = self.shared(estimate, now);
        let finding = match self.drain {
            None if self.overuse >= OVERUSE_UPDATES => self.decrease(estimate, shared, now),
            None => {
                self.increase(passed, estimate, now);
                Finding::Nothing
            }
            Some(drain) => self.drain(drain, estimate, shared, now),
        };
        tracing::trace!(
            state = ?estimate.state,
            queue_delay_ms = (delay * 1e3) as u64,
            delivery_rate = estimate.delivery_rate.map(|rate| rate.as_bits_per_second() as u64),
            target_bitrate = self.target.as_bits_per_second() as u64,
            "rate control"
        );
        finding
    }

    /// The capacity of a link from which viewers yield to the push; zero if they do not, or there are none.
    fn shared(&mut self, estimate: &Estimate, now: Instant) -> Rate {
        let Some(shared) = estimate.capacity else { return Rate::ZERO };
        if self.overuse >= YIELD_UPDATES {
            self.sharing_distrusted_at = Some(now);
        }
        let is_trusted = self.sharing_distrusted_at.is_none_or(|at| now.saturating_duration_since(at) > MEMORY);
        if is_trusted && estimate.queue_delay < TOO_LONG { shared } else { Rate::ZERO }
    }

    /// What is pushed beside the encoder's bits.
    fn other_rate(&self) -> Rate {
        let Some((first, last)) = self.others.front().zip(self.others.back()) else { return Rate::ZERO };
        let time = last.0.saturating_duration_since(first.0);
        if time.is_zero() {
            return Rate::ZERO;
        }
        self.others.iter().skip(1).map(|(_, bytes)| *bytes).sum::<Bytes>() / time
    }

    /// Sets the target to a fraction of the capacity, minus what else is pushed.
    fn set_target(&mut self, capacity: Rate, part: f64) {
        self.target = (capacity * part - self.other_rate()).max(self.floor).min(self.ceiling);
    }

    fn decrease(&mut self, estimate: &Estimate, shared: Rate, now: Instant) -> Finding {
        let Some(delivered) = estimate.delivery_rate else { return Finding::Nothing };
        let capacity = delivered.max(shared);
        if capacity * BETA >= self.target + self.other_rate() {
            // A backlog, as after an outage, not overuse: it drains without a lower bitrate, or once viewers have yielded.
            return Finding::Nothing;
        }
        self.last_decrease = Some((now, self.target));
        let delay = estimate.queue_delay.as_secs_f64();
        let min_rtt = estimate.min_rtt.unwrap_or_default();
        let is_level = estimate.sent_rate.is_some_and(|sent| delivered >= sent * (1.0 - LEVEL));
        let is_level = is_level && !estimate.is_slow && Self::is_in_network(estimate, now);
        let drain = Drain {
            capacity,
            since: now,
            delay,
            last: delay,
            most: delay,
            delivered,
            min_rtt,
            stalled: false,
            is_level,
        };
        // Feedback lags: by now the delay is longer.
        self.set_target(capacity, self.drain_gain(&drain, delay + FEEDBACK_LAG.as_secs_f64(), now));
        self.drain = Some(drain);
        Finding::Nothing
    }

    fn drain(&mut self, mut drain: Drain, estimate: &Estimate, shared: Rate, now: Instant) -> Finding {
        let delay = estimate.queue_delay.as_secs_f64();
        let delivered = estimate.delivery_rate.unwrap_or(drain.capacity);
        drain.stalled |= estimate.state == LinkState::Stalled;
        if estimate.queue_delay < UNDERUSE_THRESHOLD {
            self.drain = None;
            self.last_overuse = now;
            // The link was interrupted, the queue is behind the server, or the route is longer.
            let elsewhere = estimate.return_delay + estimate.min_rtt.unwrap_or_default().saturating_sub(drain.min_rtt);
            if drain.stalled || elsewhere > OVERUSE_THRESHOLD / 2 {
                self.restore();
                return Finding::Nothing;
            }
            // While there was a queue, the delivery rate was the capacity.
            let capacity = drain.delivered.max(drain.capacity).min(drain.capacity * MAX_CORRECTION).max(shared);
            self.set_target(capacity, BETA);
            return Finding::Nothing;
        }
        (drain.most, drain.delivered) = (drain.most.max(delay), drain.delivered.max(delivered));
        let passed = now.saturating_duration_since(drain.since);
        if passed > FEEDBACK_DELAY + Duration::from_secs_f64(drain.delay) {
            let hoped = drain.delay - (1.0 - self.drain_gain(&drain, drain.delay, now)) * passed.as_secs_f64() / 2.0;
            // What is made is delivered, and the queue stays.
            let made = self.target + self.other_rate();
            let is_passed = delivered > made * (1.0 - LEVEL) && delivered < made * (1.0 + LEVEL);
            let stays = delay > hoped
                && delay > drain.most * SHRUNK
                && delay < drain.delay * (1.0 + LEVEL) + QUEUED.as_secs_f64();
            if stays
                && is_passed
                && !estimate.is_slow
                && Self::is_in_network(estimate, now)
                && estimate.state == LinkState::Saturated
            {
                self.drain = None;
                self.foreign = Some(now);
                self.restore();
                return Finding::ForeignQueue;
            }
            // Less than half of the expected drain has happened: the capacity is lower than estimated.
            if delay > hoped {
                drain.is_level = false;
                drain.capacity = delivered.max(drain.capacity * 0.5).min(drain.capacity * BETA);
            }
            (drain.since, drain.delay, drain.most) = (now, delay, delay);
        }
        // While the delay is not decreasing, assume the measurement lags.
        let lag = if delay > drain.last * DECREASING { FEEDBACK_LAG.as_secs_f64() } else { 0.0 };
        drain.last = delay;
        drain.is_level &= !estimate.is_slow;
        self.drain = Some(drain);
        self.set_target(drain.capacity.max(shared), self.drain_gain(&drain, delay + lag, now));
        Finding::Nothing
    }

    /// Whether most of the delay is in the network: what waits in this program is ours.
    fn is_in_network(estimate: &Estimate, now: Instant) -> bool {
        estimate.busy_until.saturating_duration_since(now) > estimate.queue_delay.mul_f64(MOSTLY)
    }

    /// The fraction of the capacity at which a queue of `delay` seconds drains within [`DRAIN_TIME`]; one that is level is drained gently, since
    /// it may be none of ours.
    fn drain_gain(&self, drain: &Drain, delay: f64, now: Instant) -> f64 {
        if drain.is_level {
            return LEVEL_GAIN;
        }
        // Others would take what is left to drain their queue.
        let competes = self.foreign.is_some_and(|at| now.saturating_duration_since(at) < MEMORY);
        let least = if competes { MAX_DRAIN_GAIN } else { MIN_DRAIN_GAIN };
        (1.0 - delay / DRAIN_TIME.as_secs_f64()).clamp(least, MAX_DRAIN_GAIN)
    }

    /// Undoes the last decrease.
    fn restore(&mut self) {
        if let Some((_, before)) = self.last_decrease.take() {
            self.target = self.target.max(before);
        }
    }

    /// After a disconnect, or with a new connection: undoes a decrease shortly before it.
    fn on_disconnect(&mut self, now: Instant) {
        (self.overuse, self.drain, self.queued, self.sharing_distrusted_at) = (0, None, None, None);
        self.others.clear();
        if self.last_decrease.is_some_and(|(at, _)| now.saturating_duration_since(at) < BLACKHOLE_WINDOW) {
            tracing::debug!("rate control: restored the bitrate after a disconnect");
            self.restore();
        }
    }

    fn increase(&mut self, passed: Duration, estimate: &Estimate, now: Instant) {
        if let Some(since) = self.queued {
            // The queue of an IDR has drained by then: this one stays because all is used.
            if now.saturating_duration_since(since) > STANDING
                && self.rising > Duration::ZERO
                && let Some(delivered) = estimate.delivery_rate
            {
                self.set_target(delivered, BETA);
                (self.queued, self.last_overuse) = (None, now);
            }
        } else if self.target >= self.ceiling || now.saturating_duration_since(self.last_overuse) <= HOLD {
            self.rising = Duration::ZERO;
        } else {
            // The longer there is no queue, the farther the limit has moved.
            self.rising += passed;
            let speed = INCREASE + ACCELERATION * self.rising.as_secs_f64();
            self.target = (self.target * (speed * passed.as_secs_f64()).exp()).min(self.ceiling);
        }
    }
}

/// Lower bound, as a fraction of the maximum: with less, frames of that size are unwatchable.
const FLOOR: f64 = 0.15;
/// Lower bound, or the maximum if that is less.
const MIN_RATE: Rate = Rate::bits_per_second(100_000.0);
/// What else is pushed is measured over this window.
const WINDOW: Duration = Duration::from_millis(600);
/// Overuse threshold: an IDR alone causes this delay on a link not much faster than the stream.
const OVERUSE_THRESHOLD: Duration = Duration::from_millis(150);
/// The same on a link that delivers less than is sent: the delay grows, whatever it is now.
const SLOW_THRESHOLD: Duration = Duration::from_millis(80);
/// Consecutive updates with overuse before the target is lowered.
const OVERUSE_UPDATES: u32 = 2;
/// With more delay viewers are not given time to yield: the bottleneck may be another link.
const TOO_LONG: Duration = Duration::from_millis(300);
/// Consecutive updates with overuse within which viewers yield, if they do.
const YIELD_UPDATES: u32 = 20;
/// Underuse threshold: below, the queue has drained.
const UNDERUSE_THRESHOLD: Duration = Duration::from_millis(60);
/// Multiplicative decrease, relative to the delivery rate.
const BETA: f64 = 0.9;
/// Maximum correction upwards of the estimated capacity, at once.
const MAX_CORRECTION: f64 = 1.3;
/// Minimum and maximum of the target while draining, relative to the capacity.
const MIN_DRAIN_GAIN: f64 = 0.3;
const MAX_DRAIN_GAIN: f64 = 0.7;
/// The same for a queue that does not grow.
const LEVEL_GAIN: f64 = 0.85;
/// A queue is to drain within this time.
const DRAIN_TIME: Duration = Duration::from_millis(1500);
/// How much the measured delay lags behind the real one on first detection.
const FEEDBACK_LAG: Duration = Duration::from_millis(500);
/// Relative to the last delay: more does not count as decreasing, since two probes may report the same.
const DECREASING: f64 = 0.95;
/// Time until a change of the bitrate shows in the delay, in addition to the delay itself.
const FEEDBACK_DELAY: Duration = Duration::from_millis(600);
/// What is delivered is what is made if it differs by less than this part; a queue that grows by less stays.
const LEVEL: f64 = 0.1;
/// A queue that has shrunk to this part of its longest delay is ours: it followed.
const SHRUNK: f64 = 0.75;
/// The part of the delay that is in the network if the queue may be none of ours.
const MOSTLY: f64 = 0.7;
/// Relative increase per second at first, when it probes the capacity.
const INCREASE: f64 = 0.1;
/// How much faster the increase is with each second, per second.
const ACCELERATION: f64 = 0.25;
/// Hold time after overuse: long enough for the delay to be measured without the queue.
const HOLD: Duration = Duration::from_millis(1500);
/// A queue that lasts for longer while the capacity is probed is no IDR's.
const STANDING: Duration = Duration::from_millis(1200);
/// A decrease this shortly before a disconnect was caused by it.
const BLACKHOLE_WINDOW: Duration = Duration::from_secs(20);
/// Memory of viewers that did not yield, and of a queue that was not ours.
const MEMORY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    /// In milliseconds.
    type Millis = u64;

    const CEILING: f64 = 1_000_000.0;
    /// What is pushed beside the encoder's bits, in bits per second.
    const OTHER: f64 = 128_000.0;

    /// Every 100 ms: the target in bits per second, and how long what is pushed then waits.
    struct Run(Vec<(f64, Millis)>);

    impl Run {
        fn targets(&self, from: Millis, to: Millis) -> impl Iterator<Item = f64> {
            self.0[(from / 100) as usize..(to / 100) as usize].iter().map(|seen| seen.0)
        }

        fn mean(&self, from: Millis, to: Millis) -> f64 {
            self.targets(from, to).sum::<f64>() / self.targets(from, to).count() as f64
        }
    }

    fn estimate(delay: Duration, delivered: f64, sent: f64, capacity: Option<f64>, now: Instant) -> Estimate {
        Estimate {
            state: if delay < QUEUED { LinkState::ApplicationLimited } else { LinkState::Saturated },
            capacity: capacity.map(Rate::bits_per_second),
            delivery_rate: Some(Rate::bits_per_second(delivered)),
            sent_rate: Some(Rate::bits_per_second(sent)),
            min_rtt: Some(Duration::from_millis(20)),
            queue_delay: delay,
            is_slow: false,
            return_delay: Duration::ZERO,
            busy_until: now + delay,
        }
    }

    /// An encoder whose push gets `rate` of a link with an unlimited queue, with LAN viewers that leave it the reported capacity.
    fn run_beside(until: Millis, rate: impl Fn(Millis) -> f64, shared: Option<f64>) -> Run {
        let start = Instant::now();
        let mut control = RateController::new(Rate::bits_per_second(CEILING), start);
        // The bits that wait, and those that were sent and delivered, for the last 600 ms.
        let (mut waiting, mut window, mut seen) = (0.0f64, VecDeque::new(), Vec::new());
        for t in 0..until {
            let now = start + Duration::from_millis(t);
            let sent = (control.target().as_bits_per_second() + OTHER) / 1000.0;
            let delivered = (rate(t) / 1000.0).min(waiting + sent);
            waiting += sent - delivered;
            window.push_back((sent, delivered));
            if window.len() > 600 {
                window.pop_front();
            }
            if t % 100 == 0 {
                control.on_other_sent(Bytes::new(OTHER / 80.0));
                let per_second = 1000.0 / window.len() as f64;
                let sent = window.iter().map(|bits| bits.0).sum::<f64>() * per_second;
                let delivered = window.iter().map(|bits| bits.1).sum::<f64>() * per_second;
                let delay = Duration::from_secs_f64(waiting / rate(t));
                control.on_estimate(&estimate(delay, delivered, sent, shared, now), now);
                seen.push((control.target().as_bits_per_second(), delay.as_millis() as Millis));
            }
        }
        Run(seen)
    }

    #[test]
    fn viewers_yield_before_the_target_is_lowered() {
        let comes = |t| if (5000..6200).contains(&t) { 900_000.0 } else { 2_000_000.0 };
        let alone = run_beside(20_000, comes, None);
        assert!(alone.targets(5000, 7000).any(|target| target < CEILING));
        let beside = run_beside(20_000, comes, Some(2_000_000.0));
        assert!(beside.targets(0, 20_000).all(|target| target == CEILING));
        // On a link too slow for the push alone, the target is lowered at once.
        let narrow = run_beside(20_000, comes, Some(900_000.0));
        assert!(narrow.targets(5000, 7000).any(|target| target < CEILING));
    }

    #[test]
    fn the_target_recovers_at_once_when_viewers_yield_late() {
        let late = |t| if (5000..6500).contains(&t) { 500_000.0 } else { 2_000_000.0 };
        let alone = run_beside(20_000, late, None);
        assert!(alone.targets(7500, 10_000).all(|target| target < CEILING * 0.9));
        let beside = run_beside(20_000, late, Some(2_000_000.0));
        assert!(beside.targets(5000, 6500).any(|target| target < CEILING / 2.0));
        assert!(beside.targets(7500, 20_000).all(|target| target == CEILING), "{:?}", beside.0);
    }

    #[test]
    fn viewers_that_do_not_yield_delay_the_decrease_by_two_seconds() {
        let stay = |t| if t < 5000 { 2_000_000.0 } else { 1_050_000.0 };
        let run = run_beside(30_000, stay, Some(2_000_000.0));
        assert!(run.targets(0, 7000).all(|target| target == CEILING));
        assert!(run.mean(10_000, 30_000) < 922_000.0, "{}", run.mean(10_000, 30_000));
        assert!(run.0[120..].iter().all(|(_, wait)| *wait < 400), "{:?}", run.0);
    }

    #[test]
    fn a_disconnect_does_not_lower_the_target() {
        let start = Instant::now();
        let at = |t| start + Duration::from_millis(t);
        let mut control = RateController::new(Rate::bits_per_second(CEILING), start);
        // Nothing is delivered from 2 s on.
        for t in (0..7000u64).step_by(100) {
            let delay = Duration::from_millis(t.saturating_sub(2000));
            control.on_estimate(&estimate(delay, if t < 2000 { CEILING } else { 0.0 }, CEILING, None, at(t)), at(t));
        }
        assert_eq!(control.target(), Rate::bits_per_second(CEILING * FLOOR));
        let down = |now| Estimate { state: LinkState::Down, ..estimate(Duration::ZERO, 0.0, 0.0, None, now) };
        control.on_estimate(&down(at(7000)), at(7000));
        assert_eq!(control.target(), Rate::bits_per_second(CEILING));
        // A link that was slow for long is still slow after a reconnect.
        let slow = Rate::bits_per_second(400_000.0);
        control.on_estimate(&estimate(Duration::ZERO, 0.0, 0.0, None, at(7100)), at(7100));
        (control.last_decrease, control.target) = (Some((at(7100), Rate::bits_per_second(CEILING))), slow);
        control.on_estimate(&down(at(37_100)), at(37_100));
        assert_eq!(control.target(), slow);
    }
}
