//! Opus: the identification header and packet durations (RFC 7845 §5.1, RFC 6716 §3.1).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Error, Format};

/// The identification header (RFC 7845 §5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpusHead {
    /// Number of output channels.
    pub channels: u8,
    /// Samples at 48 kHz to drop at the start.
    pub pre_skip: u16,
    /// Sampling rate of the encoder's input in Hz, for information. Opus decodes at 48 kHz.
    pub input_sample_rate: u32,
    /// Output gain in dB, Q7.8.
    pub output_gain: i16,
    /// Channel mapping family (RFC 7845 §5.1.1).
    pub mapping_family: u8,
    /// Stream count, coupled count and a byte per channel, for families other than 0 (RFC 7845 §5.1.1); empty for 0.
    pub mapping: Bytes,
}

impl OpusHead {
    /// The header of a stream whose publisher sends none, with the layouts of RFC 7845 §5.1.1.2 for 1 to 8 channels.
    ///
    /// # Errors
    /// If the number of channels is 0, or more than the mapping families define.
    pub fn for_channels(channels: u8) -> Result<Self, Error> {
        let mapping: &[u8] = match channels {
            1 | 2 => &[],
            3 => &[2, 1, 0, 2, 1],
            4 => &[2, 2, 0, 1, 2, 3],
            5 => &[3, 2, 0, 4, 1, 2, 3],
            6 => &[4, 2, 0, 4, 1, 2, 3, 5],
            7 => &[4, 3, 0, 4, 1, 2, 3, 5, 6],
            8 => &[5, 3, 0, 6, 1, 2, 3, 4, 5, 7],
            _ => return Err(Error::Unsupported { what: "Opus channel count", value: u64::from(channels) }),
        };
        Ok(Self {
            channels,
            pre_skip: 0,
            input_sample_rate: SAMPLE_RATE,
            output_gain: 0,
            mapping_family: u8::from(!mapping.is_empty()),
            mapping: Bytes::from_static(mapping),
        })
    }

    /// Parses a header, magic signature included.
    ///
    /// # Errors
    /// If the bytes are cut short or malformed, or state what is not supported.
    pub fn parse(record: &[u8]) -> Result<Self, Error> {
        let Some(mut rest) = record.strip_prefix(MAGIC) else { return Err(Error::Missing { what: "OpusHead" }) };
        if rest.len() < 11 {
            return Err(CUT_SHORT);
        }
        // Minor versions are compatible (RFC 7845 §5.1).
        let version = rest.get_u8();
        if version & 0xf0 != 0 {
            return Err(Error::Unsupported { what: "OpusHead version", value: u64::from(version) });
        }
        let channels = rest.get_u8();
        if channels == 0 {
            return Err(Error::Unsupported { what: "Opus channel count", value: 0 });
        }
        let (pre_skip, input_sample_rate, output_gain) = (rest.get_u16_le(), rest.get_u32_le(), rest.get_i16_le());
        let mapping_family = rest.get_u8();
        let mapping = match mapping_family {
            0 => &[],
            _ => rest.get(..2 + usize::from(channels)).ok_or(CUT_SHORT)?,
        };
        let mapping = Bytes::copy_from_slice(mapping);
        Ok(Self { channels, pre_skip, input_sample_rate, output_gain, mapping_family, mapping })
    }

    /// Writes the header, magic signature included.
    pub fn build(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_slice(MAGIC);
        out.put_u8(1);
        out.put_u8(self.channels);
        out.put_u16_le(self.pre_skip);
        out.put_u32_le(self.input_sample_rate);
        out.put_i16_le(self.output_gain);
        out.put_u8(self.mapping_family);
        out.put_slice(&self.mapping);
        out.freeze()
    }
}

/// Samples at 48 kHz in a packet; `None` if it is no Opus packet (RFC 6716 §3.1, §3.2.5: at most 120 ms).
pub fn packet_samples(packet: &[u8]) -> Option<u32> {
    let toc = *packet.first()?;
    let frame = match toc >> 3 {
        config @ 0..12 => [480, 960, 1920, 2880][usize::from(config & 3)],
        config @ 12..16 => [480, 960][usize::from(config & 1)],
        config => [120, 240, 480, 960][usize::from(config & 3)],
    };
    let frames = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u32::from(packet.get(1)? & 0x3f),
    };
    Some(frame * frames).filter(|samples| (1..=5760).contains(samples))
}

pub(super) fn format(record: &[u8]) -> Result<Format, Error> {
    let head = OpusHead::parse(record)?;
    Ok(Format::Audio { sample_rate: SAMPLE_RATE, channels: u16::from(head.channels) })
}

const MAGIC: &[u8] = b"OpusHead";
/// Output rate of decoders in Hz, whatever the encoder's input was.
const SAMPLE_RATE: u32 = 48_000;
const CUT_SHORT: Error = Error::Truncated { what: "OpusHead" };
