//! Authentication between broadcaster and viewer before media flows directly from one to the other.
//!
//! With a CDN:
//!
//! | Party | proves | to | by |
//! |---|---|---|---|
//! | the CDN | the identity of the broadcaster's certificate | the viewer | [`Pin`], sent over the CDN's own authenticated connection |
//! | the broadcaster | possession of that certificate's key | the viewer | TLS 1.3 with [`tls::client_config`] |
//! | the CDN | the key that signs tickets | the broadcaster | [`ticket::PublicKey`], sent over the publishing connection |
//! | the viewer | recent admission by the CDN, once | the broadcaster | a ticket, verified offline by [`ticket::TicketVerifier`] |
//!
//! A ticket is a bearer token: it is sent only over a connection whose pin was verified. Without a CDN:
//!
//! | Party | proves | to | by |
//! |---|---|---|---|
//! | each end | knowledge of the code on the broadcaster's screen, in this TLS session | the other end | [`pairing`] |
//!
//! Pairing runs over [`tls::client_config_unpinned`]; until both proofs are verified, neither end is authenticated.
//!
//! An mDNS answer, or any other hint, may come from any host on the network. It may provide an address, a port, and the name of the expected
//! stream. It never provides a pin, a ticket key or a code, it does not choose between pin and code, and the stream is not shown before the
//! proofs above are verified. A forged hint thus costs one failed handshake.
//!
//! There is no certificate authority: an identity lasts for one broadcast or one server run. The addresses of both ends are not hidden.
//!
//! RFC 8446 (TLS 1.3) and RFC 9001 (TLS in QUIC); each module names its further specifications.

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
