//! Where the latency goes, as the programs say it themselves: each with a wrong clock of its own, by each path.

use anyhow::{Context, Result, ensure};
use e2e::{Broadcaster, Cdn, TIMEOUT, TestEnv, Viewer, until};
use serde_json::Value;

/// A path, and the parts that a server must have told of.
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
        // The rest of the whole is the buffer's: less than nothing, if what was told is of units that were not shown, or not in time.
        ensure!(latency["buffering"].as_f64() >= Some(0.0), "{via}: no time left for the buffer: {latency}");
    }

    let said = cdn.get("/api/v1/streams/live/timing")?;
    let said: Value = serde_json::from_slice(&said.body)?;
    let clock = |name: &str| said["broadcaster"][name].as_i64().with_context(|| format!("no {name}: {said}"));
    let (offset, doubt) = (clock("offset_us")?, clock("uncertainty_us")?);
    ensure!(
        (offset - (BROADCASTER_OFFSET_US - SERVER_OFFSET_US)).abs() <= doubt,
        "the server is wrong about the clocks: {offset} ± {doubt}"
    );
    ensure!(doubt < 100_000, "the server knows nothing of the clocks: ± {doubt}");
    in_order(&cdn, offset, doubt)?;

    for (via, told, viewer) in &mut viewers {
        let summary = viewer.finish()?;
        let latency = &summary.0["latency_ms"];
        println!("{via}: {latency}");
        let ms = |name: &str| latency[name].as_f64().with_context(|| format!("{via}: no {name}: {}", summary.0));
        let (offset, doubt) = (ms("clock_offset")?, ms("clock_uncertainty")?);
        let truth = (BROADCASTER_OFFSET_US - VIEWER_OFFSET_US) as f64 / 1e3;
        ensure!((offset - truth).abs() <= doubt + ROUNDING_MS, "{via} is wrong about the clocks: {offset} ± {doubt}");
        // Pixels are the truth: the clock that is drawn into each picture is the one that its stamps are by.
        ensure!(ms("pixels_worst")? <= FRAME_INTERVAL_MS, "{via}: the pixels tell another time: {latency}");
        ensure!(told.iter().all(|part| latency[part].is_number()), "{via}: the summary lacks parts: {latency}");
        ensure!(!summary.0["clocks_differ"].as_bool().unwrap_or(true), "{via}: it is known how far: {}", summary.0);
        ensure!(ms("p50")? > 0.0, "{via}: shown before it was captured: {latency}");
    }
    broadcaster.stop()
}

/// Whether the server tells every stage, and each after what causes it, once the clocks are made one.
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
            // By the server's clock. Without that, what the broadcaster does comes a third of a second after what it causes.
            let at = |stage: &str| {
                let of_theirs = ["captured", "encoded", "sent"].contains(&stage);
                Some(unit[format!("{stage}_us")].as_i64()? - if of_theirs { offset } else { 0 })
            };
            for ((cause, effect, slack), seen) in STAGE_ORDER.iter().zip(&mut seen) {
                let Some((before, after)) = at(cause).zip(at(effect)) else { continue };
                let slack = slack.unwrap_or(doubt);
                ensure!(before <= after + slack, "{effect} comes before {cause}, by more than {slack} us: {unit}");
                *seen += 1;
            }
        }
        Ok(seen.iter().all(|seen| *seen > 0).then_some(()))
    })
}

/// What the last line says of the latency.
fn latency(viewer: &Viewer) -> Result<Option<Value>> {
    let out = viewer.process.out();
    let whole = &out[..out.rfind('\n').unwrap_or(0)];
    let Some(line) = whole.lines().rev().find(|line| line.contains(r#""latency_ms""#)) else { return Ok(None) };
    Ok(Some(serde_json::from_str::<Value>(line)?["latency_ms"].take()))
}

/// Stages of which the first causes the second, and by how many microseconds the order may be wrong: where the clocks differ, what the server
/// says. That the write to the socket has ended is known, on one machine, only after the server may have read it.
const STAGE_ORDER: [(&str, &str, Option<i64>); 6] = [
    ("captured", "encoded", Some(MILLISECOND_US)),
    ("encoded", "sent", Some(0)),
    ("encoded", "ingested", None),
    ("ingested", "relayed", Some(0)),
    ("ingested", "in_part", Some(0)),
    ("in_part", "in_segment", Some(0)),
];
/// PTS are whole.
const MILLISECOND_US: i64 = 1000;
const COMPONENTS: [&str; 9] =
    ["encoding", "queue", "upload", "server", "chunking", "polling", "last_mile", "buffering", "decoding"];
/// How far each clock is ahead, in microseconds.
const BROADCASTER_OFFSET_US: i64 = 250_000;
const SERVER_OFFSET_US: i64 = -120_000;
const VIEWER_OFFSET_US: i64 = 40_000;
/// Of tenths of a millisecond, for as many of them as there are.
const ROUNDING_MS: f64 = 0.25;
/// One picture, in milliseconds.
const FRAME_INTERVAL_MS: f64 = 1000.0 / 30.0;
