//! What a crowd costs the server: 100 to 500 viewers by each protocol, made by `lab load`, and that each of them got everything.
//!
//! Server and crowd are in one host and talk over its loopback, the server on one core and everything else on another, so that neither takes the
//! other's time. Each protocol has a server of its own, whose windows are full before it is measured.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::outcome::round;
use super::pictures;
use super::testbed::Testbed;
use super::trace_reader::TraceRow;
use crate::load::Protocol;
use crate::process::{Process, cores, pin};

/// One crowd.
pub(super) struct LoadSample {
    pub(super) protocol: Protocol,
    /// None at first.
    pub(super) viewers: usize,
    /// The server's processor time, of one core.
    pub(super) cpu_cores: f64,
    /// Memory that the server holds more than without viewers, in KiB.
    pub(super) memory_kib: i64,
    /// What `lab load` says.
    pub(super) report: Value,
    pub(super) faults: Vec<String>,
}

/// All protocols, one after the other. `key` is the stream's.
pub(super) fn run(testbed: &Testbed, key: &str, protocols: &[Protocol]) -> Result<Vec<LoadSample>> {
    let mut samples = Vec::new();
    for protocol in protocols {
        measure_protocol(testbed, key, *protocol, &mut samples)
            .with_context(|| format!("a crowd by {}", protocol.name()))?;
    }
    Ok(samples)
}

/// Whether the server has a core of its own.
pub(super) fn is_pinned() -> bool {
    cores().len() > 1
}

fn measure_protocol(testbed: &Testbed, key: &str, protocol: Protocol, samples: &mut Vec<LoadSample>) -> Result<()> {
    let built = testbed.topology(include_str!("../../topologies/rack.toml"))?.build()?;
    let host = built.host("server")?;
    let cores = cores();
    let (server_core, other_core) = match cores[..] {
        [.., other, server] => (Some(server), Some(other)),
        _ => (None, None),
    };
    let mut command = testbed.cdn_command(host)?;
    // All come from one address.
    command.env("NEARCAST_HTTP_MAX_PER_ADDRESS", "8192").env("NEARCAST_RELAY_MAX_PER_ADDRESS", "2048");
    server_core.into_iter().for_each(|core| pin(&mut command, core));
    let server = testbed.serve(&mut command)?;
    let options = [&pictures::STREAM[..], &["--no-lan"]].concat();
    let publish = format!("rtmp://127.0.0.1/live/{key}");
    let mut broadcaster = testbed.pinned_broadcaster(host, &publish, &options, other_core)?;
    broadcaster.wait_pictures("encoded", "", 30, 0, START)?;
    std::thread::sleep(testbed.seconds(FULL, 3));
    let seconds = testbed.seconds(8, 3);
    let (began, before) = (Instant::now(), server.processor_time()?);
    std::thread::sleep(seconds);
    let cpu_cores = (server.processor_time()? - before).as_secs_f64() / began.elapsed().as_secs_f64();
    let empty = server.memory_kib()?;
    let mut found =
        vec![LoadSample { protocol, viewers: 0, cpu_cores, memory_kib: 0, report: Value::Null, faults: Vec::new() }];
    for viewers in if testbed.quick { &[10, 20][..] } else { &CROWDS } {
        let url = match protocol {
            Protocol::Rtmp => "rtmp://127.0.0.1/live/live",
            Protocol::Relay | Protocol::LowLatencyHls | Protocol::Hls => "http://127.0.0.1:8080/live",
        };
        let name = format!("load.{}.{viewers}", protocol.name());
        let mut command = host.command(std::env::current_exe()?);
        command.args(["load", "--json", "--protocol", protocol.name(), "--viewers", &viewers.to_string()]);
        command.args([
            "--ramp",
            "3",
            "--duration",
            &seconds.as_secs().to_string(),
            "--pid",
            &server.pid().to_string(),
            url,
        ]);
        other_core.into_iter().for_each(|core| pin(&mut command, core));
        let mut load = testbed.start(&name, &mut command)?;
        load.exit(LOAD + seconds)?;
        found.push(sample(protocol, *viewers, empty, &load)?);
    }
    broadcaster.finish()?;
    let sent = broadcaster.rows()?;
    for sample in &mut found {
        sample.compare(&sent);
    }
    samples.append(&mut found);
    Ok(())
}

fn sample(protocol: Protocol, viewers: usize, empty: u64, load: &Process) -> Result<LoadSample> {
    let report: Value = serde_json::from_str(load.out().trim()).with_context(|| format!("it said {}", load.log()))?;
    let server = &report["server"];
    let (cpu_cores, memory_kib) =
        server["cpu_cores"].as_f64().zip(server["memory_kib"].as_i64()).context("no word of the server")?;
    let faults = report["faults"].as_array().context("no word of faults")?;
    let fault = |fault: &Value| format!("{viewers} by {}: {}", protocol.name(), fault.as_str().unwrap_or_default());
    Ok(LoadSample {
        protocol,
        viewers,
        cpu_cores,
        memory_kib: memory_kib - i64::try_from(empty).unwrap_or(i64::MAX),
        faults: faults.iter().map(fault).collect(),
        report,
    })
}

impl LoadSample {
    /// What the crowd got against what the broadcaster made: what nobody got, no viewer can miss by comparing itself with others.
    fn compare(&mut self, sent: &[TraceRow]) {
        if self.viewers == 0 {
            return;
        }
        let span = &self.report["span"];
        let read = |key: &str| span[key].as_i64();
        let Some(((after, to), got)) = read("after_dts").zip(read("to_dts")).zip(read("pictures")) else {
            self.faults.push(format!("{} by {}: no pictures", self.viewers, self.protocol.name()));
            return;
        };
        let within = |row: &&TraceRow| row.stage == "encoded" && row.track == "v0" && row.dts > after && row.dts <= to;
        let made = sent.iter().filter(within).count() as i64;
        if made != got {
            let (viewers, name) = (self.viewers, self.protocol.name());
            self.faults.push(format!("{viewers} by {name}: {made} pictures were made, and {got} came"));
        }
    }

    /// Milliseconds of the server's processor a viewer's second.
    pub(super) fn cpu_ms_per_viewer_second(&self) -> Option<f64> {
        (self.viewers > 0).then(|| self.cpu_cores * 1e3 / self.viewers as f64)
    }

    pub(super) fn latency_ms(&self, which: &str) -> Option<f64> {
        self.report["latency_ms"][which].as_f64()
    }

    pub(super) fn memory_kib_per_viewer(&self) -> Option<f64> {
        (self.viewers > 0).then(|| self.memory_kib as f64 / self.viewers as f64)
    }

    pub(super) fn findings(&self) -> Value {
        json!({
            "protocol": self.protocol.name(), "viewers": self.viewers, "server_cpu_cores": round(self.cpu_cores),
            "cpu_ms_per_viewer_second": self.cpu_ms_per_viewer_second().map(round), "memory_kib_per_viewer": self.memory_kib_per_viewer().map(round),
            "load": self.report,
        })
    }

    pub(super) fn line(&self) -> String {
        let number =
            |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
        format!(
            "{:<7} {:>3} viewers: {:>5.1}% of a core, {} ms a viewer's second; behind the lens {} ms median, {} p99; {} KiB a viewer; \
             the generator used {}% of its core",
            self.protocol.name(),
            self.viewers,
            self.cpu_cores * 100.0,
            number(self.cpu_ms_per_viewer_second(), 3),
            number(self.latency_ms("p50"), 0),
            number(self.latency_ms("p99"), 0),
            number(self.memory_kib_per_viewer(), 0),
            number(self.report["generator_cpu_cores"].as_f64().map(|cpu_cores| cpu_cores * 100.0), 0),
        )
    }

    /// As `periscope`'s table has it.
    pub(super) fn rows(&self) -> Vec<Vec<String>> {
        let values = [
            ("server_cpu_cores", Some(self.cpu_cores)),
            ("cpu_ms_per_viewer_second", self.cpu_ms_per_viewer_second()),
            ("latency_p50_ms", self.latency_ms("p50")),
            ("latency_p99_ms", self.latency_ms("p99")),
            ("memory_kib_per_viewer", self.memory_kib_per_viewer()),
            ("generator_cpu_cores", self.report["generator_cpu_cores"].as_f64()),
        ];
        let row = |(what, value): (&str, f64)| {
            vec![self.protocol.name().to_owned(), self.viewers.to_string(), what.to_owned(), round(value).to_string()]
        };
        values.into_iter().filter_map(|(what, value)| Some(row((what, value?)))).collect()
    }
}

/// Viewers at once: those of IMC 2016's figure.
const CROWDS: [usize; 5] = [100, 200, 300, 400, 500];
/// Until the server's windows are full, in seconds: they hold 30.
const FULL: u64 = 22;
/// On a busy machine.
const START: Duration = Duration::from_secs(20);
/// For a crowd to come and to go.
const LOAD: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn row(dts: i64) -> TraceRow {
        let (stage, track, path) = ("encoded".to_owned(), "v0".to_owned(), String::new());
        TraceRow { stage, track, dts, random_access: false, bytes: 1, path, at: 0 }
    }

    #[test]
    fn pictures_that_no_viewer_received_are_a_fault() {
        let sent: Vec<TraceRow> = (0..10).map(|n| row(n * 40)).collect();
        for (got, faults) in [(5, 0), (4, 1), (6, 1)] {
            let report = json!({ "span": { "after_dts": 40, "to_dts": 240, "pictures": got } });
            let (protocol, faults_before) = (Protocol::Hls, Vec::new());
            let mut sample =
                LoadSample { protocol, viewers: 100, cpu_cores: 0.5, memory_kib: 200, report, faults: faults_before };
            sample.compare(&sent);
            assert_eq!(sample.faults.len(), faults, "{:?}", sample.faults);
            assert_eq!((sample.cpu_ms_per_viewer_second(), sample.memory_kib_per_viewer()), (Some(5.0), Some(2.0)));
        }
    }
}
