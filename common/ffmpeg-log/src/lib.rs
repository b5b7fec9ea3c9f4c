//! FFmpeg's log lines, for whoever writes them: between lines of JSON, a line of FFmpeg's own would break whoever reads them.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use ffmpeg_next::ffi;

/// How severe a line is, most severe first, as FFmpeg's `AV_LOG_…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something cannot go on.
    Fatal,
    /// Something went wrong; data may be lost.
    Error,
    /// Something looks wrong, and may go on well.
    Warning,
    /// What a program does, such as the encoder's settings.
    Info,
    /// What is of use in a search for a fault.
    Verbose,
}

/// Is told a line and how severe it is, in any thread.
pub type OnLine = fn(Level, &str);

/// Gives each line to `on_line` from now on, in the thread that causes it, without line ends; those less severe than `least` are left out. The first
/// call counts. `va_list` differs by architecture: only on x86-64 lines are routed; elsewhere FFmpeg writes its fatal ones to standard error itself.
pub fn route(least: Level, on_line: OnLine) {
    let _ = ROUTE.set((least, on_line));
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the callback is thread-safe, as FFmpeg demands, and lives for ever.
    unsafe {
        ffi::av_log_set_level(ffi::AV_LOG_VERBOSE as c_int);
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
    let Some((least, on_line)) = ROUTE.get() else { return };
    let Some(severity) = severity(level).filter(|severity| severity <= least) else { return };
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
        on_line(severity, line);
    }
}

/// `None` for debugging lines.
fn severity(level: c_int) -> Option<Level> {
    let limits = [
        (ffi::AV_LOG_FATAL, Level::Fatal),
        (ffi::AV_LOG_ERROR, Level::Error),
        (ffi::AV_LOG_WARNING, Level::Warning),
        (ffi::AV_LOG_INFO, Level::Info),
        (ffi::AV_LOG_VERBOSE, Level::Verbose),
    ];
    limits.into_iter().find(|(limit, _)| level <= *limit as c_int).map(|(_, level)| level)
}

static ROUTE: OnceLock<(Level, OnLine)> = OnceLock::new();

/// FFmpeg's own limit on a line.
#[cfg(target_arch = "x86_64")]
const MAX_LINE_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_those_of_ffmpeg() {
        for (level, severity_of_it) in [
            (0, Some(Level::Fatal)),
            (8, Some(Level::Fatal)),
            (16, Some(Level::Error)),
            (24, Some(Level::Warning)),
            (32, Some(Level::Info)),
            (40, Some(Level::Verbose)),
            (48, None),
        ] {
            assert_eq!(severity(level), severity_of_it, "{level}");
        }
    }
}
