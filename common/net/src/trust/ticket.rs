//! Tickets: a CDN admits a viewer, and a broadcaster verifies the admission offline.
//!
//! A [`Signer`] issues them, a [`TicketVerifier`] admits each once, for one stream and one broadcast of it, within [`LIFETIME`]. A ticket
//! proves that the CDN admitted its bearer just now, without naming it. It is sent only to a broadcaster that is authenticated ([`tls::client_config`](super::tls::client_config)). It is not a session either: what follows is the connection's.
//!
//! The text is base64url without padding (RFC 4648 §5) of `body || signature`. The body is a version byte 1, the stream's length in
//! one byte and the stream, then epoch, expiry (unsigned, 64 bits, big-endian) and a nonce of 16 bytes. The signature is Ed25519
//! (RFC 8032 §5.1) over `"nearcast-ticket-v1" || body`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use super::error::{Error, thirty_two};

/// Why a ticket is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The text is not a ticket, or is one of another version.
    #[error("this is not a ticket")]
    Malformed,
    /// The ticket was altered, or signed with another key.
    #[error("the ticket is not signed by this stream's CDN")]
    BadSignature,
    /// The ticket is for another stream.
    #[error("the ticket is for another stream")]
    WrongStream,
    /// The ticket is for another broadcast of this stream.
    #[error("the ticket is for another broadcast of this stream")]
    WrongEpoch,
    /// The ticket has expired, by more than [`SKEW`].
    #[error("the ticket has expired")]
    Expired,
    /// The ticket expires more than [`LIFETIME`] + [`SKEW`] from now: the clocks disagree.
    #[error("the ticket was issued in the future: the clocks of the CDN and the broadcaster differ")]
    TooFarAhead,
    /// The ticket was used before.
    #[error("the ticket has been used already")]
    Replayed,
    /// The memory of used tickets is full; a retry after a minute may succeed.
    #[error("too many viewers connected at once: retry in a minute")]
    Busy,
}

/// The signed content of a ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ticket {
    stream: String,
    epoch: u64,
    expires: u64,
    nonce: [u8; 16],
}

impl Ticket {
    fn body(&self) -> Vec<u8> {
        let length = u8::try_from(self.stream.len()).expect("a stream's name has at most MAX_STREAM bytes");
        let mut body = vec![VERSION, length];
        body.extend_from_slice(self.stream.as_bytes());
        body.extend_from_slice(&self.epoch.to_be_bytes());
        body.extend_from_slice(&self.expires.to_be_bytes());
        body.extend_from_slice(&self.nonce);
        body
    }

    fn parse(body: &[u8]) -> Option<Self> {
        let ([VERSION, length], rest) = body.split_first_chunk()? else { return None };
        let (stream, rest) = rest.split_at_checked(usize::from(*length))?;
        let (epoch, rest) = rest.split_first_chunk()?;
        let (expires, rest) = rest.split_first_chunk()?;
        let nonce = rest.try_into().ok()?;
        let stream = str::from_utf8(stream).ok().filter(|stream| is_stream(stream))?.to_owned();
        Some(Self { stream, epoch: u64::from_be_bytes(*epoch), expires: u64::from_be_bytes(*expires), nonce })
    }
}

fn is_stream(name: &str) -> bool {
    (1..=MAX_STREAM).contains(&name.len())
}

fn signed(body: &[u8]) -> Vec<u8> {
    [DOMAIN, body].concat()
}

/// The private key with which a CDN signs tickets.
pub struct Signer(Ed25519KeyPair);

impl Signer {
    /// Generates a key, which lasts for one CDN process; [`TicketVerifier::set_key`] sets the next one.
    ///
    /// # Errors
    /// [`Error::Random`] if the system provides no random bytes.
    pub fn generate() -> Result<Self, Error> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| Error::Random)?;
        Ok(Self(Ed25519KeyPair::from_pkcs8(document.as_ref()).expect("ring reads the key that it wrote")))
    }

    /// The public key that verifies its tickets.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.0.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes"))
    }

    /// A new ticket that is valid from now until [`LIFETIME`] later.
    ///
    /// # Errors
    /// [`Error::StreamName`] if the stream's name is empty or longer than [`MAX_STREAM`].
    pub fn issue(&self, stream: &str, epoch: u64, now_unix: u64) -> Result<String, Error> {
        if !is_stream(stream) {
            return Err(Error::StreamName { limit: MAX_STREAM });
        }
        let expires = now_unix.saturating_add(LIFETIME);
        Ok(self.sign(&Ticket { stream: stream.to_owned(), epoch, expires, nonce: rand::random() }.body()))
    }

    fn sign(&self, body: &[u8]) -> String {
        let signature = self.0.sign(&signed(body));
        BASE64URL_NOPAD.encode(&[body, signature.as_ref()].concat())
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("public_key", &self.public_key()).finish_non_exhaustive()
    }
}

/// The public key that verifies a CDN's tickets.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The 32 bytes of RFC 8032 §5.1.2.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for PublicKey {
    /// Bytes that are not a point of the curve verify no signature.
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        thirty_two(text).map(Self)
    }
}

/// Verifies tickets for one broadcast, each once.
pub struct TicketVerifier {
    key: PublicKey,
    stream: String,
    epoch: u64,
    /// Expiry and nonce of the tickets that admitted, the oldest first; at most [`MEMORY`].
    used: BTreeSet<(u64, [u8; 16])>,
    /// The latest expiry dropped from `used`. No ticket that expires at or before it is admitted, even if the clock is set back.
    forgotten: u64,
}

impl TicketVerifier {
    /// A verifier without used tickets. Two verifiers must not share stream, epoch and key, or each admits tickets that the other has admitted.
    /// A stream name that no ticket can have admits no viewer.
    pub fn new(public_key: PublicKey, stream: impl Into<String>, epoch: u64) -> Self {
        Self { key: public_key, stream: stream.into(), epoch, used: BTreeSet::new(), forgotten: 0 }
    }

    /// Replaces the key after a restart of the CDN; tickets of the old key are rejected from now on.
    pub fn set_key(&mut self, public_key: PublicKey) {
        self.key = public_key;
    }

    /// Verifies the ticket `text` and marks it as used.
    ///
    /// The two clocks may differ by [`SKEW`]: a ticket is accepted until that long after its expiry, and remembered as long.
    ///
    /// # Errors
    /// Any [`Refusal`]; a rejected ticket is not marked as used.
    pub fn redeem(&mut self, text: &str, now_unix: u64) -> Result<(), Refusal> {
        let ticket = self.authentic(text)?;
        if ticket.stream != self.stream {
            return Err(Refusal::WrongStream);
        }
        if ticket.epoch != self.epoch {
            return Err(Refusal::WrongEpoch);
        }
        if is_over(ticket.expires, now_unix) || ticket.expires <= self.forgotten {
            return Err(Refusal::Expired);
        }
        if ticket.expires > now_unix.saturating_add(LIFETIME + SKEW) {
            return Err(Refusal::TooFarAhead);
        }
        let used = (ticket.expires, ticket.nonce);
        if self.used.contains(&used) {
            return Err(Refusal::Replayed);
        }
        self.make_room(now_unix)?;
        self.used.insert(used);
        Ok(())
    }

    /// The content that the CDN signed. Cheap checks of form precede the signature; the content is not used before it is verified.
    fn authentic(&self, text: &str) -> Result<Ticket, Refusal> {
        if text.len() > MAX_TEXT {
            return Err(Refusal::Malformed);
        }
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| Refusal::Malformed)?;
        let (body, signature) = bytes.split_last_chunk::<SIGNATURE>().ok_or(Refusal::Malformed)?;
        let ticket = Ticket::parse(body).ok_or(Refusal::Malformed)?;
        let key = UnparsedPublicKey::new(&ED25519, self.key.as_bytes());
        key.verify(&signed(body), signature).map_err(|_| Refusal::BadSignature)?;
        Ok(ticket)
    }

    fn make_room(&mut self, now: u64) -> Result<(), Refusal> {
        if self.used.len() < MEMORY {
            return Ok(());
        }
        let oldest = self.used.first().filter(|(expires, _)| is_over(*expires, now));
        self.forgotten = oldest.ok_or(Refusal::Busy)?.0;
        self.used.pop_first();
        Ok(())
    }
}

fn is_over(expires: u64, now: u64) -> bool {
    now > expires.saturating_add(SKEW)
}

impl fmt::Debug for TicketVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut verifier = f.debug_struct("TicketVerifier");
        verifier.field("key", &self.key).field("stream", &self.stream).field("epoch", &self.epoch);
        verifier.field("used", &self.used.len()).finish_non_exhaustive()
    }
}

/// How long a ticket is valid, in seconds: long enough to find and reach the broadcaster, too short to be passed on.
pub const LIFETIME: u64 = 60;
/// The largest accepted difference of the CDN's clock and the broadcaster's, in seconds: NTP keeps clocks closer than this, and clocks set
/// by hand seldom differ by much more.
pub const SKEW: u64 = 30;
/// The longest name of a stream, in bytes: fits one line of a screen.
pub const MAX_STREAM: usize = 64;
/// Bounds the used tickets that are remembered: thirty times the viewers that a broadcaster serves itself, in about 200 KB.
const MEMORY: usize = 4096;
/// The longest text in bytes: base64 of version, length, name, two numbers, nonce and signature.
const MAX_TEXT: usize = (1 + 1 + MAX_STREAM + 8 + 8 + 16 + SIGNATURE).div_ceil(3) * 4;
/// Bytes of an Ed25519 signature (RFC 8032 §5.1.6).
const SIGNATURE: usize = 64;
/// The version of the layout.
const VERSION: u8 = 1;
/// Domain separation: a signature over a ticket is not valid for other data signed with the same key.
const DOMAIN: &[u8] = b"nearcast-ticket-v1";

#[cfg(test)]
mod tests;
