//! A virtual machine: Debian's stock kernel under qemu's software emulation, with drivers and queueing disciplines that the host may lack, and the
//! programs under test.
//!
//! `deploy/test` builds the image (deploy/guest/image) and sets its directory in `NEARCAST_GUEST`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::{Process, TestEnv, until};

/// A running virtual machine with a shell on its second serial port.
#[derive(Debug)]
pub struct QemuVm {
    shell: UnixStream,
    commands: u32,
    _qemu: Process,
}

impl QemuVm {
    /// Boots it and waits for its shell. Fails without an image, and when it does not boot in time.
    pub fn boot(env: &TestEnv) -> Result<Self> {
        let image: PathBuf = std::env::var_os("NEARCAST_GUEST")
            .context("no NEARCAST_GUEST: run deploy/test --only webcam --only netem")?
            .into();
        let (console, socket) = (env.path("console.log"), env.path("shell"));
        let mut command = Command::new("qemu-system-x86_64");
        // Software emulation works in any sandbox and behaves the same everywhere.
        command.args([
            "-accel",
            "tcg,thread=multi",
            "-m",
            "1280",
            "-smp",
            "2",
            "-nodefaults",
            "-no-reboot",
            "-display",
            "none",
        ]);
        command.args([
            "-append",
            "console=ttyS0 quiet panic=-1",
            "-nic",
            "user,model=virtio-net-pci",
            "-device",
            "virtio-gpu-pci",
        ]);
        command.arg("-kernel").arg(image.join("vmlinuz")).arg("-initrd").arg(image.join("initramfs"));
        command.arg("-serial").arg(format!("file:{}", console.display()));
        command.arg("-serial").arg(format!("unix:{},server=on,wait=off", socket.display()));
        let mut qemu = env.spawn("qemu", &mut command)?;
        until(BOOT_TIMEOUT, "the emulated machine to boot", || {
            ensure!(qemu.running()?, "qemu ended");
            Ok(read(&console).contains("init: ready").then_some(()))
        })
        .with_context(|| read(&console))?;
        let shell = UnixStream::connect(&socket)?;
        Ok(Self { shell, commands: 0, _qemu: qemu })
    }

    /// Runs one shell command and returns its output. Fails after `within`.
    pub fn run(&mut self, line: &str, within: Duration) -> Result<String> {
        self.commands += 1;
        let end = format!("[end of command {}]", self.commands);
        writeln!(self.shell, "{line}\necho '[end of'' command {}]'", self.commands)?;
        let deadline = Instant::now() + within;
        let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("`{line}` took longer than {within:?} in the guest: {}", String::from_utf8_lossy(&said));
            }
            self.shell.set_read_timeout(Some(left))?;
            match self.shell.read(&mut buffer) {
                Ok(0) => bail!("the guest closed its serial port"),
                Ok(n) => said.extend_from_slice(&buffer[..n]),
                Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => continue,
                Err(e) => return Err(e.into()),
            }
            let text = String::from_utf8_lossy(&said);
            if let Some(at) = text.find(&end) {
                return Ok(text[..at].to_owned());
            }
        }
    }
}

fn read(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// The address of the host's loopback in qemu's user network.
pub const HOST_FROM_GUEST: &str = "10.0.2.2";
/// Timeout for what takes a second on an idle machine: an emulated CPU is about thirty times slower than its host.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);
/// Timeout for what takes ten seconds on an idle machine.
pub const BOOT_TIMEOUT: Duration = Duration::from_secs(300);
