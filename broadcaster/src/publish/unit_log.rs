//! `--unit-log`: one line per access unit sent (`TRACK DTS PTS SHA-256`), once, however often it is retransmitted.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use data_encoding::HEXLOWER;
use media::live_window::Entry;
use sha2::{Digest, Sha256};

/// An open unit log.
#[derive(Debug)]
pub struct UnitLog {
    out: BufWriter<File>,
    next: u64,
}

impl UnitLog {
    /// Creates or truncates the file.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        Ok(Self { out: BufWriter::new(File::create(path)?), next: 0 })
    }

    /// Logs a unit, unless it was logged before. Positions rise.
    pub fn add(&mut self, entry: &Entry) -> std::io::Result<()> {
        if entry.position < self.next {
            return Ok(());
        }
        self.next = entry.position + 1;
        let unit = &entry.unit;
        let hash = HEXLOWER.encode(&Sha256::digest(&unit.payload));
        writeln!(self.out, "{} {} {} {hash}", unit.track, unit.dts.as_millis(), unit.pts.as_millis())
    }

    /// Writes buffered lines to the file.
    pub fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}
