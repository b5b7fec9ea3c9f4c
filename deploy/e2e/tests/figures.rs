//! The same figure is the same text and the same quantity wherever it is shown: viewer, player page, API and metrics.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use e2e::{Broadcaster, Cdn, PlayerPage, TIMEOUT, TestEnv, Viewer, until};
use serde_json::{Value, json};

#[test]
fn the_page_writes_figures_as_the_programs_do() -> Result<()> {
    let env = TestEnv::new()?;
    let cdn = Cdn::start(&env, &[])?;
    let page = PlayerPage::open(&env, &cdn, "live")?;
    // Unit tests of viewer and broadcaster read the same file.
    let cases: Value = serde_json::from_str(include_str!("figures.json"))?;
    let mut wrong = Vec::new();
    for (rule, cases) in cases.as_object().context("rules")? {
        for case in cases.as_array().context("cases")? {
            let shown = page.browser.run(&formatted(rule, &case[0]))?;
            wrong.extend((shown != case[1]).then(|| format!("{rule} of {}: {shown}, not {}", case[0], case[1])));
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

#[test]
fn viewer_page_api_and_metrics_agree_about_one_stream() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let metrics = listener.local_addr()?;
    drop(listener);
    let cdn = Cdn::start(&env, &["--metrics", &metrics.to_string()])?;
    let _broadcaster = Broadcaster::start(&env, &cdn.publish_url(&key), &Broadcaster::SMALL)?;
    cdn.wait_segment("live")?;
    let mut viewer = Viewer::start(&env, &cdn.page_url("live"), &["--transport", "ll-hls"])?;
    viewer.wait_pictures(60, TIMEOUT)?;
    let page = PlayerPage::open(&env, &cdn, "live")?;
    let text = |id: &str| -> Result<String> {
        let text = page.browser.run(&format!("return document.getElementById('{id}').textContent"))?;
        Ok(text.as_str().unwrap_or("").to_owned())
    };
    let value = |id: &str| -> Result<String> {
        let text = page.browser.run(&format!("return document.getElementById('{id}').firstChild.nodeValue"))?;
        Ok(text.as_str().unwrap_or("").to_owned())
    };
    until(TIMEOUT, "the page's latency, by component", || Ok((!text("parts-words")?.is_empty()).then_some(())))?;

    // Each has its own buffer, which is filled when it joins, but both measure from the capture to the screen.
    until(TIMEOUT, "page and viewer to show latencies less than a second apart", || {
        let in_viewer = last_line(&viewer)?["latency_ms"]["total"].as_f64().context("the viewer knows no latency")?;
        let on_page = milliseconds(&value("stat-latency")?)?;
        // A part lasts 200 ms.
        ensure!(on_page > 100.0 && in_viewer > 100.0, "page {on_page} ms, viewer {in_viewer} ms");
        Ok(((on_page - in_viewer).abs() < 1000.0).then_some(()))
    })?;
    for (id, form) in [("stat-latency", "± "), ("stat-dropped", "of "), ("stat-mode", "LL-HLS")] {
        let shown = text(id)?;
        ensure!(shown.contains(form), "{id} is {shown}");
    }
    let chip = text("latency-chip")?;
    milliseconds(chip.trim_end_matches(" latency")).with_context(|| format!("the chip says {chip}"))?;
    ensure!(last_line(&viewer)?["source"].as_str().is_some_and(|source| source.starts_with("LL-HLS ")));

    // The mean over the window changes slowly; the page asks every two seconds.
    until(TIMEOUT, "the page and the metrics to show the bitrate of the API", || {
        let bitrate = cdn.stream("live")?["bitrate"].clone();
        let wanted = page.browser.run(&formatted("bitrate", &bitrate))?;
        let measured = 8.0 * sample(metrics, "nearcast_stream_bytes_per_second{stream=\"live\"}")?;
        let agrees = (measured - bitrate.as_f64().unwrap_or(0.0)).abs() < 0.05 * measured;
        Ok((wanted == value("stat-bitrate")? && agrees).then_some(()))
    })?;

    let tracks = cdn.stream("live")?["tracks"].clone();
    let tracks = tracks.as_array().context("tracks")?;
    let wanted: Vec<Value> =
        tracks.iter().map(|track| page.browser.run(&formatted("track", track))).collect::<Result<_>>()?;
    let badges =
        page.browser.run("return [...document.querySelectorAll('#badges span')].map((badge) => badge.textContent)")?;
    let codecs = viewer.finish()?.0["codecs"].clone();
    ensure!(badges == json!(wanted) && codecs == badges, "API {wanted:?}, page {badges}, viewer {codecs}");
    let size = format!("{}x{}", tracks[0]["width"], tracks[0]["height"]);
    ensure!(value("stat-picture")? == size && wanted[0].as_str().is_some_and(|text| text.ends_with(&size)));
    Ok(())
}

/// A script that returns what the page's `rule` makes of `value`.
fn formatted(rule: &str, value: &Value) -> String {
    format!("return import(location.origin + '/assets/format.js').then((format) => format.{rule}({value}))")
}

/// The newest statistics line of a viewer.
fn last_line(viewer: &Viewer) -> Result<Value> {
    let out = viewer.process.out();
    let complete = &out[..out.rfind('\n').unwrap_or(0)];
    let line = complete.lines().rev().find(|line| line.contains(r#""stats""#)).context("no statistics")?;
    Ok(serde_json::from_str(line)?)
}

/// The time of a text such as `95 ms` or `2.31 s`.
fn milliseconds(text: &str) -> Result<f64> {
    let (number, unit) = text.split_once(' ').with_context(|| text.to_owned())?;
    let scale = match unit {
        "ms" => 1.0,
        "s" => 1000.0,
        _ => anyhow::bail!("{text} is no time"),
    };
    Ok(number.parse::<f64>().with_context(|| text.to_owned())? * scale)
}

fn sample(metrics: SocketAddr, name: &str) -> Result<f64> {
    let text = e2e::get(metrics, "/metrics")?.text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    Ok(line.trim().parse()?)
}
