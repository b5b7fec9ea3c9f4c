//! Trust: who proves what to whom before media flows directly from a broadcaster to a viewer.
//!
//! With a CDN within reach:
//!
//! | Who | proves | to whom | by |
//! |---|---|---|---|
//! | the CDN | which certificate is the broadcaster's | the viewer | [`Pin`], sent over the CDN's own authenticated connection |
//! | the broadcaster | that it has that certificate's key | the viewer | TLS 1.3 with [`tls::client_config`] |
//! | the CDN | which key signs tickets | the broadcaster | [`ticket::PublicKey`], sent where the broadcaster publishes |
//! | the viewer | that the CDN let it in, just now, once | the broadcaster | a ticket, checked offline by [`ticket::TicketVerifier`] |
//!
//! A ticket is a bearer's: it is shown only inside a connection whose pin was right. Without a CDN:
//!
//! | Who | proves | to whom | by |
//! |---|---|---|---|
//! | each | that it knows the code on the broadcaster's screen, in this TLS session | the other | [`pairing`] |
//!
//! Pairing runs over [`tls::client_config_unpinned`]; until both proofs have passed, each end is to the other anybody.
//!
//! An mDNS answer, or any other hint, comes from whoever is on the network. It may say where to try: an address and a port, and which
//! stream to expect there. It may never say whom to believe: no pin, no ticket key, no code is ever taken from it, it cannot choose
//! between pin and code, and what it calls a stream is not shown as that stream before the proofs above have passed. A hint that
//! lies thus costs one failed handshake and nothing else.
//!
//! This is not an authority for certificates: identities live as long as one broadcast or one server run, and none vouches for
//! another. It does not hide who talks to whom, and it does not tell what a viewer does with media that it was let in to see.
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
