//! Reads `--trace` files of the programs: CSV with one row per access unit and stage.

use std::path::Path;

use anyhow::{Context, Result, ensure};

/// One row of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TraceRow {
    /// The stage: `encoded`, `received` …
    pub(super) stage: String,
    /// The track: `v0`, `a0`.
    pub(super) track: String,
    /// Decoding timestamp, milliseconds.
    pub(super) dts: i64,
    pub(super) random_access: bool,
    pub(super) bytes: usize,
    /// The program's name for the path; empty if there is only one.
    pub(super) path: String,
    /// When the unit passed the stage, microseconds since the Unix epoch.
    pub(super) at: i64,
}

/// All complete lines of a trace, which may still be growing. Fails on an unknown header or a malformed line.
pub(super) fn read(path: &Path) -> Result<Vec<TraceRow>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read the trace {}", path.display()))?;
    parse(&text).with_context(|| format!("trace {}", path.display()))
}

fn parse(text: &str) -> Result<Vec<TraceRow>> {
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    let mut lines = whole.lines();
    let header = lines.next().unwrap_or_default();
    ensure!(
        header == HEADER,
        "the columns are {header:?}, expected {HEADER:?}; the programs may be of another version"
    );
    lines.map(|line| row(line).with_context(|| format!("line {line:?}"))).collect()
}

fn row(line: &str) -> Result<TraceRow> {
    let fields: Vec<&str> = line.split(',').collect();
    let [stage, track, dts, random_access, bytes, path, at] = fields[..] else {
        anyhow::bail!("{} fields", fields.len())
    };
    Ok(TraceRow {
        stage: stage.to_owned(),
        track: track.to_owned(),
        dts: dts.parse()?,
        random_access: random_access == "1",
        bytes: bytes.parse()?,
        path: path.to_owned(),
        at: at.parse()?,
    })
}

const HEADER: &str = "stage,track,dts_ms,random_access,bytes,path,at_us";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_lines_are_parsed_and_malformed_ones_rejected() {
        let text = format!("{HEADER}\nreceived,v0,-40,1,30000,LAN peer,17\nreceived,v0,0");
        let rows = parse(&text).unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(
            (rows[0].dts, rows[0].random_access, rows[0].path.as_str(), rows[0].at),
            (-40, true, "LAN peer", 17)
        );
        assert!(parse("a,b\n").is_err());
        assert!(parse(&format!("{HEADER}\nreceived,v0\n")).is_err());
        assert!(parse("").is_err());
    }
}
