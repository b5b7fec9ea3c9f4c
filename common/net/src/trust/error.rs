//! Errors of certificates, tickets and pairing codes.

use data_encoding::HEXLOWER;

/// Why a key, ticket or code could not be made, read or verified. Why a ticket is rejected is [`ticket::Refusal`](super::ticket::Refusal).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The certificate could not be generated.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The system provided no random bytes.
    #[error("the system provided no random bytes for a key")]
    Random,
    /// The text is not a [`Pin`](super::Pin) or [`PublicKey`](super::PublicKey).
    #[error("not 64 lower-case hexadecimal digits")]
    Hex,
    /// A stream's name is empty or too long for a ticket.
    #[error("a ticket's stream must have a name of 1 to {limit} bytes")]
    StreamName {
        /// The longest name in bytes, [`ticket::MAX_STREAM`](super::ticket::MAX_STREAM).
        limit: usize,
    },
    /// The text is not a [`Code`](super::Code).
    #[error("a pairing code has 16 letters and digits, none of them a U")]
    Code,
    /// The TLS session has no keying material yet: its handshake is not complete.
    #[error("the connection is not ready for pairing")]
    Exporter,
    /// The proof was made with another code or for another TLS session.
    #[error("the peer did not prove that it knows the pairing code: wrong code, or an intercepted connection")]
    WrongProof,
    /// [`MAX_WRONG`](super::pairing::MAX_WRONG) proofs were wrong within [`WINDOW`](super::pairing::WINDOW).
    #[error("too many wrong pairing codes: wait a minute")]
    TooManyAttempts,
}

/// Parses 64 lower-case hexadecimal digits. Other forms are rejected, so that each value has one text.
pub(super) fn thirty_two(text: &str) -> Result<[u8; 32], Error> {
    HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(Error::Hex)
}
