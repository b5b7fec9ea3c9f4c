//! Delay-based congestion control for live media over QUIC (RFC 9002 §7): pure.
//!
//! A live stream usually has a constant rate below the capacity of its link. Random losses, as on radio links, are not a sign of
//! congestion; a window that shrinks with each of them soon becomes too small for the stream. The sign of congestion is queueing delay.
//! So, once per round trip:
//!
//! - If the queueing delay of every packet exceeds [`TARGET_QUEUE_DELAY`] above the minimum RTT for two rounds, the window is set to the
//!   delivery rate × (minimum RTT + target/2), so that the queue drains. The threshold is higher on a path with jitter.
//! - A delay that is not our queue, but that of other traffic or of another route, becomes part of the minimum RTT, and the window is kept. It
//!   shows in three ways: while the window does not limit the sender, it does not grow; when the window is reduced a little, it does not
//!   fall; or it persists after several reductions.
//! - A loss rate above [`LOSS_THRESHOLD`] reduces the window by 30%, but not below delivery rate × (minimum RTT + target/2).
//! - Otherwise, if the window limited the sender, it grows: doubling at first, slowly after a reduction, and faster from round to round. It
//!   never shrinks because the application sends little.
//!
//! BBR and LEDBAT are related algorithms. Unlike BBR, this one does not pause to probe the minimum RTT: a stream near the live edge measures
//! the path without a queue all the time. Only if a stream has saturated its link until the minimum RTT expires, the window is reduced
//! briefly so that the queue drains. quinn's own BBR tolerates losses too, but nearly stops sending if the link stays below the stream's rate.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

use crate::min_rtt::WindowedMinRtt;

/// The controller of one connection; see the module documentation.
#[derive(Clone, Debug)]
pub(super) struct LowDelay {
    /// Congestion window in bytes.
    window: u64,
    mtu: u64,
    /// Growth of the window per round, as a fraction of it: [`MIN_GROWTH`] to 1.
    growth: f64,
    min_rtt_filter: MinRttFilter,
    /// The minimum RTT of the path, of which no delay of other traffic becomes a part.
    path_min_rtt: WindowedMinRtt,
    round: Round,
    loss: LossMeter,
    /// Smoothed difference of the longest and the shortest RTT of a round, in seconds: our own queue changes slowly, jitter changes from packet
    /// to packet.
    jitter: f64,
    /// Consecutive rounds with too much queueing delay, and the shortest RTT of the first of them.
    queued_rounds: u32,
    queued_rtt: Duration,
    /// The shortest RTT before the window was reduced a little, to see whether the delay follows.
    probed_rtt: Option<Duration>,
    /// Reductions of the window since the last round without a queue, and the window before the first of them.
    reductions: u32,
    before: u64,
    /// When the window was reduced, until packets sent after that are acknowledged.
    reduced_at: Option<Instant>,
    reduction_acked: bool,
    /// The minimum RTT is about to expire.
    min_rtt_expired: bool,
    /// The window before it was reduced to measure the minimum RTT.
    window_before_drain: Option<u64>,
    /// No bytes are in flight.
    is_idle: bool,
}

/// Measurements of one round: until a packet sent in it is acknowledged, and at least [`MIN_ROUND_PACKETS`] are, or for [`MAX_ROUND`].
#[derive(Clone, Debug)]
struct Round {
    began: Instant,
    /// Whether a packet sent in this round is acknowledged.
    has_returned: bool,
    packets: u32,
    acknowledged: u64,
    /// The shortest and the longest RTT.
    least: Option<Duration>,
    most: Duration,
    /// Whether the window limited the sender.
    is_limited: bool,
}

/// Windowed minimum of the RTT, over the last [`MIN_RTT_WINDOW`] to twice that.
#[derive(Clone, Debug)]
struct MinRttFilter {
    before: Option<Duration>,
    now: Option<Duration>,
    since: Instant,
}

/// Delivered and lost bytes since the loss rate was last judged.
#[derive(Clone, Debug)]
struct LossMeter {
    delivered: u64,
    lost: u64,
    since: Instant,
}

impl LowDelay {
    pub(super) fn new(now: Instant, mtu: u16) -> Self {
        Self {
            window: INITIAL_WINDOW,
            mtu: mtu.into(),
            growth: 1.0,
            min_rtt_filter: MinRttFilter { before: None, now: None, since: now },
            path_min_rtt: WindowedMinRtt::default(),
            round: Round::new(now),
            loss: LossMeter { delivered: 0, lost: 0, since: now },
            jitter: 0.0,
            queued_rounds: 0,
            queued_rtt: Duration::ZERO,
            probed_rtt: None,
            reductions: 0,
            before: INITIAL_WINDOW,
            reduced_at: None,
            reduction_acked: false,
            min_rtt_expired: false,
            window_before_drain: None,
            is_idle: true,
        }
    }

    fn sent(&mut self, now: Instant) {
        if std::mem::take(&mut self.is_idle) {
            // A round must not span a pause of the sender; what it measured before counts.
            let before = std::mem::replace(&mut self.round, Round::new(now));
            if let Some(least) = before.least {
                self.path_min_rtt.update(least, now);
                self.min_rtt_expired |= self.min_rtt_filter.update(least, now).1;
            }
        }
    }

    fn acknowledged(&mut self, now: Instant, sent: Instant, bytes: u64, is_limited: bool) {
        let round = &mut self.round;
        let round_trip = now.saturating_duration_since(sent);
        round.least = Some(round.least.map_or(round_trip, |least| least.min(round_trip)));
        round.most = round.most.max(round_trip);
        round.acknowledged += bytes;
        round.is_limited |= is_limited;
        round.packets += 1;
        round.has_returned |= sent >= round.began;
        self.reduction_acked |= self.reduced_at.is_some_and(|change| sent >= change);
        self.loss.delivered += bytes;
    }

    fn acknowledged_all(&mut self, now: Instant, in_flight: u64) {
        self.is_idle = in_flight == 0;
        if self.round.is_over(now) {
            let round = std::mem::replace(&mut self.round, Round::new(now));
            self.end(&round, now);
            if std::mem::take(&mut self.reduction_acked) {
                self.reduced_at = None;
                self.window = self.window_before_drain.take().unwrap_or_default().max(self.window);
            }
        }
    }

    /// `is_dead`: persistent congestion (RFC 9002 §7.6). `bytes` is 0 for an ECN mark.
    fn lost(&mut self, now: Instant, bytes: u64, is_dead: bool) {
        self.loss.lost += bytes;
        if is_dead {
            self.window = self.window.min(RESTART_WINDOW_PACKETS * self.mtu);
            self.min_rtt_filter = MinRttFilter { before: None, now: None, since: now };
            (self.growth, self.reductions, self.queued_rounds) = (1.0, 0, 0);
            (self.probed_rtt, self.window_before_drain) = (None, None);
        } else if bytes == 0 && self.reduced_at.is_none() {
            // An ECN mark (RFC 3168): a queue, although no packet was lost.
            self.shrink_to(self.window as f64 * ECN_BETA);
            self.reduced_at = Some(now);
        }
    }

    fn end(&mut self, round: &Round, now: Instant) {
        let Some(least) = round.least else { return };
        let took = now.saturating_duration_since(round.began).max(Duration::from_millis(1));
        let rate = round.acknowledged as f64 / took.as_secs_f64();
        self.path_min_rtt.update(least, now);
        let (min_rtt, forgets) = self.min_rtt_filter.update(least, now);
        let min_rtt_expired = self.min_rtt_expired || forgets;
        self.min_rtt_expired = min_rtt_expired;
        self.jitter += ((round.most - least).as_secs_f64() - self.jitter) / 8.0;
        let is_lossy = self.loss.is_heavy_loss(self.mtu, now);
        if self.reduced_at.is_some() {
            return;
        }
        self.min_rtt_expired = false;
        if min_rtt_expired && round.is_limited && least > min_rtt + TARGET_QUEUE_DELAY / 4 {
            self.window_before_drain = Some(self.window);
            self.shrink_to(rate * min_rtt.as_secs_f64());
            self.reduced_at = Some(now);
            return;
        }
        // The minimum window itself makes a queue on a slow link.
        let uneven = (self.jitter / 2.0).min(TARGET_QUEUE_DELAY.as_secs_f64());
        let tolerated = (TARGET_QUEUE_DELAY.as_secs_f64() + uneven)
            .max(1.5 * (MIN_WINDOW_PACKETS * self.mtu) as f64 / rate.max(1.0));
        let passes = rate * (min_rtt + TARGET_QUEUE_DELAY / 2).as_secs_f64();
        if (least - min_rtt).as_secs_f64() > tolerated {
            if self.queued_rounds == 0 {
                self.queued_rtt = least;
            }
            self.queued_rounds += 1;
            if self.queued_rounds >= QUEUE_ROUNDS || self.probed_rtt.is_some() {
                self.on_queue(round, passes, min_rtt, now);
            }
            return;
        }
        (self.queued_rounds, self.reductions, self.probed_rtt) = (0, 0, None);
        if is_lossy {
            self.shrink_to(passes.max(self.window as f64 * LOSS_BETA));
        } else if round.is_limited {
            // A queue is building up: the link is nearly full.
            if least - min_rtt > TARGET_QUEUE_DELAY / 2 {
                self.growth = MIN_GROWTH;
            }
            let most = (rate * least.as_secs_f64() * MAX_BDP_GAIN).max(INITIAL_WINDOW as f64);
            let grown = (self.window as f64 * (1.0 + self.growth)).min(most) as u64;
            self.window = grown.clamp(self.window, MAX_WINDOW.max(self.window));
            self.growth = (self.growth * GROWTH_ACCELERATION).min(1.0);
        }
    }

    /// The delay was too long for some rounds, of which `round` is the last.
    fn on_queue(&mut self, round: &Round, passes: f64, min_rtt: Duration, now: Instant) {
        let Some(least) = round.least else { return };
        if self.reductions == 0 && self.probed_rtt.is_none() {
            self.before = self.window;
        }
        self.queued_rounds = 0;
        let is_steady = least < self.queued_rtt + Duration::from_secs_f64(self.jitter / 2.0) + STEADY;
        let is_foreign = match self.probed_rtt.take() {
            // A queue of ours falls by as much as the window.
            Some(probed) => least + probed.saturating_sub(min_rtt).mul_f64(PROBE_EFFECT) > probed,
            // A queue of a sender that the window does not limit is one that grows.
            None => is_steady && !round.is_limited,
        };
        if is_foreign || self.reductions == MAX_REDUCTIONS {
            self.min_rtt_filter = MinRttFilter { before: None, now: Some(least), since: now };
            (self.window, self.reductions, self.growth) = (self.before, 0, 1.0);
            return;
        }
        let probe = self.window as f64 * PROBE_BETA;
        if is_steady && self.reductions == 0 && self.window == self.before && passes < probe {
            self.shrink_to(probe);
            self.probed_rtt = Some(least);
        } else {
            self.shrink_to(passes);
            self.reductions += 1;
        }
        self.reduced_at = Some(now);
    }

    fn shrink_to(&mut self, bytes: f64) {
        self.window = (bytes as u64).max(MIN_WINDOW_PACKETS * self.mtu).min(self.window);
        self.growth = MIN_GROWTH;
    }
}

impl Round {
    fn new(began: Instant) -> Self {
        Self {
            began,
            has_returned: false,
            packets: 0,
            acknowledged: 0,
            least: None,
            most: Duration::ZERO,
            is_limited: false,
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.has_returned && self.packets >= MIN_ROUND_PACKETS || now.saturating_duration_since(self.began) > MAX_ROUND
    }
}

impl MinRttFilter {
    /// The minimum including `round_trip`, and whether the older half of the window expires now.
    fn update(&mut self, round_trip: Duration, now: Instant) -> (Duration, bool) {
        let shorter = |known: Option<Duration>| known.map_or(round_trip, |known| known.min(round_trip));
        self.now = Some(shorter(self.now));
        let min_rtt = shorter(self.before).min(shorter(self.now));
        let min_rtt_expired = now.saturating_duration_since(self.since) > MIN_RTT_WINDOW;
        if min_rtt_expired {
            (self.before, self.now, self.since) = (self.now, None, now);
        }
        (min_rtt, min_rtt_expired)
    }
}

impl LossMeter {
    /// Whether the loss rate is above the threshold; restarts the measurement once it has enough packets.
    fn is_heavy_loss(&mut self, mtu: u64, now: Instant) -> bool {
        let all = self.delivered + self.lost;
        if all < LOSS_SAMPLE_PACKETS * mtu && now.saturating_duration_since(self.since) < LOSS_SAMPLE_TIME {
            return false;
        }
        let is_heavy = all >= LOSS_SAMPLE_PACKETS * mtu && self.lost as f64 > all as f64 * LOSS_THRESHOLD;
        *self = Self { delivered: 0, lost: 0, since: now };
        is_heavy
    }
}

impl Controller for LowDelay {
    fn on_sent(&mut self, now: Instant, _bytes: u64, _last_packet_number: u64) {
        self.sent(now);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, _rtt: &RttEstimator) {
        self.acknowledged(now, sent, bytes, !app_limited);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, _app_limited: bool, _largest: Option<u64>) {
        self.acknowledged_all(now, in_flight);
    }

    fn on_congestion_event(&mut self, now: Instant, _sent: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        self.lost(now, lost_bytes, is_persistent_congestion);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu.into();
        self.window = self.window.max(MIN_WINDOW_PACKETS * self.mtu);
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        INITIAL_WINDOW
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// The queueing delay of a connection that [`LowDelay`] controls: its smoothed RTT above the windowed minimum. It includes the queues of other
/// traffic, since on an uplink that viewers share they are each other's. quinn's own minimum has no window, so that it would take a longer route for
/// a queue for ever; it serves until the first round has ended.
pub(super) fn queue_delay(connection: &quinn::Connection, path: &quinn::PathStats) -> Duration {
    let controller = connection.congestion_state().into_any().downcast::<LowDelay>().ok();
    path.rtt.saturating_sub(controller.and_then(|controller| controller.path_min_rtt.value()).unwrap_or(path.min_rtt))
}

/// Creates a [`LowDelay`] for each connection.
#[derive(Debug)]
pub(super) struct Factory;

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(LowDelay::new(now, current_mtu))
    }
}

/// The initial window in bytes: a join sends a GOP at once, half a second of a usual stream in the first round trip.
const INITIAL_WINDOW: u64 = 64 << 10;
/// The minimum window in packets: enough to measure an RTT and to detect a loss by the packets after it.
const MIN_WINDOW_PACKETS: u64 = 4;
/// The window in packets after persistent congestion: RFC 9002's initial window (§7.2), not its minimum (§7.6.2).
const RESTART_WINDOW_PACKETS: u64 = 10;
/// Bounds the bytes in flight of one connection: a tenth of a second at 160 Mbit/s.
const MAX_WINDOW: u64 = 2 << 20;
/// Queueing delay below which there is no congestion: covers an IDR on a slow link and a pause of a radio link. It exceeds the limit for
/// viewers on a shared uplink (`peer::share`), which has to act first.
const TARGET_QUEUE_DELAY: Duration = Duration::from_millis(100);
/// Bounds a round: on a link that has become slow, an RTT is the time to drain its whole queue.
const MAX_ROUND: Duration = Duration::from_millis(250);
/// The fewest packets of a round: on a path with jitter, one RTT says little.
const MIN_ROUND_PACKETS: u32 = 4;
/// Consecutive rounds of queueing delay before a reduction: one alone may be a burst.
const QUEUE_ROUNDS: u32 = 2;
/// The factor of the window that shows whose queue it is, and the share of the delay that must go with it if it is ours.
const PROBE_BETA: f64 = 0.7;
const PROBE_EFFECT: f64 = 0.15;
/// A delay that grows by less than this in a round is steady.
const STEADY: Duration = Duration::from_millis(10);
/// Reductions after which our own queue has drained; a queue that remains belongs to other traffic.
const MAX_REDUCTIONS: u32 = 3;
/// The loss rate that is tolerated: halving the rate would not halve random losses.
const LOSS_THRESHOLD: f64 = 0.2;
/// The fewest packets to judge the loss rate by: at 10% of random loss, one judgement in fifty is wrong.
const LOSS_SAMPLE_PACKETS: u64 = 48;
/// The longest time to collect [`LOSS_SAMPLE_PACKETS`].
const LOSS_SAMPLE_TIME: Duration = Duration::from_secs(2);
/// The factor of the window after heavy loss.
const LOSS_BETA: f64 = 0.7;
/// The factor of the window after an ECN mark (RFC 8511).
const ECN_BETA: f64 = 0.85;
/// The growth in the round after a reduction.
const MIN_GROWTH: f64 = 1.0 / 16.0;
/// The factor of the growth from one round to the next.
const GROWTH_ACCELERATION: f64 = 1.5;
/// Bounds the growth, in bandwidth-delay products: a larger window is of no use.
const MAX_BDP_GAIN: f64 = 4.0;
/// Bounds the age of the minimum RTT, because routes change.
const MIN_RTT_WINDOW: Duration = Duration::from_secs(10);

#[cfg(test)]
#[path = "congestion_tests.rs"]
mod tests;
