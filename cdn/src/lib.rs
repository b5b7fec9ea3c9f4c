//! The server: ingests live streams, holds the last seconds of each, and serves them to any number of viewers.
//!
//! To run one: [`load`] the configuration, [`Server::bind`] it, and [`Server::run`] it until shutdown.
//!
//! An access unit passes the modules in this order: [`rtmp`] (the RTMP listener), [`ingest`] (publishers), [`hub`] (live windows), [`egress`]
//! (RTMP, HLS and the relay protocol), [`http`] (pages, API, HLS routes). [`auth`] holds the publish keys, [`rendezvous`] the relay and peer
//! servers that viewers can use, [`config`] the settings, [`metrics`] the Prometheus metrics; [`Server`] assembles everything.
#![deny(unsafe_code)]

mod app;
mod atomic_file;
pub mod auth;
pub mod config;
pub mod egress;
pub mod http;
pub mod hub;
pub mod ingest;
mod listener;
pub mod metrics;
mod precompressed;
pub mod reload;
pub mod rendezvous;
pub mod rtmp;

pub use app::{Addresses, ListenError, Server};
pub use config::load;
