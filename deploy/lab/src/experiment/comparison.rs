//! `comparison`: RTMP latency and CPU time per viewer of Nearcast's server and others, one after the other in one run.
//!
//! Besides nginx with its RTMP module, any server can be measured that listens on 0.0.0.0:1935 and accepts publishing and playing `live/live`:
//! `lab run comparison --server NAME=COMMAND`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::outcome::{Outcome, quantile, round, sorted};
use super::pictures;
use super::probe::now;
use super::testbed::Testbed;
use crate::figure::{Axis, Figure, Mark, PALETTE, Panel, Row};
use crate::host::Host;
use crate::latency_bound::{FRAMING, LatencyBounds};
use crate::process::Process;
use crate::wait::until;

/// The result of one server at one number of players.
struct ServerSample {
    server: String,
    players: usize,
    /// Encoder-to-viewer latency, milliseconds, ascending.
    delays: Vec<f64>,
    /// The server's CPU time per viewer-second in milliseconds, the measured viewer included.
    cost: f64,
}

pub(super) fn run(testbed: &Testbed) -> Result<Outcome> {
    let player_counts: &[usize] = if testbed.quick { &[0, 4] } else { &PLAYER_COUNTS };
    let mut servers = vec![("Nearcast".to_owned(), None), ("nginx-rtmp".to_owned(), None)];
    servers.extend(testbed.other_servers.iter().map(|(name, command)| (name.clone(), Some(command.as_str()))));
    let mut samples = Vec::new();
    let mut faults = Vec::new();
    let mut lateness = None;
    for (name, command) in &servers {
        let topology = testbed.topology(include_str!("../../topologies/rack.toml"))?;
        let bounds = LatencyBounds::new(FRAMING, &[], &[], &[]);
        let built = topology.build()?;
        let (source, host, player_host) = (built.host("broadcaster")?, built.host("server")?, built.host("players")?);
        let address = host.address().context("the server's host has no address")?;
        let (server, key) = match (name.as_str(), command) {
            ("Nearcast", None) => {
                let key = testbed.key()?;
                (testbed.cdn(host)?, key)
            }
            ("nginx-rtmp", None) => (nginx(testbed, host)?, "live".to_owned()),
            (_, command) => (other(testbed, host, name, command.unwrap_or_default())?, "live".to_owned()),
        };
        let options = [&pictures::STREAM[..], &["--no-lan"]].concat();
        let mut broadcaster = testbed.broadcaster(source, &format!("rtmp://{address}/live/{key}"), &options)?;
        broadcaster.wait_pictures("pushed", "", 30, 0, START)?;
        let url = format!("rtmp://{address}/live/live");
        let mut viewer = testbed.viewer(&format!("viewer.{name}"), player_host, &url, &[])?;
        viewer.wait_pictures("received", "", 60, 0, START)?;
        let mut players: Vec<Process> = Vec::new();
        let mut spans = Vec::new();
        for size in player_counts {
            while players.len() < *size {
                let mut player = player_host.command("ffmpeg");
                player.args(["-nostdin", "-loglevel", "error", "-i", &url, "-c", "copy", "-f", "null", "-"]);
                players.push(testbed.start(&format!("player.{name}.{}", players.len()), &mut player)?);
            }
            // Time for the players to join.
            std::thread::sleep(testbed.seconds(5, 2));
            let (from, before) = (now(), server.processor_time()?);
            std::thread::sleep(testbed.seconds(10, 3));
            let (to, after) = (now(), server.processor_time()?);
            for player in &mut players {
                ensure!(player.running()?, "a player of {name} ended: {}", player.err());
            }
            let cost = (after - before).as_secs_f64() * 1e9 / ((to - from) as f64 * (*size as f64 + 1.0));
            spans.push((*size, from, to, cost));
        }
        drop(players);
        let summary = viewer.finish()?;
        if name == "Nearcast" {
            faults.extend(pictures::faults(&summary));
        }
        broadcaster.finish()?;
        let pictures = pictures::join(&broadcaster.rows()?, &viewer.rows()?, &bounds);
        for (count, from, to, cost) in spans {
            let within = pictures.iter().filter(|picture| (from..to).contains(&picture.encoded));
            let delays = sorted(within.map(|picture| picture.delay_ms()));
            samples.push(ServerSample { server: name.clone(), players: count, delays, cost });
        }
        lateness = Some(built.network.lateness());
    }
    Ok(Outcome {
        findings: json!({ "samples": samples.iter().map(ServerSample::findings).collect::<Vec<_>>() }),
        lines: samples.iter().map(ServerSample::line).collect(),
        columns: &["server", "viewers", "delay_p50_ms", "delay_p99_ms", "cpu_ms_per_viewer_second"],
        rows: samples.iter().map(ServerSample::row).collect(),
        figure: figure(&samples, player_counts),
        faults,
        lateness: lateness.context("no server was measured")?,
        // No link is emulated here, so there is no timing error.
        invalid: None,
    })
}

fn nginx(testbed: &Testbed, host: &Host) -> Result<Process> {
    let module = ["/usr/lib/nginx/modules/ngx_rtmp_module.so", "/usr/lib64/nginx/modules/ngx_rtmp_module.so"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .context("nginx's RTMP module is not installed (Debian: nginx-light, libnginx-mod-rtmp)")?;
    let directory = testbed.path("");
    let text = format!(
        "load_module {module};\ndaemon off;\nmaster_process off;\npid {directory}/nginx.pid;\nerror_log /dev/stderr warn;\n\
         events {{}}\nrtmp {{ access_log off; server {{ listen 1935; chunk_size 4096; application live {{ live on; }} }} }}\n",
        directory = directory.display()
    );
    let file = testbed.path("nginx.conf");
    std::fs::write(&file, text)?;
    // Debian installs it in /usr/sbin, which is only in root's PATH.
    let program = if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" };
    let mut command = host.command(program);
    command.arg("-p").arg(&directory).arg("-c").arg(&file);
    listening(testbed, host, "nginx", command)
}

fn other(testbed: &Testbed, host: &Host, name: &str, line: &str) -> Result<Process> {
    let mut command = host.command("sh");
    // exec, so that the CPU time of the process is that of the server.
    command.args(["-c", &format!("exec {line}")]);
    listening(testbed, host, name, command)
}

/// Starts a server and waits until it accepts connections.
fn listening(testbed: &Testbed, host: &Host, name: &str, mut command: Command) -> Result<Process> {
    let address = host.address().context("the server's host has no address")?;
    let mut process = testbed.start(name, &mut command)?;
    until(START, &format!("{name} to listen"), || {
        ensure!(process.running()?, "{name} ended: {}", process.log());
        Ok(host.run(|| std::net::TcpStream::connect((address, 1935)))?.ok().map(drop))
    })?;
    Ok(process)
}

impl ServerSample {
    fn delay(&self, q: f64) -> Option<f64> {
        quantile(&self.delays, q)
    }

    fn findings(&self) -> Value {
        json!({
            "server": self.server, "viewers": self.players + 1, "cpu_ms_per_viewer_second": round(self.cost),
            "delay_ms": { "p50": self.delay(0.5).map(round), "p99": self.delay(0.99).map(round) },
        })
    }

    fn line(&self) -> String {
        let ms = |q| self.delay(q).map_or("-".to_owned(), |value| format!("{value:.1}"));
        format!(
            "{:<12} {:>3} viewers: latency p50 {} ms, p99 {} ms; {:.2} ms of CPU time per viewer-second",
            self.server,
            self.players + 1,
            ms(0.5),
            ms(0.99),
            self.cost
        )
    }

    fn row(&self) -> Vec<String> {
        let number = |value: Option<f64>| value.map_or(String::new(), |value| round(value).to_string());
        vec![
            self.server.clone(),
            (self.players + 1).to_string(),
            number(self.delay(0.5)),
            number(self.delay(0.99)),
            round(self.cost).to_string(),
        ]
    }
}

fn figure(samples: &[ServerSample], player_counts: &[usize]) -> Figure {
    let mut servers: Vec<&str> = samples.iter().map(|sample| sample.server.as_str()).collect();
    servers.dedup();
    let names: Vec<String> = player_counts
        .iter()
        .map(|players| if *players == 0 { "1 viewer".to_owned() } else { format!("{} viewers", players + 1) })
        .collect();
    let width = 0.7 / servers.len() as f64;
    let place = |sample: &ServerSample| {
        let server = servers.iter().position(|name| *name == sample.server).unwrap_or(0) as f64;
        let players = player_counts.iter().position(|players| *players == sample.players).unwrap_or(0) as f64;
        players + (server - (servers.len() as f64 - 1.0) / 2.0) * width
    };
    let (mut delays, mut costs) = (Vec::new(), Vec::new());
    for (n, server) in servers.iter().enumerate() {
        let colour = PALETTE[n % PALETTE.len()];
        let of = || samples.iter().filter(|sample| sample.server == *server);
        for sample in of() {
            if let Some((median, worst)) = sample.delay(0.5).zip(sample.delay(0.99)) {
                let points = vec![(place(sample), median), (place(sample), worst)];
                delays.push(Mark::Line { name: String::new(), colour, points, width: 4, dashed: false });
            }
        }
        let medians = of().filter_map(|sample| Some((place(sample), sample.delay(0.5)?))).collect();
        delays.push(Mark::Dots { name: (*server).to_owned(), colour, points: medians, radius: 9 });
        let bars = of().map(|sample| (place(sample), sample.cost, format!("{:.2}", sample.cost))).collect();
        costs.push(Mark::Bars { name: (*server).to_owned(), colour, width: width * 0.9, bars });
    }
    let worst = samples.iter().filter_map(|sample| sample.delay(0.99)).fold(1.0, f64::max);
    let dearest = samples.iter().map(|sample| sample.cost).fold(0.5, f64::max);
    let panel = |title: &str, y: Axis, marks| Panel {
        width: 1.0,
        title: title.to_owned(),
        x: Axis::named("", &names),
        y,
        margin: 40,
        marks,
    };
    Figure {
        title: "The same stream through other RTMP servers".into(),
        subtitle: vec![
            "1 Mbit/s at 30 fps, published and measured by Nearcast's programs; the other players are ffmpeg. Links are not emulated,".into(),
            "so that the server dominates. Publisher, players and server share the cores of this machine.".into(),
        ],
        rows: vec![
            Row { height: 500, panels: vec![panel("Encoder-to-viewer latency: the dot is p50, the line extends to p99", Axis::new("ms", 0.0, worst * 1.15), delays)] },
            Row { height: 460, panels: vec![panel("Server CPU time per viewer-second", Axis::new("ms", 0.0, dearest * 1.2), costs)] },
        ],
        ..Figure::default()
    }
}

/// Numbers of players besides the measured viewer.
const PLAYER_COUNTS: [usize; 4] = [0, 10, 20, 40];
/// Timeout for a program to start, on a busy machine.
const START: Duration = Duration::from_secs(30);
