//! The path straight from the broadcaster, by the relay protocol on its own network: found by mDNS and admitted by a ticket from the server, or
//! at a given address and admitted by the pairing code.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use media::latency::DeliveryMode;
use media::select::PathProfile;
use net::trust::Code;

use super::api_client::ApiClient;
use super::discovery::CandidateAddresses;
use super::path::{
    Cost, Discovery, OpenContext, Opening, PathSource, ServerOffer, Source, Transport, UrlPaths, UrlRequest,
};
use super::reach::Reach;
use super::relay::{self, RelayTarget, RelayTrust};
use super::{Error, EventSender};

/// The broadcaster on the viewer's network.
pub(super) static TRANSPORT: Transport = Transport {
    name: "peer",
    help: "The broadcaster itself, on this network",
    label: "LAN",
    // On a LAN, scheduling alone causes gaps of tens of milliseconds.
    profile: PathProfile { rank: 10, can_idle: true, min_stall_timeout: Duration::from_millis(40) },
    delivery: DeliveryMode::Direct,
    states_predecessor: true,
    cost: Cost::Lan,
    from_url,
    from_server,
};

/// The broadcaster of a stream that a server knows.
#[derive(Debug)]
struct Peer {
    api: ApiClient,
    /// Addresses that the user gave.
    manual: Vec<String>,
    discovery: Discovery,
}

impl PathSource for Peer {
    fn address(&self) -> String {
        "peer".to_owned()
    }

    fn discovery(&self) -> Discovery {
        self.discovery
    }

    fn open<'a>(&'a self, context: OpenContext, events: &'a EventSender) -> Opening<'a> {
        Box::pin(async move {
            let reach = context.http.reach();
            let target = peer_target(&self.api, &self.manual, &context.candidates, reach).await?;
            relay::open(target, context, events).await
        })
    }
}

/// A broadcaster at a given address, whose pairing code is known.
#[derive(Debug)]
struct Paired {
    /// Address of the broadcaster as `HOST:PORT`.
    address: String,
    code: Arc<Code>,
}

impl PathSource for Paired {
    fn address(&self) -> String {
        self.address.clone()
    }

    fn open<'a>(&'a self, context: OpenContext, events: &'a EventSender) -> Opening<'a> {
        let trust = RelayTrust::Code(self.code.clone());
        let (address, addresses) = (self.address.clone(), vec![self.address.clone()]);
        let target = RelayTarget { address, addresses, name: String::new(), reach: Reach::anywhere(), trust };
        Box::pin(relay::open(target, context, events))
    }
}

/// `nearcast://HOST:PORT`, or several addresses with commas between, with the code after `#` or given apart.
fn from_url(request: &UrlRequest<'_>) -> UrlPaths {
    (request.scheme == "nearcast").then(|| paired(request))
}

fn paired(request: &UrlRequest<'_>) -> Result<Vec<Source>, String> {
    let rest = request.url.split_once("://").map_or("", |(_, rest)| rest);
    let (address, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let code = Some(fragment).filter(|code| !code.is_empty()).or(request.pairing_code);
    let code = code
        .ok_or("give the pairing code that the broadcaster shows: --pairing-code CODE, or #CODE after the address")?;
    let code: Code = code.parse().map_err(|error: net::trust::Error| error.to_string())?;
    let address = address.trim_end_matches('/');
    let addresses: Vec<String> = address.split(',').map(str::to_owned).collect();
    let has_port = |address: &String| address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if !addresses.iter().all(has_port) {
        return Err("give the port too: nearcast://HOST:PORT".to_owned());
    }
    // It is not known which broadcaster has this code; the others reject it.
    let code = Arc::new(code);
    Ok(addresses.into_iter().map(|address| Arc::new(Paired { address, code: code.clone() }) as Source).collect())
}

/// The path is always offered and waits until an address is known, since the server may learn of the broadcaster later.
fn from_server(offer: &ServerOffer<'_>) -> Option<Source> {
    let is_known = offer.is_chosen || !offer.peer_addresses.is_empty();
    let discovery = if is_known { Discovery::Helps } else { Discovery::Required };
    Some(Arc::new(Peer { api: offer.api.clone(), manual: offer.peer_addresses.to_vec(), discovery }))
}

/// The broadcaster's possible addresses, and a new ticket: each is valid for one connection.
async fn peer_target(
    api: &ApiClient,
    manual: &[String],
    candidates: &CandidateAddresses,
    reach: &Reach,
) -> Result<RelayTarget, Error> {
    let not_live = || Error::NotLive { address: format!("the broadcaster of {}", api.name()) };
    let peer = api.playback_info().await?.and_then(|info| info.peer).ok_or_else(not_live)?;
    let pin = peer.pin().ok_or_else(not_live)?;
    let mut addresses = manual.to_vec();
    let told = candidates.iter().chain(&peer.addresses).filter(|address| reach.may_be_broadcaster(**address));
    addresses.extend(told.map(ToString::to_string));
    let mut seen = BTreeSet::new();
    addresses.retain(|address| seen.insert(address.clone()));
    let trust = RelayTrust::Pinned { pin, ticket: Some(peer.ticket) };
    Ok(RelayTarget {
        address: "the broadcaster on this network".to_owned(),
        addresses,
        name: api.name().to_owned(),
        // They are the user's, or were judged above.
        reach: Reach::anywhere(),
        trust,
    })
}
