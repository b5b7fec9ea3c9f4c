//! Path selection: decides which paths of a viewer are open, idle or active. Pure policy.
//!
//! Paths are in order of preference ([`PathProfile`]). The viewer starts on the first path that answers, with a head start for the preferred
//! one. While it plays from a less preferred path, it periodically tries the preferred ones in parallel, so that a failed attempt does no harm.
//! [`Mode`] selects which fallback is on standby in case the active path stalls.
//!
//! A path is stalled when it delivers nothing for its stall timeout, which follows from its own arrivals: 2.5 frame intervals on a path that
//! delivers evenly, longer on one that delivers in bursts. A stalled path is not closed at once: the fallback runs in parallel. If the path
//! recovers before the fallback has delivered anything newer, it was a false alarm. False alarms raise the stall timeout, as far as the
//! viewer's buffer covers it, and keep the fallback running for longer. Each failure doubles the time until a path is tried again, and a path
//! must deliver for a probation period before its failures are forgotten. Both damp flapping.
//!
//! A path that is silent for long although no other one is live is opened again: otherwise the last path would be kept for good. That holds for one
//! that has never delivered too, after growing times, since its stream may not have begun.
//!
//! If a path's server reports that it has no capacity, the viewer leaves the path as soon as another one delivers. The path stays open, and is
//! used again when there is capacity. If it is the only path, it is kept.
//!
//! Time is a [`Duration`] since any fixed point, on a monotonic clock. [`path_merge`](crate::path_merge) merges the paths without a gap.

mod arrival_stats;
mod config;
mod path;
mod path_profile;

use std::time::Duration;

use self::arrival_stats::{ActivePath, ArrivalStats};
pub use self::config::{Mode, SelectorConfig};
pub use self::path::Action;
use self::path::{Path, State};
pub use self::path_profile::PathProfile;
use crate::access_unit::TrackKind;
use crate::path_merge::PathId;
use crate::time::Timestamp;

/// Decides which paths are open and which of them send. See the module documentation.
#[derive(Debug)]
pub struct Selector {
    config: SelectorConfig,
    /// The paths in order of preference.
    paths: Vec<Path>,
    /// How much media the viewer's buffer holds: a stall of this duration is not visible.
    buffered: Duration,
}

impl Selector {
    /// A selector over `paths`, all closed. The order of equal ranks is kept.
    pub fn new(config: SelectorConfig, paths: impl IntoIterator<Item = (PathId, PathProfile)>) -> Self {
        let mut selector = Self { config, paths: Vec::new(), buffered: Duration::ZERO };
        for (id, profile) in paths {
            selector.add(id, profile);
        }
        selector
    }

    /// Adds a path. The caller must not reuse an id.
    pub fn add(&mut self, id: PathId, profile: PathProfile) {
        let at = self.paths.partition_point(|other| other.profile.rank <= profile.rank);
        self.paths.insert(at, Path::new(id, profile));
    }

    /// Removes a path. The caller has closed it.
    pub fn remove(&mut self, id: PathId) {
        self.paths.retain(|path| path.id != id);
    }

    /// Whether a path with this id was added and not removed.
    pub fn contains(&self, id: PathId) -> bool {
        self.paths.iter().any(|path| path.id == id)
    }

    /// Lets a path be opened again at once, for example because discovery has found its server again.
    pub fn reset_backoff(&mut self, id: PathId) {
        if let Some(path) = self.path(id) {
            path.retry_at = Duration::ZERO;
        }
    }

    /// A unit arrived on `path`. `predecessor` is the DTS of the unit of the same track that it follows, if the path states it.
    pub fn on_unit(
        &mut self,
        path: PathId,
        now: Duration,
        kind: TrackKind,
        dts: Timestamp,
        predecessor: Option<Timestamp>,
    ) {
        // If another path has delivered newer units meanwhile, the stall was real: no false alarm.
        let is_covered =
            |active: &ActivePath| active.track(kind).is_some_and(|stats| self.is_newer_elsewhere(path, kind, stats));
        let is_covered = self.paths.iter().any(|p| p.id == path && p.active().as_ref().is_some_and(is_covered));
        let Some(path) = self.path(path) else { return };
        match &mut path.state {
            // A path that was just closed or stopped may still deliver units.
            State::Closed | State::Idle => {}
            State::Opening { .. } => {
                path.state = State::Active(ActivePath::begin(now, kind, dts));
                path.vain_openings = 0;
            }
            State::Active(active) => {
                let stalled = active.track(kind).is_some_and(|stats| stats.stalled);
                active.arrived(now, kind, dts, predecessor);
                if stalled && !is_covered {
                    if path.last_false_alarm + FALSE_ALARM_MEMORY < now {
                        path.false_alarms = 0;
                    }
                    (path.false_alarms, path.last_false_alarm) = (path.false_alarms.saturating_add(1), now);
                }
            }
        }
    }

    /// A new epoch has begun. Its timestamps cannot be compared with those before: the first unit on any path counts as newer.
    pub fn on_new_epoch(&mut self) {
        for path in &mut self.paths {
            if let State::Active(active) = &mut path.state {
                active.tracks_mut().for_each(|(_, stats)| stats.newest = Timestamp::from_millis(i64::MIN));
            }
        }
    }

    /// `path` is connected but has no units yet. While no path delivers, it may wait for the stream to start; it is opened again now and then.
    pub fn on_connected(&mut self, path: PathId) {
        if let Some(Path { state: State::Opening { connected, .. }, .. }) = self.path(path) {
            *connected = true;
        }
    }

    /// `path` was not opened because its stream is not on air, and is being opened again without a backoff.
    pub fn on_reopened(&mut self, path: PathId, now: Duration) {
        if let Some(path) = self.path(path) {
            path.state = State::Opening { since: now, idle: false, connected: false };
        }
    }

    /// `path` is connected and idle, as requested by [`Action::OpenIdle`].
    pub fn on_idle(&mut self, path: PathId) {
        if let Some(path) = self.path(path)
            && matches!(path.state, State::Opening { idle: true, .. })
        {
            path.state = State::Idle;
        }
    }

    /// `path` could not be opened, or has ended. It is retried after a backoff that doubles with each failure in a row.
    pub fn on_failed(&mut self, path: PathId, now: Duration) {
        let config = self.config;
        if let Some(path) = self.path(path) {
            path.back_off(&config, now);
        }
    }

    /// The server of `path` reports whether it has capacity for this viewer.
    pub fn on_capacity(&mut self, path: PathId, available: bool) {
        if let Some(path) = self.path(path) {
            path.no_capacity = !available && !matches!(path.state, State::Closed);
            path.had_no_capacity |= path.no_capacity;
        }
    }

    /// Units are missing on `path`. Starts an idle path, which may have them.
    pub fn on_gap(&mut self, path: PathId, now: Duration) -> Vec<Action> {
        let idle = self.paths.iter_mut().find(|p| p.id != path && p.is_standby());
        idle.map(|idle| idle.start(now)).into_iter().collect()
    }

    /// Sets how much media the viewer has buffered. False alarms may raise the stall timeout of a path up to this duration.
    pub fn set_buffered(&mut self, buffered: Duration) {
        self.buffered = buffered;
    }

    /// How long `path` may deliver nothing before it counts as stalled; `None` while it is not active.
    pub fn stall_timeout(&self, path: PathId) -> Option<Duration> {
        let path = self.paths.iter().find(|p| p.id == path)?;
        let active = path.active()?;
        active.tracks().map(|(_, stats)| self.stall_timeout_for(path, &active, stats)).min()
    }

    /// Number of paths that deliver or were started, and number of idle paths.
    pub fn running(&self) -> (usize, usize) {
        let flows = |path: &&Path| matches!(path.state, State::Active(_) | State::Opening { idle: false, .. });
        let is_idle = |path: &&Path| matches!(path.state, State::Idle);
        (self.paths.iter().filter(flows).count(), self.paths.iter().filter(is_idle).count())
    }

    /// Whether `path` is active and its stall timeout has passed.
    pub fn is_stalled(&self, path: PathId, now: Duration) -> bool {
        self.paths.iter().any(|p| p.id == path && self.stall_deadline(p).is_some_and(|at| now >= at))
    }

    /// The actions that are due now. Call it after each [`on_failed`](Self::on_failed) and [`on_idle`](Self::on_idle), when a path delivers
    /// units, and at [`deadline`](Self::deadline).
    pub fn poll(&mut self, now: Duration) -> Vec<Action> {
        let config = self.config;
        let mut actions = Vec::new();
        let is_alone = self.paths.len() == 1;
        let flows = self.paths.iter().any(|path| matches!(path.state, State::Active(_)));
        for path in &mut self.paths {
            match path.state {
                // Waiting does no harm for a while if no other path can be tried or delivers: the stream may not have started.
                State::Opening { since, connected, .. }
                    if now >= since + config.open_timeout && !is_alone && (flows || !connected) =>
                {
                    path.back_off(&config, now);
                    actions.push(Action::Close(path.id));
                }
                State::Opening { since, idle: false, .. } if now >= since + path.longest_wait(&config) => {
                    path.vain_openings += 1;
                    (path.state, path.retry_at) = (State::Closed, now);
                    actions.push(Action::Close(path.id));
                }
                State::Active(active) if now >= active.since + config.probation => path.failures = 0,
                _ => {}
            }
        }
        self.mark_absent_tracks(now);
        self.close_superseded(now, &mut actions);
        self.close_silent(now, &mut actions);
        self.open_fallback(now, &mut actions);
        self.ensure_standby(now, &mut actions);
        actions
    }

    /// When to call [`poll`](Self::poll) next if no event occurs before; `None` if no timer is running.
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        let is_alone = self.paths.len() == 1;
        let times = self.paths.iter().flat_map(|path| match path.state {
            State::Opening { since, idle, .. } => {
                let among_others = [self.config.head_start, self.config.open_timeout].map(|after| since + after);
                let wait = (!idle).then(|| since + path.longest_wait(&self.config));
                let [head_start, open_timeout] = among_others.map(|at| Some(at).filter(|_| !is_alone));
                [head_start, open_timeout, wait]
            }
            State::Active(active) => {
                let (dead_after, reopen_after) = (self.config.dead_after, self.config.reopen_after);
                let next = self.stall_deadline(path).and_then(|at| {
                    let times = if is_alone { [None, None] } else { [Some(at), Some(at + dead_after)] };
                    times.into_iter().flatten().chain([at + reopen_after]).find(|at| now < *at)
                });
                [Some(path.probation_start(&active) + self.config.probation), next, None]
            }
            State::Closed => [Some(path.retry_at), None, None],
            State::Idle => [None; 3],
        });
        times.flatten().filter(|at| *at > now).min()
    }

    fn path(&mut self, id: PathId) -> Option<&mut Path> {
        self.paths.iter_mut().find(|path| path.id == id)
    }

    /// Whether any other path has delivered a newer unit of this kind.
    fn is_newer_elsewhere(&self, id: PathId, kind: TrackKind, stats: &ArrivalStats) -> bool {
        self.paths
            .iter()
            .any(|other| other.id != id && other.active().is_some_and(|active| active.is_newer(kind, stats)))
    }

    fn stall_timeout_for(&self, path: &Path, active: &ActivePath, stats: &ArrivalStats) -> Duration {
        let floor = path.profile.min_stall_timeout;
        let mut stall_timeout = stats.max_gap.mul_f64(self.config.stall_factor).max(floor);
        stall_timeout = stall_timeout.mul_f64(1.0 + f64::from(path.false_alarms.min(MAX_FALSE_ALARMS)) / 2.0);
        if path.profile.can_idle {
            // Starting a standby path costs little, so a stall is detected early enough that the buffer hides it, at the cost of false alarms.
            stall_timeout =
                stall_timeout.min((active.frame_interval().mul_f64(STALL_INTERVALS)).max(self.buffered)).max(floor);
        }
        stall_timeout
    }

    /// When its video or its audio, whichever is first, reaches its stall timeout.
    fn stall_deadline(&self, path: &Path) -> Option<Duration> {
        let active = path.active()?;
        let awaited = active.tracks().filter(|(_, stats)| !stats.track_absent);
        awaited.map(|(_, stats)| stats.last + self.stall_timeout_for(path, &active, stats)).min()
    }

    /// If no path has video while audio continues, or the other way round, the track has left the broadcast: the path is not stalled.
    fn mark_absent_tracks(&mut self, now: Duration) {
        for n in 0..self.paths.len() {
            let path = &self.paths[n];
            let Some(mut active) = path.active() else { continue };
            let silent_for = |stats: &ArrivalStats| {
                now.saturating_sub(stats.last).checked_sub(self.stall_timeout_for(path, &active, stats))
            };
            let other_track_live = active.tracks().any(|(_, stats)| silent_for(stats).is_none());
            let is_absent = |kind, stats: &ArrivalStats| {
                silent_for(stats).is_some_and(|silence| silence >= self.config.dead_after)
                    && !self.is_newer_elsewhere(path.id, kind, stats)
            };
            let absent = active.tracks().find(|(kind, stats)| is_absent(*kind, stats)).map(|(kind, _)| kind);
            if let Some(absent) = absent.filter(|_| other_track_live) {
                for (_, stats) in active.tracks_mut().filter(|(kind, _)| *kind == absent) {
                    (stats.track_absent, stats.stalled) = (true, false);
                }
                self.paths[n].state = State::Active(active);
            }
        }
    }

    /// Whether the path had a false alarm so recently that another one is likely: the fallback keeps running in parallel.
    fn is_unreliable(&self, path: &Path, now: Duration) -> bool {
        // The first false alarm does not count.
        let steady = self.config.probation * path.false_alarms.saturating_sub(1).min(MAX_FALSE_ALARMS);
        now < path.last_false_alarm + steady
    }

    fn is_live(&self, path: &Path, now: Duration) -> bool {
        self.stall_deadline(path).is_some_and(|at| now < at)
    }

    /// Number of active paths in normal operation.
    fn wanted_paths(&self) -> usize {
        if self.config.mode == Mode::Hot { 2 } else { 1 }
    }

    /// Closes or stops paths that are no longer needed: when enough preferred paths are past probation and have the same units, or when a path has
    /// been stalled for `dead_after` and another has newer units.
    fn close_superseded(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let config = self.config;
        for n in (0..self.paths.len()).rev() {
            let Some(active) = self.paths[n].active() else { continue };
            let others = || self.paths.iter().enumerate().filter(|(other, _)| *other != n);
            let flows = |path: &Path| path.active().filter(|_| self.is_live(path, now));
            let path = &self.paths[n];
            let is_dead = active.tracks().any(|(kind, stats)| {
                now >= stats.last + self.stall_timeout_for(path, &active, stats) + config.dead_after
                    && others().any(|(_, path)| flows(path).is_some_and(|other| other.is_newer(kind, stats)))
            });
            if is_dead {
                self.paths[n].back_off(&config, now);
                actions.push(Action::Close(self.paths[n].id));
                continue;
            }
            let past_probation = |path: &Path| {
                flows(path).filter(|active| now >= path.probation_start(active) + config.probation && !path.no_capacity)
            };
            if path.no_capacity && others().any(|(_, path)| past_probation(path).is_some()) {
                let path = &mut self.paths[n];
                path.state = State::Idle;
                actions.push(Action::Stop(path.id));
                continue;
            }
            let better = others().filter(|(other, path)| {
                *other < n
                    && !self.is_unreliable(path, now)
                    && past_probation(path).is_some_and(|other| other.covers(&active))
            });
            if better.count() < self.wanted_paths() {
                continue;
            }
            let has_idle = self.paths.iter().any(Path::is_standby);
            let path = &mut self.paths[n];
            if config.mode == Mode::Warm && path.profile.can_idle && !has_idle {
                path.state = State::Idle;
                actions.push(Action::Stop(path.id));
            } else {
                path.state = State::Closed;
                actions.push(Action::Close(path.id));
            }
        }
    }

    /// Closes the active paths that have been silent for `reopen_after` while no path is live. They may be opened again at once.
    fn close_silent(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.paths.iter().any(|path| self.is_live(path, now)) {
            return;
        }
        for n in 0..self.paths.len() {
            let path = &self.paths[n];
            let Some(active) = path.active() else { continue };
            let is_silent = active.tracks().all(|(_, stats)| {
                now >= stats.last + self.stall_timeout_for(path, &active, stats) + self.config.reopen_after
            });
            if is_silent {
                let path = &mut self.paths[n];
                (path.state, path.retry_at) = (State::Closed, now);
                actions.push(Action::Close(path.id));
            }
        }
    }

    /// Opens or starts the next path if none is live, and tries the paths that are preferred over the best live one.
    fn open_fallback(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let live =
            |selector: &Self, n: usize| selector.is_live(&selector.paths[n], now) && !selector.paths[n].no_capacity;
        let any_live = self.paths.iter().any(|path| self.is_live(path, now));
        let count = (0..self.paths.len()).filter(|n| live(self, *n)).count();
        let best = (0..self.paths.len()).find(|n| live(self, *n)).unwrap_or(self.paths.len());
        if count == 0 {
            self.mark_stalled(now);
            // An idle path is one round trip away; it need not wait for one that is still connecting.
            let fallback_opening =
                self.paths.iter().any(|p| matches!(p.state, State::Opening { idle: false, since, .. } if p.profile.can_idle && now < since + self.config.head_start));
            // If no path is live, a path without capacity is better than none; a standby path is preferred.
            let idle = self.paths.iter_mut().filter(|p| p.is_standby() || !any_live && matches!(p.state, State::Idle));
            if let Some(idle) = idle.min_by_key(|path| path.no_capacity).filter(|_| !fallback_opening) {
                actions.push(idle.start(now));
                return;
            }
        }
        let head_start = self.config.head_start;
        let is_new = |path: &Path| matches!(path.state, State::Opening { since, .. } if now < since + head_start);
        if self.paths.iter().any(is_new) {
            return;
        }
        // A preferred idle path is started again; otherwise the most preferred closed one whose backoff is over is opened.
        let next = self.paths[..best].iter_mut().find(|path| match path.state {
            State::Idle => !path.no_capacity,
            State::Closed => path.retry_at <= now,
            State::Opening { .. } | State::Active(_) => false,
        });
        if let Some(path) = next {
            actions.push(path.start(now));
        }
    }

    /// Marks the tracks that have stalled, so that their return is recognised as a false alarm.
    fn mark_stalled(&mut self, now: Duration) {
        for n in 0..self.paths.len() {
            let Some(mut active) = self.paths[n].active() else { continue };
            let silent = active.tracks().filter(|(_, stats)| {
                now >= stats.last + self.stall_timeout_for(&self.paths[n], &active, stats) && !stats.track_absent
            });
            let silent: Vec<TrackKind> = silent.map(|(kind, _)| kind).collect();
            for (_, stats) in active.tracks_mut().filter(|(kind, _)| silent.contains(kind)) {
                stats.stalled = true;
            }
            self.paths[n].state = State::Active(active);
        }
    }

    /// While a path is live and past probation, keeps the next path in order of preference on standby.
    fn ensure_standby(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let mode = self.config.mode;
        let past_probation = |path: &Path| {
            path.active().is_some_and(|active| now >= active.since + self.config.probation) && self.is_live(path, now)
        };
        let Some(best) = self.paths.iter().position(past_probation) else { return };
        let is_there = |path: &Path| match path.state {
            State::Closed => false,
            State::Idle | State::Opening { .. } => true,
            State::Active(_) => mode == Mode::Hot,
        };
        if mode == Mode::Cold || self.paths[best + 1..].iter().any(is_there) {
            return;
        }
        let next = self.paths[best + 1..].iter_mut().find(|path| {
            let fits = mode == Mode::Hot || path.profile.can_idle;
            fits && matches!(path.state, State::Closed) && path.retry_at <= now
        });
        if let Some(path) = next {
            let idle = mode == Mode::Warm;
            path.state = State::Opening { since: now, idle, connected: false };
            actions.push(if idle { Action::OpenIdle(path.id) } else { Action::Open(path.id) });
        }
    }
}

/// A path that can idle is stalled after this many frame intervals without a unit; scheduling delays included, within three.
const STALL_INTERVALS: f64 = 2.5;
/// Each false alarm adds half of the stall timeout, up to this many.
const MAX_FALSE_ALARMS: u32 = 6;
/// After this time without a false alarm, earlier ones are forgotten.
const FALSE_ALARM_MEMORY: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
