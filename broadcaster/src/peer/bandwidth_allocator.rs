//! Estimates the capacity of a link shared by the push and LAN viewers, and allocates what the push leaves among the viewers. Pure.
//!
//! A shared bottleneck is detected by its queue: the RTT of the push's pings grows, and so does the RTT of the viewers whose packets are
//! in the same queue. Only if both are observed is the capacity estimated; the estimate is kept while viewers join and leave.
//! The push has strict priority, so that its IDRs meet no queue of the viewers' making. Viewers get the rest, by their rank
//! ([`AdmissionControl`](super::admission::AdmissionControl)) or in equal shares.
//!
//! The estimate decreases while the queueing delay of the push exceeds [`TARGET`] and increases while it is below, in proportion to the
//! distance, with a derivative term that damps oscillation. If the delivery rate through the full link
//! ([`DeliveryRateEstimator`](crate::delivery_rate::DeliveryRateEstimator)) is below half of the estimate, or above it,
//! the estimate restarts from the delivery rate.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use net::relay::Grant;

use crate::delivery_rate::DeliveryRateEstimator;

/// The capacity estimate and its allocation. See the module documentation.
#[derive(Debug)]
pub(super) struct BandwidthAllocator {
    /// Estimated capacity in bytes per second; `None` without a shared bottleneck.
    link: Option<f64>,
    /// Since when there is an estimate.
    known: Option<Instant>,
    /// Slightly below the estimate before its last decrease: the increase is fast up to here and slow beyond.
    goal: f64,
    /// Start of the current decrease, and the estimate then.
    fall: Option<(Instant, f64)>,
    /// When the push last had queueing delay.
    stirred: Instant,
    viewers: BTreeMap<u64, ViewerFlow>,
    /// The delivery rate of all that is sent through the link.
    taken: DeliveryRateEstimator,
    /// The delivery rate while there is a queue, as of the last update.
    full: Option<f64>,
    /// Unallocated bytes; negative while the push has used more than the capacity.
    undivided: f64,
    divided: Instant,
    push: PushFlow,
    updated: Instant,
    /// When a viewer last waited for its share.
    short: Instant,
    /// Whether redirected viewers wait to be admitted: then the estimate is kept.
    is_wanted: bool,
}

#[derive(Debug)]
struct PushFlow {
    /// Queueing delay and when it was reported; `None` while disconnected.
    wait: Option<(Duration, Instant)>,
    /// Minimum RTT of the push's connection, without queueing.
    way: Duration,
    /// The delay at the last update, in seconds.
    last_wait: f64,
    /// Bytes sent since the last update.
    sent: f64,
    /// Bytes per second, averaged over [`MEAN`].
    rate: f64,
    /// Seconds that the average covers so far.
    time: f64,
}

#[derive(Debug)]
struct ViewerFlow {
    /// Bytes that may be sent now; negative after sending in advance.
    tokens: f64,
    /// When its packets were last queued.
    queued: Option<Instant>,
    /// Maximum queueing delay in seconds since the last update, decaying.
    longest: f64,
    /// Whether it is behind the bottleneck shared with the push.
    shares: bool,
    /// Bytes sent since the last update.
    sent: f64,
    /// Bytes sent in the last updates while its packets were not seen in the push's queue, latest first.
    before: VecDeque<f64>,
    was_short: bool,
    /// When it last waited for its share.
    short: Option<Instant>,
    /// Priority, lowest first; `None` for equal shares.
    rank: Option<u64>,
}

impl ViewerFlow {
    /// Whether its packets were queued recently.
    fn is_queued(&self, now: Instant) -> bool {
        self.queued.is_some_and(|at| now.saturating_duration_since(at) < REMEMBER)
    }
}

impl BandwidthAllocator {
    pub(super) fn new(now: Instant) -> Self {
        let push = PushFlow { wait: None, way: Duration::ZERO, last_wait: 0.0, sent: 0.0, rate: 0.0, time: 0.0 };
        Self {
            link: None,
            known: None,
            goal: 0.0,
            fall: None,
            stirred: now,
            viewers: BTreeMap::new(),
            taken: DeliveryRateEstimator::default(),
            full: None,
            undivided: 0.0,
            divided: now,
            push,
            updated: now,
            short: now,
            is_wanted: false,
        }
    }

    /// Sets the viewers' priorities, and whether further viewers wait to be admitted.
    pub(super) fn rank(&mut self, ranks: impl Iterator<Item = (u64, Option<u64>)>, is_wanted: bool) {
        self.is_wanted = is_wanted;
        for (id, rank) in ranks {
            if let Some(viewer) = self.viewers.get_mut(&id) {
                viewer.rank = rank;
            }
        }
    }

    pub(super) fn viewers(&self) -> usize {
        self.viewers.len()
    }

    /// Recent maximum queueing delay of any viewer.
    pub(super) fn longest(&self) -> Duration {
        Duration::from_secs_f64(self.viewers.values().map(|viewer| viewer.longest).fold(0.0, f64::max))
    }

    /// A viewer waits because of another limit than the capacity.
    pub(super) fn kept_waiting(&mut self, id: u64, now: Instant) {
        if let Some(viewer) = self.viewers.get_mut(&id) {
            viewer.short = Some(now);
        }
    }

    /// Whether a viewer recently waited for its share: then its own link is not the cause of drops.
    pub(super) fn is_short(&self, id: u64, now: Instant) -> bool {
        let short = self.viewers.get(&id).and_then(|viewer| viewer.short);
        short.is_some_and(|at| now.saturating_duration_since(at) < REMEMBER)
    }

    /// Number of viewers that fit into the capacity left by the push; `None` without an estimate.
    pub(super) fn fits(&self) -> Option<usize> {
        self.link.filter(|_| self.push.rate > LEAST).map(|link| ((link / self.push.rate - 1.0) / OVERHEAD) as usize)
    }

    /// Whether the estimate has not converged yet: no viewer is redirected because of it.
    pub(super) fn is_guess(&self, now: Instant) -> bool {
        self.link.is_some() && !self.is_older(CATCHES_UP, now)
    }

    fn is_older(&self, than: Duration, now: Instant) -> bool {
        self.known.is_some_and(|at| now.saturating_duration_since(at) > than)
    }

    /// Capacity in bytes per second, if viewers' packets queue together with the push's and about as long: otherwise the push is delayed
    /// elsewhere. `None`, too, while it is a first guess.
    pub(super) fn takes(&self, now: Instant) -> Option<f64> {
        let is_here = self.push.wait.is_some_and(|(wait, _)| self.longest() >= wait / 2);
        let link = self.link.filter(|_| {
            is_here && self.is_older(SETTLES, now) && self.viewers.values().any(|viewer| viewer.is_queued(now))
        })?;
        // The estimate is at least the push's recent rate, even if the link delivers less.
        Some(link.min(self.full.unwrap_or(f64::INFINITY)))
    }

    pub(super) fn join(&mut self, id: u64) {
        let shares = self.link.is_some();
        self.viewers.insert(
            id,
            ViewerFlow {
                tokens: 0.0,
                queued: None,
                longest: 0.0,
                shares,
                sent: 0.0,
                before: VecDeque::new(),
                was_short: false,
                short: None,
                rank: None,
            },
        );
    }

    pub(super) fn leave(&mut self, id: u64) {
        self.viewers.remove(&id);
    }

    /// Accounts bytes written to the push's connection.
    pub(super) fn pushed(&mut self, bytes: usize) {
        self.push.sent += bytes as f64;
        self.undivided -= bytes as f64;
    }

    /// Feeds the push's queueing delay, `None` while disconnected, and its base RTT `way`. Call it for every unit: missing feedback counts
    /// as delay.
    pub(super) fn push_waits(&mut self, wait: Option<Duration>, way: Duration, now: Instant) {
        if wait.is_some() && self.push.wait.is_none() {
            (self.push.rate, self.push.time, self.push.sent) = (0.0, 0.0, 0.0);
        }
        self.push.wait = wait.map(|wait| (wait, now));
        self.push.way = way;
        self.update(now);
    }

    /// Requests to send `wanted` bytes to a viewer whose packets have the queueing delay `queueing`. A unit that must not be split
    /// (`whole`) may be sent slightly in advance.
    pub(super) fn ask(&mut self, id: u64, wanted: usize, whole: bool, queueing: Duration, now: Instant) -> Grant {
        if let Some(viewer) = self.viewers.get_mut(&id) {
            viewer.longest = viewer.longest.max(queueing.as_secs_f64());
            if queueing > QUEUE {
                viewer.queued = Some(now);
            }
        }
        self.update(now);
        self.divide(now);
        let sharing = self.sharing();
        let Some(viewer) = self.viewers.get_mut(&id) else { return Grant::Bytes(wanted) };
        let Some(link) = self.link.filter(|_| viewer.shares) else {
            viewer.sent += wanted as f64;
            return Grant::Bytes(wanted);
        };
        let part = (link - self.push.rate).max(LEAST) / sharing;
        let needed = if whole { -part * ADVANCE.as_secs_f64() } else { PIECE.min(wanted as f64) };
        if viewer.tokens < needed {
            (viewer.was_short, viewer.short) = (true, Some(now));
            let wait = Duration::from_secs_f64((needed - viewer.tokens) / part);
            return Grant::RetryAfter(wait.clamp(SHORTEST, LONGEST));
        }
        let granted = if whole { wanted } else { wanted.min(viewer.tokens as usize) };
        viewer.tokens -= granted as f64;
        viewer.sent += granted as f64;
        Grant::Bytes(granted)
    }

    fn sharing(&self) -> f64 {
        self.viewers.values().filter(|viewer| viewer.shares).count().max(1) as f64
    }

    /// Refills the viewers' tokens with the capacity since the last time, minus what the push has used.
    fn divide(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.divided).as_secs_f64();
        self.divided = now;
        let Some(link) = self.link else {
            self.undivided = 0.0;
            return;
        };
        let most = (link * BURST.as_secs_f64() / self.sharing()).max(3.0 * PIECE);
        self.undivided = (self.undivided + link * seconds).max(-link * DEBT.as_secs_f64());
        if self.undivided <= 0.0 {
            return;
        }
        let mut ranked: Vec<_> =
            self.viewers.values_mut().filter(|viewer| viewer.shares && viewer.rank.is_some()).collect();
        ranked.sort_by_key(|viewer| viewer.rank);
        for viewer in ranked {
            let taken = self.undivided.min(most - viewer.tokens).max(0.0);
            viewer.tokens += taken;
            self.undivided -= taken;
        }
        // Unused shares go to others.
        for _ in 0..2 {
            let takers = self.viewers.values().filter(|viewer| viewer.shares && viewer.tokens < most).count();
            let part = self.undivided / takers.max(1) as f64;
            for viewer in self.viewers.values_mut().filter(|viewer| viewer.shares && viewer.tokens < most) {
                let taken = part.min(most - viewer.tokens);
                viewer.tokens += taken;
                self.undivided -= taken;
            }
        }
        self.undivided = 0.0;
    }

    fn update(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.updated).as_secs_f64();
        if seconds < EVERY.as_secs_f64() {
            return;
        }
        self.updated = now;
        let is_queued = |viewer: &ViewerFlow| viewer.is_queued(now);
        let is_shared = self.viewers.values().any(is_queued);
        let pushed = std::mem::take(&mut self.push.sent) / seconds;
        // At the start the average covers the time so far.
        self.push.time = (self.push.time + seconds).min(MEAN.as_secs_f64());
        self.push.rate += (pushed - self.push.rate) * (seconds / self.push.time).min(1.0);
        let went = self.viewers.values().filter(|v| v.shares || is_queued(v)).map(|v| v.sent).sum::<f64>() / seconds;
        if self.viewers.values().any(|viewer| viewer.shares && viewer.was_short) {
            self.short = now;
        }
        let wait = self.push.wait.map_or(0.0, |(wait, told)| {
            let silent = now.saturating_duration_since(told).saturating_sub(TOLD);
            wait.max(silent).as_secs_f64()
        });
        // Delay elsewhere, or on the return path, is not caused by viewers.
        let longest = self.longest().as_secs_f64();
        let wait = if self.viewers.is_empty() { wait } else { wait.min(longest + QUEUE.as_secs_f64()) };
        let change = wait - std::mem::replace(&mut self.push.last_wait, wait);
        let off = 1.0 - wait / TARGET.as_secs_f64();
        // Attribute bytes already sent by a viewer newly found behind the bottleneck.
        for viewer in self.viewers.values_mut() {
            if viewer.shares || is_queued(viewer) {
                self.taken.note_before(viewer.before.drain(..));
            } else {
                viewer.before.push_front(viewer.sent);
                viewer.before.truncate(UNSEEN);
            }
        }
        self.taken.note((went + pushed) * seconds, Duration::from_secs_f64(wait), self.push.way, now);
        let full = self.taken.full();
        self.full = full;
        let suffers = off < 0.0 && is_shared;
        match &mut self.link {
            None if suffers => {
                // What was sent without causing a queue was delivered.
                let took = full.or(self.taken.rate()).unwrap_or((went + pushed) / (1.0 + (change / seconds).max(0.0)));
                let took = took.max(self.push.rate);
                (self.link, self.known) = (Some((took * FIRST).max(self.push.rate + LEAST)), Some(now));
                (self.goal, self.fall) = (took * NEARLY, Some((now, took * FIRST)));
                (self.divided, self.undivided, self.short) = (now, 0.0, now);
            }
            None => {}
            // The viewers' packets are not queued: they do not cause the delay.
            Some(_) if off < 0.0 && !is_shared => {}
            Some(link) => {
                if wait > CALM.as_secs_f64() {
                    self.stirred = now;
                }
                // The longer there has been no delay, the less relevant the last decrease is.
                let calm = now.saturating_duration_since(self.stirred).saturating_sub(LULL).as_secs_f64();
                let returns = *link < self.goal;
                let rise = if returns { RETURN } else { (RISE * (1.0 + PROBE * calm)).min(RETURN) };
                let pull = if off > 0.0 { rise * off } else { FALL * off.max(-2.0) };
                let lead = if off > 0.0 { 0.0 } else { (-LEAD * change / seconds).clamp(-0.3, 0.0) };
                let factor = (pull * seconds + lead).exp();
                if factor < 1.0 {
                    // Feedback lags: decrease by no more than half before the effect can be seen.
                    let (since, from) = self.fall.unwrap_or((now, *link));
                    if self.fall.is_none() {
                        // A decrease during recovery keeps part of the goal.
                        self.goal = (*link * NEARLY).max(self.goal * AGAIN);
                    }
                    let is_shown = now.saturating_duration_since(since) > SHOWN;
                    let (since, from) = if is_shown { (now, *link) } else { (since, from) };
                    self.fall = Some((since, from));
                    *link = (*link * factor).max(from / 2.0).min(*link);
                } else {
                    self.fall = None;
                    // Increase only while the capacity is used: unused capacity is not measured.
                    let wanted = if returns { WANTED } else { 2 * EVERY };
                    if now.saturating_duration_since(self.short) < wanted {
                        *link *= factor;
                    }
                }
                // The delivery rate of a full link is a measurement: adopt it at once if it is far below the estimate, or above it.
                if let Some(full) = full.filter(|full| suffers && *full < *link * MUCH_LESS) {
                    *link = full * FIRST;
                    (self.goal, self.fall) = (full * NEARLY, Some((now, *link)));
                } else if let Some(full) = full.filter(|full| is_shared && full * FIRST > *link) {
                    *link = full * FIRST;
                    (self.goal, self.fall) = (self.goal.max(full * NEARLY), None);
                }
                *link = link.max(self.push.rate + LEAST);
            }
        }
        tracing::trace!(
            queue_delay_ms = (wait * 1e3) as u64,
            is_shared,
            link_rate = self.link.map(|rate| rate as u64),
            last_good_rate = self.goal as u64,
            saturated_rate = full.map(|rate| rate as u64),
            push_rate = self.push.rate as u64,
            viewers_rate = went as u64,
            viewers = ?self.viewers.values().map(|v| (v.shares, v.tokens as i64, v.sent as u64)).collect::<Vec<_>>(),
            "bandwidth allocation"
        );
        if self.link.is_some() {
            for viewer in self.viewers.values_mut() {
                if wait > QUEUE.as_secs_f64() && is_queued(viewer) && !viewer.shares {
                    (viewer.shares, viewer.tokens) = (true, 0.0);
                }
            }
            if now.saturating_duration_since(self.short) > FREE && !self.is_wanted {
                self.link = None;
                self.viewers.values_mut().for_each(|viewer| viewer.shares = false);
            }
        }
        let fade = 0.5f64.powf(seconds / HALF_LIFE.as_secs_f64());
        for viewer in self.viewers.values_mut() {
            (viewer.sent, viewer.was_short) = (0.0, false);
            viewer.longest *= fade;
        }
    }
}

/// Target queueing delay of the push: below an IDR's transmission time on a slow link it is noise, far above it is noticeable.
const TARGET: Duration = Duration::from_millis(60);
/// Queueing delay from which on a viewer's packets count as queued.
const QUEUE: Duration = Duration::from_millis(20);
/// How long an observed queue counts as recent.
const REMEMBER: Duration = Duration::from_millis(1000);
/// Half-life of a viewer's maximum delay, which is measured late and only while it is sent data.
const HALF_LIFE: Duration = Duration::from_millis(300);
/// Update interval: about that of the delay measurements.
const EVERY: Duration = Duration::from_millis(100);
/// Averaging time of the push's rate: two keyframe intervals.
const MEAN: Duration = Duration::from_millis(4000);
/// Missing feedback for longer counts as delay: several units' time.
const TOLD: Duration = Duration::from_millis(150);
/// Time until measurements have corrected the first guess.
const SETTLES: Duration = Duration::from_millis(500);
/// Time until the estimate counts as converged: a keyframe interval, after which viewers have caught up.
const CATCHES_UP: Duration = Duration::from_millis(2000);
/// The first estimate, relative to the delivery rate when the push is first delayed.
const FIRST: f64 = 0.8;
/// A delivery rate below this fraction of the estimate means another bottleneck.
const MUCH_LESS: f64 = 0.5;
/// Relative increase per second without delay, up to the goal.
const RETURN: f64 = 0.5;
/// Fraction of the goal that is kept on a decrease during recovery.
const AGAIN: f64 = 0.8;
/// The goal, relative to the estimate before a decrease.
const NEARLY: f64 = 0.95;
/// Relative increase per second without delay, beyond the goal.
const RISE: f64 = 0.05;
/// Relative decrease per second at twice the target delay; at three times or more, twice that.
const FALL: f64 = 0.5;
/// Time until the effect of a decrease is measured.
const SHOWN: Duration = Duration::from_millis(1000);
/// Time without delay before the increase accelerates: longer than a keyframe interval.
const LULL: Duration = Duration::from_millis(3000);
/// Acceleration of the increase per second without delay.
const PROBE: f64 = 8.0;
/// A viewer's copy relative to the push's: QUIC's overhead, and uneven unit sizes.
const OVERHEAD: f64 = 1.1;
/// Delay below this counts as none.
const CALM: Duration = Duration::from_millis(20);
/// Gain of the derivative term.
const LEAD: f64 = 0.2;
/// Minimum for all viewers together in bytes per second: 80 kbit/s.
const LEAST: f64 = 10_000.0;
/// How long after a viewer waited the capacity counts as used: a viewer that skipped the rest of a group requests nothing until the next.
const WANTED: Duration = Duration::from_millis(2500);
/// Time without any viewer waiting after which the estimate is dropped.
const FREE: Duration = Duration::from_secs(10);
/// Burst after a pause: short, since it delays the push.
const BURST: Duration = Duration::from_millis(100);
/// Bounds what viewers repay for the push's use: retransmission after an outage does not silence them for as long.
const DEBT: Duration = Duration::from_millis(1000);
/// Updates remembered of a viewer whose packets are not queued: half a second, the window of [`DeliveryRateEstimator`].
const UNSEEN: usize = 4;
/// Minimum grant in bytes: about one datagram.
const PIECE: f64 = 1200.0;
/// How far in advance audio may be sent.
const ADVANCE: Duration = Duration::from_millis(500);
/// Bounds one wait: the estimate may increase meanwhile.
const LONGEST: Duration = Duration::from_millis(200);
/// Minimum wait: a timer's resolution.
const SHORTEST: Duration = Duration::from_millis(1);

#[cfg(test)]
#[path = "bandwidth_allocator_tests.rs"]
mod tests;
