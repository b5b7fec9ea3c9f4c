//! Waiting for an event within a deadline, in place of sleeping for as long as it might take.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Asks `poll` until it gives something. `what` is named in the error if `within` passes first.
pub fn until<T>(within: Duration, what: &str, mut poll: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = poll()? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("waited {within:?} in vain for {what}");
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Short against everything that is waited for, long against what asking costs.
const INTERVAL: Duration = Duration::from_millis(20);

/// For whatever takes some seconds on a quiet machine: a wait is over as soon as what it is for has come, and only a fault takes this long.
pub const TIMEOUT: Duration = Duration::from_secs(90);
