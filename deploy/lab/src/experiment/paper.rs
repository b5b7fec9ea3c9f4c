//! `paper-fig2`, `paper-fig3`: the paper's topology and its ping trains, beside what pings cannot tell: how long each picture takes
//! through the CDN and straight from the broadcaster, with the change from one to the other and back in mid-run.
//!
//! The paper's switch is told to let the broadcaster and the viewer reach each other; so is this one: their ports are isolated at
//! first, then connected, then isolated again. Nobody tells the programs.

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

/// What was measured.
struct Measurement {
    pictures: Vec<Picture>,
    pings: Vec<PingArrival>,
    /// When measuring began, the switch let them reach each other, isolated them, and the end: microseconds.
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

    /// How far over their bounds pictures are, away from changes of path or everywhere.
    fn over(&self, path: &str, everywhere: bool) -> Vec<f64> {
        let wanted = self.by(path).into_iter().filter(|picture| everywhere || picture.settled);
        sorted(wanted.map(|picture| picture.delay_ms() - picture.bound_ms))
    }

    fn delays(&self, path: &str) -> Vec<f64> {
        sorted(self.by(path).iter().map(|picture| picture.delay_ms()))
    }

    /// One-way delay of the pings of one train, in milliseconds, with when they were sent.
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

    /// Mean size of a unit, and of one that is no IDR and one that is.
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
                "{words}: {} pictures, delay {} ms median, {} ms p99; over the floor {} and {} ms (goal {} and {}), near changes of path too {} and {}",
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
            line("through the CDN", "relay"),
            line("from the peer  ", PEER),
            format!(
                "idle round trips: {:.1} ms to the CDN, {:.1} ms to the broadcaster",
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
        marks.push(Mark::Dots { name: "through the CDN".into(), colour: BLUE, points: points("relay"), radius: 4 });
        marks.push(Mark::Dots {
            name: "from the broadcaster".into(),
            colour: VERMILION,
            points: points(PEER),
            radius: 4,
        });
        let delays = Panel {
            width: 1.0,
            title: "Each picture: from the encoder to the viewer".into(),
            x: Axis::new("seconds", 0.0, end),
            y: Axis::new("delay in ms", 0.0, (highest * 1.12 / 50.0).ceil() * 50.0),
            margin: 330,
            marks,
        };
        Figure {
            title: format!("The paper's Figure {number}, with pictures: {links}"),
            subtitle: vec![
                "Dashed: the floor, which no sender can beat: links at their rate, nothing else on the way.".into(),
                "1 Mbit/s, 30 pictures a second, an IDR every two seconds, which are the upper rows of dots.".into(),
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
            band(0.0, connected, GREY, "kept apart by the switch"),
            band(connected, isolated, VERMILION, "the two reach each other"),
            band(isolated, end, GREY, "kept apart"),
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
        marks.push(dots("by way of the CDN", BLUE, true));
        marks.push(dots("straight", VERMILION, false));
        Panel {
            width: 1.0,
            title: "What the paper measured: pings, one way".into(),
            x: Axis::new("seconds", 0.0, end),
            y: Axis::new("delay in ms", 0.0, (highest * 1.1 / 20.0).ceil() * 20.0),
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
            title: "Over the floor, away from changes; upright: the goals".into(),
            x: Axis::new("ms over the floor", 0.0, (worst * 1.25 / 5.0).ceil() * 5.0),
            y: Axis::new("% of pictures", 0.0, 100.0),
            margin: 90,
            marks: vec![
                Mark::Event { x: GOAL.0, label: String::new() },
                Mark::Event { x: GOAL.1, label: "\n\n\n3 ms at half,\n10 ms at 99%".into() },
                Mark::Level { y: 50.0, colour: INK, label: "half".into() },
                Mark::Level { y: 99.0, colour: INK, label: "99%".into() },
                curve("CDN", "relay", BLUE, false),
                curve("peer", PEER, VERMILION, true),
            ],
        }
    }
}

/// What a viewer calls the path from the broadcaster.
const PEER: &str = "LAN peer";
/// Median and 99th percentile over the floor, milliseconds: what is aimed at.
const GOAL: (f64, f64) = (3.0, 10.0);
/// Pictures after which a path is in use.
const JOINING: usize = 45;
/// Of the idle network.
const PINGS: usize = 11;
/// To join, or to find the broadcaster, which mDNS repeats at growing intervals.
const START: Duration = Duration::from_secs(60);
