//! `broadcaster doctor`: checks the encoder, this network and the server for a broadcaster, and says what to fix.
//!
//! It publishes nothing and tries no stream key, so that a running broadcast is not interrupted.

use std::time::{Duration, Instant};

use clap::Args;
use net::doctor::{self, Check, Report, Role, Target};
use net::listen::ListenAddress;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::encode::encoder::{Encoder, Error, VideoFormat};
use crate::encode::{DEFAULT_GOP, EncoderChoice, VideoSettings};
use crate::log::FfmpegLogGuard;
use crate::{capture, option_values};

/// The options of `broadcaster doctor`.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// The server to check: the URL of a stream's page, or an RTMP URL.
    #[arg(help = URL_HELP)]
    pub url: Option<String>,

    /// Encoder, as for publishing: auto, copy, or an FFmpeg encoder's name.
    #[arg(short, long, default_value = "auto")]
    pub encoder: EncoderChoice,

    /// Frame size to try the encoder with [default: 1280x720].
    #[arg(long, value_name = "WxH", value_parser = option_values::size)]
    pub size: Option<(u32, u32)>,

    /// Frame rate to try the encoder with [default: 30].
    #[arg(long, value_parser = option_values::fps)]
    pub fps: Option<f64>,

    /// Keyframe (IDR) interval, as for publishing [default: 2s].
    #[arg(long, value_parser = option_values::duration)]
    pub gop: Option<Duration>,

    /// UDP port, or address and port, to listen on for LAN viewers, as for publishing [default: any free port].
    #[arg(long, value_name = "ADDR")]
    pub lan_listen: Option<ListenAddress>,

    /// Print as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Runs all checks, in six seconds at most.
///
/// # Errors
/// If the URL cannot be parsed. The error does not show it, since it may contain a stream key.
pub async fn examine(args: &DoctorArgs) -> anyhow::Result<Report> {
    let place = args.url.as_deref().map(|url| Target::parse(url, Role::Publisher)).transpose()?;
    let (encoder, checks) =
        tokio::join!(encoder(args), doctor::examine(place.as_ref(), Role::Publisher, args.lan_listen));
    let mut all = vec![encoder];
    if args.encoder != EncoderChoice::Copy {
        all.push(gop(args.gop.unwrap_or(DEFAULT_GOP)));
    }
    all.extend(checks);
    Ok(Report::new(all))
}

/// Opens the encoder that a broadcast would get.
async fn encoder(args: &DoctorArgs) -> Check {
    if args.encoder == EncoderChoice::Copy {
        return Check::ok("encoder", "none: a file's video is passed through without re-encoding");
    }
    let settings = VideoSettings {
        encoder: args.encoder.clone(),
        size: args.size,
        fps: args.fps,
        bitrate: None,
        gop: args.gop,
        bframes: 0,
        intra_refresh: false,
        preset: None,
        fixed_bitrate: true,
    };
    let (width, height) = args.size.unwrap_or(DEFAULT_SIZE);
    let video_format = VideoFormat { width, height, fps: args.fps.unwrap_or(DEFAULT_FPS) };
    // FFmpeg cannot be interrupted here: the thread of a driver that hangs is abandoned.
    let opening = spawn_blocking(move || {
        let _quiet = FfmpegLogGuard::begin();
        capture::init()?;
        let started = Instant::now();
        let encoder = Encoder::open(&settings, video_format)?;
        Ok::<_, Error>((encoder.name().to_owned(), encoder.is_hardware(), started.elapsed()))
    });
    let at = video_format.to_string();
    match timeout(OPEN_TIMEOUT, opening).await {
        Ok(Ok(Ok((name, is_hardware, took)))) => {
            let by = if is_hardware { "hardware" } else { "software" };
            let millis = took.as_millis();
            Check::ok("encoder", format!("{name} ({by}) works for {at}; selected in {millis} ms"))
                .with("found_in_ms", millis as f64)
        }
        Ok(Ok(Err(error))) => Check::fail("encoder", format!("{at}: {error}"), encoder_fix(&args.encoder)),
        Ok(Err(_)) => Check::fail("encoder", format!("{at}: FFmpeg panicked"), CHOOSE_ENCODER),
        Err(_) => Check::fail(
            "encoder",
            format!("{at}: no encoder opened within {OPEN_TIMEOUT:?}: a driver may hang"),
            CHOOSE_ENCODER,
        ),
    }
}

fn encoder_fix(choice: &EncoderChoice) -> &'static str {
    match choice {
        EncoderChoice::Named(_) => "omit --encoder, or name one that works here and supports this size",
        _ => {
            "install an FFmpeg with libx264 (Debian, Ubuntu: sudo apt install libavcodec-extra), or name an encoder that works here"
        }
    }
}

fn gop(gop: Duration) -> Check {
    let seconds = gop.as_secs_f64();
    let found = format!("an IDR every {seconds} s: viewers wait up to {seconds} s to join");
    let check = if gop > DEFAULT_GOP {
        Check::warn("GOP", found, "use --gop 2s or 1s: viewers join and recover sooner, for a few percent more bits")
    } else {
        Check::ok("GOP", found)
    };
    check.with("gop_ms", seconds * 1e3)
}

const URL_HELP: &str =
    "The server: a stream's page (http://HOST:8080/NAME, for the most complete check), or rtmp://HOST[:PORT]/APP";
const CHOOSE_ENCODER: &str = "name a working encoder, so that no other is tried: --encoder libx264";
/// What most webcams deliver.
const DEFAULT_SIZE: (u32, u32) = (1280, 720);
const DEFAULT_FPS: f64 = 30.0;
/// Bounds trying all eight encoders; most fail at once for lack of their hardware.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use net::doctor::Status;

    use super::*;

    #[test]
    fn a_long_keyframe_interval_is_a_warning() {
        for (millis, wanted) in [(500, Status::Ok), (2000, Status::Ok), (2001, Status::Warn), (10_000, Status::Warn)] {
            assert_eq!(gop(Duration::from_millis(millis)).status(), wanted, "{millis}");
        }
    }

    #[tokio::test]
    async fn the_encoder_check_opens_the_encoder() {
        let args = |encoder: &str| DoctorArgs {
            url: None,
            encoder: encoder.parse().unwrap(),
            size: None,
            fps: None,
            gop: None,
            lan_listen: None,
            json: false,
        };
        for (name, wanted) in [("auto", Status::Ok), ("copy", Status::Ok), ("no_such_encoder", Status::Fail)] {
            let check = encoder(&args(name)).await;
            assert_eq!(check.status(), wanted, "{check:?}");
        }
    }
}
