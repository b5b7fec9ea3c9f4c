//! The server: takes live streams in, holds the last seconds of each, and gives them to everybody who asks.
//!
//! In the order that an access unit meets the rooms: [`door`] (RTMP connections), [`ingest`] (publishers), [`hub`] (what is
//! held), [`egress`] (RTMP, HLS and the relay protocol out), [`http`] (pages, interface, HLS routes). [`auth`] says who may publish, [`invitations`] what viewers are told, [`admission`]
//! how many may come, [`config`] what everything is bounded by, and [`app`] puts it together.
#![deny(unsafe_code)]

pub mod admission;
mod after;
pub mod app;
pub mod auth;
pub mod cli;
pub mod config;
mod document;
pub mod door;
pub mod egress;
pub mod http;
pub mod hub;
pub mod ingest;
pub mod invitations;
mod replace;
