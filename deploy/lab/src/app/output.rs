//! Standard output, written and flushed at once: whoever drives `lab up` through a pipe reads each reply as it comes.

use std::io::Write;

use anyhow::Result;

/// Writes `text` as it is. Fails when nobody reads it any more.
pub(super) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
