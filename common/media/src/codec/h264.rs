//! H.264: `AVCDecoderConfigurationRecord`, NAL units and random access (ITU-T H.264, ISO/IEC 14496-15 §5.3.3).
//!
//! # Random access
//!
//! An access unit is a random access point if it is an IDR picture, or if it carries a recovery point SEI message
//! (§D.1.8). Intra-refresh streams and open GOPs mark the points at which a decoder may start with the latter: an intra-refresh stream has a
//! single IDR and could not be joined later otherwise. A decoder that starts at a recovery point shows its first complete picture
//! `recovery_frame_cnt` pictures later. The bitstream decides, not the FLV frame type or an encoder's key flag.

use bytes::{BufMut, Bytes, BytesMut};

use super::bits::BitReader;
use super::{Error, Format, nal};

/// The fields of a sequence parameter set that records and codec strings need (ITU-T H.264 §7.3.2.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceParameterSet {
    /// `profile_idc`: 66 is Baseline, 77 Main, 100 High.
    pub profile: u8,
    /// The byte of `constraint_set` flags.
    pub constraints: u8,
    /// `level_idc`: ten times the level.
    pub level: u8,
    /// `chroma_format_idc`: 1 is 4:2:0.
    pub chroma_format: u8,
    /// Luma bits per sample.
    pub bit_depth: u8,
    /// Chroma bits per sample.
    pub chroma_bit_depth: u8,
    /// Picture width in pixels, cropping applied.
    pub width: u32,
    /// Picture height in pixels, cropping applied.
    pub height: u32,
}

impl SequenceParameterSet {
    /// Reads a sequence parameter set NAL unit, header included (ITU-T H.264 §7.3.2.1.1).
    ///
    /// # Errors
    /// If the bytes are cut short or malformed, or state what is not supported.
    pub fn parse(unit: &[u8]) -> Result<Self, Error> {
        let data = nal::rbsp(unit);
        let mut bits = BitReader::new(&data, "H.264 sequence parameter set");
        if bits.read(8)? as u8 & 0x1f != NAL_SPS {
            return Err(Error::Missing { what: "H.264 sequence parameter set" });
        }
        let (profile, constraints, level) = (bits.read(8)? as u8, bits.read(8)? as u8, bits.read(8)? as u8);
        bits.ue()?; // seq_parameter_set_id
        let (mut chroma_format, mut separate_planes, mut bit_depth, mut chroma_bit_depth) = (1, false, 8, 8);
        if has_chroma_format(profile) {
            chroma_format = bits.ue()?;
            if chroma_format > 3 {
                return Err(Error::Unsupported { what: "H.264 chroma_format_idc", value: u64::from(chroma_format) });
            }
            separate_planes = chroma_format == 3 && bits.flag()?;
            bit_depth = bit_depth_of(bits.ue()?)?;
            chroma_bit_depth = bit_depth_of(bits.ue()?)?;
            bits.flag()?; // qpprime_y_zero_transform_bypass_flag
            if bits.flag()? {
                for list in 0..if chroma_format == 3 { 12 } else { 8 } {
                    if bits.flag()? {
                        skip_scaling_list(&mut bits, if list < 6 { 16 } else { 64 })?;
                    }
                }
            }
        }
        bits.ue()?; // log2_max_frame_num_minus4
        match bits.ue()? {
            0 => {
                bits.ue()?; // log2_max_pic_order_cnt_lsb_minus4
            }
            1 => {
                bits.flag()?; // delta_pic_order_always_zero_flag
                bits.se()?; // offset_for_non_ref_pic
                bits.se()?; // offset_for_top_to_bottom_field
                for _ in 0..bits.ue()?.min(255) {
                    bits.se()?; // offset_for_ref_frame
                }
            }
            _ => {}
        }
        bits.ue()?; // max_num_ref_frames
        bits.flag()?; // gaps_in_frame_num_value_allowed_flag
        let (width_mbs, height_units) = (bits.ue()?, bits.ue()?);
        let frames_only = bits.flag()?;
        if !frames_only {
            bits.flag()?; // mb_adaptive_frame_field_flag
        }
        bits.flag()?; // direct_8x8_inference_flag
        let crop = if bits.flag()? { [bits.ue()?, bits.ue()?, bits.ue()?, bits.ue()?] } else { [0; 4] };
        let fields = if frames_only { 1 } else { 2 };
        // Table 6-1: how many luma samples a chroma sample spans; `ChromaArrayType` is 0 for separate planes.
        let (unit_x, unit_y) = match if separate_planes { 0 } else { chroma_format } {
            1 => (2, 2),
            2 => (2, 1),
            _ => (1, 1),
        };
        let width = cropped(u64::from(width_mbs) + 1, unit_x, crop[0], crop[1])?;
        let height = cropped((u64::from(height_units) + 1) * fields, unit_y * fields, crop[2], crop[3])?;
        let chroma_format = chroma_format as u8;
        Ok(Self { profile, constraints, level, chroma_format, bit_depth, chroma_bit_depth, width, height })
    }
}

/// The picture size of an `AVCDecoderConfigurationRecord`.
pub(super) fn format(record: &Bytes) -> Result<Format, Error> {
    let sets = parameter_sets(record)?;
    let sps = sets.iter().find(|unit| nal_type(unit) == NAL_SPS).ok_or(Error::Missing { what: "SPS in avcC" })?;
    let sps = SequenceParameterSet::parse(sps)?;
    Ok(Format::Video { width: sps.width, height: sps.height })
}

/// `avc1.PPCCLL` (RFC 6381 §3.3).
pub(super) fn rfc6381(record: &[u8]) -> String {
    let byte = |at| record.get(at).copied().unwrap_or_default();
    format!("avc1.{:02X}{:02X}{:02X}", byte(1), byte(2), byte(3))
}

/// Size of the NAL unit length fields of this record, in bytes: 1, 2 or 4.
///
/// # Errors
/// If the bytes are cut short or malformed, or state what is not supported.
pub fn length_size(record: &[u8]) -> Result<usize, Error> {
    let byte = record.get(4).ok_or(Error::Truncated { what: "avcC" })?;
    nal_length_size(byte & 3)
}

/// Builds an `AVCDecoderConfigurationRecord` from Annex B parameter sets: an encoder's extradata, or an access unit that
/// carries them in band. Other NAL units are ignored; each distinct parameter set is kept once.
///
/// # Errors
/// If the bytes are cut short or malformed, or state what is not supported.
pub fn avcc_from_annexb_extradata(extradata: &[u8]) -> Result<Bytes, Error> {
    avcc(nal::annexb(extradata))
}

/// Builds an `AVCDecoderConfigurationRecord` from the parameter sets in an access unit with 4-byte lengths.
///
/// # Errors
/// [`Error::Missing`] if it has no SPS or no PPS; if the SPS is malformed.
pub fn avcc_from_access_unit(access_unit: &[u8]) -> Result<Bytes, Error> {
    avcc(nal::length_prefixed(access_unit, 4))
}

fn avcc<'a>(units: impl Iterator<Item = &'a [u8]>) -> Result<Bytes, Error> {
    let (mut sps, mut pps) = (Vec::<&[u8]>::new(), Vec::<&[u8]>::new());
    for unit in units {
        let list = match nal_type(unit) {
            NAL_SPS => &mut sps,
            NAL_PPS => &mut pps,
            _ => continue,
        };
        if !list.contains(&unit) {
            list.push(unit);
        }
    }
    let first = SequenceParameterSet::parse(sps.first().ok_or(Error::Missing { what: "SPS" })?)?;
    if pps.is_empty() {
        return Err(Error::Missing { what: "PPS" });
    }
    let mut out = BytesMut::new();
    out.put_slice(&[1, first.profile, first.constraints, first.level, 0xff]);
    put_sets(&mut out, 0xe0, &sps, 31)?;
    put_sets(&mut out, 0, &pps, 255)?;
    if has_chroma_format(first.profile) {
        let (luma, chroma) = (first.bit_depth - 8, first.chroma_bit_depth - 8);
        out.put_slice(&[0xfc | first.chroma_format, 0xf8 | luma, 0xf8 | chroma, 0]);
    }
    Ok(out.freeze())
}

/// Annex B to 4-byte lengths, without access unit delimiters and parameter sets: those are in the record.
///
/// A caller whose encoder may change them in mid-stream compares [`avcc_from_annexb_extradata`] of the access unit first.
pub fn annexb_to_length_prefixed(access_unit: &[u8]) -> Bytes {
    nal::annexb_to_length_prefixed(access_unit, |unit| !matches!(nal_type(unit), NAL_SPS | NAL_PPS | NAL_AUD))
}

/// 4-byte lengths to Annex B with 4-byte start codes; the record's parameter sets go first if `with_parameter_sets`.
///
/// # Errors
/// If the bytes are cut short or malformed, or state what is not supported.
pub fn to_annexb(record: &Bytes, payload: &[u8], with_parameter_sets: bool) -> Result<Bytes, Error> {
    let sets = if with_parameter_sets { parameter_sets(record)? } else { Vec::new() };
    nal::to_annexb(&sets, payload)
}

/// The SPS and PPS NAL units of a record, in order. They share its memory.
///
/// # Errors
/// If the bytes are cut short or malformed, or state what is not supported.
pub fn parameter_sets(record: &Bytes) -> Result<Vec<Bytes>, Error> {
    if *record.first().ok_or(CUT_SHORT)? != 1 {
        return Err(Error::Unsupported { what: "avcC version", value: u64::from(record[0]) });
    }
    let mut sets = Vec::new();
    let mut at = 5;
    for mask in [0x1f, 0xff] {
        let count = record.get(at).ok_or(CUT_SHORT)? & mask;
        at += 1;
        for _ in 0..count {
            let length = record.get(at..at + 2).ok_or(CUT_SHORT)?;
            let end = at + 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
            if end > record.len() {
                return Err(CUT_SHORT);
            }
            sets.push(record.slice(at + 2..end));
            at = end;
        }
    }
    Ok(sets)
}

/// Whether an access unit of 4-byte lengths holds an IDR slice.
pub fn is_idr(payload: &[u8]) -> bool {
    nal::length_prefixed(payload, 4).map(nal_type).find(|kind| (1..=NAL_IDR).contains(kind)) == Some(NAL_IDR)
}

/// Whether an access unit with 4-byte lengths is a random access point, as defined in the module documentation.
pub fn is_random_access(payload: &[u8]) -> bool {
    for unit in nal::length_prefixed(payload, 4) {
        match nal_type(unit) {
            NAL_IDR => return true,
            // SEI comes before the first slice.
            1..NAL_IDR => return false,
            NAL_SEI if nal::has_sei_message(unit, 1, nal::SEI_RECOVERY_POINT) => return true,
            _ => {}
        }
    }
    false
}

fn nal_type(unit: &[u8]) -> u8 {
    unit.first().map_or(0, |header| header & 0x1f)
}

/// The profiles whose parameter sets state chroma format and bit depth (ITU-T H.264 §7.3.2.1.1).
fn has_chroma_format(profile: u8) -> bool {
    matches!(profile, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135)
}

fn bit_depth_of(minus8: u32) -> Result<u8, Error> {
    match minus8 {
        0..=6 => Ok(8 + minus8 as u8),
        _ => Err(Error::Unsupported { what: "H.264 bit depth", value: u64::from(minus8) + 8 }),
    }
}

fn cropped(blocks: u64, unit: u64, before: u32, after: u32) -> Result<u32, Error> {
    let size = blocks.saturating_mul(16);
    let crop = unit * (u64::from(before) + u64::from(after));
    match size.checked_sub(crop).and_then(|size| u32::try_from(size).ok()) {
        Some(size @ 1..=MAX_SIZE) => Ok(size),
        _ => Err(Error::Unsupported { what: "H.264 picture size", value: size }),
    }
}

fn skip_scaling_list(bits: &mut BitReader<'_>, size: usize) -> Result<(), Error> {
    let (mut last, mut next) = (8i32, 8i32);
    for _ in 0..size {
        if next != 0 {
            next = (last + bits.se()?.rem_euclid(256)).rem_euclid(256);
        }
        last = if next == 0 { last } else { next };
    }
    Ok(())
}

fn put_sets(out: &mut BytesMut, reserved: u8, sets: &[&[u8]], max: usize) -> Result<(), Error> {
    if sets.len() > max {
        return Err(Error::Unsupported { what: "number of parameter sets", value: sets.len() as u64 });
    }
    out.put_u8(reserved | sets.len() as u8);
    for set in sets {
        let too_long = |_| Error::Unsupported { what: "parameter set of this many bytes", value: set.len() as u64 };
        out.put_u16(u16::try_from(set.len()).map_err(too_long)?);
        out.put_slice(set);
    }
    Ok(())
}

/// `lengthSizeMinusOne` to a length size; 3 bytes are reserved (ISO/IEC 14496-15 §5.3.3.1.2).
pub(super) fn nal_length_size(minus_one: u8) -> Result<usize, Error> {
    match minus_one {
        2 => Err(Error::Unsupported { what: "NAL unit length size", value: 3 }),
        _ => Ok(usize::from(minus_one) + 1),
    }
}

const NAL_IDR: u8 = 5;
const NAL_SEI: u8 = 6;
const NAL_SPS: u8 = 7;
const NAL_PPS: u8 = 8;
const NAL_AUD: u8 = 9;
const CUT_SHORT: Error = Error::Truncated { what: "avcC" };
/// In pixels, more than level 6.2 allows for a side. A larger size is invalid and would cost players memory.
pub(super) const MAX_SIZE: u32 = 16_888;
