//! The Unix socket by which `lab set` and `lab send` reach a running `lab up`: named after its process number, one command and its reply per
//! connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// A listening control socket; its file is removed on drop.
#[derive(Debug)]
pub(super) struct ControlSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Listens for commands to this process. Fails when the directory belongs to another user.
    pub(super) fn listen() -> Result<Self> {
        let directory = directory();
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        // In a world-writable directory another user may have created it first.
        let user = rustix::process::geteuid().as_raw();
        let owner = std::fs::metadata(&directory)?.uid();
        ensure!(owner == user, "{} belongs to another user", directory.display());
        let path = directory.join(format!("{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).with_context(|| format!("listen on {}", path.display()))?;
        Ok(Self { listener, path })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Reads the command of one connection, at most 4 KiB; [`reply`] answers it.
pub(super) fn read_command(stream: &UnixStream) -> Result<String> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_LINE)).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

/// Sends the outcome: `ok` or `error` on the first line, then the output or the error.
pub(super) fn reply(mut stream: UnixStream, outcome: &Result<String>) -> std::io::Result<()> {
    stream.set_write_timeout(Some(TIMEOUT))?;
    match outcome {
        Ok(said) => write!(stream, "ok\n{said}"),
        Err(error) => write!(stream, "error\n{error:#}"),
    }
}

/// Sends `line` to the network of process `pid`, or to the only running one, and returns its output.
pub(super) fn send(pid: Option<u32>, line: &str) -> Result<String> {
    let mut up = Vec::new();
    for entry in std::fs::read_dir(directory()).into_iter().flatten().flatten() {
        let path = entry.path();
        let owner = path.file_stem().and_then(|name| name.to_str()).and_then(|name| name.parse::<u32>().ok());
        match (owner, UnixStream::connect(&path)) {
            (Some(owner), Ok(stream)) if pid.is_none_or(|pid| pid == owner) => up.push((owner, stream)),
            (_, Ok(_)) => {}
            // A stale socket of a killed process.
            (_, Err(_)) => drop(std::fs::remove_file(&path)),
        }
    }
    let (_, mut stream) = match up.len() {
        0 => bail!("no such network is up; `lab up TOPOLOGY` creates one"),
        1 => up.remove(0),
        _ => {
            let pids: Vec<String> = up.iter().map(|(pid, _)| pid.to_string()).collect();
            bail!("several networks are up: choose one with --pid, of {}", pids.join(", "))
        }
    };
    stream.set_read_timeout(Some(TIMEOUT))?;
    writeln!(stream, "{line}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("no answer")?;
    match answer.split_once('\n') {
        Some(("ok", said)) => Ok(said.to_owned()),
        Some(("error", why)) => bail!("{why}"),
        _ => bail!("unexpected reply: {answer:?}"),
    }
}

/// The directory of control sockets: in /run for root, in the temporary directory for others.
fn directory() -> PathBuf {
    match crate::outer_uid::outer_uid() {
        0 => PathBuf::from("/run/nearcast-lab"),
        user => std::env::temp_dir().join(format!("nearcast-lab.{user}")),
    }
}

/// A command takes milliseconds; cutting a link on a busy machine may take seconds.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum bytes of a command.
const MAX_LINE: u64 = 4096;
