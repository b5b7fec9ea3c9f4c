//! `bad-network`: what loss, bursts, jitter and a narrowed uplink do to start-up, to delay and to the picture, on each path.
//!
//! Three viewers watch at once, each over a link of its own and by one path alone: straight from the broadcaster, by the relay
//! protocol from the CDN, and by RTMP from the CDN. Their links are bad in the same way.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::fanout::{viewer_name, with_viewers};
use super::outcome::{Outcome, quantile, round, sorted};
use super::pictures;
use super::probe::now;
use super::stage::Stage;
use crate::figure::{Axis, BLUE, Colour, Figure, GREEN, Mark, Panel, Row, VERMILION};
use crate::floor::{FRAMING, Floors};
use crate::link::shape::Shape;
use crate::plan::shape;

/// What is wrong with the viewers' links, in the words of `lab set`; the last narrows the broadcaster's uplink instead.
const CONDITIONS: [(&str, &str); 7] = [
    ("none", ""),
    ("1% loss", "loss=1%"),
    ("5% loss", "loss=5%"),
    ("10% loss", "loss=10%"),
    ("bursts", "burst=1%/20%/0%/60%"),
    ("50 ms jitter", "delay=50ms jitter=50ms"),
    ("uplink 0.7M", ""),
];

/// Each path, by its name for people and for `viewer --via`.
const PATHS: [(&str, &str, Colour); 3] =
    [("peer", "peer", VERMILION), ("relay, CDN", "relay", BLUE), ("RTMP, CDN", "rtmp", GREEN)];

/// One path under one condition.
struct Seen {
    condition: usize,
    path: usize,
    /// From the viewer's start to its first picture, milliseconds; none if there was none.
    startup: Option<f64>,
    /// Of each picture from the encoder to the viewer, milliseconds, in order.
    delays: Vec<f64>,
    summary: Value,
    /// Pictures of the time that never came.
    missing: usize,
}

pub(super) fn run(stage: &Stage) -> Result<Outcome> {
    let plan = with_viewers(stage.plan(include_str!("../../topologies/paper-b.toml"))?, PATHS.len())?;
    let hops = |from, to| plan.hops(from, to);
    let floors =
        Floors::new(FRAMING, &hops("broadcaster", "cdn")?, &hops("cdn", "viewer")?, &hops("broadcaster", "viewer")?);
    let built = plan.build()?;
    let cdn = built.host("cdn")?;
    let address = cdn.address().context("the CDN has no address")?;
    let key = stage.key()?;
    let _server = stage.cdn(cdn)?;
    let mut broadcaster =
        stage.broadcaster(built.host("broadcaster")?, &format!("rtmp://{address}/live/{key}"), &pictures::STREAM)?;
    let before = built.network.lateness();
    let uplink = built.link("broadcaster")?;
    let whole = uplink.shape(crate::Direction::AToB);
    let mut seen = Vec::new();
    let mut ended = Vec::new();
    for (condition, (words, settings)) in CONDITIONS.iter().enumerate() {
        let bad = altered(built.link("viewer")?.shape(crate::Direction::AToB), settings)?;
        let mut viewers = Vec::new();
        for (n, (_, via, _)) in PATHS.iter().enumerate() {
            built.link(&viewer_name(n + 1))?.set_both(bad)?;
            let host = built.host(&viewer_name(n + 1))?;
            let page = format!("http://{address}:8080/live");
            viewers.push(stage.viewer(&format!("{via}.{condition}"), host, &page, &["--via", via])?);
        }
        std::thread::sleep(stage.seconds(5, 3));
        let from = now();
        if *words == "uplink 0.7M" {
            uplink.set_both(Shape { rate: Some(700_000), ..whole })?;
            std::thread::sleep(stage.seconds(4, 2));
            uplink.set_both(whole)?;
        }
        std::thread::sleep(stage.seconds(8, 3));
        let to = now();
        // What is late arrives yet.
        std::thread::sleep(Duration::from_millis(1500));
        for (path, mut viewer) in viewers.into_iter().enumerate() {
            // One that saw nothing ends by failing; that is a finding.
            let summary = viewer.finish().unwrap_or(Value::Null);
            ended.push((condition, path, from, to, viewer, summary));
        }
        for n in 1..=PATHS.len() {
            built.link(&viewer_name(n))?.set_both(whole)?;
        }
    }
    let lateness = built.network.lateness().since(&before);
    let void = built.network.ensure_valid().err().map(|error| format!("{error:#}"));
    broadcaster.finish()?;
    let sent = broadcaster.rows()?;
    for (condition, path, from, to, viewer, summary) in ended {
        let within = |at: i64| (from..to).contains(&at);
        let made = sent.iter().filter(|row| row.stage == "encoded" && within(row.at)).count();
        let pictures = pictures::join(&sent, &viewer.rows()?, &floors);
        let delays = sorted(pictures.iter().filter(|p| within(p.encoded)).map(|p| p.delay_ms()));
        let missing = made.saturating_sub(delays.len());
        let startup = summary["startup_ms"].as_f64();
        seen.push(Seen { condition, path, startup, delays, summary, missing });
    }
    Ok(Outcome {
        findings: seen.iter().map(Seen::findings).collect(),
        lines: seen.iter().map(Seen::line).collect(),
        columns: &["condition", "path", "startup_ms", "delay_p50_ms", "delay_p99_ms", "stalls", "skipped", "missing"],
        rows: seen.iter().map(Seen::row).collect(),
        figure: figure(&seen),
        // On one path alone, what it loses is lost: a finding.
        faults: Vec::new(),
        lateness,
        void,
    })
}

/// `shape`, changed as `lab set` would.
fn altered(mut shape: Shape, settings: &str) -> Result<Shape> {
    for setting in settings.split_whitespace() {
        let (key, value) = setting.split_once('=').context("a condition is KEY=VALUE")?;
        shape::apply(&mut shape, key, value)?;
    }
    Ok(shape)
}

impl Seen {
    fn delay(&self, q: f64) -> Option<f64> {
        quantile(&self.delays, q)
    }

    fn count(&self, what: &str) -> u64 {
        self.summary[what].as_u64().unwrap_or(0)
    }

    fn findings(&self) -> Value {
        json!({
            "condition": CONDITIONS[self.condition].0, "path": PATHS[self.path].0, "startup_ms": self.startup,
            "delay_ms": { "p50": self.delay(0.5).map(round), "p99": self.delay(0.99).map(round) },
            "missing": self.missing, "summary": self.summary,
        })
    }

    fn line(&self) -> String {
        let ms = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
        format!(
            "{:<14} {:<12} start {:>5} ms, delay {:>5} median {:>6} p99 ms, {} stalls, {} skipped, {} missing",
            CONDITIONS[self.condition].0,
            PATHS[self.path].0,
            ms(self.startup),
            ms(self.delay(0.5)),
            ms(self.delay(0.99)),
            self.count("stalls"),
            self.count("skipped"),
            self.missing
        )
    }

    fn row(&self) -> Vec<String> {
        let number = |value: Option<f64>| value.map_or(String::new(), |value| round(value).to_string());
        vec![
            CONDITIONS[self.condition].0.to_owned(),
            PATHS[self.path].0.to_owned(),
            number(self.startup),
            number(self.delay(0.5)),
            number(self.delay(0.99)),
            self.count("stalls").to_string(),
            self.count("skipped").to_string(),
            self.missing.to_string(),
        ]
    }
}

fn figure(seen: &[Seen]) -> Figure {
    let names: Vec<String> = CONDITIONS.iter().map(|(words, _)| (*words).to_owned()).collect();
    let place = |seen: &Seen| seen.condition as f64 + (seen.path as f64 - 1.0) * 0.26;
    let mut delays = Vec::new();
    let mut starts = Vec::new();
    let mut stalls = Vec::new();
    for (path, (name, _, colour)) in PATHS.iter().enumerate() {
        let of = || seen.iter().filter(move |seen| seen.path == path);
        for one in of() {
            let ends = [0.5, 0.99].map(|q| one.delay(q).map(|ms| (place(one), ms.max(10.0))));
            if let [Some(median), Some(worst)] = ends {
                delays.push(Mark::Line {
                    name: String::new(),
                    colour: *colour,
                    points: vec![median, worst],
                    width: 4,
                    dashed: false,
                });
            }
        }
        let nothing = of().filter(|one| one.delays.is_empty()).map(|one| (place(one), 10.0, "none came".to_owned()));
        delays.push(Mark::Bars { name: String::new(), colour: *colour, width: 0.0, bars: nothing.collect() });
        let medians = of().filter_map(|one| Some((place(one), one.delay(0.5)?.max(10.0)))).collect();
        delays.push(Mark::Dots { name: (*name).to_owned(), colour: *colour, points: medians, radius: 8 });
        let start = |one: &Seen| one.startup.map(|ms| (place(one), ms, format!("{ms:.0}")));
        let bars = of().filter_map(start).collect();
        starts.push(Mark::Bars { name: (*name).to_owned(), colour: *colour, width: 0.22, bars });
        let stall = |one: &Seen| (place(one), one.count("stalls") as f64, one.count("stalls").to_string());
        stalls.push(Mark::Bars {
            name: (*name).to_owned(),
            colour: *colour,
            width: 0.22,
            bars: of().map(stall).collect(),
        });
    }
    let worst = seen.iter().filter_map(|one| one.delay(0.99)).fold(1000.0, f64::max);
    let slowest = seen.iter().filter_map(|one| one.startup).fold(100.0, f64::max);
    let most = seen.iter().map(|one| one.count("stalls")).max().unwrap_or(0).max(3) as f64;
    let panel = |title: &str, y: Axis, marks| Panel {
        width: 1.0,
        title: title.to_owned(),
        x: Axis::named("", &names),
        y,
        margin: 40,
        marks,
    };
    let decades = Axis::new("ms, each step is ten times", 10.0, 10f64.powf(worst.log10().ceil())).log();
    Figure {
        title: "Bad networks: each path by itself".into(),
        subtitle: vec![
            "LAN links of 10 Mbit/s and 8 ms, a CDN link of 100 Mbit/s and 30 ms. What is wrong is so on the viewers' own links, both ways;".into(),
            "bursts lose 3% in runs of five. In the last, the broadcaster's uplink falls under the stream's 1 Mbit/s for four seconds.".into(),
        ],
        rows: vec![
            Row { height: 520, panels: vec![panel("Delay from encoder to viewer: the dot is the median, the line goes to p99", decades, delays)] },
            Row { height: 430, panels: vec![panel("Start-up: milliseconds to the first picture", Axis::new("ms", 0.0, slowest * 1.2), starts)] },
            Row { height: 400, panels: vec![panel("Times that the picture stood still", Axis::new("stalls", 0.0, most * 1.25), stalls)] },
        ],
        ..Figure::default()
    }
}
