//! `bad-network`: startup time, latency and freezes under loss, bursts, jitter and a slow uplink, a longer route and cross traffic, for
//! each path by itself.
//!
//! Three viewers watch concurrently, each over its own link and by one path: directly from the broadcaster, by the relay protocol from the
//! CDN, and by RTMP from the CDN. Their links are impaired in the same way.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::cross_traffic::CrossTraffic;
use super::fanout::{viewer_name, with_viewers};
use super::outcome::{Outcome, quantile, round, sorted};
use super::pictures::{self, Picture};
use super::probe::now;
use super::testbed::Testbed;
use super::trace_reader::TraceRow;
use crate::figure::{Axis, BLUE, Colour, Figure, GREEN, Mark, Panel, Row, VERMILION};
use crate::latency_bound::{FRAMING, LatencyBounds};
use crate::link::shape::Shape;
use crate::topology::shape_syntax;

/// A condition: its name, the impairment of the viewers' links in the syntax of `lab set`, and what happens to the broadcaster's uplink.
const CONDITIONS: [(&str, &str, Uplink); 9] = [
    ("none", "", Uplink::Whole),
    ("1% loss", "loss=1%", Uplink::Whole),
    ("5% loss", "loss=5%", Uplink::Whole),
    ("10% loss", "loss=10%", Uplink::Whole),
    ("bursts", "burst=1%/20%/0%/60%", Uplink::Whole),
    ("50 ms jitter", "delay=50ms jitter=50ms", Uplink::Whole),
    ("uplink 0.7M", "", Uplink::Narrowed),
    ("uplink +160 ms", "", Uplink::DelayStep),
    ("cross traffic", "", Uplink::CrossTraffic),
];

/// What happens to the broadcaster's uplink while a condition is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Uplink {
    Whole,
    /// For some seconds it carries 0.7 Mbit/s.
    Narrowed,
    /// Its round trip becomes longer by 160 ms, as by a handover between access points.
    DelayStep,
    /// It carries 2.4 Mbit/s, and a TCP connection sends as much as it can beside the stream.
    CrossTraffic,
}

/// How much longer the round trip becomes in [`Uplink::DelayStep`].
const DELAY_STEP: Duration = Duration::from_millis(160);

/// Latency above the previous median that counts as recovered, milliseconds: a viewer's buffer absorbs it.
const RECOVERED: f64 = 50.0;

/// Each path: display name, argument of `viewer --transport`, colour.
const PATHS: [(&str, &str, Colour); 3] =
    [("peer", "peer", VERMILION), ("relay, CDN", "relay", BLUE), ("RTMP, CDN", "rtmp", GREEN)];

/// The result of one path under one condition.
struct PathSample {
    condition: usize,
    path: usize,
    /// Startup time to the first frame, milliseconds; `None` if there was none.
    startup: Option<f64>,
    /// Encoder-to-viewer latency of each frame, milliseconds, ascending.
    delays: Vec<f64>,
    summary: Value,
    /// Frames of the interval that were not received.
    missing: usize,
    /// The longest time without a displayable new frame, milliseconds.
    freeze: Option<f64>,
    /// Time from the restoration of the uplink until every frame is within [`RECOVERED`] of the previous median, milliseconds; `None` if
    /// the uplink was not limited, or without recovery within the interval.
    recovery: Option<f64>,
    /// The bitrate that the encoder made from a second of the condition on, relative to that before it; `None` if nothing happened to the
    /// uplink.
    bitrate: Option<f64>,
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
    for (condition, (_, settings, happens)) in CONDITIONS.iter().enumerate() {
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
        let mut cross_traffic = None;
        match happens {
            Uplink::Whole => {}
            Uplink::Narrowed => {
                uplink.set_both(Shape { rate: Some(700_000), ..whole })?;
                std::thread::sleep(testbed.seconds(4, 2));
                uplink.set_both(whole)?;
                healed = Some(now());
            }
            Uplink::DelayStep => uplink.set_both(Shape { delay: whole.delay + DELAY_STEP / 2, ..whole })?,
            Uplink::CrossTraffic => {
                uplink.set_both(Shape { rate: Some(2_400_000), ..whole })?;
                cross_traffic = Some(CrossTraffic::start(built.host("broadcaster")?, cdn)?);
            }
        }
        std::thread::sleep(testbed.seconds(8, 3));
        let to = now();
        if let Some(cross_traffic) = cross_traffic {
            cross_traffic.finish()?;
        }
        uplink.set_both(whole)?;
        // Late frames still arrive.
        std::thread::sleep(Duration::from_millis(1500));
        for (path, mut viewer) in viewers.into_iter().enumerate() {
            // A viewer without any frame exits with an error, which is a result.
            let summary = viewer.finish().unwrap_or(Value::Null);
            ended.push((condition, path, Interval { from, healed, to }, viewer, summary, *happens));
        }
        for n in 1..=PATHS.len() {
            built.link(&viewer_name(n))?.set_both(whole)?;
        }
    }
    let lateness = built.network.lateness().since(&before);
    let invalid = built.network.ensure_valid().err().map(|error| format!("{error:#}"));
    broadcaster.finish()?;
    let sent = broadcaster.rows()?;
    for (condition, path, interval, viewer, summary, happens) in ended {
        let pictures = pictures::join(&sent, &viewer.rows()?, &bounds);
        let made: Vec<i64> = sent.iter().filter(|row| row.stage == "encoded").map(|row| row.at).collect();
        let delays = sorted(pictures.iter().filter(|p| interval.contains(p.encoded)).map(Picture::delay_ms));
        seen.push(PathSample {
            condition,
            path,
            startup: summary["startup_ms"].as_f64(),
            missing: made.iter().filter(|at| interval.contains(**at)).count().saturating_sub(delays.len()),
            freeze: interval.freeze(&pictures),
            recovery: interval.recovery(&made, &pictures),
            bitrate: interval.bitrate(&sent).filter(|_| happens != Uplink::Whole),
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
            "freeze_ms",
            "recovery_ms",
            "bitrate",
        ],
        rows: seen.iter().map(PathSample::row).collect(),
        figure: figure(&seen),
        // With a single path, lost units are a result and not a fault.
        faults: Vec::new(),
        lateness,
        invalid,
    })
}

/// `shape` with the settings applied, in the syntax of `lab set`.
fn altered(mut shape: Shape, settings: &str) -> Result<Shape> {
    for setting in settings.split_whitespace() {
        let (key, value) = setting.split_once('=').context("a condition is KEY=VALUE")?;
        shape_syntax::apply(&mut shape, key, value)?;
    }
    Ok(shape)
}

/// The interval in which a condition was measured, microseconds since the Unix epoch.
#[derive(Clone, Copy)]
struct Interval {
    from: i64,
    /// When the uplink was restored, if it was limited.
    healed: Option<i64>,
    to: i64,
}

impl Interval {
    fn contains(self, at: i64) -> bool {
        (self.from..self.to).contains(&at)
    }

    /// The longest freeze in milliseconds: a frame can be displayed once it and all frames before it have arrived.
    fn freeze(self, pictures: &[Picture]) -> Option<f64> {
        let mut latest = None;
        let mut longest: Option<i64> = None;
        for picture in pictures.iter().filter(|picture| self.contains(picture.encoded)) {
            let shown = latest.map_or(picture.received, |latest: i64| latest.max(picture.received));
            longest = longest.max(latest.map(|latest| shown - latest));
            latest = Some(shown);
        }
        longest.map(|longest| longest as f64 / 1e3)
    }

    /// What the encoder made per second from the second second on, relative to the three seconds before.
    fn bitrate(self, rows: &[TraceRow]) -> Option<f64> {
        let rate = |from: i64, to: i64| {
            let is_one = |row: &&TraceRow| row.stage == "encoded" && (from..to).contains(&row.at);
            let bytes: usize = rows.iter().filter(is_one).map(|row| row.bytes).sum();
            bytes as f64 / (to - from) as f64
        };
        let before = rate(self.from - 3_000_000, self.from);
        (before > 0.0).then(|| rate(self.from + 1_000_000, self.to) / before)
    }

    /// The recovery time in milliseconds. `made` are the encoding times of all frames; one that was not received counts as late.
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
            "missing": self.missing, "freeze_ms": self.freeze.map(round), "recovery_ms": self.recovery.map(round),
            "bitrate": self.bitrate,
            "summary": self.summary,
        })
    }

    fn line(&self) -> String {
        let ms = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
        let recovery = match self.recovery {
            Some(recovery) => format!(", recovered after {recovery:.0} ms"),
            None if CONDITIONS[self.condition].2 == Uplink::Narrowed => ", not recovered by the end".to_owned(),
            None => String::new(),
        };
        let bitrate = self.bitrate.map_or(String::new(), |part| format!(", {:.0}% of the bitrate", part * 100.0));
        format!(
            "{:<14} {:<12} startup {:>5} ms, latency p50 {:>5} ms, p99 {:>6} ms, {} stalls, longest freeze {:.0} ms, {} skipped, {} missing{recovery}{bitrate}",
            CONDITIONS[self.condition].0,
            PATHS[self.path].0,
            ms(self.startup),
            ms(self.delay(0.5)),
            ms(self.delay(0.99)),
            self.count("stalls"),
            self.freeze.unwrap_or(0.0),
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
            number(self.freeze),
            number(self.recovery),
            self.bitrate.map_or(String::new(), |part| format!("{part:.2}")),
        ]
    }
}

fn figure(seen: &[PathSample]) -> Figure {
    let names: Vec<String> = CONDITIONS.iter().map(|(words, ..)| (*words).to_owned()).collect();
    let place = |seen: &PathSample| seen.condition as f64 + (seen.path as f64 - 1.0) * 0.26;
    let mut delays = Vec::new();
    let mut starts = Vec::new();
    let mut freezes = Vec::new();
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
        let nothing = of().filter(|one| one.delays.is_empty()).map(|one| (place(one), 10.0, "no frames".to_owned()));
        delays.push(Mark::Bars { name: String::new(), colour: *colour, width: 0.0, bars: nothing.collect() });
        let medians = of().filter_map(|one| Some((place(one), one.delay(0.5)?.max(10.0)))).collect();
        delays.push(Mark::Dots { name: (*name).to_owned(), colour: *colour, points: medians, radius: 8 });
        let start = |one: &PathSample| one.startup.map(|ms| (place(one), ms, format!("{ms:.0}")));
        let bars = of().filter_map(start).collect();
        starts.push(Mark::Bars { name: (*name).to_owned(), colour: *colour, width: 0.22, bars });
        let still = |one: &PathSample| one.freeze.map(|ms| (place(one), ms, format!("{ms:.0}")));
        let bars = of().filter_map(still).collect();
        freezes.push(Mark::Bars { name: (*name).to_owned(), colour: *colour, width: 0.22, bars });
    }
    let worst = seen.iter().filter_map(|one| one.delay(0.99)).fold(1000.0, f64::max);
    let slowest = seen.iter().filter_map(|one| one.startup).fold(100.0, f64::max);
    let longest = seen.iter().filter_map(|one| one.freeze).fold(100.0, f64::max);
    let recoveries: Vec<String> = seen
        .iter()
        .filter(|one| CONDITIONS[one.condition].2 == Uplink::Narrowed)
        .map(|one| {
            let time = one.recovery.map_or("no time within the run".to_owned(), |ms| format!("{ms:.0} ms"));
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
    let decades = Axis::new("ms, log scale", 10.0, 10f64.powf(worst.log10().ceil())).log();
    Figure {
        title: "Impaired networks: each path by itself".into(),
        subtitle: vec![
            "LAN links of 10 Mbit/s and 8 ms, a CDN link of 100 Mbit/s and 30 ms. Impairments are on the viewers' links, in both directions;".into(),
            "bursts lose 3% in runs of five. The uplink drops to 0.7 Mbit/s for four seconds, below the bitrate of 1 Mbit/s;".into(),
            format!("then latency recovered within {}. Cross traffic shares an uplink of 2.4 Mbit/s.", recoveries.join(", ")),
        ],
        rows: vec![
            Row { height: 520, panels: vec![panel("Encoder-to-viewer latency: the dot is p50, the line extends to p99", decades, delays)] },
            Row { height: 430, panels: vec![panel("Startup: time to the first frame", Axis::new("ms", 0.0, slowest * 1.2), starts)] },
            Row { height: 400, panels: vec![panel("Longest freeze, before buffering", Axis::new("ms", 0.0, longest * 1.25), freezes)] },
        ],
        ..Figure::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames every 100 ms from 0 with these latencies in milliseconds; `None` was not received.
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
        assert_eq!(interval.freeze(&even), Some(100.0));
        // The third frame has 450 ms, and the later ones wait for it.
        let (made, late) = pictures(&[Some(20), Some(20), Some(450), Some(20), Some(20), Some(20)]);
        assert_eq!(interval.freeze(&late), Some(530.0));
        assert_eq!(interval.recovery(&made, &late), None, "the uplink was not limited");
        assert_eq!(interval.freeze(&[]), None);
    }

    #[test]
    fn the_bitrate_is_relative_to_that_before() {
        let interval = Interval { from: 3_000_000, healed: None, to: 6_000_000 };
        let row = |at: i64, bytes| TraceRow {
            stage: "encoded".into(),
            track: "v0".into(),
            dts: at / 1000,
            random_access: false,
            bytes,
            path: String::new(),
            at,
        };
        let rows: Vec<TraceRow> = (0..60).map(|n| row(n * 100_000, if n < 40 { 100 } else { 50 })).collect();
        assert_eq!(interval.bitrate(&rows), Some(0.5), "the first second does not count");
        assert_eq!(interval.bitrate(&[]), None);
    }

    #[test]
    fn recovery_ends_with_the_first_picture_after_which_none_is_late() {
        let interval = Interval { from: 300_000, healed: Some(500_000), to: 1_000_000 };
        let usual = [Some(20), Some(22), Some(24)];
        let then = [Some(400), Some(500), None, Some(60), Some(30), Some(30), Some(30)];
        let (made, came) = pictures(&[&usual[..], &then].concat());
        // The frame of 600 ms is in time, and so are all later ones.
        assert_eq!(interval.recovery(&made, &came), Some(160.0));
        let (made, came) = pictures(&[&usual[..], &[Some(400); 7]].concat());
        assert_eq!(interval.recovery(&made, &came), None);
        let (made, came) = pictures(&[Some(20); 10]);
        assert_eq!(interval.recovery(&made, &came), Some(0.0), "no frame was late");
    }
}
