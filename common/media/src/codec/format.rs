//! The codecs that Nearcast carries, and video and audio formats.

use std::fmt;

/// A codec that Nearcast carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    /// H.264, AVC: ITU-T H.264, ISO/IEC 14496-10.
    H264,
    /// H.265, HEVC: ITU-T H.265, ISO/IEC 23008-2.
    Hevc,
    /// AV1: AV1 Bitstream & Decoding Process Specification.
    Av1,
    /// VP9: VP9 Bitstream & Decoding Process Specification.
    Vp9,
    /// AAC-LC, HE-AAC, HE-AACv2: ISO/IEC 14496-3.
    Aac,
    /// Opus: RFC 6716.
    Opus,
    /// FLAC: RFC 9639.
    Flac,
    /// MP3: ISO/IEC 11172-3 and ISO/IEC 13818-3, layer III.
    Mp3,
}

impl Codec {
    /// The Enhanced RTMP and ISO BMFF four-character code: `avc1`, `hvc1`, `av01`, `vp09`, `mp4a`, `Opus`, `fLaC`, `.mp3`.
    pub const fn fourcc(self) -> [u8; 4] {
        match self {
            Self::H264 => *b"avc1",
            Self::Hevc => *b"hvc1",
            Self::Av1 => *b"av01",
            Self::Vp9 => *b"vp09",
            Self::Aac => *b"mp4a",
            Self::Opus => *b"Opus",
            Self::Flac => *b"fLaC",
            Self::Mp3 => *b".mp3",
        }
    }

    /// The codec with this four-character code; `None` for one that Nearcast does not carry.
    pub const fn from_fourcc(fourcc: [u8; 4]) -> Option<Self> {
        Some(match &fourcc {
            b"avc1" => Self::H264,
            b"hvc1" => Self::Hevc,
            b"av01" => Self::Av1,
            b"vp09" => Self::Vp9,
            b"mp4a" => Self::Aac,
            b"Opus" => Self::Opus,
            b"fLaC" => Self::Flac,
            b".mp3" => Self::Mp3,
            _ => return None,
        })
    }

    /// Its usual name, for people: `H.264`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::H264 => "H.264",
            Self::Hevc => "HEVC",
            Self::Av1 => "AV1",
            Self::Vp9 => "VP9",
            Self::Aac => "AAC",
            Self::Opus => "Opus",
            Self::Flac => "FLAC",
            Self::Mp3 => "MP3",
        }
    }

    /// Whether it is a video codec.
    pub const fn is_video(self) -> bool {
        matches!(self, Self::H264 | Self::Hevc | Self::Av1 | Self::Vp9)
    }
}

/// In words, for people.
impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Video { width, height } => write!(f, "{width}x{height}"),
            Self::Audio { sample_rate, channels } => write!(f, "{sample_rate} Hz, {channels} channels"),
        }
    }
}

/// The format of video or audio, as the decoder configuration states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Picture size after cropping. Zero by zero if the record does not state it (VP9).
    Video {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// Sampling rate and channels.
    Audio {
        /// Samples per second per channel.
        sample_rate: u32,
        /// Number of channels; 0 if the record does not state it.
        channels: u16,
    },
}
