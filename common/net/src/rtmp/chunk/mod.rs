//! The chunk stream (RTMP 1.0 §5.3): messages cut into chunks, interleaved over chunk streams.
//!
//! Message types are plain numbers here; the session interprets them. The exceptions are Set Chunk Size and Abort, which the reader
//! applies at once, because the next chunk depends on them.

mod reader;
mod skipped;
mod writer;

#[cfg(test)]
mod tests;

use bytes::Bytes;

pub use reader::Reader;
pub(crate) use reader::control_number;
pub use skipped::Skipped;
pub use writer::{continuation_header, message_header, write};

/// A complete message from the chunk stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawMessage {
    /// The message type id.
    pub kind: u8,
    /// The message stream ID; 0 is the connection itself.
    pub stream: u32,
    /// The absolute timestamp in milliseconds, modulo 2^32.
    pub timestamp: u32,
    /// The payload, in an allocation of exactly its size.
    pub body: Bytes,
}

/// How a chunk stream is malformed or exceeds a bound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Chunk size 0 or over 2^31-1 (RTMP 1.0 §5.4.1).
    #[error("the peer sets a chunk size of {size}; it must be 1 to 2147483647")]
    ChunkSize {
        /// The chunk size that the peer set.
        size: u32,
    },
    /// A chunk omits header fields that no earlier chunk of its chunk stream has set.
    #[error("chunk stream {chunk_stream} begins with a type {format} chunk, which needs a preceding chunk")]
    NoPrecedent {
        /// The chunk stream ID.
        chunk_stream: u32,
        /// Chunk type 2 or 3.
        format: u8,
    },
    /// A message is longer than the bound for its type, and cannot be skipped.
    #[error("a message of type {kind} announces {length} bytes; the limit is {limit}")]
    TooLong {
        /// The message type ID, one of [`kind`].
        kind: u8,
        /// Announced length in bytes.
        length: usize,
        /// The bound for this type in bytes.
        limit: usize,
    },
    /// The peer uses more chunk streams than the bound.
    #[error("more than {limit} chunk streams")]
    ChunkStreams {
        /// The largest number of chunk streams.
        limit: usize,
    },
    /// Unfinished messages hold more bytes than the bound.
    #[error("unfinished messages hold more than {limit} bytes")]
    Buffered {
        /// The bound in bytes.
        limit: usize,
    },
    /// A protocol control message has the wrong length.
    #[error("a control message of type {kind} has {length} bytes")]
    Control {
        /// The message type ID, one of [`kind`].
        kind: u8,
        /// Its length in bytes.
        length: usize,
    },
}

/// Message type ids (RTMP 1.0 §5.4, §6.2, §7.1).
pub mod kind {
    /// Set Chunk Size (RTMP 1.0 §5.4.1).
    pub const SET_CHUNK_SIZE: u8 = 1;
    /// Abort Message (RTMP 1.0 §5.4.2).
    pub const ABORT: u8 = 2;
    /// Acknowledgement (RTMP 1.0 §5.4.3).
    pub const ACKNOWLEDGEMENT: u8 = 3;
    /// User Control Message (RTMP 1.0 §6.2).
    pub const USER_CONTROL: u8 = 4;
    /// Window Acknowledgement Size (RTMP 1.0 §5.4.4).
    pub const WINDOW: u8 = 5;
    /// Set Peer Bandwidth (RTMP 1.0 §5.4.5).
    pub const PEER_BANDWIDTH: u8 = 6;
    /// Audio Message (RTMP 1.0 §7.1.4).
    pub const AUDIO: u8 = 8;
    /// Video Message (RTMP 1.0 §7.1.5).
    pub const VIDEO: u8 = 9;
    /// Data Message in AMF3.
    pub const DATA_AMF3: u8 = 15;
    /// Command Message in AMF3.
    pub const COMMAND_AMF3: u8 = 17;
    /// Data Message in AMF0.
    pub const DATA: u8 = 18;
    /// Command Message in AMF0.
    pub const COMMAND: u8 = 20;
    /// Aggregate Message (RTMP 1.0 §7.1.6).
    pub const AGGREGATE: u8 = 22;
}

/// The chunk size in bytes until a peer sets another one (RTMP 1.0 §5.4.1).
pub const DEFAULT_CHUNK_SIZE: u32 = 128;
/// The largest length that a message header can state.
pub const MAX_LENGTH: usize = 0xff_ffff;
/// A timestamp field of this value says that 32 bits follow (RTMP 1.0 §5.3.1.3).
const EXTENDED: u32 = 0xff_ffff;
