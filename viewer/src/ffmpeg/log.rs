//! FFmpeg's log lines as events of `tracing`.

use std::time::Instant;

use command::LogLimiter;
use ffmpeg_log::Level;
use parking_lot::Mutex;

/// Routes FFmpeg's lines to `tracing` from now on.
pub(super) fn route() {
    ffmpeg_log::route(Level::Info, forward);
}

/// Logs a line. Only fatal ones are news: of an error the caller is told, and a decoder conceals damaged pictures, of which each
/// causes several lines.
fn forward(level: Level, line: &str) {
    match level {
        Level::Fatal => FATAL.lock().note(Instant::now(), line.to_owned()),
        Level::Error | Level::Warning => tracing::debug!(target: "ffmpeg", "{line}"),
        Level::Info | Level::Verbose => tracing::trace!(target: "ffmpeg", "{line}"),
    }
}

/// Writes the lines that were not written yet; to be called when the program ends.
pub(crate) fn finish() {
    FATAL.lock().finish();
}

static FATAL: Mutex<LogLimiter<String>> =
    Mutex::new(LogLimiter::with_burst(FATAL_LINES, |lines, line| tracing::error!(target: "ffmpeg", lines, "{line}")));

/// Bounds the fatal lines within ten seconds.
const FATAL_LINES: u32 = 3;

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::ffi::{CStr, c_int};

    use ffmpeg_next::ffi;

    use super::*;
    use crate::captured_log::captured_log;

    fn write(level: c_int, text: &CStr) {
        // SAFETY: the format takes one string.
        unsafe { ffi::av_log(std::ptr::null_mut(), level, c"%s\n".as_ptr(), text.as_ptr()) };
    }

    #[test]
    fn lines_are_events_of_their_level_and_bounded() {
        route();
        let log = captured_log(|| {
            write(ffi::AV_LOG_ERROR, c"concealed");
            (0..100).for_each(|_| write(ffi::AV_LOG_FATAL, c"out of 100% memory"));
            finish();
        });
        assert_eq!(log.len(), 4, "{log:?}");
        assert!(log.iter().all(|line| line.contains("ERROR out of 100% memory")), "{log:?}");
        assert!(log[3].contains("lines=97"), "{log:?}");
    }
}
