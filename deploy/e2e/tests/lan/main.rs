//! The LAN path over real network stacks: namespaces connected by emulated links. A viewer starts on the CDN, discovers the broadcaster, upgrades, and
//! switches back and forth as the direct link fails in various ways, without losing or duplicating an access unit.
//!
//! Needs root for network namespaces. Latencies are printed, not asserted: the assertions are that nothing is lost, duplicated or out of order.
#![allow(clippy::print_stdout, reason = "a test that measures prints its results")]

mod capture;
mod outage;
mod shared_uplink;
mod unauthorized;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Process, TIMEOUT, Unit, Viewer, compare, until};
use lab::link::shape::Shape;
use media::WallClock;
use rustix::process::Signal;
use serde_json::Value;

use e2e::lan_testbed::{LAN, LanTestbed};

/// Failures of the direct link. The push continues over the broadcaster's other link to the CDN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FailureKind {
    /// The cable is unplugged: both ends lose carrier.
    Cut,
    /// All packets are dropped, and carrier stays.
    BlackHole,
    /// A black hole for longer than a stalled path is kept: it must be discovered and opened again.
    LongBlackHole,
    /// 30% packet loss.
    Loss,
    /// The delay rises by 150 ms at once.
    DelayStep,
    /// The CDN is killed and restarts with another certificate: idle and active connections to it must be re-established.
    KilledCdn,
}

/// How often the viewer is stopped, for 150 to 600 ms.
const STOPS: u64 = 10;

const FAILURES: [FailureKind; 6] = [
    FailureKind::Cut,
    FailureKind::BlackHole,
    FailureKind::Loss,
    FailureKind::LongBlackHole,
    FailureKind::DelayStep,
    FailureKind::KilledCdn,
];

#[test]
fn hundreds_of_path_switches_lose_no_unit() -> Result<()> {
    // A failure takes three seconds, and makes each of two viewers switch its path and back.
    let events: usize = std::env::var("NEARCAST_LAN_EVENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(EVENTS);
    let mut testbed = LanTestbed::build()?;
    let mut broadcaster = testbed.broadcast(&[])?;
    let mut viewers = [
        ("warm", testbed.watch(0, &["--standby", "warm", "--buffer", "60"])?),
        ("hot", testbed.watch(1, &["--standby", "hot"])?),
    ];
    for (_, viewer) in &mut viewers {
        wait_source(viewer, "LAN peer")?;
    }
    let mut seen = [0; 2];
    let mut caused: [Vec<FailureKind>; 2] = Default::default();
    for n in 0..events {
        let cause = FAILURES[n % FAILURES.len()];
        wait_idle(&mut viewers[0].1)?;
        fail(&mut testbed, cause, &mut viewers)?;
        for (at, (_, viewer)) in viewers.iter_mut().enumerate() {
            wait_source(viewer, "LAN peer").with_context(|| format!("after {cause:?}, event {n}"))?;
            let count = switches(viewer).len();
            caused[at].extend(std::iter::repeat_n(cause, count - seen[at]));
            seen[at] = count;
        }
    }
    // Time for the last switch to be presented.
    for (_, viewer) in &mut viewers {
        let shown = viewer.pictures()?;
        viewer.wait_pictures(shown + 60, TIMEOUT)?;
    }
    let summaries = [viewers[0].1.finish()?, viewers[1].1.finish()?];
    broadcaster.stop()?;
    let left = broadcaster.units()?;
    let mut total = 0;
    for ((mode, viewer), (summary, caused)) in viewers.iter().zip(summaries.iter().zip(&caused)) {
        let counts = compare(&left, &viewer.units()?).with_context(|| format!("{mode}: hashes and order"))?;
        viewer.ensure_no_duplicates()?;
        summary.ensure_unbroken(100)?;
        let said = &summary.0["switches"];
        println!("{mode}: {counts:?} units, {} pictures, latency {}", summary.pictures(), summary.0["latency_ms"]);
        report(mode, said, caused);
        // Frames that a late source dropped look like losses to a viewer.
        let whole = said_last(&broadcaster.process, "frames_dropped")?.as_u64() == Some(0);
        ensure!(said["lost"] == 0 && (summary.0["lost"] == 0 || !whole), "{mode}: units were lost: {}", summary.0);
        total += said["count"].as_u64().unwrap_or(0);
    }
    println!("{total} path switches without a lost or duplicate unit");
    ensure!(total as usize >= events, "{total} path switches for {events} failures");
    let share = testbed.share_of_cdn_link(&left)?;
    println!("{}", testbed.lateness());
    println!("bytes from the CDN, failures included: {share:.2} of one copy of the stream");
    Ok(())
}

/// A process that is kept from running, by a suspension or a starved host, finds what arrived meanwhile in its sockets: no path was silent.
#[test]
fn a_viewer_that_was_kept_from_running_stays_on_its_path() -> Result<()> {
    let testbed = LanTestbed::build()?;
    let mut broadcaster = testbed.broadcast(&[])?;
    let mut viewer = testbed.watch(0, &["--buffer", "60"])?;
    wait_source(&mut viewer, "LAN peer")?;
    wait_idle(&mut viewer)?;
    let before = switches(&viewer).len();
    for n in 0..STOPS {
        viewer.process.signal(Signal::STOP);
        std::thread::sleep(Duration::from_millis(150 + n * 50));
        viewer.process.signal(Signal::CONT);
        std::thread::sleep(Duration::from_millis(700));
    }
    let shown = viewer.pictures()?;
    viewer.wait_pictures(shown + 60, TIMEOUT)?;
    let made = switches(&viewer).split_off(before);
    let summary = viewer.finish()?;
    broadcaster.stop_and_compare(&viewer)?;
    ensure!(summary.0["lost"] == 0, "units were lost: {}", summary.0);
    // A machine that runs other tests may keep the broadcaster from running too.
    println!("{} path switches in {STOPS} stops", made.len());
    ensure!(made.len() <= 2, "the viewer left its path: {made:?}");
    Ok(())
}

/// Tickets expire by the server's clock, which the broadcaster measures: its own may be wrong.
#[test]
fn viewers_are_admitted_by_a_broadcaster_whose_clock_is_wrong() -> Result<()> {
    let testbed = LanTestbed::build()?;
    for ahead in ["-150000", "400000"] {
        let mut broadcaster = testbed.broadcast(&["--clock-offset", ahead])?;
        let mut viewer = testbed.watch(0, &[])?;
        wait_source(&mut viewer, "LAN peer").with_context(|| format!("with a clock {ahead} ms ahead"))?;
        let log = broadcaster.process.err();
        ensure!(log.contains("this machine's clock is not the server's"), "nothing is said: {log}");
        viewer.finish()?;
        broadcaster.stop()?;
    }
    Ok(())
}

/// A restarted broadcaster is another broadcast with another certificate and mDNS name: the viewer falls back to the CDN and upgrades again.
#[test]
fn a_restarted_broadcaster_is_rediscovered() -> Result<()> {
    let testbed = LanTestbed::build()?;
    let mut first = testbed.broadcast(&[])?;
    let mut viewer = testbed.watch(0, &[])?;
    wait_source(&mut viewer, "LAN peer")?;
    let shown = viewer.pictures()?;
    viewer.wait_pictures(shown + 60, TIMEOUT)?;
    first.process.kill();
    let before = switches(&viewer).len();
    let mut second = testbed.broadcast(&[])?;
    until(TIMEOUT, "the second broadcaster's own pictures", || {
        ensure!(viewer.process.running()?, "the viewer ended: {}", viewer.process.err());
        let to = |switch: &Value, name: &str| switch["to"].as_str().is_some_and(|to| to.starts_with(name));
        let after = switches(&viewer).split_off(before);
        Ok(after.iter().skip_while(|switch| to(switch, "LAN")).any(|switch| to(switch, "LAN")).then_some(()))
    })?;
    let shown = viewer.pictures()?;
    viewer.wait_pictures(shown + 60, TIMEOUT)?;
    viewer.finish()?;
    second.stop()?;
    // Each broadcast begins at zero.
    let mut newest = BTreeMap::new();
    let mut runs = [Vec::new(), Vec::new()];
    for unit in viewer.units()? {
        let (run, dts) = newest.entry(unit.track.clone()).or_insert((0, unit.dts));
        *run += usize::from(unit.dts < *dts);
        *dts = unit.dts;
        runs.get_mut(*run).context("DTS decreased more than once")?.push(unit);
    }
    // Units that the killed process had not logged yet cannot be compared.
    let left = first.units()?;
    let written = |unit: &Unit| left.iter().any(|other| other.track == unit.track && other.dts >= unit.dts);
    runs[0].retain(written);
    let counts = [compare(&left, &runs[0])?, compare(&second.units()?, &runs[1])?];
    println!("units of the two broadcasts: {counts:?}");
    let begin = |units: &[Unit]| units.iter().find(|unit| unit.track == "v0").map(|unit| unit.dts);
    ensure!(begin(&runs[1]) == begin(&second.units()?), "the second broadcast was not shown from its first picture on");
    Ok(())
}

#[test]
fn a_viewer_discovers_the_broadcaster_and_the_idle_fallback_costs_under_two_percent() -> Result<()> {
    let testbed = LanTestbed::build()?;
    let mut broadcaster = testbed.broadcast(&[])?;
    let mut viewer = testbed.watch(0, &[])?;
    wait_source(&mut viewer, "LAN peer")?;
    let at = |what: &str, source: &str| said_at(&viewer, what, source).with_context(|| format!("no {what}"));
    let first = at("connected", "relay")?;
    let found = at("discovered addresses of the broadcaster", "")?;
    let joined = at("connected", "LAN peer")?;
    println!(
        "found {} ms after the CDN was joined, and joined {} ms after it was found",
        found.micros_since(first) / 1000,
        joined.micros_since(found) / 1000
    );
    until(TIMEOUT, "ten seconds of pictures with an idle fallback", || {
        // Both paths are active until the relay becomes idle.
        wait_idle(&mut viewer)?;
        let roused = count(&viewer, r#""message":"open paths""#);
        let before = testbed.cdn_link_bytes();
        let left = broadcaster.units()?.len();
        let shown = viewer.pictures()?;
        viewer.wait_pictures(shown + 300, TIMEOUT)?;
        let bytes = testbed.cdn_link_bytes() - before;
        if count(&viewer, r#""message":"open paths""#) > roused {
            // A pause of a busy machine does not count as stable.
            return Ok(None);
        }
        let media: u64 = testbed.payload_bytes(broadcaster.units()?.len() - left);
        println!("{bytes} bytes from the CDN while {media} bytes of media came from the broadcaster");
        ensure!(bytes * 50 < media, "an idle fallback costs {bytes} bytes for {media} of media: 2% is the bound");
        Ok(Some(()))
    })?;
    viewer.finish()?.ensure_unbroken(300)?;
    broadcaster.stop()?;
    compare(&broadcaster.units()?, &viewer.units()?)?;
    Ok(())
}

#[test]
fn a_pairing_code_admits_viewers_without_a_server() -> Result<()> {
    let mut testbed = LanTestbed::build()?;
    testbed.stop_cdn();
    let (mut broadcaster, address, code) = testbed.broadcast_with_code()?;
    let mut viewer = testbed.watch_url(0, &format!("nearcast://{address}#{code}"), &[])?;
    viewer.wait_pictures(60, TIMEOUT)?;
    viewer.finish()?.ensure_unbroken(60)?;
    // Discovered by mDNS.
    let mut viewer = testbed.watch_lan(1, &code)?;
    viewer.wait_pictures(60, TIMEOUT)?;
    viewer.finish()?.ensure_unbroken(60)?;
    // Another code is rejected.
    let mut stranger = testbed.watch_url(
        0,
        &format!("nearcast://{address}"),
        &["--pairing-code", "0123-4567-89AB-CDEF", "--duration", "3"],
    )?;
    stranger.process.line(TIMEOUT, "that it is refused", |line| line.contains("the pairing code is wrong"))?;
    ensure!(stranger.pictures()? == 0, "a wrong code showed pictures");
    broadcaster.process.interrupt();
    broadcaster.process.exit(TIMEOUT)?;
    Ok(())
}

/// Causes a failure, waits until the viewers have switched if they must, and repairs it.
fn fail(testbed: &mut LanTestbed, cause: FailureKind, viewers: &mut [(&str, Viewer); 2]) -> Result<()> {
    match cause {
        FailureKind::Cut => testbed.direct.cut()?,
        FailureKind::BlackHole | FailureKind::LongBlackHole => testbed.direct.blackhole()?,
        FailureKind::KilledCdn => testbed.kill_cdn()?,
        FailureKind::Loss => testbed.direct.set_both(Shape { loss: 0.3, ..LAN })?,
        FailureKind::DelayStep => {
            testbed.direct.set_both(Shape { delay: LAN.delay + Duration::from_millis(150), ..LAN })?
        }
    }
    match cause {
        // They may stay, if enough comes through.
        FailureKind::Loss | FailureKind::DelayStep => std::thread::sleep(Duration::from_millis(1200)),
        FailureKind::KilledCdn => std::thread::sleep(Duration::from_millis(500)),
        _ => {
            for (mode, viewer) in viewers.iter_mut() {
                // After the CDN restarts, hot standby may connect RTMP before the relay: then both are active, and either may be first.
                let by: &[&str] = if *mode == "hot" { &["relay", "RTMP"] } else { &["relay"] };
                wait_any_source(viewer, by).with_context(|| format!("{mode} after {cause:?}"))?;
            }
        }
    }
    match cause {
        FailureKind::LongBlackHole => std::thread::sleep(Duration::from_millis(2500)),
        FailureKind::KilledCdn => {
            testbed.start_cdn()?;
            return until(TIMEOUT, "the publisher to be back", || {
                let said = testbed.ask(0, "/api/v1/streams/live");
                Ok(said.is_ok_and(|said| said["state"] == "live").then_some(()))
            });
        }
        _ => {}
    }
    testbed.direct.heal()?;
    testbed.direct.set_both(LAN)
}

/// The path switches that a viewer has logged.
fn switches(viewer: &Viewer) -> Vec<Value> {
    let log = viewer.process.err();
    let switched = log.lines().filter(|line| line.contains(r#""switched""#));
    switched.filter_map(|line| serde_json::from_str::<Value>(line).ok()).map(|line| line["fields"].clone()).collect()
}

/// The number of log lines that contain `words`.
fn count(viewer: &Viewer, words: &str) -> usize {
    viewer.process.err().lines().filter(|line| line.contains(words)).count()
}

/// The field `name` of the last log line that has it.
fn said_last(process: &Process, name: &str) -> Result<Value> {
    let log = process.err();
    let said = log.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut fields = said.map(|line| line["fields"][name].clone()).filter(|field| !field.is_null());
    fields.next().with_context(|| format!("no log line has the field {name}: {log}"))
}

/// When a viewer first logged `message`, with a source that begins with `source`.
fn said_at(viewer: &Viewer, message: &str, source: &str) -> Option<WallClock> {
    let log = viewer.process.err();
    log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|line| {
        let is_it = line["fields"]["message"] == message
            && line["fields"]["source"].as_str().unwrap_or_default().starts_with(source);
        is_it.then(|| WallClock::from_rfc3339(line["timestamp"].as_str()?)).flatten()
    })
}

/// Waits until the active path has a name that begins with `source`.
fn wait_source(viewer: &mut Viewer, source: &str) -> Result<()> {
    wait_any_source(viewer, &[source])
}

/// Waits until the active path has a name that begins with any of `sources`.
fn wait_any_source(viewer: &mut Viewer, sources: &[&str]) -> Result<()> {
    until(TIMEOUT, &format!("frames by {}", sources.join(" or ")), || {
        ensure!(viewer.process.running()?, "the viewer ended: {}", viewer.process.err());
        let last = switches(viewer).last().and_then(|switch| switch["to"].as_str().map(str::to_owned));
        let now = last.or_else(|| {
            let log = viewer.process.err();
            let opened = log.lines().find(|line| line.contains(r#""message":"connected""#))?;
            serde_json::from_str::<Value>(opened).ok()?["fields"]["source"].as_str().map(str::to_owned)
        });
        Ok(now.is_some_and(|now| sources.iter().any(|source| now.starts_with(source))).then_some(()))
    })
}

/// Waits until only one path is active and the fallback is idle: after stalls the fallback stays active for a while.
fn wait_idle(viewer: &mut Viewer) -> Result<()> {
    until(TIMEOUT, "an idle fallback", || {
        ensure!(viewer.process.running()?, "the viewer ended: {}", viewer.process.err());
        let log = viewer.process.err();
        let said = log.lines().rev().find(|line| line.contains(r#""message":"open paths""#));
        let said = said.and_then(|line| serde_json::from_str::<Value>(line).ok()).map(|line| line["fields"].clone());
        Ok(said.is_some_and(|said| said["active"] == 1 && said["idle"] == 1).then_some(()))
    })
}

/// Prints the cost of path switches by cause and direction: how late the first frame on the new path arrived, hence the freeze at a buffer of 60 ms; and the
/// measured freeze.
fn report(mode: &str, said: &Value, caused: &[FailureKind]) {
    let recent = said["recent"].as_array().cloned().unwrap_or_default();
    // The first one is the move to the broadcaster at the start; of very many, the oldest are forgotten.
    let known = caused.len().min(recent.len());
    let pairs: Vec<_> = recent[recent.len() - known..].iter().zip(&caused[caused.len() - known..]).collect();
    for cause in FAILURES {
        for (is_peer, words) in [(false, "to the CDN"), (true, "to the peer")] {
            let of = |field: &str| {
                let mut values: Vec<f64> = pairs
                    .iter()
                    .filter(|(switch, by)| {
                        **by == cause && switch["to"].as_str().is_some_and(|name| name.starts_with("LAN") == is_peer)
                    })
                    .filter_map(|(switch, _)| switch[field].as_f64())
                    .collect();
                values.sort_by(f64::total_cmp);
                Some((values.len(), *values.get(values.len() / 2)?, *values.last()?))
            };
            if let (Some((count, median, worst)), Some((.., stood))) = (of("delay_ms"), of("freeze_ms")) {
                println!(
                    "{mode:>5}  {cause:<14} {words:<12} {count:>3} times, delay {median:>5.1} ms median, {worst:>5.1} ms max; \
                     freeze at a buffer of 60 ms at most {:>5.1} ms; measured {stood:>5.1} ms",
                    (worst - 60.0).max(0.0),
                    cause = format!("{cause:?}")
                );
            }
        }
    }
}

/// Failures, for about two hundred path switches.
const EVENTS: usize = 60;
