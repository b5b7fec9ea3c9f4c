//! The command line of `lab`: commands, flags, defaults and help texts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::latency_bound::{FRAMING, IDR_UNIT, MEAN_UNIT};
use crate::link::Emulator;
use crate::load::Protocol;

/// Emulates networks on one machine (hosts in network namespaces, switches, emulated links), and runs experiments with Nearcast's
/// programs in them.
///
/// Needs Linux, the program `ip` (iproute2), and root or user namespaces; without root, `lab` enters a user namespace by itself. There the
/// emulator has no real-time priority, and more runs are invalid.
#[derive(Debug, Parser)]
#[command(name = "lab", version, after_help = EXAMPLES)]
pub struct Cli {
    /// The command with its arguments
    #[command(subcommand)]
    pub command: Command,
}

/// The commands of `lab`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a network and keep it until Ctrl-C; commands on standard input change it (`help` lists them)
    Up(UpArgs),
    /// Change a link of a running network: `lab set uplink loss=1%`
    Set(SendArgs),
    /// Send any command to a running network: `lab send cut uplink`
    Send(SendArgs),
    /// Run one experiment or `all`; writes NAME.json, NAME.csv, NAME.svg and NAME.png
    Run(RunArgs),
    /// List experiments and topologies
    List,
    /// Generate load: many concurrent viewers of one stream, by one protocol, for any server
    Load(LoadArgs),
    /// Compute the lower bound on the latency of a frame in a topology
    Bound(BoundArgs),
}

/// Arguments of `lab up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// A TOML file, or the name of a topology that `lab list` shows
    pub topology: String,
    /// Seed of all random draws [default: the topology's]
    #[arg(long)]
    pub seed: Option<u64>,
    /// The link emulator
    #[arg(long, value_enum, default_value = "auto", value_name = "WHO")]
    pub links: Emulator,
}

/// `lab set`, `lab send`.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// The process number that `lab up` printed; needed if several networks are running
    #[arg(long)]
    pub pid: Option<u32>,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<String>,
}

/// Arguments of `lab run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// An experiment that `lab list` shows, or `all`
    pub name: String,
    /// Run for a shorter time, as a smoke test: its figures are not meaningful
    #[arg(long)]
    pub quick: bool,
    /// Seed of all random draws
    #[arg(long, default_value_t = 20_201_105)]
    pub seed: u64,
    /// The directory for results
    #[arg(long, value_name = "DIR", default_value = "lab-results")]
    pub out: PathBuf,
    /// The directory of broadcaster, cdn and viewer [default: that of this program]
    #[arg(long, value_name = "DIR", env = "NEARCAST_BIN")]
    pub bin: Option<PathBuf>,
    /// For `comparison`: another server, by a command that listens on 0.0.0.0:1935 and accepts publishing and playing live/live
    #[arg(long = "server", value_name = "NAME=COMMAND", value_parser = other_server)]
    pub other_servers: Vec<(String, String)>,
    /// The link emulator; with netem, random draws do not follow the seed
    #[arg(long, value_enum, default_value = "userspace", value_name = "WHO")]
    pub links: Emulator,
    /// Keep the programs' logs and traces in DIR/NAME.work
    #[arg(long)]
    pub keep: bool,
}

/// Arguments of `lab load`.
#[derive(Debug, Args)]
#[command(after_help = LOAD)]
pub struct LoadArgs {
    /// rtmp://HOST/APP/NAME for RTMP, http://HOST/….m3u8 for HLS, http://HOST:8080/NAME (a Nearcast stream's page) for HLS and relay
    pub url: String,
    /// The protocol of all viewers
    #[arg(long, value_enum)]
    pub protocol: Protocol,
    /// The number of concurrent viewers
    #[arg(long, default_value_t = 100, value_parser = viewers)]
    pub viewers: usize,
    /// Seconds to measure, from when all viewers have joined
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub duration: u64,
    /// Seconds over which the viewers join, evenly
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub ramp: u64,
    /// The server's process on this machine: also measure its CPU time and memory
    #[arg(long)]
    pub pid: Option<u32>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `lab bound`.
#[derive(Debug, Args)]
pub struct BoundArgs {
    /// A TOML file, or the name of a topology that `lab list` shows
    pub topology: String,
    /// The host that sends
    #[arg(long, default_value = "broadcaster")]
    pub from: String,
    /// The host that forwards
    #[arg(long, default_value = "cdn")]
    pub relay: String,
    /// The host that receives
    #[arg(long, default_value = "viewer")]
    pub to: String,
    /// Size of an access unit in bytes; may be given several times
    #[arg(long = "unit", value_name = "BYTES", default_values_t = [MEAN_UNIT, IDR_UNIT])]
    pub units: Vec<usize>,
    /// Payload bytes per packet
    #[arg(long, default_value_t = FRAMING.payload, value_parser = payload)]
    pub payload: usize,
    /// Header bytes per packet, including Ethernet
    #[arg(long, default_value_t = FRAMING.headers)]
    pub headers: usize,
    /// Print JSON
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

/// More viewers than one thread can serve on a fast machine.
const MAX_VIEWERS: usize = 20_000;

fn payload(text: &str) -> Result<usize, String> {
    let bytes = text.parse::<usize>().map_err(|error| error.to_string())?;
    (1..=65_535).contains(&bytes).then_some(bytes).ok_or_else(|| "a packet carries 1 to 65535 bytes".to_owned())
}

const LOAD: &str = "\
Each viewer is a client with its own sockets that receives everything and decodes nothing: RTMP players; HLS clients that reload the playlist
and fetch every segment; LL-HLS clients that use blocking reloads, delta updates and preload hints; relay subscribers. The report states the
units received, the capture-to-receive latency (by the stream's clock, so the broadcaster must run on this machine), and missing, duplicate
and lagging units, found by comparing the viewers.

All viewers share one thread and one address. Raise the server's limits per address (Nearcast: rtmp., relay. and http.max_per_address; an
LL-HLS viewer uses three connections; loopback is exempt for RTMP and relay), and give server and generator one core each:
  taskset -c 1 lab load --protocol ll-hls --viewers 500 --pid $(pidof cdn) http://127.0.0.1:8080/live

Exit codes: 0 every viewer received everything, 1 one did not, 64 invalid command line.";

const EXAMPLES: &str = "\
Examples:
  lab list                                 list experiments and topologies
  lab up paper-a                           create the paper's network, with links of 4 Mbit/s
  lab set cdn rate=2M loss=1%              change one of its links, from another terminal
  lab send cut viewer                      disconnect a link; `lab send heal viewer` reconnects it
  lab run paper-fig2 --out results         measure the latency of each frame via the CDN and directly
  lab run all --quick                      smoke test of all experiments
  lab load --protocol hls --viewers 300 http://127.0.0.1:8080/live    generate load
  lab bound paper-a --unit 4167            the lower bound on latency

The programs must be in the directory of this one: cargo build --release -p lab -p broadcaster -p cdn -p viewer.
A run is invalid if the link emulator missed its deadlines; the result says so, and the exit code is 2.
Exit codes: 0 success, 1 failure, 2 invalid run, 64 invalid command line or topology.";

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
