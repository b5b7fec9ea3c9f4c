//! The model of the uplink: its queueing delay, what it delivers and what it carries. Pure: the caller passes the time.
//!
//! Whoever sends reports the bytes and what comes back ([`LinkModel::on_sent`], [`LinkModel::on_push_feedback`],
//! [`LinkModel::on_viewer_feedback`]). Rate control, allocation, admission and pacing read the [`Estimate`], and estimate nothing
//! themselves.
//!
//! The push's own path tells the queueing delay ([`base_delay`](super::base_delay)). The return path is not the uplink: what the server's
//! arrival stamps show to wait there is not counted. A bottleneck that viewers share is detected by its queue: the RTT of the push grows,
//! and so does the RTT of the viewers whose packets are in the same queue. Only if both are observed is its capacity estimated
//! ([`capacity`](super::capacity)); the estimate is kept while viewers join and leave.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::capacity::{Capacity, LEAST, Measured, TARGET};
use super::delivery_rate::{DeliveryRateEstimator, QUEUED};
use super::push_flow::{PushFeedback, PushFlow, UPDATE};
use super::units::{Bytes, Rate};

/// The model of one uplink. See the module documentation.
#[derive(Debug)]
pub(super) struct LinkModel {
    push: PushFlow,
    viewers: BTreeMap<u64, ViewerFlow>,
    /// The capacity of a bottleneck that viewers share; `None` without one.
    capacity: Option<Capacity>,
    /// The delivery rate of all that is sent through the link.
    delivery: DeliveryRateEstimator,
    /// The delivery rate while there is a queue, as of the last update.
    saturated: Option<Rate>,
    updated: Instant,
    /// When a viewer behind the bottleneck last waited for its share, as of the last update.
    limited: Instant,
    /// When the viewers' packets last waited about as long as the push's.
    shared: Option<Instant>,
    /// Whether viewers wait to be admitted: then the estimate is kept.
    is_wanted: bool,
}

/// Whose bytes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// The push to the server.
    Push,
    /// The copy for a LAN viewer, by its number.
    Viewer(u64),
}

/// What the model knows at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Estimate {
    pub(super) state: LinkState,
    /// The capacity of the link for the push and viewers together, which yield to it; `None` if no viewer shares it, and while it is a
    /// first guess.
    pub(super) capacity: Option<Rate>,
    /// What of the push was delivered lately: the capacity for it while saturated, else what was sent.
    pub(super) delivery_rate: Option<Rate>,
    /// What of the push was sent lately, over the same time.
    pub(super) sent_rate: Option<Rate>,
    /// The RTT without a queue.
    pub(super) min_rtt: Option<Duration>,
    /// How long what is sent now waits: before it is written, and in the queue of the link.
    pub(super) queue_delay: Duration,
    /// Less of the push is delivered than is sent, or some of it always waits in the socket: the queue is about to grow.
    pub(super) is_slow: bool,
    /// How long answers of the server wait, which is no queue of the uplink.
    pub(super) return_delay: Duration,
    /// When everything sent so far has left the link.
    pub(super) busy_until: Instant,
}

/// What limits the push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkState {
    /// There is no connection.
    Down,
    /// Nothing was measured yet.
    Unknown,
    /// The stream: the link carries more.
    ApplicationLimited,
    /// The delay has grown at once. It may be a longer route or a queue.
    Undecided,
    /// The link: there is a queue.
    Saturated,
    /// Nothing comes back.
    Stalled,
}

#[derive(Debug, Default)]
struct ViewerFlow {
    /// When its packets were last queued.
    queued: Option<Instant>,
    /// Maximum queueing delay in seconds since the last update, decaying.
    max_queue_delay: f64,
    /// Whether it is behind the bottleneck shared with the push.
    is_behind_bottleneck: bool,
    /// Bytes sent since the last update.
    sent: Bytes,
    /// Whether it waited for its share since the last update.
    was_limited: bool,
    /// Bytes sent in the last updates while its packets were not seen in the push's queue, latest first.
    unseen: VecDeque<Bytes>,
}

impl ViewerFlow {
    /// Whether its packets were queued recently.
    fn is_queued(&self, now: Instant) -> bool {
        self.queued.is_some_and(|at| now.saturating_duration_since(at) < RECENT)
    }
}

impl LinkModel {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            push: PushFlow::new(),
            viewers: BTreeMap::new(),
            capacity: None,
            delivery: DeliveryRateEstimator::default(),
            saturated: None,
            updated: now,
            limited: now,
            shared: None,
            is_wanted: false,
        }
    }

    /// A viewer is sent the stream from now on.
    pub(super) fn add_viewer(&mut self, id: u64) {
        let viewer = ViewerFlow { is_behind_bottleneck: self.capacity.is_some(), ..ViewerFlow::default() };
        self.viewers.insert(id, viewer);
    }

    pub(super) fn remove_viewer(&mut self, id: u64) {
        self.viewers.remove(&id);
    }

    /// Number of viewers that are sent the stream.
    pub(super) fn viewers(&self) -> usize {
        self.viewers.len()
    }

    /// Sets whether further viewers wait to be admitted.
    pub(super) fn set_wanted(&mut self, is_wanted: bool) {
        self.is_wanted = is_wanted;
    }

    /// Accounts bytes of payload that were written to a connection.
    pub(super) fn on_sent(&mut self, flow: Flow, bytes: Bytes) {
        match flow {
            Flow::Push => self.push.sent += bytes,
            Flow::Viewer(id) => {
                if let Some(viewer) = self.viewers.get_mut(&id) {
                    viewer.sent += bytes;
                }
            }
        }
    }

    /// Feeds what is known of the push's connection; `None` while it is disconnected. Call it for every unit: missing feedback counts as
    /// delay.
    pub(super) fn on_push_feedback(&mut self, feedback: Option<&PushFeedback>, now: Instant) {
        self.push.on_feedback(feedback, now);
    }

    /// The packets of a viewer have the queueing delay `queue_delay`.
    pub(super) fn on_viewer_feedback(&mut self, id: u64, queue_delay: Duration, now: Instant) {
        if let Some(viewer) = self.viewers.get_mut(&id) {
            viewer.max_queue_delay = viewer.max_queue_delay.max(queue_delay.as_secs_f64());
            if queue_delay > QUEUED {
                viewer.queued = Some(now);
            }
        }
    }

    /// A viewer waits for its share: the capacity is used.
    pub(super) fn on_viewer_limited(&mut self, id: u64) {
        if let Some(viewer) = self.viewers.get_mut(&id) {
            viewer.was_limited = true;
        }
    }

    /// The delay did not follow when the push sent less: others' packets are in the queue, or the route is longer.
    pub(super) fn on_foreign_queue(&mut self, now: Instant) {
        self.push.delay.on_foreign_queue(now);
    }

    /// What is known at `now`, as of the last update.
    pub(super) fn estimate(&self, now: Instant) -> Estimate {
        let push = &self.push;
        // Delay before and after the write adds up.
        let queue_delay = push.queue_delay(now) + push.backlog;
        let is_decided =
            if push.is_starting() { queue_delay > STARTING } else { push.backlog > QUEUED || !push.is_undecided(now) };
        let state = match push.delay.queue_delay(now) {
            _ if !push.is_connected => LinkState::Down,
            None if push.backlog.is_zero() => LinkState::Unknown,
            _ if queue_delay < QUEUED => LinkState::ApplicationLimited,
            _ if !is_decided => LinkState::Undecided,
            _ if queue_delay > STALLED && self.delivers_nothing() => LinkState::Stalled,
            _ => LinkState::Saturated,
        };
        Estimate {
            state,
            capacity: self.shared_capacity(now),
            delivery_rate: push.delivery_rate(),
            sent_rate: push.sent_rate(),
            min_rtt: push.delay.min_rtt(),
            queue_delay,
            is_slow: push.is_slow(),
            return_delay: push.return_path.queue_delay(now),
            busy_until: now + push.queue_delay(now),
        }
    }

    fn delivers_nothing(&self) -> bool {
        self.push.delivery_rate().is_none_or(|rate| rate == Rate::ZERO)
    }

    /// The estimated capacity of the shared bottleneck, first guesses included.
    pub(super) fn capacity(&self) -> Option<Rate> {
        self.capacity.as_ref().map(Capacity::rate)
    }

    /// The viewers behind the shared bottleneck.
    pub(super) fn behind_bottleneck(&self) -> Vec<u64> {
        self.viewers.iter().filter(|(_, viewer)| viewer.is_behind_bottleneck).map(|(id, _)| *id).collect()
    }

    /// Whether packets wait anywhere on the way to the server and back.
    pub(super) fn has_queue(&self, now: Instant) -> bool {
        self.push.delay.queue_delay(now).is_some_and(|delay| delay > TARGET)
    }

    /// The push's mean rate.
    pub(super) fn push_rate(&self) -> Rate {
        self.push.mean
    }

    /// Number of viewers that fit into the capacity left by the push; `None` without an estimate.
    pub(super) fn viewer_capacity(&self) -> Option<usize> {
        let push = Some(self.push.mean).filter(|push| *push > LEAST)?;
        self.capacity().map(|capacity| ((capacity - push) / (push * OVERHEAD)) as usize)
    }

    /// Whether the estimate has not converged yet: no viewer is redirected because of it.
    pub(super) fn is_converging(&self, now: Instant) -> bool {
        self.capacity.as_ref().is_some_and(|capacity| !capacity.is_older(CONVERGES, now))
    }

    /// Recent maximum queueing delay of any viewer.
    pub(super) fn max_queue_delay(&self) -> Duration {
        Duration::from_secs_f64(self.viewers.values().map(|viewer| viewer.max_queue_delay).fold(0.0, f64::max))
    }

    /// The capacity, if viewers' packets queue together with the push's and about as long: otherwise the push is delayed elsewhere.
    fn shared_capacity(&self, now: Instant) -> Option<Rate> {
        let is_here = self.shared.is_some_and(|at| now.saturating_duration_since(at) < RECENT);
        let is_here = is_here && self.viewers.values().any(|viewer| viewer.is_queued(now));
        let capacity = self.capacity.as_ref().filter(|capacity| is_here && capacity.is_older(SETTLES, now))?;
        // The estimate is at least the push's recent rate, even if the link delivers less.
        Some(self.saturated.map_or(capacity.rate(), |saturated| saturated.min(capacity.rate())))
    }

    /// The delay of the push by which the shared capacity is estimated: a longer route is no reason to limit viewers.
    fn delay(&self, now: Instant) -> Duration {
        let push = &self.push;
        if !push.is_connected {
            return Duration::ZERO;
        }
        let queueing = if push.is_undecided(now) { Duration::ZERO } else { push.queue_delay(now) };
        queueing.max(push.backlog)
    }

    /// Updates the estimate every [`UPDATE`]; returns whether it did. Call it with any event.
    pub(super) fn update(&mut self, now: Instant) -> bool {
        let interval = now.saturating_duration_since(self.updated);
        if interval < UPDATE {
            return false;
        }
        self.updated = now;
        let is_queued = |viewer: &ViewerFlow| viewer.is_queued(now);
        let is_shared = self.viewers.values().any(is_queued);
        if self.viewers.values().any(|viewer| viewer.is_behind_bottleneck && viewer.was_limited) {
            self.limited = now;
        }
        let raw = self.push.queue_delay(now);
        if self.push.is_connected && is_shared && self.max_queue_delay() >= raw / 2 {
            self.shared = Some(now);
            if raw > QUEUED {
                // A full queue of packets is as level as a longer route; viewers can make way to see which it is.
                self.push.delay.on_queue();
            }
        }
        let delay = self.delay(now).as_secs_f64();
        let pushed = self.push.update(interval, now);
        let viewers_sent: Bytes =
            self.viewers.values().filter(|v| v.is_behind_bottleneck || is_queued(v)).map(|v| v.sent).sum();
        // Delay elsewhere, or on the return path, is not caused by viewers.
        let bound = self.max_queue_delay().as_secs_f64() + QUEUED.as_secs_f64();
        let delay = if self.viewers.is_empty() { delay } else { delay.min(bound) };
        let change = delay - std::mem::replace(&mut self.push.last_delay, delay);
        // Attribute bytes already sent by a viewer newly found behind the bottleneck.
        for viewer in self.viewers.values_mut() {
            if viewer.is_behind_bottleneck || is_queued(viewer) {
                self.delivery.backfill(viewer.unseen.drain(..));
            } else {
                viewer.unseen.push_front(viewer.sent);
                viewer.unseen.truncate(MAX_UNSEEN);
            }
        }
        let base = self.push.delay.min_rtt().unwrap_or_default();
        self.delivery.on_sample(viewers_sent + pushed, Duration::from_secs_f64(delay), base, now);
        self.saturated = self.delivery.saturated_rate();
        self.adapt(interval, delay, change, is_shared, viewers_sent + pushed, now);
        tracing::trace!(
            queue_delay_ms = (delay * 1e3) as u64,
            is_shared,
            capacity = self.capacity().map(|rate| rate.as_bits_per_second() as u64),
            saturated_rate = self.saturated.map(|rate| rate.as_bits_per_second() as u64),
            push_rate = self.push.mean.as_bits_per_second() as u64,
            viewers_rate = (viewers_sent / interval).as_bits_per_second() as u64,
            "link"
        );
        let fade = 0.5f64.powf(interval.as_secs_f64() / HALF_LIFE.as_secs_f64());
        for viewer in self.viewers.values_mut() {
            (viewer.sent, viewer.was_limited) = (Bytes::ZERO, false);
            viewer.max_queue_delay *= fade;
        }
        true
    }

    /// Adapts the estimated capacity of a shared bottleneck.
    fn adapt(&mut self, interval: Duration, delay: f64, change: f64, is_shared: bool, sent: Bytes, now: Instant) {
        let push = self.push.mean;
        match &mut self.capacity {
            None if is_shared && delay > TARGET.as_secs_f64() => {
                // What was sent without causing a queue was delivered.
                let growth = 1.0 + (change / interval.as_secs_f64()).max(0.0);
                let delivered = self.saturated.or(self.delivery.rate()).unwrap_or((sent / interval) * (1.0 / growth));
                self.capacity = Some(Capacity::new(delivered, push, now));
                self.limited = now;
            }
            None => return,
            Some(capacity) => {
                let since_limited = now.saturating_duration_since(self.limited);
                let saturated = self.saturated;
                let measured = Measured { interval, delay, change, is_shared, saturated, since_limited, push };
                capacity.update(&measured, now);
            }
        }
        for viewer in self.viewers.values_mut().filter(|viewer| viewer.is_queued(now)) {
            viewer.is_behind_bottleneck |= delay > QUEUED.as_secs_f64();
        }
        if now.saturating_duration_since(self.limited) > UNLIMITED && !self.is_wanted {
            self.capacity = None;
            self.viewers.values_mut().for_each(|viewer| viewer.is_behind_bottleneck = false);
        }
    }
}

/// A new connection's delay is that of a slow link if it is longer: TCP's slow start delays less.
const STARTING: Duration = Duration::from_millis(300);
/// A queue in which nothing moves for this long is none.
const STALLED: Duration = Duration::from_secs(1);
/// How long an observed queue counts as recent.
const RECENT: Duration = Duration::from_millis(1000);
/// Half-life of a viewer's maximum delay, which is measured late and only while it is sent data.
const HALF_LIFE: Duration = Duration::from_millis(300);
/// Time until measurements have corrected the first guess.
const SETTLES: Duration = Duration::from_millis(500);
/// Time until the estimate counts as converged: a keyframe interval, after which viewers have caught up.
const CONVERGES: Duration = Duration::from_millis(2000);
/// A viewer's copy relative to the push's: QUIC's overhead, and uneven unit sizes.
const OVERHEAD: f64 = 1.1;
/// Time without any viewer waiting after which the estimate is dropped.
const UNLIMITED: Duration = Duration::from_secs(10);
/// Updates remembered of a viewer whose packets are not queued: half a second, the window of [`DeliveryRateEstimator`].
const MAX_UNSEEN: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_guess_of_the_capacity_is_not_used() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let feedback = |rtt| PushFeedback { rtt: Some(ms(rtt)), ..PushFeedback::default() };
        let mut link = LinkModel::new(start);
        link.add_viewer(0);
        // The connection is not new, and has had no queue.
        let since = |millis| start + ms(millis);
        for millis in (0..2000).step_by(100) {
            link.on_push_feedback(Some(&feedback(50)), since(millis));
            link.update(since(millis));
        }
        let start = since(2000);
        let at = |millis| start + ms(millis);
        let mut go = |from: u64, to: u64, rtt: u64| {
            for millis in (from..to).step_by(20) {
                link.on_sent(Flow::Push, Bytes::from(2000));
                link.on_sent(Flow::Viewer(0), Bytes::from(2000));
                link.on_viewer_feedback(0, ms(100), at(millis));
                link.on_viewer_limited(0);
                link.on_push_feedback(Some(&feedback(rtt)), at(millis));
                link.update(at(millis));
            }
            (link.is_converging(at(to)), link.estimate(at(to)).capacity.is_some())
        };
        assert_eq!(go(0, 100, 150), (false, false));
        assert_eq!(go(100, 400, 150), (true, false));
        assert_eq!(go(400, 1000, 150), (true, true));
        assert_eq!(go(1000, 3000, 150), (false, true));
        // The viewers' packets wait less than half as long: the push is delayed elsewhere.
        assert_eq!(go(3000, 4200, 550), (false, false));
    }
}
