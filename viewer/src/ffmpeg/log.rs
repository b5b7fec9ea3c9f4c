//! FFmpeg's log lines as events of `tracing`: between lines of JSON, a line of FFmpeg's own would break whoever reads them.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::time::Instant;

use command::LogLimiter;
use ffmpeg_next::ffi;
use parking_lot::Mutex;

/// Routes FFmpeg's lines to `tracing` from now on.
pub(super) fn route() {
    // The prototype of `va_list` differs by architecture; elsewhere FFmpeg writes its fatal errors, and only those, by itself.
    // SAFETY: the callback is thread-safe, as FFmpeg demands, and lives for ever.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        ffi::av_log_set_level(ffi::AV_LOG_INFO as c_int);
        ffi::av_log_set_callback(Some(callback));
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: sets an integer.
    unsafe {
        ffi::av_log_set_level(ffi::AV_LOG_FATAL as c_int)
    };
}

#[cfg(target_arch = "x86_64")]
unsafe extern "C" fn callback(
    context: *mut c_void,
    level: c_int,
    format: *const c_char,
    arguments: *mut ffi::__va_list_tag,
) {
    if level > ffi::AV_LOG_INFO as c_int {
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

/// Logs a line. Only fatal ones are news: of an error the caller is told, and a decoder conceals damaged pictures, of which each
/// causes several lines.
fn forward(level: c_int, line: &str) {
    if level <= ffi::AV_LOG_FATAL as c_int {
        FATAL.lock().note(Instant::now(), line.to_owned());
    } else if level <= ffi::AV_LOG_WARNING as c_int {
        tracing::debug!(target: "ffmpeg", "{line}");
    } else {
        tracing::trace!(target: "ffmpeg", "{line}");
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

/// FFmpeg's own limit on a line.
#[cfg(target_arch = "x86_64")]
const MAX_LINE_BYTES: usize = 1024;

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
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
