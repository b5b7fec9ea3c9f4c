//! Real encodes and foreign readers: FFmpeg's fragmented MP4 passes our reader, segmenter and writer, and ffprobe and FFmpeg's decoders get
//! the same result. Needs `ffmpeg` and `ffprobe`; uses no network.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use media::cmaf::{Segmenter, SegmenterConfig, SegmenterCounters};
use media::fmp4::{self, Event, Reader};
use media::hls::{self, Resource};
use media::live_window::{Bounds, LiveWindow};
use media::{AccessUnit, Catalog, Epoch, Timestamp, TrackId, WallClock};

const PICTURES: &str = "testsrc2=size=64x64:rate=25:duration=5";
const SOUND: &str = "sine=frequency=440:sample_rate=48000:duration=5";
const SOUND_44: &str = "sine=frequency=440:sample_rate=44100:duration=5";

#[test]
fn h264_with_b_frames_and_aac() {
    let case = Case::new("h264", &[PICTURES, SOUND], "-c:v libx264 -preset ultrafast -bf 2 -g 25 -c:a aac -ac 2");
    case.check("-movflags frag_keyframe+empty_moov+default_base_moof+negative_cts_offsets");
    // With an edit list, without `default-base-is-moof`, tracks in fragments of their own.
    case.check("-movflags frag_keyframe+delay_moov+separate_moof");
    case.check("-movflags frag_every_frame+empty_moov+omit_tfhd_offset");
}

#[test]
fn hevc_and_aac_at_44100() {
    let codecs = "-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=25 -tag:v hvc1 -c:a aac";
    Case::new("hevc", &[PICTURES, SOUND_44], codecs).check(FRAGMENTED);
}

#[test]
fn av1_and_opus() {
    let codecs = "-c:v libaom-av1 -cpu-used 8 -row-mt 0 -threads 1 -b:v 50k -g 25 -c:a libopus -strict -2";
    Case::new("av1", &[PICTURES, SOUND], codecs).check(FRAGMENTED);
}

#[test]
fn vp9_and_flac() {
    let codecs = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 25 -c:a flac -strict -2";
    Case::new("vp9", &[PICTURES, SOUND_44], codecs).check(FRAGMENTED);
}

#[test]
fn audio_only() {
    Case::new("mp3", &[SOUND_44], "-c:a libmp3lame").check(FRAGMENTED);
    Case::new("flac_96k", &["sine=sample_rate=96000:duration=5"], "-c:a flac -strict -2").check(FRAGMENTED);
}

#[test]
fn video_only() {
    Case::new("video", &[PICTURES], "-c:v libx264 -preset ultrafast -g 50").check(FRAGMENTED);
}

const FRAGMENTED: &str = "-movflags frag_keyframe+empty_moov+default_base_moof+negative_cts_offsets";

/// One encode, muxed by ffmpeg in different ways.
struct Case {
    folder: PathBuf,
    encoded: PathBuf,
}

impl Case {
    fn new(name: &str, sources: &[&str], codecs: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fmp4_ffmpeg").join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let encoded = folder.join("encoded.mkv");
        let mut command = ffmpeg();
        for source in sources {
            command.args(["-f", "lavfi", "-i", source]);
        }
        run(command.args(codecs.split(' ')).arg(&encoded));
        Self { folder, encoded }
    }

    /// Reads FFmpeg's file, segments it, and compares our files with it.
    fn check(&self, muxing: &str) {
        let foreign = self.folder.join("foreign.mp4");
        let mut mux = ffmpeg();
        mux.arg("-i")
            .arg(&self.encoded)
            .args(["-c", "copy", "-strict", "-2", "-map_metadata", "-1"])
            .args(muxing.split(' '));
        run(mux.arg(&foreign));
        let (catalog, mut units) = read(&std::fs::read(&foreign).unwrap());

        // Our reader finds the same packets in the foreign file as ffprobe.
        let expected = packets(&foreign);
        for (index, track) in streams(&catalog).into_iter().enumerate() {
            let ours: Vec<_> = units.iter().filter(|unit| unit.track == track).map(Packet::of).collect();
            let theirs: Vec<_> =
                expected.iter().filter(|(stream, _)| *stream == index).map(|(_, packet)| packet.clone()).collect();
            assert_alike(&ours, theirs, 0.0, 0.002, &format!("{}: {track}", foreign.display()));
        }

        // A broadcast starts after zero.
        for unit in &mut units {
            unit.dts = unit.dts + START;
            unit.pts = unit.pts + START;
        }
        let mut catalog = catalog;
        catalog.clock = Some(WallClock::from_micros(1_795_352_493_250_000));
        self.check_package(&Arc::new(catalog), &units);
    }

    fn check_package(&self, catalog: &Arc<Catalog>, units: &[AccessUnit]) {
        let mut window = LiveWindow::new(Bounds { duration: Duration::from_secs(600), bytes: usize::MAX });
        let mut segmenter = Segmenter::new(SegmenterConfig::default());
        for unit in units {
            let entry = window.push(Arc::clone(catalog), unit.clone(), None).clone();
            segmenter.push(&entry, WallClock::from_micros(0));
        }
        segmenter.end();
        assert_eq!(segmenter.counters(), SegmenterCounters::default());
        let playlist = segmenter.window();
        assert!(playlist.segments.len() >= 2, "{}", playlist.segments.len());

        // Our own reader returns the units that were written.
        let mut file = playlist.init(playlist.segments[0].init).unwrap().to_vec();
        let mut written = vec![(Resource::Init(playlist.segments[0].init), file.clone())];
        for segment in &playlist.segments {
            let bytes = playlist.segment(segment.msn).unwrap().concat();
            file.extend_from_slice(&bytes);
            written.push((Resource::Segment(segment.msn), bytes));
        }
        let (read_catalog, read_units) = read(&file);
        assert_eq!(
            (read_catalog.epoch, read_catalog.clock, &read_catalog.tracks),
            (catalog.epoch, catalog.clock, &catalog.tracks)
        );
        for track in streams(catalog) {
            let of =
                |units: &[AccessUnit]| units.iter().filter(|unit| unit.track == track).cloned().collect::<Vec<_>>();
            assert!(of(units) == of(&read_units), "{track}");
        }

        // ffprobe reads every packet with its timestamps and bytes, and FFmpeg decodes the file to the same frames as the encode.
        let ours = self.folder.join("ours.mp4");
        std::fs::write(&ours, &file).unwrap();
        self.assert_foreign_readers_agree(&ours, catalog, units);

        // The same through the playlists.
        for (resource, bytes) in written {
            std::fs::write(self.folder.join(resource.to_string()), bytes).unwrap();
        }
        std::fs::write(self.folder.join("media.m3u8"), hls::media_playlist(&playlist).unwrap()).unwrap();
        let index = self.folder.join("index.m3u8");
        std::fs::write(&index, hls::multivariant(&playlist, "media.m3u8").unwrap()).unwrap();
        self.assert_foreign_readers_agree(&index, catalog, units);
    }

    fn assert_foreign_readers_agree(&self, file: &Path, catalog: &Catalog, units: &[AccessUnit]) {
        let seen = packets(file);
        for (index, track) in streams(catalog).into_iter().enumerate() {
            let ours: Vec<_> = units.iter().filter(|unit| unit.track == track).map(Packet::of).collect();
            let theirs: Vec<_> =
                seen.iter().filter(|(stream, _)| *stream == index).map(|(_, packet)| packet.clone()).collect();
            // ffmpeg's HLS reader starts its timeline where the stream starts: only steps compare.
            let shift = theirs[0].dts - ours[0].dts;
            // FFmpeg stamps some frames of audio in groups, which fMP4 spreads at their length.
            let within = if track.is_video() { 0.002 } else { 0.1 };
            assert_alike(&ours, theirs, shift, within, &format!("{}: {track}", file.display()));
        }
        assert_eq!(pictures(file), pictures(&self.encoded), "{}", file.display());
    }
}

/// Whether ffprobe saw the same packets, `shift` seconds later, `within` so many seconds.
fn assert_alike(ours: &[Packet], theirs: Vec<Packet>, shift: f64, within: f64, what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    // Where a PTS is before its DTS, ffmpeg 5.1 moves all PTS so that none is.
    let lead = ours.iter().map(|packet| packet.dts - packet.pts).fold(0.0, f64::max);
    for (ours, mut theirs) in ours.iter().zip(theirs) {
        theirs.dts -= shift;
        theirs.pts -= shift + lead;
        assert!(ours.is_near(&theirs, within), "{what}: {ours:?} {theirs:?}");
    }
}

/// In the order of ffprobe's stream numbers, which is that of the file.
fn streams(catalog: &Catalog) -> Vec<TrackId> {
    fmp4::rendition(catalog).map(|track| track.id).collect()
}

#[derive(Clone, Debug, PartialEq)]
struct Packet {
    /// DTS in seconds.
    dts: f64,
    pts: f64,
    size: usize,
    is_key: bool,
}

impl Packet {
    fn of(unit: &AccessUnit) -> Self {
        let seconds = |at: Timestamp| at.as_millis() as f64 / 1000.0;
        Self { dts: seconds(unit.dts), pts: seconds(unit.pts), size: unit.payload.len(), is_key: unit.random_access }
    }

    fn is_near(&self, other: &Self, within: f64) -> bool {
        let near = |a: f64, b: f64| (a - b).abs() < within;
        near(self.dts, other.dts) && near(self.pts, other.pts) && self.size == other.size && self.is_key == other.is_key
    }
}

fn read(file: &[u8]) -> (Catalog, Vec<AccessUnit>) {
    let mut reader = Reader::new(Epoch(0x5eed));
    let mut catalog = None;
    let mut units = Vec::new();
    for piece in file.chunks(1000) {
        for event in reader.push(Bytes::copy_from_slice(piece)).unwrap() {
            match event {
                Event::Catalog(read) => assert_eq!(catalog.replace(read), None),
                Event::Predecessor(..) => {}
                Event::Unit(unit) => units.push(unit),
            }
        }
    }
    (catalog.unwrap(), units)
}

/// Stream number and packet, in the order of the file.
fn packets(file: &Path) -> Vec<(usize, Packet)> {
    let mut command = Command::new("ffprobe");
    command.args([
        "-v",
        "error",
        "-of",
        "csv=p=0",
        "-show_entries",
        "packet=stream_index,pts_time,dts_time,size,flags",
    ]);
    let output = run(command.arg(file));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty());
    let packet = |line: &str| {
        let fields: Vec<_> = line.split(',').collect();
        let is_key = fields[4].starts_with('K');
        let packet = Packet {
            pts: fields[1].parse().ok()?,
            dts: fields[2].parse().ok()?,
            size: fields[3].parse().ok()?,
            is_key,
        };
        Some((fields[0].parse().ok()?, packet))
    };
    lines.map(|line| packet(line).unwrap_or_else(|| panic!("{line}"))).collect()
}

/// Hashes of the decoded pictures; empty without video. Decoding must not report errors.
fn pictures(file: &Path) -> Vec<String> {
    let mut command = ffmpeg();
    command.arg("-i").arg(file).args([
        "-map",
        "0:v?",
        "-map",
        "0:a?",
        "-fps_mode",
        "passthrough",
        "-f",
        "framemd5",
        "-",
    ]);
    let output = run(&mut command);
    let text = String::from_utf8(output.stdout).unwrap();
    let of_pictures = text.lines().filter(|line| line.starts_with("0,") && text.contains("#media_type 0: video"));
    of_pictures.filter_map(|line| line.rsplit(',').next()).map(|hash| hash.trim().to_owned()).collect()
}

fn ffmpeg() -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin", "-y"]);
    command
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.trim().is_empty(), "{command:?}: {complaints}");
    output
}

/// More than any encoder delays its first picture.
const START: Duration = Duration::from_secs(1);
