//! Codecs: decoder configurations, and the codec names that containers and players use.
//!
//! Configuration records are carried as the bytes that the publisher sent. Only the fields that servers and playlists need (picture size, profile,
//! sample rate) are parsed, never the coded pictures. There is one module for each codec; [`CodecConfig`] dispatches to them.

pub mod aac;
pub mod av1;
mod bits;
pub mod capture_time_sei;
mod config;
mod error;
pub mod flac;
mod format;
pub mod h264;
pub mod hevc;
pub mod mp3;
pub mod nal;
pub mod opus;
pub mod silence;
#[cfg(test)]
mod tests;
pub mod vp9;

pub use config::{CodecConfig, MAX_RECORD, format_in_band, is_random_access};
pub use error::Error;
pub use format::{Codec, Format};
