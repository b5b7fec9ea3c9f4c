//! Pairing by a code on the broadcaster's screen, without a CDN.
//!
//! Both ends prove over a TLS session without a pin ([`tls::client_config_unpinned`](super::tls::client_config_unpinned)) that they
//! know the code: first the viewer, whose proof is verified by [`AttemptLimiter`], then the broadcaster. Proofs are bound to the session: a
//! man in the middle has two sessions, one with each end, and a proof for one is invalid in the other.
//!
//! This is not a PAKE: an attacker that impersonates the broadcaster gets a proof to test codes against offline. That is why the code has 80
//! bits and must not become shorter. The code lasts for one broadcast and is not a password.
//!
//! The code is in Crockford's base32. The proof is HMAC-SHA256 (RFC 2104) with the code as key, over a label and the session's exporter
//! (RFC 8446 §7.5; channel binding as in RFC 9266).

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use ring::hmac;

use super::error::Error;

/// The pairing code that the broadcaster's screen shows: 80 random bits as `XXXX-XXXX-XXXX-XXXX`.
///
/// `Display` shows it, for that screen; `Debug` does not. The parser ignores case, spaces and dashes, and reads O as 0, I and L as 1.
#[derive(Clone)]
pub struct Code([u8; BYTES]);

impl Code {
    /// Generates a random code.
    pub fn generate() -> Self {
        Self(rand::random())
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.0.iter().fold(0u128, |bits, byte| (bits << 8) | u128::from(*byte));
        for place in 0..DIGITS {
            if place > 0 && place % GROUP == 0 {
                f.write_str("-")?;
            }
            let digit = (bits >> (5 * (DIGITS - 1 - place))) & 31;
            write!(f, "{}", char::from(ALPHABET[digit as usize]))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code(redacted)")
    }
}

impl FromStr for Code {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_TEXT {
            return Err(Error::Code);
        }
        let mut bits = 0u128;
        let mut digits = 0;
        for character in text.chars().filter(|c| !c.is_whitespace() && *c != '-') {
            bits = (bits << 5) | digit(character).ok_or(Error::Code)?;
            digits += 1;
        }
        if digits != DIGITS {
            return Err(Error::Code);
        }
        Ok(Self(std::array::from_fn(|place| (bits >> (8 * (BYTES - 1 - place))) as u8)))
    }
}

fn digit(character: char) -> Option<u128> {
    let character = match character.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    };
    ALPHABET.iter().position(|digit| char::from(*digit) == character).map(|place| place as u128)
}

/// Keying material that only the two ends of this TLS session have; the proofs are bound to it.
///
/// # Errors
/// [`Error::Exporter`] before the handshake is complete.
pub fn exporter(connection: &quinn::Connection) -> Result<[u8; 32], Error> {
    let mut exporter = [0; 32];
    connection.export_keying_material(&mut exporter, EXPORTER_LABEL, b"").map_err(|_| Error::Exporter)?;
    Ok(exporter)
}

/// A viewer's proof, which the broadcaster verifies with [`AttemptLimiter::verify_viewer`].
pub fn viewer_proof(code: &Code, exporter: &[u8; 32]) -> [u8; 32] {
    proof(code, VIEWER, exporter)
}

/// A broadcaster's proof, for a viewer whose own proof was valid.
pub fn broadcaster_proof(code: &Code, exporter: &[u8; 32]) -> [u8; 32] {
    proof(code, BROADCASTER, exporter)
}

/// Verifies a broadcaster's proof.
///
/// # Errors
/// [`Error::WrongProof`]: the caller must close the connection.
pub fn verify_broadcaster(code: &Code, exporter: &[u8; 32], proof: &[u8]) -> Result<(), Error> {
    verify(code, BROADCASTER, exporter, proof)
}

fn proof(code: &Code, label: &[u8], exporter: &[u8; 32]) -> [u8; 32] {
    let tag = hmac::sign(&code.key(), &[label, exporter].concat());
    tag.as_ref().try_into().expect("HMAC-SHA256 has 32 bytes")
}

fn verify(code: &Code, label: &[u8], exporter: &[u8; 32], proof: &[u8]) -> Result<(), Error> {
    hmac::verify(&code.key(), &[label, exporter].concat(), proof).map_err(|_| Error::WrongProof)
}

/// Verifies viewers' proofs and limits guesses: [`MAX_WRONG`] wrong proofs in [`WINDOW`], from all viewers together.
///
/// An attacker can thereby block pairing for as long as it keeps guessing. Addresses do not distinguish it from honest viewers, and blocked
/// pairing is less harmful than a guessed code.
#[derive(Debug, Default)]
pub struct AttemptLimiter {
    /// Times of the last wrong proofs; at most [`MAX_WRONG`].
    wrong: VecDeque<Instant>,
}

impl AttemptLimiter {
    /// Verifies a viewer's proof. One call both counts and verifies, so that parallel guesses count too.
    ///
    /// # Errors
    /// [`Error::WrongProof`]; [`Error::TooManyAttempts`] after too many wrong proofs, without verifying this one.
    pub fn verify_viewer(&mut self, code: &Code, exporter: &[u8; 32], proof: &[u8], now: Instant) -> Result<(), Error> {
        self.wrong.retain(|at| now.saturating_duration_since(*at) < WINDOW);
        if self.wrong.len() >= MAX_WRONG {
            return Err(Error::TooManyAttempts);
        }
        verify(code, VIEWER, exporter, proof).inspect_err(|_| self.wrong.push_back(now))
    }
}

/// The label of [`exporter`]. RFC 5705 §4 reserves labels with this prefix for private use.
pub const EXPORTER_LABEL: &[u8] = b"EXPERIMENTAL nearcast pairing v1";
/// Wrong proofs accepted within [`WINDOW`]: enough for a person who mistypes, useless to guess 80 bits.
pub const MAX_WRONG: usize = 10;
/// The period over which wrong proofs are counted: a pause that a person can wait for.
pub const WINDOW: Duration = Duration::from_secs(60);
/// One label for each end, so that a proof cannot be reflected to the end that made it.
const VIEWER: &[u8] = b"nearcast-pairing-v1 viewer";
const BROADCASTER: &[u8] = b"nearcast-pairing-v1 broadcaster";
/// Bytes of a code. 80 bits resist an offline search with a captured proof.
const BYTES: usize = 10;
/// Digits of a code, of five bits each.
const DIGITS: usize = BYTES * 8 / 5;
/// Digits between two dashes: as many as a person remembers while typing.
const GROUP: usize = 4;
/// Bounds the text of a code in bytes: sixteen digits with spaces and dashes.
const MAX_TEXT: usize = 128;
/// Crockford's base32 alphabet: without I, L and O, which look like digits, and without U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

#[cfg(test)]
mod tests;
