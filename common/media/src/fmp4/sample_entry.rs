//! Sample entries of `stsd`: a codec with its configuration record, written and read.
//!
//! Records pass through byte by byte where the binding carries them whole: `avcC` and `hvcC` (ISO/IEC 14496-15), `av1C`
//! (AV1-ISOBMFF §2.3), `vpcC` (VP-ISOBMFF), `esds` (ISO/IEC 14496-14 §5.6), `dfLa` (FLAC-ISOBMFF §3.3.2). `dOps` (Opus-ISOBMFF
//! §4.3.2) has the content of RFC 7845's ID header in the other byte order.

use bytes::Bytes;

use super::Error;
use super::boxes::{BoxLocation, array, child, u16_at, u32_at, write_box};
use crate::catalog::{Catalog, Track, Value};
use crate::codec::{Codec, CodecConfig, Format};

/// Writes the sample entry of `track`. The picture size is that of the metadata in `catalog` if the record does not state it.
pub(super) fn write(out: &mut Vec<u8>, catalog: &Catalog, track: &Track) -> Result<(), Error> {
    let config = &track.config;
    let malformed = || Error::Record { track: track.id, codec: config.codec, length: config.record.len() };
    let (entry, inner) = match config.codec {
        Codec::H264 => (b"avc1", b"avcC"),
        Codec::Hevc => (b"hvc1", b"hvcC"),
        Codec::Av1 => (b"av01", b"av1C"),
        Codec::Vp9 => (b"vp09", b"vpcC"),
        Codec::Aac | Codec::Mp3 => (b"mp4a", b"esds"),
        Codec::Opus => (b"Opus", b"dOps"),
        Codec::Flac => (b"fLaC", b"dfLa"),
    };
    let content = match config.codec {
        // configurationVersion, and for AV1 the marker bit and version 1.
        Codec::H264 | Codec::Hevc if config.record.first() == Some(&1) => config.record.to_vec(),
        Codec::Av1 if config.record.first() == Some(&0x81) => config.record.to_vec(),
        Codec::Vp9 => vpcc(&config.record).ok_or_else(malformed)?,
        Codec::Aac if !config.record.is_empty() => esds(OBJECT_AAC, &config.record),
        Codec::Mp3 => esds(mp3_object(config.format), &[]),
        Codec::Opus => dops(&config.record).ok_or_else(malformed)?,
        Codec::Flac => dfla(&config.record).ok_or_else(malformed)?,
        _ => return Err(malformed()),
    };
    write_box(out, entry, |out| {
        match config.format {
            Format::Video { width, height } => {
                let (width, height) = if width == 0 { size_in_metadata(catalog) } else { (width, height) };
                visual_head(out, width, height);
            }
            Format::Audio { sample_rate, channels } => audio_head(out, sample_rate, channels),
        }
        write_box(out, inner, |out| {
            out.extend_from_slice(&content);
            Ok(())
        })
    })
}

/// Reads a sample entry; `None` for one of a kind that Nearcast does not carry. `timescale` stands in for a sampling rate over
/// 65535 Hz, which the entry cannot express.
pub(super) fn read(
    kind: [u8; 4],
    entry: &[u8],
    timescale: u32,
    location: BoxLocation,
) -> Result<Option<CodecConfig>, Error> {
    let truncated = || location.malformed("a truncated sample entry");
    let is_visual = matches!(&kind, b"avc1" | b"avc3" | b"hvc1" | b"hev1" | b"av01" | b"vp09");
    let is_sound = matches!(&kind, b"mp4a" | b"Opus" | b"fLaC" | b".mp3");
    if !is_visual && !is_sound {
        return Ok(None);
    }
    let head = match (is_visual, u16_at(entry, 8)) {
        (true, _) => VISUAL_HEAD,
        // QuickTime's sound descriptions of version 1 and 2 have more fields before their boxes.
        (false, Some(1)) => AUDIO_HEAD + 16,
        (false, Some(2)) => AUDIO_HEAD + 36,
        (false, _) => AUDIO_HEAD,
    };
    let inner = entry.get(head..).ok_or_else(truncated)?;
    let said = if is_visual {
        let size = |at| u16_at(entry, at).map(u32::from).ok_or_else(truncated);
        Format::Video { width: size(24)?, height: size(26)? }
    } else {
        let rate = u32_at(entry, 24).ok_or_else(truncated)? >> 16;
        let channels = u16_at(entry, 16).ok_or_else(truncated)?;
        Format::Audio { sample_rate: if rate == 0 { timescale } else { rate }, channels }
    };
    let record = |wanted: &[u8; 4]| {
        child(inner, *wanted, location)?.ok_or_else(|| location.malformed("a sample entry without its record"))
    };
    let (codec, record) = match &kind {
        b"avc1" | b"avc3" => (Codec::H264, Bytes::copy_from_slice(record(b"avcC")?)),
        b"hvc1" | b"hev1" => (Codec::Hevc, Bytes::copy_from_slice(record(b"hvcC")?)),
        b"av01" => (Codec::Av1, Bytes::copy_from_slice(record(b"av1C")?)),
        b"vp09" => (Codec::Vp9, Bytes::copy_from_slice(record(b"vpcC")?.get(4..).ok_or_else(truncated)?)),
        b"Opus" => (Codec::Opus, opus_head(record(b"dOps")?).ok_or_else(truncated)?),
        b"fLaC" => {
            let blocks = record(b"dfLa")?.get(4..).ok_or_else(truncated)?;
            (Codec::Flac, [FLAC_MAGIC, blocks].concat().into())
        }
        b".mp3" => (Codec::Mp3, Bytes::new()),
        _ => match decoder_config(record(b"esds")?).ok_or_else(truncated)? {
            (OBJECT_AAC, specific) => (Codec::Aac, Bytes::copy_from_slice(specific)),
            (OBJECT_MP3 | OBJECT_MP3_LOW, _) => (Codec::Mp3, Bytes::new()),
            _ => return Ok(None),
        },
    };
    // The record is more accurate than the entry (SBR, cropping), if it can be parsed.
    let parsed = CodecConfig::from_record(codec, record.clone()).ok().map(|config| config.format);
    let format = match (parsed, said) {
        (Some(Format::Video { width: 1.., .. }) | Some(Format::Audio { sample_rate: 1.., .. }), _)
            if codec != Codec::Mp3 =>
        {
            parsed.expect("it was just matched")
        }
        _ => said,
    };
    Ok(Some(CodecConfig { codec, record, format }))
}

/// ISO/IEC 14496-12 §12.1.3.
fn visual_head(out: &mut Vec<u8>, width: u32, height: u32) {
    out.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 1]);
    out.extend_from_slice(&[0; 16]);
    for side in [width, height] {
        out.extend_from_slice(&u16::try_from(side).unwrap_or(u16::MAX).to_be_bytes());
    }
    // 72 dpi twice, and one frame a sample.
    out.extend_from_slice(&[0, 0x48, 0, 0, 0, 0x48, 0, 0, 0, 0, 0, 0, 0, 1]);
    out.extend_from_slice(&[0; 32]);
    out.extend_from_slice(&[0, 0x18, 0xff, 0xff]);
}

/// ISO/IEC 14496-12 §12.2.3. A rate that does not fit is written as zero; the record and the timescale have it.
fn audio_head(out: &mut Vec<u8>, sample_rate: u32, channels: u16) {
    out.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&channels.to_be_bytes());
    out.extend_from_slice(&[0, 16, 0, 0, 0, 0]);
    out.extend_from_slice(&u16::try_from(sample_rate).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(&[0, 0]);
}

/// The picture size in the publisher's metadata; zero by zero without.
fn size_in_metadata(catalog: &Catalog) -> (u32, u32) {
    let side = |key: &str| match catalog.metadata.get(key) {
        Some(Value::Number(side)) if (1.0..=65535.0).contains(side) => *side as u32,
        _ => 0,
    };
    (side("width"), side("height"))
}

/// Version 1 and no flags before the record, unless the publisher sent them along.
fn vpcc(record: &[u8]) -> Option<Vec<u8>> {
    match record.len() {
        12.. if record.starts_with(&[1, 0, 0, 0]) => Some(record.to_vec()),
        8.. => Some([&[1, 0, 0, 0], record].concat()),
        _ => None,
    }
}

/// Converts an ID header to `OpusSpecificBox`.
fn dops(record: &[u8]) -> Option<Vec<u8>> {
    let head = record.strip_prefix(OPUS_MAGIC)?;
    let (channels, pre_skip, rate) = (*head.get(1)?, array::<2>(head, 2)?, array::<4>(head, 4)?);
    let (gain, family) = (array::<2>(head, 8)?, *head.get(10)?);
    let mut out = vec![0, channels];
    out.extend(pre_skip.into_iter().rev());
    out.extend(rate.into_iter().rev());
    out.extend(gain.into_iter().rev());
    out.push(family);
    if family != 0 {
        out.extend_from_slice(head.get(11..13 + usize::from(channels))?);
    }
    Some(out)
}

/// Converts `OpusSpecificBox` to an ID header.
fn opus_head(dops: &[u8]) -> Option<Bytes> {
    let (channels, pre_skip, rate) = (*dops.get(1)?, array::<2>(dops, 2)?, array::<4>(dops, 4)?);
    let (gain, family) = (array::<2>(dops, 8)?, *dops.get(10)?);
    let mut out = [OPUS_MAGIC, &[1, channels]].concat();
    out.extend(pre_skip.into_iter().rev());
    out.extend(rate.into_iter().rev());
    out.extend(gain.into_iter().rev());
    out.push(family);
    if family != 0 {
        out.extend_from_slice(dops.get(11..13 + usize::from(channels))?);
    }
    Some(out.into())
}

/// `FLACSpecificBox`: version and flags, then metadata blocks, of which STREAMINFO is the first and the last is marked so.
fn dfla(record: &[u8]) -> Option<Vec<u8>> {
    let blocks = record.strip_prefix(FLAC_MAGIC)?;
    let mut out = [&[0, 0, 0, 0], blocks].concat();
    if blocks.len() < 4 + STREAMINFO || blocks[0] & 0x7f != 0 {
        return None;
    }
    if blocks.len() == 4 + STREAMINFO {
        out[4] |= 0x80;
    }
    Some(out)
}

/// `ESDBox`: an ES descriptor with a decoder configuration and the mandatory fields (ISO/IEC 14496-1 §7.2.6).
fn esds(object: u8, specific: &[u8]) -> Vec<u8> {
    let specific = if specific.is_empty() { Vec::new() } else { descriptor(5, specific) };
    // Audio stream, upstream no, reserved one; buffer size and bit rates are not known.
    let decoder = descriptor(4, &[&[object, 0x15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &specific].concat());
    let stream = descriptor(3, &[&[0, 0, 0][..], &decoder, &descriptor(6, &[2])].concat());
    [&[0, 0, 0, 0][..], &stream].concat()
}

fn descriptor(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len() as u32;
    let sized = [21, 14, 7].map(|shift| 0x80 | (length >> shift) as u8 & 0x7f);
    [&[tag][..], &sized, &[length as u8 & 0x7f], content].concat()
}

/// The object type and the decoder specific information of an `esds` box's content.
fn decoder_config(esds: &[u8]) -> Option<(u8, &[u8])> {
    let (3, stream, _) = read_descriptor(esds.get(4..)?)? else { return None };
    let flags = *stream.get(2)?;
    let mut skip = 3 + if flags & 0x80 != 0 { 2 } else { 0 };
    if flags & 0x40 != 0 {
        skip += 1 + usize::from(*stream.get(skip)?);
    }
    if flags & 0x20 != 0 {
        skip += 2;
    }
    let (4, decoder, _) = read_descriptor(stream.get(skip..)?)? else { return None };
    let specific = match read_descriptor(decoder.get(13..)?) {
        Some((5, specific, _)) => specific,
        _ => &[],
    };
    Some((*decoder.first()?, specific))
}

/// A descriptor's tag and content, and what follows it.
fn read_descriptor(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let mut length = 0usize;
    for at in 1..=4 {
        let byte = *bytes.get(at)?;
        length = length << 7 | usize::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            let content = bytes.get(at + 1..at + 1 + length)?;
            return Some((bytes[0], content, &bytes[at + 1 + length..]));
        }
    }
    None
}

/// MPEG-1 audio has the rates from 32 kHz up; MPEG-2 added the lower ones.
fn mp3_object(format: Format) -> u8 {
    match format {
        Format::Audio { sample_rate: 1..32_000, .. } => OBJECT_MP3_LOW,
        _ => OBJECT_MP3,
    }
}

/// ISO/IEC 14496-3 audio.
const OBJECT_AAC: u8 = 0x40;
/// ISO/IEC 11172-3 audio.
const OBJECT_MP3: u8 = 0x6b;
/// ISO/IEC 13818-3 audio.
const OBJECT_MP3_LOW: u8 = 0x69;
const OPUS_MAGIC: &[u8] = b"OpusHead";
const FLAC_MAGIC: &[u8] = b"fLaC";
/// Bytes of a STREAMINFO block without its header (RFC 9639 §8.2).
const STREAMINFO: usize = 34;
/// Bytes of a visual sample entry before its boxes.
const VISUAL_HEAD: usize = 78;
/// Bytes of an audio sample entry before its boxes.
const AUDIO_HEAD: usize = 28;
