//! Tag bodies: those of real encoders, those of the specification, and invalid ones.

use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes};
use proptest::prelude::*;

use super::*;
use crate::access_unit::{Epoch, TrackKind};
use crate::catalog::MAX_TRACKS;
use crate::codec::{Codec, CodecConfig, Format};
use crate::time::Timestamp;

const X264_AAC: &[u8] = include_bytes!("../../testdata/ffmpeg51_x264_aac.flv");
const X264_BFRAMES: &[u8] = include_bytes!("../../testdata/ffmpeg51_x264_bframes.flv");
const MP3: &[u8] = include_bytes!("../../testdata/ffmpeg51_mp3.flv");

const AVCC: [u8; 45] = [
    0x01, 0x64, 0x00, 0x0a, 0xff, 0xe1, 0x00, 0x18, 0x67, 0x64, 0x00, 0x0a, 0xac, 0xd9, 0x44, 0x7b, 0x01, 0x10, 0x00,
    0x00, 0x03, 0x00, 0x10, 0x00, 0x00, 0x03, 0x03, 0x20, 0xf1, 0x22, 0x59, 0x60, 0x01, 0x00, 0x06, 0x68, 0xeb, 0xe3,
    0xcb, 0x22, 0xc0, 0xfd, 0xf8, 0xf8, 0x00,
];
const AV1C: [u8; 4] = [0x81, 0x00, 0x0c, 0x00];
const STREAM_INFO: [u8; 34] = [
    0x12, 0x00, 0x12, 0x00, 0, 0, 0x72, 0, 0x04, 0xed, 0x0b, 0xb8, 0x00, 0xf0, 0, 0, 0x12, 0xc0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0,
];
/// A NAL unit of an IDR slice, and one of another slice, with their lengths.
const IDR: &[u8] = b"\0\0\0\x02\x65\x88";
const SLICE: &[u8] = b"\0\0\0\x02\x41\x9a";

fn body(parts: &[&[u8]]) -> Bytes {
    parts.concat().into()
}

/// All events of a file's tags.
fn demux_file(file: &[u8]) -> (Demuxer, Vec<Event>) {
    let mut demuxer = Demuxer::new(Epoch(7));
    let mut events = Vec::new();
    for tag in file::Reader::new().push(file).unwrap() {
        match tag.kind {
            file::AUDIO => events.extend(demuxer.audio(tag.timestamp, tag.body, Instant::now()).unwrap()),
            file::VIDEO => events.extend(demuxer.video(tag.timestamp, tag.body, Instant::now()).unwrap()),
            _ => {}
        }
    }
    (demuxer, events)
}

fn units(events: &[Event], id: TrackId) -> Vec<(i64, i64, usize, bool)> {
    let units = events.iter().filter_map(|event| match event {
        Event::Unit(unit) if unit.track == id => Some(unit),
        _ => None,
    });
    units.map(|u| (u.pts.as_millis(), u.dts.as_millis(), u.payload.len(), u.random_access)).collect()
}

fn tracks(events: &[Event]) -> Vec<(TrackId, Codec, Format)> {
    let tracks = events.iter().filter_map(|event| match event {
        Event::Track(track) => Some((track.id, track.config.codec, track.config.format)),
        _ => None,
    });
    tracks.collect()
}

#[test]
fn ffmpeg_files_give_the_units_that_ffprobe_lists() {
    let (_, events) = demux_file(X264_AAC);
    assert_eq!(
        tracks(&events),
        [
            (TrackId::VIDEO, Codec::H264, Format::Video { width: 64, height: 48 }),
            (TrackId::AUDIO, Codec::Aac, Format::Audio { sample_rate: 44_100, channels: 1 }),
        ]
    );
    assert_eq!(
        units(&events, TrackId::VIDEO),
        [
            (80, 0, 1536, true),
            (200, 40, 40, false),
            (120, 80, 13, false),
            (160, 120, 13, false),
            (240, 160, 18, false),
            (280, 200, 922, true),
            (400, 240, 22, false),
            (320, 280, 12, false),
            (360, 320, 13, false),
            (440, 360, 27, false),
        ]
    );
    let sound = units(&events, TrackId::AUDIO);
    assert_eq!(sound.len(), 19);
    assert_eq!(sound[..4], [(57, 57, 153, true), (80, 80, 161, true), (103, 103, 61, true), (126, 126, 70, true)]);
    assert_eq!(events.last(), Some(&Event::EndOfSequence(TrackId::VIDEO)));

    let (_, events) = demux_file(X264_BFRAMES);
    let expected = [(200, 0), (400, 100), (300, 200), (500, 300), (700, 400), (600, 500)];
    assert_eq!(units(&events, TrackId::VIDEO).iter().map(|u| (u.0, u.1)).collect::<Vec<_>>(), expected);

    let (_, events) = demux_file(MP3);
    assert_eq!(tracks(&events), [(TrackId::AUDIO, Codec::Mp3, Format::Audio { sample_rate: 44_100, channels: 2 })]);
    assert_eq!(units(&events, TrackId::AUDIO).len(), 5);
}

#[test]
fn our_bodies_equal_those_of_ffmpeg() {
    for file in [X264_AAC, X264_BFRAMES, MP3] {
        let mut demuxer = Demuxer::new(Epoch(7));
        for tag in file::Reader::new().push(file).unwrap() {
            let kind = if tag.kind == file::VIDEO { TrackKind::Video } else { TrackKind::Audio };
            let events = match tag.kind {
                file::SCRIPT => continue,
                file::VIDEO => demuxer.video(tag.timestamp, tag.body.clone(), Instant::now()).unwrap(),
                _ => demuxer.audio(tag.timestamp, tag.body.clone(), Instant::now()).unwrap(),
            };
            let track = |id| demuxer.tracks().find(|track| track.id == id).unwrap();
            let written = match events.last() {
                Some(Event::Track(track)) => sequence_header(track),
                Some(Event::EndOfSequence(id)) => end_of_sequence(track(*id)),
                Some(Event::Unit(unit)) => {
                    assert_eq!(unit.dts.as_rtmp(), tag.timestamp);
                    body(&[&unit_header(track(unit.track), unit), &unit.payload])
                }
                other => panic!("{kind:?} {other:?}"),
            };
            // FFmpeg writes mono in the sound type of mono AAC; the specification fixes it to stereo.
            let same = |at: usize| written[at] == tag.body[at] || (kind == TrackKind::Audio && at == 0);
            assert!(written.len() == tag.body.len() && (0..written.len()).all(same), "{kind:?} {}", tag.timestamp);
        }
    }
}

/// The events of `bodies`, sent 40 ms apart from 1000 ms on.
fn read(kind: TrackKind, bodies: &[Bytes]) -> Vec<Event> {
    let mut demuxer = Demuxer::new(Epoch(7));
    let mut events = Vec::new();
    for (n, body) in bodies.iter().enumerate() {
        let timestamp = 1000 + 40 * n as u32;
        events.extend(match kind {
            TrackKind::Video => demuxer.video(timestamp, body.clone(), Instant::now()).unwrap(),
            TrackKind::Audio => demuxer.audio(timestamp, body.clone(), Instant::now()).unwrap(),
        });
    }
    events
}

fn v(index: u8) -> TrackId {
    TrackId { kind: TrackKind::Video, index }
}

fn a(index: u8) -> TrackId {
    TrackId { kind: TrackKind::Audio, index }
}

#[test]
fn enhanced_video() {
    let check = |bodies: &[Bytes], id, expected: &[(i64, i64, usize, bool)]| {
        let events = read(TrackKind::Video, bodies);
        assert_eq!(units(&events, id), expected, "{events:?}");
    };
    let avc1 = body(&[b"\x90avc1", &AVCC]);
    check(&[avc1.clone(), body(&[b"\x91avc1\0\0\x50", IDR])], v(0), &[(1120, 1040, 6, true)]);
    check(&[avc1.clone(), body(&[b"\xa1avc1\xff\xff\xd8", SLICE])], v(0), &[(1000, 1040, 6, false)]);
    check(
        &[avc1.clone(), body(&[b"\x93avc1", IDR]), body(&[b"\xa3avc1", SLICE])],
        v(0),
        &[(1040, 1040, 6, true), (1080, 1080, 6, false)],
    );
    // The frame type says key, the bitstream does not.
    check(&[avc1.clone(), body(&[b"\x93avc1", SLICE])], v(0), &[(1040, 1040, 6, false)]);
    let av01 = body(&[b"\x90av01", &AV1C]);
    check(&[av01.clone(), body(&[b"\x91av01", b"\x32\x01\x10"])], v(0), &[(1040, 1040, 3, true)]);
    // ModEx: an offset of 0.5 ms; one of an unknown kind with a 16-bit size before it.
    let mod_ex: &[u8] = b"\x97\x02\x07\xa1\x20\x03avc1";
    check(&[avc1.clone(), body(&[mod_ex, IDR])], v(0), &[(1040, 1040, 6, true)]);
    let long = body(&[b"\x97\xff\x01\x2b", &[0; 300], b"\x57\x02\x07\xa1\x20\x03avc1", IDR]);
    check(&[avc1.clone(), long], v(0), &[(1040, 1040, 6, true)]);
    // Colour metadata, a seek command, an empty message and an empty unit hold no media.
    let nothing = [body(&[b"\x94avc1\x02\0\x09colorInfo"]), body(&[b"\xd1\0"]), Bytes::new(), body(&[b"\x93avc1"])];
    check(&[std::slice::from_ref(&avc1), &nothing].concat(), v(0), &[]);
    // Multitrack: one; many; many of many codecs.
    let one = [body(&[b"\x96\x00avc1\x05", &AVCC]), body(&[b"\x96\x01avc1\x05\0\0\x28", IDR])];
    check(&one, v(5), &[(1080, 1040, 6, true)]);
    let size = (AVCC.len() as u32).to_be_bytes();
    let many = [
        body(&[b"\x96\x10avc1\x00", &size[1..], &AVCC, b"\x01", &size[1..], &AVCC]),
        body(&[b"\x96\x13avc1\x00\0\0\x06", IDR, b"\x01\0\0\x06", SLICE]),
    ];
    check(&many, v(0), &[(1040, 1040, 6, true)]);
    check(&many, v(1), &[(1040, 1040, 6, false)]);
    let codecs = [
        body(&[b"\x96\x20avc1\x00", &size[1..], &AVCC, b"av01\x01\0\0\x04", &AV1C]),
        body(&[b"\x96\x21avc1\x00\0\0\x09\0\0\0", IDR, b"av01\x01\0\0\x03\x32\x01\x10"]),
        body(&[b"\x96\x23vvc1\x02\0\0\x01xavc1\x00\0\0\x06", SLICE]),
    ];
    check(&codecs, v(0), &[(1040, 1040, 6, true), (1080, 1080, 6, false)]);
    check(&codecs, v(1), &[(1040, 1040, 3, true)]);
    let ends = read(TrackKind::Video, &[avc1, body(&[b"\x92avc1"]), body(&[b"\x92av01"])]);
    assert_eq!(ends[1..], [Event::EndOfSequence(v(0)), Event::EndOfSequence(v(0))]);
}

#[test]
fn enhanced_audio() {
    let check = |bodies: &[Bytes], expected: &[(TrackId, Codec, Format)], units: usize| {
        let events = read(TrackKind::Audio, bodies);
        assert_eq!(tracks(&events), expected);
        assert_eq!(events.iter().filter(|event| matches!(event, Event::Unit(_))).count(), units);
    };
    let audio = |sample_rate, channels| Format::Audio { sample_rate, channels };
    let aac = body(&[b"\x90mp4a\x12\x10"]);
    check(&[aac.clone(), body(&[b"\x91mp4ax"])], &[(a(0), Codec::Aac, audio(44_100, 2))], 1);
    check(&[body(&[b"\x91.mp3\xff\xfb\x90\x64"])], &[(a(0), Codec::Mp3, audio(44_100, 2))], 1);
    check(
        &[body(&[b"\x90.mp3"]), body(&[b"\x95\x01.mp3\x02\xff\xfb\x90\x64"])],
        &[(a(2), Codec::Mp3, audio(44_100, 2))],
        1,
    );
    // The specification's form of a FLAC header, and FFmpeg's.
    check(&[body(&[b"\x90fLaCfLaC\x80\0\0\x22", &STREAM_INFO])], &[(a(0), Codec::Flac, audio(48_000, 1))], 0);
    check(&[body(&[b"\x90fLaC", &STREAM_INFO])], &[(a(0), Codec::Flac, audio(48_000, 1))], 0);
    // Opus without a header is stereo, until a channel configuration says otherwise.
    let surround = body(&[b"\x94Opus\x01\x06\0\0\x06\x0f"]);
    let opus = [(a(0), Codec::Opus, audio(48_000, 2)), (a(0), Codec::Opus, audio(48_000, 6))];
    check(&[body(&[b"\x90Opus"]), body(&[b"\x91Opus\xfcx"]), surround.clone(), body(&[b"\x91Opus\xfcx"])], &opus, 2);
    // A header takes precedence, and before any header there is nothing to configure.
    let head = body(&[b"\x90OpusOpusHead\x01\x02\x38\x01\x80\xbb\0\0\0\0\0"]);
    check(&[surround.clone(), head, surround], &[(a(0), Codec::Opus, audio(48_000, 2))], 0);
    check(&[aac, body(&[b"\x94mp4a\x02\x02\x00\x01"])], &[(a(0), Codec::Aac, audio(44_100, 2))], 0);
    // Two languages.
    let many = body(&[b"\x95\x10mp4a\x00\0\0\x02\x12\x10\x01\0\0\x02\x11\x88"]);
    check(&[many], &[(a(0), Codec::Aac, audio(44_100, 2)), (a(1), Codec::Aac, audio(48_000, 1))], 0);
    // Silence.
    check(&[Bytes::new()], &[], 0);
}

#[test]
fn malformed_bodies_are_rejected() {
    let check = |kind, body: &[u8], expected: Error| {
        let mut demuxer = Demuxer::new(Epoch(7));
        demuxer.video(0, [b"\x17\0\0\0\0", &AVCC[..]].concat().into(), Instant::now()).unwrap();
        let body = Bytes::copy_from_slice(body);
        let result = match kind {
            TrackKind::Video => demuxer.video(0, body, Instant::now()),
            TrackKind::Audio => demuxer.audio(0, body, Instant::now()),
        };
        assert_eq!(result, Err(expected));
    };
    use TrackKind::{Audio, Video};
    check(Video, b"\x12abc", Error::LegacyCodec { what: "video codec", id: 2 });
    check(Audio, b"\xbfabc", Error::LegacyCodec { what: "sound format", id: 11 });
    check(Video, b"\x17\x01\0", Error::Truncated { what: "composition time", have: 3 });
    check(Video, b"\x17\x03\0\0\0", Error::Unsupported { what: "AVC packet type", value: 3 });
    check(Audio, b"\xaf", Error::Truncated { what: "AAC packet type", have: 1 });
    check(Video, b"\x90vp08x", Error::FourCc { fourcc: *b"vp08" });
    check(Video, b"\x90mp4a\x12\x10", Error::FourCc { fourcc: *b"mp4a" });
    check(Audio, b"\x90ac-3x", Error::FourCc { fourcc: *b"ac-3" });
    check(Video, b"\x90avc", Error::Truncated { what: "FourCC", have: 4 });
    check(Video, b"\x95av01x", Error::Unsupported { what: "video packet type (MPEG-2 TS sequence start)", value: 5 });
    check(Audio, b"\x93mp4ax", Error::Unsupported { what: "audio packet type", value: 3 });
    check(Video, b"\x96\x36avc1", Error::Unsupported { what: "multitrack type", value: 3 });
    check(Video, b"\x96\x06avc1\x00x", Error::Unsupported { what: "video packet type", value: 6 });
    check(Video, b"\x97\x01\0\0\x03avc1", Error::Truncated { what: "TimestampOffsetNano", have: 9 });
    check(Video, b"\x97\x07\0\0", Error::Truncated { what: "ModEx data", have: 4 });
    check(Video, b"\x93av01x", Error::NoConfiguration(v(0)));
    check(Audio, b"\xaf\x01x", Error::NoConfiguration(a(0)));
    check(Video, b"\x96\x10avc1\x02\0\0\x09x", Error::Truncated { what: "track", have: 11 });
    let source = codec::Error::Truncated { what: "AudioSpecificConfig" };
    check(Audio, b"\xaf\0", Error::Codec { track: a(0), source });
}

#[test]
fn a_repeated_record_is_not_reported_again() {
    let mut demuxer = Demuxer::new(Epoch(7));
    let header = body(&[b"\x17\0\0\0\0", &AVCC]);
    assert_eq!(demuxer.video(0, header.clone(), Instant::now()).unwrap().len(), 1);
    // Repeated, and repeated in the other form.
    assert_eq!(demuxer.video(9, header.clone(), Instant::now()).unwrap(), []);
    assert_eq!(demuxer.video(9, body(&[b"\x90avc1", &AVCC]), Instant::now()).unwrap(), []);
    let mut other = AVCC;
    other[3] = 11;
    assert_eq!(demuxer.video(9, body(&[b"\x17\0\0\0\0", &other]), Instant::now()).unwrap().len(), 1);
    assert_eq!(demuxer.video(9, header, Instant::now()).unwrap().len(), 1);
    // A new epoch keeps the tracks, unless they are forgotten.
    demuxer.forget_tracks();
    assert_eq!(demuxer.tracks().count(), 0);
    assert_eq!(demuxer.video(9, body(&[b"\x17\0\0\0\0", &AVCC]), Instant::now()).unwrap().len(), 1);
    demuxer.set_epoch(Epoch(8));
    assert_eq!(demuxer.tracks().count(), 1);
    assert!(
        matches!(&demuxer.video(9, body(&[b"\x17\x01\0\0\0", IDR]), Instant::now()).unwrap()[..], [Event::Unit(unit)] if unit.epoch == Epoch(8))
    );
}

#[test]
fn legacy_hevc_and_short_lengths() {
    let stream = include_bytes!("../../testdata/x265_bframes.hevc");
    let record = crate::codec::hevc::hvcc_from_annexb_extradata(stream).unwrap();
    let events =
        read(TrackKind::Video, &[body(&[b"\x1c\0\0\0\0", &record]), body(&[b"\x1c\x01\0\0\0\0\0\0\x03\x26\x01\xaf"])]);
    assert_eq!(tracks(&events), [(v(0), Codec::Hevc, Format::Video { width: 64, height: 48 })]);
    assert_eq!(units(&events, v(0)), [(1040, 1040, 7, true)]);

    let mut short = AVCC;
    short[4] = 0xfd;
    let bodies = [body(&[b"\x17\0\0\0\0", &short]), body(&[b"\x17\x01\0\0\0\0\x02\x65\x88"])];
    let events = read(TrackKind::Video, &bodies);
    let Event::Track(track) = &events[0] else { panic!("{events:?}") };
    assert_eq!(track.config.record[..], AVCC);
    assert!(matches!(&events[1], Event::Unit(unit) if unit.payload == IDR));
    let mut demuxer = Demuxer::new(Epoch(7));
    demuxer.video(0, bodies[0].clone(), Instant::now()).unwrap();
    assert!(matches!(
        demuxer.video(0, body(&[b"\x17\x01\0\0\0\x09\x02\x65"]), Instant::now()),
        Err(Error::Codec { .. })
    ));
}

#[test]
fn a_payload_shares_the_memory_of_the_body() {
    let mut demuxer = Demuxer::new(Epoch(7));
    demuxer.video(0, body(&[b"\x17\0\0\0\0", &AVCC]), Instant::now()).unwrap();
    let message = body(&[b"\x17\x01\0\0\0", IDR]);
    let events = demuxer.video(0, message.clone(), Instant::now()).unwrap();
    let [Event::Unit(unit)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(unit.payload.as_ptr(), message[5..].as_ptr());
}

#[test]
fn the_number_of_tracks_is_bounded() {
    let mut demuxer = Demuxer::new(Epoch(7));
    for index in 0..=255u8 {
        let result = demuxer.audio(0, body(&[b"\x95\x00mp4a", &[index], b"\x12\x10"]), Instant::now());
        assert_eq!(result.is_ok(), usize::from(index) < MAX_TRACKS);
    }
    assert_eq!(demuxer.tracks().count(), MAX_TRACKS);
    // Why its frames are refused is the number of tracks, not the configuration, which was sent.
    let frame = demuxer.audio(0, body(&[b"\x95\x01mp4a\xff", b"\x21\x10"]), Instant::now());
    assert_eq!(frame, Err(Error::TooManyTracks(a(255))));
}

#[test]
fn tracks_of_a_body_that_are_refused_are_reported_beside_the_others() {
    let mut demuxer = Demuxer::new(Epoch(7));
    demuxer.video(0, body(&[b"\x90avc1", &AVCC]), Instant::now()).unwrap();
    let track = |fourcc: &[u8; 4], index: u8| body(&[fourcc, &[index], b"\0\0\x06", IDR]);
    let bodies = |tracks: &[Bytes]| {
        let mut parts: Vec<&[u8]> = vec![b"\x96\x23"];
        parts.extend(tracks.iter().map(|track| &track[..]));
        body(&parts)
    };
    let events = demuxer.video(0, bodies(&[track(b"avc1", 1), track(b"avc1", 0), track(b"vvc1", 2)]), Instant::now());
    let events = events.unwrap();
    assert_eq!(units(&events, v(0)).len(), 1);
    let refused = [Error::NoConfiguration(v(1)), Error::FourCc { fourcc: *b"vvc1" }];
    assert_eq!(events[1..], refused.clone().map(Event::Refused));
    // Alone, they are an error.
    let alone = demuxer.video(0, bodies(&[track(b"avc1", 1), track(b"vvc1", 2)]), Instant::now());
    assert_eq!(alone, Err(refused[0].clone()));
    // However many there are.
    let many: Vec<Bytes> = (0..=255).flat_map(|index| [track(b"avc1", index), track(b"avc1", index)]).collect();
    let events = demuxer.video(40, bodies(&many), Instant::now()).unwrap();
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Refused(_))).count(), MAX_TRACKS);
}

/// The DTS and PTS that timestamps and composition times become.
fn clock(exact: bool, near: Option<i64>, messages: &[(TrackKind, u32, i32)]) -> Vec<(char, i64, i64)> {
    let mut demuxer = Demuxer::new(Epoch(7));
    demuxer.set_exact(exact);
    if let Some(near) = near {
        demuxer.resume_near(Timestamp::from_millis(near));
    }
    let now = Instant::now();
    demuxer.video(77_777_777, body(&[b"\x17\0\0\0\0", &AVCC]), now).unwrap();
    demuxer.audio(0, body(&[b"\xaf\0\x12\x10"]), now).unwrap();
    let mut seen = Vec::new();
    for (kind, timestamp, composition) in messages {
        let events = match kind {
            TrackKind::Video => {
                demuxer.video(*timestamp, body(&[b"\x27\x01", &composition.to_be_bytes()[1..], SLICE]), now)
            }
            TrackKind::Audio => demuxer.audio(*timestamp, body(&[b"\xaf\x01x"]), now),
        };
        seen.extend(events.unwrap().into_iter().filter_map(|event| match event {
            Event::Unit(unit) => {
                Some((if unit.track.is_video() { 'v' } else { 'a' }, unit.dts.as_millis(), unit.pts.as_millis()))
            }
            _ => None,
        }));
    }
    seen
}

#[test]
fn timestamps_of_foreign_publishers_are_corrected() {
    use TrackKind::{Audio as A, Video as V};
    let messages = [(V, 10, 0), (V, 10, 0), (V, 9, 40), (A, 1000, 0), (A, 1000, 0), (V, 50, 0)];
    let expected = [('v', 10, 10), ('v', 11, 11), ('v', 12, 49), ('a', 1000, 1000), ('a', 1001, 1001), ('v', 50, 50)];
    assert_eq!(clock(false, None, &messages), expected);
}

#[test]
fn timestamps_of_sequence_headers_are_ignored() {
    let mut demuxer = Demuxer::new(Epoch(7));
    let (video, audio) = (body(&[b"\x17\0\0\0\0", &AVCC]), body(&[b"\xaf\0\x12\x10"]));
    let start = Instant::now();
    let mut read = |timestamp: u32, tag: &Bytes| {
        let now = start + Duration::from_millis(timestamp.into());
        let events = match tag[0] {
            0xaf => demuxer.audio(timestamp, tag.clone(), now),
            _ => demuxer.video(timestamp, tag.clone(), now),
        };
        let events = events.unwrap().into_iter();
        events.map(|event| if let Event::Unit(unit) = event { unit.dts.as_millis() } else { -1 }).collect::<Vec<_>>()
    };
    let (picture, sound) = (body(&[b"\x27\x01\0\0\0", SLICE]), body(&[b"\xaf\x01x"]));
    let far = 1 << 30;
    assert_eq!(read(0, &video), [-1]);
    assert_eq!(read(far, &picture), [far.into()]);
    // FFmpeg writes sequence headers with timestamp zero for any offset, and the end of sequence with an arbitrary one.
    assert_eq!(read(0, &audio), [-1]);
    assert_eq!(read(far + 23, &sound), [i64::from(far) + 23]);
    assert_eq!(read(0, &video), []);
    assert_eq!(read(0, &body(&[b"\xaf\0\x11\x90"])), [-1]);
    assert_eq!(read(3, &body(&[b"\x17\x02\0\0\0"])), [-1]);
    assert_eq!(read(far + 40, &picture), [i64::from(far) + 40]);
}

#[test]
fn exact_timestamps_are_not_corrected() {
    use TrackKind::{Audio as A, Video as V};
    let day_50 = 50 * 86_400_000i64;
    let messages = [
        (V, day_50 as u32, -40),
        (A, day_50 as u32 - 100_000, 0),
        (V, day_50 as u32, 0),
        (V, day_50 as u32 + 900_000, 0),
    ];
    let expected = [('v', 0, -40), ('a', -100_000, -100_000), ('v', 0, 0), ('v', 900_000, 900_000)];
    let expected = expected.map(|(kind, dts, pts)| (kind, day_50 + dts, day_50 + pts));
    assert_eq!(clock(true, Some(day_50 - 5000), &messages), expected);
}

#[test]
fn a_new_epoch_with_exact_timestamps_restarts_the_clock() {
    let mut demuxer = Demuxer::new(Epoch(7));
    demuxer.set_exact(true);
    demuxer.resume_near(Timestamp::from_millis(5 << 32));
    demuxer.audio(0, body(&[b"\xaf\0\x12\x10"]), Instant::now()).unwrap();
    for (epoch, dts) in [(7, (5 << 32) + 9), (7, (5 << 32) + 9), (8, 9)] {
        demuxer.set_epoch(Epoch(epoch));
        let events = demuxer.audio(9, body(&[b"\xaf\x01x"]), Instant::now()).unwrap();
        assert!(matches!(&events[..], [Event::Unit(unit)] if unit.dts.as_millis() == dts), "{events:?}");
    }
}

/// A configuration that `CodecConfig::from_record` accepts, for each codec.
fn config(codec: Codec) -> CodecConfig {
    let record: Vec<u8> = match codec {
        Codec::H264 => AVCC.to_vec(),
        Codec::Hevc => {
            let stream = include_bytes!("../../testdata/x265_main10_98x38.hevc");
            crate::codec::hevc::hvcc_from_annexb_extradata(stream).unwrap().to_vec()
        }
        Codec::Av1 => AV1C.to_vec(),
        Codec::Vp9 => vec![0, 10, 0x82, 2, 2, 2, 0, 0],
        Codec::Aac => vec![0x12, 0x10],
        Codec::Opus => crate::codec::opus::OpusHead::for_channels(6).unwrap().build().to_vec(),
        Codec::Flac => STREAM_INFO.to_vec(),
        Codec::Mp3 => return CodecConfig::mp3(b"\xff\xfb\x90\x64").unwrap(),
    };
    CodecConfig::from_record(codec, record.into()).unwrap()
}

const CODECS: [Codec; 8] =
    [Codec::H264, Codec::Hevc, Codec::Av1, Codec::Vp9, Codec::Aac, Codec::Opus, Codec::Flac, Codec::Mp3];

proptest! {
    #[test]
    fn mux_then_demux_is_identity(
        codec in prop::sample::select(CODECS.to_vec()),
        index in any::<u8>(),
        start in 0i64..1 << 33,
        sent in prop::collection::vec((1i64..1000, -10_000i64..10_000, prop::collection::vec(any::<u8>(), 1..50)), 1..20),
    ) {
        let kind = if codec.is_video() { TrackKind::Video } else { TrackKind::Audio };
        let id = TrackId { kind, index };
        let track = Track { id, config: config(codec) };
        let mut demuxer = Demuxer::new(Epoch(7));
        demuxer.set_exact(true);
        demuxer.resume_near(Timestamp::from_millis(start));
        let mut read = |timestamp, body| match kind {
            TrackKind::Video => demuxer.video(timestamp, body, Instant::now()).unwrap(),
            TrackKind::Audio => demuxer.audio(timestamp, body, Instant::now()).unwrap(),
        };
        let header = sequence_header(&track);
        if codec == Codec::Mp3 {
            prop_assert!(header.is_empty());
        } else {
            prop_assert_eq!(read(0, header), vec![Event::Track(track.clone())]);
        }
        let mut dts = start;
        for (step, composition, mut payload) in sent {
            dts += step;
            if codec == Codec::Mp3 {
                payload.splice(..0, *b"\xff\xfb\x90\x64");
            }
            if codec == Codec::Aac {
                // A frame begins with an element, and none of them has three ones as its number; ADTS does.
                payload[0] &= 0x7f;
            }
            let composition = if matches!(codec, Codec::H264 | Codec::Hevc) { composition } else { 0 };
            let unit = AccessUnit {
                epoch: Epoch(7),
                track: id,
                dts: Timestamp::from_millis(dts),
                pts: Timestamp::from_millis(dts + composition),
                random_access: codec::is_random_access(codec, &payload),
                payload: payload.into(),
            };
            let head = unit_header(&track, &unit);
            prop_assert!((1..=MAX_UNIT_HEADER).contains(&head.len()));
            let events = read(unit.dts.as_rtmp(), body(&[&head, &unit.payload]));
            prop_assert_eq!(events.last(), Some(&Event::Unit(unit)));
        }
        let end = end_of_sequence(&track);
        if !end.is_empty() {
            prop_assert_eq!(read(dts as u32, end), vec![Event::EndOfSequence(id)]);
        }
    }

    #[test]
    fn any_bodies_are_parsed_without_panic(
        exact in any::<bool>(),
        bodies in prop::collection::vec((any::<bool>(), any::<u32>(), 0usize..8, prop::collection::vec(any::<u8>(), 0..60)), 0..40),
    ) {
        // Openings that get past the first byte.
        let openings: [&[u8]; 8] =
            [b"", b"\x17\x01\0\0\0", b"\x90avc1", b"\x96\x13avc1", b"\x96\x21", b"\x95\x11mp4a", b"\x97\x02", b"\x94Opus"];
        let mut demuxer = Demuxer::new(Epoch(7));
        demuxer.set_exact(exact);
        demuxer.video(0, body(&[b"\x17\0\0\0\0", &AVCC]), Instant::now()).unwrap();
        demuxer.audio(0, body(&[b"\xaf\0\x12\x10"]), Instant::now()).unwrap();
        let mut last = std::collections::BTreeMap::new();
        for (video, timestamp, opening, bytes) in bodies {
            let mut message = openings[opening].to_vec();
            message.put_slice(&bytes);
            let read = if video { demuxer.video(timestamp, message.into(), Instant::now()) } else { demuxer.audio(timestamp, message.into(), Instant::now()) };
            for event in read.unwrap_or_default() {
                match event {
                    Event::Unit(unit) if !exact => {
                        prop_assert!(unit.dts.as_millis() >= 0);
                        prop_assert!(last.insert(unit.track, unit.dts) < Some(unit.dts));
                    }
                    _ => {}
                }
            }
            prop_assert!(demuxer.tracks().count() <= MAX_TRACKS);
        }
    }
}

/// AAC with an ADTS header before each frame, and no sequence header.
#[test]
fn adts_headers_configure_the_track_and_are_removed() {
    let adts = include_bytes!("../../testdata/ffmpeg_aac_48k_mono.adts");
    let length = (usize::from(adts[3] & 3) << 11) | (usize::from(adts[4]) << 3) | usize::from(adts[5] >> 5);
    let mut demuxer = Demuxer::new(Epoch(1));
    let frame = body(&[b"\xaf\x01", &adts[..length]]);
    let events = demuxer.audio(0, frame.clone(), Instant::now()).unwrap();
    let [Event::Track(track), Event::Unit(unit)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(track.config.format, Format::Audio { sample_rate: 48_000, channels: 1 });
    assert_eq!(unit.payload[..], adts[7..length]);
    let events = demuxer.audio(23, frame, Instant::now()).unwrap();
    assert!(matches!(&events[..], [Event::Unit(_)]), "{events:?}");
}

/// Frames of AAC-ELD begin with any bits: also with those of an ADTS syncword.
#[test]
fn a_frame_that_begins_like_an_adts_header_is_not_cut() {
    let mut demuxer = Demuxer::new(Epoch(1));
    // ER AAC ELD, 48 kHz, stereo (ISO/IEC 14496-3 §1.6.2.1).
    let events = demuxer.audio(0, body(&[b"\xaf\x00", b"\xf8\xe6\x40\x00"]), Instant::now()).unwrap();
    assert!(matches!(&events[..], [Event::Track(_)]), "{events:?}");
    for frame in
        [&b"\xff\xf1\x50\x80\x01\x7f\xfc\x01\x02\x03\x04"[..], b"\xff\xf1\xff\xff\xff\xff\xff\xff", b"\xff\xf0"]
    {
        let events = demuxer.audio(21, body(&[b"\xaf\x01", frame]), Instant::now()).unwrap();
        let [Event::Unit(unit)] = &events[..] else { panic!("{events:?}") };
        assert_eq!(unit.payload[..], *frame);
    }
}
