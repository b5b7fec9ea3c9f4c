//! One's turn on the machine: two measurements at once would measure each other.

use std::fs::File;

use anyhow::{Context, Result};

/// Waits until nobody else of this user has the machine, and has it until the file is dropped. End-to-end tests and experiments wait
/// for each other so.
pub fn lock_machine() -> Result<File> {
    let lock = open()?;
    if lock.try_lock().is_err() {
        eprintln!("lab: waiting for other experiments and tests to end");
        lock.lock()?;
    }
    Ok(lock)
}

/// Waits until nobody measures, and keeps others from it until the file is dropped: for end-to-end tests, of which several may run.
pub fn share_machine() -> Result<File> {
    let lock = open()?;
    if lock.try_lock_shared().is_err() {
        eprintln!("lab: waiting for an experiment to end");
        lock.lock_shared()?;
    }
    Ok(lock)
}

fn open() -> Result<File> {
    let user = crate::outer_uid::outer_uid();
    let path = std::env::temp_dir().join(format!("nearcast-e2e.{user}.lock"));
    File::options().create(true).append(true).open(&path).context(path.display().to_string())
}
