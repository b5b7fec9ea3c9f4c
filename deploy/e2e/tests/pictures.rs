//! Every frame of every kind of source arrives exactly once: the burnt-in frame numbers that the viewer decodes are consecutive.

use anyhow::{Context, Result, ensure};
use e2e::{
    Broadcaster, Cdn, ClipSpec, ExternalPlayer, NumberedClip, Screen, TIMEOUT, TestEnv, Viewer, ensure_consecutive,
};

#[test]
fn the_test_pattern_arrives_by_rtmp_and_by_hls() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let cdn = Cdn::start(&env, &[])?;
    // Started before the publisher: it waits, and receives the first frame.
    let mut early = Viewer::start(&env, &cdn.rtmp_url("live"), &[])?;
    let mut broadcaster = Broadcaster::start(&env, &cdn.publish_url(&key), &Broadcaster::SMALL)?;
    early.wait_pictures(30, TIMEOUT)?;
    let mut late = Viewer::start(&env, &cdn.rtmp_url("live"), &[])?;
    cdn.wait_segment("live")?;
    let mut hls = Viewer::start(&env, &cdn.hls_url("live"), &[])?;
    let mut page = Viewer::start(&env, &cdn.page_url("live"), &[])?;
    for viewer in [&mut early, &mut late, &mut hls, &mut page] {
        viewer.wait_pictures(300, TIMEOUT)?;
    }
    let first = early.finish()?;
    first.ensure_unbroken(280)?;
    ensure!(first.0["marker"]["first"] == 0, "the viewer that waited missed the first frames: {}", first.0);
    for viewer in [&mut late, &mut hls, &mut page] {
        viewer.finish()?.ensure_unbroken(200)?;
    }
    let sound = first.0["audio_frames"].as_u64().context("no count of sound")?;
    ensure!(sound > 300, "only {sound} audio frames were decoded");
    broadcaster.process.interrupt();
    broadcaster.process.success(TIMEOUT)
}

#[test]
fn an_encoded_file_arrives_from_first_to_last_picture() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let file = NumberedClip::encode(&env, "marked.mp4", ClipSpec { count: 250, ..ClipSpec::default() })?;
    let cdn = Cdn::start(&env, &[])?;
    let mut viewer = Viewer::start(&env, &cdn.rtmp_url("live"), &[])?;
    let source = format!("file:{}", file.path.display());
    let mut broadcaster = Broadcaster::start(&env, &cdn.publish_url(&key), &["--source", &source])?;
    broadcaster.process.success(TIMEOUT)?;
    viewer.wait_pictures(250, TIMEOUT)?;
    let summary = viewer.finish()?;
    summary.ensure_unbroken(250)?;
    ensure!(
        summary.0["marker"]["first"] == 0 && summary.0["marker"]["last"] == 249,
        "not the whole file: {}",
        summary.0
    );
    Ok(())
}

#[test]
fn a_file_with_unsupported_codecs_is_transcoded() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    // No protocol here supports either codec.
    let encoders = &["-c:v", "mpeg2video", "-q:v", "3", "-c:a", "mp2"];
    let file = NumberedClip::encode(&env, "marked.mkv", ClipSpec { count: 150, encoders, ..ClipSpec::default() })?;
    let cdn = Cdn::start(&env, &[])?;
    let mut viewer = Viewer::start(&env, &cdn.rtmp_url("live"), &[])?;
    let source = format!("file:{}", file.path.display());
    let mut broadcaster = Broadcaster::start(&env, &cdn.publish_url(&key), &["--source", &source])?;
    broadcaster.process.success(TIMEOUT)?;
    viewer.wait_pictures(150, TIMEOUT)?;
    viewer.finish()?.ensure_unbroken(150)
}

#[test]
fn a_captured_screen_shows_motion() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let cdn = Cdn::start(&env, &[])?;
    let mut screen = Screen::start(&env, 640, 360)?;
    let _motion = screen.show_motion(&env)?;
    let mut viewer = Viewer::start(&env, &cdn.rtmp_url("live"), &[])?;
    let source = format!("screen:{}", screen.display);
    let options = ["--source", &source, "--audio", "none", "--fps", "20", "--burn-in"];
    let _broadcaster = Broadcaster::start(&env, &cdn.publish_url(&key), &options)?;
    viewer.wait_pictures(200, TIMEOUT)?;
    // A third-party decoder checks that the captured screen moves, and is not frozen or black.
    let marks = ExternalPlayer::Ffmpeg.frame_numbers(&env, &cdn.rtmp_url("live"), (640, 360), 40, TIMEOUT)?;
    ensure_consecutive(&marks)?;
    let change = mean_change(&cdn.rtmp_url("live"))?;
    ensure!(change > 1.0, "the captured screen does not move: mean difference {change:.3} of 255");
    screen.check()?;
    viewer.finish()?.ensure_unbroken(180)
}

/// The mean difference of consecutive frames below the frame number, measured by ffmpeg, 0 to 255.
fn mean_change(url: &str) -> Result<f64> {
    let said = std::process::Command::new("timeout")
        .args(["30", "ffmpeg", "-nostdin", "-hide_banner", "-i", url, "-frames:v", "20", "-vf"])
        .args([
            "crop=640:280:0:80,tblend=all_mode=difference,signalstats,metadata=print:key=lavfi.signalstats.YAVG:file=-",
            "-an",
            "-f",
            "null",
            "-",
        ])
        .output()?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let values: Vec<f64> = text.lines().filter_map(|line| line.split_once("YAVG=")?.1.parse().ok()).collect();
    ensure!(!values.is_empty(), "no measure in: {text}");
    let sum: f64 = values.iter().sum();
    Some(sum / values.len() as f64).context("not empty")
}
