//! The audio encoder: takes audio in any format, and pushes AAC or Opus frames to the broadcast. Cheap enough for the capture thread.

use std::sync::Arc;

use ffmpeg_next::format::{Sample, sample};
use ffmpeg_next::{ChannelLayout, Dictionary, Packet, Rational, codec, frame};
use media::TrackId;
use media::catalog::{Metadata, Value};
use media::codec::Format;

use super::bitstream::{self, Bitstream};
use super::encoder::extradata;
use super::filter_graph::FilterGraph;
use super::{AudioCodec, AudioSettings, Sound};
use crate::broadcast::Broadcast;
use crate::timestamps::to_millis;

/// Encodes one audio track.
pub struct AudioEncoding {
    inner: codec::encoder::audio::Encoder,
    bitstream: Bitstream,
    resampler: Option<Resampler>,
    format: Sample,
    bitrate: u64,
    broadcast: Arc<Broadcast>,
    packet: Packet,
    announced: bool,
    next_pts: i64,
}

/// Why audio cannot be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This FFmpeg was built without such an encoder.
    #[error("this FFmpeg has no encoder for {0}; choose another codec with --audio-codec, or --audio none")]
    Unknown(AudioCodec),
    /// The encoder does not open.
    #[error(
        "cannot open the encoder for {codec} at {bitrate} bit/s (choose another --audio-bitrate or --audio-codec): {source}"
    )]
    Open {
        /// What was to be encoded.
        codec: AudioCodec,
        /// The bitrate that was asked for.
        bitrate: u64,
        /// The reason, by FFmpeg.
        source: ffmpeg_next::Error,
    },
    /// Resampling or encoding failed.
    #[error("encoding audio failed: {0}")]
    Encode(#[from] ffmpeg_next::Error),
    /// The encoder's output cannot be parsed.
    #[error(transparent)]
    Bitstream(#[from] bitstream::Error),
}

/// An encoder that was opened, and what goes in and comes out.
struct Opened {
    inner: codec::encoder::audio::Encoder,
    format: Sample,
    bitstream: Bitstream,
}

impl Opened {
    fn open(settings: AudioSettings) -> Result<Self, Error> {
        let names: &[&str] = match settings.codec() {
            AudioCodec::Aac => &["aac"],
            AudioCodec::Opus => &["libopus", "opus"],
        };
        let found =
            names.iter().find_map(|name| codec::encoder::find_by_name(name)).ok_or(Error::Unknown(settings.codec()))?;
        let codec = bitstream::codec_of(found.id()).ok_or(Error::Unknown(settings.codec()))?;
        let mut encoder = codec::Context::new_with_codec(found).encoder().audio()?;
        let formats: Vec<_> = found.audio().ok().and_then(|audio| audio.formats()).into_iter().flatten().collect();
        let format = formats.first().copied().unwrap_or(Sample::F32(sample::Type::Planar));
        encoder.set_rate(RATE as i32);
        encoder.set_format(format);
        encoder.set_channel_layout(ChannelLayout::STEREO);
        encoder.set_time_base(Rational(1, RATE as i32));
        encoder.set_bit_rate(settings.bitrate() as usize);
        encoder.set_flags(codec::Flags::GLOBAL_HEADER);
        // FFmpeg's native Opus encoder is marked experimental; for libopus and aac this has no effect.
        encoder.compliance(codec::Compliance::Experimental);
        let mut options = Dictionary::new();
        if found.name() == "libopus" {
            options.set("application", "audio");
        }
        let failed = |source| Error::Open { codec: settings.codec(), bitrate: settings.bitrate(), source };
        let inner = encoder.open_with(options).map_err(failed)?;
        let format_of = Format::Audio { sample_rate: RATE, channels: 2 };
        let bitstream = Bitstream::new(codec, extradata(&inner), format_of)?;
        Ok(Self { inner, format, bitstream })
    }
}

impl AudioEncoding {
    /// Opens the encoder and closes it again.
    ///
    /// # Errors
    /// As [`AudioEncoding::open`].
    pub fn verify(settings: AudioSettings) -> Result<(), Error> {
        Opened::open(settings).map(drop)
    }

    /// Opens the encoder for 48 kHz stereo, whatever the source's format.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Open`] or FFmpeg's own.
    pub fn open(settings: AudioSettings, broadcast: Arc<Broadcast>) -> Result<Self, Error> {
        let Opened { inner, format, bitstream } = Opened::open(settings)?;
        Ok(Self {
            inner,
            bitstream,
            resampler: None,
            format,
            bitrate: settings.bitrate(),
            broadcast,
            packet: Packet::empty(),
            announced: false,
            next_pts: i64::MIN,
        })
    }

    /// Adds the track, once its configuration is known; most encoders know it before the first sample.
    pub fn announce(&mut self) {
        if let (false, Some(config)) = (self.announced, self.bitstream.config()) {
            self.announced = true;
            let about = Metadata::from([("audiodatarate".into(), Value::Number(self.bitrate as f64 / 1000.0))]);
            tracing::info!(codec = config.codec.name(), sample_rate = RATE, channels = 2, "audio track");
            self.broadcast.add_track(TrackId::AUDIO, config.clone(), about);
        }
    }

    /// Encodes a block of samples. Gaps below half a second are filled with silence; longer ones remain gaps in the timestamps.
    ///
    /// # Errors
    /// If resampling or encoding fails.
    pub fn encode(&mut self, sound: Sound) -> Result<(), Error> {
        let Sound { mut frame, captured } = sound;
        if frame.channel_layout().is_empty() {
            frame.set_channel_layout(ChannelLayout::default(i32::from(frame.channels())));
        }
        let resampler = match &mut self.resampler {
            Some(resampler) if resampler.fits(&frame, captured) => resampler,
            _ => self.resampler.insert(Resampler::new(&frame, self.format, self.inner.frame_size())?),
        };
        resampler.expected = captured + frame.samples() as i64 * 1_000_000 / i64::from(frame.rate().max(1));
        frame.set_pts(Some(captured));
        resampler.graph.push(&frame)?;
        self.drain()
    }

    /// Drains the resampler and the encoder.
    ///
    /// # Errors
    /// As [`AudioEncoding::encode`].
    pub fn finish(&mut self) -> Result<(), Error> {
        if let Some(resampler) = &mut self.resampler {
            resampler.graph.finish()?;
            self.drain()?;
            self.inner.send_eof()?;
            self.receive()?;
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), Error> {
        while let Some(frame) = self.resampler.as_mut().map(|r| r.graph.sound()).transpose()?.flatten() {
            // A new resampler may start slightly before the old one ended, but the encoder requires rising timestamps.
            let Some(pts) = frame.pts().filter(|pts| *pts >= self.next_pts) else { continue };
            self.next_pts = pts + frame.samples() as i64;
            self.inner.send_frame(&frame)?;
            self.receive()?;
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<(), Error> {
        loop {
            match self.inner.receive_packet(&mut self.packet) {
                Ok(()) => {}
                Err(ffmpeg_next::Error::Eof | ffmpeg_next::Error::Other { errno: ffmpeg_next::error::EAGAIN }) => {
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
            let unit = self.bitstream.unit(self.packet.data().unwrap_or_default(), true)?;
            self.announce();
            let pts = to_millis(self.packet.pts().unwrap_or_default(), 1, RATE as i32);
            self.broadcast.push(TrackId::AUDIO, pts, pts, true, unit.payload);
        }
    }
}

/// Converts samples to the encoder's rate, layout and frame size, and to the media clock: the drift of a microphone's crystal is
/// compensated by stretching up to 0.1%, a short gap by silence.
struct Resampler {
    source: (Sample, u32, u64),
    graph: FilterGraph,
    expected: i64,
}

impl Resampler {
    fn new(frame: &frame::Audio, format: Sample, frame_size: u32) -> Result<Self, Error> {
        let source = identity(frame);
        let (sample, rate, layout) = source;
        let arguments =
            format!("time_base=1/1000000:sample_rate={rate}:sample_fmt={}:channel_layout=0x{layout:x}", sample.name());
        let chain = format!(
            "aresample={RATE}:async={}:min_comp=0.01:min_hard_comp=0.1,aformat=sample_fmts={}:sample_rates={RATE}:channel_layouts=stereo,asettb=1/{RATE}",
            RATE / 1000,
            format.name()
        );
        tracing::debug!(from = %arguments, %chain, "resampling");
        Ok(Self { source, graph: FilterGraph::audio(&arguments, &chain, frame_size)?, expected: i64::MIN })
    }

    /// Whether `frame` continues the last one: the same format, and no gap of [`MAX_GAP`] or more.
    fn fits(&self, frame: &frame::Audio, captured: i64) -> bool {
        self.source == identity(frame) && (captured - self.expected).abs() < MAX_GAP
    }
}

fn identity(frame: &frame::Audio) -> (Sample, u32, u64) {
    (frame.format(), frame.rate(), frame.channel_layout().bits())
}

/// Samples per second: supported by every player, and required by Opus.
pub(crate) const RATE: u32 = 48_000;

/// Microseconds. A longer interruption of the microphone remains a gap in the timestamps.
const MAX_GAP: i64 = 500_000;
