//! Encoders that take turns: real programs, and real media with the timestamps, configurations and gaps that phones, cameras and converters send.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use e2e::lan_testbed::CDN;
use e2e::replay::{TimedTag, is_header, replay};
use e2e::{Process, TIMEOUT, TestEnv, program};
use media::catalog::{Metadata as Values, Value};
use media::flv::file::{AUDIO, Reader, Tag, VIDEO};
use net::rtmp::Metadata;

/// One encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoder {
    /// FFmpeg's libx264 with B-frames, an IDR each second.
    Regular,
    /// Sound that is stamped when it is read: 12 ms early or late.
    JitteredSound,
    /// Three frames of sound with one timestamp.
    GroupedSound,
    /// No sound for a third of the time.
    SoundDropout,
    /// No pictures for a third of the time.
    PictureDropout,
    /// An IDR each ten seconds.
    LongGop,
    /// Pictures that begin a third of the time after the sound.
    LatePictures,
    /// Sound on the clock of a device that has run for an hour.
    TwoClocks,
    /// A clock that is set ten minutes ahead.
    ClockSet,
    /// A clock that is 3% fast.
    FastClock,
    /// One frame of sound with the timestamp 0.
    StrayTimestamp,
    /// No sequence header for pictures: SPS and PPS in band only.
    ParametersInBand,
    /// Larger pictures by SPS and PPS in band, without a sequence header.
    SizeInBand,
    /// A sequence header of another profile than the SPS in band.
    ProfileInBand,
    /// Metadata with thousands of properties.
    LargeMetadata,
    /// Pictures alone.
    PicturesOnly,
    /// Sound alone.
    SoundOnly,
    /// `ffmpeg` with its own defaults: an IDR each 250 frames.
    Ffmpeg,
    /// `gst-launch-1.0` with `flvmux`.
    Gstreamer,
    /// The broadcaster with HEVC and Opus, by Enhanced RTMP.
    HevcAndOpus,
}

impl Encoder {
    pub(crate) const ALL: [Self; 20] = [
        Self::Regular,
        Self::JitteredSound,
        Self::SoundOnly,
        Self::GroupedSound,
        Self::SoundDropout,
        Self::HevcAndOpus,
        Self::PictureDropout,
        Self::LongGop,
        Self::LatePictures,
        Self::Gstreamer,
        Self::TwoClocks,
        Self::ClockSet,
        Self::FastClock,
        Self::StrayTimestamp,
        Self::Ffmpeg,
        Self::ParametersInBand,
        Self::SizeInBand,
        Self::PicturesOnly,
        Self::ProfileInBand,
        Self::LargeMetadata,
    ];
}

/// Clips of one length, encoded by FFmpeg.
pub(crate) struct Clips {
    length: Duration,
    regular: Vec<Tag>,
    large: Vec<Tag>,
    long_gop: Vec<Tag>,
    baseline: Vec<Tag>,
}

impl Clips {
    pub(crate) fn encode(env: &TestEnv, length: Duration) -> Result<Self> {
        let clip = |name: &str, size, options: &[&str]| clip(env, name, length, size, options);
        Ok(Self {
            length,
            regular: clip("regular.flv", "320x180", &["-bf", "2", "-g", "15"])?,
            large: clip("large.flv", "640x360", &["-bf", "2", "-g", "15"])?,
            long_gop: clip("long-gop.flv", "320x180", &["-bf", "2", "-g", "150"])?,
            baseline: clip("baseline.flv", "320x180", &["-profile:v", "baseline", "-g", "15"])?,
        })
    }
}

fn clip(env: &TestEnv, name: &str, length: Duration, size: &str, options: &[&str]) -> Result<Vec<Tag>> {
    let file = env.path(name);
    let seconds = length.as_secs().to_string();
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-loglevel", "error", "-y", "-f", "lavfi", "-i"]);
    command.arg(format!("testsrc2=size={size}:rate=15")).args(["-f", "lavfi", "-i", "sine=440:r=48000"]);
    command.args([
        "-t",
        &seconds,
        "-pix_fmt",
        "yuv420p",
        "-c:v",
        "libx264",
        "-preset",
        "veryfast",
        "-sc_threshold",
        "0",
    ]);
    command.args(["-b:v", "200k"]).args(options).args(["-c:a", "aac", "-b:a", "64k"]).arg(&file);
    env.spawn("clip", &mut command)?.success(TIMEOUT)?;
    let tags = Reader::new().push(&std::fs::read(&file)?)?;
    ensure!(tags.len() > 100, "{name} has {} tags", tags.len());
    Ok(tags)
}

impl Encoder {
    /// Whether a player that joins finds segments that begin with an IDR.
    pub(crate) fn has_idr_in_each_segment(self) -> bool {
        !matches!(self, Self::LongGop | Self::Ffmpeg)
    }

    /// What it sends, in the order of sending; `None` for a program, which sends by itself.
    fn tags(self, clips: &Clips) -> Option<Vec<TimedTag>> {
        let length = clips.length.as_millis() as u32;
        let (third, half) = (length / 3, length / 2);
        let mut tags = TimedTag::from_tags(match self {
            Self::LongGop => &clips.long_gop,
            _ => &clips.regular,
        });
        let is_frame = |tag: &Tag, kind| tag.kind == kind && !is_header(tag);
        match self {
            Self::Ffmpeg | Self::Gstreamer | Self::HevcAndOpus => return None,
            Self::Regular | Self::LongGop | Self::LargeMetadata => {}
            Self::JitteredSound => {
                let mut least = 0;
                for (n, TimedTag { tag, .. }) in tags.iter_mut().filter(|t| is_frame(&t.tag, AUDIO)).enumerate() {
                    tag.timestamp = (tag.timestamp + (n as u32 * 7919) % 25).saturating_sub(12).max(least);
                    least = tag.timestamp;
                }
            }
            Self::GroupedSound => {
                let mut group = 0;
                for (n, TimedTag { tag, .. }) in tags.iter_mut().filter(|t| is_frame(&t.tag, AUDIO)).enumerate() {
                    if n % 3 == 0 {
                        group = tag.timestamp;
                    }
                    tag.timestamp = group;
                }
            }
            Self::SoundDropout => tags.retain(|t| !(is_frame(&t.tag, AUDIO) && (third..2 * third).contains(&t.at))),
            Self::PictureDropout => tags.retain(|t| !(is_frame(&t.tag, VIDEO) && (third..2 * third).contains(&t.at))),
            Self::LatePictures => {
                let begin = tags.iter().find(|t| t.at >= third && is_idr(&t.tag)).map_or(0, |t| t.at);
                tags.retain(|t| !is_frame(&t.tag, VIDEO) || t.at >= begin);
            }
            Self::TwoClocks => {
                tags.iter_mut().filter(|t| t.tag.kind == AUDIO).for_each(|t| t.tag.timestamp += 3_600_000);
            }
            Self::ClockSet => tags.iter_mut().filter(|t| t.at >= half).for_each(|t| t.tag.timestamp += 600_000),
            Self::FastClock => tags.iter_mut().for_each(|t| t.at = (u64::from(t.at) * 100 / 103) as u32),
            Self::StrayTimestamp => {
                let stray = tags.iter_mut().find(|t| t.at >= half && is_frame(&t.tag, AUDIO));
                stray.into_iter().for_each(|t| t.tag.timestamp = 0);
            }
            Self::ParametersInBand => {
                let sets = parameter_sets(&clips.regular);
                tags.retain(|t| !(t.tag.kind == VIDEO && is_header(&t.tag)));
                tags.iter_mut().for_each(|t| t.tag = with_parameter_sets(&t.tag, &sets));
            }
            Self::SizeInBand => {
                let sets = parameter_sets(&clips.large);
                let large =
                    TimedTag::from_tags(&clips.large).into_iter().filter(|t| t.at >= half && !is_header(&t.tag));
                let large = large.skip_while(|t| !is_idr(&t.tag));
                let large: Vec<_> =
                    large.map(|t| TimedTag { at: t.at, tag: with_parameter_sets(&t.tag, &sets) }).collect();
                let from = large.first().map_or(length, |t| t.at);
                tags.retain(|t| t.at < from);
                tags.extend(large);
            }
            Self::ProfileInBand => {
                let sets = parameter_sets(&clips.regular);
                let other = clips.baseline.iter().find(|tag| tag.kind == VIDEO && is_header(tag)).cloned();
                for t in &mut tags {
                    match &other {
                        Some(other) if t.tag.kind == VIDEO && is_header(&t.tag) => t.tag.body = other.body.clone(),
                        _ => t.tag = with_parameter_sets(&t.tag, &sets),
                    }
                }
            }
            Self::PicturesOnly => tags.retain(|t| t.tag.kind == VIDEO),
            Self::SoundOnly => tags.retain(|t| t.tag.kind == AUDIO),
        }
        Some(tags)
    }

    /// The command of a program that publishes to `url`.
    fn command(self, url: &str) -> Result<Command> {
        let mut command = Command::new(match self {
            Self::Gstreamer => "gst-launch-1.0".into(),
            Self::HevcAndOpus => program("broadcaster")?,
            _ => "ffmpeg".into(),
        });
        match self {
            Self::Gstreamer => command.args("-q flvmux streamable=true name=m ! rtmp2sink".split(' ')).args([
                &format!("location={url}"),
            ]).args(
                "videotestsrc is-live=true ! video/x-raw,width=320,height=180,framerate=15/1 ! x264enc tune=zerolatency key-int-max=30 ! \
                video/x-h264,profile=main ! h264parse ! queue ! m. \
                audiotestsrc is-live=true ! audio/x-raw,rate=48000,channels=2 ! avenc_aac ! aacparse ! queue ! m.".split_whitespace(),
            ),
            Self::HevcAndOpus => command
                .args("--source test --audio tone --size 320x180 --fps 15 --no-lan --log json --encoder libx265 --audio-codec opus".split(' '))
                .arg(url),
            _ => command
                .args("-nostdin -loglevel warning -re -f lavfi -i testsrc2=size=320x180:rate=15 -re -f lavfi -i sine=440:r=44100".split(' '))
                .args("-pix_fmt yuv420p -c:v libx264 -preset veryfast -c:a aac -f flv".split(' '))
                .arg(url),
        };
        Ok(command)
    }
}

fn is_idr(tag: &Tag) -> bool {
    tag.kind == VIDEO && tag.body.first().is_some_and(|byte| byte >> 4 == 1) && !is_header(tag)
}

/// SPS and PPS of the clip's sequence header (ISO/IEC 14496-15 §5.3.3.1), each behind its length of four bytes.
fn parameter_sets(clip: &[Tag]) -> Vec<u8> {
    let Some(header) = clip.iter().find(|tag| tag.kind == VIDEO && is_header(tag)) else { return Vec::new() };
    let record = &header.body[5..];
    let set = |at: usize| {
        let length = usize::from(u16::from_be_bytes([record[at], record[at + 1]]));
        &record[at + 2..at + 2 + length]
    };
    let sps = set(6);
    let pps = set(8 + sps.len() + 1);
    [sps, pps].iter().flat_map(|set| [&(set.len() as u32).to_be_bytes()[..], set].concat()).collect()
}

/// The tag, with the parameter sets before its picture if that is an IDR.
fn with_parameter_sets(tag: &Tag, sets: &[u8]) -> Tag {
    if !is_idr(tag) {
        return tag.clone();
    }
    Tag { body: Bytes::from([&tag.body[..5], sets, &tag.body[5..]].concat()), ..tag.clone() }
}

/// One turn of an encoder.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    pub(crate) encoder: Encoder,
    pub(crate) begun: Instant,
    /// `None` while it lasts.
    pub(crate) ended: Option<Instant>,
    /// Why it ended too soon.
    pub(crate) cut: Option<String>,
    /// What FFmpeg said of the HLS output, which it decoded for a moment.
    pub(crate) complaints: String,
}

/// Lets the encoders publish in turn until `stop`; to be run in the host of the CDN.
pub(crate) fn take_turns(key: &str, clips: &Clips, stop: &AtomicBool, turns: &Arc<Mutex<Vec<Turn>>>) -> Result<()> {
    let env = TestEnv::new()?;
    let target = format!("rtmp://{CDN}/live/{key}");
    let chosen = crate::chosen("NEARCAST_SOAK_ENCODERS", &Encoder::ALL)?;
    for encoder in chosen.iter().copied().cycle() {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let begun = Instant::now();
        let turn = Turn { encoder, begun, ended: None, cut: None, complaints: String::new() };
        lock(turns).push(turn.clone());
        let player = play(&env, begun + clips.length / 2)?;
        let end = begun + clips.length;
        let cut = match encoder.tags(clips) {
            Some(tags) => replay(&target, metadata(encoder), &tags, stop).err().map(|e| format!("{e:#}")),
            None => {
                let mut process = env.spawn("encoder", &mut encoder.command(&target)?)?;
                while Instant::now() < end && process.running()? && !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(50));
                }
                let cut = (!process.running()?).then(|| process.err().lines().last().unwrap_or_default().to_owned());
                process.interrupt();
                process.exit(TIMEOUT)?;
                cut
            }
        };
        let complaints = end_player(player);
        let turn = Turn { ended: Some(Instant::now()), cut, complaints, ..turn };
        lock(turns).pop();
        lock(turns).push(turn);
        std::thread::sleep(BETWEEN_TURNS);
    }
    Ok(())
}

/// The state behind the lock, which no panic leaves half written.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the encoder says of itself.
fn metadata(encoder: Encoder) -> Option<Metadata> {
    let values: Values = (0..3_000).map(|n| (format!("keyframe{n}"), Value::Number(f64::from(n)))).collect();
    (encoder == Encoder::LargeMetadata).then(|| Metadata { values, ..Metadata::default() })
}

/// Starts FFmpeg, which plays the HLS output of the stream for a moment from `at` on.
fn play(env: &TestEnv, at: Instant) -> Result<Process> {
    let wait = at.saturating_duration_since(Instant::now()).as_secs_f64();
    let line = format!(
        "sleep {wait:.1} && exec ffmpeg -nostdin -loglevel error -live_start_index -1 -i http://{CDN}:8080/encoders/media.m3u8 -t 2 -f null -"
    );
    env.spawn("ffmpeg", Command::new("sh").args(["-c", &line]))
}

/// What it has said. A player that still runs has no more to say: it waits for media.
fn end_player(mut player: Process) -> String {
    player.kill();
    let said = player.err();
    // Of a component, which names itself; not that the server was killed.
    let of_media = |line: &&str| line.contains(" @ 0x") && !line.contains("[hls") && !line.contains("[http");
    let said: Vec<&str> = said.lines().filter(of_media).take(3).collect();
    said.join(" | ")
}

const BETWEEN_TURNS: Duration = Duration::from_secs(1);
