//! Everything that the viewer uses FFmpeg for: decoding, muxing, and reading MPEG-TS. Its types do not leave this module.

mod colour;
mod convert;
mod decoder;
mod demuxer;
mod log;
mod muxer;

use std::ptr;

use ffmpeg_next as ffmpeg;
use media::codec::{Codec, CodecConfig, Format};

pub use self::colour::{Colour, Matrix};
pub use self::decoder::{AudioDecoder, Picture, VideoDecoder};
pub use self::demuxer::{TsReader, Unit as TsUnit};
pub(crate) use self::log::finish as finish_log;
pub use self::muxer::{Container, Muxer};

/// Errors of FFmpeg.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This FFmpeg was built without the decoder.
    #[error("FFmpeg has no decoder for {codec}")]
    NoDecoder {
        /// The codec's name.
        codec: &'static str,
    },
    /// The container cannot carry the codec.
    #[error("{container} cannot hold {codec}")]
    NotInContainer {
        /// The container's name.
        container: &'static str,
        /// The codec's name.
        codec: &'static str,
    },
    /// An FFmpeg call failed.
    #[error("{doing}: {source}")]
    Call {
        /// What the call was for.
        doing: &'static str,
        /// The error code that FFmpeg returned.
        source: ffmpeg::Error,
    },
}

impl Error {
    fn call(doing: &'static str) -> impl FnOnce(ffmpeg::Error) -> Self {
        move |source| Self::Call { doing, source }
    }
}

/// Initialises FFmpeg; to be called once, before anything else. Its log lines become events: fatal ones errors, the others
/// for debugging only, since errors are returned.
///
/// # Errors
/// If FFmpeg cannot be initialised.
pub fn init() -> Result<(), Error> {
    ffmpeg::init().map_err(Error::call("initialise FFmpeg"))?;
    log::route();
    Ok(())
}

fn id(codec: Codec) -> ffmpeg::codec::Id {
    use ffmpeg::codec::Id;
    match codec {
        Codec::H264 => Id::H264,
        Codec::Hevc => Id::HEVC,
        Codec::Av1 => Id::AV1,
        Codec::Vp9 => Id::VP9,
        Codec::Aac => Id::AAC,
        Codec::Opus => Id::OPUS,
        Codec::Flac => Id::FLAC,
        Codec::Mp3 => Id::MP3,
    }
}

/// The configuration as FFmpeg's parameters, with the decoder configuration record as extradata.
fn parameters(config: &CodecConfig) -> ffmpeg::codec::Parameters {
    let mut parameters = ffmpeg::codec::Parameters::new();
    parameters.set_id(id(config.codec));
    let extradata = match config.codec {
        // FFmpeg expects only the STREAMINFO, without the marker and the block's header (RFC 9639 §8).
        Codec::Flac if config.record.starts_with(b"fLaC") => config.record.get(8..42).unwrap_or(&config.record),
        // It makes this record itself, and no decoder reads it.
        Codec::Vp9 => &[],
        _ => &config.record,
    };
    match config.format {
        Format::Video { .. } => parameters.set_medium(ffmpeg::media::Type::Video),
        Format::Audio { .. } => parameters.set_medium(ffmpeg::media::Type::Audio),
    }
    // SAFETY: the pointer is that of live parameters, which we own. The extradata is allocated as FFmpeg demands, with zeroed padding,
    // and freed by FFmpeg with the parameters.
    unsafe {
        let raw = &mut *parameters.as_mut_ptr();
        match config.format {
            Format::Video { width, height } => {
                raw.width = i32::try_from(width).unwrap_or(0);
                raw.height = i32::try_from(height).unwrap_or(0);
            }
            Format::Audio { sample_rate, channels } => {
                raw.sample_rate = i32::try_from(sample_rate).unwrap_or(0);
                ffmpeg::ffi::av_channel_layout_default(&mut raw.ch_layout, i32::from(channels));
            }
        }
        if !extradata.is_empty() {
            let size = extradata.len() + ffmpeg::ffi::AV_INPUT_BUFFER_PADDING_SIZE as usize;
            let buffer = ffmpeg::ffi::av_mallocz(size).cast::<u8>();
            if !buffer.is_null() {
                ptr::copy_nonoverlapping(extradata.as_ptr(), buffer, extradata.len());
                raw.extradata = buffer;
                raw.extradata_size = i32::try_from(extradata.len()).unwrap_or(0);
            }
        }
    }
    parameters
}

/// Media time is in whole milliseconds everywhere.
const MILLISECONDS: ffmpeg::Rational = ffmpeg::Rational(1, 1000);
