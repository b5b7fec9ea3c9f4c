//! Codec headers against the bytes of real encoders, and against any bytes.
//!
//! The expectations are FFmpeg's own (ffprobe, and the records that its MP4 muxer writes for the same stream).

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const X264: &[u8] = include_bytes!("../../testdata/x264_bframes.h264");
const X264_INTRA_REFRESH: &[u8] = include_bytes!("../../testdata/x264_intra_refresh.h264");
const X265: &[u8] = include_bytes!("../../testdata/x265_bframes.hevc");
const X265_MAIN10: &[u8] = include_bytes!("../../testdata/x265_main10_98x38.hevc");
const SVT_AV1: &[u8] = include_bytes!("../../testdata/svtav1_keyint2.ivf");
const AOM_10BIT: &[u8] = include_bytes!("../../testdata/aom_10bit_98x38.ivf");
const VP9: &[u8] = include_bytes!("../../testdata/vpx_vp9_66x50.ivf");
const VP9_422_10BIT: &[u8] = include_bytes!("../../testdata/vpx_vp9_422_10bit.ivf");
const LAME: &[u8] = include_bytes!("../../testdata/lame_48k_mono.mp3");
const ADTS: &[u8] = include_bytes!("../../testdata/ffmpeg_aac_48k_mono.adts");

fn hex(text: &str) -> Bytes {
    let digits: Vec<_> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect::<Vec<_>>().into()
}

/// The frames of an IVF file: a 32-byte header, then 12 bytes before each frame.
fn ivf(mut file: &[u8]) -> Vec<&[u8]> {
    file = &file[32..];
    let mut frames = Vec::new();
    while let Some(size) = file.get(..4) {
        let end = 12 + u32::from_le_bytes(size.try_into().unwrap()) as usize;
        frames.push(&file[12..end]);
        file = &file[end..];
    }
    frames
}

/// Annex B streams of one slice a picture, cut after each slice.
fn access_units(stream: &[u8], is_slice: fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
    let mut units = vec![Vec::new()];
    for unit in nal::annexb(stream) {
        let last = units.last_mut().unwrap();
        last.extend_from_slice(b"\0\0\0\x01");
        last.extend_from_slice(unit);
        if is_slice(unit) {
            units.push(Vec::new());
        }
    }
    units.pop();
    units
}

fn video(width: u32, height: u32) -> Format {
    Format::Video { width, height }
}

fn audio(sample_rate: u32, channels: u16) -> Format {
    Format::Audio { sample_rate, channels }
}

#[test]
fn parses_records_of_real_encoders() {
    let check = |codec, record: &str, format, rfc6381: &str| {
        let config = CodecConfig::from_record(codec, hex(record)).unwrap();
        assert_eq!((config.format, config.rfc6381().as_str()), (format, rfc6381), "{record}");
        assert_eq!(Codec::from_fourcc(codec.fourcc()), Some(codec));
        assert_eq!(config.clone().with_four_byte_lengths(), config);
    };
    let avcc = "0164000affe1001867 64000aacd9447b01100000030010000003 0140f1225960 01000668ebe3cb22c0fdf8f800";
    check(Codec::H264, avcc, video(64, 48), "avc1.64000A");
    let av1 = "81000c000a0a0000000337fbe017c002";
    check(Codec::Av1, av1, video(128, 96), "av01.0.00M.08");
    check(Codec::Av1, "81004c000a0a000000032e194daf9404", video(98, 38), "av01.0.00M.10");
    check(Codec::Av1, "81a8e000", video(0, 0), "av01.5.08H.12");
    check(Codec::Vp9, "000a820202020000", video(0, 0), "vp09.00.10.08");
    check(Codec::Vp9, "01000000030aa40202020000", video(0, 0), "vp09.03.10.10");
    check(Codec::Opus, "4f707573486561640106380180bb00000000010402000401020305", audio(48_000, 6), "opus");
    check(Codec::Opus, "4f707573486561640101380180bb0000000000", audio(48_000, 1), "opus");
    let stream_info = "1200120000007200 04ed0bb800f0000012c0558de7c222aacdb7b295f858f33ba4c6";
    for before in ["", "00000022", "664c6143 80000022", "664c6143 00000022"] {
        let record = format!("{before}{stream_info}");
        check(Codec::Flac, &record, audio(48_000, 1), "fLaC");
        let config = CodecConfig::from_record(Codec::Flac, hex(&record)).unwrap();
        assert_eq!(config.record, hex(&format!("664c6143 80000022 {stream_info}")));
    }
}

#[test]
fn parses_and_writes_audio_specific_configs() {
    let check = |record: &str, format, rfc6381: &str, samples| {
        let config = CodecConfig::from_record(Codec::Aac, hex(record)).unwrap();
        assert_eq!((config.format, config.rfc6381().as_str()), (format, rfc6381), "{record}");
        let parsed = aac::AudioSpecificConfig::parse(&hex(record)).unwrap();
        assert_eq!(parsed.samples_per_frame(), samples, "{record}");
        if parsed.channels > 0 {
            assert_eq!(aac::AudioSpecificConfig::parse(&parsed.build().unwrap()), Ok(parsed), "{record}");
        }
    };
    // FFmpeg's encoder: LC, with an extension that says that there is no SBR.
    check("119056e500", audio(48_000, 2), "mp4a.40.2", 1024);
    check("11b056e500", audio(48_000, 6), "mp4a.40.2", 1024);
    check("120856e500", audio(44_100, 1), "mp4a.40.2", 1024);
    check("1210", audio(44_100, 2), "mp4a.40.2", 1024);
    check("1214", audio(44_100, 2), "mp4a.40.2", 960);
    // SBR, explicit and backward compatible; PS likewise.
    check("2b920800", audio(44_100, 2), "mp4a.40.5", 2048);
    check("139056e5a0", audio(44_100, 2), "mp4a.40.5", 2048);
    check("eb8a0800", audio(44_100, 2), "mp4a.40.29", 2048);
    check("138856e5a54880", audio(44_100, 2), "mp4a.40.29", 2048);
    // 00010 1111 (24 bits: 50 000) 0010 000.
    check("1780 61a810", audio(50_000, 2), "mp4a.40.2", 1024);
    // ER AAC ELD, an escaped object type: 11111 000111 0011 0010 0.
    check("f8e64000", audio(48_000, 2), "mp4a.40.39", 512);
    // A program config element: two pairs in front, and nothing else.
    check("118004c80000211000", audio(48_000, 4), "mp4a.40.2", 1024);
    for (bad, error) in [
        ("", Error::Truncated { what: "AudioSpecificConfig" }),
        ("12", Error::Truncated { what: "AudioSpecificConfig" }),
        ("1690", Error::Unsupported { what: "AAC sample rate index", value: 13 }),
        ("1240", Error::Unsupported { what: "AAC channel configuration", value: 8 }),
    ] {
        assert_eq!(CodecConfig::from_record(Codec::Aac, hex(bad)), Err(error), "{bad}");
    }
}

#[test]
fn builds_an_h264_record_from_annexb() {
    let record = h264::avcc_from_annexb_extradata(X264).unwrap();
    assert_eq!(
        record,
        hex("0164000affe100186764000aacd9447b011000000300100000030140f122596001000668ebe3cb22c0fdf8f800")
    );
    let units = access_units(X264, |unit| matches!(unit[0] & 0x1f, 1 | 5));
    let payloads: Vec<_> = units.iter().map(|unit| h264::annexb_to_length_prefixed(unit)).collect();
    let keys = [true, false, false, true, false, false];
    assert_eq!(payloads.iter().map(|unit| h264::is_idr(unit)).collect::<Vec<_>>(), keys);
    assert_eq!(payloads.iter().map(|unit| is_random_access(Codec::H264, unit)).collect::<Vec<_>>(), keys);
    // The SEI before the first IDR stays; SPS and PPS come back from the record.
    assert_eq!(nal::length_prefixed(&payloads[0], 4).map(|unit| unit[0] & 0x1f).collect::<Vec<_>>(), [6, 5]);
    let back = h264::to_annexb(&record, &payloads[0], true).unwrap();
    assert_eq!(nal::annexb(&back).collect::<Vec<_>>(), nal::annexb(&units[0]).collect::<Vec<_>>());
    let without = h264::to_annexb(&record, &payloads[1], false).unwrap();
    assert_eq!(nal::annexb(&without).collect::<Vec<_>>(), nal::annexb(&units[1]).collect::<Vec<_>>());
}

#[test]
fn intra_refresh_can_be_joined_at_recovery_points() {
    let units = access_units(X264_INTRA_REFRESH, |unit| matches!(unit[0] & 0x1f, 1 | 5));
    let payloads: Vec<_> = units.iter().map(|unit| h264::annexb_to_length_prefixed(unit)).collect();
    let at = |test: fn(&[u8]) -> bool| (0..payloads.len()).filter(|n| test(&payloads[*n])).collect::<Vec<_>>();
    assert_eq!(at(h264::is_idr), [0]);
    assert_eq!(at(h264::is_random_access), [0, 6]);
}

#[test]
fn h264_picture_sizes() {
    let check = |sps: &str, size, depth: (u8, u8, u8)| {
        let sps = h264::SequenceParameterSet::parse(&hex(sps)).unwrap();
        assert_eq!(((sps.width, sps.height), (sps.chroma_format, sps.bit_depth, sps.chroma_bit_depth)), (size, depth));
    };
    // x264: 320x180 in fields, 98x38 in 4:4:4 of 10 bits; both cropped.
    check("67640015acd941433f26022000000300200000030283e28532c0", (320, 180), (1, 8, 8));
    check("67f4000a90d9b28efc7c5e022000000300200000030281e244b2c0", (98, 38), (3, 10, 10));
    for bad in ["", "67", "6764", "68ebe3cb22c0", "6764000a"] {
        assert!(h264::SequenceParameterSet::parse(&hex(bad)).is_err(), "{bad}");
    }
}

#[test]
fn h264_length_fields_of_two_bytes_are_rewritten() {
    let mut record = h264::avcc_from_annexb_extradata(X264).unwrap().to_vec();
    let whole = CodecConfig::from_record(Codec::H264, record.clone().into()).unwrap();
    record[4] = 0xfd;
    let short = CodecConfig::from_record(Codec::H264, record.clone().into()).unwrap();
    assert_eq!(short.nal_length_size(), Ok(Some(2)));
    assert_eq!(short.with_four_byte_lengths(), whole);
    record[4] = 0xfe;
    let reserved = CodecConfig::from_record(Codec::H264, record.into()).unwrap();
    assert!(reserved.nal_length_size().is_err());
}

#[test]
fn builds_an_hevc_record_from_annexb() {
    let record = hevc::hvcc_from_annexb_extradata(X265).unwrap();
    let expected = "0101600000009000000000001ef000fcfdf8f800000f03a00001001840010c01ffff0160000003009000000300\
                    0003001e959009a10001002942010101600000030090000003000003001ea020831659592e4caf016808000003\
                    0008000003005040a2000100064401c173d089";
    assert_eq!(record, hex(&expected.replace(char::is_whitespace, "")));
    let config = CodecConfig::from_record(Codec::Hevc, record.clone()).unwrap();
    assert_eq!((config.format, config.rfc6381().as_str()), (video(64, 48), "hvc1.1.6.L30.90"));
    assert_eq!(hevc::parameter_sets(&record).unwrap().len(), 3);
    let main10 = CodecConfig::from_record(Codec::Hevc, hevc::hvcc_from_annexb_extradata(X265_MAIN10).unwrap()).unwrap();
    assert_eq!((main10.format, main10.rfc6381().as_str()), (video(98, 38), "hvc1.2.4.L30.90"));

    let units = access_units(X265, |unit| unit[0] >> 1 & 0x3f < 32);
    let payloads: Vec<_> = units.iter().map(|unit| hevc::annexb_to_length_prefixed(unit)).collect();
    assert_eq!(payloads.len(), 6);
    let irap: Vec<_> = payloads.iter().map(|unit| hevc::is_irap(unit)).collect();
    assert_eq!(irap, payloads.iter().map(|unit| is_random_access(Codec::Hevc, unit)).collect::<Vec<_>>());
    // In decoding order, as ffprobe flags them.
    assert_eq!(irap, [true, true, false, false, false, false]);
    let back = hevc::to_annexb(&record, &payloads[0], true).unwrap();
    assert_eq!(nal::annexb(&back).collect::<Vec<_>>(), nal::annexb(&units[0]).collect::<Vec<_>>());
}

#[test]
fn av1_temporal_units() {
    for (file, size, record) in [
        // SVT-AV1 does not write the sequence header that its extradata promised (`…e017c002`): it turns other tools on.
        (SVT_AV1, video(128, 96), "81000c000a0a0000000337fbe7dfc802"),
        (AOM_10BIT, video(98, 38), "81004c000a0a000000032e194daf9404"),
    ] {
        let units = ivf(file);
        let keys: Vec<_> = units.iter().map(|unit| is_random_access(Codec::Av1, unit)).collect();
        assert_eq!(keys, [true, false, true, false]);
        assert_eq!(format_in_band(Codec::Av1, units[0]), Some(size));
        assert_eq!(av1::av1c_from_obus(units[0]), Ok(hex(record)));
        assert!(av1::av1c_from_obus(units[1]).is_err());
    }
}

#[test]
fn vp9_frames() {
    for (file, format, keys, record) in [
        (VP9, video(66, 50), &[true, false, false, true, false, false][..], "000a820202020000"),
        (VP9_422_10BIT, video(66, 50), &[true, false], "030aa40202020000"),
    ] {
        let frames = ivf(file);
        assert_eq!(frames.iter().map(|frame| is_random_access(Codec::Vp9, frame)).collect::<Vec<_>>(), keys);
        assert_eq!(format_in_band(Codec::Vp9, frames[0]), Some(format));
        assert_eq!(vp9::vpcc_from_key_frame(frames[0]), Ok(hex(record)));
    }
}

#[test]
fn mp3_frames() {
    // An ID3v2 tag precedes the first frame; LAME's own tag is a valid frame.
    let id3 = 10 + LAME[6..10].iter().fold(0, |size, byte| size << 7 | usize::from(*byte));
    let config = CodecConfig::mp3(&LAME[id3..]).unwrap();
    assert_eq!((config.format, config.rfc6381().as_str()), (audio(48_000, 1), "mp4a.6B"));
    let check = |header: &str, expected: Option<(u32, u16, u32)>| {
        let parsed = mp3::FrameHeader::parse(&hex(header)).ok();
        assert_eq!(parsed.map(|header| (header.sample_rate, header.channels, header.samples)), expected, "{header}");
    };
    check("fffb9064", Some((44_100, 2, 1152)));
    check("fff384c4", Some((24_000, 1, 576)));
    check("ffe308c4", Some((8_000, 1, 576)));
    for bad in ["", "fffb90", "fffd9064", "fff89064", "ffeb9064", "fffbf064", "fffb9c64", "00000000"] {
        check(bad, None);
    }
}

#[test]
fn adts_frames() {
    let (config, payload) = aac::strip_adts(Bytes::from_static(&ADTS[..first_adts_length()])).unwrap();
    let config = config.unwrap();
    assert_eq!((config.object_type, config.sample_rate, config.channels), (2, 48_000, 1));
    assert_eq!(payload.len(), first_adts_length() - 7);
    let raw = Bytes::from_static(&[0x21, 0x10, 0x04]);
    assert_eq!(aac::strip_adts(raw.clone()), Ok((None, raw)));
    assert_eq!(aac::strip_adts(Bytes::from_static(&ADTS[..20])), Err(Error::Truncated { what: "ADTS frame" }));
}

fn first_adts_length() -> usize {
    (usize::from(ADTS[3] & 3) << 11) | (usize::from(ADTS[4]) << 3) | usize::from(ADTS[5] >> 5)
}

#[test]
fn opus_packets_and_heads() {
    let check = |packet: &[u8], expected| assert_eq!(opus::packet_samples(packet), expected, "{packet:x?}");
    check(&[], None);
    check(&[0x78], Some(960)); // hybrid, 20 ms
    check(&[0xfc, 0], Some(960)); // CELT, 20 ms
    check(&[0xe1, 0], Some(240)); // CELT, twice 2.5 ms
    check(&[0x1b, 2], Some(5760)); // SILK, twice 60 ms
    check(&[0x1b, 3], None);
    check(&[0x1b, 0], None);
    for channels in 1..=8 {
        let head = opus::OpusHead::for_channels(channels).unwrap();
        assert_eq!(opus::OpusHead::parse(&head.build()), Ok(head));
    }
    assert!(opus::OpusHead::for_channels(9).is_err());
}

#[test]
fn malformed_records_are_refused() {
    for codec in [Codec::H264, Codec::Hevc, Codec::Av1, Codec::Vp9, Codec::Aac, Codec::Opus, Codec::Flac, Codec::Mp3] {
        assert!(CodecConfig::from_record(codec, Bytes::new()).is_err(), "{codec:?}");
        let huge = Bytes::from(vec![1; MAX_RECORD + 1]);
        assert!(matches!(CodecConfig::from_record(codec, huge), Err(Error::Unsupported { .. })), "{codec:?}");
    }
    let avcc = h264::avcc_from_annexb_extradata(X264).unwrap();
    let hvcc = hevc::hvcc_from_annexb_extradata(X265).unwrap();
    for length in 0..avcc.len() - 4 {
        assert!(CodecConfig::from_record(Codec::H264, avcc.slice(..length)).is_err(), "{length}");
    }
    for length in 0..hvcc.len() {
        assert!(CodecConfig::from_record(Codec::Hevc, hvcc.slice(..length)).is_err(), "{length}");
    }
}

/// A record or payload that real encoders wrote, with some bytes changed: gets further than random ones.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let seeds = [
        h264::avcc_from_annexb_extradata(X264).unwrap().to_vec(),
        hevc::hvcc_from_annexb_extradata(X265).unwrap().to_vec(),
        ivf(SVT_AV1)[0].to_vec(),
        ivf(VP9)[0].to_vec(),
        X264[..200].to_vec(),
        X265[..200].to_vec(),
        hex("81004c000a0a000000032e194daf9404").to_vec(),
        hex("138856e5a54880").to_vec(),
        hex("118004c80000002000").to_vec(),
        hex("4f707573486561640106380180bb00000000010402000401020305").to_vec(),
    ];
    let seed = prop::sample::select(seeds.to_vec());
    (seed, prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)).prop_map(|(mut bytes, changes)| {
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn any_bytes_are_parsed_without_panic(bytes in prop_oneof![damaged(), prop::collection::vec(any::<u8>(), 0..200)]) {
        let shared = Bytes::from(bytes.clone());
        for codec in [Codec::H264, Codec::Hevc, Codec::Av1, Codec::Vp9, Codec::Aac, Codec::Opus, Codec::Flac, Codec::Mp3] {
            if let Ok(config) = CodecConfig::from_record(codec, shared.clone()) {
                config.rfc6381();
                let _ = config.nal_length_size();
                config.with_four_byte_lengths();
            }
            is_random_access(codec, &bytes);
            format_in_band(codec, &bytes);
        }
        let _ = h264::avcc_from_annexb_extradata(&bytes);
        let _ = hevc::hvcc_from_annexb_extradata(&bytes);
        let _ = h264::to_annexb(&shared, &bytes, true);
        let _ = hevc::to_annexb(&shared, &bytes, true);
        h264::annexb_to_length_prefixed(&bytes);
        let _ = h264::SequenceParameterSet::parse(&bytes);
        let _ = hevc::SequenceParameterSet::parse(&bytes);
        let _ = nal::with_four_byte_lengths(&bytes, 1);
        let _ = av1::av1c_from_obus(&bytes);
        let _ = vp9::vpcc_from_key_frame(&bytes);
        let _ = aac::strip_adts(shared.clone());
        let _ = CodecConfig::mp3(&bytes);
        opus::packet_samples(&bytes);
    }
}
