//! Converts FFmpeg's packets to access units: NAL lengths for start codes, configuration records for extradata, raw frames for ADTS.
//!
//! Encoders and demuxers differ in framing (Annex B or length-prefixed, ADTS or raw) and in where they put parameter sets. The
//! result always has the form that [`media::AccessUnit`] documents. Codecs are parsed by `media::codec`.

use bytes::{BufMut, Bytes, BytesMut};
use ffmpeg_next::codec::Id;
use media::codec::{self, Codec, CodecConfig, Format, aac, av1, flac, h264, hevc, mp3, vp9};

/// The framing and decoder configuration of one track's packets.
#[derive(Debug)]
pub struct Bitstream {
    codec: Codec,
    framing: Framing,
    /// The track's format as FFmpeg reports it.
    format: Format,
    config: Option<CodecConfig>,
}

/// The framing of a track's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// Already in the form of an access unit.
    AsIs,
    /// NAL units with start codes.
    AnnexB,
    /// NAL units with length prefixes of this many bytes, fewer than 4.
    ShortLengths(usize),
    /// AAC frames, with or without ADTS headers.
    Adts,
    /// OBUs, with or without a leading temporal delimiter.
    Obus,
}

/// A converted packet.
#[derive(Debug)]
pub struct Unit {
    /// The access unit's payload; empty if the packet contained only configuration.
    pub payload: Bytes,
    /// Whether this packet changed [`Bitstream::config`].
    pub reconfigured: bool,
}

/// Why a packet cannot be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration cannot be parsed.
    #[error(transparent)]
    Codec(#[from] codec::Error),
    /// A NAL unit's length prefix exceeds its packet.
    #[error("a NAL unit of {length} bytes exceeds its packet, which has {left} bytes left")]
    Length {
        /// Bytes by the prefix.
        length: usize,
        /// Bytes left in the packet.
        left: usize,
    },
}

impl Bitstream {
    /// The codec of the packets.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Determines the framing from a codec context's `extradata`, which may be empty. `format` supplies what the configuration of VP9
    /// and MP3 does not contain.
    ///
    /// # Errors
    /// If the extradata cannot be parsed.
    pub fn new(codec: Codec, extradata: &[u8], format: Format) -> Result<Self, Error> {
        let (framing, record) = match (codec, extradata) {
            (Codec::H264, []) | (Codec::Hevc, []) => (Framing::AnnexB, None),
            (Codec::H264, [1, ..]) => {
                let (lengths, record) = four_byte_lengths(extradata, 4);
                (lengths, Some(record))
            }
            (Codec::H264, annexb) => (Framing::AnnexB, Some(h264::avcc_from_annexb_extradata(annexb)?)),
            (Codec::Hevc, [0, 0, 0 | 1, ..]) => (Framing::AnnexB, Some(hevc::hvcc_from_annexb_extradata(extradata)?)),
            (Codec::Hevc, _) => {
                let (lengths, record) = four_byte_lengths(extradata, 21);
                (lengths, Some(record))
            }
            (Codec::Av1, []) => (Framing::Obus, None),
            (Codec::Av1, [0x81, _, _, _, ..]) => (Framing::Obus, Some(Bytes::copy_from_slice(extradata))),
            (Codec::Av1, obus) => (Framing::Obus, Some(av1::av1c_from_obus(obus)?)),
            (Codec::Aac, []) => (Framing::Adts, None),
            (Codec::Aac, asc) => (Framing::Adts, Some(Bytes::copy_from_slice(asc))),
            (Codec::Flac, header) => (Framing::AsIs, Some(flac::record_from(header)?)),
            (Codec::Vp9, []) => (Framing::AsIs, None),
            (Codec::Mp3, _) => (Framing::AsIs, Some(Bytes::new())),
            (Codec::Vp9 | Codec::Opus, header) => (Framing::AsIs, Some(Bytes::copy_from_slice(header))),
        };
        let mut this = Self { codec, framing, format, config: None };
        if let Some(record) = record {
            this.configure(record)?;
        }
        Ok(this)
    }

    /// The decoder configuration; `None` until a packet has supplied it.
    pub fn config(&self) -> Option<&CodecConfig> {
        self.config.as_ref()
    }

    /// Converts a packet. `key`: whether it may contain parameter sets.
    ///
    /// # Errors
    /// If its framing or its configuration cannot be parsed.
    pub fn unit(&mut self, data: &[u8], key: bool) -> Result<Unit, Error> {
        let mut reconfigured = false;
        let payload = match self.framing {
            Framing::AsIs => {
                if self.codec == Codec::Vp9 && key && self.config.is_none() {
                    self.configure(vp9::vpcc_from_key_frame(data)?)?;
                    reconfigured = true;
                }
                Bytes::copy_from_slice(data)
            }
            Framing::AnnexB => {
                if key {
                    reconfigured = self.reconfigure(data);
                }
                match self.codec {
                    Codec::Hevc => hevc::annexb_to_length_prefixed(data),
                    _ => h264::annexb_to_length_prefixed(data),
                }
            }
            Framing::ShortLengths(size) => widen_lengths(data, size)?,
            Framing::Adts => {
                let (config, frame) = aac::strip_adts(Bytes::copy_from_slice(data))?;
                if let (Some(config), None) = (config, &self.config) {
                    self.configure(config.build()?)?;
                    reconfigured = true;
                }
                frame
            }
            Framing::Obus => {
                let obus = without_temporal_delimiter(data);
                if key && self.config.is_none() {
                    self.configure(av1::av1c_from_obus(obus)?)?;
                    reconfigured = true;
                }
                Bytes::copy_from_slice(obus)
            }
        };
        if self.codec == Codec::Mp3 && !reconfigured && self.unknown_format() {
            let header = mp3::FrameHeader::parse(&payload)?;
            let format = Format::Audio { sample_rate: header.sample_rate, channels: header.channels };
            self.config = Some(CodecConfig { codec: Codec::Mp3, record: Bytes::new(), format });
            reconfigured = true;
        }
        Ok(Unit { payload, reconfigured })
    }

    /// Adopts a key packet's parameter sets as the configuration if they differ. Returns whether they did.
    fn reconfigure(&mut self, packet: &[u8]) -> bool {
        let record = match self.codec {
            Codec::Hevc => hevc::hvcc_from_annexb_extradata(packet),
            _ => h264::avcc_from_annexb_extradata(packet),
        };
        // Usually a key packet has no parameter sets: they are in the extradata.
        let Ok(record) = record else { return false };
        if self.config.as_ref().is_some_and(|config| config.record == record) {
            return false;
        }
        self.configure(record).is_ok()
    }

    fn configure(&mut self, record: Bytes) -> Result<(), Error> {
        let config = match self.codec {
            // Their records do not contain the format.
            Codec::Mp3 | Codec::Vp9 => CodecConfig { codec: self.codec, record, format: self.format },
            _ => CodecConfig::from_record(self.codec, record)?,
        };
        self.config = Some(config);
        Ok(())
    }

    fn unknown_format(&self) -> bool {
        matches!(self.config, Some(CodecConfig { format: Format::Audio { sample_rate: 0, .. }, .. }))
    }
}

/// The codec that FFmpeg calls `id`, if Nearcast carries it.
pub fn codec_of(id: Id) -> Option<Codec> {
    Some(match id {
        Id::H264 => Codec::H264,
        Id::HEVC => Codec::Hevc,
        Id::AV1 => Codec::Av1,
        Id::VP9 => Codec::Vp9,
        Id::AAC => Codec::Aac,
        Id::OPUS => Codec::Opus,
        Id::FLAC => Codec::Flac,
        Id::MP3 => Codec::Mp3,
        _ => return None,
    })
}

/// Sets `lengthSizeMinusOne`, the low bits of the byte at `at`, to 3. Returns the packets' framing and the new record.
fn four_byte_lengths(record: &[u8], at: usize) -> (Framing, Bytes) {
    match record.get(at).map(|byte| usize::from(byte & 3) + 1) {
        None | Some(4) => (Framing::AsIs, Bytes::copy_from_slice(record)),
        Some(size) => {
            let mut record = record.to_vec();
            record[at] |= 3;
            (Framing::ShortLengths(size), record.into())
        }
    }
}

fn widen_lengths(mut data: &[u8], size: usize) -> Result<Bytes, Error> {
    let mut out = BytesMut::with_capacity(data.len() + 64);
    while let Some((prefix, rest)) = data.split_at_checked(size) {
        let length = prefix.iter().fold(0usize, |length, byte| length << 8 | usize::from(*byte));
        let Some((nal, rest)) = rest.split_at_checked(length) else {
            return Err(Error::Length { length, left: rest.len() });
        };
        out.put_u32(length as u32);
        out.put_slice(nal);
        data = rest;
    }
    Ok(out.freeze())
}

/// AV1 in ISO BMFF and FLV carries no temporal delimiters (AV1 ISOBMFF §2.4); encoders start every packet with one.
fn without_temporal_delimiter(obus: &[u8]) -> &[u8] {
    match obus {
        // obu_type 2 with has_size_field and a size of zero.
        [header, 0, rest @ ..] if header & 0x7a == 0x12 => rest,
        _ => obus,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_length_prefixes_are_widened() {
        assert_eq!(&widen_lengths(&[0, 2, 7, 8, 0, 1, 9], 2).unwrap()[..], &[0, 0, 0, 2, 7, 8, 0, 0, 0, 1, 9]);
        assert!(matches!(widen_lengths(&[0, 5, 1], 2), Err(Error::Length { length: 5, left: 1 })));
        let (framing, record) = four_byte_lengths(&[1, 100, 0, 31, 0xfd, 0xe0], 4);
        assert_eq!((framing, record[4]), (Framing::ShortLengths(2), 0xff));
        assert_eq!(four_byte_lengths(&[1, 100, 0, 31, 0xff], 4).0, Framing::AsIs);
        assert_eq!(four_byte_lengths(&[1], 4).0, Framing::AsIs);
    }

    #[test]
    fn temporal_delimiters_are_removed() {
        for (obus, expected) in
            [(&[0x12, 0, 0x0a, 1][..], &[0x0a, 1][..]), (&[0x0a, 1, 5], &[0x0a, 1, 5]), (&[0x12], &[0x12]), (&[], &[])]
        {
            assert_eq!(without_temporal_delimiter(obus), expected);
        }
    }
}
