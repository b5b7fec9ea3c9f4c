//! Nearcast's player, as a library, so that its parts can be tested.
//!
//! In the order in which the media meets them: [`source`] brings units, [`pipeline`] merges and distributes them, [`record`]
//! and [`unit_log`] keep them, [`playback`] times them, [`decode`] makes pictures and sound, [`present`] shows them. [`doctor`] says what keeps
//! them from it.

pub mod app;
pub mod clock;
pub mod config;
pub mod decode;
pub mod doctor;
pub mod ffmpeg;
mod latency_breakdown;
mod latency_histogram;
pub mod pipeline;
pub mod playback;
pub mod player_context;
pub mod present;
pub mod record;
pub mod source;
pub mod stats;
pub mod status;
pub mod switches;
pub mod unit_log;
