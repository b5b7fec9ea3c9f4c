//! The environment of one test: a shared lock on the machine, and a directory for data and logs.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use ::lab::Process;

/// A directory for data and logs, and a shared lock that keeps experiments from measuring; both are released on drop.
#[derive(Debug)]
pub struct TestEnv {
    directory: tempfile::TempDir,
    names: RefCell<Vec<String>>,
    _machine: File,
}

impl TestEnv {
    /// Waits until no experiment runs, and creates the directory. Tests may run concurrently: programs use ports that the system assigns.
    pub fn new() -> Result<Self> {
        let machine = ::lab::share_machine()?;
        let directory = tempfile::Builder::new().prefix("nearcast-e2e.").tempdir()?;
        Ok(Self { directory, names: RefCell::default(), _machine: machine })
    }

    /// The test's directory; removed on drop.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A path in that directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Creates an empty file with a unique name.
    pub(crate) fn file(&self, prefix: &str, suffix: &str) -> Result<PathBuf> {
        let file = tempfile::Builder::new().prefix(prefix).suffix(suffix).tempfile_in(self.directory())?;
        Ok(file.into_temp_path().keep()?)
    }

    /// Starts a third-party program.
    pub fn run<S: AsRef<OsStr>>(
        &self,
        name: &str,
        program: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Process> {
        self.spawn(name, Command::new(program).args(arguments))
    }

    /// Starts `command` with logs named `name`, followed by a number if the name was used before.
    pub fn spawn(&self, name: &str, command: &mut Command) -> Result<Process> {
        let mut names = self.names.borrow_mut();
        let before = names.iter().filter(|used| *used == name).count();
        names.push(name.to_owned());
        let name = if before == 0 { name.to_owned() } else { format!("{name}-{}", before + 1) };
        Process::spawn(self.directory(), &name, command)
    }

    /// Whether the directory is kept: `NEARCAST_KEEP` is set.
    fn keep() -> bool {
        std::env::var_os("NEARCAST_KEEP").is_some()
    }
}

impl Drop for TestEnv {
    fn drop(&mut self) {
        // The test runner discards this output unless the test fails.
        report(self.directory());
        if Self::keep() {
            self.directory.disable_cleanup(true);
            eprintln!("kept {}", self.directory().display());
        }
    }
}

/// The effective user id; some programs refuse to run as root (0).
pub(crate) fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Prints the end of every log.
fn report(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let mut logs: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    logs.retain(|path| path.extension().is_some_and(|e| e == "out" || e == "err" || e == "log"));
    logs.sort();
    for path in logs {
        let text = fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        if text.is_empty() {
            continue;
        }
        eprintln!("--- end of {}", path.file_name().unwrap_or_default().to_string_lossy());
        let lines: Vec<&str> = text.lines().collect();
        for line in &lines[lines.len().saturating_sub(REPORTED_LINES)..] {
            eprintln!("{}", line.chars().take(REPORTED_COLUMNS).collect::<String>());
        }
    }
}

/// Lines printed of each log: the last events of each program, without burying the assertion.
const REPORTED_LINES: usize = 20;
/// Maximum columns printed: progress lines of players are endless.
const REPORTED_COLUMNS: usize = 400;
