//! The relay protocol: live windows published and subscribed over QUIC. `SPEC.md` beside this file is its specification.
//!
//! The model is Media over QUIC's: a track's groups of pictures are groups, one unidirectional stream each, so that a
//! late one can be given up; sound goes before pictures. A subscription may be idle: open, let in and one round trip from flowing. Units keep
//! their names `(epoch, track, dts)`, and each says which one it follows.
//!
//! One protocol serves a viewer from the broadcaster on its network and from a server. In the order that bytes meet it: [`wire`] (pure:
//! what they mean), [`server`] (a live window out), [`reassembly`] (pure: groups back in order), [`client`]. Who may subscribe is the
//! caller's to say: a request is handed over with what it offers as proof, and nothing is sent before it is accepted.

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
mod sim;
#[cfg(test)]
mod tests;

pub use crate::blame::Blame;
pub use client::{Event, Subscription, subscribe};
pub use error::Error;
pub use server::{Request, accept};
pub use source::{Delivery, Grant, SendGate, StreamSource, SubscriptionObserver};
pub use transport::{Side, endpoint_config, transport};
pub use wire::{Proof, RefusalCode, Start};
