//! HLS over loopback: ffmpeg publishes, ffmpeg's own HLS reader decodes every picture and sound, and nothing is out of place.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "support/program.rs"]
mod program;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use tempfile::TempDir;

/// A server of its own, on ports of its own, gone when the test is.
struct Cdn {
    child: Child,
    rtmp: String,
    http: String,
    key: String,
    _data: TempDir,
    _stdout: BufReader<ChildStdout>,
}

impl Cdn {
    fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut child = program::cdn(data.path())
            .args(["--log", "json"])
            .env("NEARCAST_HUB_GRACE_AFTER_UNPUBLISH", "1s")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let (mut key, mut line) = (String::new(), String::new());
        let listening = loop {
            line.clear();
            assert!(stdout.read_line(&mut line).unwrap() > 0, "the server ended");
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            match event["event"].as_str() {
                Some("first_key") => event["key"].as_str().unwrap().clone_into(&mut key),
                Some("listening") => break event,
                _ => {}
            }
        };
        let text = |key: &str| listening[key].as_str().unwrap().to_owned();
        Self { child, rtmp: text("rtmp"), http: text("http"), key, _data: data, _stdout: stdout }
    }

    /// Publishes `seconds` of a moving picture at 25 a second, with sound, as fast as it goes.
    fn publish(&self, seconds: u32, encoder: &[&str]) {
        let output = Command::new("ffmpeg")
            .args(["-v", "error", "-f", "lavfi", "-i", "testsrc2=s=320x180:r=25", "-f", "lavfi", "-i", "sine=r=48000"])
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
            .arg(format!("rtmp://{}/live/{}", self.rtmp, self.key))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Decodes the whole playlist, to its end: the counts of pictures and of sound frames, and what ffmpeg complained about.
    fn decode(&self) -> (u64, u64, String) {
        let output = Command::new("ffprobe")
            .args(["-v", "warning", "-live_start_index", "0", "-rw_timeout", "20000000", "-count_frames"])
            .args(["-show_entries", "stream=codec_type,nb_read_frames", "-of", "json"])
            .arg(format!("http://{}/live/index.m3u8", self.http))
            .output()
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
}

impl Drop for Cdn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn ffmpeg_decodes_all_that_ffmpeg_published() {
    for encoder in [&["-tune", "zerolatency"][..], &["-bf", "2"]] {
        let cdn = Cdn::start();
        cdn.publish(10, encoder);
        let (pictures, sounds, complaints) = cdn.decode();
        assert_eq!(pictures, 250, "{encoder:?}: {complaints}");
        // 48 kHz in frames of 1024, and the encoder's priming.
        assert!((469..=471).contains(&sounds), "{encoder:?}: {sounds} sound frames; {complaints}");
        assert_eq!(complaints, "", "{encoder:?}");
    }
}
