//! What is known of the push: its delay, and what of it is delivered. Pure: the caller passes the time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::base_delay::BaseDelay;
use super::delivery_rate::QUEUED;
use super::return_path::{ReturnPath, ServerStamps};
use super::units::{Bytes, Rate};

/// What is known of the push's connection.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PushFeedback {
    /// An RTT that was measured since the last feedback, queueing included.
    pub rtt: Option<Duration>,
    /// The age of the oldest probe without an answer, zero if there is none: the RTT is at least as long.
    pub outstanding: Duration,
    /// Media time from the oldest unit that is not written yet to the newest.
    pub backlog: Duration,
    /// Bytes that the server's host has acknowledged in total; `None` where the system does not tell.
    pub delivered: Option<u64>,
    /// Bytes that were written and wait in this host's socket; `None` where the system does not tell.
    pub unsent: Option<u32>,
    /// A new exchange of clocks with the server.
    pub stamps: Option<ServerStamps>,
}

#[derive(Debug)]
pub(super) struct PushFlow {
    pub(super) is_connected: bool,
    pub(super) delay: BaseDelay,
    pub(super) return_path: ReturnPath,
    pub(super) backlog: Duration,
    delivered: Option<u64>,
    /// The delay at the last update, in seconds.
    pub(super) last_delay: f64,
    /// Bytes sent since the last update.
    pub(super) sent: Bytes,
    /// Averaged over [`MEAN`].
    pub(super) mean: Rate,
    /// The time that the average covers so far.
    averaged: Duration,
    /// The updates of the last [`WINDOW`].
    samples: VecDeque<PushSample>,
    /// When the last bytes were delivered, and whether that was long ago at any time since the last update.
    progress: Option<Instant>,
    is_gap: bool,
    /// Whether less was delivered in the last updates than is sent, evenly.
    is_behind: bool,
    /// The fewest bytes that waited in the socket since the last update, and consecutive updates in which some always did.
    least_unsent: Option<u32>,
    /// The same before the last update.
    last_unsent: u32,
    limited_updates: u32,
}

/// What was measured of the push between two updates.
#[derive(Clone, Copy, Debug)]
struct PushSample {
    at: Instant,
    sent: Bytes,
    delivered: Option<u64>,
    progress: Option<Instant>,
    queue_delay: Duration,
    is_gap: bool,
}

impl PushFlow {
    pub(super) fn new() -> Self {
        Self {
            is_connected: false,
            delay: BaseDelay::default(),
            return_path: ReturnPath::default(),
            backlog: Duration::ZERO,
            delivered: None,
            last_delay: 0.0,
            sent: Bytes::ZERO,
            mean: Rate::ZERO,
            averaged: Duration::ZERO,
            samples: VecDeque::new(),
            progress: None,
            is_gap: false,
            is_behind: false,
            least_unsent: None,
            last_unsent: 0,
            limited_updates: 0,
        }
    }

    /// Feeds what is known of the connection; `None` while it is disconnected.
    pub(super) fn on_feedback(&mut self, feedback: Option<&PushFeedback>, now: Instant) {
        let Some(feedback) = feedback else {
            self.is_connected = false;
            return;
        };
        if !std::mem::replace(&mut self.is_connected, true) {
            // A new connection: what was measured of the previous one does not apply.
            (self.delay, self.return_path) = Default::default();
            (self.mean, self.averaged, self.sent) = (Rate::ZERO, Duration::ZERO, Bytes::ZERO);
            (self.last_delay, self.delivered, self.progress) = (0.0, None, None);
            (self.is_gap, self.is_behind) = (false, false);
            (self.least_unsent, self.last_unsent, self.limited_updates) = (None, 0, 0);
            self.samples.clear();
        }
        if let Some(rtt) = feedback.rtt {
            self.delay.on_rtt(rtt, now);
        }
        self.delay.on_outstanding(feedback.outstanding, now);
        if let Some(stamps) = feedback.stamps {
            self.return_path.on_exchange(stamps, self.delay.queue_delay(now).unwrap_or_default(), now);
        }
        self.backlog = feedback.backlog;
        if feedback.delivered != self.delivered {
            self.progress = Some(now);
        }
        self.is_gap |= self.progress.is_some_and(|at| now.saturating_duration_since(at) > GAP);
        self.delivered = feedback.delivered;
        self.least_unsent = self.least_unsent.into_iter().chain(feedback.unsent).min();
    }

    /// Takes stock of the last `interval`; returns what was sent in it.
    pub(super) fn update(&mut self, interval: Duration, now: Instant) -> Bytes {
        let pushed = std::mem::take(&mut self.sent);
        // At the start the average covers the time so far.
        self.averaged = (self.averaged + interval).min(MEAN);
        let weight = (interval.as_secs_f64() / self.averaged.as_secs_f64()).min(1.0);
        self.mean = self.mean * (1.0 - weight) + (pushed / interval) * weight;
        if self.is_connected {
            self.on_update(pushed, interval, now);
        }
        while self.samples.pop_front_if(|sample| now.saturating_duration_since(sample.at) > WINDOW).is_some() {}
        pushed
    }

    /// Whether less is delivered than is sent, or waits to be sent.
    pub(super) fn is_slow(&self) -> bool {
        self.is_behind || self.limited_updates >= LIMITED_UPDATES
    }

    /// Queueing delay of the uplink alone.
    pub(super) fn queue_delay(&self, now: Instant) -> Duration {
        let queueing = self.delay.queue_delay(now).unwrap_or_default();
        queueing.saturating_sub(self.return_path.queue_delay(now))
    }

    /// Whether the delay may be that of a longer route: after that nothing arrives for a while and then everything, whereas a slow link
    /// delivers evenly, and what it does not take waits here.
    pub(super) fn is_undecided(&self, now: Instant) -> bool {
        self.delay.is_undecided(now) && !self.is_slow()
    }

    /// Whether the connection is so new that what waits may wait for TCP's slow start.
    pub(super) fn is_starting(&self) -> bool {
        self.averaged < STARTS
    }

    /// Adds what was measured in the last `interval`.
    fn on_update(&mut self, sent: Bytes, interval: Duration, now: Instant) {
        let before = self.samples.back().and_then(|sample| sample.delivered);
        if let Some((before, delivered)) = before.zip(self.delivered) {
            let rate = Bytes::new(delivered.saturating_sub(before) as f64) / interval;
            match self.least_unsent.take() {
                // While nothing comes back, as after a change of the route, the connection cannot send. What becomes less is an IDR's rest.
                Some(unsent) if unsent > UNSENT && !self.is_starting() => {
                    self.limited_updates += u32::from(rate > Rate::ZERO && unsent >= self.last_unsent);
                    self.last_unsent = unsent;
                }
                _ => (self.limited_updates, self.last_unsent) = (0, 0),
            }
        }
        let is_gap = std::mem::take(&mut self.is_gap);
        self.is_behind = !is_gap && self.delivers_less();
        if self.is_slow() {
            self.delay.on_queue();
        }
        let queue_delay = self.queue_delay(now);
        self.samples.push_back(PushSample {
            at: now,
            sent,
            delivered: self.delivered,
            progress: self.progress,
            queue_delay,
            is_gap,
        });
    }

    /// Whether less was delivered since [`SLOW_UPDATES`] ago than was sent lately, and no gap is the reason.
    fn delivers_less(&self) -> bool {
        let Some(index) = self.samples.len().checked_sub(SLOW_UPDATES) else { return false };
        let before = self.samples[index];
        let (Some(from), Some(to)) = (before.delivered.zip(before.progress), self.delivered.zip(self.progress)) else {
            return false;
        };
        // The sample tells of a gap before it.
        let is_even = self.samples.range(index..).all(|sample| !sample.is_gap);
        let rate = Bytes::new(to.0.saturating_sub(from.0) as f64) / to.1.saturating_duration_since(from.1).max(UPDATE);
        // What was sent lately may be less than usual, as it is meant to be while a queue drains.
        let lately: Bytes = self.samples.iter().rev().take(LATELY).map(|sample| sample.sent).sum();
        is_even && rate < self.mean.min(lately / (UPDATE * LATELY as u32)) * SLOW
    }

    /// What was sent over the window of [`delivery_rate`](Self::delivery_rate).
    pub(super) fn sent_rate(&self) -> Option<Rate> {
        let (first, last) = self.samples.front().zip(self.samples.back())?;
        let time = last.at.saturating_duration_since(first.at);
        (time >= UPDATE).then(|| self.samples.iter().skip(1).map(|sample| sample.sent).sum::<Bytes>() / time)
    }

    /// The delivery rate over the window. Bytes that were written without increasing the delay were delivered.
    pub(super) fn delivery_rate(&self) -> Option<Rate> {
        let (first, last) = self.samples.front().zip(self.samples.back())?;
        let time = last.at.saturating_duration_since(first.at);
        if time < UPDATE {
            return None;
        }
        // A link with a queue delivers what is acknowledged.
        let is_full = self.samples.iter().all(|sample| sample.queue_delay >= QUEUED);
        if let Some((first, last)) = first.delivered.zip(last.delivered).filter(|_| is_full) {
            return Some(Bytes::new(last.saturating_sub(first) as f64) / time);
        }
        let sent = self.samples.iter().skip(1).map(|sample| sample.sent).sum::<Bytes>();
        let growth = last.queue_delay.as_secs_f64() - first.queue_delay.as_secs_f64();
        let taking = Duration::from_secs_f64((time.as_secs_f64() + growth).max(time.as_secs_f64() / 4.0));
        Some(sent / taking)
    }
}

/// Interval between updates: about that of the delay measurements.
pub(super) const UPDATE: Duration = Duration::from_millis(100);
/// Window of the push's delivery rate.
const WINDOW: Duration = Duration::from_millis(600);
/// Delivering less than this part of what is sent, over so many updates, shows a slow link.
const SLOW: f64 = 0.75;
const SLOW_UPDATES: usize = 2;
/// So many updates in which what waits in the socket did not become less show one, too.
const LIMITED_UPDATES: u32 = 3;
/// Nothing delivered for this long is no slow link, which delivers a packet after the other, but one that is interrupted or became longer.
const GAP: Duration = Duration::from_millis(50);
/// Fewer unsent bytes are packets that the connection is about to send.
const UNSENT: u32 = 3000;
/// A new connection may send less than the link carries for so long: TCP's slow start takes some RTTs.
const STARTS: Duration = Duration::from_millis(1500);
/// Updates that what is sent is averaged over for that.
const LATELY: usize = 4;
/// Averaging time of the push's rate: two keyframe intervals.
const MEAN: Duration = Duration::from_millis(4000);
