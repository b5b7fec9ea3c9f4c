//! The ways out of the hub, one folder each.

pub mod hls;
pub mod relay;
pub mod rtmp;
