//! The chunk reader: accepts any fragmentation and any interleaving, with bounded memory.
//!
//! Each chunk stream has its own buffer, which grows with received bytes, not with the announced length.

use bytes::Bytes;

use super::skipped::{self, Skipped};
use super::{DEFAULT_CHUNK_SIZE, EXTENDED, Error, RawMessage, kind};
use crate::rtmp::Limits;

/// Assembles messages from chunks.
#[derive(Debug)]
pub struct Reader {
    chunk_size: usize,
    streams: Vec<ChunkStream>,
    /// The bytes of an incomplete chunk header.
    header: Vec<u8>,
    /// The chunk whose payload is being read: index into `streams`, bytes left.
    payload: Option<(usize, usize)>,
    /// Bytes that were not an extended timestamp after all: they are read again before new input.
    replay: Vec<u8>,
    /// Whether a type 3 chunk lacked the extended timestamp, which the specification requires to be repeated: this peer never repeats it.
    never_repeats: bool,
    /// Bytes allocated for unfinished messages.
    buffered: usize,
    abandoned: u64,
    /// The newest message that was skipped, and how many there are, since they were last taken.
    skipped: Option<Skipped>,
    max_message: usize,
    max_command: usize,
    max_chunk_streams: usize,
    max_buffered: usize,
}

#[derive(Debug)]
struct ChunkStream {
    id: u32,
    /// The last timestamp or delta, extended or not: what a type 3 chunk that begins a message adds.
    field: u32,
    extended: bool,
    timestamp: u32,
    length: usize,
    kind: u8,
    message_stream: u32,
    /// Whether a message is in progress.
    open: bool,
    /// Bytes received of the message in progress.
    received: usize,
    /// Whether that is too long to be held, and may be skipped: `body` has its beginning, and is not counted.
    is_skipping: bool,
    body: Vec<u8>,
}

/// A complete chunk header.
struct Header {
    format: u8,
    id: u32,
    field: u32,
    extended: bool,
    length: usize,
    kind: u8,
    message_stream: u32,
}

enum Parsed {
    Whole(Header),
    /// The header is incomplete: it has at least this many bytes in total.
    Needs(usize),
    /// A type 3 chunk without a repeated extended timestamp; everything after this many bytes is payload.
    NotRepeated(Header, usize),
}

impl Reader {
    /// A reader for a new connection with these bounds.
    pub fn new(limits: &Limits) -> Self {
        let mut reader = Self::commands_only(limits);
        reader.allow_media(limits);
        reader
    }

    /// A reader for a peer that may not send media yet: no message may be longer than a command.
    pub fn commands_only(limits: &Limits) -> Self {
        Self {
            chunk_size: DEFAULT_CHUNK_SIZE as usize,
            streams: Vec::new(),
            header: Vec::with_capacity(MAX_HEADER),
            payload: None,
            replay: Vec::new(),
            never_repeats: false,
            buffered: 0,
            abandoned: 0,
            skipped: None,
            max_message: limits.max_command.min(limits.max_message),
            max_command: limits.max_command,
            max_chunk_streams: limits.max_chunk_streams,
            // A command in progress, and control messages or another command between its chunks.
            max_buffered: limits.max_command.saturating_mul(2).min(limits.max_buffered),
        }
    }

    /// Accepts media messages from now on.
    pub fn allow_media(&mut self, limits: &Limits) {
        self.max_message = limits.max_message;
        self.max_buffered = limits.max_buffered;
    }

    /// Consumes bytes from the front of `input` until a message is complete or `input` is empty.
    ///
    /// # Errors
    /// If a chunk is malformed, or a message that cannot be done without exceeds a bound. Others are [skipped](Self::take_skipped).
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<RawMessage>, Error> {
        loop {
            let message = if self.replay.is_empty() {
                if input.is_empty() {
                    return Ok(None);
                }
                self.step(input)?
            } else {
                let again = std::mem::take(&mut self.replay);
                let mut rest = again.as_slice();
                let message = self.step(&mut rest)?;
                self.replay.extend_from_slice(rest);
                message
            };
            if message.is_some() {
                return Ok(message);
            }
        }
    }

    /// Bytes allocated for unfinished messages; at most `max_buffered`.
    pub fn buffered(&self) -> usize {
        self.buffered
    }

    /// Number of messages dropped unfinished: by Abort, or because another message began on their chunk stream.
    pub fn abandoned(&self) -> u64 {
        self.abandoned
    }

    /// The newest message that was skipped, and their number, since the last call.
    pub fn take_skipped(&mut self) -> Option<Skipped> {
        self.skipped.take()
    }

    /// Reads one header or one piece of payload. `input` is not empty.
    fn step(&mut self, input: &mut &[u8]) -> Result<Option<RawMessage>, Error> {
        let Some((at, left)) = self.payload else { return self.step_header(input) };
        let (part, rest) = input.split_at(left.min(input.len()));
        self.append(at, part)?;
        *input = rest;
        let left = left - part.len();
        if left > 0 {
            self.payload = Some((at, left));
            return Ok(None);
        }
        self.payload = None;
        self.finish(at)
    }

    fn step_header(&mut self, input: &mut &[u8]) -> Result<Option<RawMessage>, Error> {
        loop {
            match self.parse()? {
                Parsed::Needs(bytes) => {
                    let missing = bytes - self.header.len();
                    let (part, rest) = input.split_at(missing.min(input.len()));
                    self.header.extend_from_slice(part);
                    *input = rest;
                    if part.len() < missing {
                        return Ok(None);
                    }
                }
                Parsed::Whole(header) => {
                    self.header.clear();
                    return self.begin(header);
                }
                Parsed::NotRepeated(header, basic) => {
                    self.never_repeats = true;
                    self.replay.extend_from_slice(&self.header[basic..]);
                    self.header.clear();
                    return self.begin(header);
                }
            }
        }
    }

    /// Parses the buffered chunk header (RTMP 1.0 §5.3.1).
    fn parse(&self) -> Result<Parsed, Error> {
        let bytes = self.header.as_slice();
        let Some(&first) = bytes.first() else { return Ok(Parsed::Needs(1)) };
        let format = first >> 6;
        let basic = match first & 0x3f {
            0 => 2,
            1 => 3,
            _ => 1,
        };
        let message_header = [11, 7, 3, 0][usize::from(format)];
        if bytes.len() < basic + message_header {
            return Ok(Parsed::Needs(basic + message_header));
        }
        let id = match first & 0x3f {
            0 => 64 + u32::from(bytes[1]),
            1 => 64 + u32::from(bytes[1]) + 256 * u32::from(bytes[2]),
            id => id.into(),
        };
        let known = self.streams.iter().find(|s| s.id == id);
        let fields = &bytes[basic..];
        let mut header = Header {
            format,
            id,
            field: known.map_or(0, |s| s.field),
            extended: known.is_some_and(|s| s.extended),
            length: known.map_or(0, |s| s.length),
            kind: known.map_or(0, |s| s.kind),
            message_stream: known.map_or(0, |s| s.message_stream),
        };
        // librtmp opens chunk stream 2 with a type 1 chunk, which has every field but the message stream ID; that is 0 there.
        if format >= 2 && known.is_none() {
            return Err(Error::NoPrecedent { chunk_stream: id, format });
        }
        if format <= 2 {
            header.field = u32::from_be_bytes([0, fields[0], fields[1], fields[2]]);
            header.extended = header.field == EXTENDED;
        }
        if format <= 1 {
            header.length = u32::from_be_bytes([0, fields[3], fields[4], fields[5]]) as usize;
            header.kind = fields[6];
        }
        if format == 0 {
            header.message_stream = u32::from_le_bytes([fields[7], fields[8], fields[9], fields[10]]);
        }
        if !header.extended {
            return Ok(Parsed::Whole(header));
        }
        let extension = &bytes[basic + message_header..];
        if format <= 2 {
            let Some(extension) = extension.first_chunk() else {
                return Ok(Parsed::Needs(basic + message_header + 4));
            };
            header.field = u32::from_be_bytes(*extension);
            return Ok(Parsed::Whole(header));
        }
        // The specification requires type 3 chunks to repeat the extended timestamp, as FFmpeg does. Old librtmp and others do not, and some
        // repeat the absolute timestamp where the field was a delta. Bytes that match neither are payload.
        if self.never_repeats {
            return Ok(Parsed::Whole(header));
        }
        let stream = known.expect("a type 3 chunk has a precedent");
        let next = stream.timestamp.wrapping_add(stream.field);
        let repeated = [stream.field, stream.timestamp, next].map(u32::to_be_bytes);
        if !repeated.iter().any(|r| r.starts_with(extension)) {
            return Ok(Parsed::NotRepeated(header, basic));
        }
        Ok(if extension.len() == 4 { Parsed::Whole(header) } else { Parsed::Needs(basic + extension.len() + 1) })
    }

    /// Handles a complete chunk header: the payload follows.
    fn begin(&mut self, header: Header) -> Result<Option<RawMessage>, Error> {
        let at = match self.streams.iter().position(|s| s.id == header.id) {
            Some(at) => at,
            None if self.streams.len() >= self.max_chunk_streams => {
                return Err(Error::ChunkStreams { limit: self.max_chunk_streams });
            }
            None => {
                self.streams.push(ChunkStream::new(header.id));
                self.streams.len() - 1
            }
        };
        if header.format < 3 && self.streams[at].open {
            self.abandon(at);
        }
        let stream = &mut self.streams[at];
        if !stream.open {
            let limit = match header.kind {
                kind::SET_CHUNK_SIZE | kind::ABORT | kind::ACKNOWLEDGEMENT | kind::WINDOW | kind::PEER_BANDWIDTH => 16,
                kind::USER_CONTROL => 64,
                kind::AUDIO | kind::VIDEO | kind::AGGREGATE => self.max_message,
                _ => self.max_command,
            };
            stream.is_skipping = header.length > limit;
            if stream.is_skipping && !skipped::may_be_skipped(header.kind) {
                return Err(Error::TooLong { kind: header.kind, length: header.length, limit });
            }
            stream.timestamp =
                if header.format == 0 { header.field } else { stream.timestamp.wrapping_add(header.field) };
            (stream.open, stream.received) = (true, 0);
        }
        stream.field = header.field;
        stream.extended = header.extended;
        stream.length = header.length;
        stream.kind = header.kind;
        stream.message_stream = header.message_stream;
        let left = (stream.length - stream.received).min(self.chunk_size);
        if left == 0 {
            return self.finish(at);
        }
        self.payload = Some((at, left));
        Ok(None)
    }

    fn append(&mut self, at: usize, part: &[u8]) -> Result<(), Error> {
        let stream = &mut self.streams[at];
        stream.received += part.len();
        if stream.is_skipping {
            let wanted = skipped::BEGINNING.saturating_sub(stream.body.len()).min(part.len());
            stream.body.extend_from_slice(&part[..wanted]);
            return Ok(());
        }
        let (held, capacity) = (stream.body.len(), stream.body.capacity());
        if held + part.len() > capacity {
            // The final size is exact, so that the body shared by subscribers wastes no memory.
            let wanted = stream.length.min((capacity * 2).max(FIRST_ALLOCATION).max(held + part.len()));
            if self.buffered - capacity + wanted > self.max_buffered {
                return Err(Error::Buffered { limit: self.max_buffered });
            }
            stream.body.reserve_exact(wanted - held);
            self.buffered = self.buffered - capacity + stream.body.capacity();
        }
        stream.body.extend_from_slice(part);
        Ok(())
    }

    /// Handles the end of a chunk, which may complete its message.
    fn finish(&mut self, at: usize) -> Result<Option<RawMessage>, Error> {
        let stream = &mut self.streams[at];
        if stream.received < stream.length {
            return Ok(None);
        }
        let (kind, length) = (stream.kind, stream.length);
        let is_skipped = stream.is_skipping;
        let body = Bytes::from(self.close(at));
        if is_skipped {
            let count = self.skipped.take().map_or(0, |skipped| skipped.count) + 1;
            self.skipped = Some(Skipped { kind, length, name: skipped::name(kind, &body), count });
            return Ok(None);
        }
        let stream = &self.streams[at];
        let message =
            RawMessage { kind: stream.kind, stream: stream.message_stream, timestamp: stream.timestamp, body };
        match message.kind {
            kind::SET_CHUNK_SIZE => {
                let size = control_number(&message)?;
                if !(1..=0x7fff_ffff).contains(&size) {
                    return Err(Error::ChunkSize { size });
                }
                self.chunk_size = size as usize;
                Ok(None)
            }
            kind::ABORT => {
                let id = control_number(&message)?;
                if let Some(at) = self.streams.iter().position(|s| s.id == id && s.open) {
                    self.abandon(at);
                }
                Ok(None)
            }
            _ => Ok(Some(message)),
        }
    }

    fn abandon(&mut self, at: usize) {
        self.close(at);
        self.abandoned += 1;
    }

    /// Ends the message in progress; returns what is held of it.
    fn close(&mut self, at: usize) -> Vec<u8> {
        let stream = &mut self.streams[at];
        stream.open = false;
        if !std::mem::take(&mut stream.is_skipping) {
            self.buffered -= stream.body.capacity();
        }
        std::mem::take(&mut stream.body)
    }
}

impl ChunkStream {
    fn new(id: u32) -> Self {
        Self {
            id,
            field: 0,
            extended: false,
            timestamp: 0,
            length: 0,
            kind: 0,
            message_stream: 0,
            open: false,
            received: 0,
            is_skipping: false,
            body: Vec::new(),
        }
    }
}

/// The single 32-bit number of a protocol control message (RTMP 1.0 §5.4).
pub(crate) fn control_number(message: &RawMessage) -> Result<u32, Error> {
    let bytes = message.body.first_chunk();
    bytes.map(|b| u32::from_be_bytes(*b)).ok_or(Error::Control { kind: message.kind, length: message.body.len() })
}

/// The longest chunk header, in bytes: basic header, message header, extended timestamp.
const MAX_HEADER: usize = 3 + 11 + 4;
/// Bytes allocated first for a message: most audio and many video messages fit.
const FIRST_ALLOCATION: usize = 4096;
