//! The network protocols that Nearcast's applications share: RTMP, the relay protocol over QUIC, LAN discovery by mDNS, and trust. Pure engines
//! over the `media` crate, and the drivers that connect them to sockets.
#![forbid(unsafe_code)]

pub mod api;
pub mod auth_failures;
pub mod bbr;
pub mod blame;
pub mod clock;
pub mod connection_limit;
pub mod connection_slots;
pub mod discovery;
#[cfg(feature = "doctor")]
pub mod doctor;
pub mod listen;
pub mod min_rtt;
pub mod relay;
pub mod rtmp;
pub mod tls_error;
pub mod trace;
pub mod trust;

#[cfg(test)]
mod sim;
