//! The layer below commands, shared by both ends: handshake, chunk stream, acknowledgements, pings. Pure.

use bytes::{Bytes, BytesMut};

use super::command;
use crate::rtmp::chunk::{self, RawMessage, Reader, Skipped, control_number, kind};
use crate::rtmp::handshake::Handshake;
use crate::rtmp::{Error, Limits};

/// One end of a connection, below commands.
pub(super) struct Wire {
    handshake: Option<Handshake>,
    reader: Reader,
    out: BytesMut,
    /// The chunk size that we send with.
    chunk_size: u32,
    /// Bytes received, the handshake included, as librtmp and SRS count.
    received: u64,
    /// [`Wire::received`] when we last acknowledged.
    acknowledged: u64,
    /// The peer's window acknowledgement size, in bytes.
    window: u64,
}

/// Input that the session has to handle.
pub(super) enum Inbound {
    /// Media, data, a command, or something unknown.
    Message(RawMessage),
    /// The peer has received this many bytes, modulo 2^32.
    Acknowledged(u32),
    /// Set Peer Bandwidth, which a client answers with its window acknowledgement size.
    PeerBandwidth,
    /// A user control message that is not a ping request, with its first two numbers.
    UserControl(u16, u32, u32),
}

impl Wire {
    pub(super) fn server(limits: &Limits) -> Self {
        Self::new(Reader::commands_only(limits), Handshake::server(), BytesMut::new())
    }

    pub(super) fn client(limits: &Limits) -> Self {
        let (handshake, opening) = Handshake::client();
        Self::new(Reader::new(limits), handshake, BytesMut::from(opening.as_slice()))
    }

    fn new(reader: Reader, handshake: Handshake, out: BytesMut) -> Self {
        Self {
            handshake: Some(handshake),
            reader,
            out,
            chunk_size: chunk::DEFAULT_CHUNK_SIZE,
            received: 0,
            acknowledged: 0,
            window: DEFAULT_WINDOW,
        }
    }

    /// Counts `bytes`, and passes them to the handshake until it is complete. Returns the input after it.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<Input, Error> {
        self.received += bytes.len() as u64;
        let Some(handshake) = &mut self.handshake else { return Ok(Input::Chunks) };
        let (reply, over) = handshake.input(bytes)?;
        self.out.extend_from_slice(&reply);
        Ok(match over {
            None => Input::Handshake,
            Some(rest) => {
                self.handshake = None;
                Input::HandshakeDone(rest)
            }
        })
    }

    /// The next input for the session, from the front of `input`.
    pub(super) fn read(&mut self, input: &mut &[u8]) -> Result<Option<Inbound>, Error> {
        while let Some(message) = self.reader.read(input)? {
            match message.kind {
                kind::ACKNOWLEDGEMENT => return Ok(Some(Inbound::Acknowledged(control_number(&message)?))),
                kind::WINDOW => {
                    // A window of zero would require acknowledgements without data.
                    let window = control_number(&message)?;
                    self.window = if window == 0 { DEFAULT_WINDOW } else { window.into() };
                }
                kind::PEER_BANDWIDTH => {
                    control_number(&message)?;
                    return Ok(Some(Inbound::PeerBandwidth));
                }
                kind::USER_CONTROL => {
                    let number = |at| message.body.get(at..).and_then(|b| b.first_chunk()).copied();
                    let Some(event) = message.body.first_chunk().map(|b| u16::from_be_bytes(*b)) else { continue };
                    let (a, b) = (number(2).map(u32::from_be_bytes), number(6).map(u32::from_be_bytes));
                    match (event, a) {
                        (command::PING_REQUEST, Some(stamp)) => {
                            command::user_control(&mut self.out, self.chunk_size, command::PING_RESPONSE, &[stamp]);
                        }
                        (_, Some(a)) => return Ok(Some(Inbound::UserControl(event, a, b.unwrap_or(0)))),
                        // Some servers send events of their own without parameters.
                        (_, None) => {}
                    }
                }
                _ => return Ok(Some(Inbound::Message(message))),
            }
        }
        Ok(None)
    }

    /// The newest message that was skipped because of its length, since the last call.
    pub(super) fn take_skipped(&mut self) -> Option<Skipped> {
        self.reader.take_skipped()
    }

    /// Acknowledges received bytes if the window is full: once per call, however small the window. Call it after reading.
    ///
    /// # Errors
    /// [`Error::Limit`] if more than [`MAX_PENDING`] bytes of answers are queued because the peer does not read them.
    pub(super) fn acknowledge(&mut self) -> Result<(), Error> {
        if self.handshake.is_none() && self.received - self.acknowledged >= self.window {
            self.acknowledged = self.received;
            command::control(&mut self.out, self.chunk_size, kind::ACKNOWLEDGEMENT, self.received as u32);
        }
        if self.out.len() > MAX_PENDING {
            return Err(Error::Limit { what: "bytes of unread answers", limit: MAX_PENDING as u64 });
        }
        Ok(())
    }

    /// The output buffer, and the chunk size for messages appended to it.
    pub(super) fn out(&mut self) -> (&mut BytesMut, u32) {
        (&mut self.out, self.chunk_size)
    }

    /// Announces and adopts another chunk size for sending.
    pub(super) fn set_chunk_size(&mut self, size: u32) {
        command::control(&mut self.out, self.chunk_size, kind::SET_CHUNK_SIZE, size);
        self.chunk_size = size;
    }

    /// Accepts messages longer than commands, from a client that may publish.
    pub(super) fn allow_media(&mut self, limits: &Limits) {
        self.reader.allow_media(limits);
    }

    /// The chunk size for sending.
    pub(super) fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    /// Takes the bytes to send.
    pub(super) fn take_output(&mut self) -> Bytes {
        self.out.split().freeze()
    }
}

/// The layer that received bytes belong to.
pub(super) enum Input {
    /// The handshake, which is not complete yet.
    Handshake,
    /// The handshake, which is complete now; these are the bytes after it.
    HandshakeDone(Vec<u8>),
    /// The chunk stream.
    Chunks,
}

/// The acknowledgement window in bytes until the peer sets one.
const DEFAULT_WINDOW: u64 = 2_500_000;
/// Bounds the answers queued for a peer that does not read, in bytes: 64 kB of small commands produce less.
const MAX_PENDING: usize = 1 << 20;
