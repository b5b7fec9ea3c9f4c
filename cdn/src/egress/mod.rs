//! Egress: reads the hub's streams and sends them to viewers. One folder per protocol.

pub mod hls;
pub mod relay;
pub mod rtmp;
