//! The sessions of server and client: bytes in, bytes and events out. No sockets, no clocks.
//!
//! rml_rtmp's sessions are not used: they answer fewer commands than encoders send, drop properties of `connect`, and let a peer create
//! streams without limit. Audio and video pass through unchanged.

pub(crate) mod command;

mod aggregate;
mod client;
mod server;
mod wire;

#[cfg(test)]
mod tests;

pub use client::{ClientEvent, ClientRole, ClientSession};
pub use server::{PlayerEvent, ServerEvent, ServerSession, StreamRequest};
