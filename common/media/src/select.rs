//! The selection: which paths a viewer runs, as pure policy.
//!
//! Paths stand on a ladder, best first. The viewer starts on the best that may be tried; when the path in use falls silent or
//! fails, the next is opened beside it, and the first to bring units is kept; while on a lower rung, better ones are tried again
//! from time to time, beside the path in use, so that a climb costs nothing if it fails. Each failure doubles the time before
//! a path is tried again, and success must last before it is forgotten: that is what damps flapping.
//!
//! Time is a [`Duration`] since any fixed point, on a clock that only rises. The splice makes the merge seamless; this decides
//! only what is open.

use std::time::Duration;

use crate::splice::PathId;
use crate::time::Timestamp;

/// What kind of path it is; the order is the ladder, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathKind {
    /// RTMP from a server.
    Rtmp,
    /// HLS from a server.
    Hls,
}

/// What the caller is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect this path and push its units into the splice.
    Open(PathId),
    /// Disconnect this path.
    Close(PathId),
}

/// The policy's constants, changeable for tests and experiments.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// A path that has not brought a unit this long after it was opened has failed, if there is another to try.
    pub start: Duration,
    /// Silence is this many usual intervals between units, and at least `silence_floor`.
    pub silence_intervals: f64,
    /// Arrival in bursts (an HLS segment, a slow link) is not silence.
    pub silence_floor: Duration,
    /// First wait before a path that failed is tried again; doubles with each failure in a row.
    pub retry_min: Duration,
    /// The longest such wait.
    pub retry_max: Duration,
    /// How long a better path must flow before the worse one is closed, and any path before its failures are forgotten.
    pub prove: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(5),
            silence_intervals: 3.0,
            silence_floor: Duration::from_millis(500),
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(30),
            prove: Duration::from_secs(2),
        }
    }
}

/// Chooses among paths. See the module's text.
#[derive(Debug)]
pub struct Selector {
    settings: Settings,
    /// Best first.
    ladder: Vec<Path>,
}

#[derive(Debug)]
struct Path {
    id: PathId,
    kind: PathKind,
    state: State,
    /// Failures in a row.
    failures: u32,
    /// Not to be opened before this.
    not_before: Duration,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed,
    Opening { since: Duration },
    Flowing { since: Duration, last: Duration, newest: Timestamp, interval: Duration },
}

impl Path {
    fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed)
    }

    fn flows_since(&self) -> Option<Duration> {
        match self.state {
            State::Flowing { since, .. } => Some(since),
            _ => None,
        }
    }

    fn newest(&self) -> Option<Timestamp> {
        match self.state {
            State::Flowing { newest, .. } => Some(newest),
            _ => None,
        }
    }
}

impl Selector {
    /// A selection among `paths`, none of them open.
    pub fn new(settings: Settings, paths: impl IntoIterator<Item = (PathId, PathKind)>) -> Self {
        let closed = |(id, kind)| Path { id, kind, state: State::Closed, failures: 0, not_before: Duration::ZERO };
        let mut ladder: Vec<_> = paths.into_iter().map(closed).collect();
        ladder.sort_by_key(|p| p.kind);
        Self { settings, ladder }
    }

    /// A unit came by `path`.
    pub fn arrived(&mut self, path: PathId, now: Duration, dts: Timestamp) {
        let Some(path) = self.ladder.iter_mut().find(|p| p.id == path) else { return };
        path.state = match path.state {
            // A path that was closed a moment ago may still deliver.
            State::Closed => return,
            State::Opening { .. } => State::Flowing { since: now, last: now, newest: dts, interval: Duration::ZERO },
            State::Flowing { since, last, newest, interval } => {
                let step = now.saturating_sub(last);
                // The longest usual step, slowly forgotten: bursts are part of how a path delivers.
                let interval = step.max(interval.mul_f64(0.95));
                State::Flowing { since, last: now, newest: newest.max(dts), interval }
            }
        };
    }

    /// `path` failed: it could not be opened, or it ended.
    pub fn failed(&mut self, path: PathId, now: Duration) {
        let settings = self.settings;
        if let Some(path) = self.ladder.iter_mut().find(|p| p.id == path) {
            path.fail(&settings, now);
        }
    }

    /// What is to be done now. Call it after each [`failed`](Self::failed), when a path brings its first unit, and at
    /// [`deadline`](Self::deadline).
    pub fn poll(&mut self, now: Duration) -> Vec<Action> {
        let settings = self.settings;
        let mut actions = Vec::new();
        let is_alone = self.ladder.len() == 1;
        for path in &mut self.ladder {
            match path.state {
                // With nothing else to try, patience costs nothing: the stream may not have begun.
                State::Opening { since } if now >= since + settings.start && !is_alone => {
                    path.fail(&settings, now);
                    actions.push(Action::Close(path.id));
                }
                State::Flowing { since, .. } if now >= since + settings.prove => path.failures = 0,
                _ => {}
            }
        }
        self.close_what_is_surpassed(now, &mut actions);
        if let Some(path) = self.wanted(now) {
            self.ladder[path].state = State::Opening { since: now };
            actions.push(Action::Open(self.ladder[path].id));
        }
        actions
    }

    /// When [`poll`](Self::poll) next has something to do, if nothing happens before.
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        let best_flowing = self.ladder.iter().position(|p| p.flows_since().is_some());
        let opening = self.ladder.iter().any(|p| matches!(p.state, State::Opening { .. }));
        let times = self.ladder.iter().enumerate().filter_map(|(n, path)| match path.state {
            State::Opening { since } => (self.ladder.len() > 1).then_some(since + self.settings.start),
            State::Flowing { since, .. } if now < since + self.settings.prove => Some(since + self.settings.prove),
            State::Flowing { .. } => (self.ladder.len() > 1).then(|| self.silent_at(path)).flatten(),
            State::Closed if opening => None,
            State::Closed => (best_flowing.is_none_or(|best| n < best)).then_some(path.not_before),
        });
        times.filter(|at| *at > now).min()
    }

    /// The rung to open now: one at a time.
    fn wanted(&self, now: Duration) -> Option<usize> {
        if self.ladder.iter().any(|p| matches!(p.state, State::Opening { .. })) {
            return None;
        }
        let audible = |p: &Path| self.silent_at(p).is_some_and(|at| now < at);
        let limit = self.ladder.iter().position(audible).unwrap_or(self.ladder.len());
        self.ladder[..limit].iter().position(|p| !p.is_open() && p.not_before <= now)
    }

    fn silent_at(&self, path: &Path) -> Option<Duration> {
        let State::Flowing { last, interval, .. } = path.state else { return None };
        Some(last + interval.mul_f64(self.settings.silence_intervals).max(self.settings.silence_floor))
    }

    /// Closes a path when another makes it superfluous: a better one that has proved itself and is as new, or any that is newer
    /// while it is silent.
    fn close_what_is_surpassed(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let settings = self.settings;
        let silent: Vec<bool> = self.ladder.iter().map(|p| self.silent_at(p).is_some_and(|at| now >= at)).collect();
        for n in 0..self.ladder.len() {
            let Some(newest) = self.ladder[n].newest() else { continue };
            let is_silent = silent[n];
            let surpassed = self.ladder.iter().enumerate().any(|(other, path)| {
                let Some(since) = path.flows_since().filter(|_| other != n && !silent[other]) else { return false };
                let is_proved = other < n && now >= since + settings.prove && path.newest() >= Some(newest);
                is_proved || (is_silent && path.newest() > Some(newest))
            });
            if surpassed {
                match is_silent {
                    true => self.ladder[n].fail(&settings, now),
                    false => self.ladder[n].state = State::Closed,
                }
                actions.push(Action::Close(self.ladder[n].id));
            }
        }
    }
}

impl Path {
    fn fail(&mut self, settings: &Settings, now: Duration) {
        let wait = settings.retry_min.saturating_mul(1 << self.failures.min(16)).min(settings.retry_max);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + wait;
        self.state = State::Closed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTMP: PathId = PathId(1);
    const HLS: PathId = PathId(2);

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn both() -> Selector {
        Selector::new(Settings::default(), [(HLS, PathKind::Hls), (RTMP, PathKind::Rtmp)])
    }

    /// A unit every 40 ms from `from` to `to`, `behind` ms behind the live edge.
    fn flow(selector: &mut Selector, path: PathId, from: u64, to: u64, behind: i64) -> Vec<Action> {
        let mut actions = Vec::new();
        for at in (from..to).step_by(40) {
            selector.arrived(path, ms(at), Timestamp::from_millis(at as i64 - behind));
            actions.extend(selector.poll(ms(at)));
        }
        actions
    }

    #[test]
    fn starts_on_the_best() {
        let mut selector = both();
        assert_eq!(selector.poll(ms(0)), [Action::Open(RTMP)]);
        assert_eq!(selector.poll(ms(1)), []);
        assert_eq!(flow(&mut selector, RTMP, 100, 20_000, 0), []);
    }

    #[test]
    fn falls_to_the_next_and_climbs_back_when_better_is_proved() {
        let mut selector = both();
        selector.poll(ms(0));
        selector.failed(RTMP, ms(10));
        assert_eq!(selector.poll(ms(10)), [Action::Open(HLS)]);
        assert_eq!(flow(&mut selector, HLS, 20, 1000, 0), []);
        assert_eq!(selector.deadline(ms(1000)), Some(ms(1010)));
        assert_eq!(flow(&mut selector, HLS, 1020, 1100, 0), [Action::Open(RTMP)]);
        let mut actions = Vec::new();
        for at in (1100..4000).step_by(40) {
            actions.extend(flow(&mut selector, HLS, at, at + 1, 0));
            actions.extend(flow(&mut selector, RTMP, at, at + 1, 0));
        }
        assert_eq!(actions, [Action::Close(HLS)]);
    }

    #[test]
    fn silence_opens_another_and_the_first_that_is_newer_stays() {
        let mut selector = both();
        selector.poll(ms(0));
        flow(&mut selector, RTMP, 0, 4000, 0);
        assert_eq!(selector.deadline(ms(4000)), Some(ms(4460)));
        assert_eq!(selector.poll(ms(4460)), [Action::Open(HLS)]);
        selector.arrived(HLS, ms(4600), Timestamp::from_millis(3000));
        assert_eq!(selector.poll(ms(4600)), [], "an old unit proves nothing");
        selector.arrived(HLS, ms(4700), Timestamp::from_millis(4500));
        assert_eq!(selector.poll(ms(4700)), [Action::Close(RTMP)]);
    }

    #[test]
    fn failures_in_a_row_are_spaced_out() {
        let mut selector = Selector::new(Settings::default(), [(RTMP, PathKind::Rtmp)]);
        let mut now = ms(0);
        let mut waits = Vec::new();
        for _ in 0..7 {
            assert_eq!(selector.poll(now), [Action::Open(RTMP)]);
            selector.failed(RTMP, now);
            let next = selector.deadline(now).unwrap();
            waits.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn a_lone_path_may_wait_for_the_stream_to_begin() {
        let mut selector = Selector::new(Settings::default(), [(HLS, PathKind::Hls)]);
        selector.poll(ms(0));
        assert_eq!((selector.deadline(ms(1)), selector.poll(ms(60_000))), (None, vec![]));
    }

    #[test]
    fn a_path_that_never_starts_gives_way() {
        let mut selector = both();
        selector.poll(ms(0));
        assert_eq!(selector.deadline(ms(0)), Some(ms(5000)));
        assert_eq!(selector.poll(ms(5000)), [Action::Close(RTMP), Action::Open(HLS)]);
    }
}
