//! The command line: `cdn`, and `cdn key …`.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use cdn::auth::{Keyring, StreamName};
use cdn::config::{self, Config, FanoutEngine, LogFormat};
use clap::{Args, Parser, Subcommand};

/// Takes live streams in by RTMP and gives them out by RTMP, HLS and the relay protocol.
#[derive(Debug, Parser)]
#[command(name = "cdn", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    /// Instead of running a server.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Settings of the server.
    #[command(flatten)]
    pub(crate) flags: Flags,
}

/// What can be done besides running.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Publish keys: who may publish, and as which stream.
    Key {
        /// What to do with them.
        #[command(subcommand)]
        action: KeyAction,
    },
}

/// What can be done with publish keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyAction {
    /// Makes a key for the stream NAME and prints it, this once.
    New {
        /// What the stream is played under.
        name: StreamName,
        /// Replaces the key that there is; its publisher has to go.
        #[arg(long)]
        replace: bool,
        /// Where the keys are.
        #[command(flatten)]
        paths: DataPaths,
    },
    /// Lists the streams that have a key.
    List {
        /// Where the keys are.
        #[command(flatten)]
        paths: DataPaths,
    },
    /// Removes the key of the stream NAME; its publisher and its players have to go.
    Remove {
        /// Which stream.
        name: StreamName,
        /// Where the keys are.
        #[command(flatten)]
        paths: DataPaths,
    },
}

/// Where settings and keys are.
#[derive(Debug, Default, Args)]
pub(crate) struct DataPaths {
    /// The configuration file; see deploy/cdn.toml.
    #[arg(long, value_name = "FILE", env = "NEARCAST_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// The directory of what must outlive a restart.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// The file of publish keys, if not keys.toml in the data directory.
    #[arg(long, value_name = "FILE")]
    pub(crate) keys: Option<PathBuf>,
}

/// Settings that have flags. The rest is in the configuration file.
#[derive(Debug, Default, Args)]
pub(crate) struct Flags {
    /// Where settings and keys are.
    #[command(flatten)]
    pub(crate) paths: DataPaths,
    /// Where RTMP is heard.
    #[arg(long, value_name = "ADDR")]
    pub(crate) rtmp: Option<SocketAddr>,
    /// Where HTTP is heard.
    #[arg(long, value_name = "ADDR")]
    pub(crate) http: Option<SocketAddr>,
    /// Where the relay protocol (QUIC, UDP) is heard, or `off`.
    #[arg(long, value_name = "ADDR")]
    pub(crate) relay: Option<OptionalAddress>,
    /// Where /metrics is heard, or `off`.
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<OptionalAddress>,
    /// What people call this server in URLs.
    #[arg(long, value_name = "HOST")]
    pub(crate) public_host: Option<String>,
    /// How RTMP players are written to.
    #[arg(long, value_name = "ENGINE")]
    pub(crate) fanout: Option<FanoutEngine>,
    /// The form of logs.
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log: Option<LogFormat>,
    /// How much is logged: error, warn, info, debug, trace.
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// Write a line for each access unit when it is ingested, first relayed, and listed in a part and a segment: stage, track, DTS, bytes,
    /// protocol, time of day.
    #[arg(long, value_name = "FILE", help_heading = "Diagnostics")]
    pub(crate) trace: Option<PathBuf>,
    /// Take the time to be so many milliseconds later than the system says, to see how a wrong clock is borne.
    #[arg(long, value_name = "MS", allow_negative_numbers = true, default_value_t = 0, help_heading = "Diagnostics")]
    pub(crate) clock_offset: i64,
}

/// An address, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OptionalAddress(Option<SocketAddr>);

impl std::str::FromStr for OptionalAddress {
    type Err = std::net::AddrParseError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" { Ok(Self(None)) } else { text.parse().map(|address| Self(Some(address))) }
    }
}

impl DataPaths {
    /// The settings as file and variables give them, with `flags` on top.
    fn load(self, flags: impl FnOnce(&mut Config)) -> Result<Config, config::Error> {
        cdn::load(self.config.as_deref(), std::env::vars_os(), |config| {
            set(&mut config.data, self.data);
            set(&mut config.keys, self.keys);
            flags(config);
        })
    }
}

impl Flags {
    /// The settings, checked.
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
    /// Does it.
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
