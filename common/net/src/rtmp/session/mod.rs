//! The sessions of server and client: bytes in, bytes and events out, without sockets and clocks.
//!
//! rml_rtmp's sessions are not used: they answer fewer commands than encoders send, drop properties of `connect`, and do not limit the
//! streams that a peer creates. Audio and video pass through unchanged.

pub(crate) mod command;

mod aggregate;
mod client;
mod metadata;
mod server;
mod server_event;
mod wire;

#[cfg(test)]
mod tests;

pub use client::{ClientEvent, ClientRole, ClientSession};
pub use server::ServerSession;
pub use server_event::{PlayerEvent, ServerEvent, StreamRequest};
