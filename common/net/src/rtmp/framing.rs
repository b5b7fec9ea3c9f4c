//! Serialises messages into chunks, once for any number of players.
//!
//! Every message is a type 0 chunk followed by type 3 chunks (RTMP 1.0 §5.3.1.2), so it does not depend on earlier messages: the same bytes
//! are valid in every session with message stream 1 and the given chunk size. Payloads are shared slices, never copied.

use bytes::{BufMut, Bytes, BytesMut};
use media::access_unit::TrackKind;

use super::amf::Value;
use super::chunk::{self, kind};
use super::message::GAP_COMMAND;
use super::session::command::{self, Status};
use super::{Error, Message, Metadata, amf};

/// One serialised message: the concatenation of its parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Framed {
    /// Headers and slices of the payload, in order; none is empty.
    pub parts: Vec<Bytes>,
}

impl Framed {
    /// The length in bytes on the wire, chunk headers included.
    pub fn len(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    /// Whether the message has no bytes.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// A contiguous copy, for small messages and tests.
    pub fn to_bytes(&self) -> Bytes {
        if let [only] = self.parts.as_slice() {
            return only.clone();
        }
        let mut all = BytesMut::with_capacity(self.len());
        self.parts.iter().for_each(|part| all.put_slice(part));
        all.freeze()
    }
}

/// An audio or video message on message stream 1. `head` (an FLV tag header of a few bytes) is copied, `payload` is shared.
///
/// # Errors
/// [`Error::Unsendable`] if the message is longer than 16,777,215 bytes.
pub fn media_message(
    kind: TrackKind,
    timestamp: u32,
    head: &[u8],
    payload: &Bytes,
    chunk_size: u32,
) -> Result<Framed, Error> {
    media_on_stream(kind, PLAY_STREAM, timestamp, head, payload, chunk_size)
}

/// `onMetaData` as a server sends it to players.
///
/// # Errors
/// [`Error::Unsendable`] if a string is longer than 65,535 bytes.
pub fn metadata_message(metadata: &Metadata, chunk_size: u32) -> Result<Framed, Error> {
    let body = amf::encode_metadata(&metadata.to_values()).map_err(|_| Error::Unsendable { what: "this metadata" })?;
    Ok(whole(DATA_CHUNK_STREAM, kind::DATA, PLAY_STREAM, &body, chunk_size))
}

/// Serialises any message as a server sends it to players; an end of stream becomes `StreamEOF` and `NetStream.Play.UnpublishNotify`.
///
/// # Errors
/// As [`media_message`] and [`metadata_message`].
pub fn message(message: &Message, chunk_size: u32) -> Result<Framed, Error> {
    match message {
        Message::Audio { timestamp, body } => media_message(TrackKind::Audio, *timestamp, &[], body, chunk_size),
        Message::Video { timestamp, body } => media_message(TrackKind::Video, *timestamp, &[], body, chunk_size),
        Message::Metadata(metadata) => metadata_message(metadata, chunk_size),
        Message::Gap(gap) => {
            let mut out = BytesMut::new();
            let arguments = [Value::Null, amf::texts(gap.to_properties())];
            command::command(&mut out, chunk_size, PLAY_STREAM, GAP_COMMAND, 0.0, arguments);
            Ok(Framed { parts: vec![out.freeze()] })
        }
        // Addressed to the server only.
        Message::Peer(_) => Err(Error::Unsendable { what: "a peer advertisement to a player" }),
        Message::Timing(_) => Err(Error::Unsendable { what: "publisher timing to a player" }),
        Message::EndOfStream => {
            let mut out = BytesMut::new();
            command::user_control(&mut out, chunk_size, command::STREAM_EOF, &[PLAY_STREAM]);
            let gone = Status::new("status", "NetStream.Play.UnpublishNotify", "The publisher has ended the stream.");
            gone.write(&mut out, chunk_size, PLAY_STREAM);
            Ok(Framed { parts: vec![out.freeze()] })
        }
    }
}

/// [`media_message`] on any message stream.
pub(crate) fn media_on_stream(
    track: TrackKind,
    message_stream: u32,
    timestamp: u32,
    head: &[u8],
    payload: &Bytes,
    chunk_size: u32,
) -> Result<Framed, Error> {
    let (chunk_stream, kind) = match track {
        TrackKind::Audio => (AUDIO_CHUNK_STREAM, kind::AUDIO),
        TrackKind::Video => (VIDEO_CHUNK_STREAM, kind::VIDEO),
    };
    let length = head.len() + payload.len();
    if length > chunk::MAX_LENGTH {
        return Err(Error::Unsendable { what: "an access unit of more than 16 MB" });
    }
    let chunk_size = chunk_size.max(1) as usize;
    let mut header = BytesMut::with_capacity(16 + head.len());
    chunk::message_header(&mut header, chunk_stream, kind, message_stream, timestamp, length);
    let mut parts = Vec::with_capacity(2 * length.div_ceil(chunk_size).max(1));
    // The head is split only for a peer with very small chunks.
    let mut room = chunk_size;
    let mut continued = BytesMut::new();
    if length > chunk_size {
        chunk::continuation_header(&mut continued, chunk_stream, timestamp);
    }
    let continued = continued.freeze();
    for byte in head {
        if room == 0 {
            header.put_slice(&continued);
            room = chunk_size;
        }
        header.put_u8(*byte);
        room -= 1;
    }
    parts.push(header.freeze());
    let mut at = 0;
    while at < payload.len() {
        if room == 0 {
            parts.push(continued.clone());
            room = chunk_size;
        }
        let end = payload.len().min(at + room);
        parts.push(payload.slice(at..end));
        room -= end - at;
        at = end;
    }
    Ok(Framed { parts })
}

/// A small message in one part.
pub(crate) fn whole(chunk_stream: u8, kind: u8, message_stream: u32, body: &[u8], chunk_size: u32) -> Framed {
    let mut out = BytesMut::with_capacity(16 + body.len());
    chunk::write(&mut out, chunk_size, chunk_stream, kind, message_stream, 0, body);
    Framed { parts: vec![out.freeze()] }
}

/// The message stream of every play session: `createStream` returns it first, and no other is used for playback.
pub const PLAY_STREAM: u32 = 1;
/// The chunk size of every play session: nearly every access unit is one chunk, and an audio frame never waits long behind a video chunk.
pub const PLAY_CHUNK_SIZE: u32 = 64 << 10;
/// A chunk stream of its own, so that audio never waits for the rest of a video frame.
const AUDIO_CHUNK_STREAM: u8 = 4;
/// The chunk stream of metadata and other data messages.
pub(crate) const DATA_CHUNK_STREAM: u8 = 5;
/// The chunk stream of video messages.
const VIDEO_CHUNK_STREAM: u8 = 6;
