//! Authentication between broadcaster and viewer before media flows directly from one to the other.
//!
//! With a CDN:
//!
//! | Who | proves | to whom | by |
//! |---|---|---|---|
//! | the CDN | which certificate is the broadcaster's | the viewer | [`Pin`], sent over the CDN's own authenticated connection |
//! | the broadcaster | that it has that certificate's key | the viewer | TLS 1.3 with [`tls::client_config`] |
//! | the CDN | which key signs tickets | the broadcaster | [`ticket::PublicKey`], sent where the broadcaster publishes |
//! | the viewer | that the CDN admitted it, just now, once | the broadcaster | a ticket, checked offline by [`ticket::TicketVerifier`] |
//!
//! A ticket is a bearer token: it is sent only over a connection whose pin was verified. Without a CDN:
//!
//! | Who | proves | to whom | by |
//! |---|---|---|---|
//! | each | that it knows the code on the broadcaster's screen, in this TLS session | the other | [`pairing`] |
//!
//! Pairing runs over [`tls::client_config_unpinned`]; until both proofs are verified, neither end is authenticated.
//!
//! An mDNS answer, or any other hint, may come from anybody on the network. It may provide an address, a port, and the name of the stream to
//! expect. It never provides a pin, a ticket key or a code, it does not choose between pin and code, and the stream is not shown before the
//! proofs above are verified. A forged hint thus costs one failed handshake.
//!
//! There is no certificate authority: an identity lasts for one broadcast or one server run. Who talks to whom is not hidden.
//!
//! RFC 8446 (TLS 1.3) and RFC 9001 (QUIC's use of it); each module names what else it rests on.

pub mod identity;
pub mod pairing;
pub mod ticket;
pub mod tls;

mod error;

#[cfg(test)]
mod loopback;

pub use error::Error;
pub use identity::{Identity, Pin};
pub use pairing::Code;
pub use ticket::{PublicKey, Signer, TicketVerifier};
