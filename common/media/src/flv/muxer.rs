//! Writes tracks and access units as tag bodies.
//!
//! The default track of H.264, AAC and MP3 is written in legacy tags, which every player reads; everything else in enhanced ones. A body is a
//! header, written here, and the shared payload; callers send one after the other.

use bytes::{BufMut, Bytes, BytesMut};

use super::body::{
    AUDIO_MULTITRACK, CODED_FRAMES, CODED_FRAMES_X, FRAME_INTER, FRAME_KEY, ONE_TRACK, SEQUENCE_END, SEQUENCE_START,
    SOUND_AAC, SOUND_EX_HEADER, SOUND_MP3, SOUND_MP3_8K, VIDEO_AVC, VIDEO_EX_HEADER, VIDEO_MULTITRACK,
    has_composition_time,
};
use crate::access_unit::{AccessUnit, TrackId};
use crate::catalog::Track;
use crate::codec::{Codec, Format};

/// RTMP message type, and FLV tag type, of a track: 8 is audio, 9 is video (RTMP 1.0 §7.1.4, §7.1.5).
pub const fn message_kind(id: TrackId) -> u8 {
    if id.is_video() { 9 } else { 8 }
}

/// The body that carries a track's decoder configuration. Empty for MP3, which has none; then nothing is sent.
pub fn sequence_header(track: &Track) -> Bytes {
    let record = &track.config.record;
    let mut out = BytesMut::with_capacity(MAX_UNIT_HEADER + record.len());
    match (track.config.codec, is_legacy(track)) {
        (Codec::Mp3, _) => return Bytes::new(),
        (Codec::H264, true) => out.put_slice(&[FRAME_KEY << 4 | VIDEO_AVC, 0, 0, 0, 0]),
        (_, true) => out.put_slice(&[SOUND_AAC << 4 | AAC_SOUND, 0]),
        (_, false) => put_enhanced(&mut out, track, FRAME_KEY, SEQUENCE_START),
    }
    out.put_slice(record);
    out.freeze()
}

/// The header before the payload of `unit`, of 1 to [`MAX_UNIT_HEADER`] bytes.
///
/// A composition time that does not fit 24 bits is cut to fit (over two hours); AV1, VP9 and audio have none on the wire.
pub fn unit_header(track: &Track, unit: &AccessUnit) -> Bytes {
    let mut out = BytesMut::with_capacity(MAX_UNIT_HEADER);
    let frame = if unit.random_access { FRAME_KEY } else { FRAME_INTER };
    let composition = unit.composition_time().clamp(-(1 << 23), (1 << 23) - 1);
    let codec = track.config.codec;
    match (codec, is_legacy(track)) {
        (Codec::H264, true) => {
            out.put_slice(&[frame << 4 | VIDEO_AVC, 1]);
            out.put_int(composition, 3);
        }
        (Codec::Mp3, true) => out.put_u8(mp3_sound(track.config.format)),
        (_, true) => out.put_slice(&[SOUND_AAC << 4 | AAC_SOUND, 1]),
        (_, false) if has_composition_time(codec) && composition == 0 => {
            put_enhanced(&mut out, track, frame, CODED_FRAMES_X);
        }
        (_, false) => {
            put_enhanced(&mut out, track, frame, CODED_FRAMES);
            if has_composition_time(codec) {
                out.put_int(composition, 3);
            }
        }
    }
    out.freeze()
}

/// The body that ends a track's sequence. Empty if legacy tags have none (AAC, MP3); then nothing is sent.
pub fn end_of_sequence(track: &Track) -> Bytes {
    let mut out = BytesMut::with_capacity(MAX_UNIT_HEADER);
    match (track.config.codec, is_legacy(track)) {
        (Codec::H264, true) => out.put_slice(&[FRAME_KEY << 4 | VIDEO_AVC, 2, 0, 0, 0]),
        (_, true) => {}
        (_, false) => put_enhanced(&mut out, track, FRAME_KEY, SEQUENCE_END),
    }
    out.freeze()
}

fn is_legacy(track: &Track) -> bool {
    track.id.index == 0 && matches!(track.config.codec, Codec::H264 | Codec::Aac | Codec::Mp3)
}

/// `ExAudioTagHeader` or `ExVideoTagHeader`, and the track id of a multitrack body with one track.
fn put_enhanced(out: &mut BytesMut, track: &Track, frame: u8, packet_type: u8) {
    let (first, multitrack) = match track.id.is_video() {
        true => (VIDEO_EX_HEADER | frame << 4, VIDEO_MULTITRACK),
        false => (SOUND_EX_HEADER << 4, AUDIO_MULTITRACK),
    };
    match track.id.index {
        0 => {
            out.put_u8(first | packet_type);
            out.put_slice(&track.config.codec.fourcc());
        }
        index => {
            out.put_slice(&[first | multitrack, ONE_TRACK << 4 | packet_type]);
            out.put_slice(&track.config.codec.fourcc());
            out.put_u8(index);
        }
    }
}

/// Sound format, rate, size and type of an MP3 tag (Adobe FLV 10.1 §E.4.2.1). Rates that it cannot express are written as
/// 44.1 kHz, as FFmpeg does: players read the frame header.
fn mp3_sound(format: Format) -> u8 {
    let (rate, channels) = match format {
        Format::Audio { sample_rate, channels } => (sample_rate, channels),
        Format::Video { .. } => (0, 0),
    };
    let stereo = u8::from(channels > 1);
    match rate {
        8_000 => SOUND_MP3_8K << 4 | 2 | stereo,
        11_025 => SOUND_MP3 << 4 | 1 << 2 | 2 | stereo,
        22_050 => SOUND_MP3 << 4 | 2 << 2 | 2 | stereo,
        _ => SOUND_MP3 << 4 | 3 << 2 | 2 | stereo,
    }
}

/// The constant sound format of AAC: 44.1 kHz, 16 bits, stereo (Adobe FLV 10.1 §E.4.2.1). The record has the real one.
const AAC_SOUND: u8 = 0x0f;
/// The longest header before a payload: an enhanced multitrack body with a composition time has 10 bytes.
pub const MAX_UNIT_HEADER: usize = 16;
