//! The server under test: a child process pinned to its own core.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::{Address, program};

/// A running server. Dropping it kills it.
pub(crate) struct Server {
    pub(crate) address: Address,
    /// Stream key to publish with.
    pub(crate) key: String,
    child: Child,
    _data: tempfile::TempDir,
}

impl Server {
    /// `cdn`, writing with this engine.
    pub(crate) fn cdn(engine: &str) -> anyhow::Result<Self> {
        let data = tempfile::tempdir()?;
        let key = program::binary().args(["key", "new", "live", "--data"]).arg(data.path()).output()?;
        let key = String::from_utf8(key.stdout)?.trim().to_owned();
        let mut command = program::cdn(data.path());
        command.args(["--log", "json", "--log-level", "warn", "--fanout", engine]);
        Self::start(command, key, data)
    }

    /// The floor: plain writes of a shared buffer to every socket.
    pub(crate) fn floor() -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--floor");
        Self::start(command, "live".into(), tempfile::tempdir()?)
    }

    /// nginx with its RTMP module, as Debian packages it.
    pub(crate) fn nginx() -> anyhow::Result<Self> {
        let data = tempfile::tempdir()?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let configuration = format!(
            "load_module /usr/lib/nginx/modules/ngx_rtmp_module.so; daemon off; master_process off; pid {0}/pid; error_log {0}/log;
             events {{ worker_connections 4096; }}
             rtmp {{ server {{ listen 127.0.0.1:{port}; chunk_size 4096; application live {{ live on; }} }} }}",
            data.path().display()
        );
        let file = data.path().join("nginx.conf");
        fs::write(&file, configuration)?;
        // It does not report when it listens, so retry while connections are refused.
        let mut command = Command::new("sh");
        command.args(["-c", "echo '{\"event\":\"listening\",\"rtmp\":\"127.0.0.1:'$1'\"}'; exec nginx -c $0"]);
        command.arg(&file).arg(port.to_string());
        let server = Self::start(command, "live".into(), data)?;
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while std::net::TcpStream::connect(server.address).is_err() {
            if std::time::Instant::now() > deadline {
                bail!("nginx does not listen; is libnginx-mod-rtmp installed?");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    fn start(mut command: Command, key: String, data: tempfile::TempDir) -> anyhow::Result<Self> {
        // The child inherits the core, and sizes itself for it.
        pin_to(SERVER_CORE)?;
        let child = command.stdout(Stdio::piped()).spawn();
        pin_to(LOAD_CORE)?;
        let mut child = child.with_context(|| format!("{command:?}"))?;
        let out = BufReader::new(child.stdout.take().context("stdout")?);
        for line in out.lines() {
            let event: serde_json::Value = serde_json::from_str(&line?)?;
            if event["event"] == "listening" {
                let address = event["rtmp"].as_str().context("rtmp")?.parse()?;
                return Ok(Self { address, key, child, _data: data });
            }
        }
        bail!("the server ended before it listened")
    }

    /// CPU time of its threads, user and system.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let mut nanos = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            nanos += text.split_whitespace().next().context("schedstat")?.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/statm", self.child.id()))?;
        let pages: u64 = text.split_whitespace().nth(1).context("statm")?.parse()?;
        Ok(pages * rustix::param::page_size() as u64)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps the calling thread, and those that it starts, on one core.
pub(crate) fn pin_to(core: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).with_context(|| format!("cannot use core {core}"))
}

/// CPU core that the server is pinned to.
pub(crate) const SERVER_CORE: usize = 0;
/// CPU core that the publisher and the players are pinned to.
pub(crate) const LOAD_CORE: usize = 1;
