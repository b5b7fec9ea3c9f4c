//! Assembles a broadcaster, runs it and ends it.
//!
//! The order matters. Sources and encoders are opened before a connection is made, so that what cannot be captured or encoded interrupts
//! no running stream: a live source has delivered, and its first unit is encoded. A file waits for the first connection, so that its
//! beginning is not lost; its decoders and encoders are tried before. At the end sources stop, encoders
//! are drained, what is queued is sent, and the stream is unpublished.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use command::signals::Signals;
use media::Epoch;
use net::trace::Trace;
use tokio::sync::watch;

use crate::broadcast::Broadcast;
use crate::capture::plan::{self, CapturePlan};
use crate::capture::{self, CaptureContext, devices};
use crate::clock::BroadcastClock;
use crate::config::BroadcastSettings;
use crate::encode::encoder::Encoder;
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
    #[error("nothing was sent before the duration elapsed: no server was reachable, or the source delivered nothing")]
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
    Encoder::check_name(&settings.capture.video.encoder).map_err(plan::Error::from)?;
    let plan = CapturePlan::make(&settings.source, &settings.audio, &settings.capture).map_err(plan::Error::from)?;
    plan.verify(&settings.capture)?;
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

    let signal = terminated(Signals::new().context("cannot handle signals")?);
    // Time spent opening sources and connecting counts.
    let time_up = after(settings.run_for);
    tokio::pin!(signal, time_up);
    let required = plan.required_tracks();
    let (mut live_sources, file) = if plan.is_file() { (None, Some(plan)) } else { (Some(plan.start(&context)), None) };
    if let Some(sources) = &mut live_sources {
        tokio::select! {
            () = context.broadcast.begun(&required) => {}
            ended = sources.recv() => return ended.flatten().map_or(Ok(()), |failure| Err(failure.into())),
            () = &mut signal => return Ok(()),
            () = &mut time_up => return Err(Error::NothingSent.into()),
        }
    }

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

    let mut is_time_up = false;
    let mut published: Option<Result<(), publish::Error>> = None;
    let mut failure = None;
    let sources = match file {
        None => live_sources,
        // A file waits for the first connection.
        Some(file) => tokio::select! {
            _ = is_connected.wait_for(|connected| *connected) => Some(file.start(&context)),
            result = &mut publishing => { published = Some(flatten(result)); None }
            () = &mut signal => None,
            () = &mut time_up => { is_time_up = true; None }
        },
    };
    let mut ended_by_itself = false;
    if let Some(mut sources) = sources {
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
        return Err(failure.into());
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
