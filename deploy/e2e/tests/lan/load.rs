//! Several viewers on one network: a slow one delays nobody.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::Process;
use lab::Direction;
use lab::link::shape::Shape;
use serde_json::Value;

use crate::house::House;
use crate::{START, wait_source};

#[test]
fn a_slow_viewer_delays_neither_another_nor_the_cdn() -> Result<()> {
    let house = House::build()?;
    let mut broadcaster = house.broadcast(&["--stats", "json"])?;
    let mut quick = house.watch(0, &[])?;
    let mut slow = house.watch(1, &["--via", "peer"])?;
    wait_source(&mut quick, "LAN peer")?;
    slow.wait_pictures(30, START)?;
    // A third of what the stream takes.
    house.second.set(Direction::BToA, Shape { rate: Some(200_000), queue: 32 << 10, ..Shape::PERFECT })?;
    let shown = quick.pictures()?;
    quick.wait_pictures(shown + 450, START)?;
    ensure!(slow.process.running()?, "the slow viewer ended");
    let summary = quick.finish()?;
    summary.unbroken(450)?;
    println!(
        "beside a viewer that can take a third: latency {}, {} stalls",
        summary.0["latency_ms"], summary.0["stalls"]
    );
    ensure!(summary.0["source"] == "LAN peer", "the quick viewer had to leave: {}", summary.0);
    let last = stats(&broadcaster.process)?;
    ensure!(last["lost"] == 0 && last["outages"] == 0, "the push suffered: {last}");
    // It has skipped, and goes on as soon as there is room.
    house.second.set(Direction::BToA, Shape::PERFECT)?;
    let shown = slow.pictures()?;
    slow.wait_pictures(shown + 60, START)?;
    broadcaster.process.interrupt();
    broadcaster.process.success(Duration::from_secs(5))?;
    Ok(())
}

/// The last line of statistics.
fn stats(process: &Process) -> Result<Value> {
    let out = process.out();
    let whole = &out[..out.rfind('\n').unwrap_or(0)];
    Ok(serde_json::from_str(whole.lines().last().context("no statistics yet")?)?)
}
