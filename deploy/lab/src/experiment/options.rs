//! How an experiment is run: what `lab run` was told.

use std::path::PathBuf;

use crate::link::Emulator;

/// How to run one.
#[derive(Clone, Debug)]
pub struct Options {
    /// Shorter.
    pub quick: bool,
    /// Of everything random.
    pub seed: u64,
    /// Who emulates the links.
    pub links: Emulator,
    /// Where results go.
    pub out: PathBuf,
    /// Where the programs are; `None` is beside this one.
    pub programs: Option<PathBuf>,
    /// Whether logs and traces are kept.
    pub keep: bool,
    /// Other servers, by name and command, for `comparison`.
    pub other_servers: Vec<(String, String)>,
}

impl Options {
    /// The command that makes a result again, wherever its results went and its programs were.
    pub(super) fn command(&self, name: &str) -> String {
        let quick = if self.quick { " --quick" } else { "" };
        let links = match self.links {
            Emulator::Userspace => "",
            Emulator::Netem => " --links netem",
            Emulator::Auto => " --links auto",
        };
        format!("lab run {name}{quick}{links} --seed {}", self.seed)
    }

    /// A file among an experiment's results.
    pub(super) fn result_file(&self, name: &str, extension: &str) -> PathBuf {
        self.out.join(format!("{name}.{extension}"))
    }
}
