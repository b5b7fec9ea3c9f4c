//! axe-core, which judges the accessibility of pages. It is fetched from the npm registry once, and kept in the build directory.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::browser::Browser;

/// The script of axe-core.
#[derive(Debug)]
pub struct Axe {
    script: String,
}

impl Axe {
    /// Fetches it into `directory` if it is not there. `None`, with a message, where npm or its registry is missing.
    ///
    /// # Errors
    /// If what was fetched cannot be read.
    pub fn fetch(directory: &Path) -> Result<Option<Self>> {
        let script: PathBuf = directory.join("node_modules/axe-core/axe.min.js");
        if !script.exists() {
            std::fs::create_dir_all(directory)?;
            let mut npm = Command::new("npm");
            npm.args(["install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--silent", "--prefix"]);
            npm.arg(directory).arg(PACKAGE).stdin(Stdio::null());
            match npm.output() {
                Ok(output) if output.status.success() => {}
                Ok(output) => {
                    eprintln!("skipped: npm cannot fetch {PACKAGE}: {}", String::from_utf8_lossy(&output.stderr));
                    return Ok(None);
                }
                Err(error) => {
                    eprintln!("skipped: no npm to fetch {PACKAGE} with: {error}");
                    return Ok(None);
                }
            }
        }
        let script = std::fs::read_to_string(&script).with_context(|| script.display().to_string())?;
        Ok(Some(Self { script }))
    }

    /// The rules that the page in the browser breaks, each with the first element that does.
    ///
    /// # Errors
    /// If the script does not run in the page.
    pub fn violations(&self, browser: &Browser) -> Result<Vec<String>> {
        browser.run(&self.script)?;
        let found = browser.run(RUN)?;
        ensure!(found["passes"].as_u64() > Some(0), "axe-core checked nothing: {found}");
        let violations = found["violations"].as_array().cloned().unwrap_or_default();
        Ok(violations.iter().map(|violation| json!(violation).to_string()).collect())
    }
}

/// WebDriver waits for the promise that a script returns (WebDriver §13.2.1).
const RUN: &str = "return axe.run(document, { resultTypes: ['violations'] }).then((found) => ({
    passes: found.passes.length,
    violations: found.violations.map(({ id, help, nodes }) => ({ id, help, first: nodes[0].html.slice(0, 200) })),
}));";
const PACKAGE: &str = "axe-core@4";
