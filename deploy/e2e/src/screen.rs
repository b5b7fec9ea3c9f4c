//! A real X11 screen without a monitor.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::process::Process;

/// An X server of our own.
#[derive(Debug)]
pub struct Screen {
    /// `:99`, for DISPLAY.
    pub display: String,
    server: Process,
}

impl Screen {
    /// Starts one with a single screen of `width` by `height`, on a display number that it finds free by itself.
    pub fn start(lab: &Lab, width: u32, height: u32) -> Result<Self> {
        let size = format!("{width}x{height}x24");
        let mut command = Command::new("Xvfb");
        // It writes the number it took to standard output once it accepts clients.
        command.args(["-displayfd", "1", "-screen", "0", &size, "-nolisten", "tcp", "-noreset"]);
        let mut server = lab.spawn("xvfb", &mut command)?;
        let number =
            server.line(Duration::from_secs(20), "its display number", |line| line.trim().parse::<u32>().is_ok())?;
        Ok(Self { display: format!(":{}", number.trim()), server })
    }

    /// Shows a moving test picture all over it.
    pub fn show_motion(&self, lab: &Lab) -> Result<Process> {
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
        lab.spawn("motion", &mut command)
    }

    /// Whether the server still runs.
    pub fn check(&mut self) -> Result<()> {
        self.server.running()?.then_some(()).context("the X server ended")
    }
}
