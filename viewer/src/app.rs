//! Puts the rooms together, runs them, and takes them down in the order in which the media flows, so that nothing is lost.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use net::trace::Trace;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tracing::{error, info};

use crate::config::{self, Config, Standby, StatsFormat};
use crate::decode;
use crate::pipeline::{self, Outputs};
use crate::playback::{PlayoutConfig, sound::SoundQueue};
use crate::player_context::PlayerContext;
use crate::present::{headless, window};
use crate::record::Recorder;
use crate::source::{self, Position};
use crate::status::StatsOutput;
use crate::unit_log::UnitLog;

/// Plays until the stream ends, the user has enough, or the time is up. Whether anything was played.
pub fn run(config: &Config) -> Result<bool> {
    let targets = config.targets()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (url, options) = (config.url.clone(), config.path_options());
    let url = if config.lan { runtime.block_on(on_this_network(config))? } else { Some(url) };
    // A list is all that was asked for; with a code, something was to be played.
    let Some(url) = url else { return Ok(config.pairing_code.is_none()) };
    crate::ffmpeg::init()?;
    let settings = PlayoutConfig {
        fixed_target: config.buffer.map(Duration::from_millis),
        may_skip: config.may_skip(),
        burst: Duration::ZERO,
    };
    net::clock::set_test_offset(config.clock_offset.saturating_mul(1000));
    let trace = config
        .trace
        .as_deref()
        .map(|path| Trace::create(path).with_context(|| format!("cannot write the trace {}", path.display())));
    let player = Arc::new(PlayerContext::new(settings, trace.transpose()?));
    let unit_log = config
        .unit_log
        .as_ref()
        .map(|path| UnitLog::create(path).with_context(|| format!("cannot write the unit log {}", path.display())));
    let recorders = targets.into_iter().map(Recorder::start).collect::<Result<Vec<_>, _>>()?;
    let outputs = Outputs {
        recorders,
        unit_log: unit_log.transpose()?,
        hot: config.standby == Standby::Hot,
        gap_timeout: if config.may_skip() { GAP_TIMEOUT } else { RECORDING_GAP_TIMEOUT },
    };
    runtime.spawn(signals(player.clone()));
    let position = Position::default();
    let (events, inbox) = mpsc::channel(EVENT_QUEUE);
    let source = runtime.spawn(source::run(url.clone(), options, position.clone(), events));

    let pipeline = {
        let (player, handle) = (player.clone(), runtime.handle().clone());
        spawn("pipeline", move || {
            let failure = pipeline::run(&player, inbox, &position, outputs, &handle);
            if failure.is_some() {
                player.stop();
            }
            failure
        })?
    };
    let (pictures, ready) = sync_channel(DECODED_QUEUE);
    let video = {
        let player = player.clone();
        spawn("video", move || decode::video(&player, &pictures))?
    };
    let has_sound = !config.is_headless() && !config.no_sound;
    let sound = has_sound.then(|| Arc::new(Mutex::new(SoundQueue::new(decode::RATE))));
    let audio = {
        let (player, sound) = (player.clone(), sound.clone());
        spawn("audio", move || decode::audio(&player, sound.as_ref()))?
    };
    let output = StatsOutput::new(config.stats == Some(StatsFormat::Json), config.takes_stdout());
    let status = {
        let player = player.clone();
        spawn("status", move || output.run(&player))?
    };

    let is_over = || is_time_up(config.duration, &player);
    let shown = if config.is_headless() {
        headless::run(&player, &ready, is_over);
        // Without pictures there may still be sound to wait for.
        while !player.is_stopping() && !is_over() && !audio.is_finished() {
            thread::sleep(TICK);
        }
        Ok(())
    } else {
        let settings = window::WindowOptions {
            title: format!("{} - Nearcast", shown(&url)),
            fullscreen: config.fullscreen,
            volume: config.volume,
            muted: config.mute,
            statistics: config.overlay,
        };
        window::run(&player, &ready, sound.as_ref(), &settings, is_over)
    };
    player.stop();
    source.abort();
    drop(ready);
    let failure = pipeline.join().ok().flatten();
    let joined = [video.join(), audio.join(), status.join()];
    if joined.iter().any(|result| result.is_err()) {
        error!("a thread broke down");
    }
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    let playback = player.playback.lock().status();
    let stats = player.stats.lock();
    output.summary(&stats.summary(playback));
    shown?;
    if let Some(error) = failure {
        return Err(error.into());
    }
    if stats.output_errors > 0 {
        bail!("what was played was not all kept or passed on: the log says why");
    }
    Ok(stats.has_played())
}

/// Says who broadcasts here; with a code, where to play from.
async fn on_this_network(config: &Config) -> Result<Option<String>> {
    let found = source::list_broadcasters().await.context("no mDNS on this machine")?;
    if config.pairing_code.is_none() || found.is_empty() {
        eprint!("{}", source::render_broadcasters(&found));
        return Ok(None);
    }
    // Whose code it is, each shows by itself: all are tried at once, and those that do not know it are refused.
    let addresses: Vec<String> = found.into_values().flatten().map(|address| address.to_string()).collect();
    Ok(Some(format!("nearcast://{}", addresses.join(","))))
}

/// What of a URL may stand in a window's title: a code must not.
fn shown(url: &str) -> &str {
    url.split('#').next().unwrap_or_default()
}

/// Whether the command line is to blame.
pub fn is_usage(error: &anyhow::Error) -> bool {
    error.is::<config::Error>() || matches!(error.downcast_ref(), Some(source::Error::Url { .. }))
}

fn is_time_up(seconds: Option<Duration>, player: &PlayerContext) -> bool {
    seconds.is_some_and(|seconds| player.clock.now() >= end(seconds, player.stats.lock().first()))
}

/// The time runs from the first picture. Until there is one, the start has a bound of its own: a short time to watch is no reason
/// to give up on HLS, which takes some seconds to begin.
fn end(seconds: Duration, first: Option<Duration>) -> Duration {
    first.map_or(seconds.max(START_TIMEOUT), |first| first + seconds)
}

/// The first Ctrl-C ends everything in order, the second at once.
async fn signals(player: Arc<PlayerContext>) {
    for first in [true, false] {
        wait_for_signal().await;
        if !first {
            std::process::exit(INTERRUPTED);
        }
        info!("stopping");
        player.stop();
    }
}

#[cfg(unix)]
async fn wait_for_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}

#[cfg(not(unix))]
async fn wait_for_signal() {
    let _ = tokio::signal::ctrl_c().await;
}

fn spawn<T: Send + 'static>(name: &str, run: impl FnOnce() -> T + Send + 'static) -> Result<thread::JoinHandle<T>> {
    thread::Builder::new().name(name.to_owned()).spawn(run).with_context(|| format!("cannot start the {name} thread"))
}

/// The least time for the first picture to come, where the time is limited.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Bounds what waits between the source and the path merger.
const EVENT_QUEUE: usize = 32;
/// Decoded pictures between the decoder and the screen: 4K pictures have 12 MB each.
const DECODED_QUEUE: usize = 4;
/// How long a picture is worth waiting for another path to bring what is missing before it.
const GAP_TIMEOUT: Duration = Duration::from_millis(400);
/// Where nothing may be left out, another path gets the time that HLS needs.
const RECORDING_GAP_TIMEOUT: Duration = Duration::from_secs(8);
/// How often the end of sound is looked for.
const TICK: Duration = Duration::from_millis(20);
/// Connections that do not close by themselves are dropped.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(200);
/// What shells give a process that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_runs_from_the_first_picture_and_the_start_has_its_own() {
        for (seconds, first, wanted) in
            [(3, None, 30), (45, None, 45), (3, Some(0), 3), (3, Some(12), 15), (45, Some(40), 85)]
        {
            let (seconds, first) = (Duration::from_secs(seconds), first.map(Duration::from_secs));
            assert_eq!(end(seconds, first), Duration::from_secs(wanted), "{seconds:?} {first:?}");
        }
    }
}
