//! Logging: `tracing` events to standard error, as text or JSON lines, with FFmpeg's log lines among them.

use std::cell::Cell;
use std::io::{IsTerminal, stderr};
use std::time::Instant;

use clap::ValueEnum;
use command::LogLimiter;
use command::log_filter::{self, InvalidFilter};
use ffmpeg_log::Level;
use parking_lot::Mutex;

use crate::terminal::StatusLineWriter;

/// The log format, as `--log` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Human-readable lines, and a status line on a terminal.
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts logging, once per process. `RUST_LOG` overrides the default level of `info`. Returns the format in use: without one
/// given, text on a terminal and JSON elsewhere.
///
/// # Errors
/// If `RUST_LOG` is no filter.
pub fn start(format: Option<LogFormat>) -> Result<LogFormat, InvalidFilter> {
    let format = format.unwrap_or(if stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json });
    let filter = log_filter::from_environment("info")?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(StatusLineWriter);
    // A line that cannot be written must not end the task that logs it: `tracing` would print that, and panic.
    let subscriber = subscriber.log_internal_errors(false);
    // A second start, as in tests, keeps the first.
    let _ = match format {
        LogFormat::Text => subscriber.with_target(false).with_ansi(stderr().is_terminal()).try_init(),
        LogFormat::Json => subscriber.json().try_init(),
    };
    ffmpeg_log::route(Level::Verbose, forward);
    Ok(format)
}

/// While it lives, FFmpeg's log lines on this thread are lowered to debug level: an attempt that may fail is not an error.
pub struct FfmpegLogGuard(bool);

impl FfmpegLogGuard {
    /// Lowers the level on this thread until the guard is dropped. Guards nest.
    pub fn begin() -> Self {
        Self(IS_QUIET.replace(true))
    }
}

impl Drop for FfmpegLogGuard {
    fn drop(&mut self) {
        IS_QUIET.set(self.0);
    }
}

/// Logs an FFmpeg line one level lower than FFmpeg does: this program handles the errors and reports their outcome itself.
fn forward(level: Level, line: &str) {
    let level = if IS_QUIET.get() { level.max(Level::Info) } else { level };
    match level {
        Level::Fatal | Level::Error => FAILURES.lock().note(Instant::now(), (level == Level::Fatal, line.to_owned())),
        Level::Warning | Level::Info => tracing::debug!(target: "ffmpeg", "{line}"),
        Level::Verbose => tracing::trace!(target: "ffmpeg", "{line}"),
    }
}

/// Writes FFmpeg's lines about failures that were not written yet; to be called when the program ends.
pub fn finish() {
    FAILURES.lock().finish();
}

thread_local! {
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Lines about failures, and whether each is fatal. A damaged file causes several for each picture, of which no two are the same.
static FAILURES: Mutex<LogLimiter<(bool, String)>> =
    Mutex::new(LogLimiter::with_burst(FAILURE_LINES, |lines, (is_fatal, line)| match is_fatal {
        true => tracing::error!(target: "ffmpeg", lines, "{line}"),
        false => tracing::warn!(target: "ffmpeg", lines, "{line}"),
    }));

/// Bounds the lines about failures within ten seconds: one failure takes several lines to explain.
const FAILURE_LINES: u32 = 10;
