//! Captures, encodes and publishes one live broadcast.
//!
//! The modules in the order in which an access unit passes them: [`capture`] (cameras, screens, files, the test pattern),
//! [`encode`] (on threads of its own; when it is late the oldest frame is dropped), [`broadcast`] (assigns timestamps and keeps
//! the retransmission window), [`publish`] (RTMP push that resumes after outages), [`peer`] (LAN viewers), [`uplink`] (one
//! model of the uplink, by which the encoder's bitrate is controlled and LAN viewers are admitted and paced). [`app`] assembles them, [`status`] reports what they do, [`doctor`] diagnoses
//! what keeps them from working.
//!
//! Only [`capture`] and [`encode`] use FFmpeg's types; [`log`] forwards its messages.

pub mod app;
pub mod broadcast;
pub mod capture;
pub mod clock;
pub mod config;
pub mod doctor;
pub mod encode;
pub mod exit;
pub mod log;
mod option_values;
pub mod peer;
pub mod publish;
pub mod shutdown;
pub mod stats;
pub mod status;
mod terminal;
pub mod timestamps;
pub mod uplink;
