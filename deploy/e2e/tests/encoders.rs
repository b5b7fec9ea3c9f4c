//! Third-party encoders publish to the cdn, and the broadcaster publishes to a third-party server.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::{
    Broadcaster, Cdn, ClipSpec, ExternalPlayer, Nginx, NumberedClip, Process, TIMEOUT, TestEnv, Viewer,
    ensure_consecutive,
};
use serde_json::Value;

#[test]
fn ffmpeg_publishes() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let cdn = Cdn::start(&env, &[])?;
    let file = NumberedClip::encode(&env, "marked.mp4", ClipSpec { count: 300, ..ClipSpec::default() })?;
    let mut viewer = Viewer::start(&env, &cdn.rtmp_url("live"), &[])?;
    let mut ffmpeg = publish_copy(&env, &file.path, &cdn.publish_url(&key))?;
    viewer.wait_pictures(300, TIMEOUT)?;
    ffmpeg.success(TIMEOUT)?;
    viewer.finish()?.ensure_unbroken(270)
}

#[test]
fn gstreamer_publishes() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let cdn = Cdn::start(&env, &[])?;
    let mut viewer = Viewer::start(&env, &cdn.rtmp_url("live"), &[])?;
    let location = format!("location={}", cdn.publish_url(&key));
    let pipeline = "-q flvmux streamable=true name=m ! rtmp2sink LOCATION \
        videotestsrc is-live=true num-buffers=300 ! video/x-raw,width=320,height=240,framerate=25/1 ! x264enc tune=zerolatency key-int-max=50 ! \
        video/x-h264,profile=main ! h264parse ! queue ! m. \
        audiotestsrc is-live=true num-buffers=560 ! audio/x-raw,rate=48000,channels=2 ! avenc_aac ! aacparse ! queue ! m.";
    let arguments = pipeline.split_whitespace().map(|word| if word == "LOCATION" { location.as_str() } else { word });
    let _gstreamer = env.run("gstreamer", "gst-launch-1.0", arguments)?;
    viewer.wait_pictures(200, TIMEOUT)?;
    let summary = viewer.finish()?;
    ensure!(summary.0["audio_frames"].as_u64() > Some(100), "no audio was received: {}", summary.0);
    // Its live sources drop late frames, and units of third-party encoders state no predecessor.
    ensure!(summary.pictures() > 150 && summary.0["decode_errors"] == 0, "{}", summary.0);
    Ok(())
}

#[test]
fn pts_and_dts_survive_an_ffmpeg_stream_copy() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let cdn = Cdn::start(&env, &[])?;
    let encoders = &[
        "-c:v",
        "libx264",
        "-preset",
        "veryfast",
        "-bf",
        "3",
        "-b_strategy",
        "0",
        "-g",
        "50",
        "-c:a",
        "aac",
        "-ar",
        "48000",
    ];
    // Through FLV first: its whole milliseconds are what RTMP can carry.
    let file = NumberedClip::encode(&env, "in.flv", ClipSpec { count: 250, encoders, ..ClipSpec::default() })?;
    let recorded = env.path("out.flv");
    let arguments = ["-nostdin", "-loglevel", "warning", "-y", "-i", &cdn.rtmp_url("live"), "-c", "copy"];
    let mut recorder = env.spawn("recorder", Command::new("ffmpeg").args(arguments).arg(&recorded))?;
    let mut publisher = publish_copy(&env, &file.path, &cdn.publish_url(&key))?;
    publisher.success(TIMEOUT)?;
    // The stream ends with the grace period after the publisher's unpublish, and the recorder with it.
    recorder.success(TIMEOUT)?;
    let (sent, came) = (packets(&file.path)?, packets(&recorded)?);
    for (kind, sent) in &sent {
        let came = came.get(kind).with_context(|| format!("no {kind} was received"))?;
        ensure!(sent.len() == came.len(), "{} {kind} packets were sent, {} received", sent.len(), came.len());
        for (sent, came) in sent.iter().zip(came) {
            ensure!(sent == came, "{kind}: {sent:?} was sent, {came:?} received");
        }
    }
    let video = &sent["video"];
    ensure!(video.len() == 250 && video.iter().any(|packet| packet.pts != packet.dts), "the file has no B-frames");
    Ok(())
}

#[test]
fn nginx_rtmp_accepts_the_broadcaster() -> Result<()> {
    let env = TestEnv::new()?;
    let nginx = Nginx::start(&env)?;
    let mut broadcaster = Broadcaster::start(&env, &nginx.url("live"), &Broadcaster::SMALL)?;
    let log = |process: &mut Process| process.line(TIMEOUT, "that it publishes", |line| line.contains("publish"));
    let mut nginx = nginx;
    log(&mut nginx.process)?;
    let marks = ExternalPlayer::Ffmpeg.frame_numbers(&env, &nginx.url("live"), (640, 360), 100, TIMEOUT)?;
    ensure_consecutive(&marks)?;
    broadcaster.stop()
}

#[test]
fn a_wrong_stream_key_is_rejected_with_a_reason() -> Result<()> {
    let env = TestEnv::new()?;
    Cdn::key(&env, "live")?;
    let cdn = Cdn::start(&env, &[])?;
    for wrong in ["live", "not-the-key"] {
        let mut broadcaster = Broadcaster::start(&env, &cdn.publish_url(wrong), &Broadcaster::SMALL)?;
        let status = broadcaster.process.exit(TIMEOUT)?;
        ensure!(!status.success(), "the broadcaster succeeded with the key {wrong}");
        let log = broadcaster.process.log();
        ensure!(log.contains("key"), "the log does not mention the key: {log}");
        let mut ffmpeg = env.run(
            "ffmpeg",
            "ffmpeg",
            [
                "-nostdin",
                "-loglevel",
                "error",
                "-re",
                "-f",
                "lavfi",
                "-i",
                "testsrc2",
                "-t",
                "10",
                "-c:v",
                "libx264",
                "-f",
                "flv",
                &cdn.publish_url(wrong),
            ],
        )?;
        ensure!(!ffmpeg.exit(TIMEOUT)?.success(), "ffmpeg could publish with the key {wrong}");
    }
    let state = cdn.stream("live")?["state"].clone();
    ensure!(state != "live", "the stream is {state}");
    Ok(())
}

fn publish_copy(env: &TestEnv, file: &Path, url: &str) -> Result<Process> {
    let arguments =
        ["-nostdin", "-loglevel", "warning", "-re", "-i", &file.display().to_string(), "-c", "copy", "-f", "flv", url];
    env.run("publisher", "ffmpeg", arguments)
}

/// One packet as ffprobe reports it: timestamps in milliseconds from the file's first DTS, and a hash of its bytes.
#[derive(Debug, PartialEq, Eq)]
struct ProbedPacket {
    pts: i64,
    dts: i64,
    hash: String,
}

fn packets(file: &Path) -> Result<BTreeMap<String, Vec<ProbedPacket>>> {
    let said = Command::new("ffprobe")
        .args(["-loglevel", "error", "-show_packets", "-show_data_hash", "SHA256", "-of", "json"])
        .arg(file)
        .output()?;
    let said: Value = serde_json::from_slice(&said.stdout)?;
    let packets = said["packets"].as_array().context("no packets")?;
    let millis = |packet: &Value, name: &str| -> Result<i64> {
        let seconds: f64 = packet[name].as_str().with_context(|| format!("no {name} in {packet}"))?.parse()?;
        Ok((seconds * 1000.0).round() as i64)
    };
    let start = packets
        .iter()
        .map(|packet| millis(packet, "dts_time"))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .min()
        .unwrap_or(0);
    let mut tracks: BTreeMap<String, Vec<ProbedPacket>> = BTreeMap::new();
    for packet in packets {
        let kind = packet["codec_type"].as_str().context("no kind")?.to_owned();
        let (pts, dts) = (millis(packet, "pts_time")? - start, millis(packet, "dts_time")? - start);
        let hash = packet["data_hash"].as_str().context("no hash")?.to_owned();
        tracks.entry(kind).or_default().push(ProbedPacket { pts, dts, hash });
    }
    Ok(tracks)
}
