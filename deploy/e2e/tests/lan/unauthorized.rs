//! Unauthorized access on the LAN of a real broadcast: an impostor, replayed, altered and foreign tickets, missing proofs, and a flood of connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use data_encoding::HEXLOWER;
use lab::Host;
use net::discovery::{Announcer, AnnouncerOptions};
use net::relay::{self, Event, Proof, RefusalCode, Side, Start};
use net::trust::{Identity, Pin, tls};
use serde_json::Value;

use crate::{TIMEOUT, wait_source};
use e2e::lan_testbed::{BROADCASTER, LanTestbed, PEER_PORT};

/// The credentials that the CDN gives a viewer for the broadcaster.
struct PeerCredentials {
    pin: Pin,
    secret: [u8; 16],
    ticket: String,
}

impl PeerCredentials {
    fn of(testbed: &LanTestbed, host: usize) -> Result<Self> {
        let said = e2e::until(TIMEOUT, "the broadcaster to offer itself", || {
            let said = testbed.ask(host, "/api/v1/streams/live/watch")?;
            Ok((!said["peer"].is_null()).then_some(said))
        })?;
        let text =
            |name: &str| said["peer"][name].as_str().map(str::to_owned).with_context(|| format!("no {name}: {said}"));
        let secret = HEXLOWER.decode(text("secret")?.as_bytes())?;
        let secret = secret.try_into().ok().context("the secret is not 16 bytes")?;
        ensure!(said["peer"]["addresses"] == Value::Array(Vec::new()), "addresses for a viewer elsewhere: {said}");
        Ok(Self { pin: text("pin")?.parse()?, secret, ticket: text("ticket")? })
    }
}

#[test]
fn unauthorized_clients_are_rejected_and_disturb_no_viewer() -> Result<()> {
    let testbed = LanTestbed::build()?;
    let _broadcaster = testbed.broadcast(&["--max-lan-viewers", "4"])?;
    let mut friend = testbed.watch(0, &[])?;
    wait_source(&mut friend, "LAN peer")?;
    let stranger = &testbed.viewers[1];

    // A ticket is valid once.
    let credentials = PeerCredentials::of(&testbed, 1)?;
    let first = subscribe(stranger, credentials.pin, Proof::Ticket(credentials.ticket.clone()))?;
    ensure!(first == Ok(()), "a good ticket was refused: {first:?}");
    let again = subscribe(stranger, credentials.pin, Proof::Ticket(credentials.ticket.clone()))?;
    ensure!(refused(&again, "used"), "the same ticket was accepted twice: {again:?}");

    // Altered tickets, missing proofs, and a ticket of another server.
    let fresh = PeerCredentials::of(&testbed, 1)?;
    for at in [4, fresh.ticket.len() / 2, fresh.ticket.len() - 3] {
        let mut forged = fresh.ticket.clone().into_bytes();
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        let forged = subscribe(stranger, credentials.pin, Proof::Ticket(String::from_utf8(forged)?))?;
        ensure!(matches!(forged, Err((RefusalCode::Denied, _))), "altered at {at}, it was accepted: {forged:?}");
    }
    for proof in [Proof::None, Proof::Ticket("sesame".into()), Proof::Code([7; 32])] {
        let got = subscribe(stranger, credentials.pin, proof)?;
        ensure!(matches!(got, Err((RefusalCode::Denied, _))), "{got:?}");
    }
    let signer = net::trust::Signer::generate()?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let foreign = signer.issue("live", 1, now)?;
    let foreign = subscribe(stranger, credentials.pin, Proof::Ticket(foreign))?;
    ensure!(refused(&foreign, "sign"), "another server's ticket was accepted: {foreign:?}");
    // The ticket of the altered copies is still valid for its owner.
    let owner = subscribe(stranger, credentials.pin, Proof::Ticket(fresh.ticket))?;
    ensure!(owner == Ok(()), "{owner:?}");

    // A flood of connections, most of them rejected before they cost anything.
    let refusals = flood(stranger, credentials.pin, 300)?;
    println!("of 300 connections at once, {refusals} were refused or not answered");

    // Afterwards there is capacity again for authorized viewers.
    let mut late = PeerCredentials::of(&testbed, 1)?;
    e2e::until(TIMEOUT, "a viewer to be admitted after the flood", || {
        match subscribe(stranger, late.pin, Proof::Ticket(late.ticket.clone())) {
            Ok(Ok(())) => Ok(Some(())),
            _ => {
                late = PeerCredentials::of(&testbed, 1)?;
                Ok(None)
            }
        }
    })?;

    // Throughout, the authorized viewer lost no frame and kept its path.
    let shown = friend.pictures()?;
    friend.wait_pictures(shown + 60, TIMEOUT)?;
    let summary = friend.finish()?;
    summary.ensure_unbroken(100)?;
    ensure!(summary.0["source"] == "LAN peer" && summary.0["lost"] == 0, "{}", summary.0);
    Ok(())
}

#[test]
fn an_impostor_fails_certificate_pinning() -> Result<()> {
    let testbed = LanTestbed::build()?;
    // The viewer can only discover by mDNS, where only the impostor announces itself.
    let _broadcaster = testbed.broadcast(&["--no-mdns"])?;
    let mut first = testbed.watch(0, &[])?;
    wait_source(&mut first, "relay")?;
    let credentials = PeerCredentials::of(&testbed, 1)?;
    let tried = Arc::new(AtomicUsize::new(0));
    let impostor = Impostor::start(&testbed.viewers[1], &credentials.secret, tried.clone())?;
    e2e::until(TIMEOUT, "the viewer to try the impostor", || Ok((tried.load(Ordering::Relaxed) > 0).then_some(())))?;
    let shown = first.pictures()?;
    first.wait_pictures(shown + 60, TIMEOUT)?;
    let log = first.process.err();
    ensure!(log.contains("certificate"), "the log does not say what was wrong: {log}");
    let summary = first.finish()?;
    summary.ensure_unbroken(60)?;
    ensure!(summary.0["source"].as_str().is_some_and(|source| source.starts_with("relay")), "{}", summary.0);
    drop(impostor);
    Ok(())
}

/// Whether it was denied with a reason that contains `word`.
fn refused(result: &Result<(), (RefusalCode, String)>, word: &str) -> bool {
    matches!(result, Err((RefusalCode::Denied, reason)) if reason.contains(word))
}

/// Subscribes to the broadcaster from `host` and waits for a unit; returns the rejection if there is one.
fn subscribe(host: &Host, pin: Pin, proof: Proof) -> Result<Result<(), (RefusalCode, String)>> {
    host.run(move || {
        runtime()?.block_on(async {
            let (_endpoint, connection) = connect(pin).await?;
            let mut subscription = match relay::subscribe(connection, "live", proof).await {
                Ok(subscription) => subscription,
                Err(relay::Error::Refused { code, reason }) => return Ok(Err((code, reason))),
                Err(error) => return Err(error.into()),
            };
            subscription.start(Start::LiveEdge).await?;
            let event = tokio::time::timeout(TIMEOUT, subscription.next()).await??;
            ensure!(matches!(event, Event::Unit(_)), "no unit: {event:?}");
            Ok(Ok(()))
        })
    })?
}

/// Opens `count` connections at once without subscribing, and returns how many failed.
fn flood(host: &Host, pin: Pin, count: usize) -> Result<usize> {
    host.run(move || {
        runtime()?.block_on(async {
            let mut attempts = tokio::task::JoinSet::new();
            for _ in 0..count {
                attempts.spawn(async move { tokio::time::timeout(Duration::from_secs(3), connect(pin)).await });
            }
            let mut open = Vec::new();
            while let Some(attempt) = attempts.join_next().await {
                if let Ok(Ok(Ok(connection))) = attempt {
                    open.push(connection);
                }
            }
            Ok(count - open.len())
        })
    })?
}

async fn connect(pin: Pin) -> Result<(quinn::Endpoint, quinn::Connection)> {
    let endpoint = quinn::Endpoint::client(([0u8; 4], 0).into())?;
    let mut config = tls::client_config(pin, relay::wire::ALPN);
    config.transport_config(Arc::new(relay::transport(Side::Client)));
    let address = SocketAddr::from((BROADCASTER, PEER_PORT));
    let connection = endpoint.connect_with(config, address, tls::SERVER_NAME)?.await?;
    Ok((endpoint, connection))
}

/// Announces a broadcast, whose secret it has obtained, and presents its own certificate.
struct Impostor {
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Impostor {
    fn start(host: &Host, secret: &[u8; 16], tried: Arc<AtomicUsize>) -> Result<Self> {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let secret = *secret;
        // A socket belongs to the namespace of the thread that creates it.
        let (socket, announcer) = host.run(move || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
            let port = socket.local_addr()?.port();
            anyhow::Ok((socket, Announcer::start(&secret, port, AnnouncerOptions::default())?))
        })??;
        let thread = std::thread::spawn(move || {
            let runtime = runtime().expect("a test's runtime");
            runtime.block_on(async {
                let identity = Identity::generate().expect("an identity");
                let config = tls::server_config(&identity, relay::wire::ALPN);
                let runtime = Arc::new(quinn::TokioRuntime);
                let endpoint =
                    quinn::Endpoint::new(Default::default(), Some(config), socket, runtime).expect("an endpoint");
                let accepting = async {
                    while let Some(incoming) = endpoint.accept().await {
                        tried.fetch_add(1, Ordering::Relaxed);
                        tokio::spawn(async move { drop(incoming.await) });
                    }
                };
                tokio::select! {
                    () = accepting => {}
                    _ = stopped => {}
                }
                announcer.stop().await;
            });
        });
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
