//! The protocol drivers that Nearcast's applications share: sockets and their engines, over the pure `media` crate.
#![forbid(unsafe_code)]

pub mod api;
pub mod bbr;
pub mod blame;
pub mod clock;
pub mod discovery;
#[cfg(feature = "doctor")]
pub mod doctor;
pub mod relay;
pub mod rtmp;
pub mod trace;
pub mod trust;
