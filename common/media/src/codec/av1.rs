//! AV1: `AV1CodecConfigurationRecord`, OBUs and random access (AV1 bitstream §5.3 to §5.9, AV1 in ISOBMFF §2.3).
//!
//! A temporal unit is a random access point if its first frame is a shown key frame. Its sequence header may be in the
//! temporal unit or only in the record: a decoder has been given the latter. A forward key frame (not shown at once) is not a
//! random access point, because the pictures shown before it cannot be decoded.

use bytes::{BufMut, Bytes, BytesMut};

use super::bits::BitReader;
use super::{Error, Format};

/// The fields of a sequence header OBU that records and codec strings need (AV1 bitstream §5.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceHeader {
    /// `seq_profile`: 0 Main, 1 High, 2 Professional.
    pub profile: u8,
    /// `seq_level_idx` of the first operating point.
    pub level: u8,
    /// `seq_tier` of the first operating point.
    pub high_tier: bool,
    /// Bits per sample: 8, 10 or 12.
    pub bit_depth: u8,
    /// Whether there is no chroma.
    pub monochrome: bool,
    /// Whether chroma has half the horizontal resolution.
    pub subsampling_x: bool,
    /// Whether chroma has half the vertical resolution.
    pub subsampling_y: bool,
    /// `chroma_sample_position`, 0 to 3 (AV1 bitstream §6.4.2).
    pub chroma_sample_position: u8,
    /// Picture width in pixels.
    pub width: u32,
    /// Picture height in pixels.
    pub height: u32,
}

impl SequenceHeader {
    /// Reads the payload of a sequence header OBU (AV1 bitstream §5.5.1).
    ///
    /// # Errors
    /// If the bytes are cut short or malformed, or state what is not supported.
    pub fn parse(payload: &[u8]) -> Result<Self, Error> {
        let mut bits = BitReader::new(payload, "AV1 sequence header");
        let profile = bits.read(3)? as u8;
        bits.flag()?; // still_picture
        let reduced = bits.flag()?;
        let (level, high_tier) = if reduced { (bits.read(5)? as u8, false) } else { operating_points(&mut bits)? };
        let (width_bits, height_bits) = (bits.read(4)? + 1, bits.read(4)? + 1);
        let (width, height) = (bits.read(width_bits)? + 1, bits.read(height_bits)? + 1);
        if !reduced && bits.flag()? {
            bits.skip(7)?; // lengths of frame ids
        }
        bits.skip(3)?; // use_128x128_superblock, enable_filter_intra, enable_intra_edge_filter
        if !reduced {
            bits.skip(4)?; // interintra, masked compound, warped motion, dual filter
            let order_hint = bits.flag()?;
            if order_hint {
                bits.skip(2)?; // enable_jnt_comp, enable_ref_frame_mvs
            }
            let choose_screen_content = bits.flag()?;
            if (choose_screen_content || bits.flag()?) && !bits.flag()? {
                bits.skip(1)?; // seq_force_integer_mv
            }
            if order_hint {
                bits.skip(3)?; // order_hint_bits_minus_1
            }
        }
        bits.skip(3)?; // superres, cdef, restoration
        let color = Color::parse(&mut bits, profile)?;
        Ok(Self {
            profile,
            level,
            high_tier,
            bit_depth: color.bit_depth,
            monochrome: color.monochrome,
            subsampling_x: color.subsampling.0,
            subsampling_y: color.subsampling.1,
            chroma_sample_position: color.sample_position,
            width,
            height,
        })
    }

    /// Finds and parses the sequence header in a sequence of OBUs; `None` if there is no valid one.
    pub fn find(obus: &[u8]) -> Option<Self> {
        Obus(obus).find(|obu| obu.kind == OBU_SEQUENCE_HEADER).and_then(|obu| Self::parse(obu.payload).ok())
    }
}

/// The picture size of an `AV1CodecConfigurationRecord`; zero by zero if it carries no sequence header.
pub(super) fn format(record: &[u8]) -> Result<Format, Error> {
    let obus = record.get(4..).ok_or(Error::Truncated { what: "av1C" })?;
    if record[0] != 0x81 {
        return Err(Error::Unsupported { what: "av1C marker and version", value: u64::from(record[0]) });
    }
    let size = SequenceHeader::find(obus).map_or((0, 0), |header| (header.width, header.height));
    Ok(Format::Video { width: size.0, height: size.1 })
}

/// `av01.P.LLT.DD` (AV1 in ISOBMFF §5).
pub(super) fn rfc6381(record: &[u8]) -> String {
    let byte = |at| record.get(at).copied().unwrap_or_default();
    let depth = match (byte(2) & 0x40 != 0, byte(2) & 0x20 != 0) {
        (false, _) => 8,
        (true, false) => 10,
        (true, true) => 12,
    };
    let tier = if byte(2) & 0x80 == 0 { 'M' } else { 'H' };
    format!("av01.{}.{:02}{tier}.{depth:02}", byte(1) >> 5, byte(1) & 0x1f)
}

/// Builds an `AV1CodecConfigurationRecord` from OBUs that hold a sequence header: an encoder's extradata or a key frame.
///
/// # Errors
/// If there is no sequence header, or a malformed one.
pub fn av1c_from_obus(obus: &[u8]) -> Result<Bytes, Error> {
    let obu = Obus(obus).find(|obu| obu.kind == OBU_SEQUENCE_HEADER);
    let obu = obu.ok_or(Error::Missing { what: "AV1 sequence header" })?;
    let header = SequenceHeader::parse(obu.payload)?;
    let mut out = BytesMut::new();
    out.put_u8(0x81);
    out.put_u8(header.profile << 5 | header.level);
    out.put_u8(
        u8::from(header.high_tier) << 7
            | u8::from(header.bit_depth > 8) << 6
            | u8::from(header.bit_depth == 12) << 5
            | u8::from(header.monochrome) << 4
            | u8::from(header.subsampling_x) << 3
            | u8::from(header.subsampling_y) << 2
            | header.chroma_sample_position,
    );
    out.put_u8(0);
    out.put_u8(OBU_SEQUENCE_HEADER << 3 | 2);
    let mut size = obu.payload.len();
    while size >= 0x80 {
        out.put_u8(size as u8 | 0x80);
        size >>= 7;
    }
    out.put_u8(size as u8);
    out.put_slice(obu.payload);
    Ok(out.freeze())
}

/// Whether a temporal unit is a random access point, as defined in the module documentation.
pub fn is_random_access(payload: &[u8]) -> bool {
    let mut reduced = false;
    for obu in Obus(payload) {
        match obu.kind {
            OBU_SEQUENCE_HEADER => reduced = obu.payload.first().is_some_and(|byte| byte & 0x08 != 0),
            // show_existing_frame (1 bit), frame_type (2), show_frame (1); a reduced header implies a shown key frame.
            OBU_FRAME_HEADER | OBU_FRAME => {
                return reduced || obu.payload.first().is_some_and(|byte| byte >> 4 == 0b0001);
            }
            _ => {}
        }
    }
    false
}

struct Obu<'a> {
    kind: u8,
    payload: &'a [u8],
}

/// Walks OBUs (AV1 bitstream §5.3); one without a size extends to the end. Stops at the first that does not fit.
struct Obus<'a>(&'a [u8]);

impl<'a> Iterator for Obus<'a> {
    type Item = Obu<'a>;

    fn next(&mut self) -> Option<Obu<'a>> {
        let (header, mut rest) = self.0.split_first()?;
        if header & 0x04 != 0 {
            rest = rest.get(1..)?;
        }
        let mut size = rest.len();
        if header & 0x02 != 0 {
            size = 0;
            // leb128 (§4.10.5): at most 8 bytes.
            let last = rest.iter().take(8).position(|byte| byte & 0x80 == 0)?;
            for byte in rest[..=last].iter().rev() {
                size = size << 7 | usize::from(byte & 0x7f);
            }
            rest = &rest[last + 1..];
        }
        let (payload, after) = rest.split_at_checked(size)?;
        self.0 = after;
        Some(Obu { kind: header >> 3 & 0x0f, payload })
    }
}

struct Color {
    bit_depth: u8,
    monochrome: bool,
    subsampling: (bool, bool),
    sample_position: u8,
}

impl Color {
    /// Parses `color_config` (§5.5.2).
    fn parse(bits: &mut BitReader<'_>, profile: u8) -> Result<Self, Error> {
        let high = bits.flag()?;
        let bit_depth = match (high, profile == 2 && high && bits.flag()?) {
            (false, _) => 8,
            (true, false) => 10,
            (true, true) => 12,
        };
        let monochrome = profile != 1 && bits.flag()?;
        let description = if bits.flag()? { (bits.read(8)?, bits.read(8)?, bits.read(8)?) } else { (2, 2, 2) };
        let mut color = Self { bit_depth, monochrome, subsampling: (true, true), sample_position: 0 };
        if monochrome {
            return Ok(color);
        }
        // sRGB: BT.709 primaries, IEC 61966-2-1 transfer, identity matrix.
        if description == (1, 13, 0) {
            color.subsampling = (false, false);
            return Ok(color);
        }
        bits.flag()?; // color_range
        color.subsampling = match profile {
            0 => (true, true),
            1 => (false, false),
            _ if bit_depth == 12 => {
                let x = bits.flag()?;
                (x, x && bits.flag()?)
            }
            _ => (true, false),
        };
        if color.subsampling == (true, true) {
            color.sample_position = bits.read(2)? as u8;
        }
        Ok(color)
    }
}

/// From `timing_info_present_flag` to the end of the operating points (§5.5.1): level and tier of the first.
fn operating_points(bits: &mut BitReader<'_>) -> Result<(u8, bool), Error> {
    let mut delay_bits = None;
    if bits.flag()? {
        bits.skip(64)?; // num_units_in_display_tick, time_scale
        if bits.flag()? {
            bits.ue()?; // num_ticks_per_picture_minus_1: uvlc is written as ue(v) is
        }
        if bits.flag()? {
            delay_bits = Some(bits.read(5)? as usize + 1);
            bits.skip(32 + 5 + 5)?;
        }
    }
    let display_delay = bits.flag()?;
    let mut first = (0, false);
    for point in 0..=bits.read(5)? {
        bits.skip(12)?; // operating_point_idc
        let level = bits.read(5)? as u8;
        let high_tier = level > 7 && bits.flag()?;
        if let Some(delay_bits) = delay_bits
            && bits.flag()?
        {
            bits.skip(2 * delay_bits + 1)?;
        }
        if display_delay && bits.flag()? {
            bits.skip(4)?;
        }
        if point == 0 {
            first = (level, high_tier);
        }
    }
    Ok(first)
}

const OBU_SEQUENCE_HEADER: u8 = 1;
const OBU_FRAME_HEADER: u8 = 3;
const OBU_FRAME: u8 = 6;
