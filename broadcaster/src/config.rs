//! The command line, and the settings that come of it. Everything is checked before anything is opened or connected.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand};
use media::live_window::Bounds;

use crate::capture::CaptureSettings;
use crate::capture::source::{Audio, Source};
use crate::encode::{AudioCodec, AudioSettings, EncoderChoice, VideoSettings};
use crate::log::LogFormat;
use crate::status::StatsFormat;
use crate::{doctor, option_values, peer};

/// Captures a camera, a screen or a file and publishes it live over RTMP.
///
/// Works with a Nearcast cdn, nginx-rtmp and the usual services. A server that goes away and comes back is
/// reconnected to; a Nearcast server then gets everything that it missed.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do other than to publish.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to publish.
    #[command(flatten)]
    pub publish: Publish,
}

/// What to do other than to publish.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List cameras with their modes, screens and microphones.
    Devices {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say what works here and what to fix: this network, the encoder, and with a URL the server.
    Doctor(doctor::DoctorArgs),
}

/// How to publish.
#[derive(Debug, Args)]
pub struct Publish {
    /// Where to: rtmp://HOST[:PORT]/APP/KEY, or rtmp://HOST/APP with the key given by --key or NEARCAST_KEY.
    #[arg(required = true)]
    pub url: Option<String>,

    /// Stream key. Prefer the variable: other users of this machine can read command lines.
    #[arg(long, env = "NEARCAST_KEY", hide_env_values = true)]
    pub key: Option<String>,

    /// auto (a webcam if there is one, else test), webcam[:DEVICE], screen[:DISPLAY], screen:kms[:CARD], file:PATH or test.
    #[arg(short, long, default_value = "auto", help_heading = "Input")]
    pub source: Source,

    /// auto, none, tone, or a device as `broadcaster devices` lists it.
    #[arg(short, long, default_value = "auto", help_heading = "Input")]
    pub audio: Audio,

    /// Start a file again when it ends; its timestamps go on.
    #[arg(long = "loop", help_heading = "Input")]
    pub looped: bool,

    /// Stop after so many seconds, those of waiting for a server included; fails if no server took anything by then.
    #[arg(long, value_name = "N", help_heading = "Input")]
    pub duration: Option<f64>,

    /// Draw a counter and a clock, for machines and for people, into each picture [default: with test only].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, help_heading = "Input")]
    pub burn_in: Option<bool>,

    /// auto (hardware that really opens, else libx264), copy, or an FFmpeg encoder's name: libx264, h264_nvenc, libx265 …
    #[arg(short, long, default_value = "auto", help_heading = "Video")]
    pub encoder: EncoderChoice,

    /// Picture size, WIDTHxHEIGHT; letterboxed if the source has another shape [default: the source's].
    #[arg(long, value_name = "WxH", value_parser = option_values::size, help_heading = "Video")]
    pub size: Option<(u32, u32)>,

    /// Pictures per second, at most [default: the source's].
    #[arg(long, value_parser = option_values::fps, help_heading = "Video")]
    pub fps: Option<f64>,

    /// Bits per second: 2500k, 6M; less while the uplink takes less, with libx264 [default: 0.1 bits a pixel].
    #[arg(short, long, value_parser = option_values::bitrate, help_heading = "Video")]
    pub bitrate: Option<u64>,

    /// Keep to the bitrate whatever the uplink takes: viewers fall behind, and units are lost when the window is full.
    #[arg(long, help_heading = "Video")]
    pub fixed_bitrate: bool,

    /// Time from one IDR to the next: 2s, 500ms. A viewer joins at an IDR, so this bounds its start-up time [default: 2s].
    #[arg(long, value_parser = option_values::duration, help_heading = "Video")]
    pub gop: Option<Duration>,

    /// B-frames in a row: smaller at the same quality, later by as many pictures.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=16), help_heading = "Video")]
    pub bframes: u32,

    /// Refresh the picture column by column instead of by IDRs: an even bitrate; some players can not join then.
    #[arg(long, help_heading = "Video")]
    pub intra_refresh: bool,

    /// The encoder's speed preset [default: veryfast for libx264].
    #[arg(long, help_heading = "Video")]
    pub preset: Option<String>,

    /// aac plays everywhere; opus costs less delay [default: aac].
    #[arg(long, value_enum, help_heading = "Audio")]
    pub audio_codec: Option<AudioCodec>,

    /// Bits per second [default: 128k].
    #[arg(long, value_parser = option_values::bitrate, help_heading = "Audio")]
    pub audio_bitrate: Option<u64>,

    /// How much to keep for a server that is away, in time.
    #[arg(long, default_value = "20s", value_parser = option_values::duration, help_heading = "Outages")]
    pub window: Duration,

    /// How much to keep for a server that is away, in bytes.
    #[arg(long, default_value = "128MiB", help_heading = "Outages")]
    pub window_bytes: ByteSize,

    /// Serve no viewers on this network: they get the stream from the server like everybody.
    #[arg(long, help_heading = "This network")]
    pub no_lan: bool,

    /// Where viewers on this network connect, UDP [default: any free port, on all interfaces].
    #[arg(long, value_name = "ADDR", help_heading = "This network")]
    pub lan_listen: Option<std::net::SocketAddr>,

    /// Viewers on this network to serve at once; more get the stream from the server.
    #[arg(long, value_name = "N", default_value_t = 16, help_heading = "This network")]
    pub max_lan_viewers: usize,

    /// Bits per second to all of them together [default: no limit].
    #[arg(long, value_name = "RATE", value_parser = option_values::bitrate, help_heading = "This network")]
    pub lan_bitrate_limit: Option<u64>,

    /// Do not announce the broadcast by mDNS; viewers are told where it is by the server alone.
    #[arg(long, help_heading = "This network")]
    pub no_mdns: bool,

    /// How to log to standard error: text with a status line, or JSON lines [default: text on a terminal, else json].
    #[arg(long, value_enum, help_heading = "Reporting")]
    pub log: Option<LogFormat>,

    /// Print statistics to standard output once a second and at the end.
    #[arg(long, value_enum, help_heading = "Reporting")]
    pub stats: Option<StatsFormat>,

    /// Write a line for each access unit that leaves: track, DTS, PTS, SHA-256 of its payload.
    #[arg(long, value_name = "FILE", help_heading = "Reporting")]
    pub unit_log: Option<PathBuf>,

    /// Write a line for each access unit when it is captured, encoded and pushed: stage, track, DTS, bytes, time of day.
    #[arg(long, value_name = "FILE", help_heading = "Reporting")]
    pub trace: Option<PathBuf>,

    /// Take the time to be so many milliseconds later than the system says, to see how a wrong clock is borne.
    #[arg(long, value_name = "MS", allow_negative_numbers = true, default_value_t = 0, help_heading = "Reporting")]
    pub clock_offset: i64,
}

/// What to do, checked.
#[derive(Debug)]
pub struct BroadcastSettings {
    /// Where to publish.
    pub url: net::rtmp::url::Url,
    /// What to show.
    pub source: Source,
    /// What to let hear.
    pub audio: Audio,
    /// How to capture and encode.
    pub capture: CaptureSettings,
    /// When to stop by itself.
    pub run_for: Option<Duration>,
    /// What an outage may last.
    pub window: Bounds,
    /// How to serve viewers on this network, if at all.
    pub peer: Option<peer::PeerSettings>,
    /// Where to log access units.
    pub unit_log: Option<PathBuf>,
    /// Where to note when they pass each stage.
    pub trace: Option<PathBuf>,
    /// Milliseconds that the clock is to be wrong by.
    pub clock_offset: i64,
    /// Whether to print statistics.
    pub stats: Option<StatsFormat>,
}

/// A command line that can not be run. The process ends with exit code 64.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No URL.
    #[error("give a URL to publish to: rtmp://HOST/APP/KEY")]
    NoUrl,
    /// A URL that is none.
    #[error("the URL does not say where to publish: {0}")]
    Url(String),
    /// Options that do not go together, or out of range.
    #[error("{0}")]
    Options(&'static str),
}

impl Publish {
    /// Checks what clap can not.
    pub fn settings(self) -> Result<BroadcastSettings, Error> {
        let url = with_key(self.url.as_deref().ok_or(Error::NoUrl)?, self.key.as_deref());
        let url = net::rtmp::url::parse(&url).map_err(|error| Error::Url(error.to_string()))?;
        let is_file = matches!(self.source, Source::File(_));
        if self.looped && !is_file {
            return Err(Error::Options("--loop needs --source file:PATH"));
        }
        if self.encoder == EncoderChoice::Copy && !is_file {
            return Err(Error::Options("--encoder copy needs --source file:PATH: nothing else comes encoded"));
        }
        if self.encoder == EncoderChoice::Copy && self.burn_in == Some(true) {
            return Err(Error::Options("--burn-in draws into pictures, which --encoder copy leaves as they are"));
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
            return Err(Error::Options(
                "--encoder copy leaves pictures as they are: it goes with no other option of Video",
            ));
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

/// The key goes after the app, before any query.
fn with_key(url: &str, key: Option<&str>) -> String {
    match (key.filter(|key| !key.is_empty()), url.split_once('?')) {
        (None, _) => url.to_owned(),
        (Some(key), None) => format!("{}/{key}", url.trim_end_matches('/')),
        (Some(key), Some((path, query))) => format!("{}/{key}?{query}", path.trim_end_matches('/')),
    }
}

const EXAMPLES: &str = "\
Examples:
  broadcaster devices
      What this machine can capture.
  broadcaster doctor http://cdn.example:8080/NAME
      What works between this machine, its network and that server, and what to fix.
  NEARCAST_KEY=… broadcaster rtmp://cdn.example/live
      The webcam and the microphone.
  broadcaster --source screen --audio none --size 1280x720 --fps 15 rtmp://cdn.example/live/KEY
      The screen, small and without sound.
  broadcaster --source webcam:/dev/video2 --audio alsa:plughw:1,0 --bitrate 4M --gop 1s rtmp://cdn.example/live/KEY
      One camera of several, with its own microphone.
  broadcaster --source file:concert.mp4 --loop rtmp://cdn.example/live/KEY
      A file for ever, in real time, without re-encoding if its codecs can be streamed.
  broadcaster --source test --stats json rtmp://127.0.0.1/live/KEY
      A moving picture with a clock, and a tone: to test a server.

A file's pictures and sound each pass through as they are if their codec can be streamed, unless an option of Video or
Audio above asks for what only a re-encode can give.

Exit codes: 0 ended as asked, 1 failed, 64 wrong usage, 66 no such device or file, 77 the server refuses the key.
RUST_LOG=broadcaster=debug tells more.";

/// A window that holds less bridges no outage.
const MIN_WINDOW: Duration = Duration::from_secs(1);
/// As [`MIN_WINDOW`]: one second of a modest stream.
const MIN_WINDOW_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests;
