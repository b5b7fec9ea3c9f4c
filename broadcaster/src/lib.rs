//! Captures, encodes and publishes one live broadcast.
//!
//! The modules in the order in which an access unit passes them: [`capture`] (cameras, screens, files, the test pattern),
//! [`encode`] (on threads of its own; when it is late the oldest frame is dropped), [`broadcast`] (assigns timestamps and keeps
//! the retransmission window), [`publish`] (RTMP push that resumes after outages), [`rate_control`] (encoder rate control by the
//! delay of the push), [`peer`] (LAN viewers). [`app`] assembles them, [`status`] reports what they do, [`doctor`] diagnoses
//! what keeps them from working.
//!
//! Only [`capture`] and [`encode`] use FFmpeg's types; [`log`] forwards its messages.

pub mod app;
pub mod broadcast;
pub mod capture;
pub mod clock;
pub mod config;
mod delivery_rate;
pub mod doctor;
pub mod encode;
pub mod exit;
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
