//! A path as the supervisor knows it: its task, and how it has fared.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Error;
use super::path::{Discovery, PathDescription, Transport};

/// One path and its task.
pub(super) struct PathTask {
    pub(super) description: PathDescription,
    /// For a path that can be idle: whether it is to deliver units.
    pub(super) active: watch::Sender<bool>,
    /// Number of the current opening.
    pub(super) opening: u64,
    pub(super) task: Option<JoinHandle<()>>,
    /// Whether it has ever delivered a unit.
    pub(super) has_delivered: bool,
    /// The error if another attempt cannot succeed.
    pub(super) permanently_failed: Option<Error>,
    /// Since when its server has known no such stream, and the error that says so.
    pub(super) unknown_stream: Option<(Instant, Error)>,
    /// The last failure that was logged; the same one again is not, until the path has worked.
    pub(super) logged_failure: Option<String>,
}

impl PathTask {
    pub(super) fn new(description: PathDescription) -> Self {
        Self {
            description,
            active: watch::Sender::new(true),
            opening: 0,
            task: None,
            has_delivered: false,
            permanently_failed: None,
            unknown_stream: None,
            logged_failure: None,
        }
    }

    /// Whether there is no hope for it: it can never work, or its server has known no such stream for a while. The latter is tried again
    /// all the same, as long as another path has hope.
    pub(super) fn is_hopeless(&self) -> bool {
        let is_unknown = self.unknown_stream.as_ref().is_some_and(|(since, _)| since.elapsed() >= UNKNOWN_PATIENCE);
        self.permanently_failed.is_some() || is_unknown
    }

    pub(super) fn take_failure(&mut self) -> Option<Error> {
        self.permanently_failed.take().or(self.unknown_stream.take().map(|(_, error)| error))
    }

    pub(super) fn transport(&self) -> &'static Transport {
        self.description.transport
    }

    pub(super) fn discovery(&self) -> Discovery {
        self.description.source.discovery()
    }
}

/// How long a server must keep saying that it knows no such stream before it is believed.
pub(super) const UNKNOWN_PATIENCE: Duration = Duration::from_secs(5);
