//! Nearcast's player as a library, so that its modules can be tested.
//!
//! In the order of the data: [`source`] receives access units, [`pipeline`] merges and distributes them, [`record`] and [`unit_log`] write them
//! to files and pipes, [`playback`] buffers and schedules them, [`decode`] decodes them, [`present`] presents them. [`doctor`] diagnoses failures.
//! FFmpeg runs in the threads of [`sandbox`].

pub mod app;
#[cfg(test)]
mod captured_log;
pub mod clock;
pub mod config;
pub mod decode;
pub mod doctor;
pub mod ffmpeg;
mod figures;
mod latency_breakdown;
mod latency_histogram;
pub mod pipeline;
pub mod playback;
pub mod player_context;
pub mod present;
pub mod record;
pub mod sandbox;
pub mod source;
pub mod stats;
pub mod status;
pub mod switches;
pub mod unit_log;
