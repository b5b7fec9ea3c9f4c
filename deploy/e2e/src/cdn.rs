//! The server under test, on ports that the system assigns.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::http::{self, Response};
use crate::programs::program;
use crate::test_env::TestEnv;
use ::lab::Process;
use ::lab::{TIMEOUT, until};

/// A running `cdn` with its data in the test's directory.
#[derive(Debug)]
pub struct Cdn {
    /// The running process; it is killed on drop.
    pub process: Process,
    /// The RTMP listener's address.
    pub rtmp: SocketAddr,
    /// The HTTP listener's address.
    pub http: SocketAddr,
    data: PathBuf,
    options: Vec<String>,
}

impl Cdn {
    /// Starts a server with `options`.
    pub fn start(env: &TestEnv, options: &[&str]) -> Result<Self> {
        let data = env.path("cdn-data");
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (process, rtmp, http) = launch(env, &data, any, any, &options)?;
        Ok(Self { process, rtmp, http, data, options })
    }

    /// Kills the process, if it still runs, and starts it again on the same ports with the same data.
    pub fn restart(&mut self, env: &TestEnv) -> Result<()> {
        self.process.kill();
        let (process, ..) = launch(env, &self.data, self.rtmp, self.http, &self.options)?;
        self.process = process;
        Ok(())
    }

    /// Creates a stream key for `name`; no server needs to run.
    pub fn key(env: &TestEnv, name: &str) -> Result<String> {
        let made =
            Command::new(program("cdn")?).args(["key", "new", name, "--data"]).arg(env.path("cdn-data")).output()?;
        let said = String::from_utf8_lossy(&made.stdout).into_owned();
        ensure!(made.status.success(), "cdn key new: {said}{}", String::from_utf8_lossy(&made.stderr));
        let key = said.lines().last().and_then(|line| line.split_whitespace().last()).context("no key was printed")?;
        Ok(key.to_owned())
    }

    /// The URL to publish to with a key: `rtmp://…/live/KEY`.
    pub fn publish_url(&self, key: &str) -> String {
        format!("rtmp://{}/live/{key}", self.rtmp)
    }

    /// The RTMP URL of a stream: `rtmp://…/live/NAME`.
    pub fn rtmp_url(&self, name: &str) -> String {
        format!("rtmp://{}/live/{name}", self.rtmp)
    }

    /// The URL of a stream's multivariant playlist: `http://…/NAME/index.m3u8`.
    pub fn hls_url(&self, name: &str) -> String {
        format!("http://{}/{name}/index.m3u8", self.http)
    }

    /// The URL of a stream's page: `http://…/NAME`.
    pub fn page_url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.http)
    }

    /// Requests `path` by HTTP.
    pub fn get(&self, path: &str) -> Result<Response> {
        http::get(self.http, path)
    }

    /// The stream's object in the API. Fails unless the status is 200.
    pub fn stream(&self, name: &str) -> Result<Value> {
        let response = self.get(&format!("/api/v1/streams/{name}"))?;
        ensure!(response.status == 200, "{}: {}", response.status, response.text());
        Ok(serde_json::from_slice(&response.body)?)
    }

    /// Waits until the stream `name` is live.
    pub fn wait_live(&self, name: &str) -> Result<()> {
        until(TIMEOUT, &format!("stream {name} to be live"), || {
            let live = self.stream(name).is_ok_and(|stream| stream["state"] == "live");
            Ok(live.then_some(()))
        })
    }

    /// Waits until the media playlist of `name` has a segment, and returns the playlist.
    pub fn wait_segment(&self, name: &str) -> Result<String> {
        until(TIMEOUT, &format!("a segment of {name}"), || {
            let answer = self.get(&format!("/{name}/media.m3u8"))?;
            let text = answer.text();
            Ok((answer.status == 200 && text.contains("#EXTINF")).then_some(text))
        })
    }
}

fn launch(
    env: &TestEnv,
    data: &std::path::Path,
    rtmp: SocketAddr,
    http: SocketAddr,
    options: &[String],
) -> Result<(Process, SocketAddr, SocketAddr)> {
    let mut command = Command::new(program("cdn")?);
    command.args(["--rtmp", &rtmp.to_string(), "--http", &http.to_string(), "--log", "json", "--data"]).arg(data);
    // Without metrics there is one port less to collide on.
    command.args(options).env("NEARCAST_METRICS_LISTEN", "").env("NEARCAST_RELAY_LISTEN", "127.0.0.1:0");
    let mut process = env.spawn("cdn", &mut command)?;
    let line = process.line(TIMEOUT, "where it listens", |line| line.contains(r#""listening""#))?;
    let said: Value = serde_json::from_str(&line)?;
    let address = |name: &str| -> Result<SocketAddr> {
        Ok(said[name].as_str().with_context(|| format!("no {name} in {line}"))?.parse()?)
    };
    let (rtmp, http) = (address("rtmp")?, address("http")?);
    Ok((process, rtmp, http))
}
