//! What the serving end needs from its application, one trait for each role: a stream to read, a limit on what one subscriber may be
//! sent, and an observer of the subscription.

use std::sync::Arc;
use std::time::Duration;

use media::latency::TimingReport;
use media::live_window::ReadBatch;
use media::{AccessUnit, Cursor, LiveWindow, Timestamp, TrackKind};
use tokio::sync::watch;

/// A live stream that can be subscribed to.
pub trait StreamSource: Send + Sync + 'static {
    /// The value that [`changed`](Self::changed) carries. The relay looks at the notification only.
    type Change: Send + Sync + 'static;

    /// Reads the units after `cursor`, up to `max_bytes` of payload, and advances it.
    fn read(&self, cursor: &mut Cursor, max_bytes: usize) -> ReadBatch;

    /// Calls `look` with the window. `look` must neither block nor do I/O.
    fn with_window<T>(&self, look: impl FnOnce(&LiveWindow) -> T) -> T;

    /// Notifies when there are new units, or when the stream has ended.
    fn changed(&self) -> watch::Receiver<Self::Change>;

    /// Whether the window will get no more units.
    fn has_ended(&self) -> bool {
        false
    }

    /// When the units up to the one with DTS `at` (or the newest) passed each stage, by this host's clock; `None` if the stream does not record
    /// timing.
    fn timing(&self, _at: Option<Timestamp>) -> Option<TimingReport> {
        None
    }
}

/// Decides how much one subscriber may be sent, and when: a rate limit, or the share of an uplink.
pub trait SendGate: Send + Sync + 'static {
    /// Requests a grant for `wanted` bytes of a unit; granted bytes count as used. `queue_delay` is QUIC's smoothed RTT minus the minimum RTT of
    /// the last seconds on this subscriber's path.
    fn acquire(&self, _kind: TrackKind, wanted: usize, _queue_delay: Duration) -> Grant {
        Grant::Bytes(wanted)
    }

    /// Whether the capacity suffices for this subscriber, as it changes; `None` if capacity is not limited.
    fn capacity_available(&self) -> Option<watch::Receiver<bool>> {
        None
    }
}

/// The answer of a [`SendGate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// This many bytes may be sent now; at least 1.
    Bytes(usize),
    /// Nothing may be sent now: ask again after this time.
    RetryAfter(Duration),
}

/// Observes one subscription. No method may block.
pub trait SubscriptionObserver: Send + Sync + 'static {
    /// The subscription became active (true) or idle (false).
    fn on_active(&self, _active: bool) {}

    /// The unit at `position` of the window was written to QUIC; `bytes` includes its framing.
    fn on_sent(&self, _kind: TrackKind, _position: u64, _bytes: usize) {}

    /// A unit was written to QUIC for the first time, counted over all subscribers of the stream.
    fn on_first_send(&self, _unit: &AccessUnit) {}

    /// One or more units were skipped because they could not be sent in time.
    fn on_dropped(&self) {}
}

/// A gate without a limit: grants every request in full.
impl SendGate for () {}

/// An observer that ignores all events.
impl SubscriptionObserver for () {}

/// The source, gate and observer of one subscription.
#[derive(Debug)]
pub struct Delivery<S, G = (), O = ()> {
    pub(super) source: Arc<S>,
    pub(super) gate: Arc<G>,
    pub(super) observer: Arc<O>,
}

impl<S> Delivery<S> {
    /// Serves `source` without a limit and without an observer.
    pub fn new(source: Arc<S>) -> Self {
        Self { source, gate: Arc::new(()), observer: Arc::new(()) }
    }
}

impl<S, G, O> Delivery<S, G, O> {
    /// Limits what is sent by `gate`.
    #[must_use]
    pub fn gated_by<H>(self, gate: Arc<H>) -> Delivery<S, H, O> {
        Delivery { source: self.source, gate, observer: self.observer }
    }

    /// Reports events to `observer`.
    #[must_use]
    pub fn observed_by<P>(self, observer: Arc<P>) -> Delivery<S, G, P> {
        Delivery { source: self.source, gate: self.gate, observer }
    }
}

impl<S, G, O> Clone for Delivery<S, G, O> {
    fn clone(&self) -> Self {
        Self { source: self.source.clone(), gate: self.gate.clone(), observer: self.observer.clone() }
    }
}
