//! The latency breakdown that the programs report, by each path, with clocks that differ between them.

use anyhow::{Context, Result, ensure};
use e2e::{Broadcaster, Cdn, TIMEOUT, TestEnv, Viewer, until};
use serde_json::Value;

/// Each path, and the latency components that need the server's data.
const PATHS: [(&str, &[&str]); 5] = [
    ("peer", &["encoding", "server"]),
    ("relay", &["encoding", "queue", "upload", "server"]),
    ("rtmp", &["encoding", "queue", "upload", "server"]),
    ("ll-hls", &["encoding", "queue", "upload", "chunking", "polling"]),
    ("hls", &["encoding", "queue", "upload", "chunking", "polling"]),
];

#[test]
fn clock_offsets_are_estimated_and_the_components_add_up() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let ahead = |micros: i64| (micros / 1000).to_string();
    let cdn = Cdn::start(&env, &["--clock-offset", &ahead(SERVER_OFFSET_US)])?;
    let offset = ahead(BROADCASTER_OFFSET_US);
    let options = [&Broadcaster::SMALL[..], &["--clock-offset", &offset]].concat();
    let mut broadcaster = Broadcaster::start(&env, &cdn.publish_url(&key), &options)?;
    cdn.wait_segment("live")?;
    let mut viewers = Vec::new();
    for (via, told) in PATHS {
        let options = ["--transport", via, "--clock-offset", &ahead(VIEWER_OFFSET_US)];
        viewers.push((via, told, Viewer::start(&env, &cdn.page_url("live"), &options)?));
    }
    for (via, told, viewer) in &mut viewers {
        let all_told = |latency: &Value| told.iter().all(|part| latency[part].is_number());
        let latency = until(TIMEOUT, &format!("what is told by {via}"), || {
            ensure!(viewer.process.running()?, "the viewer ended");
            Ok(latency(viewer)?.filter(all_told))
        })?;
        let parts: f64 = COMPONENTS.iter().filter_map(|part| latency[part].as_f64()).sum();
        let total = latency["total"].as_f64().with_context(|| format!("{via}: no total: {latency}"))?;
        ensure!((parts - total).abs() < ROUNDING_MS, "{via}: {parts} ms in parts: {latency}");
        // The remainder of the total is the buffer's: it would be negative if the components were of other units.
        ensure!(latency["buffering"].as_f64() >= Some(0.0), "{via}: negative buffering: {latency}");
    }

    let said = cdn.get("/api/v1/streams/live/timing")?;
    let said: Value = serde_json::from_slice(&said.body)?;
    let clock = |name: &str| said["broadcaster"][name].as_i64().with_context(|| format!("no {name}: {said}"));
    let (offset, doubt) = (clock("offset_us")?, clock("uncertainty_us")?);
    ensure!(
        (offset - (BROADCASTER_OFFSET_US - SERVER_OFFSET_US)).abs() <= doubt,
        "the server's estimate of the clock offset is wrong: {offset} ± {doubt}"
    );
    ensure!(doubt < 100_000, "the server's estimate of the clock offset is too uncertain: ± {doubt}");
    in_order(&cdn, offset, doubt)?;

    for (via, told, viewer) in &mut viewers {
        let summary = viewer.finish()?;
        let latency = &summary.0["latency_ms"];
        println!("{via}: {latency}");
        let ms = |name: &str| latency[name].as_f64().with_context(|| format!("{via}: no {name}: {}", summary.0));
        let (offset, doubt) = (ms("clock_offset")?, ms("clock_uncertainty")?);
        let truth = (BROADCASTER_OFFSET_US - VIEWER_OFFSET_US) as f64 / 1e3;
        ensure!(
            (offset - truth).abs() <= doubt + ROUNDING_MS,
            "{via}: the estimate of the clock offset is wrong: {offset} ± {doubt}"
        );
        // The clock drawn into each frame is the reference for its timestamps.
        ensure!(ms("pixels_worst")? <= FRAME_INTERVAL_MS, "{via}: the burnt-in clock differs: {latency}");
        ensure!(told.iter().all(|part| latency[part].is_number()), "{via}: the summary lacks components: {latency}");
        ensure!(
            !summary.0["clocks_differ"].as_bool().unwrap_or(true),
            "{via}: the offset is known, but reported as unknown: {}",
            summary.0
        );
        ensure!(ms("p50")? > 0.0, "{via}: negative latency: {latency}");
    }
    broadcaster.stop()
}

/// Waits until the server reports every stage of one unit. Fails if, after correcting clock offsets, a stage precedes its cause.
fn in_order(cdn: &Cdn, offset: i64, doubt: i64) -> Result<()> {
    let ask = |at: &str| -> Result<Value> {
        Ok(serde_json::from_slice(&cdn.get(&format!("/api/v1/streams/live/timing{at}"))?.body)?)
    };
    let newest = |said: &Value| said["units"].as_array()?.last()?["dts"].as_i64();
    let newest = newest(&ask("")?).context("no units")?;
    until(TIMEOUT, "every stage of one unit", || {
        let said = ask(&format!("?at={newest}"))?;
        let units = said["units"].as_array().with_context(|| format!("no units: {said}"))?;
        let mut seen = [0; STAGE_ORDER.len()];
        for unit in units {
            // By the server's clock. Uncorrected, the broadcaster's stages would come 0.37 s after their effects.
            let at = |stage: &str| {
                let of_theirs = ["captured", "encoded", "sent"].contains(&stage);
                Some(unit[format!("{stage}_us")].as_i64()? - if of_theirs { offset } else { 0 })
            };
            for ((cause, effect, slack), seen) in STAGE_ORDER.iter().zip(&mut seen) {
                let Some((before, after)) = at(cause).zip(at(effect)) else { continue };
                let slack = slack.unwrap_or(doubt);
                ensure!(before <= after + slack, "{effect} precedes {cause} by more than {slack} us: {unit}");
                *seen += 1;
            }
        }
        Ok(seen.iter().all(|seen| *seen > 0).then_some(()))
    })
}

/// The latency object of the last statistics line.
fn latency(viewer: &Viewer) -> Result<Option<Value>> {
    let out = viewer.process.out();
    let whole = &out[..out.rfind('\n').unwrap_or(0)];
    let Some(line) = whole.lines().rev().find(|line| line.contains(r#""latency_ms""#)) else { return Ok(None) };
    Ok(Some(serde_json::from_str::<Value>(line)?["latency_ms"].take()))
}

/// Pairs of stages of which the first causes the second, and the tolerance in microseconds; `None` for the server's own uncertainty, where the clocks
/// differ. On one machine the server may read a unit before the write to the socket returns.
const STAGE_ORDER: [(&str, &str, Option<i64>); 6] = [
    ("captured", "encoded", Some(MILLISECOND_US)),
    ("encoded", "sent", Some(0)),
    ("encoded", "ingested", None),
    ("ingested", "relayed", Some(0)),
    ("ingested", "in_part", Some(0)),
    ("in_part", "in_segment", Some(0)),
];
/// PTS are whole milliseconds.
const MILLISECOND_US: i64 = 1000;
const COMPONENTS: [&str; 9] =
    ["encoding", "queue", "upload", "server", "chunking", "polling", "last_mile", "buffering", "decoding"];
/// How far each program's clock is ahead, in microseconds.
const BROADCASTER_OFFSET_US: i64 = 250_000;
const SERVER_OFFSET_US: i64 = -120_000;
const VIEWER_OFFSET_US: i64 = 40_000;
/// Sum of the rounding errors of all components, each rounded to 0.1 ms.
const ROUNDING_MS: f64 = 0.25;
/// One frame interval, in milliseconds.
const FRAME_INTERVAL_MS: f64 = 1000.0 / 30.0;
