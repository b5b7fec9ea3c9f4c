//! The broadcaster under test.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::programs::program;
use crate::test_env::TestEnv;
use crate::unit_log::{Unit, compare, read_units};
use crate::viewer::Viewer;
use ::lab::{Process, TIMEOUT};

/// A running `broadcaster` that logs every access unit that it sends.
#[derive(Debug)]
pub struct Broadcaster {
    /// The running process; it is killed on drop.
    pub process: Process,
    unit_log: PathBuf,
}

impl Broadcaster {
    /// Starts a broadcaster that publishes to `url` with `options`.
    pub fn start(env: &TestEnv, url: &str, options: &[&str]) -> Result<Self> {
        Self::start_with(env, url, options, |_| {})
    }

    /// Starts one with an adjusted command, for example its environment.
    pub fn start_with(env: &TestEnv, url: &str, options: &[&str], adjust: impl FnOnce(&mut Command)) -> Result<Self> {
        let mut command = Command::new(program("broadcaster")?);
        adjust(&mut command);
        Self::start_command(env, command, url, options)
    }

    /// Starts one by a prepared command, for example in a network namespace.
    pub fn start_command(env: &TestEnv, mut command: Command, url: &str, options: &[&str]) -> Result<Self> {
        let unit_log = env.file("left.", ".units")?;
        command.args(["--log", "json", "--unit-log"]).arg(&unit_log).args(options).arg(url);
        Ok(Self { process: env.spawn("broadcaster", &mut command)?, unit_log })
    }

    /// One that `command` starts on its own terminal, as `script` does. It logs no units.
    pub fn on_a_terminal(env: &TestEnv, mut command: Command) -> Result<Self> {
        Ok(Self { process: env.spawn("broadcaster", &mut command)?, unit_log: env.file("none.", ".units")? })
    }

    /// Options for a small test pattern, which leaves CPU time for the other programs.
    pub const SMALL: [&str; 8] = ["--source", "test", "--audio", "tone", "--size", "640x360", "--fps", "30"];

    /// Every access unit that was sent. The log is complete once the broadcaster has ended.
    pub fn units(&self) -> Result<Vec<Unit>> {
        read_units(&self.unit_log)
    }

    /// Interrupts it as Ctrl-C does. Fails unless it exits with success.
    pub fn stop(&mut self) -> Result<()> {
        self.process.interrupt();
        self.process.success(TIMEOUT)
    }

    /// Stops it. Fails unless `viewer` received audio and video exactly as sent, from the first received unit on.
    pub fn stop_and_compare(&mut self, viewer: &Viewer) -> Result<()> {
        self.stop()?;
        let counts = compare(&self.units()?, &viewer.units()?)?;
        ensure!(counts.len() == 2, "not both tracks were received: {counts:?}");
        Ok(())
    }
}
