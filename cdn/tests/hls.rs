//! HLS over loopback: ffmpeg publishes, and ffmpeg's HLS reader decodes every video and audio frame without complaints.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::time::Duration;

use cdn::config::FanoutEngine;
use support::Server;
use tokio::process::Command;

/// Publishes `seconds` of moving video at 25 frames per second with audio, as fast as possible.
async fn publish(server: &Server, seconds: u32, encoder: &[&str]) {
    let output = Command::new("ffmpeg")
        .args([
            "-v",
            "error",
            "-nostdin",
            "-f",
            "lavfi",
            "-i",
            "testsrc2=s=320x180:r=25",
            "-f",
            "lavfi",
            "-i",
            "sine=r=48000",
        ])
        .args([
            "-t",
            &seconds.to_string(),
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-g",
            "50",
            "-pix_fmt",
            "yuv420p",
        ])
        .args(encoder)
        .args(["-c:a", "aac", "-f", "flv"])
        .arg(format!("rtmp://{}/live/{}", server.rtmp, server.key("live")))
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Decodes the playlist to its end. Returns the number of video and audio frames, and ffmpeg's complaints.
async fn decode(server: &Server) -> (u64, u64, String) {
    let output = Command::new("ffprobe")
        .args(["-v", "warning", "-live_start_index", "0", "-rw_timeout", "20000000", "-count_frames"])
        .args(["-show_entries", "stream=codec_type,nb_read_frames", "-of", "json"])
        .arg(format!("http://{}/live/index.m3u8", server.http))
        .output()
        .await
        .unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let count = |kind: &str| {
        let stream = json["streams"].as_array().unwrap().iter().find(|stream| stream["codec_type"] == kind);
        stream.and_then(|s| s["nb_read_frames"].as_str()?.parse().ok()).unwrap_or(0)
    };
    let complaints = String::from_utf8_lossy(&output.stderr);
    // FFmpeg 5.1 reads the init segment again after each reload of any fMP4 playlist, and then complains of it.
    let complaints = complaints.lines().filter(|line| !line.contains("duplicated MOOV Atom")).collect();
    (count("video"), count("audio"), complaints)
}

#[tokio::test(flavor = "multi_thread")]
async fn ffmpeg_decodes_every_frame_that_ffmpeg_published() {
    for encoder in [&["-tune", "zerolatency"][..], &["-bf", "2"]] {
        let adjust = |config: &mut cdn::config::Config| config.hub.grace_after_unpublish = Duration::from_secs(1);
        let server = Server::start(FanoutEngine::Auto, adjust).await;
        publish(&server, 10, encoder).await;
        let (pictures, sounds, complaints) = decode(&server).await;
        assert_eq!(pictures, 250, "{encoder:?}: {complaints}");
        // 48 kHz in frames of 1024, and the encoder's priming.
        assert!((469..=471).contains(&sounds), "{encoder:?}: {sounds} sound frames; {complaints}");
        assert_eq!(complaints, "", "{encoder:?}");
        server.stopped().await;
    }
}
