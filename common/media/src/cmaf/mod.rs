//! CMAF: cuts a stream of access units into parts, segments and init segments, and keeps them for a while.
//!
//! [`Segmenter`] decides where parts and segments end and numbers them, [`SegmentStore`] is what keeps complete segments, and
//! [`SegmentWindow`] is an immutable snapshot of what is available at one moment. Nothing here knows playlists, URIs or HTTP: HLS renders its
//! playlists from the snapshot ([`hls`](crate::hls)), and DASH could do the same.
//!
//! A *part* is one CMAF chunk (`moof` and `mdat`, about a fifth of a second), a *segment* is a whole number of parts that starts at an IDR
//! where the stream has one. Payloads are never copied: a part refers to the payloads of its access units.
//!
//! ISO/IEC 23000-19 (CMAF); the boxes are written by [`fmp4`](crate::fmp4).

mod absence;
mod config;
mod open_segment;
mod segment;
mod segmenter;
mod store;
mod targets;
#[cfg(test)]
mod tests;
mod timeline;

pub use config::{SegmenterConfig, SegmenterCounters};
pub use segment::{Bandwidth, Init, Intervals, Part, Segment, SegmentWindow};
pub use segmenter::Segmenter;
pub use store::{MemoryStore, SegmentStore};
