//! FLAC: the STREAMINFO metadata block and the frame header (RFC 9639 §8.2, §9.1).

use bytes::{BufMut, Bytes, BytesMut};

use super::bits::BitReader;
use super::{Error, Format};

/// The content of a STREAMINFO block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Samples per channel in the smallest block.
    pub min_block: u16,
    /// Samples per channel in the largest block.
    pub max_block: u16,
    /// Sampling rate in Hz.
    pub sample_rate: u32,
    /// Number of channels, 1 to 8.
    pub channels: u8,
    /// Bits per sample, 4 to 32.
    pub bits_per_sample: u8,
}

impl StreamInfo {
    /// Parses `fLaC` and the block, the block with its header, or its bare 34 bytes.
    ///
    /// # Errors
    /// If the bytes are cut short or malformed, or state what is not supported.
    pub fn parse(record: &[u8]) -> Result<Self, Error> {
        let mut bits = BitReader::new(stream_info(record)?, "STREAMINFO");
        let (min_block, max_block) = (bits.read(16)? as u16, bits.read(16)? as u16);
        bits.skip(48)?; // frame sizes
        let sample_rate = bits.read(20)?;
        let (channels, bits_per_sample) = (bits.read(3)? as u8 + 1, bits.read(5)? as u8 + 1);
        if sample_rate == 0 {
            return Err(Error::Unsupported { what: "FLAC sample rate", value: 0 });
        }
        Ok(Self { min_block, max_block, sample_rate, channels, bits_per_sample })
    }
}

/// `fLaC` and a last STREAMINFO block, out of any of the forms that [`StreamInfo::parse`] reads: other blocks are dropped.
///
/// # Errors
/// If the header has no STREAMINFO block.
pub fn record_from(header: &[u8]) -> Result<Bytes, Error> {
    let info = stream_info(header)?;
    let mut out = BytesMut::with_capacity(8 + STREAM_INFO);
    out.put_slice(MAGIC);
    out.put_slice(&[LAST_BLOCK, 0, 0, STREAM_INFO as u8]);
    out.put_slice(info);
    Ok(out.freeze())
}

/// Samples per channel in a frame (RFC 9639 §9.1.1); `None` if it is no FLAC frame.
pub fn frame_samples(frame: &[u8]) -> Option<u32> {
    let &[0xff, 0xf8 | 0xf9, codes, _, ref coded_number @ ..] = frame else { return None };
    // The number of the frame or of its first sample, in the manner of UTF-8, precedes an uncommon block size.
    let number_bytes = match coded_number.first()?.leading_ones() {
        0 => 1,
        bytes @ 2..=7 => bytes as usize,
        _ => return None,
    };
    let uncommon = coded_number.get(number_bytes..)?;
    match u32::from(codes >> 4) {
        1 => Some(192),
        code @ 2..=5 => Some(144 << code),
        6 => Some(u32::from(*uncommon.first()?) + 1),
        7 => Some(u32::from(u16::from_be_bytes([*uncommon.first()?, *uncommon.get(1)?])) + 1),
        code @ 8..=15 => Some(1 << code),
        _ => None,
    }
}

pub(super) fn format(record: &[u8]) -> Result<Format, Error> {
    let info = StreamInfo::parse(record)?;
    Ok(Format::Audio { sample_rate: info.sample_rate, channels: u16::from(info.channels) })
}

fn stream_info(header: &[u8]) -> Result<&[u8], Error> {
    let block = header.strip_prefix(MAGIC).unwrap_or(header);
    // A bare STREAMINFO would have to start with a block size under 16, which is forbidden, to look like a block header.
    let info = match block {
        [kind, 0, 0, 34, info @ ..] if kind & !LAST_BLOCK == 0 => info,
        _ if block.len() == header.len() => block,
        _ => return Err(Error::Missing { what: "STREAMINFO" }),
    };
    info.get(..STREAM_INFO).ok_or(Error::Truncated { what: "STREAMINFO" })
}

const MAGIC: &[u8] = b"fLaC";
const LAST_BLOCK: u8 = 0x80;
/// Size of the block without its header, in bytes.
const STREAM_INFO: usize = 34;
