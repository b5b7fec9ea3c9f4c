//! Captures, encodes and publishes one live broadcast.
//!
//! The rooms in the order that an access unit meets them: [`capture`] (cameras, screens, files, the test picture), [`encode`]
//! (own threads; the newest picture wins), [`broadcast`] (timestamps quantised once, the window that outages are bridged
//! from), [`publish`] (RTMP push that resumes), [`rate_control`] (the encoder's rate by what the push's
//! link takes), [`peer`] (viewers on the same network). [`app`] assembles them, [`status`] tells what they do,
//! [`doctor`] what keeps them from it.
//!
//! FFmpeg is known to [`capture`] and [`encode`] alone.

pub mod app;
pub mod backoff;
pub mod broadcast;
pub mod capture;
pub mod clock;
pub mod config;
mod delivery_rate;
pub mod doctor;
pub mod encode;
pub mod log;
mod option_values;
pub mod peer;
pub mod publish;
pub mod rate_control;
pub mod shutdown;
pub mod stats;
pub mod status;
mod terminal;
pub mod timestamps;
