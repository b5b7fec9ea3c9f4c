//! Polling for a condition with a deadline, instead of a fixed sleep.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Calls `poll` every 20 ms until it returns a value. Fails when `poll` fails, or after `within`, with `what` in the error.
pub fn until<T>(within: Duration, what: &str, mut poll: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = poll()? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("timed out after {within:?}, waiting for {what}");
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Short compared with all awaited events, long compared with the cost of polling.
const INTERVAL: Duration = Duration::from_millis(20);

/// Default timeout for what takes some seconds on an idle machine: a wait ends with the awaited event, so only a fault takes this long.
pub const TIMEOUT: Duration = Duration::from_secs(90);
