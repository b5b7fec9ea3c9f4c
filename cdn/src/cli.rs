//! The command line: `cdn`, and `cdn key …`.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use cdn::auth::{Keyring, StreamName};
use cdn::config::{self, Config, FanoutEngine, LogFormat};
use clap::{Args, Parser, Subcommand};

/// Live streaming server: ingests RTMP and serves RTMP, HLS, low-latency HLS and the relay protocol.
#[derive(Debug, Parser)]
#[command(name = "cdn", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    /// What to do instead of running a server.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Settings of the server that is run.
    #[command(flatten)]
    pub(crate) flags: Flags,
}

/// Commands other than running a server.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Manage publish keys: who may publish, and under which stream name.
    Key {
        /// New, list or remove.
        #[command(subcommand)]
        action: KeyAction,
    },
}

/// Management of publish keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyAction {
    /// Create a key for the stream NAME and print it; it is not shown again.
    New {
        /// Name under which the stream is played.
        name: StreamName,
        /// Replace an existing key; a publisher that uses it is disconnected.
        #[arg(long)]
        replace: bool,
        /// Where the key file is.
        #[command(flatten)]
        paths: DataPaths,
    },
    /// List the streams that have a key.
    List {
        /// Where the key file is.
        #[command(flatten)]
        paths: DataPaths,
    },
    /// Remove the key of the stream NAME; its publisher and its players are disconnected.
    Remove {
        /// Name of the stream.
        name: StreamName,
        /// Where the key file is.
        #[command(flatten)]
        paths: DataPaths,
    },
}

/// Paths of the configuration, the data and the keys.
#[derive(Debug, Default, Args)]
pub(crate) struct DataPaths {
    /// Configuration file; deploy/cdn.toml lists every setting.
    #[arg(long, value_name = "FILE", env = "NEARCAST_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Directory for persistent data.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// File of publish keys [default: keys.toml in the data directory].
    #[arg(long, value_name = "FILE")]
    pub(crate) keys: Option<PathBuf>,
}

/// Settings that have flags; the others are set in the configuration file.
#[derive(Debug, Default, Args)]
pub(crate) struct Flags {
    /// Configuration, data and keys.
    #[command(flatten)]
    pub(crate) paths: DataPaths,
    /// Address to listen on for RTMP.
    #[arg(long, value_name = "ADDR")]
    pub(crate) rtmp: Option<SocketAddr>,
    /// Address to listen on for HTTP.
    #[arg(long, value_name = "ADDR")]
    pub(crate) http: Option<SocketAddr>,
    /// Address to listen on for the relay protocol (QUIC over UDP), or `off`.
    #[arg(long, value_name = "ADDR")]
    pub(crate) relay: Option<OptionalAddress>,
    /// Address to serve Prometheus metrics on, or `off`.
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<OptionalAddress>,
    /// Host name of this server in the URLs that it shows.
    #[arg(long, value_name = "HOST")]
    pub(crate) public_host: Option<String>,
    /// How data is written to RTMP players.
    #[arg(long, value_name = "ENGINE")]
    pub(crate) fanout: Option<FanoutEngine>,
    /// Log format.
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log: Option<LogFormat>,
    /// Log level: error, warn, info, debug, trace, or a filter such as info,cdn::egress=debug.
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// Write a CSV line for each access unit when it is ingested, first relayed, and listed in a part and in a segment.
    #[arg(long, value_name = "FILE", help_heading = "Diagnostics")]
    pub(crate) trace: Option<PathBuf>,
    /// Shift the clock by MS milliseconds (testing).
    #[arg(long, value_name = "MS", allow_negative_numbers = true, default_value_t = 0, help_heading = "Diagnostics")]
    pub(crate) clock_offset: i64,
}

/// An address, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OptionalAddress(Option<SocketAddr>);

impl std::str::FromStr for OptionalAddress {
    type Err = std::net::AddrParseError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" { Ok(Self(None)) } else { text.parse().map(|address| Self(Some(address))) }
    }
}

impl DataPaths {
    /// The configuration of file and environment, with `flags` over it.
    fn load(self, flags: impl FnOnce(&mut Config)) -> Result<Config, config::Error> {
        cdn::load(self.config.as_deref(), std::env::vars_os(), |config| {
            set(&mut config.data, self.data);
            set(&mut config.keys, self.keys);
            flags(config);
        })
    }
}

impl Flags {
    /// The checked configuration, flags included.
    pub(crate) fn load(self) -> Result<Config, config::Error> {
        let Self { paths, rtmp, http, relay, metrics, public_host, fanout, log, log_level, trace, .. } = self;
        paths.load(|config| {
            set(&mut config.rtmp.listen, rtmp);
            set(&mut config.http.listen, http);
            set(&mut config.relay.listen, relay.map(|r| r.0));
            set(&mut config.metrics.listen, metrics.map(|m| m.0));
            set(&mut config.public_host, public_host);
            set(&mut config.fanout.engine, fanout);
            set(&mut config.log.format, log);
            set(&mut config.log.level, log_level);
            config.trace = trace;
        })
    }
}

impl KeyAction {
    /// Executes the command; prints to standard output.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let open = |paths: DataPaths| -> anyhow::Result<Keyring> {
            Keyring::open(paths.load(|_| {})?.keys_file()).context("cannot open the keys")
        };
        let mut out = std::io::stdout().lock();
        match self {
            Self::New { name, replace, paths } => {
                let key = open(paths)?.create(&name, replace)?;
                writeln!(out, "{}", key.reveal())?;
            }
            Self::List { paths } => {
                for name in open(paths)?.names() {
                    writeln!(out, "{name}")?;
                }
            }
            Self::Remove { name, paths } => open(paths)?.remove(&name)?,
        }
        Ok(())
    }
}

fn set<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}
