//! Third-party players, as packaged by Debian, play RTMP and HLS; the frames that they decode are consecutive.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::{Broadcaster, Cdn, ExternalPlayer, TIMEOUT, TestEnv, ensure_consecutive};
use serde_json::Value;

/// A live stream, until dropped.
struct LiveStream {
    cdn: Cdn,
    _broadcaster: Broadcaster,
    env: TestEnv,
}

impl LiveStream {
    fn start() -> Result<Self> {
        let env = TestEnv::new()?;
        let key = Cdn::key(&env, "live")?;
        let cdn = Cdn::start(&env, &[])?;
        let broadcaster = Broadcaster::start(&env, &cdn.publish_url(&key), &Broadcaster::SMALL)?;
        cdn.wait_live("live")?;
        cdn.wait_segment("live")?;
        Ok(Self { cdn, _broadcaster: broadcaster, env })
    }
}

#[test]
fn ffmpeg_mpv_vlc_and_gstreamer_decode_every_picture() -> Result<()> {
    let live = LiveStream::start()?;
    let mut faults = Vec::new();
    for player in ExternalPlayer::ALL {
        for url in [live.cdn.rtmp_url("live"), live.cdn.hls_url("live")] {
            let checked = player
                .frame_numbers(&live.env, &url, (640, 360), PICTURES, TIMEOUT)
                .and_then(|marks| ensure_consecutive(&marks).map(|(first, last)| format!("{first} to {last}")));
            eprintln!("{player:?} {url}: {checked:?}");
            faults.extend(checked.err().map(|fault| format!("{player:?} {url}: {fault:#}")));
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

#[test]
fn ffprobe_names_both_tracks_by_both_protocols() -> Result<()> {
    let live = LiveStream::start()?;
    for url in [live.cdn.rtmp_url("live"), live.cdn.hls_url("live")] {
        let said = Command::new("timeout")
            .args(["30", "ffprobe", "-loglevel", "error", "-show_streams", "-show_format", "-of", "json", &url])
            .output()?;
        let said: Value = serde_json::from_slice(&said.stdout).with_context(|| url.clone())?;
        let streams = said["streams"].as_array().context("no streams")?;
        let of = |kind: &str| {
            streams
                .iter()
                .find(|stream| stream["codec_type"] == kind)
                .with_context(|| format!("{url}: no {kind} in {said}"))
        };
        let (video, audio) = (of("video")?, of("audio")?);
        ensure!(video["codec_name"] == "h264" && video["width"] == 640 && video["height"] == 360, "{url}: {video}");
        ensure!(audio["codec_name"] == "aac", "{url}: {audio}");
    }
    Ok(())
}

/// Frames to decode: two and a half GOPs.
const PICTURES: usize = 150;
