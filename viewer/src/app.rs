//! Assembles the modules, runs them, and shuts them down in the order of the data, so that no unit is lost.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use command::Exit;
use command::signals::Signals;
use net::relay::RefusalCode;
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
use crate::record::{self, Recorder};
use crate::sandbox;
use crate::source::{self, Position};
use crate::stats::LIVE;
use crate::status::StatsOutput;
use crate::unit_log::UnitLog;

/// Plays until the stream ends, the user quits, or `--duration` is over.
///
/// # Errors
/// If nothing was played, an output cannot be opened, no window or thread can be created, no path can ever work, or a recording, pipe or
/// unit log is incomplete.
pub fn run(config: &Config) -> Result<()> {
    let targets = config.targets()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (url, options) = (config.url.clone(), config.path_options());
    let url = if config.lan { runtime.block_on(on_this_network(config))? } else { Some(url) };
    // Without a pairing code, `--lan` only lists broadcasters.
    let Some(url) = url else {
        ensure!(
            config.pairing_code.is_none(),
            NothingPlayed { state: "no broadcaster was found on this network".into() }
        );
        return Ok(());
    };
    source::check(&url, &options)?;
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
    let signals = runtime.block_on(async { Signals::new() }).context("cannot handle signals")?;
    runtime.spawn(handle_signals(signals, player.clone()));
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
        decoder("video", move || decode::video(&player, &pictures))?
    };
    let has_sound = !config.is_headless() && !config.no_sound;
    let sound = has_sound.then(|| Arc::new(Mutex::new(SoundQueue::new(decode::RATE))));
    let audio = {
        let (player, sound) = (player.clone(), sound.clone());
        decoder("audio", move || decode::audio(&player, sound.as_ref()))?
    };
    let output = StatsOutput::new(config.stats == Some(StatsFormat::Json), config.takes_stdout());
    let status = {
        let player = player.clone();
        spawn("status", move || output.run(&player))?
    };

    let is_over = || is_time_up(config.duration, &player);
    let shown = if config.is_headless() {
        headless::run(&player, &ready, is_over);
        // A stream may have audio only.
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
        error!("a thread panicked");
    }
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    crate::ffmpeg::finish_log();
    let playback = player.playback.lock().status();
    let stats = player.stats.lock();
    output.summary(&stats.summary(playback));
    shown?;
    if let Some(error) = failure {
        return Err(error.into());
    }
    if stats.output_errors > 0 {
        return Err(OutputIncomplete.into());
    }
    ensure!(stats.has_played(), NothingPlayed { state: stats.state.clone() });
    Ok(())
}

/// Lists the broadcasters on this network; with a pairing code, returns a URL of all their addresses.
async fn on_this_network(config: &Config) -> Result<Option<String>> {
    let found = source::list_broadcasters().await.context("cannot use mDNS on this machine")?;
    if config.pairing_code.is_none() || found.is_empty() {
        eprint!("{}", source::render_broadcasters(&found));
        return Ok(None);
    }
    // All are tried at once: a broadcaster with another code fails the pairing.
    let addresses: Vec<String> = found.into_values().flatten().map(|address| address.to_string()).collect();
    Ok(Some(format!("nearcast://{}", addresses.join(","))))
}

/// The part of a URL that a window's title may show: not the pairing code.
fn shown(url: &str) -> &str {
    url.split('#').next().unwrap_or_default()
}

/// The exit code of an error that ended the program.
pub fn exit_of(error: &anyhow::Error) -> Exit {
    use source::Error as Source;
    if error.is::<config::Error>() {
        return Exit::Usage;
    }
    if error.is::<window::Error>() {
        return Exit::NoInput;
    }
    if let Some(NothingPlayed { state }) = error.downcast_ref() {
        return if state == LIVE { Exit::Failure } else { Exit::Unavailable };
    }
    match error.downcast_ref() {
        Some(Source::Url { .. }) => Exit::Usage,
        Some(Source::WrongCode { .. } | Source::Impostor { .. }) => Exit::NotPermitted,
        Some(Source::Relay { source: net::relay::Error::Refused { code: RefusalCode::Denied, .. }, .. }) => {
            Exit::NotPermitted
        }
        Some(Source::UnknownStream { .. } | Source::Rtmp { .. } | Source::Unreachable { .. } | Source::Http { .. }) => {
            Exit::Unavailable
        }
        Some(_) => Exit::Failure,
        None if error.is::<OutputIncomplete>() || error.is::<record::Error>() || error.is::<std::io::Error>() => {
            Exit::CannotCreate
        }
        None => Exit::Failure,
    }
}

/// The duration or the stream ended before anything was played.
#[derive(Debug, thiserror::Error)]
#[error("nothing was played: {state}")]
struct NothingPlayed {
    /// Of the stream, in words, at the end.
    state: String,
}

/// Something that was to be written is not complete; the log says what.
#[derive(Debug, thiserror::Error)]
#[error("a recording, pipe or unit log is incomplete: see the log")]
struct OutputIncomplete;

fn is_time_up(seconds: Option<Duration>, player: &PlayerContext) -> bool {
    seconds.is_some_and(|seconds| player.clock.now() >= end(seconds, player.stats.lock().first()))
}

/// When `--duration` is over, on the viewer's clock. It counts from the first picture; until there is one, it is at least [`START_TIMEOUT`], as HLS
/// takes some seconds to begin.
fn end(seconds: Duration, first: Option<Duration>) -> Duration {
    first.map_or(seconds.max(START_TIMEOUT), |first| first + seconds)
}

/// The first SIGINT or SIGTERM ends everything in order, the second at once.
async fn handle_signals(mut signals: Signals, player: Arc<PlayerContext>) {
    let signal = signals.stop().await;
    info!(signal, "stopping");
    player.stop();
    signals.stop().await;
    std::process::exit(INTERRUPTED);
}

fn spawn<T: Send + 'static>(name: &str, run: impl FnOnce() -> T + Send + 'static) -> Result<thread::JoinHandle<T>> {
    thread::Builder::new().name(name.to_owned()).spawn(run).with_context(|| format!("cannot start the {name} thread"))
}

fn decoder(name: &str, run: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>> {
    sandbox::spawn(name, None, run).with_context(|| format!("cannot start the {name} thread"))
}

/// How long to wait for the first picture at least, where `--duration` is shorter.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Bounds the events that wait between the source and the merge.
const EVENT_QUEUE: usize = 32;
/// Decoded pictures between the decoder and the screen: 4K pictures have 12 MB each.
const DECODED_QUEUE: usize = 4;
/// How long a picture waits for another path to fill the gap before it.
const GAP_TIMEOUT: Duration = Duration::from_millis(400);
/// The same if nothing may be skipped: as long as HLS needs.
const RECORDING_GAP_TIMEOUT: Duration = Duration::from_secs(8);
/// How often the end of the audio thread is checked.
const TICK: Duration = Duration::from_millis(20);
/// How long connections may take to close.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(200);
/// 128 + SIGINT, as shells report it.
const INTERRUPTED: i32 = 130;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_duration_counts_from_the_first_picture_and_the_start_has_a_timeout_of_its_own() {
        for (seconds, first, wanted) in
            [(3, None, 30), (45, None, 45), (3, Some(0), 3), (3, Some(12), 15), (45, Some(40), 85)]
        {
            let (seconds, first) = (Duration::from_secs(seconds), first.map(Duration::from_secs));
            assert_eq!(end(seconds, first), Duration::from_secs(wanted), "{seconds:?} {first:?}");
        }
    }
}
