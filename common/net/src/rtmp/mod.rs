//! RTMP server and client: the sessions are pure; [`server`] and [`client`] drive sockets.
//!
//! Adobe's *Real Time Messaging Protocol 1.0* with *Enhanced RTMP v2*'s `connect` capabilities. `media::flv` parses the bodies of audio and
//! video messages; this module carries them unchanged.
//!
//! In the order of the data: [`handshake`], [`chunk`], [`session`] (control messages and commands over [`amf`]), then
//! [`server`] and [`client`]. [`framing`] serialises a message once for any number of players.
//!
//! rml_rtmp provides the handshake and, behind our AMF0 guard, the AMF0 values and message encodings. Its chunk reader and sessions are not
//! used, because they trust the peer: the AMF0 reader recurses without bound, the chunk reader has one buffer for all chunk streams and no
//! limit on lengths, and the server session answers a handful of commands and panics on some.

pub mod amf;
pub mod chunk;
pub mod client;
pub mod framing;
pub mod handshake;
pub mod server;
pub mod session;
pub mod url;

mod connection;
mod error;
mod gap;
mod limits;
mod message;
mod publisher_timing;
mod rtt_probe;
mod track_name;

pub use crate::blame::Blame;
pub use error::{Error, INVALID_APP};
pub use gap::Gap;
pub use limits::Limits;
pub use message::{MAX_PEER_ADDRESSES, Message, Metadata, PeerAdvertisement, Resume, TicketIssuer};
pub use publisher_timing::{MAX_TIMED_UNITS, PublisherTiming};
pub use rtt_probe::RttSample;
pub use track_name::parse_track;
pub use url::Url;
