//! A lock file that keeps experiments and end-to-end tests from running at the same time: they would distort each other's timing.

use std::fs::File;

use anyhow::{Context, Result};

/// Waits for the exclusive lock of this user, which is held until the file is dropped. Fails when the lock file cannot be created.
pub fn lock_machine() -> Result<File> {
    let lock = open()?;
    if lock.try_lock().is_err() {
        eprintln!("lab: waiting for other experiments and tests to end");
        lock.lock()?;
    }
    Ok(lock)
}

/// Waits for the shared lock of this user, which is held until the file is dropped: for end-to-end tests, of which several may run. Fails when the
/// lock file cannot be created.
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
