//! VP9: `VPCodecConfigurationRecord` and the uncompressed frame header (VP9 bitstream §6.2, VP Codec ISOBMFF Binding).
//!
//! The record is carried without the version and flags of the `vpcC` box. It does not state the picture size; key frames do.

use bytes::Bytes;

use super::bits::BitReader;
use super::{Error, Format};

/// The uncompressed header of a key frame (VP9 bitstream §6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyFrame {
    /// Profile, 0 to 3.
    pub profile: u8,
    /// Bits per sample: 8, 10 or 12.
    pub bit_depth: u8,
    /// `color_space`: 2 is BT.709.
    pub color_space: u8,
    /// Whether samples use the full range.
    pub full_range: bool,
    /// Whether chroma has half the horizontal resolution.
    pub subsampling_x: bool,
    /// Whether chroma has half the vertical resolution.
    pub subsampling_y: bool,
    /// Picture width in pixels.
    pub width: u32,
    /// Picture height in pixels.
    pub height: u32,
}

impl KeyFrame {
    /// Reads the uncompressed header of a frame or superframe; `None` if it is not a key frame.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let mut bits = BitReader::new(payload, "VP9 frame header");
        if bits.read(2).ok()? != 2 {
            return None;
        }
        let profile = (bits.read(1).ok()? | bits.read(1).ok()? << 1) as u8;
        if profile == 3 {
            bits.skip(1).ok()?;
        }
        let (existing, inter) = (bits.flag().ok()?, bits.flag().ok()?);
        if existing || inter {
            return None;
        }
        bits.skip(2).ok()?; // show_frame, error_resilient_mode
        if bits.read(24).ok()? != SYNC_CODE {
            return None;
        }
        let bit_depth = if profile >= 2 { 10 + 2 * bits.read(1).ok()? as u8 } else { 8 };
        let color_space = bits.read(3).ok()? as u8;
        let (mut full_range, mut subsampling) = (true, (profile & 1 == 0, profile & 1 == 0));
        if color_space != RGB {
            full_range = bits.flag().ok()?;
            if profile & 1 == 1 {
                subsampling = (bits.flag().ok()?, bits.flag().ok()?);
                bits.skip(1).ok()?;
            }
        } else {
            subsampling = (false, false);
            bits.skip(usize::from(profile & 1)).ok()?;
        }
        let (width, height) = (bits.read(16).ok()? + 1, bits.read(16).ok()? + 1);
        let (subsampling_x, subsampling_y) = subsampling;
        Some(Self { profile, bit_depth, color_space, full_range, subsampling_x, subsampling_y, width, height })
    }
}

/// Whether a frame is a key frame.
pub fn is_key_frame(payload: &[u8]) -> bool {
    KeyFrame::parse(payload).is_some()
}

/// Builds a `VPCodecConfigurationRecord` from a key frame, for encoders that provide none.
///
/// The level is the lowest that the picture size allows: a key frame states no rates.
///
/// # Errors
/// If the frame is no key frame, or its header is malformed.
pub fn vpcc_from_key_frame(payload: &[u8]) -> Result<Bytes, Error> {
    let frame = KeyFrame::parse(payload).ok_or(Error::Missing { what: "VP9 key frame" })?;
    let samples = u64::from(frame.width) * u64::from(frame.height);
    let level = LEVELS.iter().find(|(most, _)| samples <= *most).map_or(62, |(_, level)| *level);
    let chroma = match (frame.subsampling_x, frame.subsampling_y) {
        (true, true) => 1u8,
        (true, false) => 2,
        _ => 3,
    };
    // ISO/IEC 23091-2 primaries, transfer and matrix.
    let [primaries, transfer, matrix] = match frame.color_space {
        1 => [5, 6, 5],
        2 => [1, 1, 1],
        3 => [6, 6, 6],
        4 => [7, 7, 7],
        5 => [9, 14, 9],
        RGB => [1, 13, 0],
        _ => [2, 2, 2],
    };
    let depth = frame.bit_depth << 4 | chroma << 1 | u8::from(frame.full_range);
    Ok(Bytes::copy_from_slice(&[frame.profile, level, depth, primaries, transfer, matrix, 0, 0]))
}

/// Removes the version and flags of a `vpcC` box, which some publishers (FFmpeg from 7.1 on) send before the record.
pub(super) fn without_box_header(record: Bytes) -> Bytes {
    if record.len() >= 12 && record.starts_with(&[1, 0, 0, 0]) { record.slice(4..) } else { record }
}

/// Checks a record. The size is zero by zero: the record does not state it.
pub(super) fn format(record: &[u8]) -> Result<Format, Error> {
    let fixed = record.get(..8).ok_or(Error::Truncated { what: "vpcC" })?;
    if fixed[0] > 3 {
        return Err(Error::Unsupported { what: "VP9 profile", value: u64::from(fixed[0]) });
    }
    if !matches!(fixed[2] >> 4, 8 | 10 | 12) {
        return Err(Error::Unsupported { what: "VP9 bit depth", value: u64::from(fixed[2] >> 4) });
    }
    Ok(Format::Video { width: 0, height: 0 })
}

/// `vp09.PP.LL.DD` (VP Codec ISOBMFF Binding, "Codecs Parameter String"). An unknown level is written as the lowest one, because players
/// refuse level 0.
pub(super) fn rfc6381(record: &[u8]) -> String {
    let byte = |at| record.get(at).copied().unwrap_or_default();
    format!("vp09.{:02}.{:02}.{:02}", byte(0), byte(1).max(10), byte(2) >> 4)
}

const SYNC_CODE: u32 = 0x49_83_42;
const RGB: u8 = 7;
/// Most luma samples in a picture of each level (VP9 bitstream, annex A).
const LEVELS: [(u64, u8); 9] = [
    (36_864, 10),
    (73_728, 11),
    (122_880, 20),
    (245_760, 21),
    (552_960, 30),
    (983_040, 31),
    (2_228_224, 40),
    (8_912_896, 50),
    (35_651_584, 60),
];
