//! Encoded media through the decoders and the recorders: every picture is decoded, and recordings contain the units that arrived.
#![allow(clippy::unwrap_used)] // All of this crate is tests, its helping functions too.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use media::codec::silence::silence;
use media::codec::{Codec, CodecConfig};
use media::{AccessUnit, Catalog, Epoch, Timestamp, TrackId, TrackKind, fmp4};
use viewer::ffmpeg::{AudioDecoder, Container, VideoDecoder};
use viewer::record::{Recorder, Target};

/// Two seconds that FFmpeg encodes: 50 pictures of 320 x 180 and a tone.
fn encode(directory: &Path, name: &str, options: &str) -> (Arc<Catalog>, Vec<AccessUnit>) {
    let file = directory.join(format!("{name}.mp4"));
    let mut arguments: Vec<&str> =
        "-v error -nostdin -f lavfi -i testsrc2=s=320x180:r=25:d=2 -f lavfi -i sine=r=48000:d=2".split(' ').collect();
    arguments.extend(options.split(' '));
    arguments.extend("-g 25 -movflags frag_keyframe+empty_moov+default_base_moof -f mp4 -y".split(' '));
    let status = Command::new("ffmpeg").args(arguments).arg(&file).env("SVT_LOG", "1").status().unwrap();
    assert!(status.success());
    read(&file)
}

fn read(file: &Path) -> (Arc<Catalog>, Vec<AccessUnit>) {
    let mut reader = fmp4::Reader::new(Epoch(1));
    let (mut catalog, mut units) = (None, Vec::new());
    for event in reader.push(std::fs::read(file).unwrap().into()).unwrap() {
        match event {
            fmp4::Event::Catalog(new) => catalog = Some(Arc::new(new)),
            fmp4::Event::Predecessor(..) => {}
            fmp4::Event::Unit(unit) => units.push(unit),
        }
    }
    (catalog.unwrap(), units)
}

const CODECS: [(&str, &str); 5] = [
    ("h264-aac", "-c:v libx264 -preset ultrafast -bf 2 -c:a aac -ac 2"),
    ("h264-10bit", "-c:v libx264 -preset ultrafast -pix_fmt yuv422p10le -c:a aac"),
    ("hevc-flac", "-c:v libx265 -preset ultrafast -x265-params log-level=error -tag:v hvc1 -c:a flac -strict -2"),
    ("av1-opus", "-c:v libsvtav1 -preset 12 -c:a libopus -ac 2"),
    ("vp9-aac", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -c:a aac"),
];

/// Silent frames are decoded, to silence, and last as long as the frames that they stand in for.
#[test]
fn silent_frames_are_decoded() {
    viewer::ffmpeg::init().unwrap();
    // AudioSpecificConfig of AAC-LC at 48 kHz (ISO/IEC 14496-3 §1.6.2.1), by channel configuration.
    let aac = [1u8, 2, 3, 4, 5, 6, 7].map(|layout| (Codec::Aac, vec![0x11, 0x80 | layout << 3], 1024));
    let opus = [1, 2].map(|channels| {
        (Codec::Opus, media::codec::opus::OpusHead::for_channels(channels).unwrap().build().to_vec(), 960)
    });
    for (codec, record, samples) in aac.into_iter().chain(opus) {
        let config = CodecConfig::from_record(codec, record.into()).unwrap();
        let silence = silence(&config).unwrap();
        assert_eq!(config.samples_in(&silence), Some(samples as u32));
        let mut audio = AudioDecoder::new(&config, 48_000).unwrap();
        let mut decoded = Vec::new();
        for n in 0..10 {
            let dts = Timestamp::from_millis(n * 21);
            let payload = silence.clone();
            let unit =
                AccessUnit { epoch: Epoch(1), track: TrackId::AUDIO, dts, pts: dts, random_access: true, payload };
            audio.decode(&unit, &mut decoded).unwrap();
        }
        let pcm: Vec<f32> = decoded.into_iter().flat_map(|(_, pcm)| pcm).collect();
        assert!(pcm.len() / 2 >= 8 * samples, "{codec:?}: {} samples", pcm.len() / 2);
        assert!(pcm.iter().all(|sample| sample.abs() < 1e-4), "{codec:?} {:?} is not silent", config.format);
    }
}

/// In the sandbox, whose restrictions no codec may need to break.
#[test]
fn every_picture_is_decoded() {
    viewer::ffmpeg::init().unwrap();
    let directory = tempfile::tempdir().unwrap();
    for (name, options) in CODECS {
        let (catalog, units) = encode(directory.path(), name, options);
        viewer::sandbox::run("decode", move || every_unit_is_decoded(name, &catalog, &units)).unwrap();
    }
}

fn every_unit_is_decoded(name: &str, catalog: &Catalog, units: &[AccessUnit]) {
    let mut video = VideoDecoder::new(&catalog.video().unwrap().config).unwrap();
    let mut audio = AudioDecoder::new(&catalog.audio().unwrap().config, 48_000).unwrap();
    let (mut pictures, mut sounds) = (Vec::new(), Vec::new());
    for unit in units {
        match unit.track.kind {
            TrackKind::Video => video.decode(unit, &mut pictures).unwrap(),
            TrackKind::Audio => audio.decode(unit, &mut sounds).unwrap(),
        }
    }
    video.drain(&mut pictures).unwrap();
    let times: Vec<_> = pictures.iter().map(|picture| picture.pts).collect();
    let mut wanted: Vec<_> = units.iter().filter(|u| u.track.is_video()).map(|u| u.pts).collect();
    wanted.sort();
    assert_eq!(times, wanted, "{name}: each once, in the order in which they are shown");
    assert_eq!(times.len(), 50, "{name}");
    let picture = &pictures[25];
    assert_eq!((picture.width(), picture.height()), (320, 180), "{name}");
    // testsrc2 is coloured: chroma is far from grey.
    let (u, _) = picture.plane(1);
    assert!(u.iter().max().unwrap() - u.iter().min().unwrap() > 80, "{name}");
    let samples: usize = sounds.iter().map(|(_, samples)| samples.len() / 2).sum();
    assert!((90_000..100_000).contains(&samples), "{name}: {samples}");
    let loudest = sounds.iter().flat_map(|(_, samples)| samples).fold(0.0f32, |most, s| most.max(s.abs()));
    assert!((0.05..1.0).contains(&loudest), "{name}: {loudest}");
}

#[test]
fn decoding_continues_after_damaged_units() {
    viewer::ffmpeg::init().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (catalog, units) = encode(directory.path(), "damaged", CODECS[0].1);
    let mut video = VideoDecoder::new(&catalog.video().unwrap().config).unwrap();
    let (mut pictures, mut errors) = (Vec::new(), 0);
    for (n, unit) in units.iter().filter(|u| u.track.is_video()).enumerate() {
        let mut unit = unit.clone();
        if (5..10).contains(&n) {
            unit.payload = unit.payload.iter().map(|byte| byte ^ 0x5a).collect::<Vec<_>>().into();
        }
        errors += u32::from(video.decode(&unit, &mut pictures).is_err());
    }
    assert!(errors > 0);
    assert!(pictures.len() >= 40, "{}", pictures.len());
}

#[test]
fn recordings_contain_all_units() {
    viewer::ffmpeg::init().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (catalog, units) = encode(directory.path(), "source", CODECS[0].1);
    for extension in ["mp4", "mkv", "flv", "ts"] {
        let file = directory.path().join(format!("kept.{extension}"));
        let target = Target::File(file.clone(), Container::from_extension(extension).unwrap());
        let recorder = Recorder::start(target).unwrap();
        for unit in &units {
            assert!(recorder.push(&catalog, unit, || false));
        }
        // The next broadcast, with the same tracks, continues in the same file.
        let mut again = Catalog::clone(&catalog);
        again.epoch = Epoch(2);
        let again = Arc::new(again);
        for unit in &units {
            assert!(recorder.push(&again, &AccessUnit { epoch: Epoch(2), ..unit.clone() }, || false));
        }
        recorder.finish().unwrap();
        let count = "-v error -select_streams v -count_frames -show_entries stream=nb_read_frames -of csv=p=0";
        let output = Command::new("ffprobe").args(count.split(' ')).arg(&file).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(text.split_whitespace().next().map(|n| n.trim_end_matches(',')), Some("100"), "{extension}");
        if extension == "mp4" {
            let (_, kept) = read(&file);
            let payloads = |units: &[AccessUnit]| {
                units.iter().filter(|u| u.track.is_video()).map(|u| u.payload.clone()).collect::<Vec<_>>()
            };
            let sent = payloads(&units);
            assert_eq!(payloads(&kept), [sent.clone(), sent].concat());
        }
    }
}

#[test]
fn a_new_picture_size_begins_the_next_file() {
    viewer::ffmpeg::init().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (first, units) = encode(directory.path(), "small", CODECS[0].1);
    let (second, larger) = encode(directory.path(), "large", &format!("{} -s 640x360", CODECS[0].1));
    let file = directory.path().join("talk.mkv");
    let recorder = Recorder::start(Target::File(file.clone(), Container::Matroska)).unwrap();
    for (catalog, units) in [(first, units), (second, larger)] {
        for unit in &units {
            assert!(recorder.push(&catalog, unit, || false));
        }
    }
    recorder.finish().unwrap();
    for (name, wanted) in [("talk.mkv", "320,180"), ("talk-2.mkv", "640,360")] {
        let size = "-v error -select_streams v -show_entries stream=width,height -of csv=p=0";
        let output = Command::new("ffprobe").args(size.split(' ')).arg(directory.path().join(name)).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), wanted, "{name}");
    }
}

#[test]
fn a_stream_that_changes_its_format_all_the_time_does_not_fill_the_directory() {
    viewer::ffmpeg::init().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (small, units) = encode(directory.path(), "small", CODECS[0].1);
    let (large, larger) = encode(directory.path(), "large", &format!("{} -s 640x360", CODECS[0].1));
    let recordings = directory.path().join("recordings");
    std::fs::create_dir(&recordings).unwrap();
    let recorder = Recorder::start(Target::File(recordings.join("talk.mkv"), Container::Matroska)).unwrap();
    let idr = |units: &[AccessUnit]| units.iter().find(|unit| unit.track.is_video()).unwrap().clone();
    for (n, (catalog, unit)) in [(small, idr(&units)), (large, idr(&larger))].iter().cycle().take(100).enumerate() {
        let later = Duration::from_millis(2000 * n as u64);
        recorder.push(catalog, &AccessUnit { dts: unit.dts + later, pts: unit.pts + later, ..unit.clone() }, || false);
    }
    let error = recorder.finish().unwrap_err().to_string();
    assert!(error.contains("changed its format more than 30 times"), "{error}");
    assert_eq!(std::fs::read_dir(&recordings).unwrap().count(), 30);
}

#[test]
fn a_container_that_cannot_hold_the_codec_is_reported() {
    viewer::ffmpeg::init().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (catalog, units) = encode(directory.path(), "vp9", CODECS[4].1);
    let target = Target::File(directory.path().join("x.flv"), Container::Flv);
    let recorder = Recorder::start(target).unwrap();
    for unit in &units {
        recorder.push(&catalog, unit, || false);
    }
    let error = recorder.finish().unwrap_err().to_string();
    assert!(error.contains("flv") && error.contains("VP9"), "{error}");
}

#[test]
fn a_recording_continues_where_tracks_begin_at_different_times() {
    viewer::ffmpeg::init().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (catalog, units) = encode(directory.path(), "uneven", CODECS[0].1);
    let mut again = Catalog::clone(&catalog);
    again.epoch = Epoch(2);
    let again = Arc::new(again);
    // The next broadcast's video arrives first, and its audio is half a second older.
    let mut next: Vec<_> = units.iter().map(|unit| AccessUnit { epoch: Epoch(2), ..unit.clone() }).collect();
    for unit in next.iter_mut().filter(|unit| unit.track.is_video()) {
        let later = Duration::from_millis(500);
        (unit.dts, unit.pts) = (unit.dts + later, unit.pts + later);
    }
    for extension in ["mp4", "mkv", "flv", "ts"] {
        let file = directory.path().join(format!("uneven.{extension}"));
        let target = Target::File(file.clone(), Container::from_extension(extension).unwrap());
        let recorder = Recorder::start(target).unwrap();
        for unit in &units {
            assert!(recorder.push(&catalog, unit, || false));
        }
        let (first, rest): (Vec<_>, Vec<_>) = next.iter().partition(|unit| unit.random_access && unit.track.is_video());
        for unit in first.into_iter().take(1).chain(rest) {
            assert!(recorder.push(&again, unit, || false), "{extension}");
        }
        recorder.finish().unwrap();
    }
}

#[test]
fn a_file_that_cannot_be_created_fails_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("no/such/place.mkv");
    let error = Recorder::start(Target::File(missing, Container::Matroska)).unwrap_err().to_string();
    assert!(error.contains("place.mkv"), "{error}");
    let unused = directory.path().join("unused.mkv");
    Recorder::start(Target::File(unused.clone(), Container::Matroska)).unwrap().finish().unwrap();
    assert!(!unused.exists(), "nothing came");
}

#[test]
fn a_pipe_fails_if_the_command_does() {
    viewer::ffmpeg::init().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (catalog, units) = encode(directory.path(), "piped", CODECS[0].1);
    for command in ["cat > /dev/null", "head -c 1000 > /dev/null"] {
        let recorder = Recorder::start(Target::Command(command.to_owned())).unwrap();
        for unit in &units {
            recorder.push(&catalog, unit, || false);
        }
        recorder.finish().unwrap();
    }
    // The writer notices at the latest when the pipe is full, however long the command takes to exit.
    let recorder = Recorder::start(Target::Command("exit 3".to_owned())).unwrap();
    let endless = (0..).flat_map(|round| units.iter().map(move |unit| (Duration::from_secs(2) * round, unit)));
    for (shift, unit) in endless {
        let unit = AccessUnit { dts: unit.dts + shift, pts: unit.pts + shift, ..unit.clone() };
        if !recorder.push(&catalog, &unit, || false) {
            break;
        }
    }
    let error = recorder.finish().unwrap_err().to_string();
    assert!(error.contains("exit 3"), "{error}");
}

#[test]
fn finishing_does_not_wait_for_a_pipe_reader_that_is_stuck() {
    viewer::ffmpeg::init().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (catalog, units) = encode(directory.path(), "unread", CODECS[0].1);
    // It lives until the test lets it go, whatever the machine's pace.
    let [release, ended] = ["release", "ended"].map(|name| directory.path().join(name));
    let command = format!("while [ ! -e '{}' ]; do sleep 0.1; done; touch '{}'", release.display(), ended.display());
    let recorder = Recorder::start(Target::Command(command)).unwrap();
    for unit in (0..100).flat_map(|_| &units) {
        assert!(recorder.push(&catalog, unit, || true), "a full queue drops units");
    }
    recorder.finish().unwrap();
    assert!(!ended.exists(), "the end of the recording waited for the program");
    std::fs::write(release, "").unwrap();
    let deadline = Instant::now() + TIMEOUT;
    while !ended.exists() {
        assert!(Instant::now() < deadline, "the released program has not ended within {TIMEOUT:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// For what takes milliseconds on an idle machine: only a fault takes this long.
const TIMEOUT: Duration = Duration::from_secs(90);
