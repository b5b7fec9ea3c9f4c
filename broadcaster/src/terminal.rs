//! The terminal on standard error: a status line that stays on the last row while log lines scroll above it.

use std::io::{self, Write};

use parking_lot::Mutex;

/// Writes log lines to standard error and repaints the status line below them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StatusLineWriter;

impl Write for StatusLineWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let status = STATUS_LINE.lock();
        let mut out = io::stderr().lock();
        if !status.is_empty() {
            out.write_all(ERASE_LINE)?;
        }
        out.write_all(line)?;
        if !status.is_empty() {
            out.write_all(status.as_bytes())?;
        }
        out.flush()?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl tracing_subscriber::fmt::MakeWriter<'_> for StatusLineWriter {
    type Writer = Self;
    fn make_writer(&self) -> Self {
        *self
    }
}

/// Paints `line` as the status line, over the previous one. It must fit the [`width`].
pub(crate) fn show_status(line: &str) {
    let mut status = STATUS_LINE.lock();
    let mut out = io::stderr().lock();
    let _ = out.write_all(ERASE_LINE).and_then(|()| out.write_all(line.as_bytes())).and_then(|()| out.flush());
    *status = line.to_owned();
}

/// Removes the status line, if there is one.
pub(crate) fn clear_status() {
    let mut status = STATUS_LINE.lock();
    if !std::mem::take(&mut *status).is_empty() {
        let _ = io::stderr().write_all(ERASE_LINE);
    }
}

/// Characters that fit on one row without wrapping: one less than the terminal has, for a full last column would wrap.
pub(crate) fn width() -> usize {
    let columns = terminal_size::terminal_size_of(io::stderr()).map_or(FALLBACK_COLUMNS, |(columns, _)| columns.0);
    usize::from(columns).saturating_sub(1).max(1)
}

/// Text on the last row; empty while there is no status line.
static STATUS_LINE: Mutex<String> = Mutex::new(String::new());

/// Carriage return and erase to the end of the line (ECMA-48 §8.3.41).
const ERASE_LINE: &[u8] = b"\r\x1b[K";

/// The width assumed if the terminal does not report it: that of the VT100.
const FALLBACK_COLUMNS: u16 = 80;
