//! Standard output, flushed after each write, so that a program that drives `lab up` through a pipe reads each reply at once.

use std::io::Write;

use anyhow::Result;

/// Writes `text` unchanged and flushes. Fails when the reader is gone.
pub(super) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
