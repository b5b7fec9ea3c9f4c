//! AAC: `AudioSpecificConfig` and ADTS (ISO/IEC 14496-3 §1.6.2, §1.6.5, §1.A.2.2).

use bytes::Bytes;

use super::bits::BitReader;
use super::{Error, Format};

/// An `AudioSpecificConfig` (ISO/IEC 14496-3 §1.6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AudioSpecificConfig {
    /// Audio object type of the core: 2 is AAC-LC.
    pub object_type: u8,
    /// Sampling rate of the core in Hz.
    pub sample_rate: u32,
    /// Number of output channels: 2 for a mono core with parametric stereo.
    pub channels: u16,
    /// Output rate in Hz of SBR, if it is signalled explicitly, in either way.
    pub sbr_rate: Option<u32>,
    /// Whether parametric stereo is signalled explicitly, in either way.
    pub ps: bool,
    /// `frameLengthFlag`: frames of 960 samples in place of 1024 (of 480 in place of 512 for ER AAC LD and ELD).
    pub short_frames: bool,
}

impl AudioSpecificConfig {
    /// Parses a record. Bytes after it are ignored.
    ///
    /// # Errors
    /// If the bytes are cut short or malformed, or state what is not supported.
    pub fn parse(record: &[u8]) -> Result<Self, Error> {
        let mut bits = BitReader::new(record, "AudioSpecificConfig");
        let mut object_type = object_type_of(&mut bits)?;
        let sample_rate = sample_rate_of(&mut bits)?;
        let channel_configuration = bits.read(4)?;
        let mut ps = object_type == PS;
        let mut sbr_rate = None;
        let is_explicit = object_type == SBR || object_type == PS;
        if is_explicit {
            sbr_rate = Some(sample_rate_of(&mut bits)?);
            object_type = object_type_of(&mut bits)?;
        }
        let mut channels = channels_of(channel_configuration)?;
        let mut short_frames = false;
        if has_ga_config(object_type) {
            short_frames = bits.flag()?;
            if bits.flag()? {
                bits.skip(14)?; // coreCoderDelay
            }
            let extension = bits.flag()?;
            if channel_configuration == 0 {
                channels = program_config_channels(&mut bits)?;
            }
            if matches!(object_type, 6 | 20) {
                bits.skip(3)?; // layerNr
            }
            if extension {
                bits.skip(match object_type {
                    22 => 16,               // numOfSubFrame, layer_length
                    17 | 19 | 20 | 23 => 3, // resilience flags
                    _ => 0,
                })?;
                bits.skip(1)?; // extensionFlag3
            }
        } else if object_type == ELD {
            short_frames = bits.flag()?;
        }
        if !is_explicit && let Ok(Some(extension)) = backward_compatible_extension(bits) {
            (sbr_rate, ps) = (Some(extension.0), extension.1);
        }
        if ps && channels == 1 {
            channels = 2;
        }
        Ok(Self { object_type, sample_rate, channels, sbr_rate, ps, short_frames })
    }

    /// Writes a record. SBR and PS are signalled explicitly and hierarchically, so that no decoder overlooks them.
    ///
    /// # Errors
    /// If a field has a value that the record cannot state.
    pub fn build(&self) -> Result<Bytes, Error> {
        let mut bits = BitWriter::default();
        let core_channels = if self.ps { 1 } else { self.channels };
        let channel_configuration = match core_channels {
            1..=6 => u32::from(core_channels),
            7 => 11,
            8 => 7,
            _ => return Err(Error::Unsupported { what: "AAC channel count", value: u64::from(core_channels) }),
        };
        let is_extended = self.sbr_rate.is_some() || self.ps;
        let outer = match (self.ps, is_extended) {
            (true, _) => PS,
            (false, true) => SBR,
            _ => self.object_type,
        };
        bits.object_type(outer);
        bits.sample_rate(self.sample_rate)?;
        bits.write(channel_configuration, 4);
        if is_extended {
            bits.sample_rate(self.sbr_rate.unwrap_or(self.sample_rate))?;
            bits.object_type(self.object_type);
        }
        bits.write(u32::from(self.short_frames), 1);
        bits.write(0, 2); // no core coder, no extension
        Ok(Bytes::from(bits.bytes))
    }

    /// Whether its frames can have ADTS headers, which state the object types 1 to 4 only. Frames of these begin with an element's type, never with a
    /// syncword; those of the others (ER AAC LD and ELD) begin with any bits.
    pub fn may_have_adts(&self) -> bool {
        (1..=4).contains(&self.object_type)
    }

    /// Output sampling rate in Hz.
    pub fn output_rate(&self) -> u32 {
        self.sbr_rate.unwrap_or(self.sample_rate)
    }

    /// Output samples per frame and channel, at [`output_rate`](Self::output_rate).
    pub fn samples_per_frame(&self) -> u32 {
        let core = match (self.object_type, self.short_frames) {
            (LD | ELD, false) => 512,
            (LD | ELD, true) => 480,
            (_, false) => 1024,
            (_, true) => 960,
        };
        if self.output_rate() > self.sample_rate { core * 2 } else { core }
    }
}

/// Removes the ADTS header of a frame and returns its content, if there is one. See [`AudioSpecificConfig::may_have_adts`].
///
/// # Errors
/// If the ADTS header is cut short or malformed.
pub fn strip_adts(frame: Bytes) -> Result<(Option<AudioSpecificConfig>, Bytes), Error> {
    if frame.len() < 2 || frame[0] != 0xff || frame[1] & 0xf6 != 0xf0 {
        return Ok((None, frame));
    }
    let mut bits = BitReader::new(&frame, "ADTS header");
    bits.skip(15)?; // syncword, ID, layer
    let has_crc = !bits.flag()?;
    let object_type = bits.read(2)? as u8 + 1;
    let sample_rate = *SAMPLE_RATES.get(bits.read(4)? as usize).ok_or(RESERVED_RATE)?;
    bits.skip(1)?; // private_bit
    let channels = channels_of(bits.read(3)?)?;
    bits.skip(4)?; // original, home, copyright id bit and start
    let length = bits.read(13)? as usize;
    bits.skip(11)?; // buffer fullness
    let blocks = bits.read(2)? + 1;
    if blocks != 1 {
        return Err(Error::Unsupported { what: "ADTS raw data blocks per frame", value: u64::from(blocks) });
    }
    let header = if has_crc { 9 } else { 7 };
    if length < header || length > frame.len() {
        return Err(Error::Truncated { what: "ADTS frame" });
    }
    let config =
        AudioSpecificConfig { object_type, sample_rate, channels, sbr_rate: None, ps: false, short_frames: false };
    Ok((Some(config), frame.slice(header..length)))
}

pub(super) fn format(record: &[u8]) -> Result<Format, Error> {
    let config = AudioSpecificConfig::parse(record)?;
    Ok(Format::Audio { sample_rate: config.output_rate(), channels: config.channels })
}

/// `mp4a.40.2` (RFC 6381 §3.3); SBR and PS by their own object types.
pub(super) fn rfc6381(record: &[u8]) -> String {
    let object_type = match AudioSpecificConfig::parse(record) {
        Ok(AudioSpecificConfig { ps: true, .. }) => PS,
        Ok(AudioSpecificConfig { sbr_rate: Some(_), .. }) => SBR,
        Ok(config) => config.object_type,
        Err(_) => 2,
    };
    format!("mp4a.40.{object_type}")
}

/// Reads an audio object type, escaped or not: `GetAudioObjectType` (§1.6.2.1).
fn object_type_of(bits: &mut BitReader<'_>) -> Result<u8, Error> {
    match bits.read(5)? {
        31 => Ok(32 + bits.read(6)? as u8),
        short => Ok(short as u8),
    }
}

fn sample_rate_of(bits: &mut BitReader<'_>) -> Result<u32, Error> {
    let rate = match bits.read(4)? {
        15 => bits.read(24)?,
        index => *SAMPLE_RATES.get(index as usize).ok_or(RESERVED_RATE)?,
    };
    if rate == 0 { Err(Error::Unsupported { what: "AAC sample rate", value: 0 }) } else { Ok(rate) }
}

/// The number of channels of a `channelConfiguration` (table 1.19); 0 if a program config element states it.
fn channels_of(configuration: u32) -> Result<u16, Error> {
    Ok(match configuration {
        0..=6 => configuration as u16,
        7 | 12 | 14 => 8,
        11 => 7,
        13 => 24,
        _ => return Err(Error::Unsupported { what: "AAC channel configuration", value: u64::from(configuration) }),
    })
}

fn has_ga_config(object_type: u8) -> bool {
    matches!(object_type, 1..=4 | 6 | 7 | 17 | 19..=23)
}

/// The number of channels of a `program_config_element` (§4.4.1.1).
fn program_config_channels(bits: &mut BitReader<'_>) -> Result<u16, Error> {
    bits.skip(4 + 2 + 4)?; // element_instance_tag, object_type, sampling_frequency_index
    let elements = bits.read(4)? + bits.read(4)? + bits.read(4)?; // front, side, back
    let lfe = bits.read(2)?;
    let skipped = bits.read(3)? as usize * 4 + bits.read(4)? as usize * 5; // associated data, coupling
    for mixdown_bits in [4, 4, 3] {
        if bits.flag()? {
            bits.skip(mixdown_bits)?;
        }
    }
    let mut channels = 0;
    for _ in 0..elements {
        channels += if bits.flag()? { 2 } else { 1 };
        bits.skip(4)?;
    }
    bits.skip(lfe as usize * 4 + skipped)?;
    bits.align();
    let comment = bits.read(8)? as usize;
    bits.skip(comment * 8)?;
    Ok(channels + lfe as u16)
}

/// The `0x2b7` extension of §1.6.2.1: SBR's rate, and PS. Absent, and cut short, both mean that there is none.
fn backward_compatible_extension(mut bits: BitReader<'_>) -> Result<Option<(u32, bool)>, Error> {
    if bits.left() < 16 || bits.read(11)? != 0x2b7 || object_type_of(&mut bits)? != SBR || !bits.flag()? {
        return Ok(None);
    }
    let rate = sample_rate_of(&mut bits)?;
    let ps = bits.left() >= 12 && bits.read(11)? == 0x548 && bits.flag()?;
    Ok(Some((rate, ps)))
}

#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    used: u32,
}

impl BitWriter {
    fn write(&mut self, value: u32, count: u32) {
        for bit in (0..count).rev() {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            let last = self.bytes.last_mut().expect("a byte was pushed for the first of its bits");
            *last |= (value >> bit & 1) as u8 * (0x80 >> (self.used % 8));
            self.used += 1;
        }
    }

    fn object_type(&mut self, object_type: u8) {
        match object_type.checked_sub(32) {
            Some(escaped) => {
                self.write(31, 5);
                self.write(u32::from(escaped), 6);
            }
            None => self.write(u32::from(object_type), 5),
        }
    }

    fn sample_rate(&mut self, rate: u32) -> Result<(), Error> {
        match SAMPLE_RATES.iter().position(|known| *known == rate) {
            Some(index) => self.write(index as u32, 4),
            None if (1..1 << 24).contains(&rate) => {
                self.write(15, 4);
                self.write(rate, 24);
            }
            None => return Err(Error::Unsupported { what: "AAC sample rate", value: u64::from(rate) }),
        }
        Ok(())
    }
}

const SBR: u8 = 5;
const LD: u8 = 23;
const PS: u8 = 29;
const ELD: u8 = 39;
const RESERVED_RATE: Error = Error::Unsupported { what: "AAC sample rate index", value: 13 };
/// Sampling rates in Hz by `samplingFrequencyIndex` (table 1.18).
const SAMPLE_RATES: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];
