//! The server: takes live streams in, holds the last seconds of each, and gives them to everybody who asks.
//!
//! In the order in which an access unit passes the modules: [`rtmp`] (the RTMP listener), [`ingest`] (publishers), [`hub`] (live
//! windows), [`egress`] (RTMP, HLS and the relay protocol), [`http`] (pages, API, HLS routes). [`auth`] holds the publish keys,
//! [`rendezvous`] what viewers are told of relays and broadcasters, [`connection_limit`] the connection limits, [`config`] the
//! settings, and [`app`] assembles everything.
#![deny(unsafe_code)]

mod app;
mod atomic_file;
pub mod auth;
pub mod config;
pub mod connection_limit;
pub mod egress;
pub mod http;
pub mod hub;
pub mod ingest;
mod listener;
pub mod metrics;
mod precompressed;
pub mod rendezvous;
pub mod rtmp;

pub use app::{Addresses, Server};
pub use config::load;
