//! NAL units, as H.264 and HEVC frame them: Annex B start codes, length prefixes, emulation prevention and SEI messages.
//!
//! NAL unit types are interpreted by [`super::h264`] and [`super::hevc`].

use bytes::{BufMut, Bytes, BytesMut};

use super::Error;

/// The NAL units of an Annex B byte stream, without start codes and trailing zeros (ITU-T H.264 §B.1).
pub fn annexb(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = after_start_code(stream);
    std::iter::from_fn(move || {
        loop {
            let from = rest?;
            let next = find_start_code(from);
            rest = next.map(|at| &from[at + 3..]);
            let unit = &from[..next.unwrap_or(from.len())];
            let end = unit.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            if end > 0 {
                return Some(&unit[..end]);
            }
        }
    })
}

/// The NAL units of an access unit with `length_size`-byte lengths (ISO/IEC 14496-15 §4.3.3). Stops at the first that does not fit.
pub fn length_prefixed(payload: &[u8], length_size: usize) -> impl Iterator<Item = &[u8]> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        loop {
            let (unit, after) = split_length_prefixed(rest, length_size)?;
            rest = after;
            if !unit.is_empty() {
                return Some(unit);
            }
        }
    })
}

/// Rewrites `length_size`-byte lengths as 4-byte lengths, for the few encoders that use shorter ones.
///
/// # Errors
/// If a NAL unit is longer than the access unit.
pub fn with_four_byte_lengths(payload: &[u8], length_size: usize) -> Result<Bytes, Error> {
    let mut out = BytesMut::with_capacity(payload.len() + payload.len() / 8);
    let mut rest = payload;
    while !rest.is_empty() {
        let (unit, after) = split_length_prefixed(rest, length_size).ok_or(Error::Truncated { what: "NAL unit" })?;
        put_length_prefixed(&mut out, unit);
        rest = after;
    }
    Ok(out.freeze())
}

/// Annex B with 4-byte start codes: the parameter sets, then the NAL units of an access unit with 4-byte lengths.
pub(super) fn to_annexb(parameter_sets: &[Bytes], payload: &[u8]) -> Result<Bytes, Error> {
    let sets: usize = parameter_sets.iter().map(|set| 4 + set.len()).sum();
    let mut out = BytesMut::with_capacity(sets + payload.len());
    for set in parameter_sets {
        out.put_slice(&START_CODE);
        out.put_slice(set);
    }
    let mut rest = payload;
    while !rest.is_empty() {
        let (unit, after) = split_length_prefixed(rest, 4).ok_or(Error::Truncated { what: "NAL unit" })?;
        if !unit.is_empty() {
            out.put_slice(&START_CODE);
            out.put_slice(unit);
        }
        rest = after;
    }
    Ok(out.freeze())
}

/// Annex B to 4-byte lengths, with only the NAL units for which `keep` is true.
pub(super) fn annexb_to_length_prefixed(access_unit: &[u8], keep: impl Fn(&[u8]) -> bool) -> Bytes {
    let mut out = BytesMut::with_capacity(access_unit.len() + 16);
    for unit in annexb(access_unit).filter(|unit| keep(unit)) {
        put_length_prefixed(&mut out, unit);
    }
    out.freeze()
}

/// The raw byte sequence payload of a NAL unit, its header included: without emulation prevention (ITU-T H.264 §7.4.1).
pub(super) fn rbsp(unit: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(unit.len());
    let mut zeros = 0;
    for &byte in unit {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

/// Whether an SEI NAL unit holds a message of this type (ITU-T H.264 §7.3.2.3). `header` is the size of the NAL unit header.
pub(super) fn has_sei_message(unit: &[u8], header: usize, wanted: u32) -> bool {
    sei_message(unit, header, wanted, |_| true).is_some()
}

/// The payload of the first message of this type in an SEI NAL unit for which `is_it` is true; what there is of it, if it is cut short.
pub(super) fn sei_message(unit: &[u8], header: usize, wanted: u32, is_it: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    let data = rbsp(unit);
    let mut rest = data.get(header..).unwrap_or_default();
    // The last byte is `rbsp_trailing_bits`.
    while rest.len() > 2 {
        let (kind, after) = sei_number(rest)?;
        let sized = sei_number(after);
        let (message, after) = sized
            .map_or((after, &[][..]), |(size, after)| after.split_at_checked(size as usize).unwrap_or((after, &[])));
        if kind == wanted && is_it(message) {
            return Some(message.to_vec());
        }
        rest = after;
    }
    None
}

/// Appends bytes of a raw byte sequence payload, with emulation prevention (ITU-T H.264 §7.4.1.1). What was appended before does not end in a
/// zero.
pub(super) fn put_emulation_prevented(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut zeros = 0;
    for byte in bytes {
        if zeros >= 2 && *byte <= 3 {
            out.push(3);
            zeros = 0;
        }
        zeros = if *byte == 0 { zeros + 1 } else { 0 };
        out.push(*byte);
    }
}

/// `SEI payloadType` of a recovery point, the same in H.264 (§D.1.8) and HEVC (§D.2.8).
pub(super) const SEI_RECOVERY_POINT: u32 = 6;

fn sei_number(data: &[u8]) -> Option<(u32, &[u8])> {
    let full = data.iter().position(|byte| *byte != 0xff)?;
    let value = u32::try_from(full).ok()?.checked_mul(255)?.checked_add(u32::from(data[full]))?;
    Some((value, &data[full + 1..]))
}

pub(super) fn put_length_prefixed(out: &mut BytesMut, unit: &[u8]) {
    let length = u32::try_from(unit.len()).expect("a NAL unit is part of one message, which is under 4 GiB");
    out.put_u32(length);
    out.put_slice(unit);
}

fn split_length_prefixed(data: &[u8], length_size: usize) -> Option<(&[u8], &[u8])> {
    let (length, rest) = data.split_at_checked(length_size)?;
    let length = length.iter().fold(0usize, |length, byte| length << 8 | usize::from(*byte));
    rest.split_at_checked(length)
}

fn after_start_code(stream: &[u8]) -> Option<&[u8]> {
    find_start_code(stream).map(|at| &stream[at + 3..])
}

/// Position of the next `00 00 01`.
fn find_start_code(data: &[u8]) -> Option<usize> {
    let mut at = 0;
    while at + 3 <= data.len() {
        // The last of three bytes decides fastest: if it is greater than 1, no start code touches it.
        match data[at + 2] {
            2.. => at += 3,
            1 if data[at] == 0 && data[at + 1] == 0 => return Some(at),
            _ => at += 1,
        }
    }
    None
}

const START_CODE: [u8; 4] = [0, 0, 0, 1];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn splits_annexb() {
        let check =
            |stream: &[u8], expected: &[&[u8]]| assert_eq!(annexb(stream).collect::<Vec<_>>(), expected, "{stream:x?}");
        check(b"", &[]);
        check(b"abc", &[]);
        check(b"\0\0\x01a", &[b"a"]);
        check(b"\0\0\0\x01ab\0\0\x01c\0\0\0\0\x01\0\0\x01d\0\0\0", &[b"ab", b"c", b"d"]);
        check(b"junk\0\0\x01\x01\x01\0\0\x01", &[b"\x01\x01"]);
    }

    #[test]
    fn lengths_other_than_four() {
        assert_eq!(with_four_byte_lengths(b"\x01a\x02bc", 1).unwrap().as_ref(), b"\0\0\0\x01a\0\0\0\x02bc");
        assert_eq!(with_four_byte_lengths(b"\0\x01a", 2).unwrap().as_ref(), b"\0\0\0\x01a");
        assert!(with_four_byte_lengths(b"\x02a", 1).is_err());
        assert_eq!(
            length_prefixed(b"\0\0\0\x01a\0\0\0\0\0\0\0\x02bc\0\0\0\x09x", 4).collect::<Vec<_>>(),
            [&b"a"[..], b"bc"]
        );
    }

    #[test]
    fn finds_sei_messages() {
        // User data first, with an emulation prevention byte in it, then a recovery point.
        let sei = [0x06, 5, 4, 0, 0, 3, 1, 7, 6, 1, 0x84, 0x80];
        assert!(has_sei_message(&sei, 1, SEI_RECOVERY_POINT));
        assert!(!has_sei_message(&sei, 1, 1));
        assert!(!has_sei_message(&[0x06, 5, 200, 1, 2, 0x80], 1, SEI_RECOVERY_POINT));
        assert!(!has_sei_message(&[0x06, 0xff, 0xff, 0xff], 1, SEI_RECOVERY_POINT));
    }

    proptest! {
        #[test]
        fn annexb_and_back(units in prop::collection::vec(prop::collection::vec(1u8.., 1..20), 0..5)) {
            let mut stream = Vec::new();
            for unit in &units {
                stream.extend_from_slice(b"\0\0\0\x01");
                stream.extend_from_slice(unit);
            }
            let payload = annexb_to_length_prefixed(&stream, |_| true);
            prop_assert_eq!(length_prefixed(&payload, 4).collect::<Vec<_>>(), units.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let back = to_annexb(&[], &payload).unwrap();
            prop_assert_eq!(back.as_ref(), stream.as_slice());
        }
    }
}
