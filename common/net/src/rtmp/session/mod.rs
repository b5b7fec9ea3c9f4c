//! The pure engines: bytes in; bytes and events out. No sockets, no clocks.
//!
//! The commands are ours rather than rml_rtmp's sessions', which answer fewer of them than encoders send, drop what `connect` states,
//! and let a peer create streams without end. Audio and video pass through as they are.

pub(crate) mod command;

mod aggregate;
mod client;
mod server;
mod wire;

#[cfg(test)]
mod tests;

pub use client::{ClientEvent, ClientRole, ClientSession};
pub use server::{PlayerEvent, ServerEvent, ServerSession, StreamRequest};
