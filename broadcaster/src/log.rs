//! Logging: `tracing` events to standard error, as text or JSON lines, with FFmpeg's log lines among them.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::io::{IsTerminal, stderr};
use std::time::Instant;

use clap::ValueEnum;
use command::LogLimiter;
use command::log_filter::{self, InvalidFilter};
use ffmpeg_next::ffi;
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
    route_ffmpeg();
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

fn route_ffmpeg() {
    // The prototype of `va_list` differs by architecture; elsewhere FFmpeg writes its errors, and only those, by itself.
    // SAFETY: the callback is thread-safe, as FFmpeg demands, and lives for ever.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        ffi::av_log_set_level(ffi::AV_LOG_VERBOSE as c_int);
        ffi::av_log_set_callback(Some(callback));
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: sets an integer.
    unsafe {
        ffi::av_log_set_level(ffi::AV_LOG_ERROR as c_int)
    };
}

#[cfg(target_arch = "x86_64")]
unsafe extern "C" fn callback(
    context: *mut c_void,
    level: c_int,
    format: *const c_char,
    arguments: *mut ffi::__va_list_tag,
) {
    if level > ffi::AV_LOG_VERBOSE as c_int {
        return;
    }
    let mut line = [0 as c_char; MAX_LINE_BYTES];
    let mut with_prefix: c_int = 1;
    // SAFETY: FFmpeg's own arguments, passed on once; the line is written within its size and ends in NUL.
    let line = unsafe {
        ffi::av_log_format_line2(
            context,
            level,
            format,
            arguments,
            line.as_mut_ptr(),
            MAX_LINE_BYTES as c_int,
            &mut with_prefix,
        );
        CStr::from_ptr(line.as_ptr())
    };
    let line = line.to_string_lossy();
    let line = line.trim();
    if !line.is_empty() {
        forward(level, line);
    }
}

/// Logs an FFmpeg line one level lower than FFmpeg does: this program handles the errors and reports their outcome itself.
fn forward(level: c_int, line: &str) {
    let level = if IS_QUIET.get() { level.max(ffi::AV_LOG_INFO as c_int) } else { level };
    if level <= ffi::AV_LOG_ERROR as c_int {
        FAILURES.lock().note(Instant::now(), (level <= ffi::AV_LOG_FATAL as c_int, line.to_owned()));
    } else if level <= ffi::AV_LOG_INFO as c_int {
        tracing::debug!(target: "ffmpeg", "{line}");
    } else {
        tracing::trace!(target: "ffmpeg", "{line}");
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

/// FFmpeg's own limit on a line.
#[cfg(target_arch = "x86_64")]
const MAX_LINE_BYTES: usize = 1024;
