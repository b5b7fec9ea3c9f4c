//! The RTMP listener: one port for publishers and players.

mod resume;
mod server;

pub use server::{RtmpServer, reload_keys};
