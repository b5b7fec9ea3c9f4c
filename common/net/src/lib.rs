//! The protocol drivers that Nearcast's applications share: sockets and their engines, over the pure `media` crate.
#![forbid(unsafe_code)]

pub mod clock;
#[cfg(feature = "doctor")]
pub mod doctor;
pub mod lan;
pub mod relay;
pub mod rtmp;
pub mod tcp;
pub mod trace;
pub mod trust;
