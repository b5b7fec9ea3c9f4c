//! Where the programs under test are: beside this test's own executable, freshly built.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

/// The path of `cdn`, `broadcaster` or `viewer`.
///
/// The first call builds all three in the profile of the test itself, so that none is stale; `NEARCAST_BIN` names a directory
/// of ready ones instead.
pub fn program(name: &str) -> Result<PathBuf> {
    static DIRECTORY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| find().map_err(|e| format!("{e:#}")));
    let path = directory.as_ref().map_err(|e| anyhow::anyhow!("{e}"))?.join(name);
    ensure!(path.exists(), "no {} there", path.display());
    Ok(path)
}

fn find() -> Result<PathBuf> {
    if let Some(directory) = std::env::var_os("NEARCAST_BIN") {
        return Ok(directory.into());
    }
    // target/PROFILE/deps/TEST
    let test = std::env::current_exe()?;
    let directory = test.parent().and_then(|deps| deps.parent()).context("a test lives in target/PROFILE/deps")?;
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--profile", profile, "-p", "cdn", "-p", "broadcaster", "-p", "viewer"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .context("cannot run cargo")?;
    ensure!(built.success(), "the programs under test do not build");
    Ok(directory.to_owned())
}
