//! The peer server: serves LAN viewers over QUIC, straight from the window that publishing reads.
//!
//! The CDN authorises viewers: each presents a ticket that the CDN signed, which is verified here offline. Without a CDN, the pairing
//! code that this broadcaster's terminal shows authorises instead. The name advertised by mDNS can be recognised only with a secret
//! that the CDN hands to authorised viewers. No viewer learns of another.

mod send_order;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use live::Progress;
use media::latency::{ClockOffset, MAX_UNITS, Stage, TimingReport};
use media::live_window::ReadBatch;
use media::{AccessUnit, Cursor, LiveWindow, Timestamp, TrackKind};
use net::auth_failures::{AuthFailures, FailureReport};
use net::connection_limit::ConnectionLimiter;
use net::connection_slots::{ConnectionSlot, ConnectionSlots, Evictable};
use net::discovery::{Announcer, AnnouncerOptions, own_addresses};
use net::listen::ListenAddress;
use net::relay::{
    self, Delivery, Grant, Proof, RefusalCode, Request, SendGate, Side, StreamSource, SubscriptionObserver,
};
use net::rtmp::{PeerAdvertisement, TicketIssuer};
use net::trust::{self, Code, Identity, TicketVerifier, pairing, tls};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::broadcast::Broadcast;
use crate::stats::Stats;
use crate::uplink::Rate;
use send_order::ViewerFirst;

/// How LAN viewers are served.
#[derive(Clone, Debug)]
pub struct PeerSettings {
    /// UDP address to listen on; `None`: any free port on all addresses.
    pub listen: Option<ListenAddress>,
    /// Maximum number of viewers at once.
    pub max_viewers: usize,
    /// Maximum bits per second to all viewers together; `None`: no limit.
    pub bitrate_limit: Option<u64>,
    /// Whether to advertise by mDNS.
    pub announce: bool,
    /// Code by which viewers pair without a server; `None`: a random one.
    pub code: Option<Code>,
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The port is in use, or the address is not this machine's.
    #[error("cannot listen for LAN viewers at {address} (--lan-listen; {}): {source}", address.advice(source))]
    Bind {
        /// The address that was given, or that of all interfaces.
        address: ListenAddress,
        /// The system's error.
        source: std::io::Error,
    },
    /// No identity could be generated.
    #[error(transparent)]
    Trust(#[from] trust::Error),
}

/// The server for LAN viewers. Shared by the task that serves, by publishing and by each viewer.
#[derive(Debug)]
pub struct PeerServer {
    endpoint: quinn::Endpoint,
    advertisement: PeerAdvertisement,
    code: Code,
    settings: PeerSettings,
    broadcast: Arc<Broadcast>,
    stats: Arc<Stats>,
    lead: ViewerFirst,
    /// Of the connections that are not admitted yet.
    handshakes: Arc<ConnectionSlots>,
    /// Of the admitted viewers.
    seats: Arc<ConnectionLimiter>,
    admission: Mutex<Admission>,
    /// Of the viewers without a valid ticket or code.
    failures: AuthFailures,
    /// Becomes `true` with the first viewer.
    has_viewer: watch::Sender<bool>,
}

/// State by which viewers are admitted.
#[derive(Debug, Default)]
struct Admission {
    /// Verifies tickets; `None` until a CDN has sent its public key.
    verifier: Option<(TicketIssuer, TicketVerifier)>,
    /// How far the CDN's clock, by which tickets expire, is ahead of this host's, in microseconds.
    cdn_clock_ahead: i64,
    attempts: pairing::AttemptLimiter,
}

impl PeerServer {
    /// Binds the endpoint; [`serve`](Self::serve) accepts connections. Call it within a tokio runtime. `has_viewer` becomes `true` with
    /// the first viewer.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(
        settings: PeerSettings,
        broadcast: Arc<Broadcast>,
        stats: Arc<Stats>,
        has_viewer: watch::Sender<bool>,
    ) -> Result<Arc<Self>, Error> {
        let identity = Identity::generate()?;
        let mut config = tls::server_config(&identity, relay::wire::ALPN);
        config.transport_config(Arc::new(relay::transport(Side::Server)));
        config.max_incoming(MAX_INCOMING);
        let address = settings.listen.unwrap_or(ListenAddress::AnyAddress(0));
        let failed = |source| Error::Bind { address, source };
        let socket = address.bind_udp().map_err(failed)?;
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint = quinn::Endpoint::new(quinn::EndpointConfig::default(), Some(config), socket, runtime);
        let endpoint = endpoint.map_err(failed)?;
        let port = endpoint.local_addr().map_err(failed)?.port();
        let addresses = match address.specific() {
            Some(specific) => vec![SocketAddr::new(specific.ip(), port)],
            None => own_addresses(port),
        };
        let advertisement = PeerAdvertisement { pin: identity.pin(), secret: rand::random(), addresses };
        if let Some(limit) = settings.bitrate_limit {
            broadcast.uplink().limit_viewers(Rate::bits_per_second(limit as f64));
        }
        let handshakes = ConnectionLimiter::with_ipv6_limit(MAX_HANDSHAKES, MAX_PER_ADDRESS, MAX_HANDSHAKES);
        let seats = ConnectionLimiter::with_ipv6_limit(settings.max_viewers, MAX_PER_ADDRESS, settings.max_viewers);
        Ok(Arc::new(Self {
            endpoint,
            advertisement,
            code: settings.code.clone().unwrap_or_else(Code::generate),
            settings,
            broadcast,
            stats,
            lead: ViewerFirst::new(),
            handshakes: ConnectionSlots::new(handshakes, 0, Evictable::Undeclared),
            seats,
            admission: Mutex::default(),
            failures: AuthFailures::default(),
            has_viewer,
        }))
    }

    /// What the CDN hands to authorised viewers: certificate pin, mDNS secret, addresses.
    pub fn advertisement(&self) -> &PeerAdvertisement {
        &self.advertisement
    }

    /// The pairing code for viewers without a CDN.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// Sets the public key by which the CDN's tickets are verified, on each connection to a CDN.
    pub fn set_ticket_key(&self, tickets: &TicketIssuer) {
        let mut admission = self.admission.lock();
        match &mut admission.verifier {
            // The record of used tickets is kept, so that an outage does not make them valid again.
            Some((known, verifier)) if known.stream == tickets.stream => {
                verifier.set_key(tickets.key);
                known.key = tickets.key;
            }
            verifier => {
                *verifier =
                    Some((tickets.clone(), TicketVerifier::new(tickets.key, &tickets.stream, self.broadcast.epoch().0)))
            }
        }
    }

    /// Sets the measured offset from this host's clock to the CDN's, by which tickets expire.
    pub fn set_cdn_clock(&self, offset: ClockOffset) {
        let mut admission = self.admission.lock();
        let before = std::mem::replace(&mut admission.cdn_clock_ahead, offset.micros);
        let is_far = |micros: i64| micros.unsigned_abs() > NOTICEABLE_OFFSET.as_micros() as u64;
        if is_far(offset.micros) && !is_far(before) {
            let seconds = offset.micros as f64 / 1e6;
            tracing::warn!(
                seconds,
                "this machine's clock is not the server's: latencies are wrong by as much; set it by NTP: sudo timedatectl set-ntp true"
            );
        }
    }

    /// Await this before pushing the frame at `position`: with a single viewer that keeps up, the viewer's copy is sent first. With
    /// several it returns at once, since the push would wait for all of them.
    pub async fn wait_for_viewer(&self, position: u64) {
        if self.broadcast.uplink().active_viewers() == 1 {
            self.lead.wait(position).await;
        }
    }

    /// Whether a single viewer shares a bottleneck with the push, so that its copies are sent first.
    pub fn shares_bottleneck_with_viewer(&self) -> bool {
        let uplink = self.broadcast.uplink();
        uplink.active_viewers() == 1 && uplink.is_narrow()
    }

    /// Accepts viewers, and advertises by mDNS if so set, until the future is dropped or the endpoint is closed.
    pub async fn serve(self: Arc<Self>) {
        let _announcer = self.settings.announce.then(|| self.announce()).flatten();
        let mut viewers = JoinSet::new();
        let mut reports = tokio::time::interval(REPORT_INTERVAL);
        loop {
            let incoming = tokio::select! {
                incoming = self.endpoint.accept() => incoming,
                Some(_) = viewers.join_next() => continue,
                _ = reports.tick() => {
                    self.failures.expire(Instant::now()).into_iter().for_each(|total| log(total, None));
                    continue;
                }
            };
            let Some(incoming) = incoming else { return };
            // Spoofed addresses must not exhaust the limits: with many pending handshakes, address validation by Retry comes first
            // (RFC 9000 §8.1.2).
            if self.handshakes.undeclared() >= RETRY_THRESHOLD && !incoming.remote_address_validated() {
                let _ = incoming.retry();
                continue;
            }
            let slot = match self.handshakes.try_acquire(incoming.remote_address().ip()) {
                Ok(slot) => slot,
                Err(reason) => {
                    tracing::debug!(%reason, "a LAN viewer's connection was rejected");
                    self.stats.lan_viewers_rejected.increment();
                    incoming.refuse();
                    continue;
                }
            };
            viewers.spawn(self.clone().connection(incoming, slot));
        }
    }

    /// Closes all connections, waiting for 200 ms at most.
    pub async fn close(&self) {
        self.failures.finish(Instant::now()).into_iter().for_each(|total| log(total, None));
        self.endpoint.close(quinn::VarInt::from_u32(0), b"the broadcast has ended");
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.endpoint.wait_idle()).await;
    }

    fn announce(&self) -> Option<Announcer> {
        let port = self.advertisement.addresses.first()?.port();
        let mut options = AnnouncerOptions::default();
        options.loopback = self.advertisement.addresses.iter().all(|address| address.ip().is_loopback());
        match Announcer::start(&self.advertisement.secret, port, options) {
            Ok(announcer) => Some(announcer),
            Err(error) => {
                tracing::warn!(%error, "cannot advertise by mDNS: LAN viewers need an address from the server");
                None
            }
        }
    }

    async fn connection(self: Arc<Self>, incoming: quinn::Incoming, slot: ConnectionSlot) {
        let admitted = tokio::select! {
            () = slot.evicted() => return tracing::debug!("a connection without a request was closed: a new one needed its slot"),
            admitted = self.handshake(incoming) => admitted,
        };
        drop(slot);
        let Some((request, proof)) = admitted else { return };
        self.viewer(request, proof).await;
    }

    /// The request of a viewer that is admitted, and our own proof for it.
    async fn handshake(&self, incoming: quinn::Incoming) -> Option<(Request, Option<[u8; 32]>)> {
        let asked = async {
            let connection = incoming.await?;
            Ok::<_, relay::Error>((connection.clone(), relay::accept(connection).await?))
        };
        let (connection, request) = match tokio::time::timeout(HANDSHAKE_TIMEOUT, asked).await {
            Ok(Ok(asked)) => asked,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a LAN viewer's handshake failed");
                return None;
            }
            Err(_) => {
                tracing::debug!("a LAN viewer's handshake timed out");
                return None;
            }
        };
        match self.admit(&request, &connection) {
            Ok(proof) => Some((request, proof)),
            Err((code, reason)) => {
                self.stats.lan_viewers_rejected.increment();
                if let Some(report) = self.failures.on_failure(request.peer().ip(), Instant::now()) {
                    log(report, Some(&reason));
                }
                request.refuse(code, &reason).await;
                None
            }
        }
    }

    async fn viewer(self: Arc<Self>, request: Request, proof: Option<[u8; 32]>) {
        let seat = self.seats.try_acquire(request.peer().ip()).ok().filter(|_| self.has_upload_capacity());
        let Some(_seat) = seat else {
            self.stats.lan_viewers_rejected.increment();
            return request.refuse(RefusalCode::Busy, "This broadcaster is at its limit of LAN viewers.").await;
        };
        self.stats.lan_viewers.increment();
        self.has_viewer.send_replace(true);
        tracing::info!("a LAN viewer connected");
        let (id, admitted) = self.broadcast.uplink().join();
        let source = Arc::new(ViewerSource { id, admitted, peer: self.clone() });
        let delivery = Delivery::new(source.clone()).gated_by(source.clone()).observed_by(source);
        let ended = request.serve(delivery, proof, std::future::pending()).await;
        self.stats.lan_viewers.decrement();
        tracing::info!(reason = %ended, "a LAN viewer disconnected");
    }

    /// Verifies a viewer's ticket or pairing code. For a code, returns our own proof of knowing it.
    fn admit(
        &self,
        request: &Request,
        connection: &quinn::Connection,
    ) -> Result<Option<[u8; 32]>, (RefusalCode, String)> {
        let denied = |reason: String| (RefusalCode::Denied, reason);
        let mut admission = self.admission.lock();
        match &request.proof {
            Proof::Ticket(ticket) => {
                let ahead = admission.cdn_clock_ahead / 1_000_000;
                let now = net::clock::unix_seconds().saturating_add_signed(ahead);
                let Some((_, verifier)) = &mut admission.verifier else {
                    return Err(denied("this broadcaster accepts no tickets: it is not connected to a CDN".to_owned()));
                };
                verifier.redeem(ticket, now).map(|()| None).map_err(|refusal| denied(refusal.to_string()))
            }
            Proof::Code(proof) => {
                let exporter = pairing::exporter(connection).map_err(|error| denied(error.to_string()))?;
                let verified = admission.attempts.verify_viewer(&self.code, &exporter, proof, Instant::now());
                verified.map_err(|error| match error {
                    // The viewer's code may be right.
                    trust::Error::TooManyAttempts => (RefusalCode::Busy, error.to_string()),
                    error => denied(error.to_string()),
                })?;
                Ok(Some(pairing::broadcaster_proof(&self.code, &exporter)))
            }
            Proof::None => Err(denied("a ticket or the pairing code is required".to_owned())),
        }
    }

    /// Whether the bitrate limit has room for another viewer at the stream's current bitrate.
    fn has_upload_capacity(&self) -> bool {
        let Some(limit) = self.settings.bitrate_limit else { return true };
        let (bytes, duration) = self.broadcast.with_window(|window| (window.bytes() as u64, window.duration()));
        let millis = (duration.as_millis() as u64).max(1);
        let bitrate = if millis < 500 { 0 } else { bytes * 8000 / millis };
        bitrate.saturating_mul(self.stats.lan_viewers.value() + 1) <= limit
    }
}

/// Logs failures of an address; `reason` is that of the last one.
fn log(report: FailureReport, reason: Option<&str>) {
    let FailureReport { address, is_of_many, failures, within } = report;
    let seconds = within.as_secs();
    if is_of_many {
        tracing::warn!(failures, seconds, reason, "LAN viewers from further addresses rejected");
    } else {
        tracing::warn!(%address, failures, seconds, reason, "LAN viewer rejected");
    }
}

/// The broadcast as the source of one viewer's subscription.
struct ViewerSource {
    peer: Arc<PeerServer>,
    /// The viewer's number in the uplink's allocation.
    id: u64,
    /// Whether the uplink has capacity for it.
    admitted: watch::Receiver<bool>,
}

impl Drop for ViewerSource {
    fn drop(&mut self) {
        self.peer.broadcast.uplink().leave(self.id);
    }
}

impl StreamSource for ViewerSource {
    type Change = Progress;

    fn read(&self, cursor: &mut Cursor, max_bytes: usize) -> ReadBatch {
        self.peer.broadcast.with_window(|window| cursor.read(window, max_bytes))
    }

    fn with_window<T>(&self, look: impl FnOnce(&LiveWindow) -> T) -> T {
        self.peer.broadcast.with_window(look)
    }

    fn changed(&self) -> watch::Receiver<Progress> {
        self.peer.broadcast.changed()
    }

    fn has_ended(&self) -> bool {
        self.peer.broadcast.changed().borrow().ended
    }

    fn timing(&self, at: Option<Timestamp>) -> Option<TimingReport> {
        let broadcast = &self.peer.broadcast;
        let (now, units) = (broadcast.now(), broadcast.timing_log().sample(MAX_UNITS, at).collect());
        // The server's clock is the broadcaster's.
        Some(TimingReport { received: now, answered: now, epoch: broadcast.epoch(), broadcaster: None, units })
    }
}

impl SendGate for ViewerSource {
    fn acquire(&self, kind: TrackKind, wanted: usize, queue_delay: Duration) -> Grant {
        self.peer.broadcast.uplink().acquire(self.id, wanted, kind == TrackKind::Audio, queue_delay)
    }

    fn capacity_available(&self) -> Option<watch::Receiver<bool>> {
        Some(self.admitted.clone())
    }
}

impl SubscriptionObserver for ViewerSource {
    fn on_active(&self, active: bool) {
        self.peer.broadcast.uplink().set_active(self.id, active);
    }

    fn on_sent(&self, kind: TrackKind, position: u64, bytes: usize) {
        if kind == TrackKind::Video {
            self.peer.lead.took(position);
        }
        self.peer.stats.lan_bytes.add(bytes as u64);
    }

    fn on_first_send(&self, unit: &AccessUnit) {
        self.peer.broadcast.stamp(unit, Stage::Relayed);
    }

    fn on_dropped(&self) {
        self.peer.broadcast.uplink().on_dropped(self.id);
    }
}

/// The offset of the CDN's clock above which a warning is logged. NTP keeps clocks far below it.
const NOTICEABLE_OFFSET: Duration = Duration::from_secs(2);
/// Bounds the time from the first packet to the request.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(8);
/// Bounds closing the connections at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(200);
/// How late a report of failures may be.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Incoming connections that wait to be accepted.
const MAX_INCOMING: usize = 64;
/// Connections that are not admitted yet. When there are as many, each new one evicts the oldest of the address that has the most.
const MAX_HANDSHAKES: usize = 64;
/// Pending handshakes from which on addresses are validated: more than a household's viewers that join at once.
const RETRY_THRESHOLD: usize = 6;
/// Connections from one IPv4 address: enough for one machine's viewers, while a flood from one address leaves room for others. An IPv6 /64
/// may be the whole local network, so that as many are allowed from it as there may be viewers.
const MAX_PER_ADDRESS: usize = 8;

#[cfg(test)]
mod tests;
