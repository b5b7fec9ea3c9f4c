//! The right to write to a stream. There is one at a time: whoever gets the next takes over.

use std::sync::Arc;

use media::{AccessUnit, Catalog, Timestamp};
use tokio::sync::watch;

use super::high_water::HighWaterMarks;
use super::live_stream::LiveStream;

/// Who publishes, for people and monitoring. Holds no secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublisherInfo {
    /// Its address.
    pub peer: String,
    /// What it calls itself.
    pub agent: Option<String>,
    /// How it came.
    pub protocol: &'static str,
}

/// Why a publisher must go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevokeReason {
    /// Another came with the same key.
    TakenOver,
    /// The stream was taken away.
    KeyRevoked,
    /// The server is going.
    ShuttingDown,
}

/// What became of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushOutcome {
    /// It is in the window.
    Accepted {
        /// How many units the stream had before it.
        position: u64,
    },
    /// The stream had it.
    Duplicate,
    /// Its publisher was dismissed.
    Revoked,
}

/// The right to write to a stream, until it is dropped or somebody takes over. Dropping it means that the publisher vanished.
#[derive(Debug)]
pub struct PublishGuard {
    stream: Arc<LiveStream>,
    writer: u64,
    high_water: HighWaterMarks,
    revoked: watch::Receiver<Option<RevokeReason>>,
    is_unpublished: bool,
}

impl PublishGuard {
    pub(super) fn new(
        stream: Arc<LiveStream>,
        writer: u64,
        high_water: HighWaterMarks,
        revoked: watch::Receiver<Option<RevokeReason>>,
    ) -> Self {
        Self { stream, writer, high_water, revoked, is_unpublished: false }
    }

    /// The stream.
    pub fn stream(&self) -> &Arc<LiveStream> {
        &self.stream
    }

    /// What the stream had when this publisher came: where it may resume.
    pub fn high_water(&self) -> &HighWaterMarks {
        &self.high_water
    }

    /// Adds a unit, in decode order within its track. One that the stream has is dropped and counted. `predecessor_dts` is the unit that it
    /// follows in the broadcast: see [`LiveWindow::push`](media::LiveWindow::push).
    pub fn push(&self, catalog: &Arc<Catalog>, unit: AccessUnit, predecessor_dts: Option<Timestamp>) -> PushOutcome {
        self.stream.push(self.writer, catalog, unit, predecessor_dts)
    }

    /// Why this publisher must go, if it must.
    pub fn revoke_reason(&self) -> Option<RevokeReason> {
        *self.revoked.borrow()
    }

    /// Waits until this publisher must go. Cancel safe.
    pub async fn revoked(&self) -> RevokeReason {
        let mut revoked = self.revoked.clone();
        let why = revoked.wait_for(Option::is_some).await.ok().and_then(|why| *why);
        // The sender goes with the stream's `Writer`, and that goes by a dismissal or by this guard's own end.
        why.unwrap_or(RevokeReason::KeyRevoked)
    }

    /// Gives the right back: the publisher said that it is done.
    pub fn unpublish(mut self) {
        self.is_unpublished = true;
    }
}

impl Drop for PublishGuard {
    fn drop(&mut self) {
        self.stream.on_disconnect(self.writer, self.is_unpublished);
    }
}
