//! The unit trace: a CSV file with one line for each access unit and stage that it passes, for latency analysis.
//!
//! Users see latency as a distribution in `media::latency` instead. Without a trace the cost is a check of an `Option`; with one, a write of
//! about 60 bytes a line. The columns:
//!
//! `stage,track,dts_ms,random_access,bytes,path,at_us`
//!
//! `at_us` is the host's wall clock in microseconds since the Unix epoch, UTC; `path` is the program's name for the path that the unit
//! took, if there are several.

use std::fs::File;
use std::io::{self, LineWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::clock;
use media::{AccessUnit, Timestamp, TrackId, WallClock};

/// An open trace file. Every line is in the file when [`Trace::note`] returns. Write errors are ignored: tracing must not break the stream.
#[derive(Debug)]
pub struct Trace(Mutex<LineWriter<File>>);

/// The fields of a unit that a line shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitRef {
    /// The track of the unit.
    pub track: TrackId,
    /// The DTS, which identifies the unit within its track and epoch.
    pub dts: Timestamp,
    /// Whether decoding can begin with it.
    pub random_access: bool,
    /// The size of the payload in bytes.
    pub bytes: usize,
}

impl From<&AccessUnit> for UnitRef {
    fn from(unit: &AccessUnit) -> Self {
        Self { track: unit.track, dts: unit.dts, random_access: unit.random_access, bytes: unit.payload.len() }
    }
}

impl Trace {
    /// Creates or empties the file, and writes the header.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut out = LineWriter::new(File::create(path)?);
        writeln!(out, "{HEADER}")?;
        Ok(Self(Mutex::new(out)))
    }

    /// Writes that a unit passes `stage` now.
    pub fn now(&self, stage: &str, unit: impl Into<UnitRef>, path: &str) {
        self.note(stage, unit, path, clock::system());
    }

    /// Writes that a unit passed `stage` at `at`.
    pub fn note(&self, stage: &str, unit: impl Into<UnitRef>, path: &str, at: WallClock) {
        let unit = unit.into();
        let line = line(stage, unit, path, at);
        // Lines are written whole, so a poisoned lock guards no partial line.
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
    }
}

fn line(stage: &str, unit: UnitRef, path: &str, at: WallClock) -> String {
    let UnitRef { track, dts, random_access, bytes } = unit;
    // The path must not add columns.
    let path = path.replace([',', '\n'], " ");
    format!("{stage},{track},{},{},{bytes},{path},{}\n", dts.as_millis(), u8::from(random_access), at.as_micros())
}

const HEADER: &str = "stage,track,dts_ms,random_access,bytes,path,at_us";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_a_field_for_each_column() {
        let dts = Timestamp::from_millis(-40);
        let unit = UnitRef { track: TrackId::VIDEO, dts, random_access: true, bytes: 30_000 };
        let line = line("received", unit, "LAN peer, again", WallClock::from_micros(17));
        assert_eq!(line, "received,v0,-40,1,30000,LAN peer  again,17\n");
        assert_eq!(line.split(',').count(), HEADER.split(',').count());
    }
}
