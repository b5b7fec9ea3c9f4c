//! Congestion control for live media over QUIC (RFC 9002 §7): pure.
//!
//! A stream of pictures takes less than its link has, nearly always, and what it needs then is to be left alone: packets lost by chance,
//! as radio loses them, say nothing of a full link, and a window that each of them shrinks soon bears the stream no more. What does say that
//! a link is full is a queue before it. So, once a round trip:
//!
//! - Where all packets have waited for longer than [`TARGET_QUEUE_DELAY`] beyond the shortest way of the last seconds, twice in a row, the window becomes
//!   what went through in the time of that way and half of such a wait, so that the queue drains. On an uneven path it may be a longer one.
//! - A queue that stays, however little is sent, is another's: then its wait counts as part of the way, and the window is what it was.
//! - LossMeter of more than [`LOSS_THRESHOLD`] take a third of the window, but none of what gets through.
//! - Where neither is so and the sender had to wait for the window, it grows: doubling at first, little where there is a queue, and faster
//!   from round to round. It never shrinks because the sender has little to send.
//!
//! Of the same family as BBR and LEDBAT, but with nothing to be probed for by pauses: a stream that is near to live shows what the way is like
//! without a queue all the while. Only one that fills its link for long lets the queue drain for a moment, when what it knows of the way
//! gets old. quinn's own BBR bears loss as well, but sends nearly nothing any more where the link takes less than the stream for long.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

/// See the module's text.
#[derive(Clone, Debug)]
pub(super) struct LowDelay {
    /// Bytes that may be under way.
    window: u64,
    mtu: u64,
    /// By how much of itself the window grows in a round.
    growth: f64,
    min_rtt_filter: MinRttFilter,
    round: Round,
    loss: LossMeter,
    /// By how many seconds round trips of one round differ, in the mean: a queue of ours changes slowly, an uneven path from packet to packet.
    jitter: f64,
    /// Rounds in a row with too long a queue.
    queued_rounds: u32,
    /// How often the window was reduced since there was no queue, and what it was before.
    reductions: u32,
    before: u64,
    /// What was sent from then on shows what a change has done.
    reduced_at: Option<Instant>,
    reduction_acked: bool,
    /// What is known of the way without a queue is being forgotten.
    min_rtt_expired: bool,
    /// What the window was before it was reduced to see the way without a queue.
    window_before_drain: Option<u64>,
    /// Nothing is under way.
    is_idle: bool,
}

/// From a moment until a packet that was sent after it is acknowledged, and [`MIN_ROUND_PACKETS`] are, or for [`MAX_ROUND`].
#[derive(Clone, Debug)]
struct Round {
    began: Instant,
    /// Whether a packet that was sent since is acknowledged.
    has_returned: bool,
    packets: u32,
    acknowledged: u64,
    /// The shortest round trip, and the longest.
    least: Option<Duration>,
    most: Duration,
    /// Whether the sender had to wait for the window.
    is_limited: bool,
}

/// The shortest round trip of the last [`MIN_RTT_WINDOW`], or up to twice that.
#[derive(Clone, Debug)]
struct MinRttFilter {
    before: Option<Duration>,
    now: Option<Duration>,
    since: Instant,
}

/// Bytes, since loss were last looked at.
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
            round: Round::new(now),
            loss: LossMeter { delivered: 0, lost: 0, since: now },
            jitter: 0.0,
            queued_rounds: 0,
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
            // Pauses of the sender are no measure; what was seen of the way before them is.
            let before = std::mem::replace(&mut self.round, Round::new(now));
            if let Some(least) = before.least {
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

    /// `is_dead`: nothing at all came through for some round trips.
    fn lost(&mut self, now: Instant, bytes: u64, is_dead: bool) {
        self.loss.lost += bytes;
        if is_dead {
            self.window = self.window.min(RESTART_WINDOW_PACKETS * self.mtu);
            self.min_rtt_filter = MinRttFilter { before: None, now: None, since: now };
            (self.growth, self.reductions, self.queued_rounds, self.window_before_drain) = (1.0, 0, 0, None);
        } else if bytes == 0 && self.reduced_at.is_none() {
            // A router's mark (RFC 3168): a queue, though no packet had to be lost for it.
            self.shrink_to(self.window as f64 * ECN_BETA);
            self.reduced_at = Some(now);
        }
    }

    fn end(&mut self, round: &Round, now: Instant) {
        let Some(least) = round.least else { return };
        let took = now.saturating_duration_since(round.began).max(Duration::from_millis(1));
        let rate = round.acknowledged as f64 / took.as_secs_f64();
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
        // Fewer packets than the least window must not be asked for.
        let uneven = (self.jitter / 2.0).min(TARGET_QUEUE_DELAY.as_secs_f64());
        let tolerated = (TARGET_QUEUE_DELAY.as_secs_f64() + uneven)
            .max(1.5 * (MIN_WINDOW_PACKETS * self.mtu) as f64 / rate.max(1.0));
        let passes = rate * (min_rtt + TARGET_QUEUE_DELAY / 2).as_secs_f64();
        if (least - min_rtt).as_secs_f64() > tolerated {
            self.queued_rounds += 1;
            if self.queued_rounds >= QUEUE_ROUNDS {
                self.on_queue(passes, least, now);
            }
            return;
        }
        (self.queued_rounds, self.reductions) = (0, 0);
        if is_lossy {
            self.shrink_to(passes.max(self.window as f64 * LOSS_BETA));
        } else if round.is_limited {
            // A queue that begins says what the link takes.
            if least - min_rtt > TARGET_QUEUE_DELAY / 2 {
                self.growth = MIN_GROWTH;
            }
            let most = (rate * least.as_secs_f64() * MAX_BDP_GAIN).max(INITIAL_WINDOW as f64);
            let grown = (self.window as f64 * (1.0 + self.growth)).min(most) as u64;
            self.window = grown.clamp(self.window, MAX_WINDOW.max(self.window));
            self.growth = (self.growth * GROWTH_ACCELERATION).min(1.0);
        }
    }

    fn on_queue(&mut self, passes: f64, least: Duration, now: Instant) {
        if self.reductions == 0 {
            self.before = self.window;
        }
        self.reductions += 1;
        self.queued_rounds = 0;
        if self.reductions > MAX_REDUCTIONS {
            self.min_rtt_filter = MinRttFilter { before: None, now: Some(least), since: now };
            (self.window, self.reductions) = (self.before, 0);
        } else {
            self.shrink_to(passes);
            self.reduced_at = Some(now);
        }
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
    /// The shortest, this one included, and whether the older half is being forgotten.
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
    /// Begins anew once there are enough packets to tell.
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

/// Makes one [`LowDelay`] for each connection.
#[derive(Debug)]
pub(super) struct Factory;

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(LowDelay::new(now, current_mtu))
    }
}

/// A join is a GOP at once: half a second of a usual stream in the first round trip. Bytes.
const INITIAL_WINDOW: u64 = 64 << 10;
/// Packets that may always be under way, so that a round trip can be measured and a loss be told from the packets after it.
const MIN_WINDOW_PACKETS: u64 = 4;
/// Packets, after nothing came through (RFC 9002 §7.2).
const RESTART_WINDOW_PACKETS: u64 = 10;
/// Bounds what one connection may have under way: a tenth of a second at 160 Mbit/s.
const MAX_WINDOW: u64 = 2 << 20;
/// The longest wait before a link that is no sign of a full one: an IDR on a slow link, a radio's pause, and more than what viewers of a shared
/// uplink are held to (`peer::share`), which is to be settled there first.
const TARGET_QUEUE_DELAY: Duration = Duration::from_millis(100);
/// Before a link that has become slow, a round trip is the time that its whole queue takes.
const MAX_ROUND: Duration = Duration::from_millis(250);
/// Packets by which a round trip is told: on an uneven path one says little.
const MIN_ROUND_PACKETS: u32 = 4;
/// Rounds in a row: one alone may be a moment's burst.
const QUEUE_ROUNDS: u32 = 2;
/// Reductions that a queue of ours does not outlive.
const MAX_REDUCTIONS: u32 = 3;
/// Of the packets. Less is borne: to halve the rate would not halve loss that are chance.
const LOSS_THRESHOLD: f64 = 0.2;
/// Packets of which loss are told: at a tenth of chance, one look in fifty is wrong.
const LOSS_SAMPLE_PACKETS: u64 = 48;
/// When fewer packets are not waited for any longer.
const LOSS_SAMPLE_TIME: Duration = Duration::from_secs(2);
/// Of the window, where loss are heavy.
const LOSS_BETA: f64 = 0.7;
/// Of the window, where a router marks (RFC 8511).
const ECN_BETA: f64 = 0.85;
/// Growth in a round after the window was reduced.
const MIN_GROWTH: f64 = 1.0 / 16.0;
/// From one round to the next.
const GROWTH_ACCELERATION: f64 = 1.5;
/// Windows of what went through in a round trip: beyond, none is of use.
const MAX_BDP_GAIN: f64 = 4.0;
/// How old the shortest round trip may be; a path changes.
const MIN_RTT_WINDOW: Duration = Duration::from_secs(10);

#[cfg(test)]
#[path = "congestion_tests.rs"]
mod tests;
