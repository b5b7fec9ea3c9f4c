//! Parts: their durations, their listing, delta updates, and blocking requests.

use super::*;
use crate::hls::delta_update;

#[test]
fn a_playlist_with_parts() {
    let settings = SegmenterConfig { first_sequence: 7, window: Duration::from_secs(20), ..SegmenterConfig::default() };
    let mut stream = Stream::new(settings, catalog(1, &[video(), sound()]));
    stream.both(0, 8520, 2000);
    let init = init_name(&stream, 0);
    let parts = |msn: u64, count: u64| {
        let part = |n| {
            let independent = if n == 0 { ",INDEPENDENT=YES" } else { "" };
            format!("#EXT-X-PART:DURATION=0.200,URI=\"part-{msn}-{n}.m4s\"{independent}\n")
        };
        (0..count).map(part).collect::<String>()
    };
    let [one, two, three, open] = [parts(8, 10), parts(9, 10), parts(10, 10), parts(11, 2)];
    assert_eq!(
        stream.text(),
        format!(
            "\
#EXTM3U
#EXT-X-VERSION:6
#EXT-X-TARGETDURATION:2
#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL=12.000,PART-HOLD-BACK=0.648
#EXT-X-PART-INF:PART-TARGET=0.216
#EXT-X-MEDIA-SEQUENCE:7
#EXT-X-MAP:URI=\"{init}\"
#EXT-X-PROGRAM-DATE-TIME:2026-11-22T13:01:33.250Z
#EXTINF:2.000,
seg-7.m4s
#EXT-X-PROGRAM-DATE-TIME:2026-11-22T13:01:35.250Z
{one}#EXTINF:2.000,
seg-8.m4s
#EXT-X-PROGRAM-DATE-TIME:2026-11-22T13:01:37.250Z
{two}#EXTINF:2.000,
seg-9.m4s
#EXT-X-PROGRAM-DATE-TIME:2026-11-22T13:01:39.250Z
{three}#EXTINF:2.000,
seg-10.m4s
#EXT-X-PROGRAM-DATE-TIME:2026-11-22T13:01:41.250Z
{open}#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"part-11-2.m4s\"
"
        )
    );
    stream.segmenter.end();
    let text = stream.text();
    assert!(text.ends_with("seg-11.m4s\n#EXT-X-ENDLIST\n") && !text.contains("HINT"), "{text}");
    assert_eq!(delta_update(&stream.segmenter.window()), Some(text), "an ended playlist is served in full");
}

#[test]
fn a_delta_update_skips_old_segments() {
    let mut stream = Stream::new(SegmenterConfig::default(), catalog(1, &[video()]));
    stream.pictures(0, 10_300, 1000);
    let whole = stream.text();
    assert_eq!(delta_update(&stream.segmenter.window()), Some(whole), "no segment is old enough to skip");
    stream.pictures(10_320, 20_100, 1000);
    let playlist = stream.segmenter.window();
    let text = delta_update(&playlist).unwrap();
    let init = init_name(&stream, 0);
    let head = format!(
        "#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-SKIP:SKIPPED-SEGMENTS=4\n#EXT-X-MAP:URI=\"{init}\"\n\
         #EXT-X-PROGRAM-DATE-TIME:2026-11-22T13:01:41.250Z\n#EXTINF:2.000,\nseg-4.m4s\n"
    );
    assert!(text.contains(&head), "{text}");
    let (delta, whole) = (parse_media(&text).unwrap(), to_media_playlist(&playlist).unwrap());
    assert_eq!((delta.skipped, delta.next_msn()), (4, whole.next_msn()));
    assert_eq!((delta.version, whole.version), (9, 6), "only EXT-X-SKIP requires version 9");
    assert_eq!(delta.segments, whole.segments[4..]);
    assert_eq!(delta.trailing, whole.trailing);
}

#[test]
fn without_low_latency_no_part_is_mentioned() {
    let mut stream =
        Stream::new(SegmenterConfig { low_latency: false, ..SegmenterConfig::default() }, catalog(1, &[video()]));
    stream.pictures(0, 20_300, 1000);
    let text = stream.text();
    assert!(!["PART", "HINT", "CONTROL"].iter().any(|word| text.contains(word)), "{text}");
    assert_eq!(stream.segmenter.window().preload_hint(), None);
}

/// Intervals between video frames in milliseconds, and the resulting parts: at most the part target, and at least 85% of it unless they
/// contain an IDR or are the last of their segment (RFC 8216bis §4.4.4.9).
#[test]
fn part_durations_obey_the_part_target() {
    for (steps, gop, common) in [
        (&[40i64][..], 50, 200),
        (&[33, 33, 34], 60, 200),
        (&[17, 16, 17], 120, 200),
        (&[42, 42, 41], 48, 208),
        (&[83, 83, 84], 24, 167),
        (&[200], 10, 200),
        (&[500], 4, 500),
        // A camera's clock.
        (&[25, 41, 33, 29, 37], 60, 198),
        // IDRs that come where no part ends.
        (&[40], 28, 200),
        (&[40], 3, 200),
    ] {
        let mut stream = Stream::new(SegmenterConfig::default(), catalog(1, &[video()]));
        let mut dts = 0;
        for n in 0..600 {
            stream.push(TrackId::VIDEO, dts, 0, n % gop == 0, 10);
            dts += steps[n % steps.len()];
        }
        let playlist = stream.segmenter.window();
        let target = playlist.part_target;
        let mut all = Vec::new();
        for segment in &playlist.segments {
            let (last, parts) = segment.parts.split_last().unwrap();
            assert_eq!(segment.parts.iter().map(|part| part.duration).sum::<Duration>(), segment.duration);
            assert!(segment.parts[0].independent);
            assert!(parts.iter().chain([last]).all(|part| part.duration <= target), "{steps:?}: {segment:?}");
            let is_long = |part: &Part| part.independent || part.duration * 100 >= target * 85;
            assert!(parts.iter().all(is_long), "{steps:?}, of {target:?}: {parts:?}");
            all.extend(parts.iter().map(|part| part.duration.as_millis()));
        }
        all.sort_unstable();
        assert!(all[all.len() / 2].abs_diff(common) <= 4, "{steps:?}: {all:?}");
        stream.segmenter.end();
    }
}

/// Parts that playlists list, over all segments that are kept.
fn listed_parts(stream: &Stream) -> Vec<Part> {
    let window = stream.segmenter.window();
    let listed = window.segments.iter().chain(&window.open).filter(|segment| segment.lists_parts);
    listed.flat_map(|segment| segment.parts.clone()).collect()
}

#[test]
fn the_part_target_is_that_of_typical_parts() {
    // A picture is missing in the first segment, so that one of its parts is a picture longer.
    for missing in [7, 12, 18, 24] {
        let mut stream = Stream::new(SegmenterConfig::default(), catalog(1, &[video()]));
        for n in (0..300).filter(|n| *n != missing) {
            stream.push(TrackId::VIDEO, n * 100 / 3, 0, n % 30 == 0, 10);
        }
        let target = stream.segmenter.window().part_target;
        assert_eq!(target, Duration::from_millis(216), "picture {missing} is missing");
        assert!(listed_parts(&stream).iter().all(|part| part.duration <= target));
    }
}

#[test]
fn parts_obey_the_target_while_pictures_are_away() {
    for away in [240, 320, 520, 760, 960, 1240, 1720, 2240, 2600, 3000, 3120, 10_000] {
        let mut stream = Stream::new(SegmenterConfig::default(), catalog(1, &[video(), sound()]));
        let pause = 6320..6320 + away;
        for dts in (0..20_000).step_by(20) {
            if dts % 40 == 0 && !pause.contains(&dts) {
                stream.push(TrackId::VIDEO, dts, 0, dts % 1000 == 0 || dts == pause.end, 100);
            }
            stream.push(TrackId::AUDIO, dts, 0, true, 10);
        }
        let window = stream.segmenter.window();
        let mut durations = listed_parts(&stream).iter().map(|part| part.duration).collect::<Vec<_>>();
        durations.retain(|duration| *duration > window.part_target);
        assert_eq!(durations, [], "{away} ms without pictures: parts of more than {:?}", window.part_target);
        for segment in &window.segments {
            assert_eq!(segment.parts.iter().map(|part| part.duration).sum::<Duration>(), segment.duration, "{away} ms");
            for part in &segment.parts {
                let sound = 20 * part.fragment.payloads.iter().filter(|payload| payload.len() == 10).count() as u64;
                let states = part.duration.as_millis() as u64;
                assert!(
                    sound.abs_diff(states) <= 40,
                    "{away} ms without pictures: {states} ms are stated of {sound} ms of sound"
                );
            }
        }
    }
}

#[test]
fn the_last_part_of_a_broadcast_obeys_the_target() {
    // The longest interval between two pictures, which the last of them is expected to last, is not the usual one.
    let mut stream = Stream::new(SegmenterConfig::default(), catalog(1, &[video(), sound()]));
    for dts in (0..7160).step_by(20).filter(|dts| !(3000..3160).contains(dts)) {
        if dts % 40 == 0 {
            stream.push(TrackId::VIDEO, dts, 0, dts % 1000 == 0, 100);
        }
        stream.push(TrackId::AUDIO, dts, 0, true, 10);
    }
    stream.segmenter.end();
    let target = stream.segmenter.window().part_target;
    assert!(
        listed_parts(&stream).iter().all(|part| part.duration <= target),
        "{:?}",
        listed_parts(&stream).last().unwrap().duration
    );
    stream.assert_all_received();
}

#[test]
fn other_tracks_or_frame_rates_settle_the_targets_anew() {
    let targets = |stream: &Stream| {
        let window = stream.segmenter.window();
        (window.target_duration, window.part_target.as_millis())
    };
    // Sound alone, whose frames are of 20 ms here; then pictures with an IDR every 4 s.
    let mut stream = Stream::new(SegmenterConfig::default(), catalog(1, &[sound()]));
    (0..8000).step_by(20).for_each(|dts| stream.push(TrackId::AUDIO, dts, 0, true, 10));
    assert_eq!(targets(&stream), (2, 216));
    stream.catalog = catalog(1, &[video(), sound()]);
    stream.both(8000, 30_000, 4000);
    assert_eq!(targets(&stream), (4, 216));

    // Broadcasts of 25, 2 and 25 pictures a second.
    let mut stream = Stream::new(SegmenterConfig::default(), catalog(1, &[video()]));
    stream.pictures(0, 8000, 1000);
    assert_eq!(targets(&stream), (2, 216));
    stream.catalog = catalog(2, &[video()]);
    (0..8000).step_by(500).for_each(|dts| stream.push(TrackId::VIDEO, dts, 0, dts % 1000 == 0, 100));
    assert_eq!(targets(&stream), (2, 540));
    assert!(listed_parts(&stream).iter().all(|part| part.duration.as_millis() <= 540));
    stream.catalog = catalog(3, &[video()]);
    stream.pictures(0, 8000, 1000);
    assert_eq!(targets(&stream), (2, 216));
}

#[test]
fn a_part_that_begins_with_an_idr_is_independent() {
    let mut stream = Stream::new(SegmenterConfig::default(), catalog(1, &[video()]));
    // Every 1.12 s: one begins the segment, the next is within its sixth part, which cannot be decoded from its start.
    stream.pictures(0, 11_000, 1120);
    for segment in &stream.segmenter.window().segments {
        let independent: Vec<_> = segment.parts.iter().map(|part| part.independent).collect();
        assert_eq!(independent.iter().filter(|is| **is).count(), 1, "{independent:?}");
    }
}

/// Segments 0 and 1 of ten parts each, and three parts of 2.
fn three_parts_in() -> Arc<SegmentWindow> {
    let mut stream = Stream::new(SegmenterConfig::default(), catalog(1, &[video()]));
    stream.pictures(0, 4640, 2000);
    stream.segmenter.window()
}

#[test]
fn parts_are_available_pending_or_too_far_ahead() {
    let playlist = three_parts_in();
    assert_eq!(playlist.preload_hint(), Some((2, 3)));
    assert!(playlist.part(2, 2).is_some() && playlist.part(2, 3).is_none() && playlist.part(0, 9).is_some());
    let whole: Vec<_> = (0..10).flat_map(|n| playlist.part(1, n).unwrap()).collect();
    assert_eq!(Some(whole), playlist.segment(1), "a segment is its parts");
    for (msn, part, has, is_far) in [
        (0, None, true, false),
        (1, Some(9), true, false),
        // Beyond the last of a complete segment: the first of the next.
        (1, Some(10), true, false),
        (1, Some(u64::MAX), true, false),
        (2, Some(2), true, false),
        (2, Some(3), false, false),
        (2, None, false, false),
        (3, None, false, false),
        (3, Some(0), false, false),
        (2, Some(3 + 14), false, false),
        (2, Some(3 + 15), false, true),
        (3, Some(u64::MAX), false, true),
        (4, None, false, true),
        (u64::MAX, Some(u64::MAX), false, true),
    ] {
        let found = (playlist.contains(msn, part), playlist.is_too_far_ahead(msn, part));
        assert_eq!(found, (has, is_far), "{msn} {part:?}");
    }
    assert_eq!(playlist.blocking_timeout(), Duration::from_secs(6));
    let empty = SegmentWindow::default();
    assert!(!empty.contains(0, None) && empty.is_too_far_ahead(0, None));
}

#[test]
fn every_hinted_part_is_eventually_listed() {
    let mut stream = Stream::new(SegmenterConfig::default(), catalog(1, &[video(), sound()]));
    let mut hints: Vec<(u64, u64)> = Vec::new();
    for dts in (0..30_000).step_by(20) {
        // Another broadcast in between, and a gap.
        if dts == 13_320 {
            stream.catalog = catalog(2, &[video(), sound()]);
        }
        let dts = if dts < 23_000 { dts } else { dts + 9000 };
        if dts % 40 == 0 {
            stream.push(TrackId::VIDEO, dts, 0, dts % 1000 == 0, 100);
        }
        stream.push(TrackId::AUDIO, dts, 0, true, 10);
        let playlist = stream.segmenter.window();
        if !playlist.segments.is_empty() {
            hints.extend(playlist.preload_hint().filter(|hint| hints.last() != Some(hint)));
        }
    }
    let playlist = stream.segmenter.window();
    let kept: Vec<_> = hints.iter().rev().skip(1).filter(|(msn, _)| *msn >= playlist.segments[0].msn).collect();
    assert!(kept.len() > 50, "{hints:?}");
    assert!(kept.iter().all(|(msn, index)| playlist.part(*msn, *index).is_some()), "{hints:?}");
}
