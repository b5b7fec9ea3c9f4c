//! What the push to the CDN leaves to viewers where both share a link, and how it is divided among them: pure.
//!
//! Nobody tells how wide a shared link is, but a queue before it is seen: pings of the push take longer than they did, and so do the
//! round trips of those viewers whose packets wait in the same queue. Only where both are seen is there anything to share. From then on
//! there is an estimate of what the link takes, and it stays while viewers come and go, as the link does. Of that the push has what it
//! wants, at once and whenever it wants it; what is left in that moment is the viewers', in the order that they have their places in
//! ([`places`](super::places)), or in equal parts. So an IDR of the push meets no queue that viewers have made, and the estimate need
//! only follow the link: it falls while the push waits for longer than [`TARGET`] and rises while it waits for less, the further from it
//! the faster, and against the direction in which the wait changes, so that it settles instead of swinging. Where what arrives through
//! the full link ([`delivery_rate`](crate::taken)) is less than half of the estimate, it is another link, and where it is more, the estimate was too
//! low: it begins anew from that.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use net::relay::Grant;

use crate::delivery_rate::DeliveryRateEstimator;

/// See the module's text.
#[derive(Debug)]
pub(super) struct BandwidthAllocator {
    /// Bytes per second that the link takes; `None` while nothing needs to be divided.
    link: Option<f64>,
    /// Since when there is an estimate.
    known: Option<Instant>,
    /// Where the estimate fell from, or a little less: it comes back to there quickly, and goes on slowly.
    goal: f64,
    /// Since when it falls, and from where.
    fall: Option<(Instant, f64)>,
    /// When the push last waited at all.
    stirred: Instant,
    viewers: BTreeMap<u64, ViewerFlow>,
    /// What the link takes of all that goes, while there is a queue before it.
    taken: DeliveryRateEstimator,
    /// That, by the last update.
    full: Option<f64>,
    /// What is not yet divided; negative while the push has taken more than there was.
    undivided: f64,
    divided: Instant,
    push: PushFlow,
    updated: Instant,
    /// When a viewer last had to wait for its part.
    short: Instant,
    /// Whether others would watch if there were room: then what the link takes is not forgotten.
    is_wanted: bool,
}

#[derive(Debug)]
struct PushFlow {
    /// How long its packets wait on the way, and when that was told; `None` while nothing is pushed.
    wait: Option<(Duration, Instant)>,
    /// The quickest that it was there and back.
    way: Duration,
    /// The wait that the estimate was last changed by, in seconds.
    last_wait: f64,
    /// Bytes that went since the last update.
    sent: f64,
    /// Bytes per second, over [`MEAN`].
    rate: f64,
    /// Seconds that this is the mean of.
    time: f64,
}

#[derive(Debug)]
struct ViewerFlow {
    /// Bytes that may go now; negative while what went is still being paid for.
    tokens: f64,
    /// When its packets last waited in a queue.
    queued: Option<Instant>,
    /// The longest that they have waited for since the last update, and that fading.
    longest: f64,
    /// Whether it is one of those that share the link with the push.
    shares: bool,
    /// Bytes that went since the last update.
    sent: f64,
    /// Bytes that went of late, update by update, while its packets were not seen to wait in the push's queue.
    before: VecDeque<f64>,
    was_short: bool,
    /// When it last was.
    short: Option<Instant>,
    /// Who has a lower one has its part first; without, all have equal ones.
    rank: Option<u64>,
}

impl ViewerFlow {
    /// Whether its packets were seen to wait of late.
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

    /// In which order viewers have their parts, and whether others wait for one.
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

    /// The longest that packets of any viewer have waited for of late.
    pub(super) fn longest(&self) -> Duration {
        Duration::from_secs_f64(self.viewers.values().map(|viewer| viewer.longest).fold(0.0, f64::max))
    }

    /// A viewer has to wait for another limit than this.
    pub(super) fn kept_waiting(&mut self, id: u64, now: Instant) {
        if let Some(viewer) = self.viewers.get_mut(&id) {
            viewer.short = Some(now);
        }
    }

    /// Whether a viewer had to wait for its part of late: then that is why it lacks something, and not its own link.
    pub(super) fn is_short(&self, id: u64, now: Instant) -> bool {
        let short = self.viewers.get(&id).and_then(|viewer| viewer.short);
        short.is_some_and(|at| now.saturating_duration_since(at) < REMEMBER)
    }

    /// For how many viewers there is room beside the push, if the link is known.
    pub(super) fn fits(&self) -> Option<usize> {
        self.link.filter(|_| self.push.rate > LEAST).map(|link| ((link / self.push.rate - 1.0) / OVERHEAD) as usize)
    }

    /// Whether what the link takes is rather guessed than measured yet: no reason for anybody to go.
    pub(super) fn is_guess(&self, now: Instant) -> bool {
        self.link.is_some() && !self.is_older(CATCHES_UP, now)
    }

    fn is_older(&self, than: Duration, now: Instant) -> bool {
        self.known.is_some_and(|at| now.saturating_duration_since(at) > than)
    }

    /// Bytes per second that the link takes in all, where viewers' packets are seen to wait beside the push's, and about as long: otherwise it
    /// waits somewhere else. `None`, too, while that is a first guess.
    pub(super) fn takes(&self, now: Instant) -> Option<f64> {
        let is_here = self.push.wait.is_some_and(|(wait, _)| self.longest() >= wait / 2);
        let link = self.link.filter(|_| {
            is_here && self.is_older(SETTLES, now) && self.viewers.values().any(|viewer| viewer.is_queued(now))
        })?;
        // The estimate leaves the push what it has of late, even where the link does not.
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

    /// So many bytes were handed to the push's connection.
    pub(super) fn pushed(&mut self, bytes: usize) {
        self.push.sent += bytes as f64;
        self.undivided -= bytes as f64;
    }

    /// How long what is pushed waits in queues on its way, which takes `way` there and back without them; `None` while nothing is pushed. To be
    /// told at least as often as units are pushed: silence counts as waiting.
    pub(super) fn push_waits(&mut self, wait: Option<Duration>, way: Duration, now: Instant) {
        if wait.is_some() && self.push.wait.is_none() {
            (self.push.rate, self.push.time, self.push.sent) = (0.0, 0.0, 0.0);
        }
        self.push.wait = wait.map(|wait| (wait, now));
        self.push.way = way;
        self.update(now);
    }

    /// Asks for a viewer whose packets wait for `queueing` on their way. A unit that may not be cut (`whole`) goes a little in advance.
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

    /// Gives each viewer its part of what the link has taken since the last time, or of what the push has taken beyond that.
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
        // What one does not want is another's.
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
        // A push that has only begun has its mean so far.
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
        // What waits elsewhere on its way, or on the way of its acknowledgements, is not for viewers to make up for.
        let longest = self.longest().as_secs_f64();
        let wait = if self.viewers.is_empty() { wait } else { wait.min(longest + QUEUE.as_secs_f64()) };
        let change = wait - std::mem::replace(&mut self.push.last_wait, wait);
        let off = 1.0 - wait / TARGET.as_secs_f64();
        // What went to somebody whose packets are now seen to wait there went there all the while.
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
                // What came and made no queue went on.
                let took = full.or(self.taken.rate()).unwrap_or((went + pushed) / (1.0 + (change / seconds).max(0.0)));
                let took = took.max(self.push.rate);
                (self.link, self.known) = (Some((took * FIRST).max(self.push.rate + LEAST)), Some(now));
                (self.goal, self.fall) = (took * NEARLY, Some((now, took * FIRST)));
                (self.divided, self.undivided, self.short) = (now, 0.0, now);
            }
            None => {}
            // Viewers' packets wait nowhere: it is not for them that the push waits.
            Some(_) if off < 0.0 && !is_shared => {}
            Some(link) => {
                if wait > CALM.as_secs_f64() {
                    self.stirred = now;
                }
                // The longer nothing waits, the less is what it fell from a measure.
                let calm = now.saturating_duration_since(self.stirred).saturating_sub(LULL).as_secs_f64();
                let returns = *link < self.goal;
                let rise = if returns { RETURN } else { (RISE * (1.0 + PROBE * calm)).min(RETURN) };
                let pull = if off > 0.0 { rise * off } else { FALL * off.max(-2.0) };
                let lead = if off > 0.0 { 0.0 } else { (-LEAD * change / seconds).clamp(-0.3, 0.0) };
                let factor = (pull * seconds + lead).exp();
                if factor < 1.0 {
                    // What was sent before shows for a while: no more than half is taken before it can have gone.
                    let (since, from) = self.fall.unwrap_or((now, *link));
                    if self.fall.is_none() {
                        // One that falls again on its way back has lost sight of it only in part.
                        self.goal = (*link * NEARLY).max(self.goal * AGAIN);
                    }
                    let is_shown = now.saturating_duration_since(since) > SHOWN;
                    let (since, from) = if is_shown { (now, *link) } else { (since, from) };
                    self.fall = Some((since, from));
                    *link = (*link * factor).max(from / 2.0).min(*link);
                } else {
                    self.fall = None;
                    // What nobody wanted proves nothing.
                    let wanted = if returns { WANTED } else { 2 * EVERY };
                    if now.saturating_duration_since(self.short) < wanted {
                        *link *= factor;
                    }
                }
                // What arrives through a full link is measured and no guess: where that is much less, it need not be come down to by steps, and
                // where it is more, the link has proved to take that.
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
            wait_ms = (wait * 1e3) as u64,
            is_shared,
            link = self.link.map(|rate| rate as u64),
            goal = self.goal as u64,
            full = full.map(|rate| rate as u64),
            push = self.push.rate as u64,
            went = went as u64,
            viewers = ?self.viewers.values().map(|v| (v.shares, v.tokens as i64, v.sent as u64)).collect::<Vec<_>>(),
            "share"
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

/// The wait that the push is held to: less than an IDR's time on a slow link would be noise, much more would be felt.
const TARGET: Duration = Duration::from_millis(60);
/// A viewer's packets that take so much longer than they could have a queue before them.
const QUEUE: Duration = Duration::from_millis(20);
/// For how long a queue that was seen counts.
const REMEMBER: Duration = Duration::from_millis(1000);
/// Of the longest wait of a viewer's packets: it is told late, and only when something is sent.
const HALF_LIFE: Duration = Duration::from_millis(300);
/// How often the estimate is changed: about as often as the push's wait is measured.
const EVERY: Duration = Duration::from_millis(100);
/// What the push takes is even over two GOPs.
const MEAN: Duration = Duration::from_millis(4000);
/// A push that tells nothing for longer is stuck: several units' time.
const TOLD: Duration = Duration::from_millis(150);
/// After so long the first guess has been corrected by what was measured.
const SETTLES: Duration = Duration::from_millis(500);
/// And after so long whoever was late by its fault has caught up: a GOP.
const CATCHES_UP: Duration = Duration::from_millis(2000);
/// Of what went when the push first waits.
const FIRST: f64 = 0.8;
/// What arrives through a full link, of the estimate: it was another link.
const MUCH_LESS: f64 = 0.5;
/// Per second, without any wait, up to where the estimate fell from.
const RETURN: f64 = 0.5;
/// Of where it was to come back to.
const AGAIN: f64 = 0.8;
/// Of where it fell from: it was too much.
const NEARLY: f64 = 0.95;
/// Per second, without any wait, beyond; and so much more for each second that there was none.
const RISE: f64 = 0.05;
/// Per second, at twice the target; at three times or more, twice that.
const FALL: f64 = 0.5;
/// How long it takes until what was sent has gone and that is known.
const SHOWN: Duration = Duration::from_millis(1000);
/// Longer than from one IDR to the next: then there is no wait at all.
const LULL: Duration = Duration::from_millis(3000);
/// Per second of calm, in rises.
const PROBE: f64 = 8.0;
/// A copy of the stream for a viewer, in copies for the push: what QUIC adds, and that units are not even.
const OVERHEAD: f64 = 1.1;
/// A wait that is none.
const CALM: Duration = Duration::from_millis(20);
/// Of the change that the wait tells.
const LEAD: f64 = 0.2;
/// Bytes per second to all together, however the push fares: 80 kbit/s.
const LEAST: f64 = 10_000.0;
/// How long after somebody had to wait more is wanted: whoever has skipped the rest of a group wants nothing until the next.
const WANTED: Duration = Duration::from_millis(2500);
/// For so long nobody may have waited for its part before there is nothing to divide any more.
const FREE: Duration = Duration::from_secs(10);
/// What may go at once after a pause: short, for it goes in front of the push.
const BURST: Duration = Duration::from_millis(100);
/// The most that viewers pay for what the push took: a push that makes up for an outage does not silence them for as long.
const DEBT: Duration = Duration::from_millis(1000);
/// Updates that are remembered of a viewer whose packets wait nowhere: half a second, as [`DeliveryRateEstimator`] does.
const UNSEEN: usize = 4;
/// Bytes that are worth a datagram.
const PIECE: f64 = 1200.0;
/// For how long in advance sound may be sent.
const ADVANCE: Duration = Duration::from_millis(500);
/// Bounds one wait: the estimate may have risen since.
const LONGEST: Duration = Duration::from_millis(200);
/// A timer's grain.
const SHORTEST: Duration = Duration::from_millis(1);

#[cfg(test)]
#[path = "bandwidth_allocator_tests.rs"]
mod tests;
