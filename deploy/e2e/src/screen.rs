//! A virtual X11 screen (Xvfb): screenshots by ffmpeg, key presses by xdotool.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use media::frame_counter;

use crate::test_env::TestEnv;
use ::lab::Process;
use ::lab::{TIMEOUT, until};

/// A running X server.
#[derive(Debug)]
pub struct Screen {
    /// The value for DISPLAY, such as `:99`.
    pub display: String,
    server: Process,
    size: (usize, usize),
}

/// The content of a window at one moment.
#[derive(Clone, Debug)]
pub struct Screenshot {
    /// One byte per pixel, lines from top to bottom.
    pub luma: Vec<u8>,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
}

impl Screen {
    /// Starts a server with one screen of `width` by `height` pixels, on a free display number.
    pub fn start(env: &TestEnv, width: u32, height: u32) -> Result<Self> {
        let size = format!("{width}x{height}x24");
        let mut command = Command::new("Xvfb");
        // It prints its display number once it accepts clients.
        command.args(["-displayfd", "1", "-screen", "0", &size, "-nolisten", "tcp", "-noreset"]);
        let mut server = env.spawn("xvfb", &mut command)?;
        let number = server.line(TIMEOUT, "its display number", |line| line.trim().parse::<u32>().is_ok())?;
        Ok(Self { display: format!(":{}", number.trim()), server, size: (width as usize, height as usize) })
    }

    /// Shows a moving test pattern in full screen.
    pub fn show_motion(&self, env: &TestEnv) -> Result<Process> {
        let mut command = Command::new("mpv");
        command.args([
            "--no-config",
            "--no-terminal",
            "--vo=x11",
            "--ao=null",
            "--fullscreen",
            "--loop",
            "--no-osc",
            "--really-quiet",
        ]);
        command.arg("av://lavfi:testsrc2=size=640x360:rate=30").env("DISPLAY", &self.display);
        env.spawn("motion", &mut command)
    }

    /// Starts a window manager without decorations, which full screen requires.
    pub fn manage(&self, env: &TestEnv) -> Result<Process> {
        let mut command = Command::new("evilwm");
        // The only font that needs no package.
        command.args(["-bw", "0", "-fn", "fixed"]).env("DISPLAY", &self.display);
        env.spawn("evilwm", &mut command)
    }

    /// Waits for a window whose title contains `title`, focuses it, and returns its id.
    pub fn window(&self, title: &str) -> Result<String> {
        until(TIMEOUT, &format!("a window named {title}"), || {
            let found = self.xdotool(&["search", "--onlyvisible", "--name", title]).unwrap_or_default();
            let Some(window) = found.lines().next() else { return Ok(None) };
            // A window that is being resized may be unmapped for a moment.
            Ok(self.xdotool(&["windowfocus", window]).is_ok().then(|| window.to_owned()))
        })
    }

    /// Presses and releases a key, by its X name, in the focused window.
    pub fn press(&self, key: &str) -> Result<()> {
        self.xdotool(&["key", key]).map(drop)
    }

    /// Takes a screenshot of a window; `None` while it exceeds the screen, as it may for a moment when its place and its size change. The whole screen
    /// is saved as `NAME.png` in the directory of the logs.
    pub fn shot(&self, env: &TestEnv, window: &str, name: &str) -> Result<Option<Screenshot>> {
        let geometry = self.xdotool(&["getwindowgeometry", "--shell", window])?;
        let number = |key: &str| -> Result<usize> {
            let line = geometry.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.and_then(|value| value.parse().ok()).with_context(|| format!("no {key} in {geometry}"))
        };
        let (x, y, width, height) = (number("X")?, number("Y")?, number("WIDTH")?, number("HEIGHT")?);
        let (across, down) = self.size;
        if x + width > across || y + height > down {
            return Ok(None);
        }
        let grabbed = Command::new("ffmpeg")
            .args(["-nostdin", "-loglevel", "error", "-y", "-f", "x11grab", "-draw_mouse", "0"])
            .args(["-video_size", &format!("{across}x{down}"), "-i", &self.display])
            .args(["-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "gray", "-", "-frames:v", "1", "-update", "1"])
            .arg(env.path(&format!("{name}.png")))
            .output()?;
        let said = String::from_utf8_lossy(&grabbed.stderr);
        ensure!(grabbed.stdout.len() == across * down, "the screen was not grabbed: {said}");
        let lines = grabbed.stdout.chunks_exact(across).skip(y).take(height);
        Ok(Some(Screenshot { luma: lines.flat_map(|line| &line[x..x + width]).copied().collect(), width, height }))
    }

    fn xdotool(&self, arguments: &[&str]) -> Result<String> {
        let done = Command::new("xdotool").args(arguments).env("DISPLAY", &self.display).output().context("xdotool")?;
        ensure!(done.status.success(), "xdotool {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// Fails if the server has ended.
    pub fn check(&mut self) -> Result<()> {
        self.server.running()?.then_some(()).context("the X server ended")
    }
}

impl Screenshot {
    /// The burnt-in number of the displayed frame; `None` if unreadable.
    pub fn frame_number(&self) -> Option<u32> {
        frame_counter::read(&self.luma, self.width, self.width, self.height).map(|mark| mark.counter)
    }

    /// The share of almost black or white pixels in a region, given as ranges of 0 to 1 of the width and height.
    pub fn extremes(&self, across: std::ops::Range<f64>, down: std::ops::Range<f64>) -> f64 {
        let share = |range: std::ops::Range<f64>, of: usize| {
            (range.start * of as f64) as usize..(range.end * of as f64) as usize
        };
        let (columns, lines) = (share(across, self.width), share(down, self.height));
        let region = || lines.clone().flat_map(|y| &self.luma[y * self.width..][columns.clone()]);
        let count = region().filter(|luma| !(24..=231).contains(*luma)).count();
        count as f64 / region().count().max(1) as f64
    }
}
