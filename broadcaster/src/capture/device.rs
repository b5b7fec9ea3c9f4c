//! Captures from cameras, screens and microphones through FFmpeg. A device that was unplugged is reopened when it is back.

use std::sync::Arc;

use ffmpeg_next::format::context::Input;
use ffmpeg_next::media::Type;
use ffmpeg_next::{Packet, frame};
use media::TrackId;

use super::frame_rate_limit::FrameRateLimit;
use super::input::{self, InputSpec, ReadError};
use super::{CaptureContext, Need, devices, run_with_retry};
use crate::encode::audio::AudioEncoding;
use crate::encode::{DropOldestQueue, Picture, Sound};
use crate::shutdown::ShutdownSignal;

/// Why a device delivers nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It is absent or in use.
    #[error("cannot open {device}: {source}{hint}")]
    Open {
        /// The device's display name.
        device: String,
        /// The reason, by FFmpeg.
        source: ffmpeg_next::Error,
        /// What the user can do, appended to the message; may be empty.
        hint: &'static str,
    },
    /// It failed after it was opened.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// Its data cannot be decoded.
    #[error("its data cannot be decoded: {0}")]
    Decode(ffmpeg_next::Error),
    /// It has no stream of this kind: `video` or `audio`.
    #[error("it delivers no {0}")]
    NoStream(&'static str),
    /// Its audio cannot be encoded.
    #[error(transparent)]
    Encode(#[from] crate::encode::audio::Error),
}

/// Captures from a camera or screen into `pictures` until capturing must stop.
///
/// # Errors
/// If the device fails before its first picture.
pub fn run_video(
    context: &CaptureContext,
    device: &devices::VideoDevice,
    pictures: &Arc<DropOldestQueue<Picture>>,
) -> Result<(), Error> {
    let mut frame_rate_limit = FrameRateLimit::new(context.settings.video.fps);
    run_with_retry(context, &device.name, TrackId::VIDEO, Need::Required, |on_working| {
        // A camera that was plugged in again may have other modes or another device number.
        let spec = device.input_spec(context.settings.video.size, context.settings.video.fps);
        read_video(context, device, &spec, &mut frame_rate_limit, pictures, on_working)
    })
}

fn read_video(
    context: &CaptureContext,
    device: &devices::VideoDevice,
    spec: &InputSpec,
    frame_rate_limit: &mut FrameRateLimit,
    pictures: &Arc<DropOldestQueue<Picture>>,
    on_working: &mut dyn FnMut(),
) -> Result<(), Error> {
    tracing::debug!(url = %spec.url, options = ?spec.options, "opening");
    let mut input = open(spec, &device.name, &context.shutdown)?;
    let (index, parameters, time_base) = input::best(&input, Type::Video).ok_or(Error::NoStream("video"))?;
    let fps = input.stream(index).and_then(|s| input::rate(s.avg_frame_rate()).or(input::rate(s.rate())));
    let fps = fps.filter(|fps| *fps <= 1000.0);
    let mut decoder = input::video_decoder(parameters).map_err(Error::Decode)?;
    tracing::info!(device = %device.name, width = decoder.width(), height = decoder.height(), fps, "capturing video");
    let mut packet = Packet::empty();
    while input::read(&mut input, &mut packet, &context.shutdown)? {
        if packet.stream() != index {
            continue;
        }
        let stamp = packet.pts().map(|pts| crate::capture::file::micros(pts, time_base));
        let captured = context.clock.at_device_timestamp(stamp);
        context.stats.captured.increment();
        if !frame_rate_limit.admits(captured) {
            continue;
        }
        // A frame damaged in transfer, as cheap cameras' first ones are, is skipped.
        if decoder.send_packet(&packet).is_err() {
            continue;
        }
        let mut frame = frame::Video::empty();
        while decoder.receive_frame(&mut frame).is_ok() {
            on_working();
            let frame =
                input::in_memory(std::mem::replace(&mut frame, frame::Video::empty())).map_err(Error::Decode)?;
            context.stats.frames_dropped.add(pictures.push(Picture { frame, captured, fps }));
        }
    }
    Ok(())
}

/// Captures and encodes audio from a microphone until capturing must stop. `is_named`: the user asked for this one.
///
/// # Errors
/// If a microphone that was named fails before its first sound.
pub fn run_audio(context: &CaptureContext, device: &devices::AudioDevice, is_named: bool) -> Result<(), Error> {
    let mut encoding = None;
    let need = if is_named { Need::Required } else { Need::Optional };
    let result = run_with_retry(context, &device.name, TrackId::AUDIO, need, |on_working| {
        read_audio(context, device, &mut encoding, on_working)
    });
    if let Some(mut encoding) = encoding
        && let Err(error) = AudioEncoding::finish(&mut encoding)
    {
        tracing::debug!(%error, "cannot flush the audio encoder");
    }
    result
}

fn read_audio(
    context: &CaptureContext,
    device: &devices::AudioDevice,
    encoding: &mut Option<AudioEncoding>,
    on_working: &mut dyn FnMut(),
) -> Result<(), Error> {
    let mut input = open_microphone(device, &context.shutdown)?;
    let (index, parameters, time_base) = input::best(&input, Type::Audio).ok_or(Error::NoStream("audio"))?;
    let mut decoder = input::audio_decoder(parameters).map_err(Error::Decode)?;
    tracing::info!(device = %device.name, sample_rate = decoder.rate(), channels = decoder.channels(), "capturing audio");
    let encoding = match encoding {
        Some(encoding) => encoding,
        None => encoding.insert(AudioEncoding::open(context.settings.audio, context.broadcast.clone())?),
    };
    let mut packet = Packet::empty();
    while input::read(&mut input, &mut packet, &context.shutdown)? {
        if packet.stream() != index || decoder.send_packet(&packet).is_err() {
            continue;
        }
        let stamp = packet.pts().map(|pts| crate::capture::file::micros(pts, time_base));
        let mut captured = context.clock.at_device_timestamp(stamp);
        let mut frame = frame::Audio::empty();
        while decoder.receive_frame(&mut frame).is_ok() {
            on_working();
            let samples = frame.samples() as i64;
            let rate = i64::from(decoder.rate().max(1));
            encoding.encode(Sound { frame: std::mem::replace(&mut frame, frame::Audio::empty()), captured })?;
            captured += samples * 1_000_000 / rate;
        }
    }
    Ok(())
}

/// Tries a microphone: opens it and waits for its first sound.
///
/// # Errors
/// If it does not open or delivers nothing.
pub fn verify_audio(device: &devices::AudioDevice) -> Result<(), Error> {
    let shutdown = ShutdownSignal::default();
    let mut input = open_microphone(device, &shutdown)?;
    let (_, parameters, _) = input::best(&input, Type::Audio).ok_or(Error::NoStream("audio"))?;
    input::audio_decoder(parameters).map_err(Error::Decode)?;
    input::read(&mut input, &mut Packet::empty(), &shutdown)?;
    Ok(())
}

fn open_microphone(device: &devices::AudioDevice, shutdown: &ShutdownSignal) -> Result<Input, Error> {
    let mut failure = Error::NoStream("audio");
    for spec in device.input_specs() {
        match open(&spec, &device.name, shutdown) {
            Ok(input) => return Ok(input),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn open(spec: &InputSpec, device: &str, shutdown: &ShutdownSignal) -> Result<Input, Error> {
    input::open(spec, shutdown).map_err(|source| {
        let hint = match source {
            ffmpeg_next::Error::Other { errno: ffmpeg_next::error::EBUSY } => ": it is in use by another program",
            ffmpeg_next::Error::Other { errno: ffmpeg_next::error::EACCES | ffmpeg_next::error::EPERM }
                if spec.format == Some("kmsgrab") =>
            {
                ": capturing the screen through the graphics card requires root or CAP_SYS_ADMIN"
            }
            ffmpeg_next::Error::Other { errno: ffmpeg_next::error::EACCES } => {
                ": is this user in the groups `video` and `audio`?"
            }
            ffmpeg_next::Error::Other { errno: ffmpeg_next::error::ENOENT | ffmpeg_next::error::ENODEV }
                if spec.format == Some("kmsgrab") =>
            {
                ": is there such a card in /dev/dri?"
            }
            ffmpeg_next::Error::Other { errno: ffmpeg_next::error::ENOENT | ffmpeg_next::error::ENODEV } => {
                ": is it plugged in?"
            }
            ffmpeg_next::Error::Other { errno: ffmpeg_next::error::EIO } if spec.format == Some("x11grab") => {
                ": the display is gone, or does not admit this user (XAUTHORITY)"
            }
            _ if matches!(spec.format, Some("alsa" | "pulse")) => ": `broadcaster devices` lists the microphones",
            _ => "",
        };
        Error::Open { device: device.to_owned(), source, hint }
    })
}
