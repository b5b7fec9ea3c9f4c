//! Third-party players, each writing its decoded frames to a file, from which the frame numbers are read.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use media::frame_counter;

use crate::test_env::TestEnv;
use ::lab::until;

/// A third-party player.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExternalPlayer {
    /// `ffmpeg`, writing raw video.
    Ffmpeg,
    /// `mpv` in encoding mode.
    Mpv,
    /// `cvlc` with its YUV4MPEG2 video output.
    Vlc,
    /// `gst-launch-1.0` with `uridecodebin`.
    GStreamer,
}

impl ExternalPlayer {
    /// Every player, in the order of declaration.
    pub const ALL: [Self; 4] = [Self::Ffmpeg, Self::Mpv, Self::Vlc, Self::GStreamer];

    /// Plays `url`, whose frames have the given size, until `count` frames are decoded, and returns the number of each; `None` if unreadable.
    pub fn frame_numbers(
        self,
        env: &TestEnv,
        url: &str,
        (width, height): (usize, usize),
        count: usize,
        within: Duration,
    ) -> Result<Vec<Option<u32>>> {
        // VLC refuses to run as root; the user that it runs as needs write access.
        let directory = tempfile::Builder::new().prefix("player.").tempdir_in(env.directory())?;
        open_to_all(directory.path())?;
        open_to_all(env.directory())?;
        let file = directory.path().join("pictures.yuv");
        let name = format!("{self:?}").to_lowercase();
        let mut player = env.spawn(&name, &mut self.command(url, &file, directory.path()))?;
        let written = if self == Self::Vlc { count + REPEATED } else { count };
        let enough = (written * (width * height * 3 / 2 + FRAME.len()) + Y4M_HEADER) as u64;
        until(within, &format!("{name} to decode {count} frames of {url}"), || {
            let running = player.running()?;
            let written = std::fs::metadata(&file).map_or(0, |meta| meta.len());
            ensure!(running || written > 0, "{name} ended without a frame of {url}");
            Ok((written >= enough || !running).then_some(()))
        })?;
        player.kill();
        let mut marks = read_frame_numbers(&file, width, height)?;
        if self == Self::Vlc {
            // VLC 3.0 repeats a frame if the next is not decoded in time, as on a busy machine.
            marks.dedup();
        }
        ensure!(marks.len() >= count, "{name} decoded {} frames of {url} and ended", marks.len());
        marks.truncate(count);
        Ok(marks)
    }

    fn command(self, url: &str, file: &Path, home: &Path) -> Command {
        let mut command = Command::new(match self {
            Self::Ffmpeg => "ffmpeg",
            Self::Mpv => "mpv",
            Self::Vlc => "setpriv",
            Self::GStreamer => "gst-launch-1.0",
        });
        let path = file.display().to_string();
        match self {
            Self::Ffmpeg => command
                .args([
                    "-nostdin",
                    "-loglevel",
                    "warning",
                    "-y",
                    "-i",
                    url,
                    "-map",
                    "0:v:0",
                    "-fps_mode",
                    "passthrough",
                ])
                .args(["-pix_fmt", "yuv420p", "-f", "rawvideo", &path]),
            Self::Mpv => command
                .args(["--no-config", "--no-audio", "--of=rawvideo", "--ovc=rawvideo", "--vf=format=yuv420p"])
                .args([&format!("--o={path}"), url]),
            Self::Vlc => {
                if crate::test_env::user() == 0 {
                    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]);
                }
                command.args([
                    "cvlc",
                    "--no-audio",
                    "--vout=yuv",
                    "--yuv-yuv4mpeg2",
                    "--yuv-chroma=I420",
                    "--no-drop-late-frames",
                    "--no-skip-frames",
                ]);
                command.args([&format!("--yuv-file={path}"), "--play-and-exit", url])
            }
            Self::GStreamer => command
                .args([
                    "-q",
                    "uridecodebin",
                    &format!("uri={url}"),
                    "name=d",
                    "d.",
                    "!",
                    "queue",
                    "!",
                    "videoconvert",
                    "!",
                ])
                .args([
                    "video/x-raw,format=I420",
                    "!",
                    "filesink",
                    &format!("location={path}"),
                    "buffer-mode=unbuffered",
                    "d.",
                    "!",
                    "queue",
                    "!",
                    "audioconvert",
                    "!",
                    "fakesink",
                ]),
        };
        command.env("HOME", home).env_remove("DISPLAY");
        command
    }
}

/// Reads frame numbers from raw video, or from YUV4MPEG2: a header line, then a line `FRAME` before each frame.
fn read_frame_numbers(path: &PathBuf, width: usize, height: usize) -> Result<Vec<Option<u32>>> {
    let bytes = std::fs::read(path)?;
    let size = width * height * 3 / 2;
    let read = |picture: &[u8]| frame_counter::read(picture, width, width, height).map(|mark| mark.counter);
    if !bytes.starts_with(b"YUV4MPEG2") {
        return Ok(bytes.chunks_exact(size).map(read).collect());
    }
    let line = bytes.iter().position(|byte| *byte == b'\n').context("no end of the header")?;
    let header = std::str::from_utf8(&bytes[..line])?;
    if !header.contains(&format!("W{width} H{height}")) {
        bail!("frames of another size: {header}");
    }
    let frames = bytes[line + 1..].chunks_exact(FRAME.len() + size);
    frames.map(|frame| frame.strip_prefix(FRAME).map(read).context("no FRAME line")).collect()
}

fn open_to_all(directory: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o777))?)
}

/// Frames that VLC may repeat.
const REPEATED: usize = 30;
const FRAME: &[u8] = b"FRAME\n";
/// Maximum length of VLC's header, bytes.
const Y4M_HEADER: usize = 100;
