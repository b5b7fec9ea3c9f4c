//! Fragments and init segments as trees of boxes, round trips, and hostile files.

use std::fmt::Write as _;

use bytes::Bytes;
use mp4_atom::{Decode, Moof, Moov};
use proptest::prelude::*;

use super::boxes::{BoxLocation, children};
use super::*;
use crate::access_unit::{AccessUnit, Epoch};
use crate::catalog::Value;
use crate::codec::{CodecConfig, Format};
use crate::time::WallClock;

/// Baseline of a picture of 64x64.
const AVCC: &[u8] = &[
    1, 0x64, 0, 0x0a, 0xff, 0xe1, 0, 0x17, 0x67, 0x64, 0, 0x0a, 0xac, 0xd9, 0x44, 0x26, 0x84, 0, 0, 3, 0, 4, 0, 0, 3,
    0, 0xc8, 0x3c, 0x48, 0x96, 0x58, 1, 0, 6, 0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc0, 0xfd, 0xf8, 0xf8, 0,
];

fn track(id: TrackId, codec: Codec, record: &[u8], format: Format) -> Track {
    Track { id, config: CodecConfig { codec, record: Bytes::copy_from_slice(record), format } }
}

fn video() -> Track {
    track(TrackId::VIDEO, Codec::H264, AVCC, Format::Video { width: 64, height: 64 })
}

fn sound(sample_rate: u32) -> Track {
    let (record, rate) = if sample_rate == 44_100 { ([0x12, 0x10], 44_100) } else { ([0x11, 0x90], 48_000) };
    track(TrackId::AUDIO, Codec::Aac, &record, Format::Audio { sample_rate: rate, channels: 2 })
}

fn catalog(tracks: impl IntoIterator<Item = Track>) -> Catalog {
    let mut catalog = Catalog::new(Epoch(0x0123_4567_89ab_cdef));
    catalog.clock = Some(WallClock::from_micros(1_795_352_493_250_001));
    tracks.into_iter().for_each(|track| assert!(catalog.set_track(track)));
    catalog
}

fn unit(track: TrackId, dts: i64, pts: i64, random_access: bool, payload: &'static [u8]) -> AccessUnit {
    let (dts, pts) = (Timestamp::from_millis(dts), Timestamp::from_millis(pts));
    AccessUnit {
        epoch: Epoch(0x0123_4567_89ab_cdef),
        track,
        dts,
        pts,
        random_access,
        payload: Bytes::from_static(payload),
    }
}

fn joined(fragment: &Fragment) -> Bytes {
    fragment.chunks().collect::<Vec<_>>().concat().into()
}

fn read_all(bytes: &[u8], cut: usize) -> Result<Vec<Event>, Error> {
    let mut reader = Reader::new(Epoch(7));
    let mut events = Vec::new();
    for piece in bytes.chunks(cut.max(1)) {
        events.extend(reader.push(Bytes::copy_from_slice(piece))?);
    }
    Ok(events)
}

/// The boxes as an indented tree, with the size of each.
fn dump(bytes: &[u8]) -> String {
    fn level(bytes: &[u8], depth: usize, out: &mut String) {
        for found in children(bytes, BoxLocation { kind: *b"test", at: 0 }) {
            let (kind, body) = found.unwrap();
            writeln!(out, "{:depth$}{} {}", "", kind.escape_ascii(), body.len() + 8).unwrap();
            match &kind {
                b"moov" | b"trak" | b"mdia" | b"minf" | b"dinf" | b"stbl" | b"mvex" | b"moof" | b"traf" => {
                    level(body, depth + 2, out)
                }
                b"stsd" => level(&body[8..], depth + 2, out),
                b"avc1" => level(&body[78..], depth + 2, out),
                b"mp4a" => level(&body[28..], depth + 2, out),
                _ => {}
            }
        }
    }
    let mut out = String::new();
    level(bytes, 0, &mut out);
    out
}

#[test]
fn an_init_segment_has_these_boxes() {
    let init = init_segment(&catalog([video(), sound(44_100)])).unwrap();
    let expected = "\
ftyp 24
moov 1137
  mvhd 120
  trak 496
    tkhd 104
    mdia 384
      mdhd 44
      hdlr 38
      minf 294
        vmhd 20
        dinf 36
          dref 28
        stbl 230
          stsd 154
            avc1 138
              avcC 52
          stts 16
          stsc 16
          stsz 20
          stco 16
  trak 441
    tkhd 104
    mdia 329
      mdhd 44
      hdlr 38
      minf 239
        smhd 16
        dinf 36
          dref 28
        stbl 179
          stsd 103
            mp4a 87
              esds 51
          stts 16
          stsc 16
          stsz 20
          stco 16
  mvex 72
    trex 32
    trex 32
uuid 40
";
    assert_eq!(dump(&init), expected);
    let moov = Moov::decode(&mut &init[24..]).unwrap();
    assert_eq!(
        moov.trak.iter().map(|t| (t.tkhd.track_id, t.mdia.mdhd.timescale)).collect::<Vec<_>>(),
        [(1, 90_000), (2, 44_100)]
    );
    assert_eq!(init, init_segment(&catalog([video(), sound(44_100)])).unwrap());
}

#[test]
fn a_fragment_has_these_boxes() {
    let catalog = catalog([video(), sound(48_000)]);
    let units = [
        unit(TrackId::VIDEO, 0, 80, true, b"IDR."),
        unit(TrackId::AUDIO, 0, 0, true, b"one"),
        unit(TrackId::VIDEO, 40, 200, false, b"P"),
        unit(TrackId::AUDIO, 21, 21, true, b"two"),
        unit(TrackId::VIDEO, 80, 60, false, b"B."),
        unit(TrackId { index: 1, ..TrackId::AUDIO }, 0, 0, true, b"of another rendition"),
    ];
    let next = |id: TrackId| id.is_video().then_some(Timestamp::from_millis(123));
    let fragment = fragment(9, &catalog, &units, next).unwrap();
    let expected = "\
prft 28
moof 224
  mfhd 16
  traf 112
    tfhd 16
    tfdt 20
    trun 68
  traf 88
    tfhd 16
    tfdt 20
    trun 44
mdat 21
";
    let bytes = joined(&fragment);
    assert_eq!(bytes.len(), fragment.len());
    assert_eq!(dump(&bytes), expected);
    assert!(units[0].payload.as_ptr() == fragment.payloads[0].as_ptr(), "shared, not copied");
    assert_eq!(&bytes[bytes.len() - 13..], b"IDR.PB.onetwo");

    let moof = Moof::decode(&mut &bytes[28..]).unwrap();
    assert_eq!(moof.mfhd.sequence_number, 9);
    let run = |n: usize| {
        let run = &moof.traf[n].trun[0];
        let base = run.data_offset.unwrap() as usize;
        (
            base + 28,
            run.samples
                .iter()
                .map(|s| (s.duration.unwrap(), s.size.unwrap(), s.flags, s.cts.unwrap()))
                .collect::<Vec<_>>(),
        )
    };
    let (base, pictures) = run(0);
    assert_eq!(&bytes[base..base + 4], b"IDR.");
    assert_eq!(
        pictures,
        [(3600, 4, Some(0x0200_0000), 7200), (3600, 1, Some(0x0101_0000), 14_400), (3870, 2, Some(0x0101_0000), -1800)]
    );
    let (base, frames) = run(1);
    assert_eq!(&bytes[base..base + 3], b"one");
    assert_eq!(frames, [(1024, 3, None, 0), (1024, 3, None, 0)]);
}

#[test]
fn every_codec_is_written_and_read_back() {
    let opus = [&b"OpusHead"[..], &[1, 2, 0x38, 1, 0x80, 0xbb, 0, 0, 0, 0, 0]].concat();
    let surround = [&b"OpusHead"[..], &[1, 6, 0x38, 1, 0x80, 0xbb, 0, 0, 0xff, 1, 1, 4, 2, 0, 4, 1, 2, 3, 5]].concat();
    let mut flac = b"fLaC\x80\0\0\x22\x10\0\x10\0\0\0\0\0\0\0\x0a\xc4\x42\xf0".to_vec();
    flac.resize(4 + 4 + 34, 0);
    let hvcc =
        [&[1, 1, 0x60, 0, 0, 0, 0x90, 0, 0, 0, 0, 0, 30, 0xf0, 0, 0xfc, 0xfd, 0xf8, 0xf8, 0, 0, 0x0f, 0][..]].concat();
    let (picture, pair) = (Format::Video { width: 64, height: 64 }, Format::Audio { sample_rate: 48_000, channels: 2 });
    let mp3 = Format::Audio { sample_rate: 44_100, channels: 2 };
    for (codec, record, format) in [
        (Codec::H264, AVCC, picture),
        (Codec::Hevc, &hvcc, picture),
        (Codec::Av1, &[0x81, 0, 0x0c, 0], picture),
        (Codec::Vp9, &[0, 10, 0x82, 1, 1, 1, 0, 0], picture),
        (Codec::Aac, &[0x11, 0x90], pair),
        (Codec::Opus, &opus, pair),
        (Codec::Opus, &surround, Format::Audio { sample_rate: 48_000, channels: 6 }),
        (Codec::Flac, &flac, Format::Audio { sample_rate: 44_100, channels: 2 }),
        (Codec::Mp3, &[], mp3),
    ] {
        let id = if matches!(format, Format::Video { .. }) { TrackId::VIDEO } else { TrackId::AUDIO };
        let catalog = catalog([track(id, codec, record, format)]);
        let init = init_segment(&catalog).unwrap();
        let one = fragment(1, &catalog, &[unit(id, 5, 5, true, b"x")], |_| None).unwrap();
        let events = read_all(&[init, joined(&one)].concat(), 1000).unwrap();
        assert_eq!(events[0], Event::Catalog(catalog), "{codec:?}");
        assert_eq!(events.len(), 2);
    }
}

#[test]
fn a_picture_size_is_taken_from_metadata_if_the_record_has_none() {
    let mut catalog = catalog([track(
        TrackId::VIDEO,
        Codec::Vp9,
        &[0, 10, 0x82, 1, 1, 1, 0, 0],
        Format::Video { width: 0, height: 0 },
    )]);
    catalog.metadata.insert("width".into(), Value::Number(640.0));
    catalog.metadata.insert("height".into(), Value::Number(360.0));
    let init = init_segment(&catalog).unwrap();
    let one = fragment(1, &catalog, &[unit(TrackId::VIDEO, 5, 5, true, b"x")], |_| None).unwrap();
    let events = read_all(&[init, joined(&one)].concat(), 1000).unwrap();
    let Event::Catalog(read) = &events[0] else { panic!("{events:?}") };
    assert_eq!(read.video().unwrap().config.format, Format::Video { width: 640, height: 360 });
}

#[test]
fn malformed_records_are_refused() {
    let picture = Format::Video { width: 64, height: 64 };
    for (codec, record) in [
        (Codec::H264, &[][..]),
        (Codec::Hevc, &[2, 0]),
        (Codec::Av1, &[1]),
        (Codec::Vp9, &[0; 7]),
        (Codec::Aac, &[]),
        (Codec::Opus, b"OpusHead"),
        (Codec::Flac, b"fLaC\0\0\0\x22"),
    ] {
        let error = init_segment(&catalog([track(TrackId::VIDEO, codec, record, picture)]));
        assert!(matches!(error, Err(Error::Record { .. })), "{codec:?} {error:?}");
    }
    assert!(matches!(init_segment(&catalog([])), Err(Error::NoTrack)));
}

#[test]
fn units_with_impossible_timestamps_are_rejected() {
    let catalog = catalog([video(), sound(48_000)]);
    let of = |units: &[AccessUnit]| fragment(1, &catalog, units, |_| None);
    assert!(matches!(of(&[]), Err(Error::NoUnit)));
    assert!(matches!(of(&[unit(TrackId::VIDEO, -1, 5, true, b"x")]), Err(Error::Time { .. })));
    assert!(matches!(of(&[unit(TrackId::VIDEO, 0, 1 << 40, true, b"x")]), Err(Error::Time { .. })));
    let twice = unit(TrackId::VIDEO, 4, 4, true, b"x");
    assert!(matches!(of(&[twice.clone(), twice]), Err(Error::Time { .. })));
}

#[test]
fn unknown_boxes_are_skipped() {
    let catalog = catalog([video()]);
    let free = [&[0, 0, 0, 1][..], b"free", &[0, 0, 0, 0, 0, 0x10, 0, 0], &vec![0xee; (1 << 20) - 16]].concat();
    let foreign = [&[0, 0, 0, 32][..], b"uuid", &[9; 24]].concat();
    let one = joined(&fragment(1, &catalog, &[unit(TrackId::VIDEO, 5, 5, true, b"x")], |_| None).unwrap());
    let file = [&free[..], &init_segment(&catalog).unwrap(), &foreign, &free, &one].concat();
    for cut in [1, 7, 4096, usize::MAX] {
        assert_eq!(read_all(&file, cut).unwrap().len(), 2, "cut at {cut}");
    }
}

#[test]
fn impossible_box_sizes_are_rejected() {
    for (bytes, what) in [
        (&b"\0\0\0\x07moov"[..], "a size that is less than the header's"),
        (b"\0\0\0\x01mdat\0\0\0\0\0\0\0\x0f", "a size that is less than the header's"),
        (b"\0\0\0\x01mdat\x7f\xff\xff\xff\xff\xff\xff\xff", "more bytes than a reader holds"),
        (b"\xff\xff\xff\xffmoof", "more bytes than a reader holds"),
        (b"\0\0\0\0mdat", "more bytes than a reader holds"),
        (b"\0\0\0\x08moof", "a fragment before any init segment"),
        (b"\0\0\0\x18moov\0\0\0\x10trak\0\0\0\xfftkhd", "a box that is longer than what holds it"),
    ] {
        match read_all(bytes, usize::MAX) {
            Err(Error::Malformed { what: said, .. }) => assert_eq!(said, what),
            other => panic!("{what}: {other:?}"),
        }
    }
}

/// Units of two tracks as an encoder produces them: B-frames, jitter, audio at its own pace.
fn broadcast() -> impl Strategy<Value = (Vec<AccessUnit>, u32)> {
    let picture = (1i64..90, -50i64..200, any::<bool>(), 1usize..40);
    let frame = (1i64..60, 1usize..20);
    let start = prop::sample::select(vec![0, 5, (1 << 32) - 500, 1 << 40]);
    let rate = prop::sample::select(vec![44_100, 48_000]);
    (prop::collection::vec(picture, 1..40), prop::collection::vec(frame, 0..60), start, rate).prop_map(
        |(pictures, frames, start, rate)| {
            let mut units = Vec::new();
            let mut dts = start;
            for (step, composition, random_access, size) in pictures {
                units.push(unit(TrackId::VIDEO, dts, dts + composition, random_access, &[0xaa; 40][..size]));
                dts += step;
            }
            let mut dts = start;
            for (step, size) in frames {
                units.push(unit(TrackId::AUDIO, dts, dts, true, &[0xbb; 20][..size]));
                dts += step;
            }
            units.sort_by_key(|unit| unit.dts);
            (units, rate)
        },
    )
}

proptest! {
    #[test]
    fn written_then_read_is_identity(
        (units, rate) in broadcast(),
        stated in prop::collection::vec(prop::option::weighted(0.2, prop::option::of(0i64..1 << 40)), 300),
        per_fragment in 1usize..20,
        cut in 1usize..5000,
        knows_next in any::<bool>(),
    ) {
        let catalog = catalog([video(), sound(rate)]);
        let mut file = init_segment(&catalog).unwrap().to_vec();
        let mut fragmenter = Fragmenter::new(1, &catalog);
        for (n, some) in units.chunks(per_fragment).enumerate() {
            let rest = &units[((n + 1) * per_fragment).min(units.len())..];
            let next = |id| rest.iter().find(|u| knows_next && u.track == id).map(|u| u.dts);
            for (n, unit) in some.iter().enumerate() {
                if let Some(predecessor) = stated[n % stated.len()] {
                    fragmenter.state_predecessor(unit.track, unit.dts, predecessor.map(Timestamp::from_millis));
                }
            }
            file.extend_from_slice(&joined(&fragmenter.fragment(&catalog, some, next).unwrap()));
        }
        let events = read_all(&file, cut).unwrap();
        prop_assert_eq!(&events[0], &Event::Catalog(catalog));
        let (mut read, mut predecessors, mut pending) = (Vec::new(), Vec::new(), None);
        for event in &events[1..] {
            match event {
                Event::Predecessor(track, predecessor) => prop_assert!(pending.replace((*track, *predecessor)).is_none()),
                Event::Unit(unit) => {
                    read.push(unit.clone());
                    if let Some((track, predecessor)) = pending.take() {
                        prop_assert_eq!(track, unit.track);
                        predecessors.push((track, unit.dts, predecessor));
                    }
                }
                Event::Catalog(_) => panic!("{event:?}"),
            }
        }
        let mut expected: Vec<_> = units
            .chunks(per_fragment)
            .flat_map(|some| some.iter().enumerate())
            .filter_map(|(n, unit)| Some((unit.track, unit.dts, stated[n % stated.len()]?.map(Timestamp::from_millis))))
            .collect();
        expected.sort_unstable_by_key(|(track, dts, _)| (*track, *dts));
        predecessors.sort_unstable_by_key(|(track, dts, _)| (*track, *dts));
        prop_assert_eq!(predecessors, expected);
        for id in [TrackId::VIDEO, TrackId::AUDIO] {
            let of = |units: &[AccessUnit]| units.iter().filter(|u| u.track == id).cloned().collect::<Vec<_>>();
            prop_assert_eq!(of(&read), of(&units));
        }
    }

    #[test]
    fn damaged_input_is_an_error_and_no_panic((units, rate) in broadcast(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), cut in 1usize..500) {
        let catalog = catalog([video(), sound(rate)]);
        let mut file = init_segment(&catalog).unwrap().to_vec();
        file.extend_from_slice(&joined(&fragment(1, &catalog, &units, |_| None).unwrap()));
        for (at, byte) in damage {
            let at = at.index(file.len());
            file[at] = byte;
        }
        let _ = read_all(&file, cut);
    }
}

#[test]
fn units_around_a_gap_are_read_back() {
    let catalog = catalog([sound(48_000)]);
    let units = [unit(TrackId::AUDIO, 0, 0, true, b"a"), unit(TrackId::AUDIO, 2501, 2501, true, b"b")];
    let mut file = init_segment(&catalog).unwrap().to_vec();
    file.extend_from_slice(&joined(&fragment(1, &catalog, &units, |_| None).unwrap()));
    let read = read_all(&file, usize::MAX).unwrap();
    assert_eq!(read.len(), 3, "{read:?}");
}
