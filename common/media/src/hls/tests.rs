//! Playlists as literal lines, segment boundaries, preload hints, and the next resource to fetch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::client::{PlaylistAction, PlaylistClient, resolve};
use super::render::to_media_playlist;
use super::*;
use crate::access_unit::{AccessUnit, Epoch, TrackId};
use crate::catalog::{Catalog, Track};
use crate::cmaf::{Bandwidth, Part, Segment, SegmentWindow, Segmenter, SegmenterConfig, SegmenterCounters};
use crate::codec::{Codec, CodecConfig, Format};
use crate::fmp4::{Event, Reader};
use crate::live_window::{Bounds, LiveWindow};
use crate::time::{Timestamp, WallClock};
use crate::track_order::TrackOrder;

mod low_latency;
mod part_client;
mod reloads;

const AVCC: &[u8] = &[
    1, 0x64, 0, 0x0a, 0xff, 0xe1, 0, 0x17, 0x67, 0x64, 0, 0x0a, 0xac, 0xd9, 0x44, 0x26, 0x84, 0, 0, 3, 0, 4, 0, 0, 3,
    0, 0xc8, 0x3c, 0x48, 0x96, 0x58, 1, 0, 6, 0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc0, 0xfd, 0xf8, 0xf8, 0,
];
/// The wall-clock time 2026-11-22T13:01:33.250Z.
const CLOCK: WallClock = WallClock::from_micros(1_795_352_493_250_000);

fn video() -> Track {
    let format = Format::Video { width: 64, height: 64 };
    Track { id: TrackId::VIDEO, config: CodecConfig { codec: Codec::H264, record: Bytes::from_static(AVCC), format } }
}

fn sound() -> Track {
    let format = Format::Audio { sample_rate: 48_000, channels: 2 };
    Track {
        id: TrackId::AUDIO,
        config: CodecConfig { codec: Codec::Aac, record: Bytes::from_static(&[0x11, 0x94]), format },
    }
}

fn catalog(epoch: u64, tracks: &[Track]) -> Arc<Catalog> {
    let mut catalog = Catalog::new(Epoch(epoch));
    catalog.clock = Some(CLOCK);
    catalog.tracks = tracks.to_vec();
    Arc::new(catalog)
}

/// A publisher, the hub's window and the segmenter behind it.
struct Stream {
    window: LiveWindow,
    segmenter: Segmenter,
    catalog: Arc<Catalog>,
    sent: Vec<AccessUnit>,
    order: TrackOrder,
    changes: usize,
    /// Every segment that has been listed, with its init segment.
    listed: BTreeMap<u64, (Bytes, Arc<Segment>)>,
}

impl Stream {
    fn new(settings: SegmenterConfig, catalog: Arc<Catalog>) -> Self {
        let window = LiveWindow::new(Bounds { duration: Duration::from_secs(60), bytes: usize::MAX });
        Self {
            window,
            segmenter: Segmenter::new(settings),
            catalog,
            sent: Vec::new(),
            order: TrackOrder::default(),
            changes: 0,
            listed: BTreeMap::new(),
        }
    }

    fn push(&mut self, track: TrackId, dts: i64, composition: i64, random_access: bool, size: usize) {
        let payload = Bytes::from(vec![self.sent.len() as u8; size]);
        let (dts, pts) = (Timestamp::from_millis(dts), Timestamp::from_millis(dts + composition));
        let unit = AccessUnit { epoch: self.catalog.epoch, track, dts, pts, random_access, payload };
        self.sent.push(unit.clone());
        let predecessor = self.order.follow(&unit);
        let entry = self.window.push(Arc::clone(&self.catalog), unit, predecessor).clone();
        self.changes += usize::from(self.segmenter.push(&entry, WallClock::from_micros(dts.as_millis() * 1000)));
        self.note_listed();
    }

    /// Pictures at 25 a second between these two times, an IDR at every multiple of `gop`.
    fn pictures(&mut self, from: i64, to: i64, gop: i64) {
        (from..to).step_by(40).for_each(|dts| self.push(TrackId::VIDEO, dts, 0, dts % gop == 0, 100));
    }

    fn both(&mut self, from: i64, to: i64, gop: i64) {
        for dts in (from..to).step_by(20) {
            if dts % 40 == 0 {
                self.push(TrackId::VIDEO, dts, 0, dts % gop == 0, 100);
            }
            self.push(TrackId::AUDIO, dts, 0, true, 10);
        }
    }

    fn text(&self) -> String {
        media_playlist(&self.segmenter.window()).unwrap_or_default()
    }

    /// The playlist without the tags of parts.
    fn classic(&self) -> String {
        let playlist = SegmentWindow { low_latency: false, ..SegmentWindow::clone(&self.segmenter.window()) };
        media_playlist(&playlist).unwrap_or_default()
    }

    fn durations(&self) -> Vec<u128> {
        self.segmenter.window().segments.iter().map(|segment| segment.duration.as_millis()).collect()
    }

    /// Notes what is listed now.
    fn note_listed(&mut self) {
        let playlist = self.segmenter.window();
        for segment in &playlist.segments {
            self.listed
                .entry(segment.msn)
                .or_insert_with(|| (playlist.init(segment.init).unwrap(), Arc::clone(segment)));
        }
    }

    /// The units that a client receives if it fetches everything that has been listed, in order.
    fn received(&mut self) -> Vec<AccessUnit> {
        self.note_listed();
        let mut units = Vec::new();
        let mut reader = Reader::new(Epoch(0));
        let mut init = None;
        for (bytes, segment) in self.listed.values() {
            if init.replace(segment.init) != Some(segment.init) {
                assert!(reader.push(bytes.clone()).unwrap().is_empty());
            }
            let chunks = segment.parts.iter().flat_map(|part| part.fragment.chunks());
            let bytes: Vec<_> = chunks.flat_map(|chunk| reader.push(chunk).unwrap()).collect();
            units.extend(bytes.into_iter().filter_map(|event| match event {
                Event::Unit(unit) => Some(unit),
                Event::Catalog(_) | Event::Predecessor(..) => None,
            }));
        }
        units
    }

    fn assert_all_received(&mut self) {
        let of = |units: &[AccessUnit], id| units.iter().filter(|u| u.track == id).cloned().collect::<Vec<_>>();
        for id in [TrackId::VIDEO, TrackId::AUDIO] {
            assert_eq!(of(&self.received(), id), of(&self.sent, id), "{id}");
        }
    }
}

fn init_name(stream: &Stream, segment: usize) -> String {
    Resource::Init(stream.segmenter.window().segments[segment].init).to_string()
}

#[test]
fn a_stream_of_video_and_audio() {
    let mut stream = Stream::new(
        SegmenterConfig { first_sequence: 7, ..SegmenterConfig::default() },
        catalog(1, &[video(), sound()]),
    );
    stream.both(0, 1960, 1000);
    assert_eq!(stream.classic(), "");
    stream.both(1960, 5000, 1000);
    let init = init_name(&stream, 0);
    assert_eq!(
        stream.classic(),
        format!(
            "\
#EXTM3U
#EXT-X-VERSION:6
#EXT-X-TARGETDURATION:2
#EXT-X-MEDIA-SEQUENCE:7
#EXT-X-MAP:URI=\"{init}\"
#EXT-X-PROGRAM-DATE-TIME:2026-11-22T13:01:33.250Z
#EXTINF:2.000,
seg-7.m4s
#EXT-X-PROGRAM-DATE-TIME:2026-11-22T13:01:35.250Z
#EXTINF:2.000,
seg-8.m4s
"
        )
    );
    let open = stream.segmenter.window().open.clone().unwrap();
    assert_eq!((open.msn, open.parts.len()), (9, 4));
    stream.segmenter.end();
    assert!(stream.classic().ends_with("#EXTINF:1.000,\nseg-9.m4s\n#EXT-X-ENDLIST\n"), "{}", stream.classic());
    stream.assert_all_received();

    let text = multivariant(&stream.segmenter.window(), "media.m3u8").unwrap();
    let parsed = parse_multivariant(&text).unwrap();
    let bandwidth = stream.segmenter.window().bandwidth().unwrap();
    assert_eq!(bandwidth, Bandwidth { peak: 39_520, average: 39_520 });
    assert_eq!(
        text,
        format!(
            "#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-STREAM-INF:BANDWIDTH={},AVERAGE-BANDWIDTH={},\
             CODECS=\"avc1.64000A,mp4a.40.2\",RESOLUTION=64x64,FRAME-RATE=25\nmedia.m3u8\n",
            bandwidth.peak, bandwidth.average
        )
    );
    assert_eq!((parsed.variants[0].bandwidth, parsed.variants[0].resolution), (bandwidth.peak, Some((64, 64))));
}

/// GOP lengths in milliseconds, one after the other, and the segments that they make.
#[test]
fn cuts_at_idrs_near_the_target() {
    for (gops, expected, target) in [
        (&[1000i64; 8][..], &[2000u128, 2000, 2000, 2000][..], 2),
        (&[2000; 4], &[2000; 4], 2),
        (&[1480; 4], &[1480; 4], 2),
        (&[920; 6], &[1840; 3], 2),
        (&[2480; 3], &[2480; 3], 2),
        (&[8000; 2], &[8000; 2], 8),
        // Scene cuts: an early IDR does not end the segment, unless the next one would be too late.
        (&[2000, 400, 2000, 2000], &[2000, 2400, 2000], 2),
        (&[2000, 800, 2000, 2000], &[2000, 800, 2000, 2000], 2),
        // Longer GOPs than the target allows: cut in the middle.
        (&[2000, 6000, 2000], &[2000, 2480, 2480, 1040, 2000], 2),
        // Never an IDR: the first segment is as long as any may be.
        (&[25_000], &[10_480, 10_480, 4040], 10),
    ] {
        let settings = SegmenterConfig { window: Duration::from_secs(100), ..SegmenterConfig::default() };
        let mut stream = Stream::new(settings, catalog(1, &[video()]));
        let mut dts = 0;
        for gop in gops {
            (0..*gop).step_by(40).for_each(|within| stream.push(TrackId::VIDEO, dts + within, 0, within == 0, 10));
            dts += gop;
        }
        stream.segmenter.end();
        let playlist = stream.segmenter.window();
        assert_eq!((stream.durations(), playlist.target_duration), (expected.to_vec(), target), "{gops:?}");
        assert!(!stream.text().contains("INDEPENDENT-SEGMENTS"), "a long GOP may follow");
        assert!(playlist.segments.iter().all(|s| (s.duration.as_millis() + 500) / 1000 <= u128::from(target)));
        stream.assert_all_received();
    }
}

#[test]
fn a_stream_of_audio_only() {
    let mut stream = Stream::new(SegmenterConfig::default(), catalog(1, &[sound()]));
    (0..400).for_each(|n| stream.push(TrackId::AUDIO, n * 1024 / 48, 0, true, 10));
    stream.segmenter.end();
    let durations = stream.durations();
    assert!(durations[..durations.len() - 1].iter().all(|d| (1990..=2010).contains(d)), "{durations:?}");
    assert!(stream.segmenter.window().segments.iter().all(|segment| segment.independent));
    assert_eq!(stream.segmenter.window().frame_rate(), None);
    stream.assert_all_received();
}

#[test]
fn a_reconnect_with_the_same_epoch_is_no_discontinuity() {
    let mut stream = Stream::new(SegmenterConfig::default(), catalog(1, &[video()]));
    stream.pictures(0, 3000, 1000);
    // Another session: the same broadcast, in a catalog of its own.
    stream.catalog = catalog(1, &[video()]);
    stream.pictures(3000, 8200, 1000);
    assert!(!stream.text().contains("DISCONTINUITY"));
    assert_eq!(stream.durations(), [2000; 4]);
    assert_eq!(stream.segmenter.window().inits.len(), 1);
}

#[test]
fn another_epoch_is_a_discontinuity() {
    let mut stream = Stream::new(
        SegmenterConfig { window: Duration::from_secs(6), ..SegmenterConfig::default() },
        catalog(1, &[video()]),
    );
    stream.pictures(0, 2600, 1000);
    stream.catalog = catalog(2, &[video()]);
    stream.pictures(0, 4100, 1000);
    let (one, two) = (init_name(&stream, 0), init_name(&stream, 2));
    assert_ne!(one, two);
    assert_eq!(
        stream.classic(),
        format!(
            "\
#EXTM3U
#EXT-X-VERSION:6
#EXT-X-TARGETDURATION:2
#EXT-X-MEDIA-SEQUENCE:0
#EXT-X-MAP:URI=\"{one}\"
#EXT-X-PROGRAM-DATE-TIME:2026-11-22T13:01:33.250Z
#EXTINF:2.000,
seg-0.m4s
#EXT-X-PROGRAM-DATE-TIME:2026-11-22T13:01:35.250Z
#EXTINF:0.600,
seg-1.m4s
#EXT-X-DISCONTINUITY
#EXT-X-MAP:URI=\"{two}\"
#EXT-X-PROGRAM-DATE-TIME:2026-11-22T13:01:33.250Z
#EXTINF:2.000,
seg-2.m4s
#EXT-X-PROGRAM-DATE-TIME:2026-11-22T13:01:35.250Z
#EXTINF:2.000,
seg-3.m4s
"
        )
    );
    // The discontinuity leaves the playlist, and is counted from then on.
    stream.pictures(4120, 6100, 1000);
    assert!(!stream.text().contains("DISCONTINUITY-SEQUENCE"));
    stream.pictures(6120, 14_100, 1000);
    assert!(stream.text().contains("#EXT-X-MEDIA-SEQUENCE:6\n#EXT-X-DISCONTINUITY-SEQUENCE:1\n"), "{}", stream.text());
    assert!(!stream.text().contains("DISCONTINUITY\n"));
}

#[test]
fn a_track_that_joins() {
    // While the first segment is open: no trace.
    let mut stream = Stream::new(SegmenterConfig::default(), catalog(1, &[video()]));
    stream.pictures(0, 600, 1000);
    assert!(stream.segmenter.window().open.is_none());
    stream.catalog = catalog(1, &[video(), sound()]);
    stream.both(600, 4200, 1000);
    assert!(!stream.text().contains("DISCONTINUITY"));
    assert_eq!(stream.durations(), [2000, 2000]);
    stream.segmenter.end();
    stream.assert_all_received();

    // Later: with the next IDR, and nothing is lost until then.
    let mut stream = Stream::new(SegmenterConfig::default(), catalog(1, &[video()]));
    stream.pictures(0, 2600, 2000);
    stream.catalog = catalog(1, &[video(), sound()]);
    stream.both(2600, 8200, 2000);
    stream.segmenter.end();
    let playlist = stream.segmenter.window();
    let marks: Vec<_> = playlist.segments.iter().map(|s| (s.discontinuity, s.independent)).collect();
    assert_eq!(marks, [(false, true), (false, true), (true, true), (false, true), (false, true)]);
    stream.assert_all_received();
}

#[test]
fn pictures_that_change_before_the_first_of_them() {
    // The header states one configuration, and the first IDR another; sound comes before it.
    let mut stated = video();
    stated.config.format = Format::Video { width: 128, height: 64 };
    stated.config.record = [AVCC, &[0]].concat().into();
    let mut stream = Stream::new(SegmenterConfig::default(), catalog(1, &[stated, sound()]));
    (0..40).step_by(20).for_each(|dts| stream.push(TrackId::AUDIO, dts, 0, true, 10));
    stream.catalog = catalog(1, &[video(), sound()]);
    stream.both(40, 4200, 1000);
    assert!(!stream.text().contains("DISCONTINUITY"), "{}", stream.text());
    let window = stream.segmenter.window();
    assert_eq!(window.inits.len(), 1);
    assert_eq!(window.catalog().and_then(|catalog| catalog.video().cloned()), Some(video()));
}

#[test]
fn a_track_that_changes() {
    let mut bigger = video();
    bigger.config.format = Format::Video { width: 128, height: 64 };
    bigger.config.record = [AVCC, &[0]].concat().into();
    let mut stream = Stream::new(SegmenterConfig::default(), catalog(1, &[video(), sound()]));
    stream.both(0, 3000, 1000);
    stream.catalog = catalog(1, &[bigger, sound()]);
    stream.both(3000, 6200, 1000);
    assert_eq!(stream.durations(), [2000, 1000, 2000]);
    assert_eq!(
        stream.segmenter.window().segments.iter().map(|s| s.discontinuity).collect::<Vec<_>>(),
        [false, false, true]
    );
    stream.segmenter.end();
    stream.assert_all_received();
}

#[test]
fn a_clock_that_becomes_known_is_no_discontinuity() {
    let mut unknown = Catalog::clone(&catalog(1, &[video()]));
    unknown.clock = None;
    let mut stream = Stream::new(SegmenterConfig::default(), Arc::new(unknown));
    stream.pictures(0, 2600, 1000);
    assert!(stream.text().contains("1970-01-01T00:00:00.000Z"));
    stream.catalog = catalog(1, &[video()]);
    stream.pictures(2600, 5100, 1000);
    assert!(!stream.text().contains("DISCONTINUITY"));
    assert!(stream.text().contains("2026-11-22T13:01:36.250Z"), "{}", stream.text());
    assert_eq!(stream.text().matches("EXT-X-MAP").count(), 2);
}

#[test]
fn a_long_gap_in_the_timeline_is_a_discontinuity() {
    let mut stream = Stream::new(SegmenterConfig::default(), catalog(1, &[video()]));
    stream.pictures(0, 3000, 1000);
    stream.pictures(5000, 8000, 1000);
    assert!(!stream.text().contains("DISCONTINUITY"), "{}", stream.text());
    stream.pictures(18_000, 21_000, 1000);
    assert_eq!(stream.text().matches("#EXT-X-DISCONTINUITY\n").count(), 1, "{}", stream.text());
    assert!(stream.durations().iter().all(|d| *d < 2500), "{:?}", stream.durations());
    stream.segmenter.end();
    stream.assert_all_received();
}

#[test]
fn units_that_cannot_be_written_are_counted() {
    let mut broken = sound();
    broken.config.record = Bytes::new();
    let mut stream = Stream::new(SegmenterConfig::default(), catalog(1, &[video(), broken]));
    stream.push(TrackId::VIDEO, 0, 0, false, 10);
    stream.both(40, 3000, 1000);
    stream.push(TrackId::VIDEO, 2000, 0, false, 10);
    let expected = SegmenterCounters { refused: 148 + 1, undecodable: 1 + 24, dependent_segments: 0 };
    assert_eq!(stream.segmenter.counters(), expected);
    let nothing = Stream::new(SegmenterConfig::default(), catalog(1, &[]));
    assert_eq!((nothing.text(), multivariant(&nothing.segmenter.window(), "x")), (String::new(), None));
}

#[test]
fn segments_leave_the_playlist_and_stay_available_for_a_while() {
    let mut stream = Stream::new(
        SegmenterConfig { window: Duration::from_secs(8), ..SegmenterConfig::default() },
        catalog(1, &[video()]),
    );
    stream.pictures(0, 60_100, 1000);
    let playlist = stream.segmenter.window();
    let msns = |segments: &[Arc<Segment>]| segments.iter().map(|s| s.msn).collect::<Vec<_>>();
    assert_eq!(msns(&playlist.segments), [26, 27, 28, 29]);
    // A segment, and the longest playlist that had it.
    assert_eq!(msns(&playlist.unlisted), [21, 22, 23, 24, 25]);
    assert!(playlist.segment(21).is_some() && playlist.segment(20).is_none());

    // However small the window is to be: three target durations.
    let mut stream =
        Stream::new(SegmenterConfig { window: Duration::ZERO, ..SegmenterConfig::default() }, catalog(1, &[video()]));
    stream.pictures(0, 60_100, 1000);
    assert_eq!(stream.segmenter.window().segments.len(), 3);

    // Bytes are over all that.
    let mut stream =
        Stream::new(SegmenterConfig { bytes: 20_000, ..SegmenterConfig::default() }, catalog(1, &[video()]));
    stream.pictures(0, 60_100, 1000);
    let playlist = stream.segmenter.window();
    assert!(playlist.segments.iter().chain(&playlist.unlisted).map(|s| s.bytes).sum::<usize>() <= 20_000);
    assert!(!playlist.segments.is_empty());
}

#[test]
fn b_frames_start_where_the_idr_is_shown() {
    let mut stream = Stream::new(SegmenterConfig::default(), catalog(1, &[video()]));
    for n in 0..160 {
        stream.push(
            TrackId::VIDEO,
            n * 40,
            if n % 25 == 0 { 80 } else { [160, 40, 0][n as usize % 3] },
            n % 25 == 0,
            10,
        );
    }
    stream.segmenter.end();
    assert!(stream.classic().contains("TIME:2026-11-22T13:01:33.330Z\n#EXTINF:2.000,"), "{}", stream.text());
    stream.assert_all_received();
}

#[test]
fn audio_ahead_of_video_cuts_no_segment() {
    let mut stream = Stream::new(SegmenterConfig::default(), catalog(1, &[video(), sound()]));
    for dts in (0..10_000).step_by(20) {
        if dts % 40 == 0 {
            stream.push(TrackId::VIDEO, dts, 0, dts % 2000 == 0, 100);
        }
        stream.push(TrackId::AUDIO, dts + 900, 0, true, 10);
    }
    stream.segmenter.end();
    assert_eq!(stream.durations()[..4], [2000; 4]);
    assert!(stream.segmenter.window().segments.iter().all(|segment| segment.independent));
    stream.assert_all_received();
}

#[test]
fn segments_are_cut_by_audio_after_video_stops() {
    let mut stream = Stream::new(
        SegmenterConfig { window: Duration::from_secs(60), ..SegmenterConfig::default() },
        catalog(1, &[video(), sound()]),
    );
    stream.both(0, 4000, 2000);
    (4000..20_000).step_by(20).for_each(|dts| stream.push(TrackId::AUDIO, dts, 0, true, 10));
    stream.both(20_000, 24_000, 2000);
    stream.segmenter.end();
    let durations = stream.durations();
    assert!(durations.len() >= 10 && durations.iter().all(|d| *d < 2500), "{durations:?}");
    // Three seconds after the pictures, the sound goes on alone, and they join it again.
    assert_eq!(stream.text().matches("#EXT-X-DISCONTINUITY\n").count(), 2);
    assert!(durations.iter().sum::<u128>() > 23_000, "{durations:?}");
    stream.assert_all_received();
}

#[test]
fn pictures_that_wait_for_sound_after_a_pause_are_bounded_in_bytes() {
    for (bytes, waits) in [(256 << 20, true), (64 << 10, false)] {
        let settings = SegmenterConfig { bytes, ..SegmenterConfig::default() };
        let mut stream = Stream::new(settings, catalog(1, &[video(), sound()]));
        stream.both(0, 4400, 1000);
        let changes = stream.changes;
        (5000..5160).step_by(40).for_each(|dts| stream.push(TrackId::VIDEO, dts, 0, false, 1000));
        assert_eq!(stream.changes == changes, waits, "{bytes} bytes");
    }
}

#[test]
fn a_publisher_after_the_end_starts_a_new_list() {
    let mut stream = Stream::new(SegmenterConfig::default(), catalog(1, &[video()]));
    stream.pictures(0, 3000, 1000);
    stream.segmenter.end();
    assert!(stream.text().contains("ENDLIST"));
    stream.catalog = catalog(2, &[video()]);
    stream.pictures(0, 3000, 1000);
    assert!(!stream.text().contains("ENDLIST"));
    assert!(stream.text().contains("#EXT-X-DISCONTINUITY\n"));
}

#[test]
fn resources_have_one_name() {
    for resource in [Resource::Init(0xabc), Resource::Segment(17), Resource::Part(17, 0)] {
        assert_eq!(Resource::from_name(&resource.to_string()), Some(resource));
    }
    for bad in [
        "",
        "seg-.m4s",
        "seg-+1.m4s",
        "seg-01.m4s",
        "init-abc.mp4",
        "init-0000000000000ABC.mp4",
        "seg-1.mp4",
        "seg-99999999999999999999.m4s",
        "part-1.m4s",
        "part-1-.m4s",
        "part-1-01.m4s",
        "part-1-2-3.m4s",
    ] {
        assert_eq!(Resource::from_name(bad), None, "{bad}");
    }
}

#[test]
fn parses_playlists_of_other_servers() {
    let text = "\u{feff}#EXTM3U\r\n# a comment\r\n#EXT-X-VERSION:6\r\n#EXT-X-TARGETDURATION:6\r\n#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1.002,CAN-SKIP-UNTIL=24.0\r\n\
        #EXT-X-PART-INF:PART-TARGET=0.334\r\n#EXT-X-MEDIA-SEQUENCE:10\r\n#EXT-X-SOMETHING-NEW:\"a,b\"\r\n\
        #EXT-X-MAP:URI=\"i,n=it.mp4\",BYTERANGE=\"720@0\"\r\n#EXT-X-KEY:METHOD=AES-128,URI=\"k\"\r\n\r\n#EXTINF:5.96,a title, with a comma\r\n#EXT-X-BYTERANGE:1000@720\r\nall.mp4\r\n\
        #EXT-X-KEY:METHOD=NONE\r\n#EXTINF:6\r\n#EXT-X-BYTERANGE:500\r\nall.mp4\r\n#EXT-X-DISCONTINUITY\r\n#EXT-X-GAP\r\n#EXTINF:6.0,\r\nnext.mp4\r\n\
        #EXT-X-PART:DURATION=0.33,URI=\"p1\",INDEPENDENT=YES\r\n#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"p2\"\r\n#EXT-X-RENDITION-REPORT:URI=\"../x\",LAST-MSN=12,LAST-PART=1\r\n";
    let ParsedPlaylist::Media(playlist) = parse(text).unwrap() else { panic!() };
    let segments = &playlist.segments;
    assert_eq!((playlist.version, playlist.target_duration, playlist.next_msn()), (6, Duration::from_secs(6), 13));
    assert_eq!(segments[0].map.as_ref().unwrap().uri, "i,n=it.mp4");
    assert_eq!(segments[1].byte_range, Some(ByteRange { length: 500, offset: 1720 }));
    assert_eq!(segments.iter().map(|s| s.encrypted).collect::<Vec<_>>(), [true, false, false]);
    assert!(segments[2].discontinuity && segments[2].gap && segments[2].map == segments[0].map);
    assert_eq!(playlist.trailing.head.parts[0].duration, Duration::from_millis(330));
    assert_eq!(playlist.trailing.preload_hint.as_ref().unwrap().uri, "p2");
    assert_eq!(playlist.rendition_reports[0].last_msn, Some(12));
    assert_eq!(playlist.server_control.part_hold_back, Some(Duration::from_millis(1002)));

    let text = "#EXTM3U\r\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"English, please\",DEFAULT=YES,URI=\"a.m3u8\"\r\n\
        #EXT-X-STREAM-INF:BANDWIDTH=1280000,CODECS=\"avc1.64001f,mp4a.40.2\",RESOLUTION=1280x720,FRAME-RATE=29.970,AUDIO=\"a\"\r\nv/low.m3u8\r\n\
        #EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=100,URI=\"i.m3u8\"\r\n";
    let ParsedPlaylist::Multivariant(multivariant) = parse(text).unwrap() else { panic!() };
    assert_eq!(multivariant.variants.len(), 1);
    let variant = &multivariant.variants[0];
    assert_eq!((variant.uri.as_str(), variant.codecs.as_deref()), ("v/low.m3u8", Some("avc1.64001f,mp4a.40.2")));
    assert_eq!(multivariant.audio[0].name, "English, please");
}

#[test]
fn malformed_playlists_are_rejected() {
    let huge = format!("#EXTM3U\n#EXT-X-TARGETDURATION:2\n{}", "#EXTINF:1,\nx\n".repeat(1 << 18));
    for (text, expected) in [
        ("", Error::NotAPlaylist),
        ("<html>", Error::NotAPlaylist),
        ("#EXTM3U8", Error::NotAPlaylist),
        ("#EXTM3U\n", Error::NoTargetDuration),
        ("#EXTM3U\n#EXT-X-TARGETDURATION:2\nx.ts", Error::Malformed { what: "EXTINF before a URI", line: 3 }),
        ("#EXTM3U\n#EXT-X-TARGETDURATION:-2", Error::Malformed { what: "a duration", line: 2 }),
        ("#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:18446744073709551615", Error::Malformed { what: "a number", line: 2 }),
        ("#EXTM3U\n#EXT-X-MAP:URI=\"\"", Error::Malformed { what: "a URI", line: 2 }),
        (&huge, Error::Malformed { what: "fewer segments", line: 262_148 }),
        (&"#".repeat(MAX_TEXT + 1), Error::TooLong { length: MAX_TEXT + 1 }),
    ] {
        assert_eq!(parse(text), Err(expected));
    }
}

fn playlist_strategy() -> impl Strategy<Value = MediaPlaylist> {
    let millis = |max: u64| (0..max).prop_map(Duration::from_millis);
    let range =
        || prop::option::of((0u64..1 << 40, 0u64..1 << 40).prop_map(|(length, offset)| ByteRange { length, offset }));
    let map = (prop::sample::select(vec!["a.mp4", "b/c,d=e.mp4"]), range())
        .prop_map(|(uri, byte_range)| Arc::new(Map { uri: uri.into(), byte_range }));
    let part =
        (millis(2000), range(), any::<bool>(), any::<bool>()).prop_map(|(duration, byte_range, independent, gap)| {
            MediaPart { uri: "p.m4s".into(), duration, byte_range, independent, gap }
        });
    let segment = (
        "[a-z0-9/._-]{1,12}\\?[a-z=&]{0,5}",
        millis(100_000),
        range(),
        any::<[bool; 3]>(),
        prop::option::of(map),
        prop::option::of(0i64..4_000_000_000_000),
        prop::collection::vec(part, 0..3),
    )
        .prop_map(|(uri, duration, byte_range, [discontinuity, gap, encrypted], map, date, parts)| MediaSegment {
            uri,
            duration,
            byte_range,
            discontinuity,
            map,
            program_date_time: date.map(|millis| WallClock::from_micros(millis * 1000)),
            gap,
            encrypted,
            parts,
        });
    let numbers = (1u64..12, 1u64..60, 0u64..1 << 50, 0u64..1 << 50, 0u64..9);
    let control = (
        any::<bool>(),
        prop::option::of(millis(60_000)),
        prop::option::of(millis(60_000)),
        prop::option::of(millis(60_000)),
    );
    let hint = prop::option::of((0u64..99, prop::option::of(0u64..99), any::<bool>()));
    (
        numbers,
        prop::collection::vec(segment.clone(), 1..8),
        prop::option::of(segment),
        control,
        any::<[bool; 2]>(),
        prop::option::of((-90_000i64..90_000, any::<bool>())),
        hint,
    )
        .prop_map(
            |((version, target, msn, discontinuity, skipped), mut segments, open, control, flags, start, hint)| {
                // A map is in force until there is another.
                let mut map = None;
                for segment in &mut segments {
                    map = segment.map.take().or(map);
                    segment.map.clone_from(&map);
                }
                let mut trailing = TrailingParts::default();
                trailing.head.encrypted = segments.last().is_some_and(|segment| segment.encrypted);
                if let Some(open) = open {
                    // What there is of a segment before its EXTINF and its URI.
                    let (uri, duration, byte_range) = (String::new(), Duration::ZERO, None);
                    trailing.head = MediaSegment { uri, duration, byte_range, ..open };
                }
                trailing.head.map = trailing.head.map.or(map);
                trailing.preload_hint =
                    hint.map(|(start, length, is_map)| PreloadHint { is_map, uri: "h".into(), start, length });
                let (can_block_reload, can_skip_until, hold_back, part_hold_back) = control;
                MediaPlaylist {
                    version,
                    target_duration: Duration::from_secs(target),
                    media_sequence: msn,
                    discontinuity_sequence: discontinuity,
                    independent_segments: flags[0],
                    playlist_type: flags[1].then_some(PlaylistType::Event),
                    start: start.map(|(offset_millis, precise)| Start { offset_millis, precise }),
                    server_control: ServerControl { can_block_reload, can_skip_until, hold_back, part_hold_back },
                    part_target: flags[0].then_some(Duration::from_millis(333)),
                    skipped,
                    segments,
                    trailing,
                    rendition_reports: vec![RenditionReport { uri: "r".into(), last_msn: Some(msn), last_part: None }],
                    end_list: flags[1],
                }
            },
        )
}

proptest! {
    #[test]
    fn rendered_then_parsed_is_identity(playlist in playlist_strategy()) {
        prop_assert_eq!(parse_media(&playlist.to_string()), Ok(playlist));
    }

    /// m3u8-rs reads our playlists with the same values.
    #[test]
    fn m3u8_rs_agrees(mut playlist in playlist_strategy()) {
        for segment in playlist.segments.iter_mut().chain([&mut playlist.trailing.head]) {
            (segment.parts, segment.encrypted) = (Vec::new(), false);
        }
        let read = m3u8_rs::parse_media_playlist_res(playlist.to_string().as_bytes()).unwrap();
        prop_assert_eq!((read.media_sequence, read.discontinuity_sequence), (playlist.media_sequence, playlist.discontinuity_sequence));
        prop_assert_eq!((read.target_duration, read.end_list), (playlist.target_duration.as_secs(), playlist.end_list));
        prop_assert_eq!(read.segments.len(), playlist.segments.len());
        for (theirs, ours) in read.segments.iter().zip(&playlist.segments) {
            prop_assert_eq!((&theirs.uri, theirs.discontinuity), (&ours.uri, ours.discontinuity));
            prop_assert!((f64::from(theirs.duration) - ours.duration.as_secs_f64()).abs() < 0.01);
            prop_assert_eq!(theirs.program_date_time.map(|date| date.timestamp_micros()), ours.program_date_time.map(WallClock::as_micros));
            prop_assert_eq!(theirs.byte_range.as_ref().map(|r| (r.length, r.offset)), ours.byte_range.map(|r| (r.length, Some(r.offset))));
        }
    }

    #[test]
    fn damaged_text_is_an_error_and_no_panic(playlist in playlist_strategy(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<char>()), 0..6)) {
        let mut text: Vec<char> = playlist.to_string().chars().collect();
        for (at, c) in damage {
            let at = at.index(text.len());
            text[at] = c;
        }
        let text: String = text.into_iter().collect();
        let _ = parse(&text);
        let _ = parse_multivariant(&text);
        if let Ok(playlist) = parse_media(&text) {
            let mut client = PlaylistClient::new(None);
            client.on_playlist(Duration::ZERO, playlist);
            (0..20).for_each(|_| { client.next(); });
        }
    }

    /// For any publisher: playlists are valid, nothing exceeds the target, and the received units are those that were sent.
    #[test]
    fn any_stream_makes_legal_playlists(steps in prop::collection::vec((0u8..40, 1i64..120, any::<bool>(), 1usize..300), 1..400)) {
        let settings = SegmenterConfig { window: Duration::from_secs(1_000_000), ..SegmenterConfig::default() };
        let mut stream = Stream::new(settings, catalog(1, &[video(), sound()]));
        let (mut dts, mut epoch) = ([0i64; 2], 1);
        let mut listed: (u64, Vec<u64>) = (0, Vec::new());
        for (what, step, random_access, size) in steps {
            match what {
                0 => {
                    epoch += 1;
                    stream.catalog = catalog(epoch, &[video(), sound()]);
                    dts = [0; 2];
                }
                1 => stream.catalog = catalog(epoch, &[video()]),
                2 => stream.catalog = catalog(epoch, &[sound(), video()]),
                3 => dts = dts.map(|dts| dts + step * 100),
                4..=20 => {
                    stream.push(TrackId::VIDEO, dts[0], step, random_access && what < 8, size);
                    dts[0] += step;
                }
                _ if stream.catalog.audio().is_none() => {}
                _ => {
                    stream.push(TrackId::AUDIO, dts[1], 0, true, size);
                    dts[1] += step;
                }
            }
            let playlist = stream.segmenter.window();
            let (was, msns) = std::mem::replace(&mut listed, (playlist.target_duration, playlist.segments.iter().map(|s| s.msn).collect()));
            let is_same_list = playlist.segments.iter().any(|segment| msns.contains(&segment.msn));
            prop_assert!(!is_same_list || was == playlist.target_duration, "the target duration of a list never changes");
        }
        stream.segmenter.end();
        let playlist = stream.segmenter.window();
        for pair in playlist.segments.windows(2) {
            prop_assert_eq!(pair[1].msn, pair[0].msn + 1);
            prop_assert_eq!(pair[1].discontinuity_sequence, pair[0].discontinuity_sequence + u64::from(pair[1].discontinuity));
            prop_assert!(pair[0].init == pair[1].init || pair[1].discontinuity);
        }
        for segment in &playlist.segments {
            prop_assert!((segment.duration.as_millis() + 500) / 1000 <= u128::from(playlist.target_duration), "{:?}", segment.duration);
        }
        if let Some(expected) = to_media_playlist(&playlist) {
            let parsed = parse_media(&expected.to_string()).unwrap();
            prop_assert_eq!(parsed.segments, expected.segments);
        }
        let counters = stream.segmenter.counters();
        let received = stream.received();
        prop_assert_eq!(received.len() as u64 + counters.refused + counters.undecodable, stream.sent.len() as u64, "{:?} of {:?}", received, stream.sent);
        prop_assert!(received.iter().all(|unit| stream.sent.contains(unit)));
    }
}

fn listed(first: u64, durations: &[u64]) -> MediaPlaylist {
    let segments = durations.iter().enumerate().map(|(n, seconds)| MediaSegment {
        uri: format!("{}.m4s", first + n as u64),
        duration: Duration::from_secs(*seconds),
        map: Some(Arc::new(Map { uri: "i.mp4".into(), byte_range: None })),
        ..MediaSegment::default()
    });
    MediaPlaylist {
        target_duration: Duration::from_secs(2),
        media_sequence: first,
        segments: segments.collect(),
        ..MediaPlaylist::default()
    }
}

fn fetched(client: &mut PlaylistClient) -> Vec<client::Fetch> {
    std::iter::from_fn(|| match client.next() {
        PlaylistAction::Fetch(fetch) => Some(*fetch),
        _ => None,
    })
    .collect()
}

fn msns(fetches: &[client::Fetch]) -> Vec<u64> {
    fetches.iter().map(|fetch| fetch.msn).collect()
}

#[test]
fn a_client_follows_a_live_playlist() {
    let at = Duration::from_millis;
    let mut client = PlaylistClient::new(None);
    assert_eq!(client.next(), PlaylistAction::Reload(at(0)));
    client.on_playlist(at(100), listed(10, &[2; 8]));
    let first = fetched(&mut client);
    assert_eq!(msns(&first), [15, 16, 17]);
    assert_eq!(
        first.iter().map(|f| (f.new_map, f.restart)).collect::<Vec<_>>(),
        [(true, true), (false, false), (false, false)]
    );
    assert_eq!(client.next(), PlaylistAction::Reload(at(2100)));
    // Unchanged: half a target duration later; changed: a segment's duration.
    client.on_playlist(at(2100), listed(10, &[2; 8]));
    assert_eq!(client.next(), PlaylistAction::Reload(at(3100)));
    client.on_load_failed(at(3200));
    assert_eq!(client.next(), PlaylistAction::Reload(at(4200)));
    client.on_playlist(at(4200), listed(12, &[2; 8]));
    assert_eq!(msns(&fetched(&mut client)), [18, 19]);
    // After an outage of the client, expired segments are lost, and it continues at the live edge.
    client.on_playlist(at(90_000), listed(60, &[2; 8]));
    let after = fetched(&mut client);
    assert_eq!((msns(&after), after[0].lost, after[0].restart), (vec![65, 66, 67], 45, true));
    // The server lost its state.
    client.on_playlist(at(95_000), listed(0, &[2; 5]));
    let after = fetched(&mut client);
    assert_eq!((msns(&after), after[0].restart, after[0].new_map), (vec![2, 3, 4], true, true));
    // A stale cache is not a restart.
    client.on_playlist(at(96_000), listed(0, &[2; 4]));
    assert!(fetched(&mut client).is_empty());
    let mut last = listed(2, &[2; 4]);
    last.end_list = true;
    client.on_playlist(at(97_000), last);
    assert_eq!(msns(&fetched(&mut client)), [5]);
    assert_eq!(client.next(), PlaylistAction::End);
}

#[test]
fn a_client_follows_discontinuities_maps_and_gaps() {
    let mut playlist = listed(0, &[2; 6]);
    playlist.end_list = true;
    playlist.discontinuity_sequence = 4;
    playlist.segments[0].program_date_time = Some(CLOCK);
    playlist.segments[1].gap = true;
    playlist.segments[3].discontinuity = true;
    let other = Arc::new(Map { uri: "j.mp4".into(), byte_range: None });
    playlist.segments[5].map = Some(other);
    let mut client = PlaylistClient::new(None);
    client.on_playlist(Duration::ZERO, playlist);
    assert_eq!(client.ahead(), Duration::ZERO);
    let fetches = fetched(&mut client);
    let seen: Vec<_> =
        fetches.iter().map(|f| (f.msn, f.lost, f.restart, f.new_map, f.discontinuity_sequence)).collect();
    assert_eq!(
        seen,
        [
            (0, 0, true, true, 4),
            (2, 1, true, false, 4),
            (3, 0, true, true, 5),
            (4, 0, false, false, 5),
            (5, 0, false, true, 5)
        ]
    );
    assert_eq!(fetches[1].program_date_time.unwrap().micros_since(CLOCK), 4_000_000);
    assert_eq!(fetches[2].program_date_time, None);
    assert_eq!(client.next(), PlaylistAction::End);
}

#[test]
fn a_client_starts_at_the_hold_back_or_the_start_tag() {
    let with = |change: &dyn Fn(&mut MediaPlaylist), hold_back: Option<u64>| {
        let mut playlist = listed(0, &[2; 10]);
        change(&mut playlist);
        let mut client = PlaylistClient::new(hold_back.map(Duration::from_secs));
        client.on_playlist(Duration::ZERO, playlist);
        msns(&fetched(&mut client))[0]
    };
    assert_eq!(with(&|_| {}, None), 7);
    assert_eq!(with(&|_| {}, Some(3)), 8);
    assert_eq!(with(&|_| {}, Some(100)), 0);
    assert_eq!(with(&|_| {}, Some(0)), 9);
    assert_eq!(with(&|p| p.end_list = true, None), 0);
    assert_eq!(with(&|p| p.server_control.hold_back = Some(Duration::from_secs(10)), None), 5);
    assert_eq!(with(&|p| p.start = Some(Start { offset_millis: -3500, precise: false }), None), 8);
    assert_eq!(with(&|p| p.start = Some(Start { offset_millis: 2500, precise: false }), None), 1);
    assert_eq!(with(&|p| p.segments.truncate(1), None), 0);
}

#[test]
fn a_client_continues_after_an_outage() {
    let dated = |first: u64, count: usize, at: i64| {
        let mut playlist = listed(first, &vec![2; count]);
        playlist.segments[0].program_date_time = Some(WallClock::from_micros(CLOCK.as_micros() + at * 1_000_000));
        playlist
    };
    // The client has seen segments 10 to 17, which end after 16 s. Cases: whether it keeps all, the playlist, and what it fetches.
    for (keep_all, playlist, from, lost) in [
        (false, dated(60, 8, 200), 65, 47),
        (true, dated(60, 8, 200), 60, 42),
        // A server that restarted has other numbers, but the wall-clock time continues.
        (false, dated(1_000, 10, 12), 1_002, 0),
        (false, dated(0, 10, 12), 2, 0),
        (true, dated(1_000, 10, 12), 1_000, 982),
        (true, dated(0, 10, 12), 0, 0),
        // Too long ago.
        (false, dated(0, 10, 100), 7, 0),
    ] {
        let mut client = PlaylistClient::new(Some(Duration::from_secs(6))).keep_all(keep_all);
        client.on_playlist(Duration::ZERO, dated(10, 8, 0));
        assert_eq!(msns(&fetched(&mut client)), [15, 16, 17]);
        client.on_playlist(Duration::ZERO, playlist.clone());
        let first = fetched(&mut client).swap_remove(0);
        assert_eq!(
            (first.msn, first.lost, first.new_map),
            (from, lost, true),
            "{keep_all} {}",
            playlist.media_sequence
        );
    }
}

#[test]
fn a_client_repeats_a_fetch() {
    let mut client = PlaylistClient::new(Some(Duration::from_secs(4)));
    let fetch = |client: &mut PlaylistClient| match client.next() {
        PlaylistAction::Fetch(fetch) => *fetch,
        step => panic!("{step:?}"),
    };
    client.on_playlist(Duration::ZERO, listed(0, &[2; 4]));
    let first = fetch(&mut client);
    client.retry_fetch();
    assert_eq!(fetch(&mut client), first);
    let second = fetch(&mut client);
    client.retry_fetch();
    assert_eq!(fetch(&mut client), second);
    client.on_fetch_failed();
    client.retry_fetch();
    assert!(matches!(client.next(), PlaylistAction::Reload(_)), "what failed is not given out again");
    client.on_playlist(Duration::ZERO, listed(0, &[2; 6]));
    let third = fetch(&mut client);
    assert_eq!((third.msn, third.lost, third.restart), (4, 1, true));
    client.on_rendition_change();
    assert!(!third.new_map && fetch(&mut client).new_map);
}

#[test]
fn a_client_applies_delta_updates() {
    let mut client = PlaylistClient::new(Some(Duration::ZERO));
    client.on_playlist(Duration::ZERO, listed(10, &[2; 8]));
    assert_eq!(msns(&fetched(&mut client)), [17]);
    let mut delta = listed(11, &[2; 2]);
    delta.skipped = 6;
    delta.segments.iter_mut().zip(17..).for_each(|(segment, msn)| segment.uri = format!("{msn}.m4s"));
    client.on_playlist(Duration::ZERO, delta);
    let fetches = fetched(&mut client);
    assert_eq!((msns(&fetches), fetches[0].uri.as_str()), (vec![18], "18.m4s"));
}

#[test]
fn resolves_references() {
    let base = "http://host:8080/live/index.m3u8?token=a/b#f";
    for (reference, expected) in [
        ("media.m3u8", "http://host:8080/live/media.m3u8"),
        ("media.m3u8?x=1", "http://host:8080/live/media.m3u8?x=1"),
        ("/seg.m4s", "http://host:8080/seg.m4s"),
        ("../a/./b/../c.m4s", "http://host:8080/a/c.m4s"),
        ("../../../x", "http://host:8080/x"),
        ("..", "http://host:8080/"),
        ("./", "http://host:8080/live/"),
        ("//cdn.example/x", "http://cdn.example/x"),
        ("https://cdn.example/x?y", "https://cdn.example/x?y"),
        ("?only=query", "http://host:8080/live/index.m3u8?only=query"),
        ("", "http://host:8080/live/index.m3u8"),
        ("a//b", "http://host:8080/live/a//b"),
    ] {
        assert_eq!(resolve(base, reference), expected, "{reference}");
    }
    assert_eq!(resolve("http://host", "x"), "http://host/x");
}
