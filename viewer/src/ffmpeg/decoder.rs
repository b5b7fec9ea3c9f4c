//! Decoders: turn access units into pictures and audio samples.

use ffmpeg::codec::{context::Context, decoder, packet::Packet, threading};
use ffmpeg_next as ffmpeg;
use media::codec::{Codec, CodecConfig};
use media::{AccessUnit, Timestamp};

use super::colour::Colour;
use super::convert::{Resampler, ToPlanar};
use super::{Error, id, parameters};

/// A decoded picture: planar, 8 bits, chroma halved both ways (I420).
pub struct Picture {
    /// When it is to be presented.
    pub pts: Timestamp,
    /// How its samples become RGB.
    pub colour: Colour,
    frame: ffmpeg::frame::Video,
}

impl Picture {
    /// Width in luma samples.
    pub fn width(&self) -> u32 {
        self.frame.width()
    }

    /// Height in luma lines.
    pub fn height(&self) -> u32 {
        self.frame.height()
    }

    /// Sample aspect ratio: width over height of one sample.
    pub fn sample_aspect(&self) -> f64 {
        let ratio = self.frame.aspect_ratio();
        if ratio.numerator() > 0 && ratio.denominator() > 0 { f64::from(ratio) } else { 1.0 }
    }

    /// The samples of Y (0), U (1) or V (2), and the bytes from one line to the next.
    pub fn plane(&self, index: usize) -> (&[u8], usize) {
        (self.frame.data(index), self.frame.stride(index))
    }
}

/// Decodes one video track with one configuration.
pub struct VideoDecoder {
    decoder: decoder::Video,
    convert: ToPlanar,
}

impl VideoDecoder {
    /// Opens a decoder that delays no picture for the sake of throughput.
    ///
    /// # Errors
    /// If FFmpeg has no decoder, or rejects the configuration.
    pub fn new(config: &CodecConfig) -> Result<Self, Error> {
        let decoder = open(config)?.video().map_err(Error::call("open the video decoder"))?;
        Ok(Self { decoder, convert: ToPlanar::default() })
    }

    /// Decodes a unit; pictures that are ready go to `out`, in presentation order.
    ///
    /// # Errors
    /// If the unit cannot be decoded. Decoding can continue with the next unit.
    pub fn decode(&mut self, unit: &AccessUnit, out: &mut Vec<Picture>) -> Result<(), Error> {
        let sent = self.decoder.send_packet(&packet(unit)).map_err(Error::call("decode a picture"));
        self.receive(out)?;
        sent
    }

    /// Returns the pictures that are held for reordering. Nothing can be decoded afterwards.
    ///
    /// # Errors
    /// If a held picture cannot be decoded.
    pub fn drain(&mut self, out: &mut Vec<Picture>) -> Result<(), Error> {
        self.decoder.send_eof().map_err(Error::call("drain the video decoder"))?;
        self.receive(out)
    }

    /// Discards all state: the next unit must be a random access point.
    pub fn flush(&mut self) {
        self.decoder.flush();
    }

    fn receive(&mut self, out: &mut Vec<Picture>) -> Result<(), Error> {
        loop {
            let mut frame = ffmpeg::frame::Video::empty();
            match self.decoder.receive_frame(&mut frame) {
                Ok(()) => {}
                Err(error) if is_empty(error) => return Ok(()),
                Err(source) => return Err(Error::Call { doing: "decode a picture", source }),
            }
            let pts = frame.timestamp().or(frame.pts());
            let (colour, frame) = self.convert.run(frame)?;
            if let Some(pts) = pts {
                out.push(Picture { pts: Timestamp::from_millis(pts), colour, frame });
            }
        }
    }
}

/// Decodes one audio track with one configuration, to interleaved stereo at one rate.
pub struct AudioDecoder {
    decoder: decoder::Audio,
    resampler: Resampler,
}

impl AudioDecoder {
    /// Opens a decoder whose output is resampled to `rate` Hz.
    ///
    /// # Errors
    /// If FFmpeg has no decoder, or rejects the configuration.
    pub fn new(config: &CodecConfig, rate: u32) -> Result<Self, Error> {
        let decoder = open(config)?.audio().map_err(Error::call("open the audio decoder"))?;
        Ok(Self { decoder, resampler: Resampler::new(rate) })
    }

    /// Decodes a unit; what is ready goes to `out`, as the PTS of the first sample and interleaved stereo samples.
    ///
    /// # Errors
    /// If the unit cannot be decoded. Decoding can continue with the next unit.
    pub fn decode(&mut self, unit: &AccessUnit, out: &mut Vec<(Timestamp, Vec<f32>)>) -> Result<(), Error> {
        let sent = self.decoder.send_packet(&packet(unit)).map_err(Error::call("decode sound"));
        loop {
            let mut frame = ffmpeg::frame::Audio::empty();
            match self.decoder.receive_frame(&mut frame) {
                Ok(()) => {}
                Err(error) if is_empty(error) => break,
                Err(source) => return Err(Error::Call { doing: "decode sound", source }),
            }
            let pts = frame.timestamp().or(frame.pts()).unwrap_or(unit.pts.as_millis());
            let samples = self.resampler.run(frame)?;
            out.push((Timestamp::from_millis(pts), samples));
        }
        sent
    }

    /// Discards all state.
    pub fn flush(&mut self) {
        self.decoder.flush();
    }
}

fn open(config: &CodecConfig) -> Result<decoder::Opened, Error> {
    let no_decoder = || Error::NoDecoder { codec: config.codec.name() };
    // FFmpeg's own AV1 decoder needs hardware; dav1d needs none.
    let codec = match config.codec {
        Codec::Av1 => ffmpeg::decoder::find_by_name("libdav1d").or_else(|| ffmpeg::decoder::find_by_name("libaom-av1")),
        _ => None,
    };
    let codec = codec.or_else(|| ffmpeg::decoder::find(id(config.codec))).ok_or_else(no_decoder)?;
    let mut context = Context::new_with_codec(codec);
    context.set_parameters(parameters(config)).map_err(Error::call("configure the decoder"))?;
    // Frame threads would delay as many pictures as there are threads.
    context.set_threading(threading::Config { kind: threading::Type::Slice, count: threads(), safe: true });
    if config.codec == Codec::Av1 {
        // dav1d would otherwise delay one picture a thread. For H.264 the flag would break reordering.
        context.set_flags(ffmpeg::codec::Flags::LOW_DELAY);
    }
    let mut decoder = context.decoder();
    decoder.set_packet_time_base(super::MILLISECONDS);
    decoder.open_as(codec).map_err(Error::call("open the decoder"))
}

fn packet(unit: &AccessUnit) -> Packet {
    let mut packet = Packet::copy(&unit.payload);
    packet.set_dts(Some(unit.dts.as_millis()));
    packet.set_pts(Some(unit.pts.as_millis()));
    packet.set_time_base(super::MILLISECONDS);
    if unit.random_access {
        packet.set_flags(ffmpeg::packet::Flags::KEY);
    }
    packet
}

fn is_empty(error: ffmpeg::Error) -> bool {
    matches!(error, ffmpeg::Error::Eof | ffmpeg::Error::Other { errno: ffmpeg::error::EAGAIN })
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS)
}

/// More slices than this are rare, and threads cost memory.
const MAX_THREADS: usize = 8;
