//! The tests of the player page's scripts, which run in Node.js, without a browser.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

#[test]
fn the_tests_of_the_scripts_pass() -> Result<()> {
    let web = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cdn/web");
    let mut node = Command::new("node");
    node.args(["--test", "--test-reporter=tap"]).current_dir(&web).stdin(Stdio::null());
    let output = node.output().context("Node.js is missing: run deploy/test, which installs it")?;
    let said = String::from_utf8_lossy(&output.stdout);
    eprintln!("{said}");
    ensure!(output.status.success(), "node --test in {}: {}", web.display(), output.status);
    // Without a test, node succeeds too.
    let passed = said.lines().find_map(|line| line.strip_prefix("# pass ")).context("no count of tests")?;
    ensure!(passed.parse::<u32>()? > 0, "node found no tests in {}", web.display());
    Ok(())
}
