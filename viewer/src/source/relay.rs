//! A path by the relay protocol, from a server or from the broadcaster itself: receives groups, returns access units.
//!
//! It can be idle: connected and admitted, without delivering units. When it becomes active, it resumes after the last merged unit.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use media::latency::DeliveryMode;
use media::select::PathProfile;
use net::api::PlaybackInfo;
use net::relay::{self, Event, Proof, RefusalCode, Side, Start};
use net::trust::{Code, Pin, pairing, tls};
use quinn::Endpoint;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};
use tracing::debug;

use super::api_client::ApiClient;
use super::path::{Cost, OpenContext, Opening, PathSource, ServerOffer, Source, Transport};
use super::reach::Reach;
use super::timing_poll::{self, PollSchedule};
use super::{Error, EventSender, PathEvent, Position};

/// The relay protocol from a server.
pub(super) static TRANSPORT: Transport = Transport {
    name: "relay",
    help: "The relay protocol (QUIC) from the server",
    label: "relay",
    profile: PathProfile { rank: 20, can_idle: true, min_stall_timeout: Duration::from_millis(60) },
    delivery: DeliveryMode::Units,
    states_predecessor: true,
    cost: Cost::Server,
    from_url: |_| None,
    from_server,
};

/// A stream at a server's relay endpoint.
#[derive(Clone, Debug)]
struct RelaySource {
    /// Address of the relay as `HOST:PORT`.
    address: String,
    /// The stream's name there.
    name: String,
    /// Of the server's certificate.
    pin: Pin,
}

impl RelaySource {
    /// As the server describes itself; `None` if it offers no relay, or none that can be verified.
    fn parse(info: &PlaybackInfo, name: &str) -> Option<Self> {
        let relay = info.relay.as_ref()?;
        let address = format!("{}:{}", relay.host, relay.port);
        Some(Self { address, name: name.to_owned(), pin: relay.pin.parse().ok()? })
    }

    /// The server's current description, since a restarted server has another certificate. The old description if the server does not respond.
    async fn refreshed(&self, api: &ApiClient) -> Self {
        let info = api.playback_info().await.ok().flatten();
        info.and_then(|info| Self::parse(&info, api.name())).unwrap_or_else(|| self.clone())
    }
}

impl PathSource for RelaySource {
    fn address(&self) -> String {
        format!("{}/{}", self.address, self.name)
    }

    fn open<'a>(&'a self, context: OpenContext, events: &'a EventSender) -> Opening<'a> {
        Box::pin(async move {
            let Self { address, name, pin } = match context.api.as_ref().filter(|_| context.is_reopening) {
                Some(api) => self.refreshed(api).await,
                None => self.clone(),
            };
            let trust = RelayTrust::Pinned { pin, ticket: None };
            let reach = context.http.reach().clone();
            let target = RelayTarget { address: address.clone(), addresses: vec![address], name, reach, trust };
            open(target, context, events).await
        })
    }
}

fn from_server(offer: &ServerOffer<'_>) -> Option<Source> {
    RelaySource::parse(offer.info, offer.api.name()).map(|source| Arc::new(source) as Source)
}

/// An endpoint of the relay protocol, and the stream to subscribe to.
#[derive(Debug)]
pub(super) struct RelayTarget {
    /// Its name in errors and logs.
    pub(super) address: String,
    /// `HOST:PORT` each; the first that answers is used.
    pub(super) addresses: Vec<String>,
    /// The stream's name; empty for the only stream of a broadcaster.
    pub(super) name: String,
    /// Which of their addresses may be used.
    pub(super) reach: Reach,
    /// How both ends authenticate.
    pub(super) trust: RelayTrust,
}

/// How both ends authenticate.
pub(super) enum RelayTrust {
    /// The server by its certificate's pin; the viewer by a ticket, or not at all.
    Pinned { pin: Pin, ticket: Option<String> },
    /// Both by the pairing code on the broadcaster's screen.
    Code(Arc<Code>),
}

/// Shows neither ticket nor code.
impl std::fmt::Debug for RelayTrust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pinned { .. } => "Pinned",
            Self::Code(_) => "Code",
        })
    }
}

/// Subscribes at `target` and delivers units while the context says so, until the connection fails or the broadcast is over (`Ok`).
///
/// # Errors
/// [`Error::Unreachable`] without a UDP socket or where no address answers; [`Error::WrongCode`] and [`Error::Impostor`] if the other end
/// does not know the pairing code; [`Error::Relay`] for what happens on the connection.
pub(super) async fn open(target: RelayTarget, context: OpenContext, events: &EventSender) -> Result<(), Error> {
    let Some(endpoint) = context.endpoint else {
        return Err(Error::Unreachable { address: target.address, reason: "no UDP socket on this machine".to_owned() });
    };
    run(target, &endpoint, &context.position, context.active, events).await
}

async fn run(
    target: RelayTarget,
    endpoint: &Endpoint,
    position: &Position,
    mut active: watch::Receiver<bool>,
    events: &EventSender,
) -> Result<(), Error> {
    let failed = |source| Error::Relay { address: target.address.clone(), source };
    let connection = connect(&target, endpoint).await?;
    let proof = match &target.trust {
        RelayTrust::Pinned { ticket: None, .. } => Proof::None,
        RelayTrust::Pinned { ticket: Some(ticket), .. } => Proof::Ticket(ticket.clone()),
        RelayTrust::Code(code) => Proof::Code(pairing::viewer_proof(code, &exporter(&target, &connection)?)),
    };
    let subscribed = relay::subscribe(connection.clone(), &target.name, proof).await;
    let mut subscription = subscribed.map_err(|source| match (&target.trust, source) {
        (RelayTrust::Code(_), relay::Error::Refused { code: RefusalCode::Denied, .. }) => {
            Error::WrongCode { address: target.address.clone() }
        }
        (_, source) => failed(source),
    })?;
    if let RelayTrust::Code(code) = &target.trust {
        let answer = subscription.proof().unwrap_or_default();
        if pairing::verify_broadcaster(code, &exporter(&target, &connection)?, &answer).is_err() {
            return Err(Error::Impostor { address: target.address });
        }
    }
    debug!(address = target.address, remote = %connection.remote_address(), "subscribed");
    if events.send(PathEvent::Opened { burst: Duration::ZERO, complete: false, transport: None }).await.is_err() {
        return Ok(());
    }
    if !*active.borrow() && events.send(PathEvent::Idle).await.is_err() {
        return Ok(());
    }
    let mut is_flowing = false;
    let mut schedule = PollSchedule::start();
    loop {
        let wanted = *active.borrow_and_update();
        if wanted != is_flowing {
            is_flowing = wanted;
            if is_flowing {
                let at = position.resume_point().filter(|(_, have)| !have.is_empty());
                let at = at.map_or(Start::LiveEdge, |(epoch, have)| Start::After { epoch, have });
                subscription.start(at).await.map_err(failed)?;
            } else {
                subscription.stop().await.map_err(failed)?;
            }
        }
        let event = tokio::select! {
            changed = active.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                continue;
            }
            event = subscription.next() => event.map_err(failed)?,
            () = sleep_until(schedule.next), if is_flowing => {
                schedule.on_request();
                subscription.request_timing(timing_poll::unit_to_query(position)).await.map_err(failed)?;
                continue;
            }
        };
        let report = match event {
            Event::Unit(arrived) => PathEvent::Unit(arrived.catalog, arrived.unit, arrived.predecessor_dts.into()),
            Event::Gap(track) => {
                debug!(%track, "the sender dropped units");
                PathEvent::Gap
            }
            Event::Timing { report, requested_at, received_at } => {
                let exchange = timing_poll::exchange(&report, requested_at, received_at);
                PathEvent::Timing(Box::new(report), exchange)
            }
            Event::Capacity(has_capacity) => {
                debug!(address = target.address, has_capacity, "capacity reported");
                PathEvent::Capacity(has_capacity)
            }
            Event::Ended => return Ok(()),
        };
        if events.send(report).await.is_err() {
            return Ok(());
        }
    }
}

/// A UDP socket for all paths of this protocol, for IPv6 and IPv4 where the system has both.
///
/// # Errors
/// If the system gives no UDP socket.
pub(super) fn endpoint() -> std::io::Result<Endpoint> {
    Endpoint::client(([0u16; 8], 0).into()).or_else(|_| Endpoint::client(([0u8; 4], 0).into()))
}

/// Connects to all addresses at once and uses the first that responds, since it is unknown which interface and address family works.
async fn connect(target: &RelayTarget, endpoint: &Endpoint) -> Result<quinn::Connection, Error> {
    let mut config = match &target.trust {
        RelayTrust::Pinned { pin, .. } => tls::client_config(*pin, relay::wire::ALPN),
        RelayTrust::Code(_) => tls::client_config_unpinned(relay::wire::ALPN),
    };
    config.transport_config(Arc::new(relay::transport(Side::Client)));
    let mut attempts = JoinSet::new();
    let mut reason = "no address is known".to_owned();
    for name in &target.addresses {
        let Some((host, Ok(port))) = name.rsplit_once(':').map(|(host, port)| (host, port.parse())) else {
            reason = format!("{name}: not HOST:PORT");
            continue;
        };
        let found: Vec<SocketAddr> = match target.reach.addresses(host, port).await {
            Ok(found) => found.into_iter().take(MAX_ADDRESSES).collect(),
            Err(error) => {
                reason = format!("{name}: {error}");
                continue;
            }
        };
        for address in found {
            match endpoint.connect_with(config.clone(), address, tls::SERVER_NAME) {
                Ok(connecting) => drop(attempts.spawn(async move {
                    let connected = timeout(CONNECT, connecting).await;
                    match connected {
                        Ok(Ok(connection)) => Ok(connection),
                        Ok(Err(error)) => Err(format!("{address}: {error}")),
                        Err(_) => Err(format!("{address}: no answer within {CONNECT:?}")),
                    }
                })),
                Err(error) => reason = format!("{address}: {error}"),
            }
        }
    }
    while let Some(attempt) = attempts.join_next().await {
        match attempt {
            // The other attempts are dropped with the set.
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(why)) => reason = why,
            Err(_) => {}
        }
    }
    Err(Error::Unreachable { address: target.address.clone(), reason })
}

fn exporter(target: &RelayTarget, connection: &quinn::Connection) -> Result<[u8; 32], Error> {
    pairing::exporter(connection).map_err(|_| Error::Impostor { address: target.address.clone() })
}

/// A LAN peer answers within a millisecond, a server within a second.
const CONNECT: Duration = Duration::from_secs(4);
/// Addresses that are tried of one host name.
const MAX_ADDRESSES: usize = 8;
