//! The bounds of every wait, size and count of an RTMP connection.

use std::time::Duration;

/// The bounds of one connection. `Default` suits a server on the open internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Total time from the connection to `publish` or `play`: a peer that sends slowly does not extend it.
    pub handshake: Duration,
    /// The longest time without data from a publisher, or from a server that we play from.
    pub idle: Duration,
    /// The longest time that one write may take.
    pub write: Duration,
    /// Bytes of one audio, video or aggregate message. The protocol's own bound is 16,777,215. Before it has accepted a publisher, a server
    /// accepts no message longer than `max_command`.
    pub max_message: usize,
    /// Bytes of one command or data message. A longer data message is skipped.
    pub max_command: usize,
    /// Chunk streams in use at once. Real encoders use four to six.
    pub max_chunk_streams: usize,
    /// Bytes allocated for unfinished messages over all chunk streams; twice `max_command` before `max_message` applies.
    pub max_buffered: usize,
    /// Message streams that `createStream` creates. Real clients use one or two.
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
            // Live encoders send up to 4 kB of metadata. Files have an index of their key frames there, which nobody needs live.
            max_command: 64 << 10,
            max_chunk_streams: 32,
            // One message in progress for each kind of media, with a reserve.
            max_buffered: 12 << 20,
            max_message_streams: 8,
        }
    }
}
