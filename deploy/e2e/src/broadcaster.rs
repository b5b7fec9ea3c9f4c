//! The broadcaster under test.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::programs::program;
use crate::test_env::TestEnv;
use crate::unit_log::{Unit, compare, read_units};
use crate::viewer::Viewer;
use ::lab::{Process, TIMEOUT};

/// A running `broadcaster` that logs every access unit that leaves it.
#[derive(Debug)]
pub struct Broadcaster {
    /// The process.
    pub process: Process,
    unit_log: PathBuf,
}

impl Broadcaster {
    /// Starts one that publishes to `url` with `options`.
    pub fn start(env: &TestEnv, url: &str, options: &[&str]) -> Result<Self> {
        Self::start_with(env, url, options, |_| {})
    }

    /// The same, with a word in how it is started: its environment, say.
    pub fn start_with(env: &TestEnv, url: &str, options: &[&str], adjust: impl FnOnce(&mut Command)) -> Result<Self> {
        let mut command = Command::new(program("broadcaster")?);
        adjust(&mut command);
        Self::start_command(env, command, url, options)
    }

    /// The same by a command that was prepared: in a network of its own, say.
    pub fn start_command(env: &TestEnv, mut command: Command, url: &str, options: &[&str]) -> Result<Self> {
        let unit_log = env.file("left.", ".units")?;
        command.args(["--log", "json", "--unit-log"]).arg(&unit_log).args(options).arg(url);
        Ok(Self { process: env.spawn("broadcaster", &mut command)?, unit_log })
    }

    /// One that `command` starts on a terminal of its own, as `script` does. It logs no units.
    pub fn on_a_terminal(env: &TestEnv, mut command: Command) -> Result<Self> {
        Ok(Self { process: env.spawn("broadcaster", &mut command)?, unit_log: env.file("none.", ".units")? })
    }

    /// A small test picture, which leaves the machine time for the rest.
    pub const SMALL: [&str; 8] = ["--source", "test", "--audio", "tone", "--size", "640x360", "--fps", "30"];

    /// Every access unit that left. The log is whole once the broadcaster has ended.
    pub fn units(&self) -> Result<Vec<Unit>> {
        read_units(&self.unit_log)
    }

    /// Ends it as Ctrl-C does; it must say goodbye and succeed.
    pub fn stop(&mut self) -> Result<()> {
        self.process.interrupt();
        self.process.success(TIMEOUT)
    }

    /// Stops it, and demands that pictures and sound have come to `viewer` as they left, from the first that came on.
    pub fn stop_and_compare(&mut self, viewer: &Viewer) -> Result<()> {
        self.stop()?;
        let counts = compare(&self.units()?, &viewer.units()?)?;
        ensure!(counts.len() == 2, "both tracks came: {counts:?}");
        Ok(())
    }
}
