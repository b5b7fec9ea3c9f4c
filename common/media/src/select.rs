//! The selection: which paths a viewer runs, as pure policy.
//!
//! Paths stand on a ladder, best first. The viewer starts on whatever answers first, the best with a head start; while on a lower
//! rung, better ones are tried from time to time beside the path in use, so that a climb costs nothing if it fails. What stands
//! ready for the moment when the path in use falls silent is the [`Mode`]'s choice. Silence is told by the path's own arrivals: a path
//! that is usually even is missed within two pictures, one that comes in bursts is given the time of its bursts.
//!
//! A path that falls silent is not given up at once: the fallback flows beside it, and if it comes back before the fallback was of any
//! use the alarm was a false one. False alarms make the next come later, as far as the viewer's buffer hides it; where it does not, they keep
//! the fallback flowing for longer. Each failure doubles the time before a path is tried again, and success must last before it is
//! forgotten. That is what damps flapping.
//!
//! A path whose server says that it has no room is left as soon as another flows, stays open, and is taken again when there is room. Without another it is kept.
//!
//! Time is a [`Duration`] since any fixed point, on a clock that only rises. The splice makes the merge seamless; this decides
//! only what is open and what flows.

mod arrival_stats;
mod config;
mod path;

use std::time::Duration;

use self::arrival_stats::{ActivePath, ArrivalStats};
pub use self::config::{Mode, SelectorConfig};
use self::path::{Path, State};
use crate::access_unit::TrackKind;
use crate::path_merge::PathId;
use crate::time::Timestamp;

/// What kind of path it is; the order is the ladder, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathKind {
    /// The relay protocol from the broadcaster, on the same network.
    Peer,
    /// The relay protocol from a server.
    Relay,
    /// RTMP from a server.
    Rtmp,
    /// HLS from a server by parts, as they are made.
    LowLatencyHls,
    /// HLS from a server by whole segments.
    Hls,
}

impl PathKind {
    /// Whether a path of this kind can be open, let in and silent, one round trip from flowing.
    pub const fn can_idle(self) -> bool {
        matches!(self, Self::Peer | Self::Relay)
    }

    /// The shortest silence that is one, however even the path was: scheduling alone takes some.
    const fn silence_floor(self) -> Duration {
        match self {
            Self::Peer => Duration::from_millis(40),
            Self::Relay => Duration::from_millis(60),
            Self::Rtmp => Duration::from_millis(300),
            // Three parts of a fifth of a second, and a round trip.
            Self::LowLatencyHls => Duration::from_millis(700),
            // Three segments.
            Self::Hls => Duration::from_secs(6),
        }
    }
}

/// What the caller is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect this path and push its units into the splice.
    Open(PathId),
    /// Connect this path, but have it send nothing.
    OpenIdle(PathId),
    /// Have an idle path send from the first unit that is lacking.
    Start(PathId),
    /// Have a path send nothing any more, and stay connected.
    Stop(PathId),
    /// Disconnect this path.
    Close(PathId),
}

/// Chooses among paths. See the module's text.
#[derive(Debug)]
pub struct Selector {
    settings: SelectorConfig,
    /// Best first.
    ladder: Vec<Path>,
    /// Silence that nobody sees.
    hidden: Duration,
}

impl Selector {
    /// A selection among `paths`, none of them open.
    pub fn new(settings: SelectorConfig, paths: impl IntoIterator<Item = (PathId, PathKind)>) -> Self {
        let mut selector = Self { settings, ladder: Vec::new(), hidden: Duration::ZERO };
        for (id, kind) in paths {
            selector.add(id, kind);
        }
        selector
    }

    /// There is another path. The caller gives no number twice.
    pub fn add(&mut self, id: PathId, kind: PathKind) {
        let at = self.ladder.partition_point(|other| other.kind <= kind);
        self.ladder.insert(at, Path::new(id, kind));
    }

    /// There is a path no more; the caller has closed it.
    pub fn remove(&mut self, id: PathId) {
        self.ladder.retain(|path| path.id != id);
    }

    /// Whether there is such a path.
    pub fn has(&self, id: PathId) -> bool {
        self.ladder.iter().any(|path| path.id == id)
    }

    /// A path may be tried again at once: there is news of it.
    pub fn forgive(&mut self, id: PathId) {
        if let Some(path) = self.path(id) {
            path.not_before = Duration::ZERO;
        }
    }

    /// A unit came by `path`; with the time of the unit that it follows, if the path says so.
    pub fn arrived(&mut self, path: PathId, now: Duration, kind: TrackKind, dts: Timestamp, after: Option<Timestamp>) {
        // Who was missed for good reason was made up for by another.
        let is_made_up =
            |flow: &ActivePath| flow.of(kind).is_some_and(|rhythm| self.is_newer_elsewhere(path, kind, rhythm));
        let is_made_up = self.ladder.iter().any(|p| p.id == path && p.flow().as_ref().is_some_and(is_made_up));
        let Some(path) = self.path(path) else { return };
        match &mut path.state {
            // A path that was let go a moment ago may still deliver.
            State::Closed | State::Idle => {}
            State::Opening { .. } => path.state = State::Flowing(ActivePath::begin(now, kind, dts)),
            State::Flowing(flow) => {
                let is_missed = flow.of(kind).is_some_and(|rhythm| rhythm.is_missed);
                flow.arrived(now, kind, dts, after);
                if is_missed && !is_made_up {
                    if path.alarmed + ALARMS_FORGOTTEN < now {
                        path.alarms = 0;
                    }
                    (path.alarms, path.alarmed) = (path.alarms.saturating_add(1), now);
                }
            }
        }
    }

    /// Another broadcast has begun, whose times have nothing to do with those before: what any path brings of it is newer.
    pub fn begin_anew(&mut self) {
        for path in &mut self.ladder {
            if let State::Flowing(flow) = &mut path.state {
                flow.rhythms_mut().for_each(|(_, rhythm)| rhythm.newest = Timestamp::from_millis(i64::MIN));
            }
        }
    }

    /// `path` is connected. Where nothing flows at all, it may wait for the stream to begin.
    pub fn answered(&mut self, path: PathId) {
        if let Some(Path { state: State::Opening { answered, .. }, .. }) = self.path(path) {
            *answered = true;
        }
    }

    /// `path` is connected and idle, as asked.
    pub fn ready(&mut self, path: PathId) {
        if let Some(path) = self.path(path)
            && matches!(path.state, State::Opening { idle: true, .. })
        {
            path.state = State::Idle;
        }
    }

    /// `path` failed: it could not be opened, or it ended.
    pub fn failed(&mut self, path: PathId, now: Duration) {
        let settings = self.settings;
        if let Some(path) = self.path(path) {
            path.fail(&settings, now);
        }
    }

    /// The server at the other end of `path` has room for us, or has none.
    pub fn room(&mut self, path: PathId, has_room: bool) {
        if let Some(path) = self.path(path) {
            path.is_crowded = !has_room && !matches!(path.state, State::Closed);
            path.was_crowded |= path.is_crowded;
        }
    }

    /// Units are missing on `path` that another might bring: what is idle is asked for them.
    pub fn lacks(&mut self, path: PathId, now: Duration) -> Vec<Action> {
        let idle = self.ladder.iter_mut().find(|p| p.id != path && p.is_ready());
        idle.map(|idle| idle.start(now)).into_iter().collect()
    }

    /// The viewer's buffer hides silence of so long: false alarms may make a path's patience that long, and no longer.
    pub fn set_hidden(&mut self, hidden: Duration) {
        self.hidden = hidden;
    }

    /// How long `path` may bring nothing before it is silent, as its arrivals go; `None` while it does not flow.
    pub fn patience(&self, path: PathId) -> Option<Duration> {
        let path = self.ladder.iter().find(|p| p.id == path)?;
        let flow = path.flow()?;
        flow.rhythms().map(|(_, rhythm)| self.patience_for(path, &flow, rhythm)).min()
    }

    /// How many paths bring units or were asked to, and how many stand ready.
    pub fn running(&self) -> (usize, usize) {
        let flows = |path: &&Path| matches!(path.state, State::Flowing(_) | State::Opening { idle: false, .. });
        let is_idle = |path: &&Path| matches!(path.state, State::Idle);
        (self.ladder.iter().filter(flows).count(), self.ladder.iter().filter(is_idle).count())
    }

    /// Whether `path` is silent, as its arrivals go.
    pub fn is_silent(&self, path: PathId, now: Duration) -> bool {
        self.ladder.iter().any(|p| p.id == path && self.silent_at(p).is_some_and(|at| now >= at))
    }

    /// What is to be done now. Call it after each [`failed`](Self::failed) and [`ready`](Self::ready), when a path brings units, and
    /// at [`deadline`](Self::deadline).
    pub fn poll(&mut self, now: Duration) -> Vec<Action> {
        let settings = self.settings;
        let mut actions = Vec::new();
        let is_alone = self.ladder.len() == 1;
        let flows = self.ladder.iter().any(|path| matches!(path.state, State::Flowing(_)));
        for path in &mut self.ladder {
            match path.state {
                // With nothing else to try, or nothing that flows either, patience costs nothing: the stream may not have begun.
                State::Opening { since, answered, .. }
                    if now >= since + settings.start && !is_alone && (flows || !answered) =>
                {
                    path.fail(&settings, now);
                    actions.push(Action::Close(path.id));
                }
                State::Flowing(flow) if now >= flow.since + settings.prove => path.failures = 0,
                _ => {}
            }
        }
        self.excuse_what_the_broadcast_has_not(now);
        self.let_go_what_is_surpassed(now, &mut actions);
        self.call_what_is_wanted(now, &mut actions);
        self.keep_one_ready(now, &mut actions);
        actions
    }

    /// When [`poll`](Self::poll) next has something to do, if nothing happens before.
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        let is_alone = self.ladder.len() == 1;
        let times = self.ladder.iter().flat_map(|path| match path.state {
            State::Opening { since, .. } if !is_alone => {
                [Some(since + self.settings.head_start), Some(since + self.settings.start)]
            }
            State::Flowing(flow) => {
                let silent_at = self.silent_at(path).filter(|_| !is_alone);
                let next = silent_at.map(|at| if now < at { at } else { at + self.settings.dead });
                [Some(path.proving_since(&flow) + self.settings.prove), next]
            }
            State::Closed => [Some(path.not_before), None],
            State::Opening { .. } | State::Idle => [None, None],
        });
        times.flatten().filter(|at| *at > now).min()
    }

    fn path(&mut self, id: PathId) -> Option<&mut Path> {
        self.ladder.iter_mut().find(|path| path.id == id)
    }

    /// Whether any other path has brought a newer unit of this kind.
    fn is_newer_elsewhere(&self, id: PathId, kind: TrackKind, rhythm: &ArrivalStats) -> bool {
        self.ladder.iter().any(|other| other.id != id && other.flow().is_some_and(|flow| flow.is_newer(kind, rhythm)))
    }

    fn patience_for(&self, path: &Path, flow: &ActivePath, rhythm: &ArrivalStats) -> Duration {
        let floor = path.kind.silence_floor();
        let mut patience = rhythm.step.mul_f64(self.settings.silence_steps).max(floor);
        patience = patience.mul_f64(1.0 + f64::from(path.alarms.min(MAX_ALARMS)) / 2.0);
        if path.kind.can_idle() {
            // What stands ready is asked for next to nothing: better too often than too late to be hidden.
            patience = patience.min((flow.interval().mul_f64(MOST_INTERVALS)).max(self.hidden)).max(floor);
        }
        patience
    }

    /// When its pictures or its sound will have been away for too long.
    fn silent_at(&self, path: &Path) -> Option<Duration> {
        let flow = path.flow()?;
        let awaited = flow.rhythms().filter(|(_, rhythm)| !rhythm.is_excused);
        awaited.map(|(_, rhythm)| rhythm.last + self.patience_for(path, &flow, rhythm)).min()
    }

    /// Pictures that no path has, while sound goes on, or the other way round, are not the path's fault.
    fn excuse_what_the_broadcast_has_not(&mut self, now: Duration) {
        for n in 0..self.ladder.len() {
            let path = &self.ladder[n];
            let Some(mut flow) = path.flow() else { continue };
            let silent_for = |rhythm: &ArrivalStats| {
                now.saturating_sub(rhythm.last).checked_sub(self.patience_for(path, &flow, rhythm))
            };
            let is_heard = flow.rhythms().any(|(_, rhythm)| silent_for(rhythm).is_none());
            let is_absent = |kind, rhythm: &ArrivalStats| {
                silent_for(rhythm).is_some_and(|silence| silence >= self.settings.dead)
                    && !self.is_newer_elsewhere(path.id, kind, rhythm)
            };
            let absent = flow.rhythms().find(|(kind, rhythm)| is_absent(*kind, rhythm)).map(|(kind, _)| kind);
            if let Some(absent) = absent.filter(|_| is_heard) {
                for (_, rhythm) in flow.rhythms_mut().filter(|(kind, _)| *kind == absent) {
                    (rhythm.is_excused, rhythm.is_missed) = (true, false);
                }
                self.ladder[n].state = State::Flowing(flow);
            }
        }
    }

    /// Whether `path` has raised false alarms, the last of them so lately that another must be expected: the fallback goes on beside it.
    fn is_doubtful(&self, path: &Path, now: Duration) -> bool {
        // The first one says nothing yet.
        let steady = self.settings.prove * path.alarms.saturating_sub(1).min(MAX_ALARMS);
        now < path.alarmed + steady
    }

    fn is_audible(&self, path: &Path, now: Duration) -> bool {
        self.silent_at(path).is_some_and(|at| now < at)
    }

    /// How many paths flow where all is well.
    fn wanted(&self) -> usize {
        if self.settings.mode == Mode::Hot { 2 } else { 1 }
    }

    /// Lets a path go when others make it superfluous: as many better ones as are wanted, proved and as new; or any that is newer,
    /// while it is as good as dead.
    fn let_go_what_is_surpassed(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let settings = self.settings;
        for n in (0..self.ladder.len()).rev() {
            let Some(flow) = self.ladder[n].flow() else { continue };
            let others = || self.ladder.iter().enumerate().filter(|(other, _)| *other != n);
            let flows = |path: &Path| path.flow().filter(|_| self.is_audible(path, now));
            let path = &self.ladder[n];
            let is_dead = flow.rhythms().any(|(kind, rhythm)| {
                now >= rhythm.last + self.patience_for(path, &flow, rhythm) + settings.dead
                    && others().any(|(_, path)| flows(path).is_some_and(|other| other.is_newer(kind, rhythm)))
            });
            if is_dead {
                self.ladder[n].fail(&settings, now);
                actions.push(Action::Close(self.ladder[n].id));
                continue;
            }
            let proved = |path: &Path| {
                flows(path).filter(|flow| now >= path.proving_since(flow) + settings.prove && !path.is_crowded)
            };
            if path.is_crowded && others().any(|(_, path)| proved(path).is_some()) {
                let path = &mut self.ladder[n];
                path.state = State::Idle;
                actions.push(Action::Stop(path.id));
                continue;
            }
            let better = others().filter(|(other, path)| {
                *other < n && !self.is_doubtful(path, now) && proved(path).is_some_and(|other| other.covers(&flow))
            });
            if better.count() < self.wanted() {
                continue;
            }
            let has_idle = self.ladder.iter().any(Path::is_ready);
            let path = &mut self.ladder[n];
            if settings.mode == Mode::Warm && path.kind.can_idle() && !has_idle {
                path.state = State::Idle;
                actions.push(Action::Stop(path.id));
            } else {
                path.state = State::Closed;
                actions.push(Action::Close(path.id));
            }
        }
    }

    /// Calls for the next path when none, or too few, can be heard, and for those above the best that can.
    fn call_what_is_wanted(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let audible =
            |selector: &Self, n: usize| selector.is_audible(&selector.ladder[n], now) && !selector.ladder[n].is_crowded;
        let is_anything_heard = self.ladder.iter().any(|path| self.is_audible(path, now));
        let count = (0..self.ladder.len()).filter(|n| audible(self, *n)).count();
        let best = (0..self.ladder.len()).find(|n| audible(self, *n)).unwrap_or(self.ladder.len());
        if count == 0 {
            self.miss_what_is_silent(now);
            // What is idle is the nearest; it need not wait for what is still connecting.
            let is_called =
                self.ladder.iter().any(|p| matches!(p.state, State::Opening { idle: false, since, .. } if p.kind.can_idle() && now < since + self.settings.head_start));
            // A part is better than nothing, and all is better than a part.
            let idle =
                self.ladder.iter_mut().filter(|p| p.is_ready() || !is_anything_heard && matches!(p.state, State::Idle));
            if let Some(idle) = idle.min_by_key(|path| path.is_crowded).filter(|_| !is_called) {
                actions.push(idle.start(now));
                return;
            }
        }
        let head_start = self.settings.head_start;
        let is_new = |path: &Path| matches!(path.state, State::Opening { since, .. } if now < since + head_start);
        if self.ladder.iter().any(is_new) {
            return;
        }
        // An idle path above the best flows again; else the best closed one that may be tried is opened.
        let next = self.ladder[..best].iter_mut().find(|path| match path.state {
            State::Idle => !path.is_crowded,
            State::Closed => path.not_before <= now,
            State::Opening { .. } | State::Flowing(_) => false,
        });
        if let Some(path) = next {
            actions.push(path.start(now));
        }
    }

    fn miss_what_is_silent(&mut self, now: Duration) {
        for n in 0..self.ladder.len() {
            let Some(mut flow) = self.ladder[n].flow() else { continue };
            let silent = flow.rhythms().filter(|(_, rhythm)| {
                now >= rhythm.last + self.patience_for(&self.ladder[n], &flow, rhythm) && !rhythm.is_excused
            });
            let silent: Vec<TrackKind> = silent.map(|(kind, _)| kind).collect();
            for (_, rhythm) in flow.rhythms_mut().filter(|(kind, _)| silent.contains(kind)) {
                rhythm.is_missed = true;
            }
            self.ladder[n].state = State::Flowing(flow);
        }
    }

    /// With a path in use that has proved itself, makes the one below it ready.
    fn keep_one_ready(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let mode = self.settings.mode;
        let is_proved = |path: &Path| {
            path.flow().is_some_and(|flow| now >= flow.since + self.settings.prove) && self.is_audible(path, now)
        };
        let Some(best) = self.ladder.iter().position(is_proved) else { return };
        let is_there = |path: &Path| match path.state {
            State::Closed => false,
            State::Idle | State::Opening { .. } => true,
            State::Flowing(_) => mode == Mode::Hot,
        };
        if mode == Mode::Cold || self.ladder[best + 1..].iter().any(is_there) {
            return;
        }
        let next = self.ladder[best + 1..].iter_mut().find(|path| {
            let fits = mode == Mode::Hot || path.kind.can_idle();
            fits && matches!(path.state, State::Closed) && path.not_before <= now
        });
        if let Some(path) = next {
            let idle = mode == Mode::Warm;
            path.state = State::Opening { since: now, idle, answered: false };
            actions.push(if idle { Action::OpenIdle(path.id) } else { Action::Open(path.id) });
        }
    }
}

/// Where a unit comes every so often, silence of so many times that is one: noticed within three, the look of it included.
const MOST_INTERVALS: f64 = 2.5;
/// False alarms stretch a path's patience by half of it each, up to this many.
const MAX_ALARMS: u32 = 6;
/// A path without a false alarm for so long is an even one again.
const ALARMS_FORGOTTEN: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
