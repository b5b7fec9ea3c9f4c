//! The chunk stream (RTMP 1.0 §5.3): messages cut into chunks, interleaved over chunk streams.
//!
//! Message types are bare numbers here; what they mean is the session's concern, apart from Set Chunk Size and Abort, which the
//! reader obeys at once because the very next chunk depends on them.

mod reader;
mod writer;

#[cfg(test)]
mod tests;

use bytes::Bytes;

pub use reader::Reader;
pub(crate) use reader::control_number;
pub use writer::{continuation_header, message_header, write};

/// A whole message off the chunk stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawMessage {
    /// The message type id.
    pub kind: u8,
    /// The message stream that it belongs to; 0 is the connection itself.
    pub stream: u32,
    /// Milliseconds, modulo 2^32.
    pub timestamp: u32,
    /// The payload, in an allocation of exactly its size.
    pub body: Bytes,
}

/// What is wrong with a chunk stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Chunk size 0 or over 2^31-1 (RTMP 1.0 §5.4.1).
    #[error("the peer sets a chunk size of {size}; 1 to 2147483647 are legal")]
    ChunkSize {
        /// What it set.
        size: u32,
    },
    /// A chunk leaves out what its chunk stream has never said.
    #[error("chunk stream {chunk_stream} begins with a type {format} chunk, which has nothing to refer to")]
    NoPrecedent {
        /// Which.
        chunk_stream: u32,
        /// Chunk type 2 or 3.
        format: u8,
    },
    /// A message is longer than its type may be.
    #[error("a message of type {kind} announces {length} bytes; the limit is {limit}")]
    TooLong {
        /// Message type.
        kind: u8,
        /// Announced length in bytes.
        length: usize,
        /// The bound for this type in bytes.
        limit: usize,
    },
    /// More chunk streams than the bound.
    #[error("more than {limit} chunk streams")]
    ChunkStreams {
        /// The bound.
        limit: usize,
    },
    /// Unfinished messages hold more than the bound.
    #[error("unfinished messages hold more than {limit} bytes")]
    Buffered {
        /// The bound in bytes.
        limit: usize,
    },
    /// A protocol control message of the wrong length.
    #[error("a control message of type {kind} has {length} bytes")]
    Control {
        /// Message type.
        kind: u8,
        /// Its length in bytes.
        length: usize,
    },
}

/// Message type ids (RTMP 1.0 §5.4, §6.2, §7.1).
pub mod kind {
    /// Set Chunk Size.
    pub const SET_CHUNK_SIZE: u8 = 1;
    /// Abort Message.
    pub const ABORT: u8 = 2;
    /// Acknowledgement.
    pub const ACKNOWLEDGEMENT: u8 = 3;
    /// User Control Message.
    pub const USER_CONTROL: u8 = 4;
    /// Window Acknowledgement Size.
    pub const WINDOW: u8 = 5;
    /// Set Peer Bandwidth.
    pub const PEER_BANDWIDTH: u8 = 6;
    /// Audio Message.
    pub const AUDIO: u8 = 8;
    /// Video Message.
    pub const VIDEO: u8 = 9;
    /// Data Message in AMF3.
    pub const DATA_AMF3: u8 = 15;
    /// Command Message in AMF3.
    pub const COMMAND_AMF3: u8 = 17;
    /// Data Message in AMF0.
    pub const DATA: u8 = 18;
    /// Command Message in AMF0.
    pub const COMMAND: u8 = 20;
    /// Aggregate Message.
    pub const AGGREGATE: u8 = 22;
}

/// Until a peer sets another (RTMP 1.0 §5.4.1).
pub const DEFAULT_CHUNK_SIZE: u32 = 128;
/// The largest length that a message header can state.
pub const MAX_LENGTH: usize = 0xff_ffff;
/// A timestamp field of this value says that 32 bits follow (RTMP 1.0 §5.3.1.3).
const EXTENDED: u32 = 0xff_ffff;
