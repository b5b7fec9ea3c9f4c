//! Encodes video and audio to access units.

use std::convert::Infallible;
use std::fmt;
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

/// The video encoder, as `--encoder` names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum EncoderChoice {
    /// The first hardware encoder that works, or else software. A file whose codec can be streamed is passed through.
    #[default]
    Auto,
    /// A file is passed through without re-encoding; an error if that is impossible.
    Copy,
    /// The FFmpeg encoder of this name.
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

/// The audio codec, as `--audio-codec` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AudioCodec {
    /// AAC-LC, which every player supports.
    Aac,
    /// Opus, with less delay than AAC.
    Opus,
}

impl fmt::Display for AudioCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aac => "AAC",
            Self::Opus => "Opus",
        })
    }
}

/// How to encode video.
#[derive(Clone, Debug, Default)]
pub struct VideoSettings {
    /// Which encoder to open.
    pub encoder: EncoderChoice,
    /// Width and height in pixels, both even; `None`: the source's.
    pub size: Option<(u32, u32)>,
    /// Maximum frames per second; `None`: the source's.
    pub fps: Option<f64>,
    /// Bits per second; `None`: by size and frame rate, see [`VideoSettings::bitrate_for`].
    pub bitrate: Option<u64>,
    /// Keyframe (IDR) interval; `None`: [`DEFAULT_GOP`].
    pub gop: Option<Duration>,
    /// Maximum number of consecutive B-frames, 0 to 16.
    pub bframes: u32,
    /// Refreshes columns of intra blocks instead of sending IDRs.
    pub intra_refresh: bool,
    /// The encoder's own name of a speed preset; `None`: one for live use.
    pub preset: Option<String>,
    /// Turns rate control by the uplink off.
    pub fixed_bitrate: bool,
}

impl VideoSettings {
    /// Whether a setting can only be met by re-encoding video that is encoded already.
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

    /// The keyframe (IDR) interval.
    pub fn gop(&self) -> Duration {
        self.gop.unwrap_or(DEFAULT_GOP)
    }

    /// Bits per second for frames of this size in pixels and rate: as set, or else 0.1 bits per pixel, from 100 kbit/s to 25 Mbit/s.
    pub fn bitrate_for(&self, width: u32, height: u32, fps: f64) -> u64 {
        let usual = f64::from(width) * f64::from(height) * fps * BITS_PER_PIXEL;
        self.bitrate.unwrap_or((usual as u64).clamp(MIN_BITRATE, MAX_BITRATE))
    }
}

/// How to encode audio.
#[derive(Clone, Copy, Debug)]
pub struct AudioSettings {
    /// Which codec; `None`: AAC.
    pub codec: Option<AudioCodec>,
    /// Bits per second; `None`: [`DEFAULT_AUDIO_BITRATE`].
    pub bitrate: Option<u64>,
}

impl AudioSettings {
    /// Whether a setting can only be met by re-encoding audio that is encoded as `has`.
    pub fn requires_reencode(&self, has: Codec) -> bool {
        let wanted = self.codec.map(|codec| match codec {
            AudioCodec::Aac => Codec::Aac,
            AudioCodec::Opus => Codec::Opus,
        });
        self.bitrate.is_some() || wanted.is_some_and(|wanted| wanted != has)
    }

    /// The codec to encode with.
    pub fn codec(&self) -> AudioCodec {
        self.codec.unwrap_or(AudioCodec::Aac)
    }

    /// The bitrate to encode with, in bits per second.
    pub fn bitrate(&self) -> u64 {
        self.bitrate.unwrap_or(DEFAULT_AUDIO_BITRATE)
    }
}

/// The default keyframe interval. A viewer joins at an IDR, so it waits for two seconds at worst; the usual segment length.
pub const DEFAULT_GOP: Duration = Duration::from_secs(2);
/// The default audio bitrate in bits per second: stereo AAC is transparent to most listeners.
pub const DEFAULT_AUDIO_BITRATE: u64 = 128_000;

/// Bits per pixel of H.264 with live presets: 2.8 Mbit/s for 720p30, 6.2 Mbit/s for 1080p30, as services recommend.
const BITS_PER_PIXEL: f64 = 0.1;
/// Bits per second: with less, video of any size is unwatchable.
const MIN_BITRATE: u64 = 100_000;
/// Bits per second: 2160p60 would need 50 Mbit/s, but few uplinks carry more than this.
const MAX_BITRATE: u64 = 25_000_000;

#[cfg(test)]
mod tests;
