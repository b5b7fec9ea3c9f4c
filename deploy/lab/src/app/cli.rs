//! What the user asks for.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::floor::{FRAMING, IDR_UNIT, MEAN_UNIT};

/// Networks on one machine: hosts in network namespaces, joined by switches and emulated links; experiments with Nearcast's real
/// programs in them, and their figures.
///
/// Needs Linux, the program `ip` (iproute2), and root, or else user namespaces, which it then enters by itself. With user namespaces
/// alone the emulator has no real-time priority, and more runs are void.
#[derive(Debug, Parser)]
#[command(name = "lab", version, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a network, keep it until Ctrl-C, and change it by commands on standard input (`help` lists them)
    Up(Up),
    /// Send a command to a network that is up: `lab set uplink loss=1%`, `lab tell cut uplink`
    Set(Tell),
    /// The same for any command: `lab tell heal uplink`
    Tell(Tell),
    /// Run an experiment, or `all`; writes NAME.json, NAME.csv, NAME.svg and NAME.png
    Run(Run),
    /// List experiments and topologies
    List,
    /// How soon the last bit of a picture can arrive in a topology, by arithmetic
    Floor(Floor),
}

/// `lab up`.
#[derive(Debug, Args)]
pub struct Up {
    /// A TOML file, or the name of a topology that `lab list` shows
    pub topology: String,
    /// Seed of everything random [default: the topology's]
    #[arg(long)]
    pub seed: Option<u64>,
}

/// `lab set`, `lab tell`.
#[derive(Debug, Args)]
pub struct Tell {
    /// Which network, by the process number that `lab up` printed, if several are up
    #[arg(long)]
    pub pid: Option<u32>,
    /// The command's words
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<String>,
}

/// `lab run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The experiment, as `lab list` names it, or `all`
    pub name: String,
    /// A shorter run, for checking that it works: figures of it mean little
    #[arg(long)]
    pub quick: bool,
    /// Seed of everything random
    #[arg(long, default_value_t = 20_201_105)]
    pub seed: u64,
    /// Where results go
    #[arg(long, value_name = "DIR", default_value = "lab-results")]
    pub out: PathBuf,
    /// Where broadcaster, cdn and viewer are [default: beside this program]
    #[arg(long, value_name = "DIR", env = "NEARCAST_BIN")]
    pub bin: Option<PathBuf>,
    /// For `rivals`: another server to measure, a command that listens on 0.0.0.0:1935 and lets live/live be published and played
    #[arg(long = "rival", value_name = "NAME=COMMAND", value_parser = rival)]
    pub rivals: Vec<(String, String)>,
    /// Keep the programs' logs and traces in DIR/NAME.work
    #[arg(long)]
    pub keep: bool,
}

/// `lab floor`.
#[derive(Debug, Args)]
pub struct Floor {
    /// A TOML file, or the name of a topology that `lab list` shows
    pub topology: String,
    /// The host that sends
    #[arg(long, default_value = "broadcaster")]
    pub from: String,
    /// The host that relays
    #[arg(long, default_value = "cdn")]
    pub relay: String,
    /// The host that receives
    #[arg(long, default_value = "viewer")]
    pub to: String,
    /// Bytes of the units to send, as many as wanted
    #[arg(long = "unit", value_name = "BYTES", default_values_t = [MEAN_UNIT, IDR_UNIT])]
    pub units: Vec<usize>,
    /// Bytes of a unit in one packet
    #[arg(long, default_value_t = FRAMING.payload, value_parser = payload)]
    pub payload: usize,
    /// Bytes of a packet's headers, Ethernet's included
    #[arg(long, default_value_t = FRAMING.headers)]
    pub headers: usize,
    /// For programs
    #[arg(long)]
    pub json: bool,
}

fn rival(text: &str) -> Result<(String, String), String> {
    let (name, command) = text.split_once('=').ok_or("write NAME=COMMAND")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if name.is_empty() || !name.chars().all(plain) || command.trim().is_empty() {
        return Err("write NAME=COMMAND; the name is of letters, digits, - and .".to_owned());
    }
    Ok((name.to_owned(), command.to_owned()))
}

fn payload(text: &str) -> Result<usize, String> {
    let bytes = text.parse::<usize>().map_err(|error| error.to_string())?;
    (1..=65_535).contains(&bytes).then_some(bytes).ok_or_else(|| "a packet carries 1 to 65535 bytes".to_owned())
}

const EXAMPLES: &str = "\
Examples:
  lab list                                 what can be run
  lab up paper-a                           the paper's network, with links of 4 Mbit/s
  lab set uplink rate=2M loss=1%           change a link of it, from another terminal
  lab tell cut uplink                      pull a cable of it; `lab tell heal uplink` plugs it in
  lab run paper-fig2 --out results         delay per picture through the CDN and straight from the broadcaster
  lab run all --quick                      does everything work here?
  lab floor paper-a --unit 4167            what no sender can beat

The programs are looked for beside this one: cargo build --release -p lab -p broadcaster -p cdn -p viewer.
A result says whether the emulator kept time; a run in which it did not is void, and the exit code is 2.
Exit codes: 0 done, 1 failed, 2 the run is void, 64 the command line or the topology makes no sense.";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_command_s_words_are_its_own() {
        let cli = Cli::parse_from("lab set up:a-to-b rate=2M --x".split(' '));
        let Command::Set(tell) = cli.command else { panic!("{cli:?}") };
        assert_eq!(tell.words, ["up:a-to-b", "rate=2M", "--x"]);
    }
}
