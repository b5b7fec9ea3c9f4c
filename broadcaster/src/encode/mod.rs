//! From pictures and sound to access units. The only room beside `capture` that knows FFmpeg.

use std::convert::Infallible;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use media::codec::Codec;

pub mod audio;
pub mod bitstream;
mod burn_in;
pub mod encoder;
mod encoder_probe;
pub(crate) mod filter_graph;
mod frame;
mod frame_queue;
mod keyframe_interval;
mod vaapi;
pub mod video;

pub use frame::{Picture, Sound};
pub use frame_queue::DropOldestQueue;

/// `--encoder`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EncoderChoice {
    /// Hardware that really opens, else software. A file's packets pass through untouched where its codecs allow.
    Auto,
    /// A file's packets pass through untouched, or it is an error.
    Copy,
    /// FFmpeg's encoder of this name.
    Named(String),
}

impl FromStr for EncoderChoice {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "auto" => Self::Auto,
            "copy" => Self::Copy,
            name => Self::Named(name.to_owned()),
        })
    }
}

/// `--audio-codec`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AudioCodec {
    /// AAC-LC.
    Aac,
    /// Opus.
    Opus,
}

/// How to encode pictures.
#[derive(Clone, Debug)]
pub struct VideoSettings {
    /// With what.
    pub encoder: EncoderChoice,
    /// Width and height in pixels, both even; none: the source's.
    pub size: Option<(u32, u32)>,
    /// Pictures per second at most; none: the source's.
    pub fps: Option<f64>,
    /// Bits per second; none: by size and rate.
    pub bitrate: Option<u64>,
    /// From one IDR to the next; none: [`DEFAULT_GOP`].
    pub gop: Option<Duration>,
    /// B-frames in a row.
    pub bframes: u32,
    /// Columns of intra blocks instead of IDRs.
    pub intra_refresh: bool,
    /// The encoder's word for its speed.
    pub preset: Option<String>,
    /// Whether the rate stays as it is when the uplink takes less.
    pub fixed_bitrate: bool,
}

impl VideoSettings {
    /// Whether anything asks for a re-encode of what is encoded already.
    pub fn requires_reencode(&self) -> bool {
        matches!(self.encoder, EncoderChoice::Named(_))
            || self.size.is_some()
            || self.fps.is_some()
            || self.bitrate.is_some()
            || self.gop.is_some()
            || self.bframes > 0
            || self.intra_refresh
            || self.preset.is_some()
    }

    /// From one IDR to the next.
    pub fn gop(&self) -> Duration {
        self.gop.unwrap_or(DEFAULT_GOP)
    }

    /// Bits per second for pictures of this size and rate.
    pub fn bitrate_for(&self, width: u32, height: u32, fps: f64) -> u64 {
        let usual = f64::from(width) * f64::from(height) * fps * BITS_PER_PIXEL;
        self.bitrate.unwrap_or((usual as u64).clamp(MIN_BITRATE, MAX_BITRATE))
    }
}

/// How to encode sound.
#[derive(Clone, Copy, Debug)]
pub struct AudioSettings {
    /// Which codec; none: AAC.
    pub codec: Option<AudioCodec>,
    /// Bits per second; none: [`DEFAULT_AUDIO_BITRATE`].
    pub bitrate: Option<u64>,
}

impl AudioSettings {
    /// Whether anything asks for a re-encode of what is encoded as `has` already.
    pub fn requires_reencode(&self, has: Codec) -> bool {
        let wanted = self.codec.map(|codec| match codec {
            AudioCodec::Aac => Codec::Aac,
            AudioCodec::Opus => Codec::Opus,
        });
        self.bitrate.is_some() || wanted.is_some_and(|wanted| wanted != has)
    }

    /// Which codec to encode with.
    pub fn codec(&self) -> AudioCodec {
        self.codec.unwrap_or(AudioCodec::Aac)
    }

    /// Bits per second to encode with.
    pub fn bitrate(&self) -> u64 {
        self.bitrate.unwrap_or(DEFAULT_AUDIO_BITRATE)
    }
}

/// A viewer joins at an IDR: two seconds of waiting at worst, and segments of the customary length.
pub const DEFAULT_GOP: Duration = Duration::from_secs(2);
/// Bits per second: transparent to most ears in stereo AAC.
pub const DEFAULT_AUDIO_BITRATE: u64 = 128_000;

/// H.264 at live presets: 2.8 Mbit/s for 720p30, 6.2 Mbit/s for 1080p30, as services recommend.
const BITS_PER_PIXEL: f64 = 0.1;
/// Below this a picture of any size is unwatchable.
const MIN_BITRATE: u64 = 100_000;
/// 2160p60 would ask for 50 Mbit/s; few uplinks carry more than this.
const MAX_BITRATE: u64 = 25_000_000;

#[cfg(test)]
mod tests;
