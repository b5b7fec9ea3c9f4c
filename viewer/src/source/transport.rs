//! The ways by which a stream comes, and how each is opened: a relay by its server's latest word, the broadcaster with a new ticket each time.

use media::latency::Delivery;
use media::select::PathKind;
use quinn::Endpoint;
use tokio::sync::watch;

use super::api_client::ApiClient;
use super::discovery::CandidateAddresses;
use super::hls::{self, HlsPath, LowLatency};
use super::relay::{self, RelayTarget, RelayTrust};
use super::resolve::Protocol;
use super::{Error, EventSender, Position, rtmp, timing_poll};

/// What a path is made of.
#[derive(Clone, Debug)]
pub(super) enum Transport {
    /// Where nothing changes.
    Fixed(Protocol),
    /// The broadcaster on this network: wherever it is found, and with a new ticket each time.
    Peer { api: ApiClient, manual: Vec<String> },
}

/// What opening takes, whichever way it is.
pub(super) struct OpenContext {
    pub(super) position: Position,
    pub(super) http: reqwest::Client,
    /// What an HLS path keeps from one opening to the next.
    pub(super) hls: HlsPath,
    /// Whether there is no other way.
    pub(super) alone: bool,
    pub(super) keep_all: bool,
    /// For the relay protocol.
    pub(super) endpoint: Option<Endpoint>,
    /// Whether a path that can be idle is to flow.
    pub(super) flow: watch::Receiver<bool>,
    /// Who knows more about the stream.
    pub(super) server: Option<ApiClient>,
    /// Whether it is to be asked again before a relay is opened.
    pub(super) is_reopening: bool,
    /// Where the broadcaster may be.
    pub(super) candidates: CandidateAddresses,
}

impl Transport {
    /// Where it stands on the ladder.
    pub(super) fn kind(&self) -> PathKind {
        match self {
            Self::Peer { .. } | Self::Fixed(Protocol::Paired { .. }) => PathKind::Peer,
            Self::Fixed(Protocol::Relay { .. }) => PathKind::Relay,
            Self::Fixed(Protocol::Rtmp(_)) => PathKind::Rtmp,
            Self::Fixed(Protocol::Hls { parts: LowLatency::Require, .. }) => PathKind::LowLatencyHls,
            Self::Fixed(Protocol::Hls { .. }) => PathKind::Hls,
        }
    }

    /// How it brings units, now that it is open.
    pub(super) fn delivery(&self, by_parts: bool) -> Delivery {
        match self.kind() {
            PathKind::Peer => Delivery::Direct,
            PathKind::Relay | PathKind::Rtmp => Delivery::Units,
            PathKind::LowLatencyHls => Delivery::Parts,
            PathKind::Hls if by_parts => Delivery::Parts,
            PathKind::Hls => Delivery::Segments,
        }
    }

    /// What it is, now that it is open.
    pub(super) fn describe_as(&self, by_parts: bool) -> String {
        match self {
            Self::Fixed(Protocol::Hls { url, parts: LowLatency::Prefer }) if by_parts => {
                Protocol::Hls { url: url.clone(), parts: LowLatency::Require }.describe()
            }
            _ => self.describe(),
        }
    }

    /// What to call it.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Fixed(protocol) => protocol.describe(),
            Self::Peer { .. } => "LAN peer".to_owned(),
        }
    }

    /// Opens it and reports what it brings, until it is over.
    pub(super) async fn run(self, context: OpenContext, reporter: &EventSender) -> Result<(), Error> {
        let target = match self {
            Self::Fixed(Protocol::Rtmp(url)) => {
                let poll_timing = poll_timing(context.server, context.position.clone(), reporter);
                return run_alongside(rtmp::run(url, context.position, reporter), poll_timing).await;
            }
            Self::Fixed(Protocol::Hls { url, parts }) => {
                let options = hls::HlsOptions { alone: context.alone, keep_all: context.keep_all, parts };
                let poll_timing = poll_timing(context.server, context.position.clone(), reporter);
                return run_alongside(
                    hls::run(&url, &context.http, &context.hls, options, &context.position, reporter),
                    poll_timing,
                )
                .await;
            }
            Self::Fixed(protocol) => target(refreshed(protocol, context.server.filter(|_| context.is_reopening)).await),
            Self::Peer { api, manual } if context.endpoint.is_some() => {
                Some(peer_target(&api, manual, context.candidates).await?)
            }
            Self::Peer { .. } => None,
        };
        let (Some(endpoint), Some(target)) = (context.endpoint, target) else { return Err(no_udp_socket()) };
        relay::run(target, &endpoint, &context.position, context.flow, reporter).await
    }
}

/// Has the server tell of units on their way, for as long as the path is open.
async fn poll_timing(server: Option<ApiClient>, position: Position, reporter: &EventSender) {
    if let Some(api) = server {
        timing_poll::poll(api, &position, reporter).await;
    }
}

/// Runs the path to its end, and the other for no longer.
async fn run_alongside(
    path: impl Future<Output = Result<(), Error>>,
    other: impl Future<Output = ()>,
) -> Result<(), Error> {
    let forever = async {
        other.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = path => result,
        () = forever => Ok(()),
    }
}

/// What a path by the relay protocol needs, where nothing is to be asked first.
fn target(protocol: Protocol) -> Option<RelayTarget> {
    match protocol {
        Protocol::Relay { address, name, pin } => {
            let trust = RelayTrust::Pinned { pin, ticket: None };
            Some(RelayTarget { address: address.clone(), addresses: vec![address], name, trust })
        }
        Protocol::Paired { address, code } => {
            let addresses = vec![address.clone()];
            Some(RelayTarget { address, addresses, name: String::new(), trust: RelayTrust::Code(code) })
        }
        Protocol::Rtmp(_) | Protocol::Hls { .. } => None,
    }
}

/// The relay as its server describes it now; the old description where the server does not answer.
async fn refreshed(protocol: Protocol, server: Option<ApiClient>) -> Protocol {
    let (Protocol::Relay { .. }, Some(api)) = (&protocol, server) else { return protocol };
    let watch = api.watch().await.ok().flatten();
    watch.and_then(|watch| super::resolve::relay(&watch, api.name())).unwrap_or(protocol)
}

/// Where the broadcaster may be, and a new ticket to be let in with.
async fn peer_target(
    api: &ApiClient,
    manual: Vec<String>,
    candidates: CandidateAddresses,
) -> Result<RelayTarget, Error> {
    let not_live = || Error::NotLive { address: format!("the broadcaster of {}", api.name()) };
    let peer = api.watch().await?.and_then(|watch| watch.peer).ok_or_else(not_live)?;
    let pin = peer.pin().ok_or_else(not_live)?;
    let mut addresses = manual;
    addresses.extend(candidates.into_iter().chain(peer.addresses).map(|place| place.to_string()));
    let mut seen = std::collections::BTreeSet::new();
    addresses.retain(|address| seen.insert(address.clone()));
    let trust = RelayTrust::Pinned { pin, ticket: Some(peer.ticket) };
    Ok(RelayTarget {
        address: "the broadcaster on this network".to_owned(),
        addresses,
        name: api.name().to_owned(),
        trust,
    })
}

fn no_udp_socket() -> Error {
    Error::Unreachable { address: "the relay".to_owned(), reason: "this machine gives no UDP socket".to_owned() }
}
