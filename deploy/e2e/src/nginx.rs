//! nginx with its RTMP module: a third-party server for the broadcaster.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::test_env::TestEnv;
use ::lab::Process;
use ::lab::{TIMEOUT, until};

/// A running nginx that accepts publishing and playing any stream of the application `live`.
#[derive(Debug)]
pub struct Nginx {
    /// The running process; it is killed on drop.
    pub process: Process,
    /// The RTMP listener's address.
    pub rtmp: SocketAddr,
}

impl Nginx {
    /// Starts nginx and waits until it listens.
    pub fn start(env: &TestEnv) -> Result<Self> {
        let rtmp = free_address()?;
        let directory = env.directory().display();
        let configuration = format!(
            "load_module {};\ndaemon off;\nmaster_process off;\npid {directory}/nginx.pid;\nerror_log /dev/stderr info;\n\
             events {{}}\nrtmp {{ access_log /dev/stdout; server {{ listen {rtmp}; chunk_size 4096; application live {{ live on; }} }} }}\n",
            module().unwrap_or("modules/ngx_rtmp_module.so")
        );
        let file = env.path("nginx.conf");
        std::fs::write(&file, configuration)?;
        // Debian installs it in /usr/sbin, which is only in root's PATH.
        let program = if std::path::Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" };
        let mut process =
            env.spawn("nginx", Command::new(program).arg("-p").arg(env.directory()).arg("-c").arg(&file))?;
        until(TIMEOUT, "nginx to listen", || {
            ensure!(process.running()?, "nginx ended");
            Ok(TcpStream::connect(rtmp).ok().map(drop))
        })?;
        Ok(Self { process, rtmp })
    }

    /// The URL to publish and play a stream: `rtmp://…/live/NAME`.
    pub fn url(&self, name: &str) -> String {
        format!("rtmp://{}/live/{name}", self.rtmp)
    }
}

fn module() -> Option<&'static str> {
    ["/usr/lib/nginx/modules/ngx_rtmp_module.so", "/usr/lib64/nginx/modules/ngx_rtmp_module.so"]
        .into_iter()
        .find(|path| std::path::Path::new(path).exists())
}

/// A free port: nginx cannot report a port that the system assigned.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}
