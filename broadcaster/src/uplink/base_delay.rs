//! Tells the queueing delay of a path from its base delay, which changes with its route. Pure: the caller passes the time.
//!
//! The base delay is the windowed minimum RTT. Until it expires, a longer route would look like a queue. The two differ in how they come: a
//! queue grows as long as more is sent than the link carries, while a route is longer at once and then stays so. So an RTT that has jumped
//! is undecided for a moment. If it is then level, it is the new base; if it grows on, it is a queue. An IDR on a slow link makes it jump,
//! too, but no more than the IDRs before.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use net::min_rtt::{MIN_RTT_WINDOW, WindowedMinRtt};

/// The base delay of one path, and its queueing delay.
#[derive(Debug, Default)]
pub(super) struct BaseDelay {
    min_rtt: WindowedMinRtt,
    /// The last two RTTs, the latest first.
    last: Option<[Duration; 2]>,
    level: Option<Level>,
    /// Whether the delay is known to be that of a queue, until it has gone.
    is_queue: bool,
    /// When the route was last found to be longer.
    longer_since: Option<Instant>,
    /// How far earlier levels were above the base delay, greatest and oldest first: the bursts of the stream on this path.
    bursts: VecDeque<(Instant, Duration)>,
    /// The age of the oldest probe without an answer, and when that was said.
    outstanding: Option<(Duration, Instant)>,
}

/// A run of RTTs that hardly differ.
#[derive(Clone, Copy, Debug)]
struct Level {
    since: Instant,
    latest: Instant,
    least: Duration,
    most: Duration,
    /// Whether most of what is above the base delay came at once.
    jumped: bool,
}

impl BaseDelay {
    /// Adds the sample `rtt`, which was measured at `now`.
    pub(super) fn on_rtt(&mut self, rtt: Duration, now: Instant) {
        self.min_rtt.update(rtt, now);
        let base = self.min_rtt.value().unwrap_or(rtt);
        let before = self.last.map_or(rtt, |last| last[0]);
        self.last = Some([rtt, before]);
        let above = rtt.saturating_sub(base);
        let tolerance = self.tolerance(above);
        self.is_queue &= above > TOLERANCE;
        match &mut self.level {
            Some(level) if level.least.min(rtt) + tolerance >= level.most.max(rtt) => {
                (level.least, level.most) = (level.least.min(rtt), level.most.max(rtt));
                level.latest = now;
                if level.jumped && now.saturating_duration_since(level.since) >= DECIDES && above > TOLERANCE {
                    let least = level.least;
                    level.jumped = false;
                    self.rebase(least, now);
                    self.longer_since = Some(now);
                }
            }
            _ => {
                self.end_level(base, now);
                let is_new = above > TOLERANCE.max(self.usual_burst().mul_f64(UNUSUAL));
                // Routes do not become longer again and again, as the queue does with each IDR on a link that is just full.
                let is_again = self.longer_since.is_some_and(|at| now.saturating_duration_since(at) < MIN_RTT_WINDOW);
                let jumped =
                    is_new && !self.is_queue && !is_again && rtt.saturating_sub(before) >= above.mul_f64(AT_ONCE);
                self.level = Some(Level { since: now, latest: now, least: rtt, most: rtt, jumped });
            }
        }
    }

    /// Remembers the level that ends as a burst.
    fn end_level(&mut self, base: Duration, now: Instant) {
        if let Some(level) = self.level {
            self.remember_burst(level.most.saturating_sub(base), now);
        }
    }

    fn remember_burst(&mut self, above: Duration, now: Instant) {
        while self.bursts.pop_back_if(|(_, less)| *less <= above).is_some() {}
        self.bursts.push_back((now, above));
        let is_old = |at: Instant| now.saturating_duration_since(at) > MIN_RTT_WINDOW;
        while self.bursts.pop_front_if(|(at, _)| is_old(*at)).is_some() {}
        self.bursts.truncate(MAX_BURSTS);
    }

    fn usual_burst(&self) -> Duration {
        self.bursts.front().map_or(Duration::ZERO, |(_, above)| *above)
    }

    /// The oldest probe without an answer is `age` old; zero if all are answered.
    pub(super) fn on_outstanding(&mut self, age: Duration, now: Instant) {
        self.outstanding = Some((age, now));
    }

    /// The present delay is not a queue of ours: it did not follow when we sent less.
    pub(super) fn on_foreign_queue(&mut self, now: Instant) {
        if let Some([latest, before]) = self.last {
            self.rebase(latest.min(before), now);
        }
    }

    /// The delay is that of a queue, since the link does not take what is sent.
    pub(super) fn on_queue(&mut self) {
        self.is_queue = true;
        if let Some(level) = &mut self.level {
            level.jumped = false;
        }
    }

    /// The base delay; `None` before the first sample.
    pub(super) fn min_rtt(&self) -> Option<Duration> {
        self.min_rtt.value()
    }

    /// The queueing delay: the smaller of the last two RTTs, so that a burst delays one of them only, or the age of the oldest probe
    /// without an answer, above the base delay. Missing news for longer than [`NEWS`] counts as delay. `None` before the first sample.
    pub(super) fn queue_delay(&self, now: Instant) -> Option<Duration> {
        let [latest, before] = self.last?;
        Some(latest.min(before).max(self.age(now)).saturating_sub(self.min_rtt.value()?))
    }

    /// Whether the delay may be that of a longer route.
    pub(super) fn is_undecided(&self, now: Instant) -> bool {
        let (Some([latest, before]), Some(level), Some(base)) = (self.last, self.level, self.min_rtt.value()) else {
            return false;
        };
        // One of the last two may have been an IDR's.
        let is_low = latest.min(before).saturating_sub(base) <= TOLERANCE;
        let waits = now.saturating_duration_since(level.latest) < SILENCE + base;
        let grows = self.age(now) > level.least + self.tolerance(level.least.saturating_sub(base));
        (is_low && waits) || (level.jumped && !grows)
    }

    /// By how much RTTs of a level may differ that is so far `above` the base delay: it is level between the bursts.
    fn tolerance(&self, above: Duration) -> Duration {
        TOLERANCE.max(above.mul_f64(RELATIVE_TOLERANCE)) + self.usual_burst()
    }

    fn age(&self, now: Instant) -> Duration {
        self.outstanding.map_or(Duration::ZERO, |(age, at)| {
            let silent = now.saturating_duration_since(at);
            if silent > NEWS { age + silent } else { age }
        })
    }

    fn rebase(&mut self, rtt: Duration, now: Instant) {
        self.min_rtt = WindowedMinRtt::default();
        self.min_rtt.update(rtt, now);
        self.bursts.clear();
    }
}

/// RTTs that differ by less are level: the noise of scheduling and of frames that meet.
const TOLERANCE: Duration = Duration::from_millis(20);
/// The same relative to the delay above the base.
const RELATIVE_TOLERANCE: f64 = 0.12;
/// A jump is a rise of this part of the delay above the base, between two samples.
const AT_ONCE: f64 = 0.55;
/// A jump is greater than the bursts of the last seconds by this factor: an IDR on a slow link delays as suddenly, and on one that is full,
/// what follows it as long.
const UNUSUAL: f64 = 1.5;
/// Bounds the memory.
const MAX_BURSTS: usize = 64;
/// How long an RTT that has jumped is level until it is the base: some probes, in which a queue would have grown.
const DECIDES: Duration = Duration::from_millis(350);
/// How long there may be no answer, beyond the base delay, until that is a queue: the longest jump of a route and a probe interval.
const SILENCE: Duration = Duration::from_millis(520);
/// Missing news for longer counts as delay: several units' time.
const NEWS: Duration = Duration::from_millis(150);

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends a probe every 100 ms of which each takes `rtt` at the time of sending, in milliseconds, and asks every 20 ms; returns the
    /// longest decided queueing delay from 5 s on and the base delay at the end.
    fn probe(until: u64, rtt: impl Fn(u64) -> u64) -> (u64, u64) {
        let start = Instant::now();
        let mut path = BaseDelay::default();
        let (mut pending, mut longest): (Vec<u64>, _) = (Vec::new(), 0);
        for t in 0..until {
            let now = start + Duration::from_millis(t);
            if t % 100 == 0 {
                pending.push(t);
            }
            while pending.first().is_some_and(|sent| sent + rtt(*sent) <= t) {
                path.on_rtt(Duration::from_millis(t - pending.remove(0)), now);
            }
            if t % 20 == 0 {
                path.on_outstanding(Duration::from_millis(pending.first().map_or(0, |sent| t - sent)), now);
                if t >= 5000 && !path.is_undecided(now) {
                    longest = longest.max(path.queue_delay(now).unwrap().as_millis() as u64);
                }
            }
        }
        (longest, path.min_rtt().unwrap().as_millis() as u64)
    }

    #[test]
    fn a_longer_route_is_no_queue() {
        for step in [50, 100, 160, 250, 400] {
            let (longest, base) = probe(8000, |t| if t < 5000 { 20 } else { 20 + step });
            assert!(longest <= 20 && base == 20 + step, "{step} ms: a queue of {longest} ms, base {base} ms");
        }
    }

    #[test]
    fn a_growing_queue_is_one_soon() {
        for (slope, within) in [(0.2, 1500), (0.5, 1000), (1.0, 900), (2.0, 800)] {
            let rtt = |t: u64| 20 + (t.saturating_sub(5000) as f64 * slope) as u64;
            let (longest, base) = probe(5000 + within, rtt);
            assert!(longest >= 150 && base == 20, "{slope}: {longest} ms, base {base} ms");
        }
    }

    #[test]
    fn a_shorter_route_is_the_base_at_once() {
        assert_eq!(probe(6000, |t| if t < 5000 { 180 } else { 20 }).1, 20);
    }
}
