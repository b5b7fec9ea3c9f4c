//! Reverse proxies with the configurations of `deploy/proxy`, which the README recommends.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cdn::Cdn;
use crate::test_env::TestEnv;
use ::lab::{Process, TIMEOUT, until};

/// A proxy that serves a `cdn` below `/stream/`.
#[derive(Debug)]
pub struct ReverseProxy {
    /// Where it listens.
    pub address: SocketAddr,
    process: Process,
}

impl ReverseProxy {
    /// Starts nginx before `cdn`, with `deploy/proxy/nginx.conf` in its `server` block.
    pub fn nginx(env: &TestEnv, cdn: &Cdn) -> Result<Self> {
        let address = free_address()?;
        let location = env.path("location.conf");
        std::fs::write(&location, configuration("nginx.conf", &[(CDN, &cdn.http.to_string())])?)?;
        let directory = env.directory().display();
        let file = env.path("proxy.conf");
        let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("{name}_temp_path {directory}/{name};\n"))
            .collect();
        std::fs::write(
            &file,
            format!(
                "daemon off;\nmaster_process off;\npid {directory}/proxy.pid;\nerror_log /dev/stderr warn;\nevents {{}}\n\
                 http {{\naccess_log off;\n{paths}server {{ listen {address}; include {}; }}\n}}\n",
                location.display()
            ),
        )?;
        // Debian installs it in /usr/sbin, which is only in root's PATH.
        let program = if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" };
        let mut command = Command::new(program);
        command.arg("-p").arg(env.directory()).arg("-c").arg(&file);
        Self::start(env, "nginx", command, address)
    }

    /// Starts Caddy before `cdn`, with `deploy/proxy/Caddyfile`, without TLS.
    pub fn caddy(env: &TestEnv, cdn: &Cdn) -> Result<Self> {
        let address = free_address()?;
        let site = format!("http://{address}");
        let file = env.path("Caddyfile");
        let text = configuration("Caddyfile", &[(CDN, &cdn.http.to_string()), ("tv.example", &site)])?;
        std::fs::write(&file, format!("{{\n\tadmin off\n\tauto_https off\n}}\n{text}"))?;
        let mut command = Command::new("caddy");
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&file).env("HOME", env.directory());
        Self::start(env, "caddy", command, address)
    }

    fn start(env: &TestEnv, name: &str, mut command: Command, address: SocketAddr) -> Result<Self> {
        let mut process = env.spawn(name, &mut command)?;
        until(TIMEOUT, &format!("{name} to listen"), || {
            ensure!(process.running()?, "{name} ended");
            Ok(TcpStream::connect(address).ok().map(drop))
        })?;
        Ok(Self { address, process })
    }

    /// The URL of `path` below the proxy's own path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/stream/{path}", self.address)
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> Result<bool> {
        self.process.running()
    }
}

/// A file of `deploy/proxy` with texts replaced, each of which must be there.
fn configuration(name: &str, replacements: &[(&str, &str)]) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proxy").join(name);
    let mut text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    for (from, to) in replacements {
        ensure!(text.contains(from), "{name} has no {from}");
        text = text.replace(from, to);
    }
    Ok(text)
}

/// A free port: these proxies cannot report a port that the system assigned.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

/// The server's address in the configurations.
const CDN: &str = "127.0.0.1:8080";
