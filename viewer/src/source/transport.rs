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
    Peer { host: ApiClient, by_hand: Vec<String> },
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
    pub(super) is_again: bool,
    /// Where the broadcaster may be.
    pub(super) places: CandidateAddresses,
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
    pub(super) async fn run(self, with: OpenContext, reporter: &EventSender) -> Result<(), Error> {
        let target = match self {
            Self::Fixed(Protocol::Rtmp(url)) => {
                let asking = asking(with.server, with.position.clone(), reporter);
                return beside(rtmp::run(url, with.position, reporter), asking).await;
            }
            Self::Fixed(Protocol::Hls { url, parts }) => {
                let wishes = hls::HlsOptions { alone: with.alone, keep_all: with.keep_all, parts };
                let asking = asking(with.server, with.position.clone(), reporter);
                return beside(hls::run(&url, &with.http, &with.hls, wishes, &with.position, reporter), asking).await;
            }
            Self::Fixed(protocol) => target(anew(protocol, with.server.filter(|_| with.is_again)).await),
            Self::Peer { host, by_hand } if with.endpoint.is_some() => {
                Some(invited(&host, by_hand, with.places).await?)
            }
            Self::Peer { .. } => None,
        };
        let (Some(endpoint), Some(target)) = (with.endpoint, target) else { return Err(no_udp()) };
        relay::run(target, &endpoint, &with.position, with.flow, reporter).await
    }
}

/// Has the server tell of units on their way, for as long as the path is open.
async fn asking(server: Option<ApiClient>, position: Position, reporter: &EventSender) {
    if let Some(host) = server {
        timing_poll::keep_asking(host, &position, reporter).await;
    }
}

/// Runs the path to its end, and the other for no longer.
async fn beside(path: impl Future<Output = Result<(), Error>>, other: impl Future<Output = ()>) -> Result<(), Error> {
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
async fn anew(protocol: Protocol, server: Option<ApiClient>) -> Protocol {
    let (Protocol::Relay { .. }, Some(host)) = (&protocol, server) else { return protocol };
    let watch = host.watch().await.ok().flatten();
    watch.and_then(|watch| super::resolve::relay(&watch, host.name())).unwrap_or(protocol)
}

/// Where the broadcaster may be, and a new ticket to be let in with.
async fn invited(host: &ApiClient, by_hand: Vec<String>, places: CandidateAddresses) -> Result<RelayTarget, Error> {
    let not_live = || Error::NotLive { address: format!("the broadcaster of {}", host.name()) };
    let peer = host.watch().await?.and_then(|watch| watch.peer).ok_or_else(not_live)?;
    let pin = peer.pin().ok_or_else(not_live)?;
    let mut addresses = by_hand;
    addresses.extend(places.into_iter().chain(peer.addresses).map(|place| place.to_string()));
    let mut seen = std::collections::BTreeSet::new();
    addresses.retain(|address| seen.insert(address.clone()));
    let trust = RelayTrust::Pinned { pin, ticket: Some(peer.ticket) };
    Ok(RelayTarget {
        address: "the broadcaster on this network".to_owned(),
        addresses,
        name: host.name().to_owned(),
        trust,
    })
}

fn no_udp() -> Error {
    Error::Unreachable { address: "the relay".to_owned(), reason: "this machine gives no UDP socket".to_owned() }
}
