//! `intra-refresh`: latency with an IDR every two seconds and with intra refresh, at the same bitrate on links of 4 Mbit/s. An IDR has the size of
//! several frames, and takes as long on the link.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::outcome::{Outcome, quantile, round, sorted};
use super::pictures::{self, Picture};
use super::probe::now;
use super::testbed::Testbed;
use crate::figure::{Axis, BLUE, Colour, Figure, GREY, Mark, Panel, Row, VERMILION};
use crate::latency_bound::{FRAMING, LatencyBounds};

/// Refresh modes: display name, and options of `broadcaster`.
const MODES: [(&str, &[&str]); 2] = [("an IDR every 2 s", &[]), ("intra-refresh", &["--intra-refresh"])];

/// Each path: display name, argument of `viewer --transport`, colour.
const PATHS: [(&str, &str, Colour); 2] = [("CDN", "relay", BLUE), ("peer", "peer", VERMILION)];

/// The result of one mode over one path.
struct RefreshSample {
    mode: usize,
    path: usize,
    startup: Option<f64>,
    delays: Vec<f64>,
    sizes: Vec<f64>,
    summary: Value,
}

pub(super) fn run(testbed: &Testbed) -> Result<Outcome> {
    let topology = testbed.topology(include_str!("../../topologies/paper-a.toml"))?;
    let hops = |from, to| topology.hops(from, to);
    let bounds = LatencyBounds::new(
        FRAMING,
        &hops("broadcaster", "cdn")?,
        &hops("cdn", "viewer")?,
        &hops("broadcaster", "viewer")?,
    );
    let built = topology.build()?;
    let (source, cdn, sink) = (built.host("broadcaster")?, built.host("cdn")?, built.host("viewer")?);
    let address = cdn.address().context("the CDN has no address")?;
    let key = testbed.key()?;
    let _server = testbed.cdn(cdn)?;
    let before = built.network.lateness();
    let mut seen = Vec::new();
    for (mode, (_, options)) in MODES.iter().enumerate() {
        let stream = [&pictures::STREAM[..], options].concat();
        let mut broadcaster = testbed.broadcaster(source, &format!("rtmp://{address}/live/{key}"), &stream)?;
        let mut ended = Vec::new();
        for (path, (_, via, _)) in PATHS.iter().enumerate() {
            let page = format!("http://{address}:8080/live");
            let mut viewer = testbed.viewer(&format!("{via}.{mode}"), sink, &page, &["--transport", via])?;
            viewer.wait_pictures("received", "", JOINING, 0, START)?;
            std::thread::sleep(testbed.seconds(2, 1));
            let from = now();
            std::thread::sleep(testbed.seconds(20, 4));
            let to = now();
            let summary = viewer.finish()?;
            ended.push((path, from..to, viewer, summary));
        }
        broadcaster.finish()?;
        let sent = broadcaster.rows()?;
        for (path, span, viewer, summary) in ended {
            let all = pictures::join(&sent, &viewer.rows()?, &bounds);
            let within: Vec<&Picture> = all.iter().filter(|picture| span.contains(&picture.encoded)).collect();
            let delays = sorted(within.iter().map(|picture| picture.delay_ms()));
            let sizes = sorted(within.iter().map(|picture| picture.bytes as f64));
            let startup = summary["startup_ms"].as_f64();
            seen.push(RefreshSample { mode, path, startup, delays, sizes, summary });
        }
    }
    let lateness = built.network.lateness().since(&before);
    let invalid = built.network.ensure_valid().err().map(|error| format!("{error:#}"));
    Ok(Outcome {
        findings: seen.iter().map(RefreshSample::findings).collect(),
        lines: seen.iter().map(RefreshSample::line).collect(),
        columns: &["mode", "path", "startup_ms", "p50_ms", "p99_ms", "max_ms", "mean_bytes", "largest_bytes"],
        rows: seen.iter().map(RefreshSample::row).collect(),
        figure: figure(&seen),
        faults: seen.iter().flat_map(|seen| pictures::faults(&seen.summary)).collect(),
        lateness,
        invalid,
    })
}

impl RefreshSample {
    fn delay(&self, q: f64) -> f64 {
        quantile(&self.delays, q).unwrap_or(f64::NAN)
    }

    fn mean(&self) -> f64 {
        self.sizes.iter().sum::<f64>() / self.sizes.len().max(1) as f64
    }

    fn largest(&self) -> f64 {
        self.sizes.last().copied().unwrap_or(0.0)
    }

    fn name(&self) -> String {
        format!("{}, {}", PATHS[self.path].0, MODES[self.mode].0)
    }

    fn findings(&self) -> Value {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|q| round(self.delay(q)));
        json!({
            "mode": MODES[self.mode].0, "path": PATHS[self.path].0, "startup_ms": self.startup, "pictures": self.delays.len(),
            "delay_ms": { "p50": p50, "p99": p99, "max": max }, "bytes": { "mean": self.mean().round(), "largest": self.largest() },
        })
    }

    fn line(&self) -> String {
        format!(
            "{:<22} latency p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms; frame size mean {:.0} bytes, max {:.0}; first frame after {} ms",
            self.name(),
            self.delay(0.5),
            self.delay(0.99),
            self.delay(1.0),
            self.mean(),
            self.largest(),
            self.startup.map_or("-".to_owned(), |ms| format!("{ms:.0}")),
        )
    }

    fn row(&self) -> Vec<String> {
        let numbers = [self.delay(0.5), self.delay(0.99), self.delay(1.0), self.mean(), self.largest()];
        let startup = self.startup.map_or(String::new(), |ms| round(ms).to_string());
        let head = [MODES[self.mode].0.to_owned(), PATHS[self.path].0.to_owned(), startup];
        head.into_iter().chain(numbers.map(|number| round(number).to_string())).collect()
    }
}

fn figure(seen: &[RefreshSample]) -> Figure {
    let names: Vec<String> = seen.iter().map(RefreshSample::name).collect();
    let bars = |name: &str, colour, shift: f64, of: &dyn Fn(&RefreshSample) -> f64| Mark::Bars {
        name: name.to_owned(),
        colour,
        width: 0.26,
        bars: seen.iter().enumerate().map(|(n, one)| (n as f64 + shift, of(one), format!("{:.0}", of(one)))).collect(),
    };
    let highest = seen.iter().map(|one| one.delay(1.0)).fold(50.0, f64::max) * 1.2;
    let largest = seen.iter().map(|one| one.largest() / 1e3).fold(5.0, f64::max) * 1.2;
    let panel = |title: &str, y, marks| Panel {
        width: 1.0,
        title: title.to_owned(),
        x: Axis::named("", &names),
        y,
        margin: 40,
        marks,
    };
    Figure {
        title: "IDRs and intra refresh at the same bitrate on the same links".into(),
        subtitle: vec![
            "All links 4 Mbit/s, 8 ms to the switch and 30 ms to the CDN; 1 Mbit/s at 30 fps; no cross traffic.".into(),
        ],
        rows: vec![
            Row {
                height: 460,
                panels: vec![panel(
                    "Encoder-to-viewer latency",
                    Axis::new("ms", 0.0, highest),
                    vec![
                        bars("p50", GREY, -0.28, &|one| one.delay(0.5)),
                        bars("p99", BLUE, 0.0, &|one| one.delay(0.99)),
                        bars("max", VERMILION, 0.28, &|one| one.delay(1.0)),
                    ],
                )],
            },
            Row {
                height: 380,
                panels: vec![panel(
                    "Frame size",
                    Axis::new("kB", 0.0, largest),
                    vec![
                        bars("mean", GREY, -0.15, &|one| one.mean() / 1e3),
                        bars("largest", VERMILION, 0.15, &|one| one.largest() / 1e3),
                    ],
                )],
            },
        ],
        ..Figure::default()
    }
}

/// Frames received before measuring starts.
const JOINING: usize = 30;
/// Timeout for the first frames, on a busy machine.
const START: std::time::Duration = std::time::Duration::from_secs(30);
