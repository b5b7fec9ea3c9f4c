//! Codecs: what a decoder must know before the first access unit, and the names that containers and players use for it.
//!
//! Configuration records are carried as the bytes that the publisher sent; what is parsed here is what servers and playlists
//! need (size, profile, rate), never the pictures.

use bytes::Bytes;

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

/// A codec with its decoder configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodecConfig {
    /// Which codec.
    pub codec: Codec,
    /// `AVCDecoderConfigurationRecord`, `HEVCDecoderConfigurationRecord`, `AV1CodecConfigurationRecord`, `VPCodecConfigurationRecord`,
    /// `AudioSpecificConfig`, Opus `ID header` (RFC 7845 §5.1), FLAC `fLaC` + STREAMINFO block; empty for MP3.
    pub record: Bytes,
    /// Picture or sound format.
    pub format: Format,
}

pub mod aac;
pub mod av1;
mod bits;
pub mod capture_time_sei;
pub mod flac;
pub mod h264;
pub mod hevc;
pub mod mp3;
pub mod nal;
pub mod opus;
pub mod vp9;

/// Why a configuration record, or a header within a stream, can not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It ends too soon.
    #[error("{what} is cut short")]
    Truncated {
        /// The structure.
        what: &'static str,
    },
    /// A value that the specification forbids, or that Nearcast does not carry.
    #[error("{what}: {value} is not supported")]
    Unsupported {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// A structure that must be there is not.
    #[error("{what} is missing")]
    Missing {
        /// The structure.
        what: &'static str,
    },
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

impl CodecConfig {
    /// Reads the picture or sound format out of a configuration record, and brings the record into the form that
    /// [`CodecConfig::record`] promises: a VP9 record without the header of its box, a FLAC one with `fLaC` before it.
    ///
    /// MP3 has no record: see [`CodecConfig::mp3`].
    pub fn from_record(codec: Codec, record: Bytes) -> Result<Self, Error> {
        if record.len() > MAX_RECORD {
            return Err(Error::Unsupported {
                what: "configuration record of this many bytes",
                value: record.len() as u64,
            });
        }
        let record = match codec {
            Codec::Vp9 => vp9::without_box_header(record),
            Codec::Flac => flac::record_from(&record)?,
            _ => record,
        };
        let format = match codec {
            Codec::H264 => h264::format(&record)?,
            Codec::Hevc => hevc::format(&record)?,
            Codec::Av1 => av1::format(&record)?,
            Codec::Vp9 => vp9::format(&record)?,
            Codec::Aac => aac::format(&record)?,
            Codec::Opus => opus::format(&record)?,
            Codec::Flac => flac::format(&record)?,
            Codec::Mp3 => return Err(Error::Missing { what: "MP3 frame header" }),
        };
        Ok(Self { codec, record, format })
    }

    /// The configuration of an MP3 stream, from any frame of it.
    pub fn mp3(frame: &[u8]) -> Result<Self, Error> {
        let header = mp3::FrameHeader::parse(frame)?;
        let format = Format::Audio { sample_rate: header.sample_rate, channels: header.channels };
        Ok(Self { codec: Codec::Mp3, record: Bytes::new(), format })
    }

    /// The `codecs` parameter of RFC 6381, as `EXT-X-STREAM-INF` and Media Source Extensions want it.
    pub fn rfc6381(&self) -> String {
        match (self.codec, self.format) {
            (Codec::H264, _) => h264::rfc6381(&self.record),
            (Codec::Hevc, _) => hevc::rfc6381(&self.record),
            (Codec::Av1, _) => av1::rfc6381(&self.record),
            (Codec::Vp9, _) => vp9::rfc6381(&self.record),
            (Codec::Aac, _) => aac::rfc6381(&self.record),
            // In lower case: what every browser knows, where some do not know the sample entry's own spelling.
            (Codec::Opus, _) => "opus".to_owned(),
            (Codec::Flac, _) => "fLaC".to_owned(),
            (Codec::Mp3, Format::Audio { sample_rate, .. }) => mp3::rfc6381(sample_rate),
            (Codec::Mp3, Format::Video { .. }) => mp3::rfc6381(0),
        }
    }

    /// Bytes of a NAL unit length in this track's payloads; `None` for a codec without NAL units.
    pub fn nal_length_size(&self) -> Result<Option<usize>, Error> {
        match self.codec {
            Codec::H264 => h264::length_size(&self.record).map(Some),
            Codec::Hevc => hevc::length_size(&self.record).map(Some),
            _ => Ok(None),
        }
    }

    /// The same configuration for payloads with 4-byte NAL unit lengths: the only ones that Nearcast carries.
    pub fn with_four_byte_lengths(mut self) -> Self {
        let at = match self.codec {
            Codec::H264 => 4,
            Codec::Hevc => 21,
            _ => return self,
        };
        if self.record.get(at).is_some_and(|byte| byte & 3 != 3) {
            let mut record = self.record.to_vec();
            record[at] |= 3;
            self.record = record.into();
        }
        self
    }
}

/// Whether decoding can start at an access unit: its own bits tell, not a container's flag. True of all sound.
pub fn is_random_access(codec: Codec, payload: &[u8]) -> bool {
    match codec {
        Codec::H264 => h264::is_random_access(payload),
        Codec::Hevc => hevc::is_random_access(payload),
        Codec::Av1 => av1::is_random_access(payload),
        Codec::Vp9 => vp9::is_key_frame(payload),
        Codec::Aac | Codec::Opus | Codec::Flac | Codec::Mp3 => true,
    }
}

/// The format that an access unit tells, for the codecs whose record may not: VP9 and AV1 key frames, and every MP3 frame.
pub fn format_in_band(codec: Codec, payload: &[u8]) -> Option<Format> {
    match codec {
        Codec::Vp9 => vp9::KeyFrame::parse(payload).map(|key| Format::Video { width: key.width, height: key.height }),
        Codec::Av1 => {
            av1::SequenceHeader::find(payload).map(|seq| Format::Video { width: seq.width, height: seq.height })
        }
        Codec::Mp3 => CodecConfig::mp3(payload).ok().map(|config| config.format),
        Codec::H264 | Codec::Hevc | Codec::Aac | Codec::Opus | Codec::Flac => None,
    }
}

/// Bounds what a publisher can make every subscriber hold; real records are some hundred bytes.
pub const MAX_RECORD: usize = 64 << 10;

#[cfg(test)]
mod tests;
