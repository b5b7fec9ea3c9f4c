//! Demuxes segments and parts of either container into access units.

use std::sync::Arc;

use bytes::Bytes;
use media::path_merge::Predecessor;
use media::{AccessUnit, Catalog, Epoch, TrackOrder, WallClock, fmp4};

use super::super::random_epoch;
use crate::ffmpeg::TsReader;
use crate::sandbox;

pub(super) type Units = Vec<(Arc<Catalog>, AccessUnit, Predecessor)>;

/// Reads the segments of one rendition in either container, and keeps their catalog and epoch.
#[derive(Debug, Default)]
pub(super) struct SegmentReader {
    timeline: Option<u64>,
    /// The epoch of a broadcast whose server states none: one for each discontinuity sequence.
    fallback: Option<Epoch>,
    fmp4: Option<fmp4::Reader>,
    ts: TsReader,
    /// The catalog of the units.
    catalog: Option<Arc<Catalog>>,
    /// `EXT-X-PROGRAM-DATE-TIME` of the next segment's first unit.
    date: Option<WallClock>,
    /// The order of the units, if the server states where units are missing.
    order: TrackOrder,
}

impl SegmentReader {
    /// Sets the discontinuity sequence number of the next segment. A new number means a new clock, and a new epoch if the server states none.
    pub(super) fn enter(&mut self, timeline: u64) {
        if self.timeline.replace(timeline) != Some(timeline) {
            self.fallback = Some(random_epoch());
            (self.fmp4, self.catalog) = (None, None);
            self.ts.restart();
        }
    }

    pub(super) fn wants_init(&self) -> bool {
        self.fmp4.is_none()
    }

    /// Begins a segment with this date, and discards the rest of an incomplete one.
    pub(super) fn begin(&mut self, date: Option<WallClock>) {
        self.date = date;
        self.fmp4.as_mut().map(fmp4::Reader::begin_segment).unwrap_or_default();
    }

    /// The next segment need not follow the last one.
    pub(super) fn skip(&mut self) {
        self.order.clear();
    }

    /// The segment has ended.
    ///
    /// # Errors
    /// If it is incomplete.
    pub(super) fn end(&self) -> Result<(), fmp4::Error> {
        self.fmp4.as_ref().map_or(Ok(()), fmp4::Reader::end_segment)
    }

    /// The last segment was cut off: the reader needs its init segment again.
    pub(super) fn broken(&mut self) {
        self.fmp4 = None;
    }

    pub(super) fn init(&mut self, init: Bytes) -> Result<(), fmp4::Error> {
        let mut reader = fmp4::Reader::new(self.fallback.unwrap_or_else(random_epoch));
        for event in reader.push(init)? {
            if let fmp4::Event::Catalog(catalog) = event {
                self.catalog = Some(Arc::new(catalog));
            }
        }
        self.fmp4 = Some(reader);
        Ok(())
    }

    pub(super) fn fmp4(&mut self, bytes: Bytes) -> Result<Units, fmp4::Error> {
        let Some(reader) = &mut self.fmp4 else { return Ok(Units::new()) };
        let mut units = Units::new();
        let events = reader.push(bytes)?;
        let states_order = reader.states_order();
        for event in events {
            match event {
                fmp4::Event::Catalog(mut catalog) => {
                    // A clock that was taken from the playlist is kept.
                    let known = self.catalog.as_ref().filter(|known| known.epoch == catalog.epoch);
                    catalog.clock = catalog.clock.or(known.and_then(|known| known.clock));
                    self.catalog = Some(Arc::new(catalog));
                }
                fmp4::Event::Predecessor(track, predecessor) => {
                    let epoch = self.catalog.as_ref().map(|catalog| catalog.epoch);
                    epoch.into_iter().for_each(|epoch| self.order.state(epoch, track, predecessor));
                }
                fmp4::Event::Unit(unit) => {
                    let predecessor =
                        if states_order { self.order.follow(&unit).into() } else { Predecessor::PathOrder };
                    units.extend(self.dated(unit).map(|(catalog, unit)| (catalog, unit, predecessor)));
                }
            }
        }
        Ok(units)
    }

    /// Reads a complete segment that has no init segment.
    ///
    /// # Errors
    /// In words, if it is not MPEG-TS.
    pub(super) async fn whole(&mut self, segment: Bytes) -> Result<Units, String> {
        if segment.first() != Some(&TS_SYNC) {
            return Err("the segment is neither fMP4 with an init segment nor MPEG-TS".to_owned());
        }
        let mut ts = std::mem::take(&mut self.ts);
        // The runtime is woken by a thread of its own, since a sandboxed one cannot.
        let demux = move || sandbox::run("demux", move || (ts.segment(segment), ts));
        let read = tokio::task::spawn_blocking(demux).await.map_err(std::io::Error::other).flatten();
        let read = read.map_err(|error| error.to_string())?;
        self.ts = read.1;
        let (tracks, found) = read.0.map_err(|error| error.to_string())?;
        let epoch = *self.fallback.get_or_insert_with(random_epoch);
        let catalog = self.catalog.get_or_insert_with(|| Arc::new(Catalog::new(epoch)));
        for track in tracks {
            if catalog.track(track.id) != Some(&track) {
                Arc::make_mut(catalog).set_track(track);
            }
        }
        let unit = |u: crate::ffmpeg::TsUnit| AccessUnit {
            epoch,
            track: u.track,
            dts: u.dts,
            pts: u.pts,
            random_access: u.random_access,
            payload: u.payload,
        };
        let dated = found.into_iter().map(unit).filter_map(|unit| self.dated(unit));
        Ok(dated.map(|(catalog, unit)| (catalog, unit, Predecessor::PathOrder)).collect())
    }

    /// The unit with its catalog, whose clock is taken from the playlist's date if the stream has none.
    fn dated(&mut self, unit: AccessUnit) -> Option<(Arc<Catalog>, AccessUnit)> {
        let catalog = self.catalog.as_mut()?;
        if let Some(date) = self.date.take()
            && catalog.clock.is_none()
        {
            let zero = date.as_micros().saturating_sub(unit.pts.as_millis().saturating_mul(1000));
            Arc::make_mut(catalog).clock = Some(WallClock::from_micros(zero));
        }
        Some((catalog.clone(), unit))
    }
}

/// The first byte of every MPEG-TS packet (ISO/IEC 13818-1 §2.4.3.3).
const TS_SYNC: u8 = 0x47;

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// By FFmpeg, in the sandbox.
    #[tokio::test]
    async fn a_transport_stream_is_read_whole() {
        crate::ffmpeg::init().unwrap();
        let encode = "-v error -nostdin -f lavfi -i testsrc2=s=320x180:r=25:d=2 -f lavfi -i sine=r=48000:d=2 \
                      -c:v libx264 -preset ultrafast -c:a aac -f mpegts -";
        let segment = Command::new("ffmpeg").args(encode.split_whitespace()).output().unwrap();
        let mut reader = SegmentReader::default();
        reader.enter(0);
        let units = reader.whole(segment.stdout.into()).await.unwrap();
        let (catalog, ..) = units.last().unwrap();
        assert!(catalog.video().is_some() && catalog.audio().is_some(), "{catalog:?}");
        let pictures = units.iter().filter(|(_, unit, _)| unit.track.is_video()).count();
        assert_eq!(pictures, 50);
        assert!((90..100).contains(&(units.len() - pictures)), "1024 samples each: {}", units.len() - pictures);
        assert!(reader.whole(Bytes::from_static(b"#EXTM3U")).await.is_err());
    }
}
