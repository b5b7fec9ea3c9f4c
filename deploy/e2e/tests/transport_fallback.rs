//! Path switches between RTMP and LL-HLS: a viewer falls back when a path breaks or stalls, upgrades again, and neither loses nor duplicates a unit.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, Result, ensure};
use e2e::{Broadcaster, Cdn, FaultProxy, ProxyMode, TIMEOUT, TestEnv, Viewer, compare, until};
use serde_json::{Value, json};

#[test]
fn rtmp_falls_back_to_ll_hls_and_upgrades_again_without_loss() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let cdn = Cdn::start(&env, &[])?;
    let mut broadcaster = Broadcaster::start(&env, &cdn.publish_url(&key), &Broadcaster::SMALL)?;
    cdn.wait_segment("live")?;
    let proxy = FaultProxy::start(cdn.rtmp)?;
    let urls = json!({ "page": "", "rtmp": format!("rtmp://{}/live/live", proxy.address), "hls": cdn.hls_url("live") });
    let page = page(&json!({ "name": "live", "urls": urls, "hls": { "low_latency": true } }))?;
    let mut viewer = Viewer::start(&env, &format!("http://{page}/live"), &[])?;
    viewer.wait_pictures(60, TIMEOUT)?;
    wait_led_by(&mut viewer, "RTMP")?;
    for mode in [ProxyMode::Refuse, ProxyMode::Stall, ProxyMode::Refuse, ProxyMode::Stall] {
        proxy.set(mode);
        wait_led_by(&mut viewer, "LL-HLS").with_context(|| format!("{mode:?}"))?;
        let shown = viewer.pictures()?;
        viewer.wait_pictures(shown + 60, TIMEOUT)?;
        proxy.set(ProxyMode::Forward);
        wait_led_by(&mut viewer, "RTMP")?;
    }
    let shown = viewer.pictures()?;
    viewer.wait_pictures(shown + 60, TIMEOUT)?;
    let summary = viewer.finish()?;
    eprintln!("{}", summary.0["switches"]);
    summary.ensure_unbroken(300)?;
    ensure!(summary.0["lost"] == 0, "units were lost: {}", summary.0);
    viewer.ensure_no_duplicates()?;
    broadcaster.stop_and_compare(&viewer)
}

#[test]
fn hls_is_played_by_the_requested_variant() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let cdn = Cdn::start(&env, &[])?;
    let mut broadcaster = Broadcaster::start(&env, &cdn.publish_url(&key), &Broadcaster::SMALL)?;
    cdn.wait_segment("live")?;
    let urls = json!({ "page": "", "rtmp": Value::Null, "hls": cdn.hls_url("live") });
    let page = page(&json!({ "name": "live", "urls": urls, "hls": { "low_latency": true } }))?;
    for (via, source) in [("auto", "LL-HLS"), ("ll-hls", "LL-HLS"), ("hls", "HLS")] {
        let mut viewer = Viewer::start(&env, &format!("http://{page}/live"), &["--transport", via])?;
        viewer.wait_pictures(90, TIMEOUT)?;
        let summary = viewer.finish()?;
        summary.ensure_unbroken(90)?;
        let said = summary.0["source"].as_str().context("no source")?;
        ensure!(said.starts_with(source), "by {via}, the active path was {said}");
        compare(&broadcaster.units()?, &viewer.units()?)?;
    }
    broadcaster.stop()
}

/// Waits until the active path has a name that begins with `source`.
fn wait_led_by(viewer: &mut Viewer, source: &str) -> Result<()> {
    until(TIMEOUT, &format!("frames by {source}"), || {
        ensure!(viewer.process.running()?, "the viewer ended: {}", viewer.process.err());
        let log = viewer.process.err();
        let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let led = events.fold(None, |led: Option<String>, event| {
            let fields = &event["fields"];
            match fields["message"].as_str() {
                // The first path to connect is active until a switch is logged.
                Some("connected") if led.is_none() => fields["source"].as_str().map(str::to_owned),
                Some("switched") => fields["to"].as_str().map(str::to_owned),
                _ => led,
            }
        });
        Ok(led.is_some_and(|led| led.starts_with(source)).then_some(()))
    })
}

/// Starts a server that answers every request with `answer`: the playback info of a stream, with addresses chosen by the test.
fn page(answer: &Value) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let body = answer.to_string();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut asked = Vec::new();
            let mut buffer = [0; 1024];
            while !asked.ends_with(b"\r\n\r\n") {
                match client.read(&mut buffer) {
                    Ok(read @ 1..) => asked.extend_from_slice(&buffer[..read]),
                    _ => break,
                }
            }
            let head = format!("content-type: application/json\r\ncontent-length: {}\r\nconnection: close", body.len());
            let _ = write!(client, "HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}");
        }
    });
    Ok(address)
}
