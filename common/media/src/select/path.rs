//! One path as the selection sees it: whether it is open, what comes by it, and how it did before.

use std::time::Duration;

use super::arrival_stats::ActivePath;
use super::config::SelectorConfig;
use super::{Action, PathKind};
use crate::path_merge::PathId;

#[derive(Debug)]
pub(super) struct Path {
    pub(super) id: PathId,
    pub(super) kind: PathKind,
    pub(super) state: State,
    /// Failures in a row.
    pub(super) failures: u32,
    /// Not to be opened before this.
    pub(super) not_before: Duration,
    /// False alarms, and when the last one was.
    pub(super) alarms: u32,
    pub(super) alarmed: Duration,
    /// Its server has no room for us.
    pub(super) is_crowded: bool,
    /// It once had none: what it leaves out counts.
    pub(super) was_crowded: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    Closed,
    /// Connecting, or asked to flow: nothing has come yet.
    Opening {
        since: Duration,
        idle: bool,
        /// Connected: it is the stream that has not begun.
        answered: bool,
    },
    Idle,
    Flowing(ActivePath),
}

impl Path {
    pub(super) fn new(id: PathId, kind: PathKind) -> Self {
        Self {
            id,
            kind,
            state: State::Closed,
            failures: 0,
            not_before: Duration::ZERO,
            alarms: 0,
            alarmed: Duration::ZERO,
            is_crowded: false,
            was_crowded: false,
        }
    }

    pub(super) fn flow(&self) -> Option<ActivePath> {
        match self.state {
            State::Flowing(flow) => Some(flow),
            _ => None,
        }
    }

    /// Since when it brings what a path is to bring before others are let go for it.
    pub(super) fn proving_since(&self, flow: &ActivePath) -> Duration {
        if self.was_crowded { flow.whole_since } else { flow.since }
    }

    /// Whether it is idle and its server has room.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state, State::Idle) && !self.is_crowded
    }

    /// Has it flow: opened if it is closed, told to if it is idle.
    pub(super) fn start(&mut self, now: Duration) -> Action {
        let was_idle = matches!(self.state, State::Idle);
        self.is_crowded &= was_idle;
        self.state = State::Opening { since: now, idle: false, answered: false };
        if was_idle { Action::Start(self.id) } else { Action::Open(self.id) }
    }

    pub(super) fn fail(&mut self, settings: &SelectorConfig, now: Duration) {
        let wait = settings.retry_min.saturating_mul(1 << self.failures.min(16)).min(settings.retry_max);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + wait;
        self.state = State::Closed;
        self.is_crowded = false;
    }
}
