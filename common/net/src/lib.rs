//! The protocol drivers that Nearcast's applications share: sockets and their engines, over the pure `media` crate.
#![forbid(unsafe_code)]

pub mod rtmp;
