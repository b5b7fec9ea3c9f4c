//! Tests of the output of real encoders: configuration, keyframes, order.

use std::sync::Arc;
use std::time::Duration;

use ffmpeg_next::format::Pixel;
use ffmpeg_next::{color, frame};
use media::codec::{Codec, Format, capture_time_sei, h264};
use media::live_window::Bounds;
use media::{AccessUnit, Epoch, TrackId, WallClock};

use super::encoder::{EncodedPacket, Encoder, Error, VideoFormat};
use super::video::VideoEncoding;
use super::*;
use crate::broadcast::Broadcast;
use crate::clock::BroadcastClock;
use crate::stats::Stats;

fn settings(encoder: &str) -> VideoSettings {
    VideoSettings {
        encoder: encoder.parse().unwrap(),
        size: None,
        fps: None,
        bitrate: Some(300_000),
        gop: Some(Duration::from_secs(1)),
        bframes: 0,
        intra_refresh: false,
        preset: None,
        fixed_bitrate: false,
    }
}

const FORMAT: VideoFormat = VideoFormat { width: 160, height: 120, fps: 25.0 };

/// A picture with moving content.
fn picture(n: usize) -> frame::Video {
    let mut picture = frame::Video::new(Pixel::YUV420P, FORMAT.width, FORMAT.height);
    picture.set_color_range(color::Range::MPEG);
    picture.set_color_space(color::Space::BT709);
    for plane in 0..3 {
        let stride = picture.stride(plane);
        for (at, sample) in picture.data_mut(plane).iter_mut().enumerate() {
            let (x, y) = (at % stride, at / stride);
            *sample = (16 + (x * 3 + y * 5 + n * 7) % 200) as u8;
        }
    }
    picture
}

/// Encodes `count` pictures 40 ms apart, with an IDR every second.
fn encode(settings: &VideoSettings, count: usize) -> Vec<EncodedPacket> {
    ffmpeg_next::init().unwrap();
    let mut encoder = Encoder::open(settings, FORMAT).unwrap();
    let mut units = Vec::new();
    for n in 0..count {
        let idr = n % 25 == 0 && (n == 0 || !settings.intra_refresh);
        units.extend(encoder.encode(&mut picture(n), 1000 + n as i64 * 40, idr).unwrap());
    }
    units.extend(encoder.finish().unwrap());
    units
}

#[test]
fn x264_is_configured_for_live_use() {
    let units = encode(&settings("libx264"), 76);
    assert_eq!(units.len(), 76);
    let config = units[0].config.clone().unwrap();
    assert_eq!((config.codec, config.format), (Codec::H264, Format::Video { width: 160, height: 120 }));
    assert_eq!((config.record[0], config.record[4] & 3), (1, 3), "an avcC with lengths of 4 bytes");
    assert!(units[1..].iter().all(|unit| unit.config.is_none()));
    let idrs: Vec<_> = units.iter().filter(|unit| unit.random_access).map(|unit| unit.pts).collect();
    assert_eq!(idrs, [1000, 2000, 3000, 4000]);
    assert!(units.iter().all(|unit| unit.random_access == h264::is_idr(&unit.payload)));
    assert!(units.iter().all(|unit| unit.dts == unit.pts), "no B-frames");
    for unit in &units {
        assert!(
            nal_types(&unit.payload).iter().all(|kind| ![7, 8, 9].contains(kind)),
            "parameter sets are in the record"
        );
    }
}

#[test]
fn x264_holds_no_frame_back() {
    ffmpeg_next::init().unwrap();
    let mut encoder = Encoder::open(&settings("libx264"), FORMAT).unwrap();
    for n in 0..30 {
        let units = encoder.encode(&mut picture(n), n as i64 * 40, n == 0).unwrap();
        assert_eq!(units.iter().map(|unit| unit.pts).collect::<Vec<_>>(), [n as i64 * 40]);
    }
}

#[test]
fn b_frames_are_reordered() {
    let units = encode(&VideoSettings { bframes: 2, ..settings("libx264") }, 50);
    assert_eq!(units.len(), 50);
    assert!(units.windows(2).all(|pair| pair[0].dts < pair[1].dts), "DTS rises");
    assert!(units.iter().all(|unit| unit.dts <= unit.pts));
    assert!(units.windows(2).any(|pair| pair[0].pts > pair[1].pts), "pictures are reordered");
    let mut pts: Vec<_> = units.iter().map(|unit| unit.pts).collect();
    pts.sort_unstable();
    assert!(pts.into_iter().eq((0..50).map(|n| 1000 + n * 40)));
}

#[test]
fn intra_refresh_sends_one_idr() {
    let units = encode(&VideoSettings { intra_refresh: true, ..settings("libx264") }, 76);
    let idrs = units.iter().filter(|unit| h264::is_idr(&unit.payload)).count();
    assert_eq!(idrs, 1);
    // A player can join where a refresh starts.
    assert!(units.iter().filter(|unit| unit.random_access).count() >= 3);
}

#[test]
fn other_codecs_are_configured() {
    for (name, codec) in [("libx265", Codec::Hevc), ("libsvtav1", Codec::Av1), ("libvpx-vp9", Codec::Vp9)] {
        let units = encode(&VideoSettings { preset: (name == "libsvtav1").then(|| "12".into()), ..settings(name) }, 30);
        let config = units[0].config.clone().unwrap_or_else(|| panic!("{name} has no configuration"));
        assert_eq!((config.codec, config.format), (codec, Format::Video { width: 160, height: 120 }), "{name}");
        assert_eq!(units.len(), 30, "{name}");
        assert!(units[0].random_access, "{name}");
    }
}

#[test]
fn an_automatic_encoder_opens() {
    ffmpeg_next::init().unwrap();
    let encoder = Encoder::open(&settings("auto"), FORMAT).unwrap();
    assert!(encoder_probe::AUTO_ORDER.contains(&encoder.name()));
}

#[test]
fn unknown_encoders_are_errors() {
    ffmpeg_next::init().unwrap();
    assert!(matches!(Encoder::open(&settings("libx999"), FORMAT), Err(Error::Unknown { .. })));
    assert!(matches!(Encoder::open(&settings("aac"), FORMAT), Err(Error::Unknown { .. })));
    assert!(matches!(Encoder::open(&settings("mpeg4"), FORMAT), Err(Error::Codec { .. })));
}

fn broadcast(expected: &[TrackId]) -> Arc<Broadcast> {
    ffmpeg_next::init().unwrap();
    let bounds = Bounds { duration: Duration::from_secs(60), bytes: 1 << 24 };
    Arc::new(Broadcast::new(Epoch(1), WallClock::from_micros(0), expected, bounds, Arc::default()))
}

fn units(broadcast: &Broadcast) -> Vec<AccessUnit> {
    broadcast.with_window(|window| window.from(0).map(|entry| entry.unit.clone()).collect())
}

#[test]
fn a_source_that_changes_its_size_keeps_the_track() {
    let broadcast = broadcast(&[TrackId::VIDEO]);
    let stats = Arc::new(Stats::default());
    let clock = BroadcastClock::start();
    let mut encoding = VideoEncoding::new(settings("libx264"), true, clock, broadcast.clone(), stats.clone());
    for n in 0..10i64 {
        let frame = if n < 5 { picture(n as usize) } else { frame::Video::new(Pixel::YUYV422, 320, 180) };
        encoding.encode(Picture { frame, captured: 1_000_000 + n * 40_000, fps: Some(25.0) }).unwrap();
    }
    let pts: Vec<_> = units(&broadcast).iter().map(|unit| unit.pts.as_millis()).collect();
    assert!(pts.into_iter().eq((0..10).map(|n| 1000 + n * 40)));
    assert_eq!(stats.encoded.value(), 10);
    let config = broadcast.catalog().video().unwrap().config.clone();
    assert_eq!(config.format, Format::Video { width: 160, height: 120 });
}

#[test]
fn intra_refresh_sends_one_idr_per_broadcast() {
    for burn_in in [false, true] {
        let broadcast = broadcast(&[TrackId::VIDEO]);
        let settings = VideoSettings { intra_refresh: true, ..settings("libx264") };
        let clock = BroadcastClock::start();
        let mut encoding = VideoEncoding::new(settings, burn_in, clock, broadcast.clone(), Arc::default());
        for n in 0..76i64 {
            let picture = Picture { frame: picture(n as usize), captured: 1_000_000 + n * 40_000, fps: Some(25.0) };
            encoding.encode(picture).unwrap();
        }
        let idrs: Vec<_> = units(&broadcast)
            .iter()
            .filter(|unit| h264::is_idr(&unit.payload))
            .map(|unit| unit.pts.as_millis())
            .collect();
        assert_eq!(idrs, [1000], "burn-in {burn_in}");
    }
}

#[test]
fn each_frame_of_the_test_source_carries_its_capture_time() {
    let (clock, broadcast) = (BroadcastClock::start(), broadcast(&[TrackId::VIDEO]));
    let settings = VideoSettings { bframes: 2, ..settings("libx264") };
    let mut encoding = VideoEncoding::new(settings, true, clock, broadcast.clone(), Arc::default());
    for n in 0..30i64 {
        let picture = Picture { frame: picture(n as usize), captured: 1_000_000 + n * 40_000, fps: Some(25.0) };
        encoding.encode(picture).unwrap();
    }
    let units = units(&broadcast);
    assert!(units.len() > 20 && units.iter().any(|unit| unit.pts != unit.dts));
    for unit in units {
        let stamp = capture_time_sei::read(Codec::H264, &unit.payload).expect("a stamp");
        assert_eq!(stamp.captured, clock.zero().at(unit.pts));
        assert_eq!(i64::from(stamp.counter), (unit.pts.as_millis() - 1000) / 40, "the counter is the picture's");
    }
}

/// 20 ms of silence in mono, 16 bits, as many microphones deliver.
fn silence(rate: u32, captured: i64) -> Sound {
    let mut frame = frame::Audio::new(
        ffmpeg_next::format::Sample::I16(ffmpeg_next::format::sample::Type::Packed),
        rate as usize / 50,
        ffmpeg_next::ChannelLayout::MONO,
    );
    frame.set_rate(rate);
    frame.data_mut(0).fill(0);
    Sound { frame, captured }
}

#[test]
fn audio_follows_the_media_clock() {
    for (codec, frame_ms) in [(AudioCodec::Aac, 1024.0 / 48.0), (AudioCodec::Opus, 20.0)] {
        let broadcast = broadcast(&[TrackId::AUDIO]);
        let mut encoding =
            audio::AudioEncoding::open(AudioSettings { codec: Some(codec), bitrate: Some(64_000) }, broadcast.clone())
                .unwrap();
        for n in 0..50 {
            encoding.encode(silence(44_100, 1_000_000 + n * 20_000)).unwrap();
        }
        // The microphone was away for ten seconds.
        for n in 0..50 {
            encoding.encode(silence(44_100, 12_000_000 + n * 20_000)).unwrap();
        }
        encoding.finish().unwrap();
        let dts: Vec<_> = units(&broadcast).iter().map(|unit| unit.dts.as_millis()).collect();
        assert!((950..=1000).contains(&dts[0]), "{codec:?} starts at {}", dts[0]);
        let gaps: Vec<_> =
            dts.windows(2).map(|pair| pair[1] - pair[0]).filter(|gap| *gap as f64 > frame_ms * 1.5).collect();
        assert_eq!(gaps.len(), 1, "{codec:?}: {gaps:?}");
        assert!((9_900..=11_100).contains(&gaps[0]), "{codec:?}: {gaps:?}");
        let seconds = dts.len() as f64 * frame_ms / 1000.0;
        assert!((1.8..=2.1).contains(&seconds), "{codec:?}: {seconds} s of sound");
    }
}

/// The types of the NAL units with length prefixes of 4 bytes.
fn nal_types(mut payload: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let Some((length, rest)) = payload.split_first_chunk::<4>() {
        let (nal, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        kinds.push(nal[0] & 31);
        payload = rest;
    }
    kinds
}

/// Moving noise, which no encoder compresses well.
fn noise(n: u64, video_format: VideoFormat) -> frame::Video {
    let mut picture = frame::Video::new(Pixel::YUV420P, video_format.width, video_format.height);
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for plane in 0..3 {
        for (at, sample) in picture.data_mut(plane).iter_mut().enumerate() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *sample = (64 + (at as u64 + n * 3) % 96 + state % 32) as u8;
        }
    }
    picture
}

#[test]
fn x264_changes_its_bitrate_while_running() {
    ffmpeg_next::init().unwrap();
    let video_format = VideoFormat { width: 320, height: 240, fps: 25.0 };
    let settings = VideoSettings { bitrate: Some(1_000_000), gop: Some(Duration::from_secs(2)), ..settings("libx264") };
    let mut encoder = Encoder::open(&settings, video_format).unwrap();
    let mut seconds = [0u64; 24];
    for n in 0..600u64 {
        match n {
            200 => assert!(encoder.set_bitrate(400_000)),
            400 => assert!(encoder.set_bitrate(1_000_000)),
            _ => {}
        }
        let units = encoder.encode(&mut noise(n, video_format), n as i64 * 40, n % 50 == 0).unwrap();
        seconds[n as usize / 25] += units.iter().map(|unit| unit.payload.len() as u64 * 8).sum::<u64>();
    }
    let mean = |from: usize, to: usize| seconds[from..to].iter().sum::<u64>() / (to - from) as u64;
    assert!((850_000..1_150_000).contains(&mean(2, 8)), "{seconds:?}");
    assert!((200_000..500_000).contains(&mean(8, 10)), "within one GOP, at the old rate at first: {seconds:?}");
    assert!((280_000..440_000).contains(&mean(10, 16)), "{seconds:?}");
    assert!((850_000..1_300_000).contains(&mean(18, 24)), "{seconds:?}");
}

#[test]
fn other_encoders_cannot_change_their_bitrate() {
    ffmpeg_next::init().unwrap();
    let mut encoder = Encoder::open(&settings("libx265"), FORMAT).unwrap();
    assert!(!encoder.set_bitrate(100_000));
}

#[test]
fn a_fixed_bitrate_turns_rate_control_off() {
    for fixed_bitrate in [false, true] {
        let broadcast = broadcast(&[TrackId::VIDEO]);
        let settings = VideoSettings { fixed_bitrate, ..settings("libx264") };
        let mut encoding =
            VideoEncoding::new(settings, false, BroadcastClock::start(), broadcast.clone(), Arc::default());
        encoding.encode(Picture { frame: picture(0), captured: 1_000_000, fps: Some(25.0) }).unwrap();
        let target = broadcast.uplink().target().map(|target| target.as_bits_per_second());
        assert_eq!(target, (!fixed_bitrate).then_some(300_000.0));
    }
}
