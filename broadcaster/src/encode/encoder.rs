//! A video encoder: FFmpeg's, configured for live use. It returns access units.

use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{fmt, ptr, thread};

use ffmpeg_next::format::Pixel;
use ffmpeg_next::{Dictionary, Packet, Rational, codec, color, ffi, frame, picture};
use media::codec::{Codec, CodecConfig, Format};

use super::bitstream::{self, Bitstream};
use super::vaapi::SurfaceUploader;
use super::{EncoderChoice, VideoSettings, encoder_probe};
use crate::log::FfmpegLogGuard;

/// Size and rate of the frames that an encoder takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VideoFormat {
    /// Width in pixels; even.
    pub width: u32,
    /// Height in pixels; even.
    pub height: u32,
    /// Nominal frames per second.
    pub fps: f64,
}

/// An encoded access unit. Timestamps are milliseconds since PTS 0.
#[derive(Debug)]
pub struct EncodedPacket {
    /// Decoding time; may be negative by the reordering delay.
    pub dts: i64,
    /// Presentation time, as given to [`Encoder::encode`].
    pub pts: i64,
    /// Whether decoding can start here.
    pub random_access: bool,
    /// The payload in the form that [`media::AccessUnit`] documents.
    pub payload: bytes::Bytes,
    /// The decoder configuration, if it changed with this unit.
    pub config: Option<CodecConfig>,
}

/// Why no encoder opened, or why it failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// FFmpeg has no such encoder.
    #[error(
        "this FFmpeg has no video encoder `{name}`; use --encoder with one of these, which work here: {}",
        list(usable)
    )]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// The encoders that work here: see [`usable`].
        usable: Vec<String>,
    },
    /// Its codec is not supported by Nearcast.
    #[error(
        "the codec of `{name}` cannot be streamed; use --encoder with one of these, which work here: {}",
        list(usable)
    )]
    Codec {
        /// FFmpeg's name of the encoder.
        name: String,
        /// The encoders that work here: see [`usable`].
        usable: Vec<String>,
    },
    /// It does not open.
    #[error("cannot open encoder `{name}` for {format}: {source}")]
    Open {
        /// FFmpeg's name of the encoder.
        name: String,
        /// What it was to take.
        format: VideoFormat,
        /// The reason, by FFmpeg.
        source: ffmpeg_next::Error,
    },
    /// It opened, but produced no output.
    #[error("encoder `{0}` opens, but produces no output")]
    Idle(String),
    /// The encoder that was named needs hardware that does not work.
    #[error(
        "{why}: its hardware or driver is not here; use --encoder with one of these, which work here: {}",
        list(usable)
    )]
    Hardware {
        /// What failed.
        why: Box<Error>,
        /// The encoders that work here: see [`usable`].
        usable: Vec<String>,
    },
    /// The encoder that was named does not open as the command line asks.
    #[error("{0}; it may not support this --preset, --bitrate, --size, --fps or --bframes")]
    Options(Box<Error>),
    /// None of the encoders that `auto` tries works.
    #[error(
        "no H.264 encoder works: install an FFmpeg with libx264, or use --encoder with one of these, which work here: {}",
        list(usable)
    )]
    None {
        /// The encoders that work here: see [`usable`].
        usable: Vec<String>,
    },
    /// It failed on a frame.
    #[error("encoding failed: {0}")]
    Encode(#[from] ffmpeg_next::Error),
    /// Its output cannot be parsed.
    #[error(transparent)]
    Bitstream(#[from] bitstream::Error),
}

impl Error {
    /// Whether this machine lacks what the encoder needs. Otherwise the command line asks for what no machine has.
    pub fn is_about_the_machine(&self) -> bool {
        matches!(self, Self::Hardware { .. } | Self::None { .. })
    }

    /// Whether no encoder opened because of what the command line asks for.
    pub fn is_about_the_options(&self) -> bool {
        matches!(self, Self::Unknown { .. } | Self::Codec { .. } | Self::Options(_))
    }
}

impl fmt::Display for VideoFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{} at {} fps", self.width, self.height, self.fps)
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// FFmpeg's names of the video encoders that can be used here: those in hardware that open within seconds, and all in software.
pub fn usable() -> Vec<String> {
    let (hardware, software): (Vec<_>, Vec<_>) =
        streamable().into_iter().partition(|name| encoder_probe::is_hardware(name));
    let (found, opened) = mpsc::channel();
    // A driver that hangs cannot be interrupted: its thread is abandoned.
    let probing = thread::Builder::new().name("encoders".to_owned()).spawn(move || {
        let _quiet = FfmpegLogGuard::begin();
        for name in hardware {
            if Encoder::open_verified(&name, &VideoSettings::default(), PROBE_FORMAT).is_ok()
                && found.send(name).is_err()
            {
                return;
            }
        }
    });
    let until = Instant::now() + USABLE_TIMEOUT;
    let mut names = Vec::new();
    while probing.is_ok()
        && let Ok(name) = opened.recv_timeout(until.saturating_duration_since(Instant::now()))
    {
        names.push(name);
    }
    names.extend(software);
    names
}

/// FFmpeg's names of its video encoders whose codec can be streamed.
fn streamable() -> Vec<String> {
    let mut names = Vec::new();
    let mut state = ptr::null_mut();
    loop {
        // SAFETY: FFmpeg keeps its position in `state`; the codecs that it returns live for ever.
        let codec = unsafe {
            let next = ffi::av_codec_iterate(&mut state);
            if next.is_null() {
                return names;
            }
            if ffi::av_codec_is_encoder(next) == 0 || (*next).capabilities & ffi::AV_CODEC_CAP_EXPERIMENTAL as i32 != 0
            {
                continue;
            }
            ffmpeg_next::Codec::wrap(next)
        };
        if codec.medium() == ffmpeg_next::media::Type::Video && bitstream::codec_of(codec.id()).is_some() {
            names.push(codec.name().to_owned());
        }
    }
}

/// An open encoder.
pub struct Encoder {
    name: String,
    inner: codec::encoder::video::Encoder,
    format: Pixel,
    upload: Option<SurfaceUploader>,
    bitstream: Bitstream,
    announced: bool,
    packet: Packet,
    configured_bitrate: u64,
}

impl Encoder {
    /// Whether FFmpeg knows the encoder that `choice` names, and its codec can be streamed. Opens nothing.
    ///
    /// # Errors
    /// [`Error::Unknown`] or [`Error::Codec`].
    pub fn check_name(choice: &EncoderChoice) -> Result<(), Error> {
        match choice {
            EncoderChoice::Named(name) => find(name).map(drop),
            EncoderChoice::Auto | EncoderChoice::Copy => Ok(()),
        }
    }

    /// Opens the encoder that `settings` name, or the first of the automatic ones that works.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(settings: &VideoSettings, video_format: VideoFormat) -> Result<Self, Error> {
        if let EncoderChoice::Named(name) = &settings.encoder {
            return Self::open_verified(name, settings, video_format).map_err(|error| match error {
                Error::Unknown { .. } | Error::Codec { .. } => error,
                _ if encoder_probe::is_hardware(name) => Error::Hardware { why: error.into(), usable: usable() },
                _ => Error::Options(error.into()),
            });
        }
        let mut software = Vec::new();
        for name in encoder_probe::AUTO_ORDER {
            let _quiet = FfmpegLogGuard::begin();
            match Self::open_verified(name, settings, video_format) {
                Ok(encoder) => return Ok(encoder),
                Err(error) => {
                    tracing::debug!(encoder = name, %error, "encoder probe failed");
                    if !encoder_probe::is_hardware(name) {
                        software.push((name, error));
                    }
                }
            }
        }
        let usable = usable();
        // One that works here, but not as the command line asks.
        Err(match software.into_iter().find(|(name, _)| usable.iter().any(|usable| usable == *name)) {
            Some((_, error)) => Error::Options(error.into()),
            None => Error::None { usable },
        })
    }

    /// The codec of its output.
    pub fn codec(&self) -> Codec {
        self.bitstream.codec()
    }

    /// FFmpeg's name of this encoder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it encodes in hardware.
    pub fn is_hardware(&self) -> bool {
        encoder_probe::is_hardware(&self.name)
    }

    /// Changes the target to `bitrate` bits per second from the next frame on. Returns `false`, without effect, if this encoder cannot
    /// change its bitrate.
    pub fn set_bitrate(&mut self, bitrate: u64) -> bool {
        if !encoder_probe::supports_rate_change(&self.name) {
            return false;
        }
        let rate = i64::try_from(bitrate).unwrap_or(i64::MAX);
        let buffered = if bitrate < self.configured_bitrate { CONSTRAINED_VBV_BUFFER } else { VBV_BUFFER };
        // SAFETY: the context is open and exclusively ours. FFmpeg's wrapper of x264 reads these three fields before each frame and
        // reconfigures x264, which accepts the change because it was opened with VBV.
        unsafe {
            let context = self.inner.as_mut_ptr();
            (*context).bit_rate = rate;
            (*context).rc_max_rate = rate;
            (*context).rc_buffer_size = vbv_bits(bitrate, buffered).try_into().unwrap_or(i32::MAX);
        }
        true
    }

    /// The bitrate it was opened with, in bits per second.
    pub fn configured_bitrate(&self) -> u64 {
        self.configured_bitrate
    }

    /// The pixel format it takes.
    pub fn format(&self) -> Pixel {
        self.format
    }

    /// Encodes a frame of the size and [`format`](Self::format) it was opened with. `pts` is in milliseconds and rises; `idr` forces a
    /// keyframe. Returns the units that are ready.
    ///
    /// # Errors
    /// [`Error::Encode`] or [`Error::Bitstream`].
    pub fn encode(&mut self, picture: &mut frame::Video, pts: i64, idr: bool) -> Result<Vec<EncodedPacket>, Error> {
        picture.set_pts(Some(pts));
        picture.set_kind(if idr { picture::Type::I } else { picture::Type::None });
        match &self.upload {
            Some(upload) => {
                let surface = upload.upload(picture)?;
                self.inner.send_frame(&surface)?;
            }
            None => self.inner.send_frame(picture)?,
        }
        self.receive()
    }

    /// Drains the encoder.
    ///
    /// # Errors
    /// [`Error::Encode`] or [`Error::Bitstream`].
    pub fn finish(&mut self) -> Result<Vec<EncodedPacket>, Error> {
        self.inner.send_eof()?;
        self.receive()
    }

    fn receive(&mut self) -> Result<Vec<EncodedPacket>, Error> {
        let mut units = Vec::new();
        loop {
            match self.inner.receive_packet(&mut self.packet) {
                Ok(()) => {}
                Err(ffmpeg_next::Error::Eof | ffmpeg_next::Error::Other { errno: ffmpeg_next::error::EAGAIN }) => {
                    return Ok(units);
                }
                Err(error) => return Err(error.into()),
            }
            let key = self.packet.is_key();
            let unit = self.bitstream.unit(self.packet.data().unwrap_or_default(), key)?;
            if unit.payload.is_empty() {
                continue;
            }
            let is_new = unit.reconfigured || !self.announced;
            let config = self.bitstream.config().filter(|_| is_new).cloned();
            self.announced |= config.is_some();
            let pts = self.packet.pts().or(self.packet.dts()).unwrap_or_default();
            let dts = self.packet.dts().unwrap_or(pts);
            units.push(EncodedPacket { dts, pts, random_access: key, payload: unit.payload, config });
        }
    }

    /// Opens a hardware encoder only after a trial has produced output: a driver without its device may open without error.
    fn open_verified(name: &str, settings: &VideoSettings, video_format: VideoFormat) -> Result<Self, Error> {
        if encoder_probe::is_hardware(name) {
            let mut trial = Self::open_named(name, settings, video_format)?;
            let mut picture = frame::Video::new(trial.format, video_format.width, video_format.height);
            for plane in 0..picture.planes() {
                picture.data_mut(plane).fill(128);
            }
            let mut units = 0;
            for n in 0..PROBE_FRAMES {
                units += trial.encode(&mut picture, n * 33, n == 0)?.len();
            }
            if units + trial.finish()?.len() == 0 {
                return Err(Error::Idle(name.into()));
            }
        }
        Self::open_named(name, settings, video_format)
    }

    fn open_named(name: &str, settings: &VideoSettings, video_format: VideoFormat) -> Result<Self, Error> {
        let (found, codec) = find(name)?;
        let failed = |source| Error::Open { name: name.into(), format: video_format, source };

        let mut encoder = codec::Context::new_with_codec(found).encoder().video().map_err(failed)?;
        let format = input_format(name, &found);
        encoder.set_width(video_format.width);
        encoder.set_height(video_format.height);
        encoder.set_format(format);
        encoder.set_time_base(Rational(1, 1000));
        encoder.set_frame_rate(Some(rational(video_format.fps)));
        encoder.set_aspect_ratio(Rational(1, 1));
        encoder.set_colorspace(color::Space::BT709);
        encoder.set_color_range(color::Range::MPEG);
        encoder.set_color_primaries(color::Primaries::BT709);
        encoder.set_color_transfer_characteristic(color::TransferCharacteristic::BT709);
        encoder.set_flags(codec::Flags::GLOBAL_HEADER | codec::Flags::CLOSED_GOP);
        encoder.set_max_b_frames(settings.bframes as usize);
        encoder.set_gop(gop_pictures(name, settings, video_format.fps));
        let bitrate = settings.bitrate_for(video_format.width, video_format.height, video_format.fps);
        encoder.set_bit_rate(bitrate as usize);
        let upload = match name.ends_with("_vaapi") {
            true => {
                Some(SurfaceUploader::attach(&mut encoder, video_format.width, video_format.height).map_err(failed)?)
            }
            false => None,
        };
        let mut options = Dictionary::new();
        if encoder_probe::supports_maxrate(name) {
            options.set("maxrate", &bitrate.to_string());
            options.set("bufsize", &vbv_bits(bitrate, VBV_BUFFER).to_string());
        }
        for (key, value) in encoder_probe::options(name, settings) {
            options.set(key, &value);
        }
        let inner = encoder.open_with(options).map_err(failed)?;
        let format_of = Format::Video { width: video_format.width, height: video_format.height };
        let bitstream = Bitstream::new(codec, extradata(&inner), format_of)?;
        let (announced, packet, configured_bitrate) = (false, Packet::empty(), bitrate);
        Ok(Self { name: name.into(), inner, format, upload, bitstream, announced, packet, configured_bitrate })
    }
}

/// FFmpeg's encoder of this name, and its codec.
fn find(name: &str) -> Result<(ffmpeg_next::Codec, Codec), Error> {
    let found = codec::encoder::find_by_name(name).filter(|codec| codec.medium() == ffmpeg_next::media::Type::Video);
    let found = found.ok_or_else(|| Error::Unknown { name: name.into(), usable: usable() })?;
    let codec = bitstream::codec_of(found.id()).ok_or_else(|| Error::Codec { name: name.into(), usable: usable() })?;
    Ok((found, codec))
}

fn vbv_bits(bitrate: u64, buffered: Duration) -> u64 {
    (bitrate as f64 * buffered.as_secs_f64()) as u64
}

/// The keyframe interval in frames for encoders that count; a bound far above it for those that take IDRs on request.
fn gop_pictures(name: &str, settings: &VideoSettings, fps: f64) -> u32 {
    let pictures = (settings.gop().as_secs_f64() * fps).round().clamp(1.0, 1e6) as u32;
    if encoder_probe::supports_forced_idr(name) && !settings.intra_refresh {
        pictures.saturating_mul(4)
    } else {
        pictures
    }
}

/// YUV 4:2:0 in a layout that the encoder supports. VAAPI surfaces are filled from NV12.
fn input_format(name: &str, codec: &ffmpeg_next::Codec) -> Pixel {
    let formats: Vec<_> = codec.video().ok().and_then(|video| video.formats()).into_iter().flatten().collect();
    match formats.contains(&Pixel::YUV420P) {
        true => Pixel::YUV420P,
        false if name.ends_with("_vaapi") || formats.contains(&Pixel::NV12) => Pixel::NV12,
        false => formats.first().copied().unwrap_or(Pixel::YUV420P),
    }
}

/// A frame rate as a fraction; NTSC rates are exact.
pub(crate) fn rational(fps: f64) -> Rational {
    let ntsc = fps * 1.001;
    if (fps - fps.round()).abs() > 1e-3 && (ntsc - ntsc.round()).abs() < 1e-2 {
        Rational(ntsc.round() as i32 * 1000, 1001)
    } else {
        Rational((fps * 1000.0).round() as i32, 1000)
    }
}

/// The extradata of an open encoder.
pub(super) fn extradata(context: &codec::Context) -> &[u8] {
    // SAFETY: FFmpeg keeps `extradata_size` bytes at `extradata` for as long as the context lives.
    unsafe {
        let context = context.as_ptr();
        match (*context).extradata.is_null() {
            true => &[],
            false => std::slice::from_raw_parts((*context).extradata, (*context).extradata_size.max(0) as usize),
        }
    }
}

/// VBV buffer, as time at the bitrate: a larger one improves quality, but delays what follows each IDR.
const VBV_BUFFER: Duration = Duration::from_millis(750);

/// VBV buffer while rate control limits the bitrate: on a full uplink every IDR adds to the delay.
const CONSTRAINED_VBV_BUFFER: Duration = Duration::from_millis(400);

/// What hardware encoders are tried with for the list of those that work: any encoder takes it.
const PROBE_FORMAT: VideoFormat = VideoFormat { width: 1280, height: 720, fps: 30.0 };

/// Bounds the trials for that list; most fail at once for lack of their hardware.
const USABLE_TIMEOUT: Duration = Duration::from_secs(3);

/// Frames of a hardware trial: more than any encoder configured for low delay holds.
const PROBE_FRAMES: i64 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_rates_become_exact_fractions() {
        for (fps, expected) in [
            (30.0, (30_000, 1000)),
            (29.97, (30_000, 1001)),
            (59.94, (60_000, 1001)),
            (23.976, (24_000, 1001)),
            (5.0, (5000, 1000)),
            (12.5, (12_500, 1000)),
        ] {
            let Rational(num, den) = rational(fps);
            assert_eq!((num, den), expected, "{fps}");
        }
    }
}
