//! Plays files made by the `ffmpeg` program: every packet is sent once, with the timestamps of the file.
#![allow(clippy::unwrap_used, reason = "a test that fails shows where")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use broadcaster::broadcast::Broadcast;
use broadcaster::capture::file::{self, FileProbe, TrackAction};
use broadcaster::capture::{self, CaptureContext};
use broadcaster::clock::BroadcastClock;
use broadcaster::config::Cli;
use broadcaster::encode::{DropOldestQueue, Picture};
use broadcaster::shutdown::ShutdownSignal;
use broadcaster::stats::Stats;
use clap::Parser;
use media::codec::Codec;
use media::{Epoch, TrackId};

/// Makes a file of one second with B-frames and audio.
fn make(path: &Path, options: &[&str]) {
    let sources = ["-f", "lavfi", "-i", "testsrc2=size=160x120:rate=25", "-f", "lavfi", "-i", "sine=sample_rate=48000"];
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-y"])
        .args(sources)
        .args(["-t", "1"])
        .args(options)
        .arg(path)
        .status();
    assert!(status.expect("the tests need the ffmpeg program").success());
}

/// DTS and PTS in milliseconds of the frames, by `ffprobe`; no DTS where the container has none.
fn probe(path: &Path) -> Vec<(Option<i64>, i64)> {
    let query = ["-v", "error", "-select_streams", "v", "-show_entries", "packet=pts_time,dts_time", "-of", "csv=p=0"];
    let output = Command::new("ffprobe").args(query).arg(path).output().expect("the tests need the ffprobe program");
    let millis = |seconds: &str| seconds.parse::<f64>().ok().map(|seconds| (seconds * 1000.0).round() as i64);
    let text = String::from_utf8(output.stdout).unwrap();
    let packet = |line: &str| {
        let mut fields = line.split(',');
        Some((fields.clone().nth(1).and_then(millis), millis(fields.next()?)?))
    };
    text.lines().filter_map(packet).collect()
}

struct Played {
    broadcast: Arc<Broadcast>,
    action: Option<TrackAction>,
    stats: Arc<Stats>,
}

/// Plays a file whose timestamps are in order.
fn play(path: &Path, options: &[&str], pictures: Option<usize>) -> Played {
    let played = play_any(path, options, pictures);
    assert_eq!(played.stats.timestamps_adjusted.value(), 0, "no timestamp was changed");
    played
}

/// Plays the file, up to `pictures` frames if it loops.
fn play_any(path: &Path, options: &[&str], pictures: Option<usize>) -> Played {
    capture::init().unwrap();
    let source = format!("file:{}", path.display());
    let command = ["broadcaster", "--source", &source, "rtmp://127.0.0.1/live/none"];
    let settings = Cli::try_parse_from(command.iter().chain(options)).unwrap().publish.settings().unwrap();
    let plan = FileProbe::open(path, true, &settings.capture).unwrap();
    let (stats, clock, shutdown) = (Arc::new(Stats::default()), BroadcastClock::start(), ShutdownSignal::default());
    let expected = [TrackId::VIDEO, TrackId::AUDIO];
    let broadcast = Arc::new(Broadcast::new(Epoch(1), clock.zero(), &expected, settings.window, stats.clone()));
    let context = CaptureContext {
        settings: settings.capture.into(),
        clock,
        broadcast: broadcast.clone(),
        stats: stats.clone(),
        shutdown,
    };
    std::thread::scope(|scope| {
        let playing = scope.spawn(|| file::run(&context, &plan, &Arc::new(DropOldestQueue::new(1))));
        if let Some(pictures) = pictures {
            while stats.pictures.value() < pictures as u64 && !playing.is_finished() {
                std::thread::yield_now();
            }
            context.shutdown.trigger();
        }
        playing.join().unwrap().unwrap();
    });
    Played { broadcast, action: plan.video(), stats }
}

fn pictures(broadcast: &Broadcast) -> Vec<(i64, i64)> {
    played(broadcast, TrackId::VIDEO)
}

/// DTS and PTS of a track's units.
fn played(broadcast: &Broadcast, track: TrackId) -> Vec<(i64, i64)> {
    let pictures = |window: &media::LiveWindow| {
        let units = window.from(0).filter(|entry| entry.unit.track == track);
        units.map(|entry| (entry.unit.dts.as_millis(), entry.unit.pts.as_millis())).collect()
    };
    broadcast.with_window(pictures)
}

const X264: [&str; 10] = ["-c:v", "libx264", "-bf", "3", "-g", "10", "-pix_fmt", "yuv420p", "-c:a", "aac"];

#[test]
fn timestamps_of_the_file_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    for container in ["mp4", "flv", "ts", "mkv"] {
        let path = directory.path().join(format!("b-frames.{container}"));
        make(&path, &X264);
        let expected = probe(&path);
        let Played { broadcast, action, .. } = play(&path, &[], None);
        assert_eq!(action, Some(TrackAction::Passthrough), "{container}");
        let got = pictures(&broadcast);
        assert_eq!(got.len(), expected.len(), "{container}");
        let shift = got[0].1 - expected[0].1;
        for (n, ((dts, pts), (expected_dts, expected_pts))) in got.iter().zip(&expected).enumerate() {
            assert_eq!(*pts, expected_pts + shift, "{container} PTS of {n}");
            assert_eq!(*dts, expected_dts.map_or(*dts, |dts| dts + shift), "{container} DTS of {n}");
            assert!(dts <= pts && (n == 0 || got[n - 1].0 < *dts), "{container} order at {n}");
        }
    }
}

#[test]
fn audio_that_starts_later_or_earlier_keeps_its_offset_and_delays_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let sources = |video: &str, audio: &str| {
        [
            ["-itsoffset", video, "-f", "lavfi", "-t", "1", "-i", "testsrc2=size=160x120:rate=25"].map(str::to_owned),
            ["-itsoffset", audio, "-f", "lavfi", "-t", "1", "-i", "sine=sample_rate=48000"].map(str::to_owned),
        ]
        .concat()
    };
    for (container, video, audio) in [("mkv", "0", "1.5"), ("mp4", "0", "1.5"), ("ts", "0", "1.5"), ("mkv", "1.5", "0")]
    {
        let path = directory.path().join(format!("{video}-{audio}.{container}"));
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-v", "error", "-y"]).args(sources(video, audio)).args(X264).arg(&path);
        assert!(ffmpeg.status().unwrap().success());
        for options in [&[][..], &["--audio-codec", "opus"]] {
            let began = std::time::Instant::now();
            let Played { broadcast, .. } = play_any(&path, options, None);
            let first = |track| played(&broadcast, track)[0].1;
            let offset = first(TrackId::AUDIO) - first(TrackId::VIDEO);
            let expected = ((audio.parse::<f64>().unwrap() - video.parse::<f64>().unwrap()) * 1000.0) as i64;
            // Each of two encoders begins with up to 1024 samples before the first, and containers round.
            assert!((offset - expected).abs() <= 60, "{container} {video} {audio} {options:?}: {offset}");
            assert!(played(&broadcast, TrackId::VIDEO).len() >= 25, "{container} {options:?}");
            assert!(began.elapsed().as_millis() < 5000, "{container} {options:?}: {:?}", began.elapsed());
        }
    }
}

#[test]
fn a_track_that_starts_later_is_known_before_its_first_packet() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("late.mkv");
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-y", "-f", "lavfi", "-t", "3", "-i", "testsrc2=size=160x120:rate=25"]);
    ffmpeg.args(["-itsoffset", "2.5", "-f", "lavfi", "-t", "1", "-i", "sine=sample_rate=48000"]).args(X264).arg(&path);
    assert!(ffmpeg.status().unwrap().success());
    for options in [&[][..], &["--audio-codec", "opus"]] {
        let Played { broadcast, .. } = play_any(&path, options, Some(10));
        let tracks = broadcast.with_window(|window| window.from(0).next().map(|entry| entry.catalog.tracks.len()));
        assert_eq!(tracks, Some(2), "{options:?}");
        assert_eq!(played(&broadcast, TrackId::AUDIO), [], "{options:?}");
    }
}

#[test]
fn a_stop_while_the_file_is_being_opened_is_no_failure() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("short.mp4");
    make(&path, &X264);
    // `play_any` stops at once, and expects success.
    (0..5).for_each(|_| drop(play_any(&path, &[], Some(0))));
}

#[test]
fn a_loop_continues_where_the_file_ended() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("loop.mp4");
    make(&path, &X264);
    let count = probe(&path).len();
    let Played { broadcast, .. } = play(&path, &["--loop"], Some(count * 2 + 5));
    let got = pictures(&broadcast);
    let length = got[count].0 - got[0].0;
    assert!((1000..1100).contains(&length), "{length}");
    for n in 0..got.len() - count {
        assert_eq!((got[n + count].0 - got[n].0, got[n + count].1 - got[n].1), (length, length), "picture {n}");
    }
}

#[test]
fn timestamp_jumps_of_the_file_do_not_reach_the_broadcast() {
    let directory = tempfile::tempdir().unwrap();
    let part = |name: &str, offset: &str| {
        let path = directory.path().join(name);
        make(&path, &[&X264[..], &["-output_ts_offset", offset]].concat());
        path
    };
    let (early, late) = (part("early.ts", "0"), part("late.ts", "5000"));
    for (name, parts) in [("back.ts", [&late, &early, &early]), ("ahead.ts", [&early, &late, &late])] {
        let path = directory.path().join(name);
        let joined: Vec<_> = parts.iter().flat_map(|part| std::fs::read(part).unwrap()).collect();
        std::fs::write(&path, joined).unwrap();
        let Played { broadcast, stats, .. } = play_any(&path, &[], None);
        // Audio that overlaps where files were joined is shifted by a few milliseconds.
        assert!(stats.timestamps_adjusted.value() <= 6, "{name}: {}", stats.timestamps_adjusted.value());
        let got = pictures(&broadcast);
        assert_eq!(got.len(), 75, "{name}");
        let sound = played(&broadcast, TrackId::AUDIO);
        let length = |units: &[(i64, i64)]| units.last().unwrap().0 - units[0].0;
        assert!((length(&got) - length(&sound)).abs() < 250, "{name}: audio and video stay in sync");
        for pair in got.windows(2) {
            assert!((20..=120).contains(&(pair[1].0 - pair[0].0)), "{name}: {pair:?}");
        }
    }
}

#[test]
fn options_that_change_the_coding_cause_a_reencode() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wish.mp4");
    make(&path, &X264);
    capture::init().unwrap();
    let (copy, reencode) = (Some(TrackAction::Passthrough), Some(TrackAction::Reencode));
    for (options, expected) in [
        (&[][..], (copy, copy)),
        (&["--gop", "1s"], (reencode, copy)),
        (&["--audio-codec", "aac"], (copy, copy)),
        (&["--audio-codec", "opus"], (copy, reencode)),
        (&["--audio-bitrate", "64k"], (copy, reencode)),
        (&["--encoder", "copy", "--audio-codec", "opus"], (copy, reencode)),
    ] {
        let source = format!("file:{}", path.display());
        let command = ["broadcaster", "--source", &source, "rtmp://127.0.0.1/live/none"];
        let settings = Cli::try_parse_from(command.iter().chain(options)).unwrap().publish.settings().unwrap();
        let plan = FileProbe::open(&path, true, &settings.capture).unwrap();
        assert_eq!((plan.video(), plan.audio()), expected, "{options:?}");
    }
}

#[test]
fn the_last_frames_of_a_decoder_are_paced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("reordered.mp4");
    make(&path, &X264);
    capture::init().unwrap();
    let source = format!("file:{}", path.display());
    let command = ["broadcaster", "--source", &source, "--gop", "1s", "rtmp://127.0.0.1/live/none"];
    let settings = Cli::try_parse_from(command).unwrap().publish.settings().unwrap();
    let plan = FileProbe::open(&path, false, &settings.capture).unwrap();
    let (stats, clock) = (Arc::new(Stats::default()), BroadcastClock::start());
    let broadcast = Arc::new(Broadcast::new(Epoch(1), clock.zero(), &[], settings.window, stats.clone()));
    let context = CaptureContext {
        settings: settings.capture.into(),
        clock,
        broadcast,
        stats,
        shutdown: ShutdownSignal::default(),
    };
    let queue = Arc::new(DropOldestQueue::<Picture>::new(100));
    let early = std::thread::scope(|scope| {
        let early = scope.spawn(|| {
            std::iter::from_fn(|| queue.pop()).map(|picture| picture.captured - clock.now()).collect::<Vec<_>>()
        });
        file::run(&context, &plan, &queue).unwrap();
        queue.close();
        early.join().unwrap()
    });
    assert_eq!(early.len(), 25);
    assert!(early.iter().all(|early| *early < 10_000), "microseconds before they were due: {early:?}");
}

#[test]
fn many_codecs_pass_through() {
    let directory = tempfile::tempdir().unwrap();
    for (name, options, video, audio) in [
        (
            "hevc-opus.mkv",
            &["-c:v", "libx265", "-x265-params", "log-level=error", "-c:a", "libopus"][..],
            Codec::Hevc,
            Codec::Opus,
        ),
        (
            "vp9-opus.webm",
            &["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-c:a", "libopus"],
            Codec::Vp9,
            Codec::Opus,
        ),
        (
            "h264-mp3.flv",
            &["-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "libmp3lame", "-ar", "44100"],
            Codec::H264,
            Codec::Mp3,
        ),
        ("h264-flac.mkv", &["-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "flac"], Codec::H264, Codec::Flac),
    ] {
        let path = directory.path().join(name);
        make(&path, options);
        let Played { broadcast, action, .. } = play(&path, &[], None);
        assert_eq!(action, Some(TrackAction::Passthrough), "{name}");
        let catalog = broadcast.catalog();
        assert_eq!(catalog.video().map(|track| track.config.codec), Some(video), "{name}");
        assert_eq!(catalog.audio().map(|track| track.config.codec), Some(audio), "{name}");
        assert_eq!(pictures(&broadcast).len(), probe(&path).len(), "{name}");
    }
}

#[test]
fn a_frame_rate_below_that_of_the_file_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rate.mp4");
    make(&path, &X264);
    let Played { action, stats, .. } = play(&path, &["--fps", "10"], None);
    assert_eq!(action, Some(TrackAction::Reencode));
    // Nothing takes them, so all but the last one are dropped.
    assert_eq!((stats.captured.value(), stats.frames_dropped.value() + 1), (25, 10));
}

#[test]
fn codecs_that_cannot_be_streamed_are_reencoded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("old.avi");
    make(&path, &["-c:v", "mpeg4", "-c:a", "pcm_s16le"]);
    let command = |options: &[&str]| {
        let source = format!("file:{}", path.display());
        let all = ["broadcaster", "--source", &source, "rtmp://127.0.0.1/live/none"];
        Cli::try_parse_from(all.iter().chain(options)).unwrap().publish.settings().unwrap()
    };
    capture::init().unwrap();
    let plan = FileProbe::open(&path, true, &command(&[]).capture).unwrap();
    assert_eq!((plan.video(), plan.audio()), (Some(TrackAction::Reencode), Some(TrackAction::Reencode)));
    let error = FileProbe::open(&path, true, &command(&["--encoder", "copy"]).capture).unwrap_err();
    assert!(error.to_string().starts_with("mpeg4 cannot be streamed"), "{error}");
    assert!(FileProbe::open(Path::new("/nonexistent.mp4"), true, &command(&[]).capture).is_err());
}
