//! `paper-fig2`, `paper-fig3`: the paper's topology and ping trains, and the latency of each video frame via the CDN and directly from the broadcaster,
//! with a path switch in each direction during the run.
//!
//! As in the paper, the switch isolates broadcaster and viewer at first, connects them, and isolates them again; the programs are not notified.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::outcome::{Outcome, quantile, round, sorted};
use super::pictures::{self, Picture};
use super::probe::{self, PingArrival, PingTrains};
use super::testbed::Testbed;
use crate::figure::{Axis, BLUE, Colour, Figure, GREY, INK, Mark, Panel, Row, VERMILION};
use crate::latency_bound::{FRAMING, LatencyBounds};

pub(super) fn figure_2(testbed: &Testbed) -> Result<Outcome> {
    run(
        testbed,
        include_str!("../../topologies/paper-a.toml"),
        "CDN link 4 Mbit/s and 30 ms, LAN links 4 Mbit/s and 8 ms",
        2,
    )
}

pub(super) fn figure_3(testbed: &Testbed) -> Result<Outcome> {
    run(
        testbed,
        include_str!("../../topologies/paper-b.toml"),
        "CDN link 100 Mbit/s and 30 ms, LAN links 10 Mbit/s and 8 ms",
        3,
    )
}

/// The measurements of one run.
struct Measurement {
    pictures: Vec<Picture>,
    pings: Vec<PingArrival>,
    /// When measuring began, the switch connected the two, isolated them, and measuring ended: microseconds since the Unix epoch.
    begun: i64,
    connected: i64,
    isolated: i64,
    ended: i64,
    round_trips: [Duration; 2],
    summary: Value,
    bounds: LatencyBounds,
}

fn run(testbed: &Testbed, topology: &str, links: &str, number: u32) -> Result<Outcome> {
    let topology = testbed.topology(topology)?;
    let hops = |from, to| topology.hops(from, to);
    let bounds = LatencyBounds::new(
        FRAMING,
        &hops("broadcaster", "cdn")?,
        &hops("cdn", "viewer")?,
        &hops("broadcaster", "viewer")?,
    );
    let built = topology.build()?;
    let (source, cdn, sink) = (built.host("broadcaster")?, built.host("cdn")?, built.host("viewer")?);
    let round_trips = [probe::round_trip(sink, cdn, PINGS)?, probe::round_trip(sink, source, PINGS)?];
    let apart = |apart| ["broadcaster", "viewer"].iter().try_for_each(|link| built.isolate(link, apart));
    apart(true)?;

    let key = testbed.key()?;
    let _server = testbed.cdn(cdn)?;
    let address = cdn.address().context("the CDN has no address")?;
    let mut broadcaster = testbed.broadcaster(source, &format!("rtmp://{address}/live/{key}"), &pictures::STREAM)?;
    let trains = PingTrains::start(source, cdn, sink)?;
    let mut viewer = testbed.viewer("viewer", sink, &format!("http://{address}:8080/live"), &[])?;
    viewer.wait_pictures("received", "relay", JOINING, 0, START)?;
    let before = built.network.lateness();
    let begun = probe::now();
    std::thread::sleep(testbed.seconds(15, 4));
    let connected = probe::now();
    apart(false)?;
    viewer.wait_pictures("merged", PEER, JOINING, connected, START)?;
    std::thread::sleep(testbed.seconds(20, 5));
    let isolated = probe::now();
    apart(true)?;
    viewer.wait_pictures("merged", "relay", JOINING, isolated, START)?;
    std::thread::sleep(testbed.seconds(8, 2));
    let ended = probe::now();
    let lateness = built.network.lateness().since(&before);
    let invalid = built.network.ensure_valid().err().map(|error| format!("{error:#}"));
    let summary = viewer.finish()?;
    broadcaster.finish()?;
    let pings = trains.finish()?;

    let measured = pictures::join(&broadcaster.rows()?, &viewer.rows()?, &bounds);
    let measured: Vec<Picture> = measured.into_iter().filter(|p| (begun..ended).contains(&p.encoded)).collect();
    let run =
        Measurement { pictures: measured, pings, begun, connected, isolated, ended, round_trips, summary, bounds };
    Ok(Outcome {
        findings: run.findings(),
        lines: run.lines(),
        columns: pictures::COLUMNS,
        rows: run.pictures.iter().map(|picture| picture.row(begun)).collect(),
        figure: run.figure(links, number),
        faults: pictures::faults(&run.summary),
        lateness,
        invalid,
    })
}

impl Measurement {
    fn by(&self, path: &str) -> Vec<&Picture> {
        self.pictures.iter().filter(|picture| picture.path.starts_with(path)).collect()
    }

    /// Excess of each frame over its bound, milliseconds, ascending; away from path switches, or everywhere.
    fn over(&self, path: &str, everywhere: bool) -> Vec<f64> {
        let wanted = self.by(path).into_iter().filter(|picture| everywhere || picture.settled);
        sorted(wanted.map(|picture| picture.delay_ms() - picture.bound_ms))
    }

    fn delays(&self, path: &str) -> Vec<f64> {
        sorted(self.by(path).iter().map(|picture| picture.delay_ms()))
    }

    /// The pings of one train: when each was sent, in seconds, and its one-way latency in milliseconds.
    fn pings(&self, relayed: bool) -> Vec<(f64, f64)> {
        let within = |ping: &&PingArrival| ping.relayed == relayed && (self.begun..self.ended).contains(&ping.sent);
        let point = |ping: &PingArrival| (self.seconds(ping.sent), (ping.received - ping.sent) as f64 / 1e3);
        self.pings.iter().filter(within).map(point).collect()
    }

    fn seconds(&self, at: i64) -> f64 {
        (at - self.begun) as f64 / 1e6
    }

    fn findings(&self) -> Value {
        let path = |path: &str| {
            let (delays, over, all) = (self.delays(path), self.over(path, false), self.over(path, true));
            let bounds = sorted(self.by(path).iter().map(|picture| picture.bound_ms));
            let of = |values: &[f64]| json!({ "p50": quantile(values, 0.5).map(round), "p99": quantile(values, 0.99).map(round) });
            json!({ "pictures": delays.len(), "delay_ms": of(&delays), "bound_ms": of(&bounds), "over_bound_ms": of(&over), "over_bound_with_changes_ms": of(&all) })
        };
        let ping = |relayed| {
            let delays = sorted(self.pings(relayed).into_iter().map(|(_, delay)| delay));
            json!({ "count": delays.len(), "one_way_ms": { "p50": quantile(&delays, 0.5).map(round), "p99": quantile(&delays, 0.99).map(round) } })
        };
        let sizes: BTreeMap<&str, f64> = self.sizes().into();
        json!({
            "cdn": path("relay"),
            "peer": path(PEER),
            "pings_through_cdn": ping(true),
            "pings_direct": ping(false),
            "idle_round_trip_ms": { "viewer_cdn": round(self.round_trips[0].as_secs_f64() * 1e3), "viewer_broadcaster": round(self.round_trips[1].as_secs_f64() * 1e3) },
            "unit_bytes": sizes,
            "found_after_s": self.first_by(PEER).map(|at| round(self.seconds(at) - self.seconds(self.connected))),
            "goal_ms": { "over_bound_p50": GOAL.0, "over_bound_p99": GOAL.1 },
            "viewer": self.summary,
        })
    }

    /// Mean size in bytes of all units, of those that are not IDRs, and of IDRs.
    fn sizes(&self) -> [(&'static str, f64); 3] {
        let mean = |wanted: &dyn Fn(&Picture) -> bool| {
            let sizes: Vec<f64> = self.pictures.iter().filter(|p| wanted(p)).map(|p| p.bytes as f64).collect();
            (sizes.iter().sum::<f64>() / sizes.len().max(1) as f64).round()
        };
        [("mean", mean(&|_| true)), ("not_idr", mean(&|p| !p.random_access)), ("idr", mean(&|p| p.random_access))]
    }

    fn first_by(&self, path: &str) -> Option<i64> {
        self.pictures.iter().filter(|p| p.path.starts_with(path)).map(|p| p.received).min()
    }

    fn lines(&self) -> Vec<String> {
        let line = |words: &str, path: &str| {
            let (delays, over, all) = (self.delays(path), self.over(path, false), self.over(path, true));
            let ms = |values: &[f64], q| quantile(values, q).map_or("-".to_owned(), |value| format!("{value:.1}"));
            format!(
                "{words}: {} frames, latency p50 {} ms, p99 {} ms; above the bound {} and {} ms (target {} and {}), including path switches {} and {}",
                delays.len(),
                ms(&delays, 0.5),
                ms(&delays, 0.99),
                ms(&over, 0.5),
                ms(&over, 0.99),
                GOAL.0,
                GOAL.1,
                ms(&all, 0.5),
                ms(&all, 0.99)
            )
        };
        vec![
            line("via the CDN ", "relay"),
            line("direct      ", PEER),
            format!(
                "round trips on the idle network: {:.1} ms to the CDN, {:.1} ms to the broadcaster",
                self.round_trips[0].as_secs_f64() * 1e3,
                self.round_trips[1].as_secs_f64() * 1e3
            ),
        ]
    }

    fn figure(&self, links: &str, number: u32) -> Figure {
        let points = |path: &str| -> Vec<(f64, f64)> {
            self.by(path).iter().map(|p| (self.seconds(p.encoded), p.delay_ms())).collect()
        };
        let end = self.seconds(self.ended);
        let highest = self.pictures.iter().map(Picture::delay_ms).fold(0.0, f64::max);
        let [_, (_, small), (_, idr)] = self.sizes();
        let mut marks = self.bands(end);
        marks.extend(self.bound_levels(small as usize, idr as usize));
        marks.push(Mark::Dots { name: "via the CDN".into(), colour: BLUE, points: points("relay"), radius: 4 });
        marks.push(Mark::Dots {
            name: "directly from the broadcaster".into(),
            colour: VERMILION,
            points: points(PEER),
            radius: 4,
        });
        let delays = Panel {
            width: 1.0,
            title: "Latency of each frame, encoder to viewer".into(),
            x: Axis::new("seconds", 0.0, end),
            y: Axis::new("latency in ms", 0.0, (highest * 1.12 / 50.0).ceil() * 50.0),
            margin: 330,
            marks,
        };
        Figure {
            title: format!("Figure {number} of the paper, measured per frame: {links}"),
            subtitle: vec![
                "Dashed: the lower bound that follows from link rate and delay alone, without cross traffic.".into(),
                "1 Mbit/s at 30 fps with an IDR every 2 s: the upper rows of dots.".into(),
            ],
            rows: vec![
                Row { height: 640, panels: vec![delays] },
                Row { height: 520, panels: vec![self.ping_panel(end), self.over_panel()] },
            ],
            ..Figure::default()
        }
    }

    fn bands(&self, end: f64) -> Vec<Mark> {
        let (connected, isolated) = (self.seconds(self.connected), self.seconds(self.isolated));
        let band = |from, to, colour: Colour, label: &str| Mark::Band { from, to, colour, label: label.into() };
        vec![
            band(0.0, connected, GREY, "isolated by the switch"),
            band(connected, isolated, VERMILION, "broadcaster and viewer reach each other"),
            band(isolated, end, GREY, "isolated"),
        ]
    }

    fn bound_levels(&self, small: usize, idr: usize) -> Vec<Mark> {
        let level = |path: &crate::latency_bound::PathModel, bytes: usize, what: &str, colour| {
            let y = path.idle_latency(bytes).as_secs_f64() * 1e3;
            let label = format!("{y:.0} ms: {what}, {:.1} kB", bytes as f64 / 1e3);
            Mark::Level { y, colour, label }
        };
        vec![
            level(&self.bounds.cdn_units, small, "CDN", BLUE),
            level(&self.bounds.cdn_units, idr, "CDN, IDR", BLUE),
            level(&self.bounds.peer, small, "peer", VERMILION),
            level(&self.bounds.peer_second, small, "peer, CDN copy first", GREY),
            level(&self.bounds.peer, idr, "peer, IDR", VERMILION),
        ]
    }

    fn ping_panel(&self, end: f64) -> Panel {
        let highest = [true, false].iter().flat_map(|train| self.pings(*train)).map(|(_, y)| y).fold(0.0, f64::max);
        let dots = |name: &str, colour, relayed| Mark::Dots {
            name: name.into(),
            colour,
            points: self.pings(relayed),
            radius: 4,
        };
        let mut marks = self.bands(end);
        marks.iter_mut().for_each(|mark| {
            if let Mark::Band { label, .. } = mark {
                label.clear();
            }
        });
        marks.push(dots("via the CDN", BLUE, true));
        marks.push(dots("direct", VERMILION, false));
        Panel {
            width: 1.0,
            title: "What the paper measured: one-way pings".into(),
            x: Axis::new("seconds", 0.0, end),
            y: Axis::new("latency in ms", 0.0, (highest * 1.1 / 20.0).ceil() * 20.0),
            margin: 30,
            marks,
        }
    }

    fn over_panel(&self) -> Panel {
        let curve = |name: &str, path: &str, colour, dashed| {
            let over = self.over(path, false);
            let share = |n: usize| (n + 1) as f64 / over.len() as f64 * 100.0;
            let points = over.iter().enumerate().map(|(n, value)| (*value, share(n))).collect();
            Mark::Line { name: name.into(), colour, points, width: 4, dashed }
        };
        let worst =
            ["relay", PEER].iter().filter_map(|path| quantile(&self.over(path, false), 0.99)).fold(GOAL.1, f64::max);
        Panel {
            width: 0.85,
            title: "Excess over the bound; vertical lines: the targets".into(),
            x: Axis::new("ms above the bound", 0.0, (worst * 1.25 / 5.0).ceil() * 5.0),
            y: Axis::new("% of frames", 0.0, 100.0),
            margin: 90,
            marks: vec![
                Mark::Event { x: GOAL.0, label: String::new() },
                Mark::Event { x: GOAL.1, label: "\n\n\n3 ms at p50,\n10 ms at p99".into() },
                Mark::Level { y: 50.0, colour: INK, label: "p50".into() },
                Mark::Level { y: 99.0, colour: INK, label: "p99".into() },
                curve("CDN", "relay", BLUE, false),
                curve("peer", PEER, VERMILION, true),
            ],
        }
    }
}

/// The viewer's name for the path from the broadcaster.
const PEER: &str = "LAN peer";
/// Target for the excess over the bound, milliseconds: median and 99th percentile.
const GOAL: (f64, f64) = (3.0, 10.0);
/// Frames after which a path counts as in use.
const JOINING: usize = 45;
/// Round trips measured on the idle network.
const PINGS: usize = 11;
/// Timeout for joining and for discovery; mDNS queries repeat at growing intervals.
const START: Duration = Duration::from_secs(60);
