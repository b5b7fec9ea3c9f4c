//! Checks of a server: which of its protocols answer, the state of a stream, and the difference of the clocks.
//!
//! Nothing is published or played, so a live broadcast is not disturbed.

mod server_info;
mod target;

use std::time::Duration;

use reqwest::{Client, Url};
use tokio::net::lookup_host;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

pub use target::{Error, Target};
use target::{Server, shown};

use super::multicast::LanBroadcasters;
use super::probe::{self, ProbeError, as_millis, millis};
use super::report::{Check, Status};
use super::role::Role;
use super::{clock, http, peer};
use crate::api::PlaybackInfo;
use crate::rtmp;
use crate::trust::Pin;

/// Checks `target`; `lan_broadcasters` delivers the broadcasters found on the LAN.
pub async fn check(target: &Target, role: Role, lan_broadcasters: oneshot::Receiver<LanBroadcasters>) -> Vec<Check> {
    match target {
        Target::Server(server) => look(server, role, lan_broadcasters).await,
        Target::Broadcaster(names) => {
            let lookups = async {
                let mut found = Vec::new();
                for name in names {
                    found.extend(lookup_host(name.as_str()).await.into_iter().flatten().take(MAX_ADDRESSES));
                }
                found
            };
            vec![peer::anybody(&timeout(NAME, lookups).await.unwrap_or_default()).await]
        }
    }
}

async fn look(server: &Server, role: Role, lan_broadcasters: oneshot::Receiver<LanBroadcasters>) -> Vec<Check> {
    let client = match (known(&server.host).await, http::client()) {
        (Err(check), _) => return vec![check],
        (_, Err(trouble)) => {
            return vec![Check::fail("HTTP", trouble.found("HTTP"), "check that root certificates are installed")];
        }
        (Ok(()), Ok(client)) => client,
    };
    let by_url = async {
        match &server.rtmp {
            Some((host, port)) => Some(rtmp(host, *port, "").await),
            None => None,
        }
    };
    let (clock, info, by_url) =
        tokio::join!(clock::check(&client, &server.origin), server_info::ask(&client, server, role), by_url);
    let playback = info.playback.as_ref();
    let relay = async { Some(relay(playback?).await) };
    let rtmp = async {
        let parsed = info.rtmp.as_deref().map(rtmp::url::parse);
        match (by_url, parsed) {
            (Some(check), _) => Some(check),
            (None, Some(Ok(url))) => Some(rtmp(&url.host, url.port, "").await),
            // The server may run with its HTTP API at another address.
            (None, None) if !info.is_nearcast && server.hls.is_none() => {
                Some(rtmp(&server.host, RTMP_PORT, " (the default port)").await)
            }
            _ => None,
        }
    };
    let hls = async {
        let advertised = playback.filter(|_| info.is_live).and_then(|playback| playback.urls.hls.as_deref());
        let advertised = advertised.and_then(|url| Url::parse(url).ok());
        Some(hls(&client, server.hls.clone().or(advertised)?).await)
    };
    let direct = async {
        let playback = playback.filter(|_| info.is_live)?;
        Some(peer::check(playback.peer.as_ref(), lan_broadcasters, role).await)
    };
    let (relay, rtmp, hls, direct) = tokio::join!(relay, rtmp, hls, direct);
    let mut checks = info.checks;
    checks.extend(weigh([rtmp, relay, hls, direct].into_iter().flatten().collect(), role));
    checks.extend(clock.ok().flatten());
    checks
}

/// A transport that does not work is a failure if the role has no other.
fn weigh(ways: Vec<Check>, role: Role) -> Vec<Check> {
    let is_needed = |check: &Check| match role {
        Role::Publisher => check.name() == "RTMP",
        Role::Subscriber => !ways.iter().any(|way| way.status() == Status::Ok),
    };
    let grave = |check: &Check| if is_needed(check) { Status::Fail } else { Status::Ok };
    ways.iter().map(|check| check.clone().at_least(grave(check))).collect()
}

async fn known(host: &str) -> Result<(), Check> {
    let fix = format!("check the spelling, and name resolution on this machine: getent hosts {host}");
    match timeout(NAME, lookup_host((host, 0))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err(Check::fail("server", format!("the host name {host} does not resolve"), fix)),
        Err(_) => Err(Check::fail("server", format!("no name server resolves {host} within {NAME:?}"), fix)),
    }
}

async fn rtmp(host: &str, port: u16, remark: &str) -> Check {
    let place = format!("TCP {port} of {host}{remark}");
    match probe::rtmp(host, port).await {
        Ok(round_trip) => Check::ok("RTMP", format!("{place} answers, round trip {}", millis(round_trip)))
            .with("round_trip_ms", as_millis(round_trip)),
        Err(trouble @ ProbeError::Other(_)) => {
            let fix = "use the RTMP port of the cdn: 1935, unless cdn --rtmp sets another";
            Check::warn("RTMP", trouble.found(&place), fix)
        }
        Err(trouble) => {
            let start = format!("start the cdn there (cdn --rtmp 0.0.0.0:{port})");
            Check::warn("RTMP", trouble.found(&place), trouble.fix("TCP", port, &start))
        }
    }
}

async fn relay(playback: &PlaybackInfo) -> Check {
    let endpoint = playback.relay.as_ref().and_then(|relay| {
        let pin: Pin = relay.pin.parse().ok()?;
        Some((relay.host.as_str(), relay.port, pin))
    });
    let Some((host, port, pin)) = endpoint else {
        let fix = "run the cdn with --relay 0.0.0.0:4443, and allow inbound UDP 4443; else viewers use RTMP or HLS";
        return Check::warn("relay", "the server does not offer the relay protocol", fix);
    };
    let place = format!("UDP {port} of {host}");
    let addresses = timeout(NAME, lookup_host(format!("{host}:{port}"))).await.ok().and_then(Result::ok);
    let addresses: Vec<_> = addresses.into_iter().flatten().take(MAX_ADDRESSES).collect();
    match probe::quic(&addresses, Some(pin)).await {
        Ok((_, round_trip)) => Check::ok(
            "relay",
            format!("{place} answers with the expected certificate, round trip {}", millis(round_trip)),
        )
        .with("round_trip_ms", as_millis(round_trip)),
        Err(trouble) => {
            let start = format!("run the cdn with --relay 0.0.0.0:{port}");
            Check::warn("relay", trouble.found(&place), trouble.fix("UDP", port, &start))
        }
    }
}

async fn hls(client: &Client, playlist: Url) -> Check {
    let at = shown(&playlist);
    let started = Instant::now();
    match http::get(client, playlist.clone()).await {
        Ok(answer) if answer.status == 200 && answer.body.starts_with(b"#EXTM3U") => {
            Check::ok("HLS", format!("{at} returns a playlist in {}", millis(started.elapsed())))
                .with("answer_ms", as_millis(started.elapsed()))
        }
        Ok(answer) => {
            let found = format!("{at} returns no playlist ({})", answer.status);
            Check::warn(
                "HLS",
                found,
                "retry in some seconds: a new broadcast needs a segment first; otherwise check the address",
            )
        }
        Err(trouble) => {
            let port = playlist.port_or_known_default().unwrap_or(0);
            Check::warn("HLS", trouble.found(&at), trouble.fix("TCP", port, "start the server there"))
        }
    }
}

/// The default port of RTMP (registered with IANA as `macromedia-fcs`).
const RTMP_PORT: u16 = 1935;
/// Bounds the addresses of one name.
const MAX_ADDRESSES: usize = 8;
/// Bounds name resolution: a cache answers at once, a name server within one or two round trips.
const NAME: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
