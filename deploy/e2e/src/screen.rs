//! A real X11 screen without a monitor, looked at by ffmpeg, and a keyboard for it.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use media::frame_counter;

use crate::test_env::TestEnv;
use ::lab::Process;
use ::lab::{TIMEOUT, until};

/// An X server of our own.
#[derive(Debug)]
pub struct Screen {
    /// `:99`, for DISPLAY.
    pub display: String,
    server: Process,
    size: (usize, usize),
}

/// What is in one window at one moment.
#[derive(Clone, Debug)]
pub struct Screenshot {
    /// A byte a pixel, lines from the top.
    pub luma: Vec<u8>,
    /// Pixels.
    pub width: usize,
    /// Lines.
    pub height: usize,
}

impl Screen {
    /// Starts one with a single screen of `width` by `height`, on a display number that it finds free by itself.
    pub fn start(env: &TestEnv, width: u32, height: u32) -> Result<Self> {
        let size = format!("{width}x{height}x24");
        let mut command = Command::new("Xvfb");
        // It writes the number it took to standard output once it accepts clients.
        command.args(["-displayfd", "1", "-screen", "0", &size, "-nolisten", "tcp", "-noreset"]);
        let mut server = env.spawn("xvfb", &mut command)?;
        let number = server.line(TIMEOUT, "its display number", |line| line.trim().parse::<u32>().is_ok())?;
        Ok(Self { display: format!(":{}", number.trim()), server, size: (width as usize, height as usize) })
    }

    /// Shows a moving test picture all over it.
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

    /// Manages its windows, without decoration: nobody else makes one cover the screen.
    pub fn manage(&self, env: &TestEnv) -> Result<Process> {
        let mut command = Command::new("evilwm");
        // The one font that needs no package.
        command.args(["-bw", "0", "-fn", "fixed"]).env("DISPLAY", &self.display);
        env.spawn("evilwm", &mut command)
    }

    /// Waits for a window whose title contains `title`, gives it the keyboard, and gives its number.
    pub fn window(&self, title: &str) -> Result<String> {
        until(TIMEOUT, &format!("a window named {title}"), || {
            let found = self.xdotool(&["search", "--onlyvisible", "--name", title]).unwrap_or_default();
            let Some(window) = found.lines().next() else { return Ok(None) };
            // It may be about to change its size, and then not be there for a moment.
            Ok(self.xdotool(&["windowfocus", window]).is_ok().then(|| window.to_owned()))
        })
    }

    /// Presses and releases a key, by its X name, in the window that has the keyboard.
    pub fn press(&self, key: &str) -> Result<()> {
        self.xdotool(&["key", key]).map(drop)
    }

    /// What is in a window now. The whole screen is kept as `NAME.png` beside the logs.
    pub fn shot(&self, env: &TestEnv, window: &str, name: &str) -> Result<Screenshot> {
        let geometry = self.xdotool(&["getwindowgeometry", "--shell", window])?;
        let number = |key: &str| -> Result<usize> {
            let line = geometry.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.and_then(|value| value.parse().ok()).with_context(|| format!("no {key} in {geometry}"))
        };
        let (x, y, width, height) = (number("X")?, number("Y")?, number("WIDTH")?, number("HEIGHT")?);
        let (across, down) = self.size;
        ensure!(x + width <= across && y + height <= down, "the window is not all on the screen: {geometry}");
        let grabbed = Command::new("ffmpeg")
            .args(["-nostdin", "-loglevel", "error", "-y", "-f", "x11grab", "-draw_mouse", "0"])
            .args(["-video_size", &format!("{across}x{down}"), "-i", &self.display])
            .args(["-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "gray", "-", "-frames:v", "1", "-update", "1"])
            .arg(env.path(&format!("{name}.png")))
            .output()?;
        let said = String::from_utf8_lossy(&grabbed.stderr);
        ensure!(grabbed.stdout.len() == across * down, "the screen was not grabbed: {said}");
        let lines = grabbed.stdout.chunks_exact(across).skip(y).take(height);
        Ok(Screenshot { luma: lines.flat_map(|line| &line[x..x + width]).copied().collect(), width, height })
    }

    fn xdotool(&self, arguments: &[&str]) -> Result<String> {
        let done = Command::new("xdotool").args(arguments).env("DISPLAY", &self.display).output().context("xdotool")?;
        ensure!(done.status.success(), "xdotool {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// Whether the server still runs.
    pub fn check(&mut self) -> Result<()> {
        self.server.running()?.then_some(()).context("the X server ended")
    }
}

impl Screenshot {
    /// The number of the picture that is shown.
    pub fn frame_number(&self) -> Option<u32> {
        frame_counter::read(&self.luma, self.width, self.width, self.height).map(|mark| mark.counter)
    }

    /// The share of pixels that are almost black or white between the given shares of the width and of the height.
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
