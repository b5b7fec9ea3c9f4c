//! The network of the LAN tests: a broadcaster and two viewers on one switch, and a CDN behind a router and a slower link.
//!
//! ```text
//!  broadcaster 10.77.0.10 ==== direct ====+
//!  viewer1     10.77.0.21 ----------------+ lan ---- 10.77.0.1 router 10.88.0.1 ==== wan ==== 10.88.0.2 cdn
//!  viewer2     10.77.0.22 ----------------+                      |
//!  broadcaster 10.99.0.10 ---------------------------- 10.99.0.1 +
//! ```
//!
//! The broadcaster has a second uplink, so that its direct link can fail while the push continues.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ::lab::link::Link;
use ::lab::link::shape::Shape;
use ::lab::network::{Network, Switch};
use ::lab::{Host, Lateness};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::broadcaster::Broadcaster;
use crate::cdn::Cdn;
use crate::http;
use crate::programs::program;
use crate::test_env::TestEnv;
use crate::unit_log::Unit;
use crate::viewer::Viewer;
use ::lab::{Process, TIMEOUT};

/// The network with its CDN. Dropped in the order of the fields: programs before the network that they run in.
pub struct LanTestbed {
    cdn_process: Option<Process>,
    /// Where the programs of this network keep their data and logs.
    pub env: TestEnv,
    key: String,
    /// The broadcaster's host.
    pub broadcaster: Host,
    /// The hosts of the viewers.
    pub viewers: [Arc<Host>; 2],
    /// The host of the CDN.
    pub cdn: Arc<Host>,
    /// The link between the broadcaster and the switch.
    pub direct: Arc<Link>,
    /// The link between the second viewer and the switch.
    pub second: Arc<Link>,
    /// The broadcaster's other way out, which the push takes.
    pub uplink: Arc<Link>,
    /// The link between the router and the switch: it carries only the viewers' traffic with the CDN.
    cdn_downlink: Arc<Link>,
    /// The link between the router and the CDN.
    pub wan: Arc<Link>,
    _router: Host,
    _switch: Switch,
    network: Network,
}

impl LanTestbed {
    /// Creates the network, and starts the CDN on it.
    pub fn build() -> Result<Self> {
        let env = TestEnv::new()?;
        let mut network = Network::new(SEED)?;
        let switch = network.switch("lan")?;
        let router = network.host("router")?;
        let broadcaster = network.host("broadcaster")?;
        let viewers: [Arc<Host>; 2] = [network.host("viewer1")?.into(), network.host("viewer2")?.into()];
        let cdn: Arc<Host> = network.host("cdn")?.into();
        let direct = network.link("direct", broadcaster.at(BROADCASTER), switch.port(), [LAN; 2])?;
        network.cable(viewers[0].at(VIEWERS[0]), switch.port())?;
        let second = network.link("second", viewers[1].at(VIEWERS[1]), switch.port(), [Shape::PERFECT; 2])?;
        let cdn_downlink = network.link("cdn-downlink", router.at(ROUTER), switch.port(), [Shape::PERFECT; 2])?;
        for viewer in &viewers {
            viewer.default_route(ROUTER)?;
        }
        let uplink = network.link("uplink", broadcaster.at(UPLINK), router.at(ROUTER_UPLINK), [Shape::PERFECT; 2])?;
        broadcaster.default_route(ROUTER_UPLINK)?;
        let wan = network.link("wan", router.at(ROUTER_WAN), cdn.at(CDN), [WAN; 2])?;
        cdn.default_route(ROUTER_WAN)?;
        router.forward_packets()?;
        let key = Cdn::key(&env, "live")?;
        let mut testbed = Self {
            cdn_process: None,
            env,
            key,
            broadcaster,
            viewers,
            cdn,
            direct,
            second,
            uplink,
            cdn_downlink,
            wan,
            _router: router,
            _switch: switch,
            network,
        };
        testbed.start_cdn()?;
        Ok(testbed)
    }

    /// Routes all traffic of the broadcaster over its direct link.
    pub fn one_way_out(&self) -> Result<()> {
        self.broadcaster.default_route(ROUTER)
    }

    /// Starts the CDN on fixed ports.
    pub fn start_cdn(&mut self) -> Result<()> {
        let mut command = self.cdn.command(program("cdn")?);
        command.args([
            "--rtmp",
            "0.0.0.0:1935",
            "--http",
            "0.0.0.0:8080",
            "--relay",
            "0.0.0.0:4443",
            "--metrics",
            "off",
        ]);
        command.args(["--log", "json", "--public-host", &CDN.to_string(), "--data"]).arg(self.env.path("cdn-data"));
        let mut process = self.env.spawn("cdn", &mut command)?;
        process.line(TIMEOUT, "where it listens", |line| line.contains(r#""listening""#))?;
        self.cdn_process = Some(process);
        Ok(())
    }

    /// The running CDN. Fails if there is none.
    pub fn cdn_process(&self) -> Result<&Process> {
        self.cdn_process.as_ref().context("no cdn runs")
    }

    /// Kills the CDN with SIGKILL. Fails if none runs.
    pub fn kill_cdn(&mut self) -> Result<()> {
        self.cdn_process.take().context("there is no cdn to kill")?.kill();
        Ok(())
    }

    /// Kills the CDN, if one runs.
    pub fn stop_cdn(&mut self) {
        self.cdn_process = None;
    }

    /// Starts a broadcaster with a small test pattern, which serves LAN viewers at its LAN address only.
    pub fn broadcast(&self, options: &[&str]) -> Result<Broadcaster> {
        self.broadcast_at("500k", options)
    }

    /// Starts one with another video bitrate.
    pub fn broadcast_at(&self, bitrate: &str, options: &[&str]) -> Result<Broadcaster> {
        self.broadcast_with(&[&["--bitrate", bitrate][..], &Broadcaster::SMALL, options].concat())
    }

    /// Starts one with a tiny test pattern, for runs in which many programs share the processor.
    pub fn broadcast_tiny(&self) -> Result<Broadcaster> {
        self.broadcast_with(
            &"--source test --audio tone --size 320x180 --fps 15 --bitrate 200k".split(' ').collect::<Vec<_>>(),
        )
    }

    fn broadcast_with(&self, options: &[&str]) -> Result<Broadcaster> {
        let command = self.broadcaster.command(program("broadcaster")?);
        let url = format!("rtmp://{CDN}/live/{}", self.key);
        let listen = format!("{BROADCASTER}:{PEER_PORT}");
        Broadcaster::start_command(&self.env, command, &url, &[&["--lan-listen", &listen][..], options].concat())
    }

    /// Starts one on its own terminal, where it shows its pairing code. Returns it with its LAN address and the code.
    pub fn broadcast_with_code(&self) -> Result<(Broadcaster, String, String)> {
        let mut command = self.broadcaster.command("script");
        // `script` provides a terminal and copies its content to standard output.
        let listen = format!("{BROADCASTER}:{PEER_PORT}");
        let line = format!(
            "{} --log text --lan-listen {listen} {} rtmp://{CDN}/live/{}",
            program("broadcaster")?.display(),
            Broadcaster::SMALL.join(" "),
            self.key
        );
        command.args(["-q", "-f", "-c", &line, "/dev/null"]);
        let mut broadcaster = Broadcaster::on_a_terminal(&self.env, command)?;
        let shown = broadcaster.process.line(TIMEOUT, "its code", |line| line.contains("--pairing-code "))?;
        let code = shown.split("--pairing-code ").nth(1).context("no code")?.trim().to_owned();
        Ok((broadcaster, listen, code))
    }

    /// Starts a viewer of the stream's page on one of the two hosts.
    pub fn watch(&self, host: usize, options: &[&str]) -> Result<Viewer> {
        self.watch_url(host, &format!("http://{CDN}:8080/live"), options)
    }

    /// Starts a viewer of `url` on one of the two hosts.
    pub fn watch_url(&self, host: usize, url: &str, options: &[&str]) -> Result<Viewer> {
        self.watch_from(&self.viewers[host], url, options)
    }

    /// Starts a viewer of `url` on any host.
    pub fn watch_from(&self, host: &Host, url: &str, options: &[&str]) -> Result<Viewer> {
        let mut command = host.command(program("viewer")?);
        command.env("RUST_LOG", "info,viewer::source=debug");
        Viewer::start_command(&self.env, command, url, &[&["--log", "json"], options].concat())
    }

    /// Starts a viewer that discovers the broadcaster with the pairing code `code`.
    pub fn watch_lan(&self, host: usize, code: &str) -> Result<Viewer> {
        let command = self.viewers[host].command(program("viewer")?);
        Viewer::start_command(&self.env, command, "--lan", &["--log", "json", "--pairing-code", code])
    }

    /// Requests `path` from the CDN on one of the viewers' hosts, and parses the JSON. Fails unless the status is 200.
    pub fn ask(&self, host: usize, path: &str) -> Result<Value> {
        let response = self.viewers[host].run(|| http::get((CDN, 8080).into(), path))??;
        ensure!(response.status == 200, "{}: {}", response.status, response.text());
        Ok(serde_json::from_slice(&response.body)?)
    }

    /// Bytes sent from the CDN to the viewers so far.
    pub fn cdn_link_bytes(&self) -> u64 {
        self.cdn_downlink.stats().a_to_b.sent_bytes
    }

    /// The traffic from the CDN, relative to one copy of the stream.
    pub fn share_of_cdn_link(&self, left: &[Unit]) -> Result<f64> {
        ensure!(!left.is_empty(), "nothing left");
        Ok(self.cdn_link_bytes() as f64 / self.payload_bytes(left.len()) as f64)
    }

    /// The approximate size of this many units: 500 kbit/s of video and 128 kbit/s of audio, with 30 and 47 units per second.
    pub fn payload_bytes(&self, units: usize) -> u64 {
        units as u64 * (500_000 + 128_000) / 8 / 77
    }

    /// How late the emulated links were so far.
    pub fn lateness(&self) -> Lateness {
        self.network.lateness()
    }
}

/// Both directions of the broadcaster's direct link: 8 ms, as in the paper.
pub const LAN: Shape = Shape { delay: Duration::from_millis(8), ..Shape::PERFECT };
/// Both directions of the link to the CDN: 30 ms, as in the paper.
pub const WAN: Shape = Shape { delay: Duration::from_millis(30), rate: Some(20_000_000), ..Shape::PERFECT };
/// The broadcaster's address on the LAN.
pub const BROADCASTER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);
/// The addresses of the viewers.
pub const VIEWERS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 21), Ipv4Addr::new(10, 77, 0, 22)];
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const UPLINK: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 10);
const ROUTER_UPLINK: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const ROUTER_WAN: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
/// The CDN's address.
pub const CDN: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
/// The port at which the broadcaster serves LAN viewers.
pub const PEER_PORT: u16 = 4444;
const SEED: u64 = 20_201_105;
