//! One path as the selection sees it: its state, its arrivals and its failures.

use std::time::Duration;

use super::arrival_stats::ActivePath;
use super::config::SelectorConfig;
use super::path_profile::PathProfile;
use crate::path_merge::PathId;

/// An action on a path, to be carried out by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect this path and push its units into the path merger.
    Open(PathId),
    /// Connect this path without starting its units.
    OpenIdle(PathId),
    /// Start an idle path, from the first missing unit on.
    Start(PathId),
    /// Stop the units of a path, and keep it connected.
    Stop(PathId),
    /// Disconnect this path.
    Close(PathId),
}

#[derive(Debug)]
pub(super) struct Path {
    pub(super) id: PathId,
    pub(super) profile: PathProfile,
    pub(super) state: State,
    /// Number of consecutive failures, since its last completed probation.
    pub(super) failures: u32,
    /// Number of consecutive openings that waited in vain for a unit.
    pub(super) vain_openings: u32,
    /// End of its backoff: not opened before this.
    pub(super) retry_at: Duration,
    /// Number of false alarms, and the time of the last one.
    pub(super) false_alarms: u32,
    pub(super) last_false_alarm: Duration,
    /// Its server has no capacity for this viewer.
    pub(super) no_capacity: bool,
    /// Its server has had no capacity before: from then on, skipped units restart its probation.
    pub(super) had_no_capacity: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    Closed,
    /// Connecting, or starting: no unit has arrived yet.
    Opening {
        since: Duration,
        idle: bool,
        /// Connected: the stream has not started.
        connected: bool,
    },
    Idle,
    Active(ActivePath),
}

impl Path {
    pub(super) fn new(id: PathId, profile: PathProfile) -> Self {
        Self {
            id,
            profile,
            state: State::Closed,
            failures: 0,
            vain_openings: 0,
            retry_at: Duration::ZERO,
            false_alarms: 0,
            last_false_alarm: Duration::ZERO,
            no_capacity: false,
            had_no_capacity: false,
        }
    }

    pub(super) fn active(&self) -> Option<ActivePath> {
        match self.state {
            State::Active(active) => Some(active),
            _ => None,
        }
    }

    /// The start of its probation: when it last began to deliver, or, after a lack of capacity, to deliver all units.
    pub(super) fn probation_start(&self, active: &ActivePath) -> Duration {
        if self.had_no_capacity { active.complete_since } else { active.since }
    }

    /// Whether it is idle and its server has capacity.
    pub(super) fn is_standby(&self) -> bool {
        matches!(self.state, State::Idle) && !self.no_capacity
    }

    /// Activates it: opens it if it is closed, starts it if it is idle.
    pub(super) fn start(&mut self, now: Duration) -> Action {
        let was_idle = matches!(self.state, State::Idle);
        self.no_capacity &= was_idle;
        self.state = State::Opening { since: now, idle: false, connected: false };
        if was_idle { Action::Start(self.id) } else { Action::Open(self.id) }
    }

    /// How long it may wait for its first unit before it is opened again.
    pub(super) fn longest_wait(&self, config: &SelectorConfig) -> Duration {
        config.reopen_after * (1 << self.vain_openings.min(MAX_DOUBLINGS))
    }

    pub(super) fn back_off(&mut self, config: &SelectorConfig, now: Duration) {
        let wait = config.retry_min.saturating_mul(1 << self.failures.min(16)).min(config.retry_max);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = now + wait;
        self.state = State::Closed;
        self.no_capacity = false;
    }
}

/// Bounds how often the wait for a first unit doubles: viewers that wait for a broadcast to begin must not be a load.
const MAX_DOUBLINGS: u32 = 3;
