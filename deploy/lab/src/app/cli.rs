//! What the user asks for.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::latency_bound::{FRAMING, IDR_UNIT, MEAN_UNIT};
use crate::link::Emulator;
use crate::load::Protocol;

/// Networks on one machine: hosts in network namespaces, joined by switches and emulated links; experiments with Nearcast's real
/// programs in them, and their figures.
///
/// Needs Linux, the program `ip` (iproute2), and root, or else user namespaces, which it then enters by itself. With user namespaces
/// alone the emulator has no real-time priority, and more runs are invalid.
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
    Up(UpArgs),
    /// Send a command to a network that is up: `lab set uplink loss=1%`, `lab send cut uplink`
    Set(SendArgs),
    /// The same for any command: `lab send heal uplink`
    Send(SendArgs),
    /// Run an experiment, or `all`; writes NAME.json, NAME.csv, NAME.svg and NAME.png
    Run(RunArgs),
    /// List experiments and topologies
    List,
    /// Watch a stream as many viewers at once, by one protocol, and say what they got: a load generator for any server
    Load(LoadArgs),
    /// How soon the last bit of a picture can arrive in a topology, by arithmetic
    Bound(BoundArgs),
}

/// `lab up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// A TOML file, or the name of a topology that `lab list` shows
    pub topology: String,
    /// Seed of everything random [default: the topology's]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Who delays and loses frames
    #[arg(long, value_enum, default_value = "auto", value_name = "WHO")]
    pub links: Emulator,
}

/// `lab set`, `lab send`.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// Which network, by the process number that `lab up` printed, if several are up
    #[arg(long)]
    pub pid: Option<u32>,
    /// The command's words
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<String>,
}

/// `lab run`.
#[derive(Debug, Args)]
pub struct RunArgs {
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
    /// For `comparison`: another server to measure, a command that listens on 0.0.0.0:1935 and lets live/live be published and played
    #[arg(long = "server", value_name = "NAME=COMMAND", value_parser = other_server)]
    pub other_servers: Vec<(String, String)>,
    /// Who delays and loses frames: with netem, what is random follows no seed
    #[arg(long, value_enum, default_value = "userspace", value_name = "WHO")]
    pub links: Emulator,
    /// Keep the programs' logs and traces in DIR/NAME.work
    #[arg(long)]
    pub keep: bool,
}

/// `lab load`.
#[derive(Debug, Args)]
#[command(after_help = LOAD)]
pub struct LoadArgs {
    /// rtmp://HOST/APP/NAME for RTMP, http://HOST/….m3u8 for HLS, http://HOST:8080/NAME (a Nearcast stream's page) for HLS and relay
    pub url: String,
    /// How they watch
    #[arg(long, value_enum)]
    pub protocol: Protocol,
    /// How many watch
    #[arg(long, default_value_t = 100, value_parser = viewers)]
    pub viewers: usize,
    /// How many seconds are measured, once all have come
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub duration: u64,
    /// Over how many seconds they come, evenly
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub ramp: u64,
    /// The server's process on this machine: measure its processor time and memory, too
    #[arg(long)]
    pub pid: Option<u32>,
    /// For programs
    #[arg(long)]
    pub json: bool,
}

/// `lab bound`.
#[derive(Debug, Args)]
pub struct BoundArgs {
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

fn other_server(text: &str) -> Result<(String, String), String> {
    let (name, command) = text.split_once('=').ok_or("write NAME=COMMAND")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if name.is_empty() || !name.chars().all(plain) || command.trim().is_empty() {
        return Err("write NAME=COMMAND; the name is of letters, digits, - and .".to_owned());
    }
    Ok((name.to_owned(), command.to_owned()))
}

fn viewers(text: &str) -> Result<usize, String> {
    let number = text.parse::<usize>().map_err(|error| error.to_string())?;
    (1..=MAX_VIEWERS).contains(&number).then_some(number).ok_or_else(|| format!("1 to {MAX_VIEWERS} viewers"))
}

/// What one thread may serve, on the fastest machine.
const MAX_VIEWERS: usize = 20_000;

fn payload(text: &str) -> Result<usize, String> {
    let bytes = text.parse::<usize>().map_err(|error| error.to_string())?;
    (1..=65_535).contains(&bytes).then_some(bytes).ok_or_else(|| "a packet carries 1 to 65535 bytes".to_owned())
}

const LOAD: &str = "\
Each viewer is a client of its own, over sockets of its own, that takes everything and decodes nothing: RTMP players; HLS clients that
reload the playlist and fetch every segment; low-latency clients whose reloads wait at the server, that take delta updates and ask for each
part before it exists; relay subscribers. What is measured: units received, how far behind the lens pictures come (by the stream's clock, so the
broadcaster's clock must be this machine's), and what is missing, repeated or behind by comparing the viewers with each other.

All comes from one thread and one address. Raise the server's limits for one address (Nearcast: rtmp., relay. and http.max_per_address; a
low-latency viewer takes three connections; loopback is exempt for RTMP and relay), and give server and generator a core each:
  taskset -c 1 lab load --protocol ll-hls --viewers 500 --pid $(pidof cdn) http://127.0.0.1:8080/live

Exit codes: 0 every viewer got everything, 1 one did not, 64 the command line makes no sense.";

const EXAMPLES: &str = "\
Examples:
  lab list                                 what can be run
  lab up paper-a                           the paper's network, with links of 4 Mbit/s
  lab set uplink rate=2M loss=1%           change a link of it, from another terminal
  lab send cut uplink                      pull a cable of it; `lab send heal uplink` plugs it in
  lab run paper-fig2 --out results         delay per picture through the CDN and straight from the broadcaster
  lab load --protocol hls --viewers 300 http://127.0.0.1:8080/live    what does that cost the server?
  lab run all --quick                      does everything work here?
  lab bound paper-a --unit 4167            what no sender can beat

The programs are looked for beside this one: cargo build --release -p lab -p broadcaster -p cdn -p viewer.
A result says whether the emulator kept time; a run in which it did not is invalid, and the exit code is 2.
Exit codes: 0 done, 1 failed, 2 the run is invalid, 64 the command line or the topology makes no sense.";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn arguments_of_a_forwarded_command_are_not_parsed_as_flags() {
        let cli = Cli::parse_from("lab set up:a-to-b rate=2M --x".split(' '));
        let Command::Set(send) = cli.command else { panic!("{cli:?}") };
        assert_eq!(send.words, ["up:a-to-b", "rate=2M", "--x"]);
    }
}
