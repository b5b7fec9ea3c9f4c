//! `bad-network`: what loss, bursts, jitter and a narrowed uplink do to start-up, to delay and to the picture, on each path.
//!
//! Three viewers watch at once, each over a link of its own and by one path alone: straight from the broadcaster, by the relay
//! protocol from the CDN, and by RTMP from the CDN. Their links are bad in the same way.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::fanout::{viewer_name, with_viewers};
use super::outcome::{Outcome, quantile, round, sorted};
use super::pictures::{self, Picture};
use super::probe::now;
use super::testbed::Testbed;
use crate::figure::{Axis, BLUE, Colour, Figure, GREEN, Mark, Panel, Row, VERMILION};
use crate::latency_bound::{FRAMING, LatencyBounds};
use crate::link::shape::Shape;
use crate::topology::shape_syntax;

/// What is wrong with the viewers' links, in the words of `lab set`; the last narrows the broadcaster's uplink instead.
const CONDITIONS: [(&str, &str); 7] = [
    ("none", ""),
    ("1% loss", "loss=1%"),
    ("5% loss", "loss=5%"),
    ("10% loss", "loss=10%"),
    ("bursts", "burst=1%/20%/0%/60%"),
    ("50 ms jitter", "delay=50ms jitter=50ms"),
    (NARROWED, ""),
];

const NARROWED: &str = "uplink 0.7M";

/// A picture that comes so much later than was usual is no longer late, milliseconds: it is within a viewer's buffer.
const RECOVERED: f64 = 50.0;

/// Each path, by its name for people and for `viewer --transport`.
const PATHS: [(&str, &str, Colour); 3] =
    [("peer", "peer", VERMILION), ("relay, CDN", "relay", BLUE), ("RTMP, CDN", "rtmp", GREEN)];

/// One path under one condition.
struct PathSample {
    condition: usize,
    path: usize,
    /// From the viewer's start to its first picture, milliseconds; none if there was none.
    startup: Option<f64>,
    /// Of each picture from the encoder to the viewer, milliseconds, in order.
    delays: Vec<f64>,
    summary: Value,
    /// Pictures of the time that never came.
    missing: usize,
    /// The longest time for which no further picture could be shown, milliseconds.
    standstill: Option<f64>,
    /// From the uplink's being whole again until every picture is within [`RECOVERED`] of what was usual before, milliseconds; none if
    /// the uplink was whole all the time, or not within the time.
    recovery: Option<f64>,
}

pub(super) fn run(testbed: &Testbed) -> Result<Outcome> {
    let topology = with_viewers(testbed.topology(include_str!("../../topologies/paper-b.toml"))?, PATHS.len())?;
    let hops = |from, to| topology.hops(from, to);
    let bounds = LatencyBounds::new(
        FRAMING,
        &hops("broadcaster", "cdn")?,
        &hops("cdn", "viewer")?,
        &hops("broadcaster", "viewer")?,
    );
    let built = topology.build()?;
    let cdn = built.host("cdn")?;
    let address = cdn.address().context("the CDN has no address")?;
    let key = testbed.key()?;
    let _server = testbed.cdn(cdn)?;
    let mut broadcaster =
        testbed.broadcaster(built.host("broadcaster")?, &format!("rtmp://{address}/live/{key}"), &pictures::STREAM)?;
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
            viewers.push(testbed.viewer(&format!("{via}.{condition}"), host, &page, &["--transport", via])?);
        }
        std::thread::sleep(testbed.seconds(5, 3));
        let from = now();
        let mut healed = None;
        if *words == NARROWED {
            uplink.set_both(Shape { rate: Some(700_000), ..whole })?;
            std::thread::sleep(testbed.seconds(4, 2));
            uplink.set_both(whole)?;
            healed = Some(now());
        }
        std::thread::sleep(testbed.seconds(8, 3));
        let to = now();
        // What is late arrives yet.
        std::thread::sleep(Duration::from_millis(1500));
        for (path, mut viewer) in viewers.into_iter().enumerate() {
            // One that saw nothing ends by failing; that is a finding.
            let summary = viewer.finish().unwrap_or(Value::Null);
            ended.push((condition, path, Interval { from, healed, to }, viewer, summary));
        }
        for n in 1..=PATHS.len() {
            built.link(&viewer_name(n))?.set_both(whole)?;
        }
    }
    let lateness = built.network.lateness().since(&before);
    let invalid = built.network.ensure_valid().err().map(|error| format!("{error:#}"));
    broadcaster.finish()?;
    let sent = broadcaster.rows()?;
    for (condition, path, interval, viewer, summary) in ended {
        let pictures = pictures::join(&sent, &viewer.rows()?, &bounds);
        let made: Vec<i64> = sent.iter().filter(|row| row.stage == "encoded").map(|row| row.at).collect();
        let delays = sorted(pictures.iter().filter(|p| interval.contains(p.encoded)).map(Picture::delay_ms));
        seen.push(PathSample {
            condition,
            path,
            startup: summary["startup_ms"].as_f64(),
            missing: made.iter().filter(|at| interval.contains(**at)).count().saturating_sub(delays.len()),
            standstill: interval.standstill(&pictures),
            recovery: interval.recovery(&made, &pictures),
            delays,
            summary,
        });
    }
    Ok(Outcome {
        findings: seen.iter().map(PathSample::findings).collect(),
        lines: seen.iter().map(PathSample::line).collect(),
        columns: &[
            "condition",
            "path",
            "startup_ms",
            "delay_p50_ms",
            "delay_p99_ms",
            "stalls",
            "skipped",
            "missing",
            "standstill_ms",
            "recovery_ms",
        ],
        rows: seen.iter().map(PathSample::row).collect(),
        figure: figure(&seen),
        // On one path alone, what it loses is lost: a finding.
        faults: Vec::new(),
        lateness,
        invalid,
    })
}

/// `shape`, changed as `lab set` would.
fn altered(mut shape: Shape, settings: &str) -> Result<Shape> {
    for setting in settings.split_whitespace() {
        let (key, value) = setting.split_once('=').context("a condition is KEY=VALUE")?;
        shape_syntax::apply(&mut shape, key, value)?;
    }
    Ok(shape)
}

/// When a condition was measured, microseconds since the Unix epoch.
#[derive(Clone, Copy)]
struct Interval {
    from: i64,
    /// When the uplink was whole again, if it was narrowed.
    healed: Option<i64>,
    to: i64,
}

impl Interval {
    fn contains(self, at: i64) -> bool {
        (self.from..self.to).contains(&at)
    }

    /// A picture can be shown when all before it have come, and is late by what was the last of them.
    fn standstill(self, pictures: &[Picture]) -> Option<f64> {
        let mut latest = None;
        let mut longest: Option<i64> = None;
        for picture in pictures.iter().filter(|picture| self.contains(picture.encoded)) {
            let shown = latest.map_or(picture.received, |latest: i64| latest.max(picture.received));
            longest = longest.max(latest.map(|latest| shown - latest));
            latest = Some(shown);
        }
        longest.map(|longest| longest as f64 / 1e3)
    }

    /// `made` are the times at which pictures were encoded. One that never came is late.
    fn recovery(self, made: &[i64], pictures: &[Picture]) -> Option<f64> {
        let healed = self.healed?;
        let usual = sorted(pictures.iter().filter(|p| p.encoded < self.from).map(Picture::delay_ms));
        let bearable = quantile(&usual, 0.5)? + RECOVERED;
        let in_time = |at: i64| pictures.iter().any(|p| p.encoded == at && p.delay_ms() <= bearable);
        let last_late = made.iter().rev().find(|at| self.contains(**at) && !in_time(**at));
        let from = last_late.copied().unwrap_or(self.from);
        let first = pictures.iter().find(|p| p.encoded > from && self.contains(p.encoded))?;
        Some(((first.received - healed) as f64 / 1e3).max(0.0))
    }
}

impl PathSample {
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
            "missing": self.missing, "standstill_ms": self.standstill.map(round), "recovery_ms": self.recovery.map(round),
            "summary": self.summary,
        })
    }

    fn line(&self) -> String {
        let ms = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
        let recovery = match self.recovery {
            Some(recovery) => format!(", as before {recovery:.0} ms after the uplink was"),
            None if CONDITIONS[self.condition].0 == NARROWED => ", not as before by the end".to_owned(),
            None => String::new(),
        };
        format!(
            "{:<14} {:<12} start {:>5} ms, delay {:>5} median {:>6} p99 ms, {} stalls, {:.0} ms at a time, {} skipped, {} missing{recovery}",
            CONDITIONS[self.condition].0,
            PATHS[self.path].0,
            ms(self.startup),
            ms(self.delay(0.5)),
            ms(self.delay(0.99)),
            self.count("stalls"),
            self.standstill.unwrap_or(0.0),
            self.count("frames_skipped"),
            self.missing,
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
            self.count("frames_skipped").to_string(),
            self.missing.to_string(),
            number(self.standstill),
            number(self.recovery),
        ]
    }
}

fn figure(seen: &[PathSample]) -> Figure {
    let names: Vec<String> = CONDITIONS.iter().map(|(words, _)| (*words).to_owned()).collect();
    let place = |seen: &PathSample| seen.condition as f64 + (seen.path as f64 - 1.0) * 0.26;
    let mut delays = Vec::new();
    let mut starts = Vec::new();
    let mut standstills = Vec::new();
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
        let start = |one: &PathSample| one.startup.map(|ms| (place(one), ms, format!("{ms:.0}")));
        let bars = of().filter_map(start).collect();
        starts.push(Mark::Bars { name: (*name).to_owned(), colour: *colour, width: 0.22, bars });
        let still = |one: &PathSample| one.standstill.map(|ms| (place(one), ms, format!("{ms:.0}")));
        let bars = of().filter_map(still).collect();
        standstills.push(Mark::Bars { name: (*name).to_owned(), colour: *colour, width: 0.22, bars });
    }
    let worst = seen.iter().filter_map(|one| one.delay(0.99)).fold(1000.0, f64::max);
    let slowest = seen.iter().filter_map(|one| one.startup).fold(100.0, f64::max);
    let longest = seen.iter().filter_map(|one| one.standstill).fold(100.0, f64::max);
    let recoveries: Vec<String> = seen
        .iter()
        .filter(|one| CONDITIONS[one.condition].0 == NARROWED)
        .map(|one| {
            let time = one.recovery.map_or("no time that was watched".to_owned(), |ms| format!("{ms:.0} ms"));
            format!("{time} ({})", PATHS[one.path].0)
        })
        .collect();
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
            "bursts lose 3% in runs of five. In the last, the broadcaster's uplink falls under the stream's 1 Mbit/s for four seconds;".into(),
            format!("after it delays were as before within {}.", recoveries.join(", ")),
        ],
        rows: vec![
            Row { height: 520, panels: vec![panel("Delay from encoder to viewer: the dot is the median, the line goes to p99", decades, delays)] },
            Row { height: 430, panels: vec![panel("Start-up: milliseconds to the first picture", Axis::new("ms", 0.0, slowest * 1.2), starts)] },
            Row { height: 400, panels: vec![panel("Longest time without a further picture, before any buffer", Axis::new("ms", 0.0, longest * 1.25), standstills)] },
        ],
        ..Figure::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pictures every 100 ms from 0, with these delays in milliseconds; `None` never came.
    fn pictures(delays: &[Option<i64>]) -> (Vec<i64>, Vec<Picture>) {
        let made: Vec<i64> = (0..delays.len() as i64).map(|n| n * 100_000).collect();
        let came = made.iter().zip(delays).filter_map(|(encoded, delay)| {
            Some(Picture {
                dts: encoded / 1000,
                bytes: 1,
                random_access: false,
                path: String::new(),
                encoded: *encoded,
                received: encoded + (*delay)? * 1000,
                bound_ms: 0.0,
                settled: true,
            })
        });
        let came = came.collect();
        (made, came)
    }

    #[test]
    fn a_freeze_ends_with_the_next_picture() {
        let interval = Interval { from: 0, healed: None, to: 1_000_000 };
        let (_, even) = pictures(&[Some(20); 5]);
        assert_eq!(interval.standstill(&even), Some(100.0));
        // The third is late by 450 ms, and those behind it wait for it.
        let (made, late) = pictures(&[Some(20), Some(20), Some(450), Some(20), Some(20), Some(20)]);
        assert_eq!(interval.standstill(&late), Some(530.0));
        assert_eq!(interval.recovery(&made, &late), None, "the uplink was whole");
        assert_eq!(interval.standstill(&[]), None);
    }

    #[test]
    fn recovery_ends_with_the_first_picture_after_which_none_is_late() {
        let interval = Interval { from: 300_000, healed: Some(500_000), to: 1_000_000 };
        let usual = [Some(20), Some(22), Some(24)];
        let then = [Some(400), Some(500), None, Some(60), Some(30), Some(30), Some(30)];
        let (made, came) = pictures(&[&usual[..], &then].concat());
        // The picture of 600 ms is in time, and so are those after it.
        assert_eq!(interval.recovery(&made, &came), Some(160.0));
        let (made, came) = pictures(&[&usual[..], &[Some(400); 7]].concat());
        assert_eq!(interval.recovery(&made, &came), None);
        let (made, came) = pictures(&[Some(20); 10]);
        assert_eq!(interval.recovery(&made, &came), Some(0.0), "it was never late");
    }
}
