//! The viewer under test, headless or in a window.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::programs::program;
use crate::screen::Screen;
use crate::test_env::TestEnv;
use crate::unit_log::{Unit, read_units};
use ::lab::Process;
use ::lab::{TIMEOUT, until};

/// A running `viewer` that logs every access unit it receives.
#[derive(Debug)]
pub struct Viewer {
    /// The running process; it is killed on drop.
    pub process: Process,
    unit_log: PathBuf,
}

/// The JSON summary that a viewer prints at its end.
#[derive(Clone, Debug)]
pub struct ViewerSummary(pub Value);

impl Viewer {
    /// Starts a headless viewer that plays `url` with `options`.
    pub fn start(env: &TestEnv, url: &str, options: &[&str]) -> Result<Self> {
        Self::start_command(env, Command::new(program("viewer")?), url, options)
    }

    /// Starts one by a prepared command, for example in a network namespace.
    pub fn start_command(env: &TestEnv, mut command: Command, url: &str, options: &[&str]) -> Result<Self> {
        command.arg("--headless");
        Self::spawn(env, command, url, options)
    }

    /// Starts one with a window on `screen`, and without audio output.
    pub fn start_on(env: &TestEnv, screen: &Screen, url: &str, options: &[&str]) -> Result<Self> {
        let mut command = Command::new(program("viewer")?);
        command.env("DISPLAY", &screen.display).env("SDL_VIDEODRIVER", "x11").env("SDL_AUDIODRIVER", "dummy");
        Self::spawn(env, command, url, options)
    }

    fn spawn(env: &TestEnv, mut command: Command, url: &str, options: &[&str]) -> Result<Self> {
        let unit_log = env.file("came.", ".units")?;
        command.args(["--stats", "json", "--unit-log"]).arg(&unit_log).args(options).arg(url);
        Ok(Self { process: env.spawn("viewer", &mut command)?, unit_log })
    }

    /// Every access unit that was received. The log is complete once the viewer has ended.
    pub fn units(&self) -> Result<Vec<Unit>> {
        read_units(&self.unit_log)
    }

    /// Fails if a unit passed the path merger twice; call it once the viewer has ended. (Duplicates that the merger dropped are no fault: a server that
    /// resumes sends from an IDR.)
    pub fn ensure_no_duplicates(&self) -> Result<()> {
        let mut seen = HashSet::new();
        let twice = self.units()?.into_iter().find(|unit| !seen.insert(unit.clone()));
        ensure!(twice.is_none(), "duplicate unit: {twice:?}");
        Ok(())
    }

    /// Waits until `count` frames have been presented in total. Fails after `within`, or when the viewer ends.
    pub fn wait_pictures(&mut self, count: usize, within: Duration) -> Result<()> {
        until(within, &format!("{count} frames at the viewer"), || {
            ensure!(self.process.running()?, "the viewer ended");
            Ok((self.pictures()? >= count).then_some(()))
        })
    }

    /// The number of presented frames, by the last statistics line (one per second).
    pub fn pictures(&self) -> Result<usize> {
        let pictures = self.stats()?.and_then(|stats| stats["pictures"].as_u64());
        Ok(pictures.and_then(|count| count.try_into().ok()).unwrap_or(0))
    }

    /// The last statistics line (one per second), or the summary; `None` before the first.
    pub fn stats(&self) -> Result<Option<Value>> {
        let mut file = File::open(self.process.out_path())?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LAST_LINES)))?;
        let mut out = Vec::new();
        file.read_to_end(&mut out)?;
        let out = String::from_utf8_lossy(&out);
        // The first of several lines may have lost its beginning.
        let complete = &out[..out.rfind('\n').unwrap_or(0)];
        let line = complete.lines().rev().find(|line| line.starts_with('{') && line.contains(r#""pictures""#));
        Ok(line.map(serde_json::from_str).transpose()?)
    }

    /// Waits until the viewer reports the end of the stream: by then it has received everything.
    pub fn wait_end(&mut self, within: Duration) -> Result<()> {
        self.process.line(within, "that the stream ended", |line| line.contains("The stream has ended")).map(drop)
    }

    /// Interrupts it and returns its summary.
    pub fn finish(&mut self) -> Result<ViewerSummary> {
        self.process.interrupt();
        self.summary(TIMEOUT)
    }

    /// Waits for its end and returns its summary. Fails unless it exits with success.
    pub fn summary(&mut self, within: Duration) -> Result<ViewerSummary> {
        self.process.success(within)?;
        let out = self.process.out();
        let line =
            out.lines().rev().find(|line| line.contains(r#""pictures""#)).context("the viewer gave no summary")?;
        Ok(ViewerSummary(serde_json::from_str(line)?))
    }
}

impl ViewerSummary {
    /// The number of presented frames.
    pub fn pictures(&self) -> u64 {
        self.0["pictures"].as_u64().unwrap_or(0)
    }

    /// Fails unless at least `least` frames were presented with consecutive numbers: none lost, none duplicated.
    pub fn ensure_unbroken(&self, least: u64) -> Result<()> {
        let said = &self.0;
        ensure!(self.pictures() >= least, "fewer than {least} frames: {said}");
        let mark = &said["marker"];
        let (first, last) = (
            mark["first"].as_u64().context("no frame number was read")?,
            mark["last"].as_u64().context("no frame number was read")?,
        );
        ensure!(mark["gaps"] == 0 && mark["repeats"] == 0, "the counter is broken: {said}");
        ensure!(last - first + 1 == self.pictures(), "{first} to {last} is not the number of frames: {said}");
        Ok(())
    }
}

/// Bytes at the end of the output that hold at least one whole statistics line.
const LAST_LINES: u64 = 16 << 10;
