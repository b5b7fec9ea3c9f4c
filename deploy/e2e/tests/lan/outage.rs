//! A push outage longer than the broadcaster's window: the CDN resumes at an IDR and misses the units before it. A viewer with both paths, of
//! which the CDN's is then ahead, waits for the other and loses nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::{Process, ProxyMode, TIMEOUT, until};
use lab::Direction;
use lab::link::shape::Shape;

use crate::shared_uplink::stats;
use crate::testbed::{LAN, LanTestbed};

/// How the push is interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interruption {
    /// All packets are dropped. The connection survives.
    BlackHole,
    /// Nothing is forwarded, and nothing is lost: the push continues at once.
    Stall,
    /// The connection is reset, which loses what is in flight, and new ones are refused.
    Reset,
}

/// The broadcaster's own path has delivered what the CDN lacks before the CDN continues.
#[test]
fn an_outage_longer_than_the_resend_window_costs_a_viewer_of_both_paths_nothing() -> Result<()> {
    outages(Interruption::BlackHole, Duration::from_millis(300))
}

/// The broadcaster's own path lags by more than the gap. When the CDN continues, the viewer has shown exactly what the CDN had before the gap. It
/// must wait for the other path, although the CDN's next unit is the one after it in the order of the CDN's path.
#[test]
fn an_outage_shorter_than_the_lag_of_the_other_path_costs_a_viewer_nothing() -> Result<()> {
    outages(Interruption::Stall, Duration::from_secs(2))
}

/// The push resumes over another connection, after what the CDN has received, and states the gap there.
#[test]
fn a_reset_of_the_push_in_an_outage_costs_a_viewer_of_both_paths_nothing() -> Result<()> {
    outages(Interruption::Reset, Duration::from_millis(300))
}

/// A viewer watches outages of the push by both paths, of which the broadcaster's own lags by `lag`: less than the viewer waits for missing
/// units. Outages go on until [`OUTAGES`] of them were to the point.
fn outages(interruption: Interruption, lag: Duration) -> Result<()> {
    let testbed = LanTestbed::build()?;
    let proxy = match interruption {
        Interruption::BlackHole => None,
        Interruption::Stall | Interruption::Reset => Some(testbed.push_proxy()?),
    };
    let url = testbed.publish_url(proxy.as_ref().map(|proxy| proxy.address));
    let [made, came] = ["made.trace", "came.trace"].map(|name| testbed.env.path(name));
    let made_by = made.to_string_lossy();
    let options = ["--window", "1s", "--gop", "200ms", "--fixed-bitrate", "--stats", "json", "--trace", &*made_by];
    let mut broadcaster = testbed.broadcast_to(&url, "250k", &options)?;
    let mut viewer = testbed.watch(0, &["--standby", "hot", "--trace", &came.to_string_lossy()])?;
    until(TIMEOUT, "frames by both paths", || {
        let by = |lan: bool| Ok::<_, anyhow::Error>(received(&came)?.iter().any(|unit| unit.is_lan() == lan));
        Ok((by(true)? && by(false)?).then_some(()))
    })?;
    // In steps, because a path that falls silent is closed.
    for step in 1..=LAG_STEPS {
        testbed.direct.set(Direction::AToB, Shape { delay: LAN.delay + lag * step / LAG_STEPS, ..LAN })?;
        std::thread::sleep(Duration::from_millis(200));
    }
    until(TIMEOUT, "that the slower path carries every frame", || {
        std::thread::sleep(Duration::from_millis(200));
        Ok(carries_all(&read(&made, "encoded")?, &received(&came)?).then_some(()))
    })?;

    let (mut to_the_point, mut end) = (0, 0);
    for n in 0.. {
        ensure!(n < MAX_OUTAGES, "of {n} outages, only {to_the_point} were to the point");
        let dropped = units_dropped(&broadcaster.process)?;
        match &proxy {
            None => testbed.uplink.blackhole()?,
            Some(proxy) => proxy.set(interruption.mode()),
        }
        until(TIMEOUT, "that the broadcaster's window has moved on", || {
            let [encoded, pushed] = [newest(&read(&made, "encoded")?), newest(&read(&made, "pushed")?)];
            Ok((encoded? - pushed? > OUTAGE).then_some(()))
        })?;
        match &proxy {
            None => testbed.uplink.heal()?,
            Some(proxy) => proxy.set(ProxyMode::Forward),
        }
        until(TIMEOUT, "that the push continues at an IDR", || {
            let queued = stats(&broadcaster.process)?["queued"].as_u64().context("no queue in the statistics")?;
            Ok((units_dropped(&broadcaster.process)? > dropped && queued < 20).then_some(()))
        })?;
        end = newest(&read(&made, "encoded")?)?;
        let came = until(TIMEOUT, "both paths to have passed the gap", || {
            ensure!(viewer.process.running()?, "the viewer ended: {}", viewer.process.err());
            let (lan, cdn): (Vec<_>, Vec<_>) = received(&came)?.into_iter().partition(Line::is_lan);
            Ok((newest(&lan)? > end && newest(&cdn)? > end).then_some(received(&came)?))
        })?;
        to_the_point = gaps(&came).filter(|gap| gap.is_to_the_point(interruption)).count();
        println!("{interruption:?}: {:?}", gaps(&came).last());
        if to_the_point >= OUTAGES {
            break;
        }
    }
    let summary = viewer.finish()?;
    broadcaster.process.interrupt();
    broadcaster.process.success(TIMEOUT)?;

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
    ensure!(shown_by_track.len() == 2, "one track was never received");
    for (track, shown) in shown_by_track {
        let made = made_by_track.get(&track).context("a track that was never made")?;
        let first = made.iter().position(|dts| *dts == shown[0]).context("it was never made")?;
        ensure!(made[first..].starts_with(&shown), "{track}: what came is not an unbroken run of what was made");
        let last = *shown.last().context("an empty track")?;
        ensure!(last > end - A_SKIP, "{track}: what came ends at {last} ms, and frame {end} was received");
        println!("{track}: {} units, none lost, none twice", shown.len());
    }
    Ok(())
}

impl Interruption {
    fn mode(self) -> ProxyMode {
        if self == Self::Reset { ProxyMode::Refuse } else { ProxyMode::Stall }
    }
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
            let [_, track, dts, _, _, path, _] = fields[..] else { bail!("not seven fields: {fields:?}") };
            Ok(Line { track: track.to_owned(), dts: dts.parse()?, path: path.to_owned() })
        })
        .collect()
}

/// The newest DTS of video.
fn newest(lines: &[Line]) -> Result<i64> {
    lines.iter().filter(|unit| unit.track == "v0").map(|unit| unit.dts).max().context("no video in the trace")
}

/// Whether the last [`STEADY`] frames that the broadcaster's own path delivered are consecutive ones.
fn carries_all(made: &[Line], received: &[Line]) -> bool {
    let made: Vec<i64> = made.iter().filter(|unit| unit.track == "v0").map(|unit| unit.dts).collect();
    let by_lan: Vec<i64> =
        received.iter().filter(|unit| unit.is_lan() && unit.track == "v0").map(|unit| unit.dts).collect();
    let Some(last) = by_lan.len().checked_sub(STEADY).map(|from| &by_lan[from..]) else { return false };
    made.iter().position(|dts| *dts == last[0]).is_some_and(|first| made[first..].starts_with(last))
}

fn units_dropped(broadcaster: &Process) -> Result<u64> {
    stats(broadcaster)?["units_dropped"].as_u64().context("no dropped units in the statistics")
}

/// A gap on the CDN's path, in milliseconds of DTS.
#[derive(Debug)]
struct Gap {
    /// The last frame before it.
    before: i64,
    /// The first one after it.
    after: i64,
    /// The newest frame of the broadcaster's own path when the CDN's path continued.
    by_lan: i64,
}

impl Gap {
    fn is_to_the_point(&self, interruption: Interruption) -> bool {
        match interruption {
            // The viewer has nothing from inside the gap.
            Interruption::Stall => self.by_lan <= self.before,
            // The CDN is ahead.
            Interruption::BlackHole | Interruption::Reset => self.by_lan + A_PICTURE < self.after,
        }
    }
}

fn gaps(received: &[Line]) -> impl Iterator<Item = Gap> {
    let (mut by_cdn, mut by_lan) = (None, i64::MIN);
    received.iter().filter(|unit| unit.track == "v0").filter_map(move |unit| {
        if unit.is_lan() {
            by_lan = by_lan.max(unit.dts);
            return None;
        }
        let before = by_cdn.replace(by_cdn.unwrap_or(unit.dts).max(unit.dts)).unwrap_or(unit.dts);
        (unit.dts - before > A_SKIP).then_some(Gap { before, after: unit.dts, by_lan })
    })
}

/// Number of outages; the push resumes at a different point of a GOP in each.
const OUTAGES: usize = 3;
/// On a busy machine, some outages last too long to be to the point.
const MAX_OUTAGES: usize = 12;
/// Milliseconds of DTS between the newest frame and the last one pushed: a little more than the window holds.
const OUTAGE: i64 = 1150;
/// Number of steps in which the lag grows.
const LAG_STEPS: u32 = 40;
/// Frames without a loss on the slower path before the outages: three seconds.
const STEADY: usize = 90;
/// Milliseconds of DTS: longer than any gap that an encoder leaves.
const A_SKIP: i64 = 500;
/// In milliseconds of DTS.
const A_PICTURE: i64 = 34;
