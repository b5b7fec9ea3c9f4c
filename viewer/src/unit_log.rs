//! `--unit-log`: one line for each access unit after the merge, which tests compare with what the broadcaster sent.
//!
//! `v0 <dts> <pts> <sha256 of the payload>`, times in milliseconds.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use data_encoding::HEXLOWER;
use media::AccessUnit;
use sha2::{Digest, Sha256};

/// An open unit log.
#[derive(Debug)]
pub struct UnitLog(BufWriter<File>);

impl UnitLog {
    /// Creates or empties the file.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn create(path: &Path) -> io::Result<Self> {
        File::create(path).map(|file| Self(BufWriter::new(file)))
    }

    /// Appends a unit's line.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&mut self, unit: &AccessUnit) -> io::Result<()> {
        writeln!(self.0, "{}", line(unit))
    }

    /// Writes what is buffered to the file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn line(unit: &AccessUnit) -> String {
    let hash = HEXLOWER.encode(&Sha256::digest(&unit.payload));
    format!("{} {} {} {hash}", unit.track, unit.dts.as_millis(), unit.pts.as_millis())
}

#[cfg(test)]
mod tests {
    use media::{Epoch, Timestamp, TrackId};

    use super::*;

    #[test]
    fn a_line_has_track_times_and_hash() {
        let (dts, pts) = (Timestamp::from_millis(40), Timestamp::from_millis(120));
        let payload = bytes::Bytes::from_static(b"abc");
        let unit = AccessUnit { epoch: Epoch(1), track: TrackId::VIDEO, dts, pts, random_access: true, payload };
        assert_eq!(line(&unit), "v0 40 120 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
