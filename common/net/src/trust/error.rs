//! What goes wrong with certificates, tickets and pairing codes.

use data_encoding::HEXLOWER;

/// Why something could not be made or read. What a broadcaster answers to a ticket is [`ticket::Refusal`](super::ticket::Refusal).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The system has no randomness to give.
    #[error("the system gave no random bytes to make a key from")]
    Random,
    /// Not a [`Pin`](super::Pin) or [`PublicKey`](super::PublicKey).
    #[error("not 64 lower-case hexadecimal digits")]
    Hex,
    /// A stream's name is empty or too long for a ticket.
    #[error("a ticket's stream must have a name of 1 to {limit} bytes")]
    StreamName {
        /// [`ticket::MAX_STREAM`](super::ticket::MAX_STREAM).
        limit: usize,
    },
    /// Not a [`Code`](super::Code).
    #[error("a pairing code has 16 letters and digits, none of them a U")]
    Code,
    /// The TLS session gives no keying material: its handshake has not ended.
    #[error("the connection is not ready for pairing")]
    Exporter,
    /// A proof by someone who does not know the code, or that was made for another TLS session.
    #[error("the other end did not prove that it knows the pairing code: a wrong code, or someone in between")]
    WrongProof,
    /// [`MAX_WRONG`](super::pairing::MAX_WRONG) proofs were wrong within [`WINDOW`](super::pairing::WINDOW).
    #[error("too many wrong pairing codes: wait a minute")]
    TooManyAttempts,
}

/// Reads 64 lower-case hexadecimal digits: one text for each value.
pub(super) fn thirty_two(text: &str) -> Result<[u8; 32], Error> {
    HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(Error::Hex)
}
