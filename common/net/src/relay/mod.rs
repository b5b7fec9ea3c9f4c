//! The relay protocol: live windows of access units, published and subscribed over QUIC. `SPEC.md` in this folder is its specification.
//!
//! The model is that of Media over QUIC: a track is a sequence of groups, a group is a GOP on a unidirectional stream of its own, so that a
//! late one can be dropped; audio is sent before video. A subscription may be idle: connected and admitted, one round trip from its first
//! unit. Units keep their identity `(epoch, track, dts)`, and each states its predecessor.
//!
//! The same protocol serves a viewer from the broadcaster on its LAN and from a server. In the order of the data: [`wire`] (pure: messages and
//! frames), [`server`] (sends a live window), [`reassembly`] (pure: groups back in order), [`client`]. The application decides who may subscribe: it
//! gets each request with its proof, and nothing is sent before it accepts. What it provides is in three traits: [`StreamSource`], [`SendGate`] and
//! [`SubscriptionObserver`].

pub mod client;
pub mod reassembly;
pub mod server;
pub mod wire;

mod congestion;
mod drop_policy;
mod error;
mod source;
mod track_sender;
mod transport;

#[cfg(test)]
mod tests;

pub use crate::blame::Blame;
pub use client::{Event, Subscription, subscribe};
pub use error::Error;
pub use server::{Request, accept};
pub use source::{Delivery, Grant, SendGate, StreamSource, SubscriptionObserver};
pub use transport::{Side, endpoint_config, transport};
pub use wire::{Proof, RefusalCode, Start};
