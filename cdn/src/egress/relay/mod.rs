//! The relay protocol: viewers subscribe to live windows over QUIC.
//!
//! Streams are public, as over RTMP and HLS, so subscribers need no ticket. The certificate is generated at start-up; viewers get its pin from
//! the API.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use live::Progress;
use media::latency::TimingReport;
use media::live_window::ReadBatch;
use media::{AccessUnit, Cursor, LiveWindow, Timestamp, TrackKind};
use net::connection_limit::ConnectionLimiter;
use net::connection_slots::{ConnectionSlot, ConnectionSlots, Evictable};
use net::listen::{ListenAddress, canonical};
use net::relay::{self, Delivery, RefusalCode, Side, StreamSource, SubscriptionObserver};
use net::trust::{Identity, Pin, tls};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::hub::{Hub, HubStream};

/// Connection limits, and the secret of the endpoint.
#[derive(Clone, Copy)]
pub struct RelaySettings {
    /// Maximum number of connections at once.
    pub max_connections: usize,
    /// Maximum number of connections at once from one address; loopback is exempt.
    pub max_per_address: usize,
    /// Key of stateless reset tokens, the same across restarts: see [`relay::endpoint_config`].
    pub secret: [u8; 32],
}

/// The relay endpoint of one server, bound but not serving yet.
#[derive(Debug)]
pub struct Relay {
    endpoint: quinn::Endpoint,
    pin: Pin,
    slots: Arc<ConnectionSlots>,
}

impl Relay {
    /// Binds `address`. Call it within a tokio runtime.
    ///
    /// # Errors
    /// If the address cannot be bound, or if the system provides no random numbers.
    pub fn bind(address: ListenAddress, settings: RelaySettings) -> anyhow::Result<Self> {
        let identity = Identity::generate()?;
        let mut config = tls::server_config(&identity, relay::wire::ALPN);
        config.transport_config(Arc::new(relay::transport(Side::Server)));
        // Bounds pending handshakes too: further Initial packets are dropped, and clients retransmit them.
        config.max_incoming(MAX_INCOMING);
        let socket = address.bind_udp()?;
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint = quinn::Endpoint::new(relay::endpoint_config(&settings.secret), Some(config), socket, runtime)?;
        let limiter = ConnectionLimiter::new(settings.max_connections, settings.max_per_address);
        // An idle subscription is a viewer's fallback: it is worth more than a connection that has requested nothing.
        let slots = ConnectionSlots::new(limiter, 0, Evictable::Undeclared);
        Ok(Self { endpoint, pin: identity.pin(), slots })
    }

    /// The UDP address that it is bound to.
    ///
    /// # Errors
    /// If the socket cannot report it.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// SHA-256 of its certificate, which clients verify.
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// The slots of its connections.
    pub fn slots(&self) -> &Arc<ConnectionSlots> {
        &self.slots
    }

    /// Ends [`serve`](Self::serve) as an error of the endpoint does.
    #[cfg(test)]
    pub(crate) fn close(&self) {
        self.endpoint.close(quinn::VarInt::from_u32(0), b"");
    }

    /// Serves subscribers until `stop` is cancelled; then closes their connections and returns when all are closed.
    pub async fn serve(self, hub: Arc<Hub>, stop: CancellationToken) {
        let subscribers = TaskTracker::new();
        loop {
            let incoming = tokio::select! {
                () = stop.cancelled() => break,
                incoming = self.endpoint.accept() => incoming,
            };
            let Some(incoming) = incoming else { break };
            let peer = canonical(incoming.remote_address());
            // Under load, validate the client's address before allocating state for it, or evicting another client for it.
            let is_loaded = self.slots.undeclared() >= RETRY_THRESHOLD || self.slots.is_full();
            if is_loaded && !incoming.remote_address_validated() {
                let _ = incoming.retry();
                continue;
            }
            let slot = match self.slots.try_acquire(peer.ip()) {
                Ok(slot) => slot,
                Err(reason) => {
                    tracing::debug!(%peer, %reason, "connection rejected");
                    incoming.refuse();
                    continue;
                }
            };
            let span = tracing::info_span!("relay", %peer);
            let (hub, stop) = (hub.clone(), stop.clone());
            subscribers.spawn(
                async move {
                    tokio::select! {
                        () = slot.evicted() => tracing::debug!("disconnected: another connection needed the slot"),
                        () = subscriber(incoming, Arc::new(slot), hub, stop) => {}
                    }
                }
                .instrument(span),
            );
        }
        subscribers.close();
        subscribers.wait().await;
        self.endpoint.close(quinn::VarInt::from_u32(0), b"the server is shutting down");
        self.endpoint.wait_idle().await;
    }
}

async fn subscriber(incoming: quinn::Incoming, slot: Arc<ConnectionSlot>, hub: Arc<Hub>, stop: CancellationToken) {
    let asked = async {
        let connection = incoming.await?;
        relay::accept(connection).await
    };
    let request = match tokio::time::timeout(HANDSHAKE_TIMEOUT, asked).await {
        Ok(Ok(request)) => request,
        Ok(Err(error)) => return tracing::debug!(%error, "handshake or request failed"),
        Err(_) => return tracing::debug!("handshake or request timed out"),
    };
    let Some(stream) = hub.stream(&request.name) else {
        return request.refuse(RefusalCode::UnknownStream, "There is no such stream.").await;
    };
    // It waits until it starts.
    if slot.set_subscriber(true).is_err() {
        return request.refuse(RefusalCode::Busy, "This server is at its limit of subscribers.").await;
    }
    let _viewer = stream.subscriber("relay");
    tracing::debug!(stream = stream.name(), "subscriber connected");
    let source = Arc::new(SubscriberSource { stream: stream.clone(), slot });
    let delivery = Delivery::new(source.clone()).observed_by(source);
    // Of a removed stream, an idle subscription too.
    let stopped = async {
        tokio::select! {
            () = stop.cancelled() => {}
            () = stream.removed() => {}
        }
    };
    let ended = request.serve(delivery, None, stopped).await;
    tracing::debug!(reason = %ended, "subscriber disconnected");
}

/// A stream of the hub as the source of one subscription.
struct SubscriberSource {
    stream: Arc<HubStream>,
    slot: Arc<ConnectionSlot>,
}

impl StreamSource for SubscriberSource {
    type Change = Progress;

    fn read(&self, cursor: &mut Cursor, max_bytes: usize) -> ReadBatch {
        self.stream.read(cursor, max_bytes)
    }

    fn with_window<T>(&self, look: impl FnOnce(&LiveWindow) -> T) -> T {
        self.stream.with_window(look)
    }

    fn changed(&self) -> watch::Receiver<Progress> {
        self.stream.changed()
    }

    fn timing(&self, at: Option<Timestamp>) -> Option<TimingReport> {
        self.stream.latency().report(at)
    }
}

impl SubscriptionObserver for SubscriberSource {
    fn on_active(&self, active: bool) {
        // It fails only after an eviction, which ends the subscription.
        let _ = self.slot.set_subscriber(!active);
    }

    fn on_sent(&self, _kind: TrackKind, _position: u64, bytes: usize) {
        self.stream.count_sent(bytes as u64);
    }

    fn on_first_send(&self, unit: &AccessUnit) {
        self.stream.latency().on_relayed(unit, "relay");
    }
}

/// Bounds the time from the first packet to the request.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of handshakes that wait to be accepted.
const MAX_INCOMING: usize = 1024;
/// Number of connections without a request from which on new clients' addresses are validated by Retry (RFC 9000 §8.1.2): one more round trip, as
/// protection against floods with spoofed addresses.
const RETRY_THRESHOLD: usize = 256;
