//! Splits a tag body into [`Packet`]s, one for each track in it.
//!
//! Legacy bodies: Adobe FLV 10.1 §E.4.2.1, §E.4.3.1. Enhanced: "Enhanced Audio", "Enhanced Video" of Enhanced RTMP v2, of
//! which v1 is a subset. It knows neither tracks nor timestamps.

use bytes::{Buf, Bytes};

use super::Error;
use crate::access_unit::{TrackId, TrackKind};
use crate::codec::Codec;

/// The content of a body for one track.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) track: TrackId,
    pub(super) codec: Codec,
    pub(super) content: Content,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// A decoder configuration record.
    SequenceStart(Bytes),
    /// A coded picture or audio frame, and its composition time in milliseconds.
    Frame {
        composition: i32,
        payload: Bytes,
    },
    SequenceEnd,
    /// Number of channels, for codecs whose record does not state it (`MultichannelConfig`).
    Channels(u8),
}

/// The packets of a body, in order; each one is parsed or refused independently. Empty for bodies without media, such as an audio
/// silence message, a seek command or colour metadata.
pub(super) fn packets(kind: TrackKind, body: Bytes) -> Result<Vec<Result<Packet, Error>>, Error> {
    match (kind, body.first().copied()) {
        // An audio message without a byte means silence (Enhanced RTMP v2, `AudioPacketType`); for video it means nothing.
        (_, None) => Ok(Vec::new()),
        (TrackKind::Audio, Some(first)) if first >> 4 == SOUND_EX_HEADER => enhanced(kind, first, body),
        (TrackKind::Audio, Some(first)) => legacy_audio(first, body),
        (TrackKind::Video, Some(first)) if first & VIDEO_EX_HEADER != 0 => enhanced(kind, first, body),
        (TrackKind::Video, Some(first)) => legacy_video(first, body),
    }
}

fn legacy_audio(first: u8, body: Bytes) -> Result<Vec<Result<Packet, Error>>, Error> {
    let mut reader = Reader::new(body, 1);
    let (codec, content) = match first >> 4 {
        SOUND_AAC => match (reader.u8("AAC packet type")?, reader.rest()) {
            (0, record) => (Codec::Aac, Content::SequenceStart(record)),
            (1, payload) => (Codec::Aac, Content::Frame { composition: 0, payload }),
            (other, _) => return Err(Error::Unsupported { what: "AAC packet type", value: other }),
        },
        SOUND_MP3 | SOUND_MP3_8K => (Codec::Mp3, Content::Frame { composition: 0, payload: reader.rest() }),
        id => return Err(Error::LegacyCodec { what: "sound format", id }),
    };
    Ok(vec![Ok(Packet { track: TrackId::AUDIO, codec, content })])
}

fn legacy_video(first: u8, body: Bytes) -> Result<Vec<Result<Packet, Error>>, Error> {
    if first >> 4 == FRAME_COMMAND {
        return Ok(Vec::new());
    }
    let codec = match first & 0x0f {
        VIDEO_AVC => Codec::H264,
        VIDEO_HEVC => Codec::Hevc,
        id => return Err(Error::LegacyCodec { what: "video codec", id }),
    };
    let mut reader = Reader::new(body, 1);
    let packet_type = reader.u8("AVC packet type")?;
    let composition = reader.si24("composition time")?;
    let content = match packet_type {
        0 => Content::SequenceStart(reader.rest()),
        1 => Content::Frame { composition, payload: reader.rest() },
        2 => Content::SequenceEnd,
        other => return Err(Error::Unsupported { what: "AVC packet type", value: other }),
    };
    Ok(vec![Ok(Packet { track: TrackId::VIDEO, codec, content })])
}

/// `ExAudioTagHeader`, `ExVideoTagHeader` and what follows them.
fn enhanced(kind: TrackKind, first: u8, body: Bytes) -> Result<Vec<Result<Packet, Error>>, Error> {
    let mut reader = Reader::new(body, 1);
    let mut packet_type = first & 0x0f;
    while packet_type == MOD_EX {
        packet_type = mod_ex(&mut reader)?;
    }
    let is_video = kind == TrackKind::Video;
    // Bit 7 is the enhanced flag; a seek command has no codec and no payload.
    if is_video && first >> 4 & 7 == FRAME_COMMAND && packet_type != METADATA {
        return Ok(Vec::new());
    }
    if packet_type != if is_video { VIDEO_MULTITRACK } else { AUDIO_MULTITRACK } {
        let fourcc = reader.fourcc()?;
        let packet = packet(TrackId { kind, index: 0 }, packet_type, fourcc, reader);
        return Ok(packet.transpose().into_iter().collect());
    }
    let types = reader.u8("multitrack type")?;
    let (multitrack, packet_type) = (types >> 4, types & 0x0f);
    if multitrack > MANY_TRACKS_MANY_CODECS {
        return Err(Error::Unsupported { what: "multitrack type", value: multitrack });
    }
    let shared = if multitrack == MANY_TRACKS_MANY_CODECS { None } else { Some(reader.fourcc()?) };
    let mut packets = Vec::new();
    while reader.has_more() {
        let fourcc = match shared {
            Some(fourcc) => fourcc,
            None => reader.fourcc()?,
        };
        let track = TrackId { kind, index: reader.u8("track id")? };
        let rest = match multitrack {
            ONE_TRACK => reader.take_rest(),
            _ => {
                let size = reader.u24("track size")?;
                reader.take(size as usize, "track")?
            }
        };
        packets.extend(packet(track, packet_type, fourcc, rest).transpose());
    }
    Ok(packets)
}

/// One track's part of an enhanced body, after the FourCC. `None` if it holds no media.
fn packet(track: TrackId, packet_type: u8, fourcc: [u8; 4], mut reader: Reader) -> Result<Option<Packet>, Error> {
    if track.is_video() && packet_type == METADATA {
        return Ok(None);
    }
    let codec = Codec::from_fourcc(fourcc).filter(|codec| codec.is_video() == track.is_video());
    let codec = codec.ok_or(Error::FourCc { fourcc })?;
    let content = match (track.kind, packet_type) {
        (_, SEQUENCE_START) => Content::SequenceStart(reader.rest()),
        (_, SEQUENCE_END) => Content::SequenceEnd,
        (TrackKind::Audio, CODED_FRAMES) => Content::Frame { composition: 0, payload: reader.rest() },
        (TrackKind::Video, CODED_FRAMES) => {
            let composition = if has_composition_time(codec) { reader.si24("composition time")? } else { 0 };
            Content::Frame { composition, payload: reader.rest() }
        }
        (TrackKind::Video, CODED_FRAMES_X) => Content::Frame { composition: 0, payload: reader.rest() },
        (TrackKind::Audio, MULTICHANNEL_CONFIG) => {
            let order = reader.u8("channel order")?;
            let channels = reader.u8("channel count")?;
            match order {
                0 => {}
                1 => drop(reader.take(4, "channel flags")?),
                2 => drop(reader.take(usize::from(channels), "channel mapping")?),
                other => return Err(Error::Unsupported { what: "audio channel order", value: other }),
            }
            Content::Channels(channels)
        }
        (TrackKind::Video, MPEG2_TS_SEQUENCE_START) => {
            return Err(Error::Unsupported {
                what: "video packet type (MPEG-2 TS sequence start)",
                value: packet_type,
            });
        }
        (TrackKind::Video, _) => return Err(Error::Unsupported { what: "video packet type", value: packet_type }),
        (TrackKind::Audio, _) => return Err(Error::Unsupported { what: "audio packet type", value: packet_type }),
    };
    Ok(Some(Packet { track, codec, content }))
}

/// Reads one ModEx and returns the packet type after it.
///
/// The one kind that is defined, `TimestampOffsetNano`, states nanoseconds below a millisecond. Nearcast uses whole
/// milliseconds, which identify a unit, so it is checked and dropped; an unknown kind is skipped.
fn mod_ex(reader: &mut Reader) -> Result<u8, Error> {
    let mut size = usize::from(reader.u8("ModEx size")?) + 1;
    if size == 256 {
        size = usize::from(reader.u16("ModEx size")?) + 1;
    }
    let data = reader.take(size, "ModEx data")?;
    let types = reader.u8("ModEx type")?;
    if types >> 4 == TIMESTAMP_OFFSET_NANO && data.left() < 3 {
        return Err(Error::Truncated { what: "TimestampOffsetNano", have: data.have });
    }
    Ok(types & 0x0f)
}

/// Which enhanced video codecs write a composition time (`ExVideoTagBody`).
pub(super) const fn has_composition_time(codec: Codec) -> bool {
    matches!(codec, Codec::H264 | Codec::Hevc)
}

/// The rest of a body, and the size of the whole body for errors.
struct Reader {
    left: Bytes,
    have: usize,
}

impl Reader {
    fn new(body: Bytes, skip: usize) -> Self {
        Self { have: body.len(), left: body.slice(skip.min(body.len())..) }
    }

    fn left(&self) -> usize {
        self.left.len()
    }

    fn has_more(&self) -> bool {
        !self.left.is_empty()
    }

    fn need(&self, bytes: usize, what: &'static str) -> Result<(), Error> {
        if self.left.len() < bytes { Err(Error::Truncated { what, have: self.have }) } else { Ok(()) }
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, Error> {
        self.need(1, what)?;
        Ok(self.left.get_u8())
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, Error> {
        self.need(2, what)?;
        Ok(self.left.get_u16())
    }

    fn u24(&mut self, what: &'static str) -> Result<u32, Error> {
        self.need(3, what)?;
        Ok(self.left.get_uint(3) as u32)
    }

    fn si24(&mut self, what: &'static str) -> Result<i32, Error> {
        self.need(3, what)?;
        Ok(self.left.get_int(3) as i32)
    }

    fn fourcc(&mut self) -> Result<[u8; 4], Error> {
        self.need(4, "FourCC")?;
        Ok(self.left.get_u32().to_be_bytes())
    }

    fn take(&mut self, bytes: usize, what: &'static str) -> Result<Self, Error> {
        self.need(bytes, what)?;
        Ok(Self { left: self.left.split_to(bytes), have: self.have })
    }

    fn take_rest(&mut self) -> Self {
        Self { left: self.rest(), have: self.have }
    }

    fn rest(&mut self) -> Bytes {
        self.left.split_off(0)
    }
}

pub(super) const SOUND_MP3: u8 = 2;
pub(super) const SOUND_EX_HEADER: u8 = 9;
pub(super) const SOUND_AAC: u8 = 10;
pub(super) const SOUND_MP3_8K: u8 = 14;

pub(super) const VIDEO_AVC: u8 = 7;
/// Never standardised; what CDNs and encoders used before Enhanced RTMP.
const VIDEO_HEVC: u8 = 12;
pub(super) const VIDEO_EX_HEADER: u8 = 0x80;

pub(super) const FRAME_KEY: u8 = 1;
pub(super) const FRAME_INTER: u8 = 2;
const FRAME_COMMAND: u8 = 5;

// `AudioPacketType` and `VideoPacketType`, where they agree.
pub(super) const SEQUENCE_START: u8 = 0;
pub(super) const CODED_FRAMES: u8 = 1;
pub(super) const SEQUENCE_END: u8 = 2;
const MOD_EX: u8 = 7;
// `VideoPacketType`.
pub(super) const CODED_FRAMES_X: u8 = 3;
const METADATA: u8 = 4;
const MPEG2_TS_SEQUENCE_START: u8 = 5;
pub(super) const VIDEO_MULTITRACK: u8 = 6;
// `AudioPacketType`.
const MULTICHANNEL_CONFIG: u8 = 4;
pub(super) const AUDIO_MULTITRACK: u8 = 5;
// `AvMultitrackType`.
pub(super) const ONE_TRACK: u8 = 0;
const MANY_TRACKS_MANY_CODECS: u8 = 2;
const TIMESTAMP_OFFSET_NANO: u8 = 0;
