//! Fragmented MP4 (CMAF): how HTTP carries a broadcast. Init segments, fragments, and a reader that takes both back.
//!
//! One rendition is the first video and the first audio track of a catalog, muxed. What is written is read back exactly: the
//! epoch and the clock travel in a `uuid` box after `moov`, a track's name in its `track_ID`, and the timescales let the
//! whole-millisecond DTS and PTS be recovered. The reader also takes files that others made.
//!
//! mp4-atom writes and reads the single boxes. Their nesting is ours, because a decoder configuration record must pass through
//! byte by byte, and a payload must not be copied.
//!
//! ISO/IEC 14496-12 (boxes), ISO/IEC 14496-15 (H.264, HEVC), ISO/IEC 23000-19 (CMAF), and the ISO bindings of AV1, VP9,
//! Opus and FLAC.

mod boxes;
mod fragment;
mod init;
mod moov;
mod reader;
mod sample_entry;
#[cfg(test)]
mod tests;
mod ticks;

pub use fragment::{Fragment, Fragmenter, fragment};
pub use init::init_segment;
pub use reader::{Event, Reader};

use crate::access_unit::{TrackId, TrackKind};
use crate::catalog::{Catalog, Track};
use crate::codec::Codec;
use crate::time::Timestamp;

/// Why a file could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The catalog has no track that fMP4 can carry.
    #[error("the catalog has no track to write")]
    NoTrack,
    /// There is no unit of the rendition to make a fragment of.
    #[error("there is no unit to write")]
    NoUnit,
    /// The decoder configuration record is not what its codec's binding wants.
    #[error("{track}: the {codec:?} configuration record of {length} bytes is malformed")]
    Record {
        /// Whose record.
        track: TrackId,
        /// Its codec.
        codec: Codec,
        /// Its length in bytes.
        length: usize,
    },
    /// A unit that fMP4 can not express: its DTS is before the start of the timeline or not after that of the unit before, or its
    /// PTS is hours from its DTS.
    #[error("{track}: a unit with DTS {dts} and PTS {pts} can not be written")]
    Time {
        /// Its track.
        track: TrackId,
        /// Its DTS.
        dts: Timestamp,
        /// Its PTS.
        pts: Timestamp,
    },
    /// More than one `mdat` can hold.
    #[error("{bytes} bytes are too much for one fragment")]
    TooLarge {
        /// How many.
        bytes: usize,
    },
    /// What is read is not what ISO/IEC 14496-12 says.
    #[error("{what} in the `{kind}` box at byte {at}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
        /// The box.
        kind: String,
        /// Where the top-level box that holds it starts, counted from the reader's first byte.
        at: u64,
    },
    /// A single box, written or read.
    #[error(transparent)]
    Box(#[from] mp4_atom::Error),
}

/// The tracks that one rendition carries: the first video and the first audio track.
pub fn rendition(catalog: &Catalog) -> impl Iterator<Item = &Track> {
    catalog.video().into_iter().chain(catalog.audio())
}

/// `v0` is 1, `a0` is 2, `v1` is 3: the name of a track survives without a table.
fn track_number(id: TrackId) -> u32 {
    u32::from(id.index) * 2 + if id.is_video() { 1 } else { 2 }
}

/// What [`track_number`] numbers so.
fn numbered_track(number: u32) -> Option<TrackId> {
    let zero_based = number.checked_sub(1)?;
    let kind = if zero_based % 2 == 0 { TrackKind::Video } else { TrackKind::Audio };
    Some(TrackId { kind, index: u8::try_from(zero_based / 2).ok()? })
}

/// `usertype` of the box that names the broadcast. Its content: epoch (u64), then wall clock of PTS 0 in µs (i64).
const EPOCH_BOX: &[u8; 16] = b"nearcast-epoch-1";
/// In the place of a clock that nobody knows.
const NO_CLOCK: i64 = i64::MIN;
