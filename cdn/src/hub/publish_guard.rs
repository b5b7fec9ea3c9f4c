//! The right to write to a stream. There is one at a time: whoever gets the next takes over.

use std::sync::Arc;

use media::{AccessUnit, Catalog, Timestamp};
use tokio::sync::watch;

use super::high_water::HighWaterMarks;
use super::live_stream::LiveStream;
use super::publisher::{PublisherInfo, PushOutcome, RevokeReason};

/// The right to write to a stream, until it is dropped or somebody takes over. Dropping it means that the publisher vanished.
#[derive(Debug)]
pub struct PublishGuard {
    stream: Arc<LiveStream>,
    writer: u64,
    high_water: HighWaterMarks,
    revoked: watch::Receiver<Option<RevokeReason>>,
    is_unpublished: bool,
}

impl LiveStream {
    /// Lets a publisher in, in the place of the one that was there: from here on only the new one's units are taken, and the
    /// old one hears that it is dismissed. The caller has checked that it may.
    ///
    /// One that comes too late, to a stream that was removed or a server that is going, is dismissed before it begins: see
    /// [`PublishGuard::revoke_reason`].
    pub fn publish(self: &Arc<Self>, info: PublisherInfo) -> PublishGuard {
        let (writer, high_water, revoked) = self.admit(info);
        PublishGuard { stream: self.clone(), writer, high_water, revoked, is_unpublished: false }
    }
}

impl PublishGuard {
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
