//! The hub: the streams that this server holds, by name.
//!
//! The hub knows access units and subscribers, but no protocol. Ingest writes through a [`PublishGuard`], one writer per stream; egress reads
//! with cursors, any number per stream. No lock is held across I/O.

mod latency;
mod live_stream;
mod publish_guard;
mod publisher;
mod reader_deadline;
mod subscribers;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use media::live_window::Bounds;
use net::trace::Trace;
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::auth::ValidKey;
pub use latency::{LatencyTracker, PublisherReport};
pub use live::{Interest, WakerGuard};
pub use live_stream::{Counters, HubStream, Info, PublishState, WindowExtent};
pub use publish_guard::PublishGuard;
pub use publisher::{PublisherInfo, PushOutcome, RevokeReason};
pub use subscribers::SubscriberGuard;

/// Limits and timeouts of every stream of a hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubSettings {
    /// Bounds of each stream's window: media time and bytes.
    pub window: Bounds,
    /// How long a stream waits for its publisher to reconnect after the connection was lost.
    pub grace: Duration,
    /// The same after the publisher has unpublished.
    pub grace_after_unpublish: Duration,
}

/// The streams of this server.
#[derive(Debug)]
pub struct Hub {
    settings: HubSettings,
    trace: Option<Arc<Trace>>,
    streams: RwLock<BTreeMap<String, Arc<HubStream>>>,
    /// Notifies when a stream is opened or removed.
    set_changed: watch::Sender<()>,
    /// Whether the server is shutting down.
    is_draining: AtomicBool,
}

impl Hub {
    /// A hub without streams.
    pub fn new(settings: HubSettings) -> Arc<Self> {
        Self::with_trace(settings, None)
    }

    /// The same, writing a line to `trace` for each unit and stage.
    pub fn with_trace(settings: HubSettings, trace: Option<Arc<Trace>>) -> Arc<Self> {
        Arc::new(Self {
            settings,
            trace,
            streams: RwLock::default(),
            set_changed: watch::Sender::default(),
            is_draining: AtomicBool::new(false),
        })
    }

    /// Limits and timeouts of the streams.
    pub fn settings(&self) -> &HubSettings {
        &self.settings
    }

    /// The stream called `name`, created if it does not exist. The caller has checked that a publish key for `name` exists, which bounds the
    /// number of streams.
    pub fn open(&self, name: &str) -> Arc<HubStream> {
        if let Some(stream) = self.stream(name) {
            return stream;
        }
        let mut streams = self.streams.write();
        let stream = streams
            .entry(name.to_owned())
            .or_insert_with(|| HubStream::new(name, self.settings, self.trace.clone()))
            .clone();
        // Under the lock: a later `block_all` finds this stream in the set.
        if self.is_draining.load(Ordering::SeqCst) {
            stream.block(RevokeReason::ShuttingDown, Instant::now());
        }
        drop(streams);
        self.set_changed.send_replace(());
        stream
    }

    /// The stream called `name`, on air or not.
    pub fn stream(&self, name: &str) -> Option<Arc<HubStream>> {
        self.streams.read().get(name).cloned()
    }

    /// All streams, on air or not, by name.
    pub fn streams(&self) -> Vec<Arc<HubStream>> {
        self.streams.read().values().cloned().collect()
    }

    /// Removes the stream called `name`: its publisher is revoked, and its subscribers see it end.
    pub fn end(&self, name: &str) {
        if let Some(stream) = self.streams.write().remove(name) {
            stream.end(RevokeReason::KeyRevoked, Instant::now());
        }
        self.set_changed.send_replace(());
    }

    /// Notifies when a stream is opened or removed.
    pub fn streams_changed(&self) -> watch::Receiver<()> {
        self.set_changed.subscribe()
    }

    /// Revokes the publishers whose key is no longer valid.
    pub fn revoke_keys(&self, is_valid: impl Fn(&ValidKey) -> bool) {
        for stream in self.streams() {
            let has_key = |publisher: &PublisherInfo| publisher.key.as_ref().is_none_or(&is_valid);
            stream.kick(RevokeReason::KeyRevoked, Instant::now(), |publisher| !has_key(publisher));
        }
    }

    /// Revokes all publishers, and rejects new ones: the server is shutting down. Streams stay open, since they may continue on another server
    /// or after the restart.
    pub fn block_all(&self) {
        self.is_draining.store(true, Ordering::SeqCst);
        for stream in self.streams() {
            stream.block(RevokeReason::ShuttingDown, Instant::now());
        }
    }

    /// Ends the streams whose grace period is over at `now`.
    pub fn sweep(&self, now: Instant) {
        for stream in self.streams() {
            stream.end_if_grace_expired(now);
        }
    }

    /// Calls [`sweep`](Self::sweep) periodically. Never returns.
    pub async fn keep_sweeping(&self) {
        let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            ticks.tick().await;
            self.sweep(Instant::now());
        }
    }
}

/// How late the end of a grace period may be noticed.
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);
