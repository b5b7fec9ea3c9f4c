//! A push outage longer than the broadcaster's window: the CDN resumes at an IDR and misses the units before it. A viewer with both paths, of
//! which the CDN's is then ahead, waits for the other and loses nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{TIMEOUT, until};
use lab::Direction;
use lab::link::shape::Shape;

use crate::shared_uplink::stats;
use e2e::lan_testbed::{LAN, LanTestbed};

#[test]
fn an_outage_longer_than_the_resend_window_costs_a_viewer_of_both_paths_nothing() -> Result<()> {
    let testbed = LanTestbed::build()?;
    let [made, came] = ["made.trace", "came.trace"].map(|name| testbed.env.path(name));
    let made_by = made.to_string_lossy();
    let options = ["--window", "1s", "--gop", "200ms", "--fixed-bitrate", "--stats", "json", "--trace", &*made_by];
    let mut broadcaster = testbed.broadcast(&options)?;
    // The broadcaster's own path is slower, by less than the viewer waits for missing units.
    testbed.direct.set(Direction::AToB, Shape { delay: Duration::from_millis(300), ..LAN })?;
    let mut viewer = testbed.watch(0, &["--standby", "hot", "--trace", &came.to_string_lossy()])?;
    until(TIMEOUT, "pictures by both paths", || {
        let by = |lan: bool| Ok::<_, anyhow::Error>(received(&came)?.iter().any(|unit| unit.is_lan() == lan));
        Ok((by(true)? && by(false)?).then_some(()))
    })?;
    let shown = viewer.pictures()?;
    viewer.wait_pictures(shown + 60, TIMEOUT)?;
    let (mut outages, mut ahead) = (0, 0);
    // On a busy machine the CDN may go on late, in a few of them.
    while outages < OUTAGES || ahead == 0 && outages < MAX_OUTAGES {
        outages += 1;
        let figure = |name: &str| stats(&broadcaster.process)?[name].as_u64().with_context(|| format!("no {name}"));
        let skipped = figure("units_dropped")?;
        testbed.uplink.blackhole()?;
        std::thread::sleep(OUTAGE);
        testbed.uplink.heal()?;
        until(TIMEOUT, "that the push goes on at an IDR", || {
            Ok((figure("units_dropped")? > skipped && figure("queued")? < 20).then_some(()))
        })?;
        let shown = viewer.pictures()?;
        viewer.wait_pictures(shown + 60, TIMEOUT)?;
        ahead = skips_ahead(&received(&came)?);
    }
    let summary = viewer.finish()?;
    broadcaster.process.interrupt();
    broadcaster.process.success(Duration::from_secs(5))?;

    println!("{outages} outages; after {ahead} of them the CDN was ahead of the broadcaster's own path");
    ensure!(ahead > 0, "the CDN was never ahead: nothing was tested");
    ensure!(summary.0["lost"] == 0, "units were lost: {}", summary.0);
    viewer.ensure_no_duplicates()?;
    // The push's unit log lacks the units that were skipped.
    let mut made_by_track: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for unit in read(&made, "encoded")? {
        made_by_track.entry(unit.track).or_default().push(unit.dts);
    }
    let mut shown_by_track: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for unit in viewer.units()? {
        shown_by_track.entry(unit.track).or_default().push(unit.dts);
    }
    ensure!(shown_by_track.len() == 2, "one track never came");
    for (track, shown) in shown_by_track {
        let made = &made_by_track[&track];
        let first = made.iter().position(|dts| *dts == shown[0]).context("it was never made")?;
        ensure!(made[first..].starts_with(&shown), "{track}: what came is not an unbroken run of what was made");
        println!("{track}: {} units, none lost, none twice", shown.len());
    }
    Ok(())
}

/// A line of a trace.
struct Line {
    track: String,
    dts: i64,
    path: String,
}

impl Line {
    fn is_lan(&self) -> bool {
        self.path.starts_with("LAN")
    }
}

fn received(trace: &Path) -> Result<Vec<Line>> {
    read(trace, "received")
}

/// The lines of a stage, in the order in which they were written.
fn read(trace: &Path, stage: &str) -> Result<Vec<Line>> {
    let text = std::fs::read_to_string(trace).unwrap_or_default();
    let whole = &text[..text.rfind('\n').unwrap_or(0)];
    let lines = whole.lines().map(|line| line.split(',').collect::<Vec<_>>()).filter(|fields| fields[0] == stage);
    lines
        .map(|fields| {
            let [_, track, dts, _, _, path, _] = fields[..] else { anyhow::bail!("not seven fields: {fields:?}") };
            Ok(Line { track: track.to_owned(), dts: dts.parse()?, path: path.to_owned() })
        })
        .collect()
}

/// How often the CDN delivered frames after a gap before the broadcaster's own path had delivered them.
fn skips_ahead(received: &[Line]) -> usize {
    let (mut by_cdn, mut by_lan, mut count) = (None, i64::MIN, 0);
    for unit in received.iter().filter(|unit| unit.track == "v0") {
        if unit.is_lan() {
            by_lan = by_lan.max(unit.dts);
            continue;
        }
        let newest = by_cdn.replace(by_cdn.unwrap_or(unit.dts).max(unit.dts)).unwrap_or(unit.dts);
        count += usize::from(unit.dts - newest > A_SKIP && unit.dts > by_lan + A_PICTURE);
    }
    count
}

/// Number of outages; the push resumes at a different point of a GOP in each.
const OUTAGES: usize = 3;
/// Number of outages after which the test gives up waiting for one in which the CDN goes on first.
const MAX_OUTAGES: usize = 10;
/// The broadcaster keeps one second.
const OUTAGE: Duration = Duration::from_secs(4);
/// Milliseconds of DTS: longer than any gap that an encoder leaves.
const A_SKIP: i64 = 500;
/// In milliseconds of DTS.
const A_PICTURE: i64 = 34;
