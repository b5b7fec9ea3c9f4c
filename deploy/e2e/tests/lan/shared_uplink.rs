//! Several LAN viewers: a slow one delays no other, and on a narrow uplink the push has priority and viewers share the rest.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use anyhow::{Context, Result, ensure};
use e2e::{Broadcaster, Process, Viewer, until};
use lab::Direction;
use lab::link::shape::Shape;
use serde_json::Value;

use crate::{TIMEOUT, wait_source};
use e2e::lan_testbed::{LAN, LanTestbed};

#[test]
fn a_slow_viewer_delays_neither_other_viewers_nor_the_push() -> Result<()> {
    let testbed = LanTestbed::build()?;
    let mut broadcaster = testbed.broadcast(&["--stats", "json"])?;
    let mut quick = testbed.watch(0, &[])?;
    let mut slow = testbed.watch(1, &["--transport", "peer"])?;
    wait_source(&mut quick, "LAN peer")?;
    slow.wait_pictures(30, TIMEOUT)?;
    // A third of the stream's bitrate.
    testbed.second.set(Direction::BToA, Shape { rate: Some(200_000), queue: 32 << 10, ..Shape::PERFECT })?;
    let shown = quick.pictures()?;
    quick.wait_pictures(shown + 450, TIMEOUT)?;
    ensure!(slow.process.running()?, "the slow viewer ended");
    // A busy machine looks like a saturated link, so a viewer may be redirected for a while.
    wait_source(&mut quick, "LAN peer")?;
    let summary = quick.finish()?;
    summary.ensure_unbroken(450)?;
    println!("with a slow LAN viewer: latency {}, {} stalls", summary.0["latency_ms"], summary.0["stalls"]);
    let last = stats(&broadcaster.process)?;
    ensure!(last["units_dropped"] == 0 && last["reconnects"] == 0, "the push was affected: {last}");
    // The slow viewer has skipped units, and resumes once its link is restored.
    testbed.second.set(Direction::BToA, Shape::PERFECT)?;
    let shown = slow.pictures()?;
    slow.wait_pictures(shown + 60, TIMEOUT)?;
    broadcaster.process.interrupt();
    broadcaster.process.success(TIMEOUT)?;
    Ok(())
}

/// An uplink for slightly more than two copies: the push, and not enough for two viewers.
#[test]
fn on_a_narrow_uplink_the_push_has_priority_and_viewers_share_the_rest() -> Result<()> {
    share(1_700_000, "500k", 2)
}

/// The paper's uplink and stream: the push and three viewers fill it, and slightly exceed it with QUIC's overhead.
#[test]
fn three_viewers_fill_the_paper_s_uplink() -> Result<()> {
    share(4_000_000, "872k", 3)
}

/// The same narrow uplink, but both viewers may fall back to the CDN: one is served by the broadcaster, one is redirected, and neither lacks a frame.
#[test]
fn a_viewer_over_capacity_is_redirected_to_the_cdn() -> Result<()> {
    let testbed = LanTestbed::build()?;
    testbed.one_way_out()?;
    testbed.direct.set(Direction::AToB, Shape { rate: Some(1_700_000), queue: 64 << 10, ..LAN })?;
    let mut broadcaster = testbed.broadcast_at("500k", &["--stats", "json"])?;
    let mut first = testbed.watch(0, &[])?;
    wait_source(&mut first, "LAN peer")?;
    let mut second = testbed.watch(1, &[])?;
    second.wait_pictures(SETTLE, TIMEOUT)?;
    let since = last_picture(&second)?;
    let shown = second.pictures()?;
    second.wait_pictures(shown + WATCH / 2, TIMEOUT)?;
    let mut viewers = [first, second];
    let watched = since..=wait_past_now(&broadcaster, &mut viewers)?;
    let asked = "redirected to the CDN";
    ensure!(broadcaster.process.err().contains(asked), "no viewer was redirected: {}", broadcaster.process.err());
    let mut by_peer = 0;
    for mut viewer in viewers {
        let source = stats(&viewer.process)?["source"].clone();
        by_peer += usize::from(source == "LAN peer");
        viewer.finish()?;
        let missed = missed(&pictures_left(&broadcaster)?, &pictures(&viewer)?, watched.clone())?;
        println!("by {source}: {missed} frames missed in a row at most, in {watched:?} ms");
        ensure!(missed == 0, "frames are missing: {missed} by {source}");
    }
    // Both, if the other was just invited back to probe the capacity.
    ensure!(by_peer >= 1, "no viewer is served by the broadcaster");
    broadcaster.process.interrupt();
    broadcaster.process.success(TIMEOUT)?;
    Ok(())
}

fn share(link: u64, bitrate: &str, viewers: usize) -> Result<()> {
    let testbed = LanTestbed::build()?;
    testbed.one_way_out()?;
    testbed.direct.set(Direction::AToB, Shape { rate: Some(link), queue: 64 << 10, ..LAN })?;
    let mut broadcaster = testbed.broadcast_at(bitrate, &["--gop", "1s", "--stats", "json"])?;
    let mut far = testbed.watch(0, &["--transport", "rtmp"])?;
    far.wait_pictures(60, TIMEOUT)?;
    let mut near = (0..viewers).map(|n| testbed.watch(n % 2, &["--transport", "peer"])).collect::<Result<Vec<_>>>()?;
    for viewer in &mut near {
        viewer.wait_pictures(30, TIMEOUT)?;
    }
    // Time for the allocation to converge.
    let shown = far.pictures()?;
    far.wait_pictures(shown + SETTLE, TIMEOUT)?;
    let since = near.iter().map(last_picture).collect::<Result<Vec<_>>>()?;
    let (before, sent_before) = (stats(&broadcaster.process)?, testbed.direct.stats().a_to_b.sent_bytes);
    far.wait_pictures(shown + SETTLE + WATCH, TIMEOUT)?;
    let end = wait_past_now(&broadcaster, &mut near)?;
    let (after, sent_after) = (stats(&broadcaster.process)?, testbed.direct.stats().a_to_b.sent_bytes);
    // From capture to receipt: without the viewer's own buffering.
    let latency = &stats(&far.process)?["latency_ms"];
    let part = |name: &str| latency[name].as_f64().with_context(|| format!("no {name} in {latency}"));
    let network = part("total")? - part("buffering")? - part("decoding")?;
    far.finish()?.ensure_unbroken((SETTLE + WATCH) as u64)?;
    let figure = |name: &str| Some(after[name].as_f64()? - before[name].as_f64()?);
    let seconds = figure("seconds").context("no time")?;
    let rate = figure("lan_bytes").context("no bytes")? * 8.0 / seconds;
    let used = (sent_after - sent_before) as f64 * 8.0 / seconds / link as f64;
    println!(
        "{viewers} viewers, {link} bit/s: {rate:.0} bit/s to them, the link {:.0}% full; by the CDN {network} ms",
        100.0 * used
    );
    ensure!(after["units_dropped"] == 0 && after["reconnects"] == 0, "the push was affected: {after}");
    ensure!(network < 1000.0, "the push is delayed by viewers: {network} ms");
    let left = pictures_left(&broadcaster)?;
    for (viewer, since) in near.iter_mut().zip(since) {
        let shown = viewer.finish()?.0["pictures"].clone();
        let missed = missed(&left, &pictures(viewer)?, since..=end)?;
        println!("on the network: {missed} frames missed in a row at most, in {since} to {end} ms; {shown} shown");
        // A viewer that skips resumes at an IDR: the next, or the one after it if the others leave no capacity.
        ensure!(
            missed <= 2 * GOP + GOP / 2,
            "{missed} frames missed in a row; broadcaster: {}; viewer: {}",
            broadcaster.process.err(),
            viewer.process.err()
        );
    }
    // Half of what the push leaves: it uses 755 kbit/s of the narrow link and 1.1 Mbit/s of the paper's.
    let left = link as f64 - if viewers == 2 { 755_000.0 } else { 1_100_000.0 };
    ensure!(rate > left / 2.0, "viewers receive {rate:.0} bit/s of the remaining {left:.0}");
    broadcaster.process.interrupt();
    broadcaster.process.success(TIMEOUT)?;
    Ok(())
}

/// The newest frame that the push has sent by now. Returns once each viewer has received it or a later one, so that nothing up to it is in
/// flight.
fn wait_past_now(broadcaster: &Broadcaster, viewers: &mut [Viewer]) -> Result<i64> {
    let end = pictures_left(broadcaster)?.last().copied().context("nothing was sent")?;
    for viewer in viewers {
        until(TIMEOUT, &format!("a viewer to receive frame {end} or a later one"), || {
            ensure!(viewer.process.running()?, "a viewer ended: {}", viewer.process.err());
            Ok((last_picture(viewer)? >= end).then_some(()))
        })?;
    }
    Ok(end)
}

/// DTS of the frames sent so far.
fn pictures_left(broadcaster: &Broadcaster) -> Result<Vec<i64>> {
    Ok(broadcaster.units()?.into_iter().filter(|unit| unit.track == "v0").map(|unit| unit.dts).collect())
}

/// The longest run of frames sent in `watched` that were not received. Frames that the source dropped were never sent.
fn missed(left: &[i64], came: &[i64], watched: RangeInclusive<i64>) -> Result<usize> {
    let (came, left): (BTreeSet<i64>, BTreeSet<i64>) = (came.iter().copied().collect(), left.iter().copied().collect());
    let left: Vec<i64> = left.range(watched).copied().collect();
    ensure!(left.len() >= WATCH / 3, "only {} frames were sent while watching", left.len());
    Ok(left.split(|dts| came.contains(dts)).map(<[_]>::len).max().unwrap_or(0))
}

/// DTS of the received frames.
fn pictures(viewer: &Viewer) -> Result<Vec<i64>> {
    Ok(viewer.units()?.into_iter().filter(|unit| unit.track == "v0").map(|unit| unit.dts).collect())
}

fn last_picture(viewer: &Viewer) -> Result<i64> {
    pictures(viewer)?.last().copied().context("no pictures")
}

/// Frames presented while the allocation converges: ten seconds.
const SETTLE: usize = 300;
/// Frames presented while measuring: twenty seconds.
const WATCH: usize = 600;
/// From one IDR to the next, in frames.
const GOP: usize = 30;

/// The last line of statistics.
pub(crate) fn stats(process: &Process) -> Result<Value> {
    let out = process.out();
    let whole = &out[..out.rfind('\n').unwrap_or(0)];
    Ok(serde_json::from_str(whole.lines().last().context("no statistics yet")?)?)
}
