//! The process: its version, age and memory.

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
        let resident = resident_bytes().map(|bytes| (NONE, bytes as f64));
        write(&mut encoder, Kind::Gauge, "process_resident_memory_bytes", "Resident memory.", resident)
    }
}

/// Resident memory in bytes; Linux reports it in pages. `None` on other systems.
fn resident_bytes() -> Option<u64> {
    let pages: u64 = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

const NONE: [(&str, &str); 0] = [];
