//! The process: its version, age, and the standard process metrics of Prometheus' client libraries.
//!
//! prometheus-client has no process collector, and the crates that have one build another registry. Linux reports all of it in `/proc/self`
//! (proc(5)); elsewhere only version and age are known.

use std::fmt::Error;
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::samples::{Kind, write};

/// Collects metrics of the whole process.
#[derive(Debug)]
pub struct Process {
    started: Instant,
}

impl Process {
    /// A process that started at `started`.
    pub fn new(started: Instant) -> Self {
        Self { started }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        write(&mut encoder, Kind::Gauge, "nearcast_build_info", "1, with the version as a label.", [(version, 1.0)])?;
        let uptime = self.started.elapsed().as_secs_f64();
        write(&mut encoder, Kind::Gauge, "nearcast_uptime_seconds", "Time since the start.", [(NONE, uptime)])?;
        let stat = std::fs::read_to_string("/proc/self/stat").ok().and_then(|text| Stat::parse(&text));
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        for (kind, name, help, value) in [
            (Kind::Counter, "process_cpu_seconds", "CPU time in user and system mode.", stat.as_ref().map(|s| s.cpu)),
            (Kind::Gauge, "process_resident_memory_bytes", "Resident memory.", stat.as_ref().map(|s| s.resident)),
            (Kind::Gauge, "process_virtual_memory_bytes", "Virtual memory.", stat.as_ref().map(|s| s.virtual_memory)),
            (Kind::Gauge, "process_threads", "Threads.", stat.as_ref().map(|s| s.threads)),
            (
                Kind::Gauge,
                "process_start_time_seconds",
                "Start, in Unix time.",
                stat.as_ref().and_then(Stat::start_time),
            ),
            (Kind::Gauge, "process_open_fds", "Open file descriptors.", open_files()),
            (Kind::Gauge, "process_max_fds", "Limit of open file descriptors.", limit.map(|limit| limit as f64)),
        ] {
            write(&mut encoder, kind, name, help, value.map(|value| (NONE, value)))?;
        }
        Ok(())
    }
}

/// `/proc/self/stat`, in seconds and bytes.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu: f64,
    threads: f64,
    /// Seconds from the machine's start to the process's.
    started: f64,
    virtual_memory: f64,
    resident: f64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name of the program, in parentheses, may itself contain any character.
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        // proc(5) counts from 1, and these fields begin with the third.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        Some(Self {
            cpu: (field(14)? + field(15)?) / ticks,
            threads: field(20)?,
            started: field(22)? / ticks,
            virtual_memory: field(23)?,
            resident: field(24)? * rustix::param::page_size() as f64,
        })
    }

    /// In Unix time.
    fn start_time(&self) -> Option<f64> {
        let text = std::fs::read_to_string("/proc/stat").ok()?;
        let boot: f64 = text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        Some(boot + self.started)
    }
}

fn open_files() -> Option<f64> {
    let files = std::fs::read_dir("/proc/self/fd").ok()?.count();
    // One of them is the directory that was just read.
    Some(files.saturating_sub(1) as f64)
}

const NONE: [(&str, &str); 0] = [];

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn a_name_with_parentheses_and_spaces_is_skipped() {
        let text = "7 (a) b (c) S 1 7 7 0 -1 4 9 0 0 0 250 50 0 0 20 0 12 0 6000 4096000 25 18446744073709551615 1";
        let stat = Stat::parse(text).unwrap();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!((stat.cpu, stat.threads, stat.started), (300.0 / ticks, 12.0, 6000.0 / ticks));
        assert_eq!((stat.virtual_memory, stat.resident), (4_096_000.0, 25.0 * rustix::param::page_size() as f64));
        assert_eq!(Stat::parse("7 (a"), None);
        assert_eq!(Stat::parse("7 (a) S 1"), None);
    }

    #[test]
    fn the_process_reports_itself() {
        let mut metrics = Metrics::default();
        metrics.register(Process::new(Instant::now()));
        let text = metrics.render();
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("no {name}: {text}")).parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 1e6 && value("process_threads") >= 1.0);
        assert!(value("process_open_fds") >= 3.0 && value("process_open_fds") <= value("process_max_fds"));
        assert!(value("process_cpu_seconds_total") >= 0.0);
        let now = net::clock::now().as_micros() as f64 / 1e6;
        assert!((now - value("process_start_time_seconds")).abs() < 86_400.0, "{text}");
    }
}
