//! A codec with its decoder configuration, and the operations on any codec: random access, the format within the stream, the RFC 6381 name.

use bytes::Bytes;

use super::av1::SequenceHeader;
use super::error::Error;
use super::format::{Codec, Format};
use super::{aac, av1, flac, h264, hevc, mp3, opus, vp9};

/// A codec with its decoder configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodecConfig {
    /// The codec that `record` configures.
    pub codec: Codec,
    /// `AVCDecoderConfigurationRecord`, `HEVCDecoderConfigurationRecord`, `AV1CodecConfigurationRecord`, `VPCodecConfigurationRecord`,
    /// `AudioSpecificConfig`, Opus `ID header` (RFC 7845 §5.1), FLAC `fLaC` + STREAMINFO block; empty for MP3.
    pub record: Bytes,
    /// The format that the record states.
    pub format: Format,
}

impl CodecConfig {
    /// Parses the format out of a configuration record of at most [`MAX_RECORD`] bytes, and normalises the record to the form of
    /// [`CodecConfig::record`]: a VP9 record without its box header, a FLAC record with `fLaC` before it.
    ///
    /// MP3 has no record: see [`CodecConfig::mp3`].
    ///
    /// # Errors
    /// If the record is too long, cut short or malformed, or describes what is not supported.
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
    ///
    /// # Errors
    /// If the frame header is cut short or malformed.
    pub fn mp3(frame: &[u8]) -> Result<Self, Error> {
        let header = mp3::FrameHeader::parse(frame)?;
        let format = Format::Audio { sample_rate: header.sample_rate, channels: header.channels };
        Ok(Self { codec: Codec::Mp3, record: Bytes::new(), format })
    }

    /// The configuration that a random access unit carries in band: H.264 and HEVC parameter sets, an AV1 sequence header. `None` for other codecs, and if
    /// the unit carries none, or not all of it. For AAC see [`aac::strip_adts`].
    pub fn in_band(codec: Codec, random_access_unit: &[u8]) -> Option<Self> {
        let record = match codec {
            Codec::H264 => h264::avcc_from_access_unit(random_access_unit),
            Codec::Hevc => hevc::hvcc_from_access_unit(random_access_unit),
            Codec::Av1 => av1::av1c_from_obus(random_access_unit),
            Codec::Vp9 | Codec::Aac | Codec::Opus | Codec::Flac | Codec::Mp3 => return None,
        };
        Self::from_record(codec, record.ok()?).ok()
    }

    /// Whether the record has every parameter set of `in_band`, or its sequence header.
    pub fn contains(&self, in_band: &Self) -> bool {
        let (own, theirs) = (&self.record, &in_band.record);
        let sets = match self.codec {
            Codec::H264 => h264::parameter_sets(own).ok().zip(h264::parameter_sets(theirs).ok()),
            Codec::Hevc => hevc::parameter_sets(own).ok().zip(hevc::parameter_sets(theirs).ok()),
            // `av1C` has four bytes before its OBUs.
            _ => return own.get(4..).and_then(SequenceHeader::find) == theirs.get(4..).and_then(SequenceHeader::find),
        };
        sets.is_some_and(|(own, theirs)| theirs.iter().all(|set| own.contains(set)))
    }

    /// The `codecs` parameter of RFC 6381, for `EXT-X-STREAM-INF` and Media Source Extensions.
    pub fn rfc6381(&self) -> String {
        match (self.codec, self.format) {
            (Codec::H264, _) => h264::rfc6381(&self.record),
            (Codec::Hevc, _) => hevc::rfc6381(&self.record),
            (Codec::Av1, _) => av1::rfc6381(&self.record),
            (Codec::Vp9, _) => vp9::rfc6381(&self.record),
            (Codec::Aac, _) => aac::rfc6381(&self.record),
            // Lower case: every browser knows it, and some do not know the spelling of the sample entry.
            (Codec::Opus, _) => "opus".to_owned(),
            (Codec::Flac, _) => "fLaC".to_owned(),
            (Codec::Mp3, Format::Audio { sample_rate, .. }) => mp3::rfc6381(sample_rate),
            (Codec::Mp3, Format::Video { .. }) => mp3::rfc6381(0),
        }
    }

    /// Samples per channel that an audio payload decodes to, at the rate of [`CodecConfig::format`]. `None` for video, and for a payload or a
    /// record that does not state it.
    pub fn samples_in(&self, payload: &[u8]) -> Option<u32> {
        match self.codec {
            Codec::Aac => Some(aac::AudioSpecificConfig::parse(&self.record).ok()?.samples_per_frame()),
            Codec::Opus => opus::packet_samples(payload),
            Codec::Mp3 => Some(mp3::FrameHeader::parse(payload).ok()?.samples),
            Codec::Flac => flac::frame_samples(payload),
            Codec::H264 | Codec::Hevc | Codec::Av1 | Codec::Vp9 => None,
        }
    }

    /// Size of the NAL unit length fields of this record, in bytes (1, 2 or 4); `None` for a codec without NAL units.
    ///
    /// # Errors
    /// If the record is cut short, or states a length of 3 bytes.
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

/// Whether decoding can start at an access unit, by its own bits and not by a container's flag. True for all audio.
pub fn is_random_access(codec: Codec, payload: &[u8]) -> bool {
    match codec {
        Codec::H264 => h264::is_random_access(payload),
        Codec::Hevc => hevc::is_random_access(payload),
        Codec::Av1 => av1::is_random_access(payload),
        Codec::Vp9 => vp9::is_key_frame(payload),
        Codec::Aac | Codec::Opus | Codec::Flac | Codec::Mp3 => true,
    }
}

/// The format stated within an access unit, for the codecs whose record may not state it: VP9 and AV1 key frames, and every MP3 frame.
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

/// Upper bound of a configuration record in bytes, which every subscriber has to hold. Real records have some hundred bytes.
pub const MAX_RECORD: usize = 64 << 10;
