//! Viewers that get units as they come: by RTMP, and by the relay protocol.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use media::{Epoch, flv};
use net::relay::{self, Event, Proof, Side, Start};
use net::rtmp::{Message, Url, client};
use net::trust::{Pin, tls};
use quinn::Endpoint;

use super::http::{Http, locate};
use super::viewer::LoadViewer;

/// Plays by RTMP until something breaks.
pub(super) async fn rtmp(viewer: &LoadViewer, url: &Url) -> Result<()> {
    let mut player = client::play(url, client::ClientOptions::default()).await?;
    // The same for all viewers where the server names none.
    let (mut demuxer, mut clock) = (flv::Demuxer::new(Epoch(0)), None);
    loop {
        let events = match player.next().await?.context("the server closed the connection")? {
            Message::Audio { timestamp, body } => demuxer.audio(timestamp, body)?,
            Message::Video { timestamp, body } => demuxer.video(timestamp, body)?,
            Message::Metadata(metadata) => {
                clock = metadata.clock;
                if let Some(epoch) = metadata.epoch {
                    demuxer.set_exact(true);
                    demuxer.set_epoch(epoch);
                    metadata.dts.into_iter().for_each(|dts| demuxer.resume_near(dts));
                }
                continue;
            }
            Message::EndOfStream => bail!("the stream has ended"),
            Message::Peer(_) | Message::Timing(_) | Message::Gap(_) => continue,
        };
        for event in events {
            match event {
                flv::Event::Unit(unit) => viewer.unit(&unit, clock),
                flv::Event::Jump { from, to } => bail!("timestamps jump from {from:?} to {to:?}"),
                flv::Event::Track(_) | flv::Event::EndOfSequence(_) => {}
            }
        }
    }
}

/// Where a server's relay protocol is to be had.
#[derive(Clone, Debug)]
pub(super) struct Relay {
    address: SocketAddr,
    pin: Pin,
    name: String,
}

/// Asks the server of a stream's page where its relay protocol is.
pub(super) async fn find_relay(page: &str) -> Result<Relay> {
    let (server, authority, path) = locate(page).await?;
    let name = path.trim_matches('/').to_owned();
    let answer = Http::new(server, &authority).whole(&format!("/api/v1/streams/{name}/watch")).await?;
    let answer: serde_json::Value = serde_json::from_slice(&answer)?;
    let relay = &answer["relay"];
    let (host, port) = relay["host"].as_str().zip(relay["port"].as_u64()).context("the server offers no relay")?;
    let pin: Pin = relay["pin"].as_str().context("the server states no pin")?.parse()?;
    let place = format!("{}:{port}", host.trim_matches(['[', ']']));
    let found = tokio::net::lookup_host(&place).await.with_context(|| format!("look up {place}"))?.next();
    Ok(Relay { address: found.with_context(|| format!("{place} has no address"))?, pin, name })
}

/// Plays by the relay protocol until something breaks. Each viewer has a socket of its own.
pub(super) async fn relay(viewer: &LoadViewer, relay: &Relay) -> Result<()> {
    let any: SocketAddr = if relay.address.is_ipv4() { ([0u8; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let endpoint = Endpoint::client(any)?;
    let mut config = tls::client_config(relay.pin, relay::wire::ALPN);
    config.transport_config(Arc::new(relay::transport(Side::Client)));
    let connection = endpoint.connect_with(config, relay.address, tls::SERVER_NAME)?.await?;
    let mut subscription = relay::subscribe(connection, &relay.name, Proof::None).await?;
    subscription.start(Start::LiveEdge).await?;
    loop {
        match subscription.next().await? {
            Event::Unit(arrived) => viewer.unit(&arrived.unit, arrived.catalog.clock),
            Event::Timing { .. } | Event::Capacity(_) => {}
            Event::Gap(track) => bail!("units of {track} were given up on the way"),
            Event::Ended => bail!("the stream has ended"),
        }
    }
}
