//! The codecs that Nearcast carries, and the format of pictures and sound.

/// A codec that Nearcast carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    /// ITU-T H.264 / ISO/IEC 14496-10.
    H264,
    /// ITU-T H.265 / ISO/IEC 23008-2.
    Hevc,
    /// AOMedia Video 1.
    Av1,
    /// VP9.
    Vp9,
    /// ISO/IEC 14496-3.
    Aac,
    /// RFC 6716.
    Opus,
    /// RFC 9639.
    Flac,
    /// ISO/IEC 11172-3 layer III.
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

    /// The codec with this four-character code.
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

    /// The name that people use: `H.264`.
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

    /// Whether it codes pictures.
    pub const fn is_video(self) -> bool {
        matches!(self, Self::H264 | Self::Hevc | Self::Av1 | Self::Vp9)
    }
}

/// The picture or sound format, as the decoder configuration says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Coded picture size in pixels after cropping. Zero where the record does not tell (VP9).
    Video {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
    },
    /// Sound.
    Audio {
        /// Samples per second per channel.
        sample_rate: u32,
        /// Channels.
        channels: u16,
    },
}
