//! HEVC: `HEVCDecoderConfigurationRecord`, NAL units and random access (ITU-T H.265, ISO/IEC 14496-15 §8.3.3).
//!
//! An access unit is a random access point if it is an IRAP picture (IDR, CRA or BLA), or if it carries a recovery point
//! SEI message: the same choice, for the same reason, as in [`super::h264`].

use bytes::{BufMut, Bytes, BytesMut};

use super::bits::BitReader;
use super::h264::{MAX_SIZE, nal_length_size};
use super::{Error, Format, nal};

/// The fields of a sequence parameter set that records and codec strings need (ITU-T H.265 §7.3.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceParameterSet {
    /// `general_profile_space` to `general_level_idc`: the 12 bytes that the record repeats.
    pub profile_tier_level: [u8; 12],
    /// Number of temporal layers, `sps_max_sub_layers_minus1` + 1.
    pub temporal_layers: u8,
    /// `sps_temporal_id_nesting_flag`, which the record repeats as `temporalIdNested`.
    pub temporal_id_nested: bool,
    /// `chroma_format_idc`: 1 is 4:2:0.
    pub chroma_format: u8,
    /// Luma bits per sample.
    pub bit_depth: u8,
    /// Chroma bits per sample.
    pub chroma_bit_depth: u8,
    /// Picture width in pixels, conformance window applied.
    pub width: u32,
    /// Picture height in pixels, conformance window applied.
    pub height: u32,
}

impl SequenceParameterSet {
    /// Reads a sequence parameter set NAL unit, header included (ITU-T H.265 §7.3.2.2).
    ///
    /// # Errors
    /// If the bytes are cut short or malformed, or state what is not supported.
    pub fn parse(unit: &[u8]) -> Result<Self, Error> {
        if nal_type(unit) != NAL_SPS {
            return Err(Error::Missing { what: "HEVC sequence parameter set" });
        }
        let data = nal::rbsp(unit);
        let mut bits = BitReader::new(&data, "HEVC sequence parameter set");
        bits.skip(16 + 4)?; // NAL unit header, sps_video_parameter_set_id
        let sub_layers = bits.read(3)?;
        let temporal_id_nested = bits.flag()?;
        let mut profile_tier_level = [0; 12];
        for byte in &mut profile_tier_level {
            *byte = bits.read(8)? as u8;
        }
        // §7.3.3: the sub-layers that state a profile (88 bits) and a level (8 bits) of their own.
        let mut of_sub_layers = 0;
        for _ in 0..sub_layers {
            of_sub_layers += if bits.flag()? { 88 } else { 0 };
            of_sub_layers += if bits.flag()? { 8 } else { 0 };
        }
        if sub_layers > 0 {
            bits.skip(2 * (8 - sub_layers as usize))?;
        }
        bits.skip(of_sub_layers)?;
        bits.ue()?; // sps_seq_parameter_set_id
        let chroma_format = bits.ue()?;
        if chroma_format > 3 {
            return Err(Error::Unsupported { what: "HEVC chroma_format_idc", value: u64::from(chroma_format) });
        }
        let separate_planes = chroma_format == 3 && bits.flag()?;
        let (width, height) = (bits.ue()?, bits.ue()?);
        let window = if bits.flag()? { [bits.ue()?, bits.ue()?, bits.ue()?, bits.ue()?] } else { [0; 4] };
        let (unit_x, unit_y) = match if separate_planes { 0 } else { chroma_format } {
            1 => (2, 2),
            2 => (2, 1),
            _ => (1, 1),
        };
        Ok(Self {
            profile_tier_level,
            temporal_layers: sub_layers as u8 + 1,
            temporal_id_nested,
            chroma_format: chroma_format as u8,
            bit_depth: bit_depth_of(bits.ue()?)?,
            chroma_bit_depth: bit_depth_of(bits.ue()?)?,
            width: cropped(width, unit_x, window[0], window[1])?,
            height: cropped(height, unit_y, window[2], window[3])?,
        })
    }
}

/// The picture size of an `HEVCDecoderConfigurationRecord`.
pub(super) fn format(record: &Bytes) -> Result<Format, Error> {
    let sets = parameter_sets(record)?;
    let sps = sets.iter().find(|unit| nal_type(unit) == NAL_SPS).ok_or(Error::Missing { what: "SPS in hvcC" })?;
    let sps = SequenceParameterSet::parse(sps)?;
    Ok(Format::Video { width: sps.width, height: sps.height })
}

/// `hvc1.1.6.L93.B0` (ISO/IEC 14496-15 §E.3).
pub(super) fn rfc6381(record: &[u8]) -> String {
    let byte = |at| record.get(at).copied().unwrap_or_default();
    let space = ["", "A", "B", "C"][usize::from(byte(1) >> 6)];
    let compatibility = u32::from_be_bytes([byte(2), byte(3), byte(4), byte(5)]).reverse_bits();
    let tier = if byte(1) & 0x20 == 0 { 'L' } else { 'H' };
    let mut text = format!("hvc1.{space}{}.{compatibility:X}.{tier}{}", byte(1) & 0x1f, byte(12));
    let constraints: Vec<u8> = (6..12).map(byte).collect();
    let told = constraints.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    for byte in &constraints[..told] {
        text.push_str(&format!(".{byte:X}"));
    }
    text
}

/// Size of the NAL unit length fields of this record, in bytes: 1, 2 or 4.
///
/// # Errors
/// If the bytes are cut short or malformed, or state what is not supported.
pub fn length_size(record: &[u8]) -> Result<usize, Error> {
    nal_length_size(record.get(21).ok_or(CUT_SHORT)? & 3)
}

/// Builds an `HEVCDecoderConfigurationRecord` from Annex B parameter sets: an encoder's extradata, or an access unit that
/// carries them in band. Other NAL units are ignored; each distinct parameter set is kept once.
///
/// # Errors
/// If the bytes are cut short or malformed, or state what is not supported.
pub fn hvcc_from_annexb_extradata(extradata: &[u8]) -> Result<Bytes, Error> {
    hvcc(nal::annexb(extradata))
}

/// Builds an `HEVCDecoderConfigurationRecord` from the parameter sets in an access unit with 4-byte lengths.
///
/// # Errors
/// [`Error::Missing`] if it has no VPS, SPS or PPS; if the SPS is malformed.
pub fn hvcc_from_access_unit(access_unit: &[u8]) -> Result<Bytes, Error> {
    hvcc(nal::length_prefixed(access_unit, 4))
}

fn hvcc<'a>(units: impl Iterator<Item = &'a [u8]>) -> Result<Bytes, Error> {
    let mut arrays = [NAL_VPS, NAL_SPS, NAL_PPS].map(|kind| (kind, Vec::<&[u8]>::new()));
    for unit in units {
        if let Some((_, list)) = arrays.iter_mut().find(|(kind, _)| *kind == nal_type(unit))
            && !list.contains(&unit)
        {
            list.push(unit);
        }
    }
    for ((_, list), what) in arrays.iter().zip(["VPS", "SPS", "PPS"]) {
        if list.is_empty() {
            return Err(Error::Missing { what });
        }
    }
    let sps = SequenceParameterSet::parse(arrays[1].1[0])?;
    let mut out = BytesMut::new();
    out.put_u8(1);
    out.put_slice(&sps.profile_tier_level);
    out.put_u16(0xf000); // min_spatial_segmentation_idc: unknown
    out.put_u8(0xfc); // parallelismType: unknown
    out.put_u8(0xfc | sps.chroma_format);
    out.put_u8(0xf8 | (sps.bit_depth - 8));
    out.put_u8(0xf8 | (sps.chroma_bit_depth - 8));
    out.put_u16(0); // avgFrameRate: unknown
    out.put_u8(sps.temporal_layers << 3 | u8::from(sps.temporal_id_nested) << 2 | 3);
    out.put_u8(arrays.len() as u8);
    for (kind, list) in &arrays {
        out.put_u8(0x80 | kind); // array_completeness: no more of them in band
        out.put_u16(u16::try_from(list.len()).map_err(|_| too_large("number of parameter sets", list.len()))?);
        for set in list {
            out.put_u16(
                u16::try_from(set.len()).map_err(|_| too_large("parameter set of this many bytes", set.len()))?,
            );
            out.put_slice(set);
        }
    }
    Ok(out.freeze())
}

/// Annex B to 4-byte lengths, without access unit delimiters and parameter sets: those are in the record.
///
/// A caller whose encoder may change them in mid-stream compares [`hvcc_from_annexb_extradata`] of the access unit first.
pub fn annexb_to_length_prefixed(access_unit: &[u8]) -> Bytes {
    nal::annexb_to_length_prefixed(access_unit, |unit| !matches!(nal_type(unit), NAL_VPS | NAL_SPS | NAL_PPS | NAL_AUD))
}

/// 4-byte lengths to Annex B with 4-byte start codes; the record's parameter sets go first if `with_parameter_sets`.
///
/// # Errors
/// If the bytes are cut short or malformed, or state what is not supported.
pub fn to_annexb(record: &Bytes, payload: &[u8], with_parameter_sets: bool) -> Result<Bytes, Error> {
    let sets = if with_parameter_sets { parameter_sets(record)? } else { Vec::new() };
    nal::to_annexb(&sets, payload)
}

/// The NAL units of a record (parameter sets, and SEI if it declares any), in order. They share its memory.
///
/// # Errors
/// If the bytes are cut short or malformed, or state what is not supported.
pub fn parameter_sets(record: &Bytes) -> Result<Vec<Bytes>, Error> {
    if *record.first().ok_or(CUT_SHORT)? != 1 {
        return Err(Error::Unsupported { what: "hvcC version", value: u64::from(record[0]) });
    }
    let mut sets = Vec::new();
    let mut at = 23;
    for _ in 0..*record.get(22).ok_or(CUT_SHORT)? {
        let head = record.get(at..at + 3).ok_or(CUT_SHORT)?;
        at += 3;
        for _ in 0..u16::from_be_bytes([head[1], head[2]]) {
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

/// Whether an access unit of 4-byte lengths is an intra random access point (ITU-T H.265 §7.4.2.2).
pub fn is_irap(payload: &[u8]) -> bool {
    let first_slice = nal::length_prefixed(payload, 4).map(nal_type).find(|kind| *kind < NAL_VPS);
    first_slice.is_some_and(|kind| IRAP.contains(&kind))
}

/// Whether an access unit with 4-byte lengths is a random access point, as defined in the module documentation.
pub fn is_random_access(payload: &[u8]) -> bool {
    for unit in nal::length_prefixed(payload, 4) {
        match nal_type(unit) {
            kind if IRAP.contains(&kind) => return true,
            0..NAL_VPS => return false,
            NAL_SEI_PREFIX if nal::has_sei_message(unit, 2, nal::SEI_RECOVERY_POINT) => return true,
            _ => {}
        }
    }
    false
}

fn nal_type(unit: &[u8]) -> u8 {
    // An empty unit is none of them: 63 is unspecified.
    unit.first().map_or(63, |header| header >> 1 & 0x3f)
}

fn bit_depth_of(minus8: u32) -> Result<u8, Error> {
    match minus8 {
        0..=7 => Ok(8 + minus8 as u8),
        _ => Err(Error::Unsupported { what: "HEVC bit depth", value: u64::from(minus8) + 8 }),
    }
}

fn cropped(size: u32, unit: u64, before: u32, after: u32) -> Result<u32, Error> {
    let crop = unit * (u64::from(before) + u64::from(after));
    match u64::from(size).checked_sub(crop) {
        Some(size) if (1..=u64::from(MAX_SIZE)).contains(&size) => Ok(size as u32),
        _ => Err(Error::Unsupported { what: "HEVC picture size", value: u64::from(size) }),
    }
}

fn too_large(what: &'static str, value: usize) -> Error {
    Error::Unsupported { what, value: value as u64 }
}

const IRAP: std::ops::RangeInclusive<u8> = 16..=23;
const NAL_VPS: u8 = 32;
const NAL_SPS: u8 = 33;
const NAL_PPS: u8 = 34;
const NAL_AUD: u8 = 35;
const NAL_SEI_PREFIX: u8 = 39;
const CUT_SHORT: Error = Error::Truncated { what: "hvcC" };
