//! The pure core: access units, codecs, containers, HLS, and the viewer's path selection and merging.
//!
//! Pure: bytes and values in, bytes and values out. No sockets, clocks, threads, async runtime or FFmpeg: time is always a
//! parameter. `deploy/test` proves the absence with `cargo tree`.
//!
//! In the order of the data: [`access_unit`] (the unit of exchange), [`catalog`] (the description of a broadcast), [`codec`], [`flv`] (RTMP
//! message bodies), [`timestamp_mapper`] (timestamps as publishers send them), [`track_order`] (the predecessors of units), [`high_water`] and
//! [`live_window`] (what a server has received, and what it holds), [`fmp4`], [`cmaf`] and [`hls`] (delivery over HTTP), then [`path_merge`],
//! [`select`] and [`latency`] (the viewer).
#![forbid(unsafe_code)]

pub mod access_unit;
pub mod catalog;
pub mod cmaf;
pub mod codec;
mod derived;
pub mod flv;
pub mod fmp4;
pub mod frame_counter;
mod gop_duration;
pub mod high_water;
pub mod hls;
pub mod latency;
pub mod least_delay;
pub mod live_window;
pub mod path_merge;
pub mod select;
pub mod time;
pub mod timestamp_mapper;
pub mod timestamp_unwrap;
pub mod track_order;

pub use access_unit::{AccessUnit, Epoch, TrackId, TrackKind};
pub use catalog::{Catalog, Track};
pub use high_water::HighWaterMarks;
pub use live_window::{Cursor, LiveWindow};
pub use time::{Timestamp, WallClock};
pub use track_order::TrackOrder;
