//! Silent audio frames, which stand in for sound that was away where a format must not have a gap.

use bytes::Bytes;

use super::{Codec, CodecConfig, Format, aac};

/// A silent frame for this configuration; `None` for video, and for codecs and channel layouts that have none here: FLAC, MP3, Opus with more than two
/// channels, AAC with a layout of its own.
pub fn silence(config: &CodecConfig) -> Option<Bytes> {
    let Format::Audio { channels, .. } = config.format else { return None };
    match (config.codec, channels) {
        (Codec::Aac, _) => {
            // A core with SBR or parametric stereo is decoded without them where they are absent.
            let core = aac::AudioSpecificConfig::parse(&config.record).ok()?;
            let channels = if core.ps { 1 } else { core.channels };
            is_aac_lc(core.object_type).then(|| aac_frame(channels)).flatten()
        }
        // RFC 6716 §3.1: CELT, fullband, 20 ms, one frame; then a silent CELT frame (§4.3: the silence flag).
        (Codec::Opus, 1) => Some(vec![0xf8, 0xff, 0xfe]),
        (Codec::Opus, 2) => Some(vec![0xfc, 0xff, 0xfe]),
        _ => None,
    }
    .map(Bytes::from)
}

fn is_aac_lc(object_type: u8) -> bool {
    object_type == 2
}

/// A `raw_data_block` (ISO/IEC 14496-3 §4.4.2.1) whose channels have no spectral data, for the channel configurations of §1.6.3.5.
fn aac_frame(channels: u16) -> Option<Vec<u8>> {
    let elements: &[Element] = match channels {
        1 => &[Element::Single],
        2 => &[Element::Pair],
        3 => &[Element::Single, Element::Pair],
        4 => &[Element::Single, Element::Pair, Element::Single],
        5 => &[Element::Single, Element::Pair, Element::Pair],
        6 => &[Element::Single, Element::Pair, Element::Pair, Element::LowFrequency],
        8 => &[Element::Single, Element::Pair, Element::Pair, Element::Pair, Element::LowFrequency],
        _ => return None,
    };
    let mut bits = BitWriter::default();
    let mut tags = [0; 3];
    for element in elements {
        let tag = &mut tags[*element as usize];
        let id = match element {
            Element::Single => 0,
            Element::Pair => 1,
            Element::LowFrequency => 3,
        };
        bits.put(3, id);
        bits.put(4, *tag);
        *tag += 1;
        match element {
            Element::Single | Element::LowFrequency => {
                bits.put(8, GLOBAL_GAIN);
                bits.put(11, 0); // ics_info: a long window without scale factor bands
                bits.put(3, 0); // no pulse data, noise shaping, gain control
            }
            Element::Pair => {
                bits.put(1, 1); // common_window
                bits.put(11, 0); // ics_info
                bits.put(2, 0); // ms_mask_present
                for _ in 0..2 {
                    bits.put(8, GLOBAL_GAIN);
                    bits.put(3, 0);
                }
            }
        }
    }
    bits.put(3, 7); // ID_END
    Some(bits.bytes)
}

/// A syntactic element of AAC.
#[derive(Clone, Copy)]
enum Element {
    Single,
    Pair,
    LowFrequency,
}

/// Writes bits, the most significant first; the last byte is filled with zeros.
#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    free: u32,
}

impl BitWriter {
    fn put(&mut self, count: u32, value: u32) {
        for n in (0..count).rev() {
            if self.free == 0 {
                self.bytes.push(0);
                self.free = 8;
            }
            self.free -= 1;
            if let Some(last) = self.bytes.last_mut() {
                *last |= ((value >> n & 1) as u8) << self.free;
            }
        }
    }
}

/// Without spectral data the gain has no effect.
const GLOBAL_GAIN: u32 = 100;
