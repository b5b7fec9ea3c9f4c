//! `fanout-lan`: one to eight LAN viewers of a broadcaster with an uplink of 4 Mbit/s: latency of each viewer, and load of each link.
//!
//! All copies are unicast. Three viewers and the push exceed the uplink.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::outcome::{Outcome, quantile, round, sorted};
use super::pictures::{self, Picture};
use super::probe::now;
use super::testbed::{Testbed, Traced};
use crate::figure::{Axis, BLUE, Figure, GREEN, GREY, Mark, ORANGE, Panel, Row, VERMILION};
use crate::latency_bound::{FRAMING, LatencyBounds, MEAN_UNIT};
use crate::link::Link;
use crate::topology::{HostConfig, LinkConfig, Topology};

/// The result at one number of viewers.
struct ViewerCountSample {
    viewers: usize,
    /// Microseconds since the Unix epoch.
    from: i64,
    to: i64,
    /// Load of the broadcaster's uplink and of the link from the CDN to the switch, bits per second.
    uplink: f64,
    from_cdn: f64,
    seen: Vec<ViewerSample>,
}

/// The result of one viewer in one sample.
struct ViewerSample {
    /// Encoder-to-viewer latency, milliseconds, ascending.
    delays: Vec<f64>,
    /// Share of frames received directly from the broadcaster, 0 to 1.
    by_peer: f64,
    /// Frames encoded in this interval that were not received.
    missing: usize,
}

pub(super) fn run(testbed: &Testbed) -> Result<Outcome> {
    let most = if testbed.quick { 3 } else { MOST };
    let topology = with_viewers(testbed.topology(include_str!("../../topologies/paper-a.toml"))?, most)?;
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
    let (uplink, from_cdn) = (built.link("broadcaster")?, built.link("cdn")?);
    let before = built.network.lateness();
    let (mut viewers, mut samples) = (Vec::<Traced>::new(), Vec::new());
    for n in 1..=most {
        let name = viewer_name(n);
        let viewer = testbed.viewer(&name, built.host(&name)?, &format!("http://{address}:8080/live"), &[])?;
        viewers.push(viewer);
        viewers[n - 1].wait_pictures("received", "", 30, 0, START).with_context(|| format!("viewer {n}"))?;
        // Time to discover the broadcaster and switch to it, or to be redirected to the CDN.
        std::thread::sleep(testbed.seconds(6, 3));
        let (from, carried) = (now(), carried(uplink, from_cdn));
        std::thread::sleep(testbed.seconds(8, 3));
        let (to, now_carried) = (now(), self::carried(uplink, from_cdn));
        let rate = |at: usize| (now_carried[at] - carried[at]) as f64 * 8e6 / (to - from) as f64;
        samples.push(ViewerCountSample { viewers: n, from, to, uplink: rate(0), from_cdn: rate(1), seen: Vec::new() });
    }
    let lateness = built.network.lateness().since(&before);
    let invalid = built.network.ensure_valid().err().map(|error| format!("{error:#}"));
    // Frames in flight count as well.
    std::thread::sleep(Duration::from_secs(1));
    let mut summaries = Vec::new();
    for viewer in &mut viewers {
        summaries.push(viewer.finish()?);
    }
    broadcaster.finish()?;
    let sent = broadcaster.rows()?;
    for viewer in &viewers {
        let pictures = pictures::join(&sent, &viewer.rows()?, &bounds);
        let begun = pictures.first().map_or(i64::MAX, |picture| picture.encoded);
        for sample in samples.iter_mut().filter(|sample| sample.from >= begun) {
            let within = |at: i64| (sample.from..sample.to).contains(&at);
            let made = sent.iter().filter(|row| row.stage == "encoded" && within(row.at)).count();
            let came: Vec<&Picture> = pictures.iter().filter(|picture| within(picture.encoded)).collect();
            let by_peer = came.iter().filter(|picture| picture.path.starts_with(PEER)).count();
            sample.seen.push(ViewerSample {
                delays: sorted(came.iter().map(|picture| picture.delay_ms())),
                by_peer: by_peer as f64 / came.len().max(1) as f64,
                missing: made.saturating_sub(came.len()),
            });
        }
    }
    Ok(Outcome {
        findings: json!({ "samples": samples.iter().map(ViewerCountSample::findings).collect::<Vec<_>>(), "viewers": summaries }),
        lines: samples.iter().map(ViewerCountSample::line).collect(),
        columns: &[
            "viewers",
            "viewer",
            "delay_p50_ms",
            "delay_p99_ms",
            "by_peer",
            "missing",
            "uplink_bit_s",
            "from_cdn_bit_s",
        ],
        rows: samples.iter().flat_map(ViewerCountSample::rows).collect(),
        figure: figure(&samples, &bounds),
        // On an overloaded link units are dropped, which is a result and not a fault.
        faults: Vec::new(),
        lateness,
        invalid,
    })
}

/// Bytes sent by the broadcaster, and bytes from the CDN to the switch, so far.
fn carried(uplink: &Arc<Link>, from_cdn: &Arc<Link>) -> [u64; 2] {
    [uplink.stats().a_to_b.sent_bytes, from_cdn.stats().b_to_a.sent_bytes]
}

/// The paper's network with `count` viewers, each on a link like the first one's.
pub(super) fn with_viewers(mut topology: Topology, count: usize) -> Result<Topology> {
    let first = topology.link("viewer")?.clone();
    for n in 2..=count {
        let name = viewer_name(n);
        let address = format!("10.77.0.{}", 20 + n).parse().context("address")?;
        topology.hosts.push(HostConfig { name: name.clone(), address: Some(address), gateway: None, router: false });
        topology.links.push(LinkConfig { name: name.clone(), a: name, ..first.clone() });
    }
    Ok(topology)
}

pub(super) fn viewer_name(n: usize) -> String {
    if n == 1 { "viewer".to_owned() } else { format!("viewer{n}") }
}

impl ViewerCountSample {
    fn findings(&self) -> Value {
        let seen = |seen: &ViewerSample| {
            json!({
                "delay_ms": { "p50": quantile(&seen.delays, 0.5).map(round), "p99": quantile(&seen.delays, 0.99).map(round) },
                "by_peer": round(seen.by_peer), "missing": seen.missing,
            })
        };
        json!({
            "viewers": self.viewers, "uplink_bit_s": self.uplink.round(), "from_cdn_bit_s": self.from_cdn.round(),
            "seen": self.seen.iter().map(seen).collect::<Vec<_>>(),
        })
    }

    fn line(&self) -> String {
        let of = |q| sorted(self.seen.iter().filter_map(|seen| quantile(&seen.delays, q)));
        let span = |values: Vec<f64>| match (values.first(), values.last()) {
            (Some(least), Some(most)) => format!("{least:.0} to {most:.0}"),
            _ => "-".to_owned(),
        };
        let by_peer = self.seen.iter().filter(|seen| seen.by_peer > 0.5).count();
        let missing: usize = self.seen.iter().map(|seen| seen.missing).sum();
        format!(
            "{} viewers: p50 {} ms, p99 {} ms; {by_peer} served by the broadcaster; uplink {:.2} Mbit/s, from the CDN {:.2} Mbit/s; {missing} frames missing",
            self.viewers,
            span(of(0.5)),
            span(of(0.99)),
            self.uplink / 1e6,
            self.from_cdn / 1e6
        )
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let number = |value: Option<f64>| value.map_or(String::new(), |value| round(value).to_string());
        let row = |(n, seen): (usize, &ViewerSample)| {
            vec![
                self.viewers.to_string(),
                (n + 1).to_string(),
                number(quantile(&seen.delays, 0.5)),
                number(quantile(&seen.delays, 0.99)),
                round(seen.by_peer).to_string(),
                seen.missing.to_string(),
                self.uplink.round().to_string(),
                self.from_cdn.round().to_string(),
            ]
        };
        self.seen.iter().enumerate().map(row).collect()
    }
}

fn figure(samples: &[ViewerCountSample], bounds: &LatencyBounds) -> Figure {
    let most = samples.len() as f64;
    let points = |q: f64, by_peer: bool| {
        let of = |sample: &ViewerCountSample| {
            let count = sample.seen.len() as f64;
            let place = |n: usize| sample.viewers as f64 + (n as f64 - (count - 1.0) / 2.0) * 0.07;
            let seen = sample.seen.iter().enumerate().filter(|(_, seen)| (seen.by_peer > 0.5) == by_peer);
            seen.filter_map(|(n, seen)| Some((place(n), quantile(&seen.delays, q)?.max(1.0)))).collect::<Vec<_>>()
        };
        samples.iter().flat_map(of).collect::<Vec<_>>()
    };
    let highest = [true, false].iter().flat_map(|by| points(0.99, *by)).map(|(_, y)| y).fold(1000.0, f64::max);
    let dots = |name: &str, colour, points, radius| Mark::Dots { name: name.into(), colour, points, radius };
    let ms = |path: &crate::latency_bound::PathModel| path.idle_latency(MEAN_UNIT).as_secs_f64() * 1e3;
    let level = |y: f64, what: &str, colour| Mark::Level { y, colour, label: format!("{y:.0} ms: {what}") };
    let delays = Panel {
        width: 1.0,
        title: "Frame latency at each viewer, encoder to viewer".into(),
        x: Axis::new("concurrent viewers", 0.5, most + 0.5),
        y: Axis::new("ms, log scale", 10.0, 10f64.powf(highest.log10().ceil())).log(),
        margin: 270,
        marks: vec![
            level(ms(&bounds.peer), "lower bound, peer", VERMILION),
            level(ms(&bounds.cdn_units), "lower bound, CDN", BLUE),
            dots("p50, from the broadcaster", VERMILION, points(0.5, true), 7),
            dots("p99, from the broadcaster", ORANGE, points(0.99, true), 5),
            dots("p50, via the CDN", BLUE, points(0.5, false), 7),
            dots("p99, via the CDN", GREEN, points(0.99, false), 5),
        ],
    };
    let line = |name: &str, colour, dashed, of: &dyn Fn(&ViewerCountSample) -> f64| {
        let points = samples.iter().map(|sample| (sample.viewers as f64, of(sample) / 1e6)).collect();
        Mark::Line { name: name.into(), colour, points, width: 4, dashed }
    };
    let copy = FRAMING.wire_bytes(MEAN_UNIT) as f64 * 8.0 * 30.0;
    let load = Panel {
        width: 1.0,
        title: "Link load".into(),
        x: Axis::new("concurrent viewers", 0.5, most + 0.5),
        y: Axis::new("Mbit/s", 0.0, (copy * (most + 1.0) / 1e6).max(4.0).ceil() + 0.5),
        margin: 270,
        marks: vec![
            Mark::Level { y: 4.0, colour: GREY, label: "4 Mbit/s: link rate".into() },
            line("broadcaster uplink", VERMILION, false, &|sample| sample.uplink),
            line("CDN to viewers", BLUE, false, &|sample| sample.from_cdn),
            line("one copy per viewer and one for the CDN", GREY, true, &|sample| copy * (sample.viewers as f64 + 1.0)),
        ],
    };
    Figure {
        title: "One to eight LAN viewers over an uplink of 4 Mbit/s".into(),
        subtitle: vec!["One unicast copy for each viewer and one for the CDN; 1 Mbit/s at 30 fps.".into()],
        rows: vec![
            Row { height: 600, panels: vec![delays] },
            Row { height: 440, panels: vec![load] },
            Row { height: 360, panels: vec![missing(samples)] },
        ],
        ..Figure::default()
    }
}

/// The panel with the share of frames that were not received.
fn missing(samples: &[ViewerCountSample]) -> Panel {
    let share = |sample: &ViewerCountSample| {
        let missing: usize = sample.seen.iter().map(|seen| seen.missing).sum();
        let all: usize = missing + sample.seen.iter().map(|seen| seen.delays.len()).sum::<usize>();
        let percent = missing as f64 * 100.0 / all.max(1) as f64;
        (sample.viewers as f64, percent, format!("{percent:.0}"))
    };
    Panel {
        width: 1.0,
        title: "Frames that were not received".into(),
        x: Axis::new("concurrent viewers", 0.5, samples.len() as f64 + 0.5),
        y: Axis::new("%", 0.0, 115.0),
        margin: 270,
        marks: vec![Mark::Bars {
            name: String::new(),
            colour: GREY,
            width: 0.5,
            bars: samples.iter().map(share).collect(),
        }],
    }
}

const PEER: &str = "LAN peer";
/// Maximum number of viewers.
const MOST: usize = 8;
/// Timeout for a viewer to join, on a saturated link.
const START: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_viewers_have_the_same_path_as_the_first() {
        let topology: Topology = include_str!("../../topologies/paper-a.toml").parse().unwrap();
        let topology = with_viewers(topology, 8).unwrap();
        let first = topology.hops("broadcaster", "viewer").unwrap();
        for n in 2..=8 {
            assert_eq!(topology.hops("broadcaster", &viewer_name(n)).unwrap(), first);
        }
    }
}
