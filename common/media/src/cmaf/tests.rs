//! The interface of segmenter and store. Segment boundaries are tested with the playlists, in `hls`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::access_unit::{AccessUnit, Epoch, TrackId};
use crate::catalog::{Catalog, Track};
use crate::codec::{Codec, CodecConfig, Format};
use crate::fmp4;
use crate::live_window::{Bounds, LiveWindow};
use crate::time::{Timestamp, WallClock};
use crate::track_order::TrackOrder;

/// Keeps every segment and lists the newest two, like a recording to a disk.
#[derive(Debug, Default)]
struct Archive {
    segments: Vec<Arc<Segment>>,
    inits: Vec<Arc<Init>>,
    target_durations: Vec<Duration>,
    first_listed: usize,
}

impl SegmentStore for Archive {
    fn push(&mut self, segment: Arc<Segment>, init: &Arc<Init>, target_duration: Duration) {
        if self.inits.iter().all(|stored| stored.id != init.id) {
            self.inits.push(Arc::clone(init));
        }
        self.segments.push(segment);
        self.target_durations.push(target_duration);
        self.first_listed = self.first_listed.max(self.segments.len().saturating_sub(2));
    }

    fn unlist_before(&mut self, msn: u64) {
        self.first_listed = self.segments.iter().take_while(|segment| segment.msn < msn).count();
    }

    fn listed(&self) -> Vec<Arc<Segment>> {
        self.segments[self.first_listed..].to_vec()
    }

    fn unlisted(&self) -> Vec<Arc<Segment>> {
        self.segments[..self.first_listed].to_vec()
    }

    fn inits(&self) -> Vec<Arc<Init>> {
        self.inits.clone()
    }
}

/// Audio frames of 20 ms with DTS from `from` up to `to`, in milliseconds.
fn push(segmenter: &mut Segmenter<Archive>, window: &mut LiveWindow, epoch: u64, from: i64, to: i64) {
    let format = Format::Audio { sample_rate: 48_000, channels: 2 };
    let config = CodecConfig { codec: Codec::Aac, record: Bytes::from_static(&[0x11, 0x94]), format };
    let mut catalog = Catalog::new(Epoch(epoch));
    catalog.set_track(Track { id: TrackId::AUDIO, config });
    let catalog = Arc::new(catalog);
    for dts in (from..to).step_by(20) {
        let dts = Timestamp::from_millis(dts);
        let payload = Bytes::from_static(&[0; 100]);
        let unit =
            AccessUnit { epoch: Epoch(epoch), track: TrackId::AUDIO, dts, pts: dts, random_access: true, payload };
        let previous = (dts > Timestamp::ZERO).then(|| Timestamp::from_millis(dts.as_millis() - 20));
        segmenter.push(&window.push(Arc::clone(&catalog), unit, previous).clone(), WallClock::from_micros(0));
    }
}

#[test]
fn another_store_gets_every_segment_once_and_decides_what_is_listed() {
    let config = SegmenterConfig { first_sequence: 40, ..SegmenterConfig::default() };
    let mut segmenter = Segmenter::with_store(config, Archive::default());
    let mut window = LiveWindow::new(Bounds { duration: Duration::from_secs(60), bytes: usize::MAX });
    push(&mut segmenter, &mut window, 1, 0, 60_020);
    let archive = segmenter.store();
    let numbers: Vec<u64> = archive.segments.iter().map(|segment| segment.msn).collect();
    assert_eq!(numbers, (40..70).collect::<Vec<_>>());
    assert!(archive.target_durations.iter().all(|target| *target == Duration::from_secs(2)));
    let snapshot = segmenter.window();
    let listed: Vec<u64> = snapshot.segments.iter().map(|segment| segment.msn).collect();
    assert_eq!((listed, snapshot.next_msn, snapshot.target_duration), (vec![68, 69], 70, 2));
    assert!(snapshot.segment(40).is_some(), "what the store keeps is available");
}

#[test]
fn a_new_broadcast_lists_no_segment_of_the_previous_one() {
    let mut segmenter = Segmenter::with_store(SegmenterConfig::default(), Archive::default());
    let mut window = LiveWindow::new(Bounds { duration: Duration::from_secs(60), bytes: usize::MAX });
    push(&mut segmenter, &mut window, 1, 0, 5000);
    segmenter.end();
    assert!(segmenter.window().ended);
    push(&mut segmenter, &mut window, 2, 0, 2020);
    let snapshot = segmenter.window();
    let listed: Vec<_> = snapshot.segments.iter().map(|segment| (segment.msn, segment.discontinuity)).collect();
    assert_eq!((listed, snapshot.unlisted.len(), snapshot.ended), (vec![(3, true)], 3, false));
    assert_eq!((snapshot.inits.len(), snapshot.discontinuity_sequence), (2, 0));
}

/// Pushes `seconds` of pictures, 25 per second, with an IDR every `gop` milliseconds.
fn push_pictures<S: SegmentStore>(segmenter: &mut Segmenter<S>, epoch: u64, from: i64, to: i64, gop: i64) {
    let mut window = LiveWindow::new(Bounds { duration: Duration::from_secs(60), bytes: usize::MAX });
    let format = Format::Video { width: 16, height: 16 };
    let record = Bytes::from_static(&[1, 66, 0, 30, 0xff, 0xe0, 0]);
    let mut catalog = Catalog::new(Epoch(epoch));
    catalog.set_track(Track { id: TrackId::VIDEO, config: CodecConfig { codec: Codec::H264, record, format } });
    let catalog = Arc::new(catalog);
    for at in (from..to).step_by(40) {
        let dts = Timestamp::from_millis(at);
        let payload = Bytes::from_static(&[0; 100]);
        let random_access = (at - from) % gop == 0;
        let unit = AccessUnit { epoch: Epoch(epoch), track: TrackId::VIDEO, dts, pts: dts, random_access, payload };
        let previous = (at > from).then(|| Timestamp::from_millis(at - 40));
        let entry = window.push(Arc::clone(&catalog), unit, previous).clone();
        segmenter.push(&entry, WallClock::from_micros(at * 1000));
    }
}

#[test]
fn a_broadcast_with_other_gops_begins_a_new_list() {
    let mut segmenter = Segmenter::new(SegmenterConfig::default());
    let listed =
        |segmenter: &Segmenter| segmenter.window().segments.iter().map(|segment| segment.msn).collect::<Vec<_>>();
    push_pictures(&mut segmenter, 1, 0, 25_000, 10_000);
    assert_eq!((segmenter.window().target_duration, listed(&segmenter)), (10, vec![0, 1]));
    // Other publishers, while the stream goes on: shorter GOPs, the same, longer ones.
    push_pictures(&mut segmenter, 2, 30_000, 36_000, 2000);
    assert_eq!((segmenter.window().target_duration, listed(&segmenter)), (2, vec![3, 4]));
    push_pictures(&mut segmenter, 3, 40_000, 46_000, 2000);
    assert_eq!((segmenter.window().target_duration, listed(&segmenter)), (2, vec![3, 4, 5, 6, 7]));
    push_pictures(&mut segmenter, 4, 50_000, 70_000, 8000);
    let window = segmenter.window();
    assert_eq!((window.target_duration, listed(&segmenter)), (8, vec![9, 10]));
    assert!(window.segments[0].discontinuity && window.segments.iter().all(|segment| segment.independent));
    // And after the stream has ended.
    segmenter.end();
    push_pictures(&mut segmenter, 5, 0, 5000, 2000);
    assert_eq!(segmenter.window().target_duration, 2);
}

#[test]
fn dates_follow_the_least_delay() {
    let mut segmenter = Segmenter::new(SegmenterConfig::default());
    let mut window = LiveWindow::new(Bounds { duration: Duration::from_secs(60), bytes: usize::MAX });
    let format = Format::Audio { sample_rate: 48_000, channels: 2 };
    let mut catalog = Catalog::new(Epoch(1));
    let record = Bytes::from_static(&[0x11, 0x94]);
    catalog.set_track(Track { id: TrackId::AUDIO, config: CodecConfig { codec: Codec::Aac, record, format } });
    let catalog = Arc::new(catalog);
    let mut errors = Vec::new();
    for n in 0..6000i64 {
        let made = n * 20;
        // The first units arrive late; from 60 s on the publisher's clock runs 3% fast.
        let at = made + (made - 60_000).max(0) * 3 / 100;
        let arrived = made + if made < 1000 { 800 } else { 30 };
        let dts = Timestamp::from_millis(at);
        let payload = Bytes::from_static(&[0; 100]);
        let unit = AccessUnit { epoch: Epoch(1), track: TrackId::AUDIO, dts, pts: dts, random_access: true, payload };
        let entry = window.push(Arc::clone(&catalog), unit, None).clone();
        if segmenter.push(&entry, WallClock::from_micros(arrived * 1000))
            && let Some(segment) = segmenter.window().segments.last()
            && made > 4000
        {
            let end = segment.program_date_time.as_micros() / 1000 + segment.duration.as_millis() as i64;
            errors.push(end - arrived);
        }
    }
    // A segment is dated when it is complete; it is never from the future, and at most a part late.
    assert!(errors.iter().all(|error| (-2300..=100).contains(error)), "{errors:?}");
}

/// A catalog of H.264 and AAC.
fn pictures_and_sound() -> Arc<Catalog> {
    let mut catalog = Catalog::new(Epoch(1));
    let (video, audio) = (Format::Video { width: 16, height: 16 }, Format::Audio { sample_rate: 48_000, channels: 2 });
    for (id, codec, record, format) in [
        (TrackId::VIDEO, Codec::H264, &[1, 66, 0, 30, 0xff, 0xe0, 0][..], video),
        (TrackId::AUDIO, Codec::Aac, &[0x11, 0x94], audio),
    ] {
        catalog.set_track(Track { id, config: CodecConfig { codec, record: Bytes::from_static(record), format } });
    }
    Arc::new(catalog)
}

/// The sound is away from 8 to 12 s, because none was made; pictures between 14 and 15 s were made and did not arrive; the publisher is kept from
/// running from 15.2 to 16.5 s, and the last sound before arrives after the first picture that follows.
#[test]
fn files_tell_units_that_are_missing_from_units_that_were_never_made() {
    let mut segmenter = Segmenter::with_store(SegmenterConfig::default(), Archive::default());
    let mut window = LiveWindow::new(Bounds { duration: Duration::from_secs(60), bytes: usize::MAX });
    let catalog = pictures_and_sound();
    let (mut source, mut sent, mut late) = (TrackOrder::default(), Vec::new(), Vec::new());
    for at in (0..20_000).step_by(20).filter(|at| !(15_200..16_480).contains(at)) {
        let dts = Timestamp::from_millis(at);
        let unit = |track, random_access| {
            let payload = Bytes::from_static(&[0; 10]);
            AccessUnit { epoch: Epoch(1), track, dts, pts: dts, random_access, payload }
        };
        let picture = (at % 40 == 0).then(|| unit(TrackId::VIDEO, at % 1000 == 0));
        let sound = (!(8000..12_000).contains(&at)).then(|| unit(TrackId::AUDIO, true));
        if (15_140..15_200).contains(&at) {
            late.extend(sound);
            continue;
        }
        for unit in picture.into_iter().chain(late.drain(..)).chain(sound) {
            let predecessor = source.follow(&unit);
            let at = unit.dts.as_millis();
            if unit.track == TrackId::VIDEO && (14_040..15_000).contains(&at) {
                continue;
            }
            sent.push((unit.track, at, predecessor.map(Timestamp::as_millis)));
            segmenter
                .push(&window.push(Arc::clone(&catalog), unit, predecessor).clone(), WallClock::from_micros(at * 1000));
        }
    }
    segmenter.end();

    let mut reader = fmp4::Reader::new(Epoch(7));
    let (mut order, mut received) = (TrackOrder::default(), Vec::new());
    reader.push(segmenter.store().inits[0].bytes.clone()).unwrap();
    let chunks =
        segmenter.store().segments.iter().flat_map(|segment| &segment.parts).flat_map(|part| part.fragment.chunks());
    for event in chunks.flat_map(|chunk| reader.push(chunk).unwrap()) {
        match event {
            fmp4::Event::Predecessor(track, predecessor) => order.state(Epoch(1), track, predecessor),
            fmp4::Event::Unit(unit) => {
                received.push((unit.track, unit.dts.as_millis(), order.follow(&unit).map(Timestamp::as_millis)));
            }
            fmp4::Event::Catalog(_) => {}
        }
    }
    assert!(reader.states_order());
    sent.sort_unstable();
    received.sort_unstable();
    assert_eq!(received, sent);
    assert!(
        received.contains(&(TrackId::AUDIO, 12_000, Some(7980)))
            && received.contains(&(TrackId::VIDEO, 15_000, Some(14_960)))
    );
}

/// Pictures that are announced from the start, and come after `late` milliseconds of sound: what is listed, as whether a segment has pictures and
/// whether it begins with a discontinuity; and the tracks of each init segment.
fn segments_with_late_pictures(late: i64) -> (Vec<(bool, bool)>, Vec<usize>) {
    let mut segmenter = Segmenter::with_store(SegmenterConfig::default(), Archive::default());
    let mut window = LiveWindow::new(Bounds { duration: Duration::from_secs(60), bytes: usize::MAX });
    let catalog = pictures_and_sound();
    for at in (0..20_000).step_by(20) {
        let dts = Timestamp::from_millis(at);
        let unit = |track, random_access| {
            let payload = Bytes::from_static(&[0; 10]);
            AccessUnit { epoch: Epoch(1), track, dts, pts: dts, random_access, payload }
        };
        // The first ones follow an IDR that nobody has seen.
        let picture = (at >= late && at % 40 == 0).then(|| unit(TrackId::VIDEO, at % 1000 == 0 && at > late));
        for unit in picture.into_iter().chain([unit(TrackId::AUDIO, true)]) {
            segmenter.push(&window.push(Arc::clone(&catalog), unit, None).clone(), WallClock::from_micros(at * 1000));
        }
    }
    segmenter.end();
    // The pictures before their first IDR.
    let SegmenterCounters { refused, undecodable, .. } = segmenter.counters();
    assert_eq!(refused + undecodable, 12);
    let store = segmenter.store();
    let segments = store.segments.iter().map(|segment| (segment.intervals.count > 0, segment.discontinuity)).collect();
    (segments, store.inits.iter().map(|init| init.catalog.tracks.len()).collect())
}

#[test]
fn sound_is_listed_alone_until_late_pictures_come() {
    let (segments, inits) = segments_with_late_pictures(8_500);
    let first = segments.iter().position(|(pictures, _)| *pictures).unwrap();
    assert_eq!((first, segments[first].1, inits), (4, true, vec![1, 2]), "{segments:?}");
    assert!(segments[first..].iter().all(|(pictures, _)| *pictures));
    assert_eq!(segments.iter().filter(|(_, discontinuity)| *discontinuity).count(), 1, "{segments:?}");
    let (segments, inits) = segments_with_late_pictures(1_500);
    assert_eq!(inits, [2], "pictures that are hardly late");
    assert!(segments.iter().all(|(_, discontinuity)| !discontinuity), "{segments:?}");
}

/// Sound for 60 s, and pictures where `has_picture` says so: what is listed, as whether a segment has pictures and whether it begins with a discontinuity;
/// and how often the init segment changes. Every unit is listed once.
fn segments_with_absences(has_picture: impl Fn(i64) -> bool) -> (Vec<(bool, bool)>, usize) {
    let mut segmenter = Segmenter::with_store(SegmenterConfig::default(), Archive::default());
    let mut window = LiveWindow::new(Bounds { duration: Duration::from_secs(100), bytes: usize::MAX });
    let (catalog, mut source, mut sent) = (pictures_and_sound(), TrackOrder::default(), Vec::new());
    for at in (0..60_000).step_by(20) {
        let dts = Timestamp::from_millis(at);
        let unit = |track, random_access| {
            let payload = Bytes::from_static(&[0; 10]);
            AccessUnit { epoch: Epoch(1), track, dts, pts: dts, random_access, payload }
        };
        let picture = (at % 40 == 0 && has_picture(at)).then(|| unit(TrackId::VIDEO, at % 2000 == 0));
        for unit in picture.into_iter().chain([unit(TrackId::AUDIO, true)]) {
            let predecessor = source.follow(&unit);
            sent.push((unit.track, at, predecessor.map(Timestamp::as_millis)));
            segmenter
                .push(&window.push(Arc::clone(&catalog), unit, predecessor).clone(), WallClock::from_micros(at * 1000));
        }
    }
    segmenter.end();
    assert_eq!((segmenter.counters().refused, segmenter.counters().undecodable), (0, 0));

    let mut reader = fmp4::Reader::new(Epoch(7));
    let (mut order, mut received, mut init, mut changes) = (TrackOrder::default(), Vec::new(), None, 0);
    let store = segmenter.store();
    for segment in &store.segments {
        if init.replace(segment.init) != Some(segment.init) {
            changes += 1;
            let init = store.inits.iter().find(|init| init.id == segment.init).unwrap();
            reader.push(init.bytes.clone()).unwrap();
        }
        for chunk in segment.parts.iter().flat_map(|part| part.fragment.chunks()) {
            for event in reader.push(chunk).unwrap() {
                match event {
                    fmp4::Event::Predecessor(track, predecessor) => order.state(Epoch(1), track, predecessor),
                    fmp4::Event::Unit(unit) => {
                        let predecessor = order.follow(&unit).map(Timestamp::as_millis);
                        received.push((unit.track, unit.dts.as_millis(), predecessor));
                    }
                    fmp4::Event::Catalog(_) => {}
                }
            }
        }
    }
    sent.sort_unstable();
    received.sort_unstable();
    assert_eq!(received, sent);
    (store.segments.iter().map(|segment| (segment.intervals.count > 0, segment.discontinuity)).collect(), changes - 1)
}

#[test]
fn sound_is_listed_alone_while_pictures_stay_away() {
    let discontinuities =
        |segments: &[(bool, bool)]| segments.iter().filter(|(_, discontinuity)| *discontinuity).count();
    // They go on in the middle of a GOP.
    let (segments, changes) = segments_with_absences(|at| !(10_500..20_700).contains(&at));
    assert_eq!((discontinuities(&segments), changes), (2, 2), "{segments:?}");
    // Again and again.
    let (segments, changes) = segments_with_absences(|at| at % 20_000 < 12_000);
    assert_eq!((discontinuities(&segments), changes), (5, 5), "{segments:?}");
    // For good.
    let (segments, changes) = segments_with_absences(|at| at < 30_000);
    assert_eq!((discontinuities(&segments), changes), (1, 1), "{segments:?}");
    // For less time than players go on by themselves.
    let (segments, changes) = segments_with_absences(|at| at % 10_000 < 7500);
    assert_eq!((discontinuities(&segments), changes), (0, 0), "{segments:?}");
    // A slide show, whose first slide is taken for pictures that have gone.
    let (segments, changes) = segments_with_absences(|at| at % 4000 == 0);
    assert_eq!((discontinuities(&segments), changes), (2, 2), "{segments:?}");
}

/// A stream whose tracks change with each picture of a millisecond: segments that hold next to nothing, each of which costs a few lines of playlist.
#[test]
fn the_number_of_segments_is_bounded() {
    let catalog = Arc::new(Catalog::new(Epoch(1)));
    let init = Arc::new(Init { id: 1, catalog, bytes: Bytes::new() });
    let mut store = MemoryStore::new(Duration::from_secs(20), 256 << 20);
    for msn in 0..6000 {
        let segment = Segment {
            msn,
            discontinuity: true,
            discontinuity_sequence: msn,
            program_date_time: WallClock::from_micros(0),
            duration: Duration::from_millis(1),
            independent: true,
            init: 1,
            parts: Vec::new(),
            bytes: 0,
            intervals: Intervals::default(),
            lists_parts: true,
        };
        store.push(Arc::new(segment), &init, Duration::from_secs(2));
    }
    let listed = store.listed();
    assert_eq!(listed.len() + store.unlisted().len(), 4096);
    assert_eq!(listed.last().map(|segment| segment.msn), Some(5999));
}

/// `intervals` between pictures in milliseconds, again and again for the time of some segments, with sound all the while.
fn frame_rate(intervals: &[i64]) -> Option<f64> {
    let (mut segmenter, mut at, mut next) = (Segmenter::new(SegmenterConfig::default()), 0, intervals.iter().cycle());
    let mut window = LiveWindow::new(Bounds { duration: Duration::from_secs(60), bytes: usize::MAX });
    let catalog = pictures_and_sound();
    let mut sound = 0;
    for n in 0.. {
        let mut push = |track, at, random_access| {
            let dts = Timestamp::from_millis(at);
            let payload = Bytes::from_static(&[0; 100]);
            let unit = AccessUnit { epoch: Epoch(1), track, dts, pts: dts, random_access, payload };
            segmenter.push(&window.push(Arc::clone(&catalog), unit, None).clone(), WallClock::from_micros(at * 1000));
        };
        for at in (sound..at).step_by(20) {
            push(TrackId::AUDIO, at, true);
            sound = at + 20;
        }
        push(TrackId::VIDEO, at, n % 30 == 0);
        if at > 20_000 {
            return segmenter.window().frame_rate();
        }
        at += next.next().unwrap();
    }
    None
}

#[test]
fn the_frame_rate_is_that_of_pictures_that_come() {
    let thirty = [33, 33, 34].repeat(40);
    assert_eq!(frame_rate(&[40]), Some(25.0));
    assert_eq!(frame_rate(&thirty), Some(30.0));
    // Away for three seconds.
    assert_eq!(frame_rate(&[thirty.clone(), vec![3000]].concat()), Some(30.0));
    // The highest counts; timestamps are rounded to milliseconds.
    let highest = frame_rate(&[thirty, [100].repeat(60)].concat()).unwrap();
    assert!((highest - 30.0).abs() < 0.02, "{highest}");
    assert_eq!(frame_rate(&[2000]), Some(0.5));
}
