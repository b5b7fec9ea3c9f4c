//! Reads `moov`: the tracks, and the defaults of their fragments (ISO/IEC 14496-12 §8.2, §8.8.3).

use mp4_atom::{Atom, Trex};

use super::boxes::{BoxLocation, array, child, children, descendant, u32_at, u64_at};
use super::{Error, sample_entry};
use crate::catalog::MAX_TRACKS;
use crate::codec::CodecConfig;

/// A track that Nearcast can carry.
#[derive(Clone, Debug)]
pub(super) struct FileTrack {
    /// The `track_ID` in the file.
    pub(super) number: u32,
    /// Ticks per second, not zero.
    pub(super) timescale: u32,
    /// What the edit list adds to every timestamp, in ticks: negative if it cuts off the start.
    pub(super) shift: i64,
    pub(super) config: CodecConfig,
    pub(super) defaults: Defaults,
}

/// The defaults of a sample's fields.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Defaults {
    pub(super) duration: u32,
    pub(super) size: u32,
    pub(super) flags: u32,
}

/// The tracks of a `moov`, in its order, at most [`MAX_TRACKS`]; those of other kinds are left out.
pub(super) fn read(moov: &[u8], location: BoxLocation) -> Result<Vec<FileTrack>, Error> {
    let movie_timescale = descendant(moov, &[b"mvhd"], location)?.and_then(header_timescale).unwrap_or(1000);
    let mut tracks = Vec::new();
    for found in children(moov, location) {
        let (kind, trak) = found?;
        if &kind == b"trak" && tracks.len() < MAX_TRACKS {
            tracks.extend(read_track(trak, movie_timescale, location)?);
        }
    }
    if let Some(mvex) = child(moov, *b"mvex", location)? {
        for found in children(mvex, location) {
            let (kind, mut body) = found?;
            if &kind != b"trex" {
                continue;
            }
            let trex = Trex::decode_body(&mut body)?;
            if let Some(track) = tracks.iter_mut().find(|track| track.number == trex.track_id) {
                track.defaults = Defaults {
                    duration: trex.default_sample_duration,
                    size: trex.default_sample_size,
                    flags: trex.default_sample_flags,
                };
            }
        }
    }
    Ok(tracks)
}

fn read_track(trak: &[u8], movie_timescale: u32, location: BoxLocation) -> Result<Option<FileTrack>, Error> {
    let required = |body: Option<u32>, what| body.ok_or_else(|| location.malformed(what));
    let number =
        child(trak, *b"tkhd", location)?.and_then(|tkhd| u32_at(tkhd, if tkhd.first() == Some(&1) { 20 } else { 12 }));
    let number = required(number, "a track without a number")?;
    let timescale =
        descendant(trak, &[b"mdia", b"mdhd"], location)?.and_then(header_timescale).filter(|scale| *scale > 0);
    let timescale = required(timescale, "a track without a timescale")?;
    let Some(stsd) = descendant(trak, &[b"mdia", b"minf", b"stbl", b"stsd"], location)? else { return Ok(None) };
    // Only the first entry: current writers do not change the codec within a track.
    let Some(entry) = children(stsd.get(8..).unwrap_or_default(), location).next() else { return Ok(None) };
    let (kind, entry) = entry?;
    let Some(config) = sample_entry::read(kind, entry, timescale, location)? else { return Ok(None) };
    let edits = descendant(trak, &[b"edts", b"elst"], location)?;
    let shift = edits.and_then(|elst| edit_shift(elst, timescale, movie_timescale)).unwrap_or(0);
    Ok(Some(FileTrack { number, timescale, shift, config, defaults: Defaults::default() }))
}

/// `timescale` of an `mvhd` or `mdhd`.
fn header_timescale(header: &[u8]) -> Option<u32> {
    u32_at(header, if header.first() == Some(&1) { 20 } else { 12 })
}

/// An edit list that cuts off the start of a track or delays it shifts all of it; other edits do not occur in live streams.
fn edit_shift(elst: &[u8], timescale: u32, movie_timescale: u32) -> Option<i64> {
    let long = elst.first() == Some(&1);
    let count = u32_at(elst, 4)?.min(MAX_EDITS);
    let mut delay = 0i128;
    for n in 0..count as usize {
        let (duration, start) = if long {
            (u64_at(elst, 8 + n * 20)?, i64::from_be_bytes(array(elst, 16 + n * 20)?))
        } else {
            (u32_at(elst, 8 + n * 12)?.into(), i32::from_be_bytes(array(elst, 12 + n * 12)?).into())
        };
        if start >= 0 {
            return i64::try_from(delay - i128::from(start)).ok();
        }
        delay += i128::from(duration) * i128::from(timescale) / i128::from(movie_timescale.max(1));
    }
    i64::try_from(delay).ok()
}

/// Bounds the entries that are read: a delay and a cut.
const MAX_EDITS: u32 = 4;
