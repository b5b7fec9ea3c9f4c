//! What a peer may take: every wait, size and count of an RTMP connection has its bound here.

use std::time::Duration;

/// The bounds of one connection. `Default` suits a server on the open internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the first byte to `publish` or `play`, in all: a peer that trickles bytes does not prolong it.
    pub handshake: Duration,
    /// The longest silence of a publisher, or of a server that plays to us.
    pub idle: Duration,
    /// The longest that one write may make no progress to completion.
    pub write: Duration,
    /// Bytes of one audio, video or aggregate message. The protocol's own bound is 16,777,215. A server takes no message longer
    /// than `max_command` before it has let the client publish.
    pub max_message: usize,
    /// Bytes of one command or data message.
    pub max_command: usize,
    /// Chunk streams in use at once. Real encoders use four to six.
    pub max_chunk_streams: usize,
    /// Bytes of unfinished messages over all chunk streams, as allocated; twice `max_command` where `max_message` does not apply.
    pub max_buffered: usize,
    /// Message streams that `createStream` gives. Real clients want one or two.
    pub max_message_streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            write: Duration::from_secs(10),
            // An IDR of 4K at 100 Mbit/s is about 2 MB.
            max_message: 8 << 20,
            // The largest metadata seen in the wild is 4 kB.
            max_command: 64 << 10,
            max_chunk_streams: 32,
            // One message under way per kind of media, and then some.
            max_buffered: 12 << 20,
            max_message_streams: 8,
        }
    }
}
