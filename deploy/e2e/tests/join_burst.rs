//! The load generator against the real server: a burst of viewers joins by each protocol and receives every unit; viewers that do not are reported.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Broadcaster, Cdn, TIMEOUT, TestEnv, until};
use lab::load::{self, Options, Protocol};

#[test]
fn every_viewer_receives_every_unit_by_each_protocol() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let cdn = Cdn::start(&env, &[])?;
    let mut broadcaster = Broadcaster::start(&env, &cdn.publish_url(&key), &Broadcaster::SMALL)?;
    cdn.wait_segment("live")?;
    for protocol in [Protocol::Rtmp, Protocol::Relay, Protocol::LowLatencyHls, Protocol::Hls] {
        let mut options = options(&cdn, protocol);
        options.pid = Some(cdn.process.pid());
        let summary = load::run(&options)?;
        ensure!(summary.faults().is_empty(), "by {protocol:?}: {}", summary.to_text());
        let said = summary.to_json();
        // Audio and video of each viewer.
        ensure!(said["units"].as_u64() > said["pictures"].as_u64(), "no audio: {said}");
        ensure!(said["latency_ms"]["p50"].as_f64().is_some_and(|late| late > 0.0), "no clock: {said}");
        ensure!(said["server"]["memory_kib"].as_u64() > Some(0), "the report lacks the server: {said}");
        println!("{}", summary.to_text());
    }
    broadcaster.stop()
}

#[test]
fn viewers_that_end_when_the_server_dies_are_reported() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let mut cdn = Cdn::start(&env, &[])?;
    let _broadcaster = Broadcaster::start(&env, &cdn.publish_url(&key), &Broadcaster::SMALL)?;
    cdn.wait_segment("live")?;
    let crowd = options(&cdn, Protocol::Rtmp);
    let viewers = crowd.viewers;
    let load = std::thread::spawn(move || load::run(&crowd));
    let watched = || Ok((cdn.stream("live")?["viewers"]["total"] == viewers).then_some(()));
    until(TIMEOUT, "all viewers", watched)?;
    cdn.process.kill();
    let summary = load.join().ok().context("the load generator panicked")??;
    let told = format!("{viewers} viewers that ended");
    ensure!(summary.faults().contains(&told), "{:?}", summary.faults());
    Ok(())
}

#[test]
fn an_unplayable_stream_fails_at_once() -> Result<()> {
    let env = TestEnv::new()?;
    let cdn = Cdn::start(&env, &[])?;
    for protocol in [Protocol::Relay, Protocol::LowLatencyHls, Protocol::Hls] {
        let asked = Options { url: cdn.page_url("nobody"), ..options(&cdn, protocol) };
        ensure!(load::run(&asked).is_err(), "{protocol:?}");
    }
    Ok(())
}

fn options(cdn: &Cdn, protocol: Protocol) -> Options {
    let url = if protocol == Protocol::Rtmp { cdn.rtmp_url("live") } else { cdn.page_url("live") };
    let (ramp, duration) = (Duration::from_secs(1), Duration::from_secs(4));
    Options { url, protocol, viewers: 8, ramp, duration, pid: None }
}
