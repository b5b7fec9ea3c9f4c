//! The capture time SEI: when a picture was captured and encoded, written into its own access unit, so that it passes any server.
//!
//! It is an SEI message `user_data_unregistered` (ITU-T H.264 §D.1.7, payload type 5; the same in H.265 §D.2.7) before the first slice:
//!
//! | bytes | content |
//! |---|---|
//! | 16 | `UUID` |
//! | 1 | version, 1 |
//! | 4 | counter, as in the burned-in frame counter |
//! | 8 | capture: microseconds since the Unix epoch, signed |
//! | 4 | microseconds from capture until it was encoded, at most 2^32 - 1 |
//!
//! all big-endian. AV1 and VP9 have no such message that all muxers keep: their pictures have only the burned-in frame counter.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Codec, nal};
use crate::time::WallClock;

/// When a picture was captured and encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureTime {
    /// Number of the picture, as in its burned-in [`FrameCounter`](crate::frame_counter::FrameCounter); wraps.
    pub counter: u32,
    /// Time of capture, by the broadcaster's clock.
    pub captured: WallClock,
    /// Time when it came out of the encoder, by the same clock.
    pub encoded: WallClock,
}

/// Returns the access unit with the SEI message before its first slice. `None` for codecs other than H.264 and HEVC, and if the unit has no slice.
pub fn insert(codec: Codec, payload: &[u8], stamp: CaptureTime) -> Option<Bytes> {
    let kind = Kind::of(codec)?;
    let mut at = 0;
    let slice = nal::length_prefixed(payload, 4).find(|unit| {
        let found = kind.is_slice(unit);
        at += if found { 0 } else { 4 + unit.len() };
        found
    })?;
    // The iterator skips empty NAL units; encoders write none. If there is one, the offset would be wrong.
    if payload.get(at + 4..)?.as_ptr() != slice.as_ptr() {
        return None;
    }
    let sei = kind.message(stamp);
    let mut out = BytesMut::with_capacity(payload.len() + 4 + sei.len());
    out.put_slice(&payload[..at]);
    nal::put_length_prefixed(&mut out, &sei);
    out.put_slice(&payload[at..]);
    Some(out.freeze())
}

/// Reads the SEI message of an access unit; `None` if it has none, or one of another version.
pub fn read(codec: Codec, payload: &[u8]) -> Option<CaptureTime> {
    let kind = Kind::of(codec)?;
    let units = nal::length_prefixed(payload, 4).take_while(|unit| !kind.is_slice(unit));
    units.filter(|unit| kind.is_sei(unit)).find_map(|unit| {
        let data = nal::sei_message(unit, kind.header(), USER_DATA_UNREGISTERED, |data| data.starts_with(&UUID))?;
        let body = data.get(UUID.len()..)?;
        let (version, body) = body.split_first()?;
        let (counter, body) = body.split_first_chunk()?;
        let (captured, body) = body.split_first_chunk()?;
        let (after, _) = body.split_first_chunk()?;
        let captured = i64::from_be_bytes(*captured);
        (*version == VERSION).then(|| CaptureTime {
            counter: u32::from_be_bytes(*counter),
            captured: WallClock::from_micros(captured),
            encoded: WallClock::from_micros(captured.saturating_add(u32::from_be_bytes(*after).into())),
        })
    })
}

#[derive(Clone, Copy)]
enum Kind {
    H264,
    Hevc,
}

impl Kind {
    fn of(codec: Codec) -> Option<Self> {
        match codec {
            Codec::H264 => Some(Self::H264),
            Codec::Hevc => Some(Self::Hevc),
            _ => None,
        }
    }

    fn header(self) -> usize {
        match self {
            Self::H264 => 1,
            Self::Hevc => 2,
        }
    }

    /// `nal_unit_type`: H.264 table 7-1, H.265 table 7-1.
    fn number(self, unit: &[u8]) -> u8 {
        let first = unit.first().copied().unwrap_or(0);
        match self {
            Self::H264 => first & 31,
            Self::Hevc => first >> 1 & 63,
        }
    }

    fn is_slice(self, unit: &[u8]) -> bool {
        match self {
            Self::H264 => (1..=5).contains(&self.number(unit)),
            Self::Hevc => self.number(unit) < 32,
        }
    }

    fn is_sei(self, unit: &[u8]) -> bool {
        self.number(unit) == if matches!(self, Self::H264) { 6 } else { 39 }
    }

    fn message(self, stamp: CaptureTime) -> Vec<u8> {
        let after = stamp.encoded.micros_since(stamp.captured).clamp(0, u32::MAX.into());
        let mut body = Vec::with_capacity(BODY as usize);
        body.extend_from_slice(&UUID);
        body.push(VERSION);
        body.extend_from_slice(&stamp.counter.to_be_bytes());
        body.extend_from_slice(&stamp.captured.as_micros().to_be_bytes());
        body.extend_from_slice(&(after as u32).to_be_bytes());
        let mut unit = match self {
            Self::H264 => vec![6],
            // Layer 0, temporal id 1.
            Self::Hevc => vec![39 << 1, 1],
        };
        unit.extend([USER_DATA_UNREGISTERED as u8, BODY]);
        nal::put_emulation_prevented(&mut unit, &body);
        // `rbsp_trailing_bits`.
        unit.push(0x80);
        unit
    }
}

/// `nearcast` and eight random bytes.
const UUID: [u8; 16] = *b"nearcast\x9b\x1e\x4c\xd7\xa3\x52\x0f\x68";
const VERSION: u8 = 1;
const USER_DATA_UNREGISTERED: u32 = 5;
const BODY: u8 = 33;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unit(units: &[&[u8]]) -> Vec<u8> {
        let mut out = BytesMut::new();
        units.iter().for_each(|unit| nal::put_length_prefixed(&mut out, unit));
        out.to_vec()
    }

    fn any_stamp() -> impl Strategy<Value = CaptureTime> {
        (any::<u32>(), -4_000_000_000_000_000i64..4_000_000_000_000_000, any::<u32>()).prop_map(
            |(counter, at, after)| {
                let (captured, encoded) = (WallClock::from_micros(at), WallClock::from_micros(at + i64::from(after)));
                CaptureTime { counter, captured, encoded }
            },
        )
    }

    #[test]
    fn the_message_is_inserted_before_the_first_slice() {
        let stamp = CaptureTime { counter: 0, captured: WallClock::from_micros(0), encoded: WallClock::from_micros(3) };
        for (codec, before, slice) in [
            (Codec::H264, [&[9u8, 0x10][..], &[6, 6, 1, 0x84, 0x80]], &[0x65u8, 0x88][..]),
            (Codec::Hevc, [&[70, 1, 0x10], &[78, 1, 6, 1, 0x84, 0x80]], &[38, 1, 0x88]),
        ] {
            let plain = unit(&[before[0], before[1], slice, slice]);
            let stamped = insert(codec, &plain, stamp).unwrap();
            assert_eq!((read(codec, &stamped), read(codec, &plain)), (Some(stamp), None));
            let units: Vec<_> = nal::length_prefixed(&stamped, 4).collect();
            assert_eq!((units.len(), units[0], units[1], units[3]), (5, before[0], before[1], slice));
            // Zeros in the clock are not a start code.
            assert!(!units[2].windows(3).any(|three| three[0] == 0 && three[1] == 0 && three[2] < 3));
            assert_eq!(insert(codec, &unit(&[before[0]]), stamp), None, "no slice");
            assert_eq!(insert(codec, &[0, 0, 0, 0, 0, 0, 0, 2, 0x65, 0x88], stamp), None, "an empty unit");
        }
        assert_eq!(insert(Codec::Av1, &[0x32, 0], stamp), None);
    }

    proptest! {
        #[test]
        fn a_message_round_trips(stamp in any_stamp(), hevc: bool) {
            let (codec, slice) = if hevc { (Codec::Hevc, &[2u8, 1, 0xff][..]) } else { (Codec::H264, &[0x41u8, 0xff][..]) };
            let stamped = insert(codec, &unit(&[slice]), stamp).unwrap();
            prop_assert_eq!(read(codec, &stamped), Some(stamp));
        }

        #[test]
        fn any_bytes_are_parsed_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0..60usize, stamp in any_stamp()) {
            for codec in [Codec::H264, Codec::Hevc] {
                let _ = (read(codec, &bytes), insert(codec, &bytes, stamp));
                let stamped = insert(codec, &unit(&[&[2, 1, 0xff]]), stamp).unwrap();
                let _ = read(codec, &stamped[..cut.min(stamped.len())]);
            }
        }
    }
}
