//! MP3: the frame header (ISO/IEC 11172-3 §2.4.2.3, ISO/IEC 13818-3 §2.4.2.3). There is no configuration record.

use super::Error;

/// The content of a frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Sampling rate in Hz.
    pub sample_rate: u32,
    /// Number of channels, 1 or 2.
    pub channels: u16,
    /// Samples per channel in the frame.
    pub samples: u32,
}

impl FrameHeader {
    /// Parses the header at the start of `frame`.
    ///
    /// # Errors
    /// If the bytes are cut short or malformed, or state what is not supported.
    pub fn parse(frame: &[u8]) -> Result<Self, Error> {
        let &[sync, second, third, fourth, ..] = frame else {
            return Err(Error::Truncated { what: "MP3 frame header" });
        };
        if sync != 0xff || second & 0xe0 != 0xe0 {
            return Err(Error::Missing { what: "MP3 frame header" });
        }
        if second >> 1 & 3 != LAYER_3 {
            return Err(Error::Unsupported { what: "MPEG audio layer bits", value: u64::from(second >> 1 & 3) });
        }
        if third >> 4 == 15 {
            return Err(Error::Unsupported { what: "MP3 bit rate index", value: 15 });
        }
        let version = second >> 3 & 3;
        let divider = match version {
            3 => 1, // MPEG-1
            2 => 2, // MPEG-2
            0 => 4, // MPEG-2.5
            _ => return Err(Error::Unsupported { what: "MPEG audio version", value: 1 }),
        };
        let base = match third >> 2 & 3 {
            0 => 44_100,
            1 => 48_000,
            2 => 32_000,
            _ => return Err(Error::Unsupported { what: "MP3 sample rate index", value: 3 }),
        };
        Ok(Self {
            sample_rate: base / divider,
            channels: if fourth >> 6 == 3 { 1 } else { 2 },
            samples: if version == 3 { 1152 } else { 576 },
        })
    }
}

/// `mp4a.6B`, or `mp4a.69` for the low rates of MPEG-2 (RFC 6381 §3.3, object type indications of ISO/IEC 14496-1).
pub(super) fn rfc6381(sample_rate: u32) -> String {
    if sample_rate < 32_000 { "mp4a.69" } else { "mp4a.6B" }.to_owned()
}

const LAYER_3: u8 = 1;
