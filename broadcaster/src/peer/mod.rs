//! The peer: serves viewers on the broadcaster's own network straight from the window that publishing reads.
//!
//! Who may watch is the CDN's to say: a viewer shows a ticket that the CDN signed, which is verified here without asking it. Where no CDN
//! can be reached, whoever knows the code on this screen may. What is announced on the network is a name that only those who were
//! told the secret can recognise. No viewer is told of another.

mod admission;
mod bandwidth_allocator;
mod send_order;
mod uplink;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use media::latency::{MAX_UNITS, Stage, TimingReport};
use media::live_window::ReadBatch;
use media::{AccessUnit, Cursor, LiveWindow, Timestamp, TrackKind};
use net::discovery::{Announcer, AnnouncerOptions, own_addresses};
use net::relay::{self, Grant, Proof, RefusalCode, Request, Side};
use net::rtmp::{PeerAdvertisement, TicketIssuer};
use net::trust::{self, Code, Identity, TicketVerifier, pairing, tls};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::broadcast::{Broadcast, Progress};
use crate::stats::Stats;
use send_order::ViewerFirst;
use uplink::Uplink;

/// How viewers on this network are served.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PeerSettings {
    /// Where QUIC is heard; `None` for any port on all interfaces.
    pub listen: Option<SocketAddr>,
    /// Viewers at once.
    pub max_viewers: usize,
    /// Bits per second to all of them together.
    pub bitrate_limit: Option<u64>,
    /// Whether to announce it by mDNS.
    pub announce: bool,
}

/// Why there is no peer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The port is taken, or the address is not ours.
    #[error("cannot serve viewers on this network at {address}: {source}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The system gives no random numbers.
    #[error(transparent)]
    Trust(#[from] trust::Error),
}

/// Serves viewers on this network.
#[derive(Debug)]
pub struct PeerServer {
    endpoint: quinn::Endpoint,
    advertisement: PeerAdvertisement,
    code: Code,
    settings: PeerSettings,
    broadcast: Arc<Broadcast>,
    stats: Arc<Stats>,
    upload: Uplink,
    lead: ViewerFirst,
    admission: Mutex<Admission>,
    /// Becomes true with the first viewer.
    has_viewer: watch::Sender<bool>,
}

/// Who may come in.
#[derive(Debug, Default)]
struct Admission {
    /// For tickets; there is none before a CDN has said what it signs them with.
    verifier: Option<(TicketIssuer, TicketVerifier)>,
    attempts: pairing::AttemptLimiter,
    /// Connections by address, those that are still shaking hands included.
    connections: HashMap<IpAddr, usize>,
}

impl PeerServer {
    /// Listens. To be called within the runtime. `has_viewer` becomes true with the first viewer.
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
        let config = || {
            let mut config = tls::server_config(&identity, relay::wire::ALPN);
            config.transport_config(Arc::new(relay::transport(Side::Server)));
            config.max_incoming(MAX_INCOMING);
            config
        };
        // Both families where the system has both.
        let any: [SocketAddr; 2] = [([0u16; 8], 0).into(), ([0u8; 4], 0).into()];
        let endpoint = match settings.listen {
            Some(address) => bind(config(), address)?,
            None => bind(config(), any[0]).or_else(|_| bind(config(), any[1]))?,
        };
        let port = endpoint.local_addr().map_err(|source| Error::Bind { address: any[0], source })?.port();
        let addresses = match settings.listen {
            Some(address) if !address.ip().is_unspecified() => vec![SocketAddr::new(address.ip(), port)],
            _ => own_addresses(port),
        };
        let advertisement = PeerAdvertisement { pin: identity.pin(), secret: rand::random(), addresses };
        let upload = Uplink::new(settings.bitrate_limit);
        let admission = Mutex::default();
        Ok(Arc::new(Self {
            endpoint,
            advertisement,
            code: Code::generate(),
            settings,
            broadcast,
            stats,
            upload,
            lead: ViewerFirst::new(),
            admission,
            has_viewer,
        }))
    }

    /// What a CDN passes on to viewers that it admits.
    pub fn advertisement(&self) -> &PeerAdvertisement {
        &self.advertisement
    }

    /// What a viewer without a CDN types, and where it connects.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// A CDN says how it lets viewers in.
    pub fn set_ticket_key(&self, tickets: &TicketIssuer) {
        let mut admission = self.admission.lock();
        match &mut admission.verifier {
            // The memory of used tickets stays: after an outage they are as used as before.
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

    /// So many bytes were pushed to the CDN: where viewers share its link, they have what is left.
    pub fn on_pushed(&self, bytes: usize) {
        self.upload.pushed(bytes);
    }

    /// To be waited for before the picture at `position` is pushed: the copy of a viewer that keeps up leaves first. Of several none does: the
    /// push would wait for all of them.
    pub async fn wait_for_viewer(&self, position: u64) {
        if self.upload.flowing() == 1 {
            self.lead.wait(position).await;
        }
    }

    /// Whether a viewer's copies go first over a link that is narrow for them.
    pub fn shares_bottleneck_with_viewer(&self) -> bool {
        self.upload.flowing() == 1 && self.upload.is_narrow()
    }

    /// Bits per second that the link to the CDN takes in all, where viewers take a part of it and make way for what is pushed; `None` where
    /// they do not.
    pub fn link_capacity(&self) -> Option<u64> {
        self.upload.takes()
    }

    /// How long what is pushed to the CDN waits in queues on its way, which takes `way` there and back without them; `None` while there is
    /// no connection. To be told often: a push that tells nothing counts as one that waits.
    pub fn on_push_feedback(&self, wait: Option<Duration>, way: Duration) {
        self.upload.push_waits(wait, way);
    }

    /// Lets viewers in until it is dropped, and announces itself.
    pub async fn serve(self: Arc<Self>) {
        let _announcer = self.settings.announce.then(|| self.announce()).flatten();
        let mut viewers = JoinSet::new();
        loop {
            let incoming = tokio::select! {
                incoming = self.endpoint.accept() => incoming,
                Some(_) = viewers.join_next() => continue,
            };
            let Some(incoming) = incoming else { return };
            let address = incoming.remote_address().ip();
            // An address that is not its own takes no place from others: once some shake hands, whoever comes proves its own first
            // (RFC 9000 §8.1.2).
            if self.must_validate_address(incoming.remote_address_validated()) {
                let _ = incoming.retry();
                continue;
            }
            let Some(permit) = self.clone().try_admit(address) else {
                self.stats.lan_viewers_rejected.increment();
                incoming.refuse();
                continue;
            };
            viewers.spawn(self.clone().viewer(incoming, permit));
        }
    }

    /// Says goodbye to those who watch.
    pub async fn close(&self) {
        self.endpoint.close(quinn::VarInt::from_u32(0), b"the broadcast is over");
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.endpoint.wait_idle()).await;
    }

    fn announce(&self) -> Option<Announcer> {
        let port = self.advertisement.addresses.first()?.port();
        let mut options = AnnouncerOptions::default();
        options.loopback = self.advertisement.addresses.iter().all(|address| address.ip().is_loopback());
        match Announcer::start(&self.advertisement.secret, port, options) {
            Ok(announcer) => Some(announcer),
            Err(error) => {
                tracing::warn!(%error, "viewers on this network cannot find this broadcaster by mDNS");
                None
            }
        }
    }

    fn must_validate_address(&self, is_proven: bool) -> bool {
        let total: usize = self.admission.lock().connections.values().sum();
        !is_proven && total.saturating_sub(self.stats.lan_viewers.value() as usize) >= RETRY_THRESHOLD
    }

    fn try_admit(self: Arc<Self>, address: IpAddr) -> Option<ConnectionPermit> {
        let mut admission = self.admission.lock();
        let total: usize = admission.connections.values().sum();
        let own = admission.connections.entry(address).or_default();
        if *own >= MAX_PER_ADDRESS || total >= self.settings.max_viewers + MAX_PENDING_HANDSHAKES {
            return None;
        }
        *own += 1;
        drop(admission);
        Some(ConnectionPermit { peer: self, address })
    }

    async fn viewer(self: Arc<Self>, incoming: quinn::Incoming, _permit: ConnectionPermit) {
        let asked = async {
            let connection = incoming.await?;
            Ok::<_, relay::Error>((connection.clone(), relay::accept(connection).await?))
        };
        let (connection, request) = match tokio::time::timeout(HANDSHAKE_TIMEOUT, asked).await {
            Ok(Ok(asked)) => asked,
            Ok(Err(error)) => return tracing::debug!(%error, "no viewer after all"),
            Err(_) => return tracing::debug!("a viewer that said nothing"),
        };
        let proof = match self.admit(&request, &connection) {
            Ok(proof) => proof,
            Err((code, reason)) => {
                self.stats.lan_viewers_rejected.increment();
                tracing::warn!(%reason, "refused a viewer on this network");
                return request.refuse(code, &reason).await;
            }
        };
        if self.stats.lan_viewers.value() >= self.settings.max_viewers as u64 || !self.has_upload_capacity() {
            self.stats.lan_viewers_rejected.increment();
            return request.refuse(RefusalCode::Busy, "This broadcaster serves as many viewers as it may.").await;
        }
        self.stats.lan_viewers.increment();
        self.has_viewer.send_replace(true);
        tracing::info!("a viewer on this network");
        let (id, admitted) = self.upload.join();
        let source = ViewerSource { id, admitted, peer: self.clone() };
        let ended = request.serve(Arc::new(source), proof, std::future::pending()).await;
        self.stats.lan_viewers.decrement();
        tracing::info!(?ended, "a viewer on this network left");
    }

    /// Whether a viewer may watch; what proves to it that we know the code, if it came by that.
    fn admit(
        &self,
        request: &Request,
        connection: &quinn::Connection,
    ) -> Result<Option<[u8; 32]>, (RefusalCode, String)> {
        let denied = |reason: String| (RefusalCode::Denied, reason);
        let mut admission = self.admission.lock();
        match &request.proof {
            Proof::Ticket(ticket) => {
                let now = net::clock::unix_seconds();
                let Some((_, verifier)) = &mut admission.verifier else {
                    return Err(denied("this broadcaster has no CDN whose tickets it takes".to_owned()));
                };
                verifier.redeem(ticket, now).map(|()| None).map_err(|refusal| denied(refusal.to_string()))
            }
            Proof::Code(proof) => {
                let exporter = pairing::exporter(connection).map_err(|error| denied(error.to_string()))?;
                let verified = admission.attempts.verify_viewer(&self.code, &exporter, proof, Instant::now());
                verified.map_err(|error| denied(error.to_string()))?;
                Ok(Some(pairing::broadcaster_proof(&self.code, &exporter)))
            }
            Proof::None => Err(denied("a ticket or the code is needed".to_owned())),
        }
    }

    /// Whether the upload limit bears another viewer, as the stream is now.
    fn has_upload_capacity(&self) -> bool {
        let Some(limit) = self.settings.bitrate_limit else { return true };
        let (bytes, duration) = self.broadcast.with_window(|window| (window.bytes() as u64, window.duration()));
        let millis = (duration.as_millis() as u64).max(1);
        let bitrate = if millis < 500 { 0 } else { bytes * 8000 / millis };
        bitrate.saturating_mul(self.stats.lan_viewers.value() + 1) <= limit
    }
}

fn bind(config: quinn::ServerConfig, address: SocketAddr) -> Result<quinn::Endpoint, Error> {
    quinn::Endpoint::server(config, address).map_err(|source| Error::Bind { address, source })
}

/// A connection's place, until it is dropped.
struct ConnectionPermit {
    peer: Arc<PeerServer>,
    address: IpAddr,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut admission = self.peer.admission.lock();
        if let Some(count) = admission.connections.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                admission.connections.remove(&self.address);
            }
        }
    }
}

/// The broadcast, as one viewer's subscription sees it.
struct ViewerSource {
    peer: Arc<PeerServer>,
    /// By which its share is known.
    id: u64,
    /// Whether it has a place.
    admitted: watch::Receiver<bool>,
}

impl Drop for ViewerSource {
    fn drop(&mut self) {
        self.peer.upload.leave(self.id);
    }
}

impl relay::Source for ViewerSource {
    type News = Progress;

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

    fn allow(&self, kind: TrackKind, wanted: usize, queueing: Duration) -> Grant {
        self.peer.upload.ask(self.id, wanted, kind == TrackKind::Audio, queueing)
    }

    fn room(&self) -> Option<watch::Receiver<bool>> {
        Some(self.admitted.clone())
    }

    fn flows(&self, flows: bool) {
        self.peer.upload.flows(self.id, flows);
    }

    fn left_out(&self) {
        self.peer.upload.left_out(self.id);
    }

    fn sent(&self, kind: TrackKind, position: u64, bytes: usize) {
        if kind == TrackKind::Video {
            self.peer.lead.took(position);
        }
        self.peer.stats.lan_bytes.add(bytes as u64);
    }

    fn relayed(&self, unit: &AccessUnit) {
        self.peer.broadcast.stamp(unit, Stage::Relayed);
    }

    fn stamps(&self, at: Option<Timestamp>) -> Option<TimingReport> {
        let broadcast = &self.peer.broadcast;
        let (now, units) = (broadcast.now(), broadcast.timing_log().sample(MAX_UNITS, at).collect());
        // One clock for all.
        Some(TimingReport { received: now, answered: now, epoch: broadcast.epoch(), broadcaster: None, units })
    }
}

/// From the first packet to the request.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(8);
/// How long viewers may take to hear that it is over.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(200);
/// Handshakes that wait to be looked at.
const MAX_INCOMING: usize = 64;
/// Connections beyond those of viewers: who knocks must be heard before it is known whether it may come in.
const MAX_PENDING_HANDSHAKES: usize = 16;
/// Handshakes under way from which on an address has to be proven: more than a family's viewers that all come at once.
const RETRY_THRESHOLD: usize = 6;
/// One machine's viewers; a flood from one address leaves room for others.
const MAX_PER_ADDRESS: usize = 8;

#[cfg(test)]
mod tests;
