//! The options of `lab run`.

use std::path::PathBuf;

use crate::link::Emulator;

/// How to run experiments.
#[derive(Clone, Debug)]
pub struct Options {
    /// Run for a shorter time.
    pub quick: bool,
    /// Seed of all random draws.
    pub seed: u64,
    /// The link emulator.
    pub links: Emulator,
    /// The directory for results.
    pub out: PathBuf,
    /// The directory of the programs; `None` for that of this program.
    pub programs: Option<PathBuf>,
    /// Whether logs and traces are kept in `out/NAME.work`.
    pub keep: bool,
    /// Other servers, by name and command, for `comparison`.
    pub other_servers: Vec<(String, String)>,
}

impl Options {
    /// The command that reproduces a result, without the directories.
    pub(super) fn command(&self, name: &str) -> String {
        let quick = if self.quick { " --quick" } else { "" };
        let links = match self.links {
            Emulator::Userspace => "",
            Emulator::Netem => " --links netem",
            Emulator::Auto => " --links auto",
        };
        format!("lab run {name}{quick}{links} --seed {}", self.seed)
    }

    /// The path of a result file of an experiment.
    pub(super) fn result_file(&self, name: &str, extension: &str) -> PathBuf {
        self.out.join(format!("{name}.{extension}"))
    }
}
