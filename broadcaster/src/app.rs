//! Assembles a broadcaster, runs it and ends it.
//!
//! The order matters. Sources are opened or probed before a connection is made, so that a mistake on the command line interrupts
//! no running stream. A file waits for the first connection, so that its beginning is not lost. At the end sources stop, encoders
//! are drained, what is queued is sent, and the stream is unpublished.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use command::signals::Signals;
use media::Epoch;
use net::trace::Trace;
use tokio::sync::watch;

use crate::broadcast::Broadcast;
use crate::capture::plan::CapturePlan;
use crate::capture::{self, CaptureContext, devices};
use crate::clock::BroadcastClock;
use crate::config::BroadcastSettings;
use crate::log::LogFormat;
use crate::peer::{self, PeerServer};
use crate::publish::unit_log::UnitLog;
use crate::publish::{self, RtmpPublisher};
use crate::shutdown::ShutdownSignal;
use crate::stats::Stats;
use crate::status::{self, StatsSampler};

/// Failures of a broadcast as a whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `--duration` passed before anything was sent.
    #[error("nothing was sent: no server was reachable before the duration elapsed")]
    NothingSent,
}

/// Lists the cameras, screens and microphones of this machine, as text or JSON.
///
/// # Errors
/// If FFmpeg does not initialise.
pub fn list_devices(json: bool) -> anyhow::Result<String> {
    capture::init().context("FFmpeg does not initialise")?;
    let inventory = devices::Inventory::take();
    Ok(if json { serde_json::to_string_pretty(&inventory)? + "\n" } else { devices::describe(&inventory) })
}

/// Broadcasts until the source ends, the duration has elapsed, SIGINT or SIGTERM arrives, or the server rejects the stream.
///
/// # Errors
/// [`Error`], [`publish::Error`], or what opening a source, the peer server, the unit log or the trace failed with.
pub async fn run(settings: BroadcastSettings, log: LogFormat) -> anyhow::Result<()> {
    capture::init().context("FFmpeg does not initialise")?;
    let plan = CapturePlan::make(&settings.source, &settings.audio, &settings.capture)?;
    let unit_log =
        settings.unit_log.as_deref().map(UnitLog::create).transpose().context("cannot create the unit log")?;

    let trace =
        settings.trace.as_deref().map(Trace::create).transpose().context("cannot create the trace")?.map(Arc::new);

    let stats = Arc::new(Stats::default());
    net::clock::set_test_offset(settings.clock_offset.saturating_mul(1000));
    let clock = BroadcastClock::start();
    let epoch = Epoch(rand::random());
    let broadcast = Broadcast::new(epoch, clock.zero(), &plan.tracks(), settings.window, stats.clone());
    let broadcast = Arc::new(broadcast.with_trace(trace.clone()));
    tracing::info!(%epoch, server = %settings.url, source = %settings.source, "broadcasting");
    let context = CaptureContext {
        settings: Arc::new(settings.capture.clone()),
        clock,
        broadcast: broadcast.clone(),
        stats: stats.clone(),
        shutdown: ShutdownSignal::default(),
    };

    let (connected, mut is_connected) = watch::channel(false);
    let (abandon_reconnect, should_abandon) = watch::channel(false);
    let url = settings.url.clone();
    let peer = start_peer_server(&settings, &broadcast, &stats, connected.clone(), log)?;
    let serving = peer.clone().map(|peer| tokio::spawn(peer.serve()));
    let publishing = RtmpPublisher {
        url,
        broadcast: broadcast.clone(),
        stats: stats.clone(),
        peer: peer.clone(),
        unit_log,
        trace,
        connected,
        abandon_reconnect: should_abandon,
    };
    let mut publishing = tokio::spawn(publishing.run());
    let reporting = tokio::spawn(status::run(StatsSampler::new(stats.clone(), broadcast.clone()), log, settings.stats));
    let sampler = StatsSampler::new(stats.clone(), broadcast);

    let signal = terminated(Signals::new().context("cannot handle signals")?);
    // Time spent connecting counts.
    let time_up = after(settings.run_for);
    tokio::pin!(signal, time_up);
    let mut is_time_up = false;
    let waits = plan.is_file();
    let mut published: Option<Result<(), publish::Error>> = None;
    let mut failure = None;
    // A file waits for the first connection; a live source does not.
    let may_start = tokio::select! {
        _ = is_connected.wait_for(|connected| *connected), if waits => true,
        () = std::future::ready(()), if !waits => true,
        result = &mut publishing => { published = Some(flatten(result)); false }
        () = &mut signal => false,
        () = &mut time_up => { is_time_up = true; false }
    };
    let mut ended_by_itself = false;
    if may_start {
        let mut sources = plan.start(&context);
        tokio::select! {
            ended = sources.recv() => {
                failure = ended.flatten();
                ended_by_itself = failure.is_none();
            }
            result = &mut publishing => published = Some(flatten(result)),
            () = &mut signal => {}
            () = &mut time_up => {
                is_time_up = true;
                tracing::info!("the duration has elapsed");
            }
        }
        context.shutdown.trigger();
        // A device that hangs in its driver does not prevent unpublishing.
        if !ended_by_itself && failure.is_none() && published.is_none() {
            failure = tokio::time::timeout(FLUSH_TIMEOUT, sources.recv()).await.ok().flatten().flatten();
        }
    }
    context.broadcast.end();
    let published = match published {
        Some(published) => published,
        None => {
            // After an interrupt, do not wait for an unreachable server; at the end of a file, wait up to FINAL_RETRY_WINDOW.
            tokio::select! {
                result = &mut publishing => flatten(result),
                () = after((!ended_by_itself).then_some(DRAIN_TIMEOUT)) => abort_publishing(&mut publishing, &abandon_reconnect).await,
                () = &mut signal, if ended_by_itself => abort_publishing(&mut publishing, &abandon_reconnect).await,
            }
        }
    };
    if let Some(peer) = peer {
        peer.close().await;
    }
    if let Some(serving) = serving {
        serving.abort();
    }
    reporting.abort();
    status::finish(&sampler, log, settings.stats);
    if let Some(failure) = failure {
        anyhow::bail!(failure);
    }
    published?;
    if is_time_up && stats.sent.value() == 0 {
        return Err(Error::NothingSent.into());
    }
    Ok(())
}

/// Starts serving LAN viewers, unless that is turned off, and shows how they connect without a server.
fn start_peer_server(
    settings: &BroadcastSettings,
    broadcast: &Arc<Broadcast>,
    stats: &Arc<Stats>,
    has_viewer: watch::Sender<bool>,
    log: LogFormat,
) -> anyhow::Result<Option<Arc<PeerServer>>> {
    let Some(wanted) = settings.peer.clone() else { return Ok(None) };
    let (must_listen, has_own_code) = (wanted.listen.is_some(), wanted.code.is_some());
    let peer = match PeerServer::start(wanted, broadcast.clone(), stats.clone(), has_viewer) {
        Ok(peer) => peer,
        Err(error @ peer::Error::Bind { .. }) if must_listen => return Err(error.into()),
        Err(error) => {
            tracing::warn!(%error, "cannot serve LAN viewers: they receive the stream from the server");
            return Ok(None);
        }
    };
    let addresses = peer.advertisement().addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    tracing::info!(addresses, "serving LAN viewers");
    status::show_code(&peer, log, has_own_code);
    Ok(Some(peer))
}

/// Abandons reconnecting, and gives publishing [`ABORT_TIMEOUT`] to end by itself.
async fn abort_publishing(
    publishing: &mut tokio::task::JoinHandle<Result<(), publish::Error>>,
    abandon_reconnect: &watch::Sender<bool>,
) -> Result<(), publish::Error> {
    abandon_reconnect.send_replace(true);
    tokio::time::timeout(ABORT_TIMEOUT, publishing).await.map_or(Ok(()), flatten)
}

fn flatten(result: Result<Result<(), publish::Error>, tokio::task::JoinError>) -> Result<(), publish::Error> {
    match result {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// Sleeps for `duration`; for ever without one.
async fn after(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// Completes with a signal that ends the broadcast.
async fn terminated(mut signals: Signals) {
    let signal = signals.stop().await;
    tracing::info!(signal, "stopping");
}

/// Bounds draining the encoders. With [`DRAIN_TIMEOUT`] and [`ABORT_TIMEOUT`] it stays below one second, so that Ctrl-C feels instant.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(350);

/// Bounds sending what is queued.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(350);

/// Bounds abandoning a connection attempt.
const ABORT_TIMEOUT: Duration = Duration::from_millis(150);
