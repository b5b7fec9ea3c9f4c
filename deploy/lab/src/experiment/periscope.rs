//! `periscope`: the glass-to-glass latency of RTMP, the relay protocol, LL-HLS and HLS, broken down and compared as in Wang et al., "Anatomy of a
//! Personalized Livestreaming System" (IMC 2016); and the server's load with 100 to 500 viewers of each.
//!
//! All hosts share one clock, so the components are exact: they come from the `--trace` files of the three programs, joined by DTS. Buffers have their
//! default sizes. There is one server, so no time passes from an origin to an edge.

use std::time::Duration;

use anyhow::{Context, Result};
use media::latency::LatencyComponent;
use serde_json::{Value, json};

use super::latency_breakdown::{self, Breakdown, ImcComponent};
use super::outcome::{Outcome, quantile, round, sorted};
use super::pictures;
use super::probe::now;
use super::server_load::{self, LoadSample};
use super::testbed::Testbed;
use crate::figure::{Axis, BLUE, Colour, Figure, GREEN, GREY, Mark, ORANGE, PALETTE, PURPLE, Panel, Row, VERMILION};
use crate::load::Protocol;

/// All protocols, by increasing latency.
const PROTOCOLS: [Protocol; 4] = [Protocol::Relay, Protocol::Rtmp, Protocol::LowLatencyHls, Protocol::Hls];

/// The result of one viewer.
struct ViewerSample {
    protocol: Protocol,
    breakdowns: Vec<Breakdown>,
    /// Presented frames with missing stages.
    incomplete: usize,
    summary: Value,
}

pub(super) fn run(testbed: &Testbed) -> Result<Outcome> {
    let built = testbed.topology(include_str!("../../topologies/periscope.toml"))?.build()?;
    let host = built.host("cdn")?;
    let address = host.address().context("the CDN has no address")?;
    let key = testbed.key()?;
    let server = testbed.traced_cdn(host)?;
    let options = [&pictures::STREAM[..], &["--no-lan"]].concat();
    let publish = format!("rtmp://{address}/live/{key}");
    let mut broadcaster = testbed.broadcaster(built.host("broadcaster")?, &publish, &options)?;
    broadcaster.wait_pictures("pushed", "", 30, 0, START)?;
    let mut viewers = Vec::new();
    for protocol in PROTOCOLS {
        let via = protocol.name();
        viewers.push(testbed.viewer(
            via,
            built.host(via)?,
            &format!("http://{address}:8080/live"),
            &["--transport", via],
        )?);
    }
    for viewer in &mut viewers {
        viewer.wait_pictures("presented", "", 30, 0, START)?;
    }
    // Time for adaptive buffers to settle.
    std::thread::sleep(testbed.seconds(8, 3));
    let before = built.network.lateness();
    let from = now();
    std::thread::sleep(testbed.seconds(30, 6));
    let to = now();
    let lateness = built.network.lateness().since(&before);
    let invalid = built.network.ensure_valid().err().map(|error| format!("{error:#}"));
    let mut summaries = Vec::new();
    for viewer in &mut viewers {
        summaries.push(viewer.finish()?);
    }
    broadcaster.finish()?;
    let (sent, passed) = (broadcaster.rows()?, server.rows()?);
    let mut seen = Vec::new();
    for ((protocol, viewer), summary) in PROTOCOLS.into_iter().zip(&viewers).zip(summaries) {
        let shown = viewer.rows()?.into_iter();
        // Frames presented outside of the interval are not counted.
        let rows: Vec<_> = shown.filter(|row| row.stage != "presented" || (from..to).contains(&row.at)).collect();
        let (breakdowns, incomplete) = latency_breakdown::join(protocol, &sent, &passed, &rows);
        seen.push(ViewerSample { protocol, breakdowns, incomplete, summary });
    }
    drop((viewers, broadcaster, server, built));

    let samples = server_load::run(testbed, &key, &PROTOCOLS)?;
    let faults =
        seen.iter().flat_map(ViewerSample::faults).chain(samples.iter().flat_map(|sample| sample.faults.clone()));
    let imc: Vec<Value> = IMC.iter().map(|(name, parts)| json!({ "protocol": name, "seconds": parts })).collect();
    Ok(Outcome {
        findings: json!({
            "viewers": seen.iter().map(ViewerSample::findings).collect::<Vec<_>>(),
            "origin_to_edge": "one server: none",
            "imc_2016": imc,
            "load": samples.iter().map(LoadSample::findings).collect::<Vec<_>>(),
            "load_pinned": server_load::is_pinned(),
        }),
        lines: seen.iter().map(ViewerSample::line).chain(samples.iter().map(LoadSample::line)).collect(),
        columns: &["protocol", "viewers", "what", "value"],
        rows: seen.iter().flat_map(ViewerSample::rows).chain(samples.iter().flat_map(LoadSample::rows)).collect(),
        faults: faults.collect(),
        figure: figure(&seen, &samples),
        lateness,
        invalid,
    })
}

impl ViewerSample {
    /// The mean over all frames, milliseconds.
    fn mean(&self, of: impl Fn(&Breakdown) -> f64) -> f64 {
        self.breakdowns.iter().map(of).sum::<f64>() / self.breakdowns.len().max(1) as f64
    }

    fn totals(&self) -> Vec<f64> {
        sorted(self.breakdowns.iter().map(Breakdown::total_ms))
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = pictures::faults(&self.summary);
        if self.breakdowns.is_empty() || self.incomplete > self.breakdowns.len() / MAX_INCOMPLETE {
            faults.push(format!("{} frames traced completely, {} not", self.breakdowns.len(), self.incomplete));
        }
        let sum = |breakdown: &Breakdown| {
            ImcComponent::ALL.into_iter().map(|component| breakdown.imc_ms(component)).sum::<f64>()
        };
        let wrong =
            self.breakdowns.iter().filter(|breakdown| (sum(breakdown) - breakdown.total_ms()).abs() > 1e-3).count();
        if wrong > 0 {
            faults.push(format!("the components of {wrong} frames do not add up"));
        }
        for part in LatencyComponent::ALL {
            let mean = self.mean(|breakdown| breakdown.part_ms(part));
            if mean < BACKWARDS {
                faults.push(format!("{} takes {mean:.1} ms", part.name()));
            }
        }
        faults.into_iter().map(|fault| format!("{}: {fault}", self.protocol.name())).collect()
    }

    fn findings(&self) -> Value {
        let parts = |parts: Vec<(&'static str, Vec<f64>)>| -> serde_json::Map<String, Value> {
            let of = |(name, values): (&'static str, Vec<f64>)| {
                let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
                let value = json!({
                    "mean": round(mean), "p50": quantile(&values, 0.5).map(round), "p99": quantile(&values, 0.99).map(round),
                });
                (name.to_owned(), value)
            };
            parts.into_iter().map(of).collect()
        };
        let values = |of: &dyn Fn(&Breakdown) -> f64| sorted(self.breakdowns.iter().map(of));
        json!({
            "protocol": self.protocol.name(), "pictures": self.breakdowns.len(), "incomplete": self.incomplete,
            "total_ms": parts(vec![("total", self.totals())])["total"],
            "imc_components_ms": parts(ImcComponent::ALL.map(|component| (component.name(), values(&|breakdown| breakdown.imc_ms(component)))).to_vec()),
            "components_ms": parts(LatencyComponent::ALL.map(|part| (part.name(), values(&|breakdown| breakdown.part_ms(part)))).to_vec()),
            "viewer": self.summary,
        })
    }

    fn line(&self) -> String {
        let component: Vec<String> = ImcComponent::ALL
            .iter()
            .map(|component| format!("{} {:.1}", component.name(), self.mean(|breakdown| breakdown.imc_ms(*component))))
            .collect();
        format!(
            "{:<7} {:>7.1} ms glass to glass (p99 {:.1}): {}; {} frames, {} not traced completely",
            self.protocol.name(),
            self.mean(Breakdown::total_ms),
            quantile(&self.totals(), 0.99).unwrap_or(f64::NAN),
            component.join(", "),
            self.breakdowns.len(),
            self.incomplete
        )
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let row = |what: String, value: f64| {
            vec![self.protocol.name().to_owned(), "1".to_owned(), what, round(value).to_string()]
        };
        let key = |component: &ImcComponent| format!("{}_mean_ms", component.name().replace(' ', "_"));
        let mut rows: Vec<_> = ImcComponent::ALL
            .iter()
            .map(|component| row(key(component), self.mean(|breakdown| breakdown.imc_ms(*component))))
            .collect();
        rows.push(row("total_mean_ms".into(), self.mean(Breakdown::total_ms)));
        for (what, q) in [("total_p50_ms", 0.5), ("total_p99_ms", 0.99)] {
            rows.extend(quantile(&self.totals(), q).map(|value| row(what.into(), value)));
        }
        rows
    }
}

fn figure(seen: &[ViewerSample], samples: &[LoadSample]) -> Figure {
    let ours = |seen: &ViewerSample| {
        let parts = ImcComponent::ALL.map(|component| seen.mean(|breakdown| breakdown.imc_ms(component)));
        (TITLES[place(seen.protocol)].to_owned(), parts)
    };
    let ours: Vec<(String, [f64; 6])> = seen.iter().map(ours).collect();
    let imc = IMC.iter().map(|(name, parts)| (format!("{name}, IMC 2016"), parts.map(|part| part * 1e3)));
    let all: Vec<(String, [f64; 6])> = ours.iter().cloned().chain(imc).collect();
    let quick: Vec<(String, [f64; 6])> =
        ours.into_iter().filter(|(_, parts)| parts.iter().sum::<f64>() < 2e3).collect();
    let whole = stacked("Glass-to-glass latency, mean", "s", 1e-3, &all, 1.55);
    let near = stacked("Below two seconds, in ms", "ms", 1.0, &quick, 1.0);
    let how = if server_load::is_pinned() {
        "server and load generator on one core each"
    } else {
        "server and load generator share one core"
    };
    Figure {
        title: "Latency breakdown by protocol, and server load by number of viewers".into(),
        subtitle: vec![
            "Uplink 10 Mbit/s and 20 ms, viewers 20 ms from the server, default buffers. One server, hence no time from origin to edge."
                .into(),
            "Upload includes the encoder, buffering the decoder. IMC 2016 is Periscope; for its RTMP only total and buffering are published.".into(),
            format!("Below: 1 Mbit/s at 30 fps, every viewer receives every unit; {how}."),
        ],
        rows: vec![
            Row { height: 760, panels: vec![whole, near] },
            Row { height: 560, panels: vec![cost(samples), latency(samples)] },
        ],
        ..Figure::default()
    }
}

fn stacked(title: &str, unit: &str, scale: f64, bars: &[(String, [f64; 6])], width: f64) -> Panel {
    let total = |parts: &[f64; 6]| parts.iter().sum::<f64>() * scale;
    let highest = bars.iter().map(|(_, parts)| total(parts)).fold(0.1, f64::max);
    let write = |value: f64| if unit == "s" { format!("{value:.2}") } else { format!("{value:.0}") };
    let pieces = |n: usize| {
        let piece = |(x, (_, parts)): (usize, &(String, [f64; 6]))| {
            let from = parts[..n].iter().sum::<f64>() * scale;
            (x as f64, from, from + parts[n] * scale, write(parts[n] * scale))
        };
        bars.iter().enumerate().map(piece).filter(|(_, from, to, _)| to > from).collect()
    };
    let mut marks: Vec<Mark> = ImcComponent::ALL
        .iter()
        .zip(COLOURS)
        .enumerate()
        .map(|(n, (component, colour))| Mark::Pieces {
            name: component.name().into(),
            colour,
            width: 0.62,
            pieces: pieces(n),
        })
        .collect();
    let whole = |(x, (_, parts)): (usize, &(String, [f64; 6]))| {
        (x as f64, total(parts), total(parts), format!("{} {unit}", write(total(parts))))
    };
    let wholes = bars.iter().enumerate().map(whole).collect();
    marks.push(Mark::Pieces { name: String::new(), colour: GREY, width: 0.62, pieces: wholes });
    let names: Vec<String> = bars.iter().map(|(name, _)| name.clone()).collect();
    if unit != "s" {
        // The legend of the panel beside it applies here.
        marks.iter_mut().for_each(|mark| {
            if let Mark::Pieces { name, .. } = mark {
                name.clear();
            }
        });
    }
    Panel {
        width,
        title: title.into(),
        x: Axis::named("", &names),
        y: Axis::new(unit, 0.0, highest * 1.12),
        margin: 30,
        marks,
    }
}

/// Marks with one line per protocol.
fn lines(samples: &[LoadSample], of: impl Fn(&LoadSample) -> Option<f64>) -> Vec<Mark> {
    let mut marks = Vec::new();
    for (protocol, colour) in PROTOCOLS.into_iter().zip(PALETTE) {
        let own = samples.iter().filter(|sample| sample.protocol == protocol);
        let points: Vec<(f64, f64)> = own
            .filter_map(|sample| Some((sample.viewers as f64, of(sample)?)))
            .filter(|(_, y)| y.is_finite())
            .collect();
        let name = TITLES[place(protocol)].to_owned();
        marks.push(Mark::Line { name, colour, points: points.clone(), width: 4, dashed: false });
        marks.push(Mark::Dots { name: String::new(), colour, points, radius: 6 });
    }
    marks
}

fn cost(samples: &[LoadSample]) -> Panel {
    let highest = samples.iter().map(|sample| sample.cpu_cores * 100.0).fold(1.0, f64::max);
    Panel {
        width: 1.0,
        title: "Server CPU usage".into(),
        x: Axis::new("viewers", 0.0, most(samples) * 1.04),
        y: Axis::new("% of a core", 0.0, highest * 1.12),
        margin: 30,
        marks: lines(samples, |sample| Some(sample.cpu_cores * 100.0)),
    }
}

fn latency(samples: &[LoadSample]) -> Panel {
    let values = || samples.iter().filter_map(|sample| sample.latency_ms("p99"));
    let (least, highest) = (values().fold(1e5, f64::min), values().fold(100.0, f64::max));
    let decade = |value: f64, up: bool| 10f64.powf(if up { value.log10().ceil() } else { value.log10().floor() });
    Panel {
        width: 1.0,
        title: "Capture-to-receive latency, p99".into(),
        x: Axis::new("viewers", 0.0, most(samples) * 1.04),
        y: Axis::new("ms, log scale", decade(least.min(highest), false), decade(highest, true)).log(),
        margin: 30,
        marks: lines(samples, |sample| sample.latency_ms("p99")),
    }
}

fn most(samples: &[LoadSample]) -> f64 {
    samples.iter().map(|sample| sample.viewers).max().unwrap_or(1) as f64
}

fn place(protocol: Protocol) -> usize {
    PROTOCOLS.iter().position(|other| *other == protocol).unwrap_or(0)
}

/// Display names of [`PROTOCOLS`].
const TITLES: [&str; 4] = ["relay", "RTMP", "LL-HLS", "HLS"];
/// Colours of the six components.
const COLOURS: [Colour; 6] = [BLUE, VERMILION, GREY, ORANGE, PURPLE, GREEN];
/// The paper's figures in seconds, in the order of [`ImcComponent::ALL`]. For RTMP only total and buffering are published: the rest is under upload.
const IMC: [(&str, [f64; 6]); 2] =
    [("RTMP", [0.25, 0.0, 0.0, 0.0, 0.0, 1.15]), ("HLS", [0.24, 3.0, 0.3, 1.2, 0.05, 6.9])];
/// One frame in this many may lack a stage.
const MAX_INCOMPLETE: usize = 20;
/// Lower limit of a component's mean, milliseconds: two threads may stamp the same moment in either order, but the mean is not negative.
const BACKWARDS: f64 = -1.0;
/// Timeout for the first frames, three segments behind the live edge, on a busy machine.
const START: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_components_add_up() {
        let totals = IMC.map(|(_, parts)| parts.iter().sum::<f64>());
        assert!((totals[0] - 1.4).abs() < 0.01 && (totals[1] - 11.7).abs() < 0.05, "{totals:?}");
    }

    #[test]
    fn a_viewer_without_traces_is_a_fault() {
        let summary = json!({ "lost": 0, "switches": { "lost": 0 }, "marker": { "gaps": 0, "repeats": 0 } });
        let seen = ViewerSample { protocol: Protocol::Hls, breakdowns: Vec::new(), incomplete: 7, summary };
        assert_eq!(seen.faults(), ["hls: 0 frames traced completely, 7 not"]);
    }
}
