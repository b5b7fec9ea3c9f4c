//! Finds the programs under test: in the directory of the test's build, built on first use.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

/// The path of `cdn`, `broadcaster` or `viewer`.
///
/// The first call builds all three in the profile of the test, so that none is stale; `NEARCAST_BIN` names a directory of existing ones
/// instead. Fails when they do not build.
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
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--quiet", "--profile", profile, "-p", "cdn", "-p", "broadcaster", "-p", "viewer"])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    // The outer cargo's variables about this package must not reach build scripts of other crates: some are rebuilt whenever these change
    // (ring 0.17), here and again in the next manual build.
    let told = std::env::vars_os().map(|(name, _)| name).filter(|name| is_of_package(&name.to_string_lossy()));
    for name in told {
        cargo.env_remove(name);
    }
    let built = cargo.status().context("cannot run cargo")?;
    ensure!(built.success(), "the programs under test do not build");
    Ok(directory.to_owned())
}

/// Whether cargo sets this variable for the package that it runs (The Cargo Book, "Environment variables Cargo sets for crates"). Its
/// own settings, such as `CARGO_HOME` and `CARGO_TARGET_DIR`, are none of these.
fn is_of_package(variable: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|prefix| variable.starts_with(prefix))
        || ["CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "OUT_DIR"].contains(&variable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_variables_of_this_package_are_not_passed_on() {
        for (name, wanted) in [
            ("CARGO_MANIFEST_DIR", true),
            ("CARGO_PKG_VERSION", true),
            ("CARGO_HOME", false),
            ("CARGO_TARGET_DIR", false),
            ("CARGO_BUILD_JOBS", false),
            ("CARGO", false),
        ] {
            assert_eq!(is_of_package(name), wanted, "{name}");
        }
    }
}
