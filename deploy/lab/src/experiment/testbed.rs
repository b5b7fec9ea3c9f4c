//! The programs under test: starts them in hosts, and reads their logs and traces.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::options::Options;
use super::trace_reader;
use crate::host::Host;
use crate::link::Emulator;
use crate::process::{Process, pin};
use crate::topology::Topology;
use crate::wait::until;

/// The programs and a working directory.
#[derive(Debug)]
pub(super) struct Testbed {
    pub(super) quick: bool,
    pub(super) seed: u64,
    links: Emulator,
    /// Other servers to compare with, by name and command.
    pub(super) other_servers: Vec<(String, String)>,
    programs: PathBuf,
    work: PathBuf,
    /// Removes `work` on drop; `None` if it is kept.
    _directory: Option<tempfile::TempDir>,
}

/// A running program that writes a trace.
#[derive(Debug)]
pub(super) struct Traced {
    pub(super) process: Process,
    trace: PathBuf,
}

impl Testbed {
    /// Finds the programs and creates the working directory. Fails when a program is missing.
    pub(super) fn new(name: &str, options: &Options) -> Result<Testbed> {
        let programs = match &options.programs {
            Some(directory) => directory.clone(),
            None => std::env::current_exe()?.parent().context("this program is in no directory")?.to_owned(),
        };
        for program in ["broadcaster", "cdn", "viewer"] {
            let path = programs.join(program);
            ensure!(
                path.exists(),
                "there is no {}: build it (cargo build --release -p broadcaster -p cdn -p viewer), or set its directory with --bin",
                path.display()
            );
        }
        let (work, directory) = if options.keep {
            let work = options.result_file(name, "work");
            // Traces of an earlier run would be read as those of this one.
            if work.exists() {
                std::fs::remove_dir_all(&work).with_context(|| format!("empty {}", work.display()))?;
            }
            std::fs::create_dir_all(&work)?;
            (work, None)
        } else {
            let directory = tempfile::Builder::new().prefix("nearcast-lab.").tempdir()?;
            (directory.path().to_owned(), Some(directory))
        };
        Ok(Testbed {
            quick: options.quick,
            seed: options.seed,
            links: options.links,
            other_servers: options.other_servers.clone(),
            programs,
            work,
            _directory: directory,
        })
    }

    /// Parses a shipped topology and sets the seed and emulator of this run.
    pub(super) fn topology(&self, text: &str) -> Result<Topology> {
        let mut topology: Topology = text.parse()?;
        topology.seed = self.seed;
        topology.emulator = self.links;
        Ok(topology)
    }

    /// `seconds`, or `quick` seconds in a quick run.
    pub(super) fn seconds(&self, seconds: u64, quick: u64) -> Duration {
        Duration::from_secs(if self.quick { quick } else { seconds })
    }

    /// A path in the working directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.work.join(name)
    }

    /// A command that runs one of the programs in a host.
    pub(super) fn command(&self, host: &Host, program: &str) -> Command {
        let mut command = host.command(self.programs.join(program));
        command.env_remove("RUST_LOG");
        command
    }

    /// Starts `command` with its output in files of that name.
    pub(super) fn start(&self, name: &str, command: &mut Command) -> Result<Process> {
        Process::spawn(&self.work, name, command)
    }

    /// Creates a stream key for `live`.
    pub(super) fn key(&self) -> Result<String> {
        let made = Command::new(self.programs.join("cdn"))
            .args(["key", "new", "live", "--data"])
            .arg(self.path("cdn-data"))
            .output()
            .context("cdn key new")?;
        let said = String::from_utf8_lossy(&made.stdout).into_owned();
        ensure!(made.status.success(), "cdn key new: {said}{}", String::from_utf8_lossy(&made.stderr));
        let key = said.lines().last().and_then(|line| line.split_whitespace().last());
        Ok(key.context("cdn key new printed no key")?.to_owned())
    }

    /// Starts a `cdn` on the default ports and waits until it listens.
    pub(super) fn cdn(&self, host: &Host) -> Result<Process> {
        self.serve(&mut self.cdn_command(host)?)
    }

    /// Starts a `cdn` that writes a trace.
    pub(super) fn traced_cdn(&self, host: &Host) -> Result<Traced> {
        let trace = self.path("cdn.trace");
        let mut command = self.cdn_command(host)?;
        command.arg("--trace").arg(&trace);
        Ok(Traced { process: self.serve(&mut command)?, trace })
    }

    /// The command that [`Testbed::cdn`] starts.
    pub(super) fn cdn_command(&self, host: &Host) -> Result<Command> {
        let address = host.address().context("the CDN's host has no address")?;
        let mut command = self.command(host, "cdn");
        command.args([
            "--rtmp",
            "0.0.0.0:1935",
            "--http",
            "0.0.0.0:8080",
            "--relay",
            "0.0.0.0:4443",
            "--metrics",
            "off",
        ]);
        command.args(["--log", "json", "--public-host", &address.to_string(), "--data"]).arg(self.path("cdn-data"));
        Ok(command)
    }

    /// Starts a prepared `cdn` command and waits until it listens.
    pub(super) fn serve(&self, command: &mut Command) -> Result<Process> {
        let mut process = self.start("cdn", command)?;
        process.line(START, "where it listens", |line| line.contains(r#""listening""#))?;
        Ok(process)
    }

    /// Starts a `broadcaster` that pushes to `url`, pinned to `core` if given.
    pub(super) fn pinned_broadcaster(
        &self,
        host: &Host,
        url: &str,
        options: &[&str],
        core: Option<usize>,
    ) -> Result<Traced> {
        let mut command = self.command(host, "broadcaster");
        core.into_iter().for_each(|core| pin(&mut command, core));
        self.traced("broadcaster", command, &[&["--log", "json", "--stats", "json"], options, &[url]].concat())
    }

    /// Starts a `broadcaster` that pushes to `url`.
    pub(super) fn broadcaster(&self, host: &Host, url: &str, options: &[&str]) -> Result<Traced> {
        self.pinned_broadcaster(host, url, options, None)
    }

    /// Starts a headless `viewer` with its output in files of that name.
    pub(super) fn viewer(&self, name: &str, host: &Host, url: &str, options: &[&str]) -> Result<Traced> {
        let command = self.command(host, "viewer");
        self.traced(name, command, &[&["--headless", "--log", "json", "--stats", "json"], options, &[url]].concat())
    }

    fn traced(&self, name: &str, mut command: Command, arguments: &[&str]) -> Result<Traced> {
        let trace = self.path(&format!("{name}.trace"));
        command.arg("--trace").arg(&trace).args(arguments);
        Ok(Traced { process: self.start(name, &mut command)?, trace })
    }
}

impl Traced {
    /// The rows traced so far.
    pub(super) fn rows(&self) -> Result<Vec<trace_reader::TraceRow>> {
        if self.trace.exists() && std::fs::metadata(&self.trace)?.len() > 0 {
            trace_reader::read(&self.trace)
        } else {
            Ok(Vec::new())
        }
    }

    /// Waits until it has traced `count` frames at `stage`, on a path whose name begins with `path`, since `since` (microseconds since the Unix
    /// epoch). Fails after `within`, or when the program ends.
    pub(super) fn wait_pictures(
        &mut self,
        stage: &str,
        path: &str,
        count: usize,
        since: i64,
        within: Duration,
    ) -> Result<()> {
        let what = format!("{count} frames {stage} {path}");
        until(within, &what, || {
            ensure!(self.process.running()?, "{} ended: {}", self.process.name(), last_lines(&self.process.err()));
            let is_one = |row: &trace_reader::TraceRow| {
                row.stage == stage && row.track.starts_with('v') && row.path.starts_with(path) && row.at >= since
            };
            Ok((self.rows()?.iter().filter(|row| is_one(row)).count() >= count).then_some(()))
        })
    }

    /// The path switches that a viewer has logged.
    pub(super) fn switches(&self) -> Vec<Value> {
        let log = self.process.err();
        let switched = log.lines().filter(|line| line.contains(r#""switched""#));
        switched
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .map(|line| line["fields"].clone())
            .collect()
    }

    /// Waits until a viewer's active path has a name that begins with `source`.
    pub(super) fn wait_source(&mut self, source: &str, within: Duration) -> Result<()> {
        until(within, &format!("frames by {source}"), || {
            ensure!(self.process.running()?, "{} ended: {}", self.process.name(), last_lines(&self.process.err()));
            let to = self.switches().last().and_then(|switch| switch["to"].as_str().map(str::to_owned));
            let by = || {
                let rows = self.rows().ok()?;
                rows.into_iter().rev().find(|row| row.stage == "merged").map(|row| row.path)
            };
            Ok(to.or_else(by).is_some_and(|now| now.starts_with(source)).then_some(()))
        })
    }

    /// Interrupts it, waits for its end, and returns the last JSON object that it printed: its summary.
    pub(super) fn finish(&mut self) -> Result<Value> {
        self.process.interrupt();
        self.process.exit(END)?;
        let out = self.process.out();
        let last = out.lines().rev().find(|line| line.starts_with('{'));
        let last = last.with_context(|| {
            format!("{} printed no summary: {}", self.process.name(), last_lines(&self.process.err()))
        })?;
        Ok(serde_json::from_str(last)?)
    }
}

/// The last lines of a log, for an error message.
fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(5)..].join(" | ")
}

/// Timeout for a server to listen, on a busy machine.
const START: Duration = Duration::from_secs(20);
/// Timeout for a program to end after SIGINT.
const END: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_run_clears_kept_traces() -> Result<()> {
        let out = tempfile::tempdir()?;
        for program in ["broadcaster", "cdn", "viewer"] {
            std::fs::write(out.path().join(program), "")?;
        }
        let options = Options {
            quick: true,
            seed: 1,
            links: crate::link::Emulator::Userspace,
            out: out.path().to_owned(),
            programs: Some(out.path().to_owned()),
            keep: true,
            other_servers: Vec::new(),
        };
        let first = Testbed::new("one", &options)?;
        std::fs::write(first.path("viewer.trace"), "old")?;
        drop(first);
        assert!(out.path().join("one.work/viewer.trace").exists());
        let second = Testbed::new("one", &options)?;
        assert!(!second.path("viewer.trace").exists());
        Ok(())
    }
}
