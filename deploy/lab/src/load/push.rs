//! Viewers of protocols that push units: RTMP and the relay protocol.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use media::{Epoch, flv};
use net::relay::{self, Event, Proof, Side, Start};
use net::rtmp::{Message, Url, client};
use net::trust::{Pin, tls};
use quinn::Endpoint;

use super::http::{Http, locate};
use super::viewer::LoadViewer;

/// Plays RTMP until an error.
pub(super) async fn rtmp(viewer: &LoadViewer, url: &Url) -> Result<()> {
    let mut player = client::play(url, client::ClientOptions::default()).await?;
    // The same for all viewers if the server states no epoch.
    let (mut demuxer, mut clock) = (flv::Demuxer::new(Epoch(0)), None);
    loop {
        let events = match player.next().await?.context("the server closed the connection")? {
            Message::Audio { timestamp, body } => demuxer.audio(timestamp, body, Instant::now())?,
            Message::Video { timestamp, body } => demuxer.video(timestamp, body, Instant::now())?,
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
                flv::Event::Track(_)
                | flv::Event::EndOfSequence(_)
                | flv::Event::ClockCorrected(..)
                | flv::Event::Refused(_) => {}
            }
        }
    }
}

/// The address of a server's relay protocol.
#[derive(Clone, Debug)]
pub(super) struct Relay {
    address: SocketAddr,
    pin: Pin,
    name: String,
}

/// Looks up the relay protocol's address by the URL of a stream's page. Fails if the server offers none.
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

/// Plays the relay protocol until an error. Each viewer has its own socket.
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
            Event::Gap(track) => bail!("units of {track} were dropped by the server"),
            Event::Ended => bail!("the stream has ended"),
        }
    }
}
