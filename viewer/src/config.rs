//! What the user asks for: flags, checked before anything is opened.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand, ValueEnum};
use media::select::Mode;

use crate::doctor;
use crate::ffmpeg::Container;
use crate::record::Target;
use crate::source::{self, PathOptions, TransportFilter};

/// Plays a live stream in a window, with as little delay as the network allows.
#[derive(Clone, Debug, Parser)]
#[command(name = "viewer", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, after_help = EXAMPLES)]
pub struct Config {
    /// What to do other than to play
    #[command(subcommand)]
    pub command: Option<Command>,

    /// What to play: a stream's page (http://HOST:8080/NAME, the server says how), rtmp://HOST/live/NAME, an HLS playlist
    /// (http(s)://….m3u8), or nearcast://HOST:PORT of a broadcaster that shows a code
    #[arg(required_unless_present = "lan", default_value = "", hide_default_value = true)]
    pub url: String,

    /// Use no window and no sound card: decode, count, report
    #[arg(long)]
    pub headless: bool,

    /// Keep what comes, as it comes, without re-encoding: .mp4, .mkv, .flv or .ts
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,

    /// Hand the stream (Matroska) to another program's standard input; - is standard output. Opens no window
    #[arg(long, value_name = "COMMAND")]
    pub pipe: Option<String>,

    /// Stop this long after the first picture; fail if none has come within as long, or 30 s if that is longer
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub duration: Option<Duration>,

    /// Aim at this many milliseconds of buffer, instead of as many as the measured jitter needs
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub buffer: Option<u64>,

    /// Never leave pictures out to catch up; so it is by itself with --record, --pipe or --unit-log where there is no window
    #[arg(long)]
    pub no_skip: bool,

    /// Without a server: list the broadcasters on this network, or with --pairing-code play the one that shows that code
    #[arg(long, conflicts_with = "url")]
    pub lan: bool,

    /// The code that the broadcaster's screen shows, for nearcast:// and --lan
    #[arg(long, value_name = "CODE")]
    pub pairing_code: Option<String>,

    /// Where the broadcaster is on this network, if it is not found by itself; may be given again
    #[arg(long, value_name = "HOST:PORT")]
    pub peer: Vec<String>,

    /// What stands ready for when the path in use fails: warm (connected and idle), hot (two flow, the first copy wins), cold (nothing)
    #[arg(long, value_enum, default_value_t, value_name = "MODE")]
    pub standby: Standby,

    /// The one transport to use, instead of the best that works and the next when that fails
    #[arg(long, value_name = "PROTOCOL", default_value = source::AUTO, value_parser = transports())]
    pub transport: TransportFilter,

    /// Start in full screen
    #[arg(long)]
    pub fullscreen: bool,

    /// Loudness to start with, in percent
    #[arg(long, value_name = "0-100", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub volume: u32,

    /// Start muted
    #[arg(long)]
    pub mute: bool,

    /// Open no sound card
    #[arg(long)]
    pub no_sound: bool,

    /// Show the statistics from the start
    #[arg(long)]
    pub overlay: bool,

    /// Numbers for programs: a line a second and a summary at the end, on standard output (with --pipe -: standard error)
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub stats: Option<StatsFormat>,

    /// Form of the log on standard error [default: text on a terminal, else json]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub log: Option<LogFormat>,

    /// Write a line for each access unit: track, DTS, PTS, SHA-256 of its payload
    #[arg(long, value_name = "FILE")]
    pub unit_log: Option<PathBuf>,

    /// Write a line for each access unit when it is requested and received (on each path), merged, buffered, decoded and presented: stage, track, DTS,
    /// bytes, path, time of day
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,

    /// Take the time to be so many milliseconds later than the system says, to see how a wrong clock is borne
    #[arg(long, value_name = "MS", allow_negative_numbers = true, default_value_t = 0)]
    pub clock_offset: i64,
}

/// What to do other than to play.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Say what works here and what to fix: this network, and with a URL the server and the broadcaster behind it
    Doctor(doctor::DoctorArgs),
}

/// What stands ready for when the path in use fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Standby {
    /// The next path, connected and idle.
    #[default]
    Warm,
    /// The next path flows beside the first.
    Hot,
    /// Nothing.
    Cold,
}

/// How numbers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StatsFormat {
    /// One object a line.
    Json,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// What does not fit together.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The ending is unknown.
    #[error("--record {0}: the name must end in .mp4, .mkv, .flv or .ts, which says how to write it")]
    Container(String),
}

impl Config {
    /// Where units are kept or passed on.
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

    /// What is wanted of the paths.
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

    /// Whether there is no window.
    pub fn is_headless(&self) -> bool {
        self.headless || self.pipe.is_some()
    }

    /// Whether pictures may be left out to catch up.
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
  viewer http://localhost:8080/live                    the best way that the server offers
  viewer rtmp://localhost/live/live --overlay          RTMP, with statistics over the picture
  viewer http://host:8080/live --record talk.mp4       watch and keep
  viewer https://host/live/index.m3u8 --pipe 'mpv -'   another player's window
  viewer rtmp://host/live/live --headless --duration 10 --stats json
  viewer --lan                                         who broadcasts on this network
  viewer doctor http://localhost:8080/live             what works, and what to fix
  viewer nearcast://192.168.1.5:40000 --pairing-code CODE      straight from a broadcaster, without any server

In the window, press ? for the keys. A stream that is not on the air yet is waited for;
one that the server does not know is not.
Exit codes: 0 pictures (or sound) were played; 1 none were, or a recording, a pipe or a unit
log failed; 64 the command line makes no sense.";

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
    fn the_doctor_is_asked_apart() {
        assert!(parse("viewer http://h/x").command.is_none());
        for (line, url, json) in [
            ("viewer doctor", None, false),
            ("viewer doctor --json", None, true),
            ("viewer doctor http://h/x", Some("http://h/x"), false),
        ] {
            let Some(Command::Doctor(ask)) = parse(line).command else { panic!("{line}") };
            assert_eq!((ask.url.as_deref(), ask.json), (url, json), "{line}");
        }
        for line in ["viewer", "viewer doctor --headless", "viewer --lan http://h/x"] {
            assert!(Config::try_parse_from(line.split_whitespace()).is_err(), "{line}");
        }
    }

    #[test]
    fn when_pictures_may_be_left_out() {
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
    fn where_units_go() {
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
    fn durations() {
        for (text, wanted) in
            [("10", Some(10_000)), ("2.5", Some(2500)), ("3s", Some(3000)), ("0", None), ("-1", None), ("x", None)]
        {
            assert_eq!(seconds(text).ok(), wanted.map(Duration::from_millis), "{text}");
        }
    }
}
