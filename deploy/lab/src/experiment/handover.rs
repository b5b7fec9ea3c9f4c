//! `handover`: path switches caused by failures of the direct link, as a timeline and a table.
//!
//! Two LAN viewers watch concurrently: one with an idle fallback (warm), one with two active paths (hot). The direct link fails in five ways and is
//! healed each time; the CDN is killed and restarted. The push continues over the broadcaster's second uplink.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::outcome::{Outcome, quantile, round, sorted};
use super::pictures::{self, Picture};
use super::probe::now;
use super::testbed::{Testbed, Traced};
use crate::figure::{Axis, BLUE, Colour, Figure, GREY, Mark, Panel, Row, VERMILION};
use crate::latency_bound::{FRAMING, LatencyBounds};
use crate::link::shape::Shape;
use crate::process::Process;
use crate::topology::build::BuiltTopology;

/// The kinds of failure, in the order of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FailureKind {
    Cut,
    BlackHole,
    LongBlackHole,
    Loss,
    DelayStep,
    KilledCdn,
}

impl FailureKind {
    const ALL: [FailureKind; 6] = [
        FailureKind::Cut,
        FailureKind::BlackHole,
        FailureKind::LongBlackHole,
        FailureKind::Loss,
        FailureKind::DelayStep,
        FailureKind::KilledCdn,
    ];

    const fn words(self) -> &'static str {
        match self {
            FailureKind::Cut => "cable pulled",
            FailureKind::BlackHole => "black hole",
            FailureKind::LongBlackHole => "long black hole",
            FailureKind::Loss => "30% loss",
            FailureKind::DelayStep => "+150 ms",
            FailureKind::KilledCdn => "CDN killed",
        }
    }
}

/// One failure; times in microseconds since the Unix epoch.
struct Failure {
    cause: FailureKind,
    failed: i64,
    healed: i64,
}

/// The result of one viewer.
struct ViewerSample {
    mode: &'static str,
    pictures: Vec<Picture>,
    summary: Value,
    /// The cause of each path switch except the first, which is the upgrade to the broadcaster at the start.
    causes: Vec<FailureKind>,
}

pub(super) fn run(testbed: &Testbed) -> Result<Outcome> {
    let topology = testbed.topology(include_str!("../../topologies/dual-homed.toml"))?;
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
    let mut server = Some(testbed.cdn(cdn)?);
    let mut options = pictures::STREAM.to_vec();
    options.extend(["--lan-listen", "10.77.0.10:4444"]);
    let mut broadcaster =
        testbed.broadcaster(built.host("broadcaster")?, &format!("rtmp://{address}/live/{key}"), &options)?;
    let page = format!("http://{address}:8080/live");
    let warm = testbed.viewer("warm", built.host("viewer")?, &page, &["--standby", "warm", "--buffer", "60"])?;
    let hot = testbed.viewer("hot", built.host("viewer2")?, &page, &["--standby", "hot"])?;
    let mut viewers = [warm, hot];
    for viewer in &mut viewers {
        viewer.wait_source(PEER, START)?;
    }
    std::thread::sleep(Duration::from_secs(2));
    let before = built.network.lateness();
    let begun = now();
    std::thread::sleep(Duration::from_secs(1));
    let (mut failures, mut seen) = (Vec::new(), viewers.each_ref().map(|viewer| viewer.switches().len()));
    let mut causes: [Vec<FailureKind>; 2] = Default::default();
    for round in 0..if testbed.quick { 1 } else { ROUNDS } {
        for cause in FailureKind::ALL {
            let failure = fail(testbed, &built, cause, &mut viewers, &mut server)
                .with_context(|| format!("{}, round {round}", cause.words()))?;
            failures.push(failure);
            for (n, viewer) in viewers.iter_mut().enumerate() {
                viewer.wait_source(PEER, START).with_context(|| format!("after {}, round {round}", cause.words()))?;
                let count = viewer.switches().len();
                causes[n].extend(std::iter::repeat_n(cause, count - seen[n]));
                seen[n] = count;
            }
            std::thread::sleep(BETWEEN);
        }
    }
    let ended = now();
    let lateness = built.network.lateness().since(&before);
    let invalid = built.network.ensure_valid().err().map(|error| format!("{error:#}"));
    let mut watched = Vec::new();
    let mut faults = Vec::new();
    for (mode, (mut viewer, causes)) in ["warm", "hot"].into_iter().zip(viewers.into_iter().zip(causes)) {
        let summary = viewer.finish()?;
        faults.extend(pictures::faults(&summary).into_iter().map(|fault| format!("{mode}: {fault}")));
        let pictures = pictures::join(&broadcaster.rows()?, &viewer.rows()?, &bounds);
        let pictures = pictures.into_iter().filter(|p| (begun..ended).contains(&p.encoded)).collect();
        watched.push(ViewerSample { mode, pictures, summary, causes });
    }
    broadcaster.finish()?;
    let table: Vec<PathSwitch> = watched.iter().flat_map(ViewerSample::changes).collect();
    Ok(Outcome {
        findings: json!({
            "changes": table.len(),
            "table": summarise(&table),
            "viewers": watched.iter().map(|w| json!({ "mode": w.mode, "summary": w.summary })).collect::<Vec<_>>(),
        }),
        lines: lines(&table),
        columns: &["mode", "cause", "to", "reason", "delay_ms", "freeze_ms", "lost"],
        rows: table.iter().map(PathSwitch::row).collect(),
        figure: figure(&watched, &failures, &table, begun),
        faults,
        lateness,
        invalid,
    })
}

/// Causes a failure of the direct link or the CDN, waits until the viewers have switched if they must, and repairs it.
fn fail(
    testbed: &Testbed,
    built: &BuiltTopology,
    cause: FailureKind,
    viewers: &mut [Traced; 2],
    server: &mut Option<Process>,
) -> Result<Failure> {
    let direct = built.link("direct")?;
    let whole = direct.shape(crate::Direction::AToB);
    let failed = now();
    match cause {
        FailureKind::Cut => direct.cut()?,
        FailureKind::BlackHole | FailureKind::LongBlackHole => direct.blackhole()?,
        FailureKind::Loss => direct.set_both(Shape { loss: 0.3, ..whole })?,
        FailureKind::DelayStep => {
            direct.set_both(Shape { delay: whole.delay + Duration::from_millis(150), ..whole })?
        }
        FailureKind::KilledCdn => server.take().context("there is no cdn to kill")?.kill(),
    }
    match cause {
        // The viewers may stay if enough packets arrive.
        FailureKind::Loss | FailureKind::DelayStep => std::thread::sleep(Duration::from_millis(1200)),
        FailureKind::KilledCdn => std::thread::sleep(Duration::from_millis(500)),
        FailureKind::Cut | FailureKind::BlackHole | FailureKind::LongBlackHole => {
            viewers.iter_mut().try_for_each(|viewer| viewer.wait_source(CDN, START))?;
        }
    }
    match cause {
        // Longer than a stalled path is kept open: it must be discovered and opened again.
        FailureKind::LongBlackHole => std::thread::sleep(Duration::from_millis(2500)),
        FailureKind::KilledCdn => *server = Some(testbed.cdn(built.host("cdn")?)?),
        _ => {}
    }
    direct.heal()?;
    direct.set_both(whole)?;
    let healed = now();
    if cause == FailureKind::KilledCdn {
        // Time for the publisher and the viewers to reconnect.
        std::thread::sleep(Duration::from_millis(2500));
    }
    Ok(Failure { cause, failed, healed })
}

/// One path switch.
struct PathSwitch {
    mode: &'static str,
    cause: FailureKind,
    to_peer: bool,
    reason: String,
    /// How delay the first frame on the new path arrived, milliseconds.
    delay: Option<f64>,
    /// How much longer than its duration a frame stayed on the screen, milliseconds.
    freeze: Option<f64>,
    lost: u64,
}

impl PathSwitch {
    fn row(&self) -> Vec<String> {
        let number = |value: Option<f64>| value.map_or(String::new(), |value| round(value).to_string());
        let to = if self.to_peer { "peer" } else { "cdn" };
        vec![
            self.mode.to_owned(),
            self.cause.words().to_owned(),
            to.to_owned(),
            self.reason.clone(),
            number(self.delay),
            number(self.freeze),
            self.lost.to_string(),
        ]
    }
}

impl ViewerSample {
    fn changes(&self) -> Vec<PathSwitch> {
        let recent = self.summary["switches"]["recent"].as_array().cloned().unwrap_or_default();
        // The viewer's summary keeps a limited number of switches.
        let known = self.causes.len().min(recent.len());
        let pairs = recent[recent.len() - known..].iter().zip(&self.causes[self.causes.len() - known..]);
        let change = |(said, cause): (&Value, &FailureKind)| PathSwitch {
            mode: self.mode,
            cause: *cause,
            to_peer: said["to"].as_str().is_some_and(|to| to.starts_with(PEER)),
            reason: said["reason"].as_str().unwrap_or_default().to_owned(),
            delay: said["delay_ms"].as_f64(),
            freeze: said["freeze_ms"].as_f64(),
            lost: said["lost"].as_u64().unwrap_or(0),
        };
        pairs.map(change).collect()
    }
}

/// All switches of one kind; milliseconds, ascending.
struct SwitchGroup {
    mode: &'static str,
    cause: FailureKind,
    to_peer: bool,
    count: usize,
    delay: Vec<f64>,
    freeze: Vec<f64>,
}

/// Groups the switches by viewer, cause and direction.
fn groups(table: &[PathSwitch]) -> Vec<SwitchGroup> {
    let mut groups = Vec::new();
    for mode in ["warm", "hot"] {
        for cause in FailureKind::ALL {
            for to_peer in [false, true] {
                let of = |c: &&PathSwitch| (c.mode, c.cause, c.to_peer) == (mode, cause, to_peer);
                let count = table.iter().filter(of).count();
                let delay = sorted(table.iter().filter(of).filter_map(|change| change.delay));
                let freeze = sorted(table.iter().filter(of).filter_map(|change| change.freeze));
                if count > 0 {
                    groups.push(SwitchGroup { mode, cause, to_peer, count, delay, freeze });
                }
            }
        }
    }
    groups
}

fn summarise(table: &[PathSwitch]) -> Value {
    let group = |group: SwitchGroup| {
        let to = if group.to_peer { "peer" } else { "cdn" };
        json!({
            "mode": group.mode, "cause": group.cause.words(), "to": to, "changes": group.count,
            "delay_ms": { "median": quantile(&group.delay, 0.5), "max": group.delay.last() },
            "freeze_ms": { "median": quantile(&group.freeze, 0.5), "max": group.freeze.last() },
        })
    };
    groups(table).into_iter().map(group).collect()
}

fn lines(table: &[PathSwitch]) -> Vec<String> {
    let mut lines = vec![format!(
        "{} path switches; delay: lateness of the first frame on the new path; freeze: extra time on the screen",
        table.len()
    )];
    for SwitchGroup { mode, cause, to_peer, count, delay, freeze } in groups(table) {
        let ms = |values: &[f64]| {
            let of = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
            format!("{:>4} / {:>4}", of(quantile(values, 0.5)), of(values.last().copied()))
        };
        let to = if to_peer { "to the peer" } else { "to the CDN" };
        let (cause, delay, freeze) = (cause.words(), ms(&delay), ms(&freeze));
        lines.push(format!(
            "{mode:<5} {cause:<16} {to:<12} {count:>3} times; median / max: delay {delay} ms, freeze {freeze} ms"
        ));
    }
    lines
}

fn figure(watched: &[ViewerSample], failures: &[Failure], table: &[PathSwitch], begun: i64) -> Figure {
    let mut rows: Vec<Row> =
        watched.iter().map(|w| Row { height: 440, panels: vec![timeline(w, failures, begun)] }).collect();
    let worst = table.iter().filter_map(|change| change.delay).fold(100.0, f64::max);
    let strips = ["warm", "hot"].map(|mode| strip(mode, table, (worst * 1.1 / 50.0).ceil() * 50.0));
    rows.push(Row { height: 480, panels: strips.into() });
    Figure {
        title: "Path switches when links or the CDN fail".into(),
        subtitle: vec![
            "Broadcaster and two viewers on a LAN of 8 ms, a CDN 30 ms beyond it. Shaded: from failure to repair.".into(),
            "Warm: the fallback is connected and idle. Hot: both paths are active, and the first copy of each frame counts. No frame is lost.".into(),
        ],
        rows,
        ..Figure::default()
    }
}

/// The panel with the first round of one viewer.
fn timeline(watched: &ViewerSample, failures: &[Failure], begun: i64) -> Panel {
    let seconds = |at: i64| (at - begun) as f64 / 1e6;
    let first = &failures[..failures.len().min(FailureKind::ALL.len())];
    let end = first.last().map_or(1.0, |failure| seconds(failure.healed) + 3.5);
    let mut marks: Vec<Mark> = Vec::new();
    for (n, failure) in first.iter().enumerate() {
        let (from, to) = (seconds(failure.failed), seconds(failure.healed));
        marks.push(Mark::Band { from, to, colour: GREY, label: String::new() });
        let label = format!("{}{}", if n % 2 == 0 { "" } else { "\n" }, failure.cause.words());
        marks.push(Mark::Event { x: from, label });
    }
    let points = |by_peer: bool| {
        let of = watched.pictures.iter().filter(|p| p.path.starts_with(PEER) == by_peer);
        of.map(|p| (seconds(p.encoded), p.delay_ms().min(CEILING))).filter(|(x, _)| *x <= end).collect::<Vec<_>>()
    };
    let dots = |name: &str, colour: Colour, points| Mark::Dots { name: name.into(), colour, points, radius: 3 };
    marks.push(dots("first copy via the CDN", BLUE, points(false)));
    marks.push(dots("first copy from the broadcaster", VERMILION, points(true)));
    Panel {
        width: 1.0,
        title: format!("Latency of each frame, {}", watched.mode),
        x: Axis::new("seconds", 0.0, end),
        // Space above for the labels of failures.
        y: Axis::new("latency in ms", 0.0, CEILING * 1.35),
        margin: 40,
        marks,
    }
}

/// The panel with all switches of one viewer, by cause.
fn strip(mode: &str, table: &[PathSwitch], highest: f64) -> Panel {
    let names: Vec<String> = FailureKind::ALL.iter().map(|cause| cause.words().to_owned()).collect();
    let points = |to_peer: bool| {
        let of =
            table.iter().filter(|c| c.mode == mode && c.to_peer == to_peer).filter_map(|c| Some((c.cause, c.delay?)));
        // Spread horizontally, so that no dot hides another.
        let place = |(n, (cause, delay)): (usize, (FailureKind, f64))| {
            let at = FailureKind::ALL.iter().position(|other| *other == cause).unwrap_or(0) as f64;
            let side = if to_peer { 0.18 } else { -0.18 };
            (at + side + (n % 5) as f64 * 0.04 - 0.08, delay.max(0.0))
        };
        of.enumerate().map(place).collect::<Vec<_>>()
    };
    let dots = |name: &str, colour: Colour, points| Mark::Dots { name: name.into(), colour, points, radius: 6 };
    Panel {
        width: 1.0,
        title: format!("Delay of the first frame on the new path, {mode}"),
        x: Axis::named("", &names),
        y: Axis::new("ms", 0.0, highest),
        margin: 30,
        marks: vec![dots("to the CDN", BLUE, points(false)), dots("to the broadcaster", VERMILION, points(true))],
    }
}

const PEER: &str = "LAN peer";
const CDN: &str = "relay";
/// How often each kind of failure is repeated.
const ROUNDS: usize = 6;
/// Pause between two failures.
const BETWEEN: Duration = Duration::from_millis(1500);
/// Timeout for discovery and for path switches, on a busy machine.
const START: Duration = Duration::from_secs(40);
/// Maximum of the timeline's latency axis, milliseconds; larger values are drawn at its edge.
const CEILING: f64 = 300.0;
