//! Fragmented MP4: init segments, fragments, and a reader for both.
//!
//! One rendition is the first video and the first audio track of a catalog, muxed. The reader recovers exactly what was written:
//! epoch and clock are in a `uuid` box after `moov`, the track id is in the `track_ID`, and the timescales preserve whole-millisecond DTS and PTS. It
//! also reads files of other writers.
//!
//! mp4-atom writes and reads single boxes. Their nesting is done here, because a decoder configuration record must be passed through unchanged and a
//! payload must not be copied.
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

/// Why an init segment or fragment could not be written, or a file not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The catalog has no track that fMP4 can carry.
    #[error("the catalog has no track to write")]
    NoTrack,
    /// There is no unit of the rendition to write.
    #[error("the fragment has no unit to write")]
    NoUnit,
    /// The decoder configuration record does not have the form that the binding of its codec requires.
    #[error("{track}: the {} configuration record of {length} bytes is malformed", codec.name())]
    Record {
        /// Track of the record.
        track: TrackId,
        /// Codec of the track.
        codec: Codec,
        /// Length of the record in bytes.
        length: usize,
    },
    /// A unit that fMP4 cannot express: its DTS is negative or not greater than that of the unit before, or its PTS is hours from its DTS.
    #[error("{track}: a unit with DTS {dts} and PTS {pts} cannot be written")]
    Time {
        /// Track of the unit.
        track: TrackId,
        /// DTS of the unit.
        dts: Timestamp,
        /// PTS of the unit.
        pts: Timestamp,
    },
    /// More than one `mdat` can hold (4 GiB).
    #[error("{bytes} bytes are too much for one fragment")]
    TooLarge {
        /// Size in bytes.
        bytes: usize,
    },
    /// The file violates ISO/IEC 14496-12, or exceeds what the reader holds.
    #[error("{what} in the `{kind}` box at byte {at}")]
    Malformed {
        /// The violation, as text.
        what: &'static str,
        /// Type of the box.
        kind: String,
        /// Position of its top-level box, in bytes from the reader's first byte.
        at: u64,
    },
    /// A single box could not be written or read.
    #[error(transparent)]
    Box(#[from] mp4_atom::Error),
}

/// The tracks of the rendition: the first video and the first audio track of the catalog.
pub fn rendition(catalog: &Catalog) -> impl Iterator<Item = &Track> {
    catalog.video().into_iter().chain(catalog.audio())
}

/// The `track_ID` of a track: `v0` is 1, `a0` is 2, `v1` is 3.
fn track_number(id: TrackId) -> u32 {
    u32::from(id.index) * 2 + if id.is_video() { 1 } else { 2 }
}

/// The inverse of [`track_number`].
fn numbered_track(number: u32) -> Option<TrackId> {
    let zero_based = number.checked_sub(1)?;
    let kind = if zero_based % 2 == 0 { TrackKind::Video } else { TrackKind::Audio };
    Some(TrackId { kind, index: u8::try_from(zero_based / 2).ok()? })
}

/// `usertype` of the `uuid` box with the broadcast's identity: epoch (u64), then wall-clock time of PTS 0 in µs (i64).
const EPOCH_BOX: &[u8; 16] = b"nearcast-epoch-1";
/// `usertype` of the `uuid` box in a `traf` whose samples are not at the DTS of their units: for each sample an i16, the DTS of the unit minus that of
/// the sample in milliseconds, or [`FILLER`].
const CORRECTIONS_BOX: &[u8; 16] = b"nearcast-times-1";
/// `usertype` of the `uuid` box in a `traf` with units that do not follow the unit before them in the file, because units between them are missing there:
/// for each, the index of its sample in the run (u32), and the DTS of the unit that it follows in milliseconds (i64), or [`UNKNOWN`].
const ORDER_BOX: &[u8; 16] = b"nearcast-order-1";
/// The predecessor of a unit whose predecessor is not known.
const UNKNOWN: i64 = i64::MIN;
/// The correction of a sample that is no unit.
const FILLER: i16 = i16::MIN;
/// Written if the clock is not known.
const NO_CLOCK: i64 = i64::MIN;
