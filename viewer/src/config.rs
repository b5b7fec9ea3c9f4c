//! The command line, checked before anything is opened.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand, ValueEnum};
use command::Exit;
use command::reference::Reference;
use media::select::Mode;

use crate::doctor;
use crate::ffmpeg::Container;
use crate::record::Target;
use crate::source::{self, PathOptions, TransportFilter};

/// Plays a live stream in a window, with as little latency as the network allows.
#[derive(Clone, Debug, Parser)]
#[command(name = "viewer", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, max_term_width = 80, after_help = footer())]
pub struct Config {
    /// A command other than to play
    #[command(subcommand)]
    pub command: Option<Command>,

    /// What to play: a stream's page (http://HOST:8080/NAME; the server lists the transports), rtmp://HOST/live/NAME, an HLS playlist
    /// (http(s)://….m3u8), or a broadcaster that shows a pairing code (nearcast://HOST:PORT)
    #[arg(required_unless_present = "lan", default_value = "", hide_default_value = true)]
    pub url: String,

    /// Open no window and no sound card: decode and count only
    #[arg(long)]
    pub headless: bool,

    /// Record without re-encoding; the extension selects the container: .mp4, .mkv, .flv or .ts
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,

    /// Write the stream (Matroska) to a command's standard input, or to standard output with `-`. Opens no window
    #[arg(long, value_name = "COMMAND")]
    pub pipe: Option<String>,

    /// Stop this long after the first picture; fail if there is none within the same time, or 30 s if that is longer
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub duration: Option<Duration>,

    /// Buffer this many milliseconds instead of adapting to the measured jitter
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub buffer: Option<u64>,

    /// Never skip pictures to catch up; implied by --record, --pipe and --unit-log without a window
    #[arg(long)]
    pub no_skip: bool,

    /// Without a server: list the broadcasters on this network, or play the one that shows --pairing-code
    #[arg(long, conflicts_with = "url")]
    pub lan: bool,

    /// The pairing code on the broadcaster's screen, for nearcast:// and --lan
    #[arg(long, value_name = "CODE", env = "NEARCAST_PAIRING_CODE", hide_env_values = true)]
    pub pairing_code: Option<String>,

    /// An address of the broadcaster on this network, where mDNS does not find it; may be repeated
    #[arg(long, value_name = "HOST:PORT")]
    pub peer: Vec<String>,

    /// The fallback for the path in use: warm (connected and idle), hot (two paths deliver, the first copy of each unit counts), cold (none)
    #[arg(long, value_enum, default_value_t, value_name = "MODE")]
    pub standby: Standby,

    /// The one transport to use, instead of the best that works and the next when that fails
    #[arg(long, value_name = "PROTOCOL", default_value = source::AUTO, value_parser = transports())]
    pub transport: TransportFilter,

    /// Start in full screen
    #[arg(long)]
    pub fullscreen: bool,

    /// Initial volume in percent
    #[arg(long, value_name = "0-100", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub volume: u32,

    /// Start with the sound muted
    #[arg(long)]
    pub mute: bool,

    /// Open no sound card
    #[arg(long)]
    pub no_sound: bool,

    /// Show the statistics overlay from the start
    #[arg(long)]
    pub overlay: bool,

    /// Print statistics for programs: a line a second and a summary at the end, on standard output (with --pipe -: standard error)
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub stats: Option<StatsFormat>,

    /// Format of the log on standard error [default: text on a terminal, else json]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub log: Option<LogFormat>,

    /// Write a line for each access unit after the merge: track, DTS, PTS, SHA-256 of its payload
    #[arg(long, value_name = "FILE")]
    pub unit_log: Option<PathBuf>,

    /// Write a CSV line for each access unit and stage: requested and received (on each path), merged, buffered, decoded, presented
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,

    /// Shift this program's wall clock by so many milliseconds (for tests)
    #[arg(long, value_name = "MS", allow_negative_numbers = true, default_value_t = 0)]
    pub clock_offset: i64,
}

/// A command other than to play.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Check this machine and network, and with a URL the server and the broadcaster behind it; say what to fix
    Doctor(doctor::DoctorArgs),
    /// Manual pages and shell completions
    #[command(flatten)]
    Reference(Reference),
}

/// The fallback for the path in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Standby {
    /// The next path, connected and idle.
    #[default]
    Warm,
    /// The next path delivers at the same time as the first.
    Hot,
    /// No fallback: the next path is connected when it is needed.
    Cold,
}

/// Format of the statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StatsFormat {
    /// One JSON object a line.
    Json,
}

/// Format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Plain text, for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Invalid combinations of flags.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The extension of `--record` selects no container.
    #[error("--record {0}: the extension must be .mp4, .mkv, .flv or .ts")]
    Container(String),
}

impl Config {
    /// The recordings and pipes that units are written to, in addition to playback.
    ///
    /// # Errors
    /// [`Error::Container`] if the extension of `--record` is unknown.
    pub fn targets(&self) -> Result<Vec<Target>, Error> {
        let mut targets = Vec::new();
        if let Some(path) = &self.record {
            let container = path.extension().and_then(|e| e.to_str()).and_then(Container::from_extension);
            let container = container.ok_or_else(|| Error::Container(path.display().to_string()))?;
            targets.push(Target::File(path.clone(), container));
        }
        targets.extend(self.pipe.as_ref().map(|command| match command.as_str() {
            "-" => Target::Stdout,
            command => Target::Command(command.to_owned()),
        }));
        Ok(targets)
    }

    /// The options that the source takes from the command line.
    pub fn path_options(&self) -> PathOptions {
        let mode = match self.standby {
            Standby::Warm => Mode::Warm,
            Standby::Hot => Mode::Hot,
            Standby::Cold => Mode::Cold,
        };
        PathOptions {
            transport: self.transport,
            mode,
            peer_addresses: self.peer.clone(),
            pairing_code: self.pairing_code.clone(),
            keep_all: !self.may_skip(),
        }
    }

    /// Whether to open no window: `--headless` or `--pipe`.
    pub fn is_headless(&self) -> bool {
        self.headless || self.pipe.is_some()
    }

    /// Whether pictures may be skipped to catch up with the live edge.
    pub fn may_skip(&self) -> bool {
        let keeps = self.record.is_some() || self.pipe.is_some() || self.unit_log.is_some();
        !(self.no_skip || self.is_headless() && keeps)
    }

    /// Whether media goes to standard output.
    pub fn takes_stdout(&self) -> bool {
        self.pipe.as_deref() == Some("-")
    }
}

fn transports() -> impl TypedValueParser<Value = TransportFilter> {
    let auto = PossibleValue::new(source::AUTO).help("The best that works, and the next when it fails");
    let named = source::TRANSPORTS.into_iter().map(|transport| PossibleValue::new(transport.name).help(transport.help));
    PossibleValuesParser::new(std::iter::once(auto).chain(named)).try_map(|name| name.parse::<TransportFilter>())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.trim_end_matches('s').parse::<f64>().map_err(|error| error.to_string())?;
    Duration::try_from_secs_f64(seconds).ok().filter(|d| !d.is_zero()).ok_or_else(|| "must be more than 0".to_owned())
}

const EXAMPLES: &str = "\
Examples:
  viewer http://localhost:8080/live
      The best transport that works.
  viewer rtmp://localhost/live/live --overlay
      RTMP, with the statistics overlay.
  viewer http://host:8080/live --record talk.mp4
      Watch and record.
  viewer https://host/live/index.m3u8 --pipe 'mpv -'
      Another player's window.
  viewer rtmp://host/live/live --headless --duration 10 --stats json
      Ten seconds without a window, and what they were like.
  viewer --lan
      The broadcasters on this network.
  viewer doctor http://localhost:8080/live
      What works, and what to fix.
  viewer nearcast://192.168.1.5:40000 --pairing-code CODE
      Straight from a broadcaster, without a server.

In the window, press ? for the keys. The viewer waits for a stream that is not
on air yet, but not for one that the server does not know.

Environment:
  NEARCAST_PAIRING_CODE  as --pairing-code
  RUST_LOG               log level, or filter: debug, info,viewer=trace
                         [default: warn on a terminal, else info]

SIGTERM and SIGINT end it in order. SIGHUP is logged: all options are on the
command line.
";

/// What this command exits with.
pub const EXIT_CODES: [(Exit, &str); 7] = [
    (Exit::Success, "pictures or sound were played"),
    (Exit::Failure, "nothing was played of a live stream, or another failure"),
    (Exit::Usage, "the command line or RUST_LOG is wrong"),
    (Exit::NoInput, "no display for the window; --headless needs none"),
    (Exit::Unavailable, "the server cannot be reached, has no such stream, or it was not live"),
    (Exit::CannotCreate, "a recording, the pipe, the unit log or the trace cannot be written"),
    (Exit::NotPermitted, "the broadcaster does not accept the pairing code"),
];

fn footer() -> String {
    format!("{EXAMPLES}\n{}", command::exit::help(&EXIT_CODES))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Config {
        Config::parse_from(line.split_whitespace())
    }

    #[test]
    fn the_flags_are_consistent() {
        Config::command().debug_assert();
    }

    #[test]
    fn the_doctor_is_a_subcommand() {
        assert!(parse("viewer http://h/x").command.is_none());
        for (line, url, json) in [
            ("viewer doctor", None, false),
            ("viewer doctor --json", None, true),
            ("viewer doctor http://h/x", Some("http://h/x"), false),
        ] {
            let Some(Command::Doctor(args)) = parse(line).command else { panic!("{line}") };
            assert_eq!((args.url.as_deref(), args.json), (url, json), "{line}");
        }
        for line in ["viewer", "viewer doctor --headless", "viewer --lan http://h/x"] {
            assert!(Config::try_parse_from(line.split_whitespace()).is_err(), "{line}");
        }
    }

    #[test]
    fn recording_without_a_window_skips_no_pictures() {
        for (line, wanted) in [
            ("viewer u", true),
            ("viewer u --no-skip", false),
            ("viewer u --record x.mp4", true),
            ("viewer u --headless", true),
            ("viewer u --headless --record x.mp4", false),
            ("viewer u --headless --unit-log x", false),
            ("viewer u --pipe mpv", false),
        ] {
            assert_eq!(parse(line).may_skip(), wanted, "{line}");
        }
    }

    #[test]
    fn the_extension_selects_the_container() {
        assert_eq!(parse("viewer u").targets(), Ok(vec![]));
        assert_eq!(
            parse("viewer u --record a.MKV").targets(),
            Ok(vec![Target::File("a.MKV".into(), Container::Matroska)])
        );
        assert_eq!(parse("viewer u --pipe -").targets(), Ok(vec![Target::Stdout]));
        assert_eq!(parse("viewer u --pipe mpv").targets(), Ok(vec![Target::Command("mpv".into())]));
        assert_eq!(parse("viewer u --record a.avi").targets(), Err(Error::Container("a.avi".into())));
    }

    #[test]
    fn durations_are_seconds_above_zero() {
        for (text, wanted) in
            [("10", Some(10_000)), ("2.5", Some(2500)), ("3s", Some(3000)), ("0", None), ("-1", None), ("x", None)]
        {
            assert_eq!(seconds(text).ok(), wanted.map(Duration::from_millis), "{text}");
        }
    }
}
