//! The command line: `cdn`, and `cdn key …`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cdn::config::{self, Config, FanoutEngine, LogFormat};
use clap::{Args, CommandFactory, Parser, Subcommand};
use command::Exit;
use command::reference::Reference;
use net::listen::{InvalidListenAddress, ListenAddress};

use crate::data_paths::{DataPaths, set};
use crate::key_command::KeyAction;

/// Live streaming server: ingests RTMP and serves RTMP, HLS, low-latency HLS and the relay protocol.
#[derive(Debug, Parser)]
#[command(name = "cdn", version, args_conflicts_with_subcommands = true, max_term_width = 80)]
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
        /// New, list, rotate or remove.
        #[command(subcommand)]
        action: KeyAction,
    },
    /// Manual pages and shell completions.
    #[command(flatten)]
    Reference(Reference),
}

/// Settings that have flags; the others are set in the configuration file.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Flags {
    /// Configuration, data and keys.
    #[command(flatten)]
    pub(crate) paths: DataPaths,
    /// Address to listen on for RTMP.
    #[arg(long, value_name = "ADDR")]
    pub(crate) rtmp: Option<ListenAddress>,
    /// Address to listen on for HTTP.
    #[arg(long, value_name = "ADDR")]
    pub(crate) http: Option<ListenAddress>,
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
pub(crate) struct OptionalAddress(Option<ListenAddress>);

impl std::str::FromStr for OptionalAddress {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = |error: InvalidListenAddress| format!("{error}, or `off`");
        if text == "off" { Ok(Self(None)) } else { text.parse().map(|address| Self(Some(address))).map_err(address) }
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

impl Cli {
    /// The command line's definition. The help of each option that is a setting has its default and its variable, and all settings are listed.
    pub(crate) fn definition() -> clap::Command {
        let defaults: BTreeMap<String, toml::Value> = config::defaults().into_iter().collect();
        let default = |key: &str| match &defaults[key] {
            toml::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let document = |command: clap::Command, options: &[(&'static str, &'static str)]| {
            options.iter().fold(command, |command, &(option, key)| {
                let default = match key {
                    "data" => "/var/lib/nearcast as root, else nearcast in $XDG_DATA_HOME or ~/.local/share".into(),
                    "keys" => "keys.toml in the data directory".into(),
                    "public_host" => "this machine's address".into(),
                    _ => default(key),
                };
                command.mut_arg(option, |arg| {
                    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                    arg.help(format!("{help} [env: {}] [default: {default}]", config::variable(key)))
                })
            })
        };
        let command = document(Self::command(), &SETTINGS).after_help(footer(false)).after_long_help(footer(true));
        command.mut_subcommand("key", |key| key.mut_subcommands(|action| document(action, &SETTINGS[..2])))
    }
}

/// The options that are settings, and the settings' keys.
const SETTINGS: [(&str, &str); 10] = [
    ("data", "data"),
    ("keys", "keys"),
    ("rtmp", "rtmp.listen"),
    ("http", "http.listen"),
    ("relay", "relay.listen"),
    ("metrics", "metrics.listen"),
    ("public_host", "public_host"),
    ("fanout", "fanout.engine"),
    ("log", "log.format"),
    ("log_level", "log.level"),
];

/// What this command exits with.
pub(crate) const EXIT_CODES: [(Exit, &str); 6] = [
    (Exit::Success, "ended in order by SIGTERM or SIGINT, or the subcommand succeeded"),
    (Exit::Failure, "another failure"),
    (Exit::Usage, "the command line is wrong"),
    (Exit::System, "an address cannot be listened on"),
    (Exit::CannotCreate, "a file of the data directory cannot be read or written"),
    (Exit::Configuration, "the configuration file or an environment variable is wrong"),
];

fn footer(with_settings: bool) -> String {
    let mut text = String::new();
    if with_settings {
        text += "Settings, by environment variable, and by key of the configuration file with their defaults:\n";
        for (key, value) in config::defaults() {
            text += &format!("  {:<35} {key} = {value}\n", config::variable(&key));
        }
        text += "Flags override environment variables, which override the file.\n\n";
    }
    text += "SIGHUP reads the configuration and the keys again, and logs which settings need a restart.\n\n";
    text + &command::exit::help(&EXIT_CODES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help(arguments: &[&str]) -> String {
        // Wide, so that nothing wraps.
        let definition = Cli::definition().term_width(1000).max_term_width(1000);
        definition.try_get_matches_from(arguments).unwrap_err().to_string()
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::definition().debug_assert();
    }

    #[test]
    fn help_shows_every_setting_with_its_default_and_its_variable() {
        let text = help(&["cdn", "--help"]);
        // That these are the values of deploy/cdn.toml is a test of `config`.
        for (key, value) in config::defaults() {
            let line = format!("{key} = {value}");
            let found = text
                .lines()
                .find(|found| found.trim_end().ends_with(&line))
                .unwrap_or_else(|| panic!("{line}: {text}"));
            assert!(found.trim_start().starts_with(&config::variable(&key)), "{found}");
        }
        for (option, key) in SETTINGS {
            let option = format!("--{} <", option.replace('_', "-"));
            let line =
                text.lines().find(|line| line.trim_start().starts_with(&option)).unwrap_or_else(|| panic!("{option}"));
            let expected = format!("[env: {}] [default: ", config::variable(key));
            assert!(text[text.find(line).unwrap()..].contains(&expected), "{option}: {text}");
        }
        for exit in EXIT_CODES {
            assert!(text.contains(&format!("{:>2}  {}", exit.0.code(), exit.1)), "{}", exit.1);
        }
    }

    #[test]
    fn the_key_commands_find_the_data_like_the_server() {
        let definition = Cli::definition();
        let key = definition.find_subcommand("key").unwrap();
        assert!(key.get_subcommands().count() >= 4);
        for action in key.get_subcommands().map(clap::Command::get_name) {
            let text = help(&["cdn", "key", action, "--help"]);
            for variable in ["NEARCAST_CONFIG", "NEARCAST_DATA", "NEARCAST_KEYS"] {
                assert!(text.contains(&format!("[env: {variable}")), "{action}: {text}");
            }
        }
    }
}
