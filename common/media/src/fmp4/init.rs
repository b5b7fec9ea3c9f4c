//! Init segments: `ftyp`, `moov` without samples, and the `uuid` box with the broadcast's identity (ISO/IEC 14496-12 §8.8.1).

use bytes::Bytes;
use mp4_atom::{
    Dref, DrefEntry, Encode, FixedPoint, FourCC, Ftyp, Hdlr, Matrix, Mdhd, Mvhd, Smhd, Stco, Stsc, Stsz, Stts, Tkhd,
    Trex, Url, Vmhd,
};

use super::boxes::{DEPENDENT, INDEPENDENT, write_box};
use super::ticks::timescale;
use super::{EPOCH_BOX, Error, NO_CLOCK, rendition, sample_entry, track_number};
use crate::catalog::{Catalog, Track};
use crate::codec::Format;

/// The init segment of `catalog`'s [rendition](super::rendition). The same catalog always makes the same bytes.
///
/// # Errors
/// If the catalog has no track, or one that fMP4 cannot carry.
pub fn init_segment(catalog: &Catalog) -> Result<Bytes, Error> {
    if rendition(catalog).next().is_none() {
        return Err(Error::NoTrack);
    }
    let mut out = Vec::with_capacity(2048);
    // `cmfc` would promise one track a file; `iso6` is the brand of `tfdt` and of offsets from `moof`.
    Ftyp {
        major_brand: FourCC::new(b"iso6"),
        minor_version: 0,
        compatible_brands: vec![FourCC::new(b"iso6"), FourCC::new(b"mp41")],
    }
    .encode(&mut out)?;
    write_box(&mut out, b"moov", |out| {
        movie_header().encode(out)?;
        for track in rendition(catalog) {
            write_box(out, b"trak", |out| write_track(out, catalog, track))?;
        }
        write_box(out, b"mvex", |out| rendition(catalog).try_for_each(|track| Ok(movie_extends(track).encode(out)?)))
    })?;
    write_box(&mut out, b"uuid", |out| {
        out.extend_from_slice(EPOCH_BOX);
        out.extend_from_slice(&catalog.epoch.0.to_be_bytes());
        out.extend_from_slice(&catalog.clock.map_or(NO_CLOCK, |clock| clock.as_micros()).to_be_bytes());
        Ok(())
    })?;
    Ok(out.into())
}

fn write_track(out: &mut Vec<u8>, catalog: &Catalog, track: &Track) -> Result<(), Error> {
    track_header(track).encode(out)?;
    write_box(out, b"mdia", |out| {
        let mdhd = Mdhd { timescale: timescale(track), language: "und".into(), ..Mdhd::default() };
        mdhd.encode(out)?;
        let (handler, name) = if track.id.is_video() { (b"vide", "video") } else { (b"soun", "sound") };
        Hdlr { handler: FourCC::new(handler), name: name.into() }.encode(out)?;
        write_box(out, b"minf", |out| {
            if track.id.is_video() {
                Vmhd::default().encode(out)?
            } else {
                Smhd::default().encode(out)?
            }
            // A data reference is mandatory: "in this file".
            let dref = Dref { entries: vec![DrefEntry::Url(Url::default())] };
            write_box(out, b"dinf", |out| Ok(dref.encode(out)?))?;
            write_box(out, b"stbl", |out| {
                write_box(out, b"stsd", |out| {
                    out.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 1]);
                    sample_entry::write(out, catalog, track)
                })?;
                Stts::default().encode(out)?;
                Stsc::default().encode(out)?;
                Stsz::default().encode(out)?;
                Ok(Stco::default().encode(out)?)
            })
        })
    })
}

fn movie_header() -> Mvhd {
    Mvhd {
        creation_time: 0,
        modification_time: 0,
        timescale: 1000,
        duration: 0,
        rate: 1.into(),
        volume: 1.into(),
        matrix: Matrix::default(),
        next_track_id: u32::MAX,
    }
}

fn track_header(track: &Track) -> Tkhd {
    let (width, height) = match track.config.format {
        Format::Video { width, height } => (width, height),
        Format::Audio { .. } => (0, 0),
    };
    let side = |pixels: u32| FixedPoint::from(u16::try_from(pixels).unwrap_or(u16::MAX));
    Tkhd {
        track_id: track_number(track.id),
        enabled: true,
        in_movie: true,
        volume: if track.id.is_video() { 0.into() } else { 1.into() },
        width: side(width),
        height: side(height),
        ..Tkhd::default()
    }
}

/// Decoding can start at any audio sample; each video sample states its own flags.
fn movie_extends(track: &Track) -> Trex {
    Trex {
        track_id: track_number(track.id),
        default_sample_description_index: 1,
        default_sample_flags: if track.id.is_video() { DEPENDENT } else { INDEPENDENT },
        ..Trex::default()
    }
}
