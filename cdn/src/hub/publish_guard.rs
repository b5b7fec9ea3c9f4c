//! The right to write to a stream. One publisher holds it at a time; a new one takes it over.

use std::sync::Arc;

use media::{AccessUnit, Catalog, HighWaterMarks, Timestamp};
use tokio::sync::watch;

use super::live_stream::HubStream;
use super::publisher::{PublisherInfo, PushOutcome, RevokeReason};

/// The right to write to a stream, until it is dropped or taken over. Dropping it means that the connection was lost; see
/// [`unpublish`](Self::unpublish) for an orderly end.
#[derive(Debug)]
pub struct PublishGuard {
    stream: Arc<HubStream>,
    writer: u64,
    high_water: HighWaterMarks,
    revoked: watch::Receiver<Option<RevokeReason>>,
    is_unpublished: bool,
}

impl HubStream {
    /// Admits a publisher in place of the current one, which is revoked: from now on only the new publisher's units are accepted. The caller has
    /// authorised it.
    ///
    /// If the stream was removed or the server is shutting down, the guard is revoked from the start: see [`PublishGuard::revoke_reason`].
    pub fn publish(self: &Arc<Self>, info: PublisherInfo) -> PublishGuard {
        let (writer, high_water, revoked) = self.admit(info);
        PublishGuard { stream: self.clone(), writer, high_water, revoked, is_unpublished: false }
    }
}

impl PublishGuard {
    /// The stream that it writes to.
    pub fn stream(&self) -> &Arc<HubStream> {
        &self.stream
    }

    /// The stream's high-water marks when this publisher was admitted: where it may resume.
    pub fn high_water(&self) -> &HighWaterMarks {
        &self.high_water
    }

    /// Adds a unit. Units must be in decode order within their track; a duplicate is dropped and counted. `predecessor_dts` is the DTS of the
    /// preceding unit of the track in the broadcast: see [`LiveWindow::push`](media::LiveWindow::push).
    pub fn push(&self, catalog: &Arc<Catalog>, unit: AccessUnit, predecessor_dts: Option<Timestamp>) -> PushOutcome {
        self.stream.push(self.writer, catalog, unit, predecessor_dts)
    }

    /// Reports how many viewers the publisher serves itself.
    pub fn set_direct_viewers(&self, count: u32) {
        self.stream.set_direct_viewers(self.writer, count);
    }

    /// Why this publisher was revoked; `None` while it was not.
    pub fn revoke_reason(&self) -> Option<RevokeReason> {
        *self.revoked.borrow()
    }

    /// Waits until this publisher is revoked. Cancel safe.
    pub async fn revoked(&self) -> RevokeReason {
        let mut revoked = self.revoked.clone();
        let why = revoked.wait_for(Option::is_some).await.ok().and_then(|why| *why);
        // The sender is dropped with the stream's `Writer`, only by a revocation or when this guard is dropped.
        why.unwrap_or(RevokeReason::KeyRevoked)
    }

    /// Releases the right to write after the publisher has unpublished. Starts the shorter grace period.
    pub fn unpublish(mut self) {
        self.is_unpublished = true;
    }
}

impl Drop for PublishGuard {
    fn drop(&mut self) {
        self.stream.on_disconnect(self.writer, self.is_unpublished);
    }
}
