//! The command line, and the settings made from it. Everything is validated before a device is opened or a connection is made.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand};
use command::Exit;
use command::reference::Reference;
use media::live_window::Bounds;
use net::listen::ListenAddress;

use crate::capture::CaptureSettings;
use crate::capture::source::{Audio, Source};
use crate::encode::{AudioCodec, AudioSettings, EncoderChoice, VideoSettings};
use crate::log::LogFormat;
use crate::status::StatsFormat;
use crate::{doctor, option_values, peer};

/// Captures a camera, a screen or a file and publishes it live over RTMP.
///
/// Works with a Nearcast cdn, nginx-rtmp and the usual services. After an outage it reconnects; a Nearcast cdn
/// then receives everything it missed. Viewers on the same LAN can receive the stream directly.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, max_term_width = 80, after_help = footer())]
pub struct Cli {
    /// A command other than publishing; `None` publishes.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The options of publishing.
    #[command(flatten)]
    pub publish: Publish,
}

/// A command other than publishing.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List cameras and their modes, screens, and microphones.
    Devices {
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Check the encoder, this network and, given a URL, the server; say what to fix.
    Doctor(doctor::DoctorArgs),
    /// Print a random code for --pairing-code.
    PairingCode,
    /// Manual pages and shell completions.
    #[command(flatten)]
    Reference(Reference),
}

/// The options of publishing, as given and not yet validated: see [`Publish::settings`].
#[derive(Debug, Args)]
pub struct Publish {
    /// The publish URL, with the stream key or without it.
    #[arg(required = true, help = URL_HELP)]
    pub url: Option<String>,

    /// Stream key. Prefer the environment variable: other users of this machine can see command lines.
    #[arg(long, env = "NEARCAST_KEY", hide_env_values = true)]
    pub key: Option<String>,

    /// The video source.
    #[arg(short, long, default_value = "auto", help_heading = "Input", help = SOURCE_HELP)]
    pub source: Source,

    /// Audio: auto, none, tone, or a device as `broadcaster devices` lists it.
    #[arg(short, long, default_value = "auto", help_heading = "Input")]
    pub audio: Audio,

    /// Loop the file; timestamps keep rising.
    #[arg(long = "loop", help_heading = "Input")]
    pub looped: bool,

    /// Stop after this many seconds, connecting included; fails if nothing was sent by then.
    #[arg(long, value_name = "SECONDS", help_heading = "Input")]
    pub duration: Option<f64>,

    /// Burn a frame counter (machine-readable) and the time of day into each frame [default: with test only].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, help_heading = "Input")]
    pub burn_in: Option<bool>,

    /// Encoder: auto (the first hardware encoder that works, or else libx264), copy (no re-encoding), or an FFmpeg encoder's name.
    #[arg(short, long, default_value = "auto", help_heading = "Video")]
    pub encoder: EncoderChoice,

    /// Frame size, WIDTHxHEIGHT; letterboxed if the source has another aspect ratio [default: the source's].
    #[arg(long, value_name = "WxH", value_parser = option_values::size, help_heading = "Video")]
    pub size: Option<(u32, u32)>,

    /// Maximum frame rate [default: the source's].
    #[arg(long, value_parser = option_values::fps, help_heading = "Video")]
    pub fps: Option<f64>,

    /// Video bitrate: 2500k, 6M; with libx264 it adapts downwards to the uplink [default: 0.1 bits per pixel].
    #[arg(short, long, value_parser = option_values::bitrate, help_heading = "Video")]
    pub bitrate: Option<u64>,

    /// Do not adapt the bitrate to the uplink: on a slow one the stream falls behind, and units are dropped when the window is full.
    #[arg(long, help_heading = "Video")]
    pub fixed_bitrate: bool,

    /// Keyframe (IDR) interval: 2s, 500ms. A viewer joins at an IDR, so this bounds its start-up time [default: 2s].
    #[arg(long, value_parser = option_values::duration, help_heading = "Video")]
    pub gop: Option<Duration>,

    /// Consecutive B-frames: fewer bits for the same quality, at that many frames of extra delay.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=16), help_heading = "Video")]
    pub bframes: u32,

    /// Refresh intra blocks column by column instead of sending IDRs: an even bitrate, but some players cannot join.
    #[arg(long, help_heading = "Video")]
    pub intra_refresh: bool,

    /// The encoder's speed preset [default: veryfast for libx264].
    #[arg(long, help_heading = "Video")]
    pub preset: Option<String>,

    /// Audio codec: aac plays everywhere, opus has less delay [default: aac].
    #[arg(long, value_enum, help_heading = "Audio")]
    pub audio_codec: Option<AudioCodec>,

    /// Audio bitrate [default: 128k].
    #[arg(long, value_parser = option_values::bitrate, help_heading = "Audio")]
    pub audio_bitrate: Option<u64>,

    /// How much media to keep for retransmission after an outage, in time.
    #[arg(long, default_value = "20s", value_parser = option_values::duration, help_heading = "Outages")]
    pub window: Duration,

    /// How much media to keep for retransmission after an outage, in bytes.
    #[arg(long, default_value = "128MiB", help_heading = "Outages")]
    pub window_bytes: ByteSize,

    /// Serve no LAN viewers: they receive the stream from the server.
    #[arg(long, help_heading = "LAN")]
    pub no_lan: bool,

    /// UDP port, or address and port, to listen on for LAN viewers [default: any free port, on all addresses].
    #[arg(long, value_name = "ADDR", help_heading = "LAN")]
    pub lan_listen: Option<ListenAddress>,

    /// Code by which viewers pair without a server: 16 letters and digits, as `broadcaster pairing-code` makes them [default: a random one,
    /// which is shown, or logged where there is no terminal].
    #[arg(long, value_name = "CODE", env = "NEARCAST_PAIRING_CODE", hide_env_values = true, value_parser = option_values::pairing_code, help_heading = "LAN")]
    pub pairing_code: Option<net::trust::Code>,

    /// Maximum number of LAN viewers; further ones receive the stream from the server.
    #[arg(long, value_name = "N", default_value_t = 16, help_heading = "LAN")]
    pub max_lan_viewers: usize,

    /// Total bitrate to all LAN viewers: 40M [default: no limit].
    #[arg(long, value_name = "RATE", value_parser = option_values::bitrate, help_heading = "LAN")]
    pub lan_bitrate_limit: Option<u64>,

    /// Do not advertise by mDNS; viewers learn the broadcaster's addresses from the server only.
    #[arg(long, help_heading = "LAN")]
    pub no_mdns: bool,

    /// Log format on standard error: text with a status line, or JSON lines [default: text on a terminal, or else json].
    #[arg(long, value_enum, help_heading = "Reporting")]
    pub log: Option<LogFormat>,

    /// Print statistics to standard output once a second and at the end.
    #[arg(long, value_enum, help_heading = "Reporting")]
    pub stats: Option<StatsFormat>,

    /// Write a line for each access unit sent: track, DTS, PTS, SHA-256 of its payload.
    #[arg(long, value_name = "FILE", help_heading = "Reporting")]
    pub unit_log: Option<PathBuf>,

    /// Trace each access unit through captured, encoded and pushed: stage, track, DTS, bytes, time of day.
    #[arg(long, value_name = "FILE", help_heading = "Reporting")]
    pub trace: Option<PathBuf>,

    /// Shift the clock by MS milliseconds (testing).
    #[arg(long, value_name = "MS", allow_negative_numbers = true, default_value_t = 0, help_heading = "Reporting")]
    pub clock_offset: i64,
}

/// The validated settings of one broadcast.
#[derive(Debug)]
pub struct BroadcastSettings {
    /// Server, app and stream key; the key prints redacted.
    pub url: net::rtmp::url::Url,
    /// The video source.
    pub source: Source,
    /// The audio source.
    pub audio: Audio,
    /// How to capture and encode.
    pub capture: CaptureSettings,
    /// Stops after this much time, connecting included; `None`: runs until it is interrupted or the source ends.
    pub run_for: Option<Duration>,
    /// How much media is kept for retransmission after an outage.
    pub window: Bounds,
    /// How to serve LAN viewers; `None`: not at all.
    pub peer: Option<peer::PeerSettings>,
    /// The file of `--unit-log`.
    pub unit_log: Option<PathBuf>,
    /// The file of `--trace`.
    pub trace: Option<PathBuf>,
    /// Milliseconds added to the system clock (testing).
    pub clock_offset: i64,
    /// Format of the statistics on standard output; `None`: prints none.
    pub stats: Option<StatsFormat>,
}

/// An invalid command line. The process exits with code 64.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No publish URL was given.
    #[error("give a URL to publish to: rtmp://HOST/APP/KEY")]
    NoUrl,
    /// There is no stream key.
    #[error(
        "the stream key is missing: set the variable NEARCAST_KEY to it, or give rtmp://HOST/APP/KEY. On a Nearcast cdn, APP is \
         `live`, and `cdn key new NAME` prints a key"
    )]
    NoKey,
    /// The URL has no application.
    #[error("the URL has no application: give rtmp://HOST/APP, on a Nearcast cdn rtmp://HOST/live")]
    NoApp,
    /// The publish URL cannot be parsed; the text says why, without the stream key.
    #[error("the publish URL is invalid: {0}")]
    Url(String),
    /// Options are out of range or exclude each other.
    #[error("{0}")]
    Options(&'static str),
}

impl Publish {
    /// Validates what clap cannot: the URL, and options that depend on each other.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn settings(self) -> Result<BroadcastSettings, Error> {
        let url = with_key(self.url.as_deref().ok_or(Error::NoUrl)?, self.key.as_deref());
        let has_key = self.key.as_deref().is_some_and(|key| !key.is_empty());
        let url = net::rtmp::url::parse(&url).map_err(|error| match error {
            net::rtmp::url::Error::Name if has_key => Error::NoApp,
            net::rtmp::url::Error::Name => Error::NoKey,
            error => Error::Url(error.to_string()),
        })?;
        let is_file = matches!(self.source, Source::File(_));
        if self.looped && !is_file {
            return Err(Error::Options("--loop needs --source file:PATH"));
        }
        if self.encoder == EncoderChoice::Copy && !is_file {
            return Err(Error::Options("--encoder copy needs --source file:PATH: no other source is encoded already"));
        }
        if self.encoder == EncoderChoice::Copy && self.burn_in == Some(true) {
            return Err(Error::Options("--burn-in needs re-encoding, which --encoder copy rules out"));
        }
        if self.intra_refresh && self.bframes > 0 {
            return Err(Error::Options("--intra-refresh and --bframes exclude each other"));
        }
        if self.window < MIN_WINDOW || self.window_bytes.as_u64() < MIN_WINDOW_BYTES {
            return Err(Error::Options("the window must hold at least 1s and 1MiB"));
        }
        let run_for = match self.duration.map(Duration::try_from_secs_f64) {
            Some(Err(_)) => return Err(Error::Options("--duration must be a number of seconds, zero or more")),
            Some(Ok(seconds)) => Some(seconds),
            None => None,
        };
        let video = VideoSettings {
            encoder: self.encoder,
            size: self.size,
            fps: self.fps,
            bitrate: self.bitrate,
            gop: self.gop,
            bframes: self.bframes,
            intra_refresh: self.intra_refresh,
            preset: self.preset,
            fixed_bitrate: self.fixed_bitrate,
        };
        if video.encoder == EncoderChoice::Copy && video.requires_reencode() {
            return Err(Error::Options("--encoder copy rules out re-encoding: it excludes the other Video options"));
        }
        Ok(BroadcastSettings {
            url,
            capture: CaptureSettings {
                video,
                audio: AudioSettings { codec: self.audio_codec, bitrate: self.audio_bitrate },
                burn_in: self.burn_in,
                looped: self.looped,
            },
            run_for,
            window: Bounds {
                duration: self.window,
                bytes: usize::try_from(self.window_bytes.as_u64()).unwrap_or(usize::MAX),
            },
            peer: (!self.no_lan && self.max_lan_viewers > 0).then_some(peer::PeerSettings {
                listen: self.lan_listen,
                max_viewers: self.max_lan_viewers,
                bitrate_limit: self.lan_bitrate_limit,
                announce: !self.no_mdns,
                code: self.pairing_code,
            }),
            unit_log: self.unit_log,
            trace: self.trace,
            clock_offset: self.clock_offset,
            stats: self.stats,
            source: self.source,
            audio: self.audio,
        })
    }
}

/// Appends the stream key to the path of `url`, before any query.
fn with_key(url: &str, key: Option<&str>) -> String {
    match (key.filter(|key| !key.is_empty()), url.split_once('?')) {
        (None, _) => url.to_owned(),
        (Some(key), None) => format!("{}/{key}", url.trim_end_matches('/')),
        (Some(key), Some((path, query))) => format!("{}/{key}?{query}", path.trim_end_matches('/')),
    }
}

const URL_HELP: &str =
    "Publish URL: rtmp://HOST[:PORT]/APP/KEY, or rtmp://HOST/APP with the key from --key or NEARCAST_KEY";

const SOURCE_HELP: &str = "Source: auto (a webcam, or else test), webcam[:DEVICE], screen[:DISPLAY], screen:kms[:CARD], file:PATH or test \
    (test pattern)";

const EXAMPLES: &str = "\
Examples:
  broadcaster devices
      List what this machine can capture.
  broadcaster doctor http://cdn.example:8080/NAME
      Check this machine, its network and that server, and say what to fix.
  NEARCAST_KEY=… broadcaster rtmp://cdn.example/live
      Webcam and microphone.
  broadcaster --source screen --audio none --size 1280x720 --fps 15 \\
        rtmp://cdn.example/live/KEY
      The screen, scaled down, without audio.
  broadcaster --source webcam:/dev/video2 --audio alsa:plughw:1,0 --bitrate 4M \\
        --gop 1s rtmp://cdn.example/live/KEY
      A particular camera and microphone.
  broadcaster --source file:concert.mp4 --loop rtmp://cdn.example/live/KEY
      A file in a loop, in real time, without re-encoding if its codecs allow it.
  broadcaster --source test --stats json rtmp://127.0.0.1/live/KEY
      A test pattern with a clock, and a tone: to test a server.

Each track of a file is passed through without re-encoding if its codec can be
streamed, unless an option of Video or Audio above requires re-encoding.

Environment:
  NEARCAST_KEY           as --key
  NEARCAST_PAIRING_CODE  as --pairing-code
  RUST_LOG               log level, or filter: info (the default), debug,
                         warn,broadcaster=debug

SIGTERM and SIGINT end the broadcast in order. SIGHUP is logged: all options are
on the command line.
";

/// What this command exits with.
pub const EXIT_CODES: [(Exit, &str); 8] = [
    (Exit::Success, "the source or --duration ended, or SIGTERM or SIGINT"),
    (Exit::Failure, "another failure"),
    (Exit::Usage, "the command line or RUST_LOG is wrong"),
    (Exit::NoInput, "no such camera, display, microphone or file, or it or the encoder does not work here"),
    (Exit::Unavailable, "the server cannot be reached, or has no such application"),
    (Exit::System, "--lan-listen cannot be listened on"),
    (Exit::CannotCreate, "the unit log or the trace cannot be written"),
    (Exit::NotPermitted, "the server rejects the stream key, or another publisher took over"),
];

fn footer() -> String {
    format!("{EXAMPLES}\n{}", command::exit::help(&EXIT_CODES))
}

/// A shorter window bridges no outage.
const MIN_WINDOW: Duration = Duration::from_secs(1);
/// As [`MIN_WINDOW`]: one second of a modest stream.
const MIN_WINDOW_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests;
