//! Unit logs: one line per access unit, `v0 DTS PTS SHA256`. The broadcaster logs sent units, the viewer received ones.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// One access unit as logged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unit {
    /// The track: `v0`, `a0`.
    pub track: String,
    /// Decoding timestamp, milliseconds.
    pub dts: i64,
    /// Presentation timestamp, milliseconds.
    pub pts: i64,
    /// SHA-256 of the payload, in hexadecimal.
    pub sha256: String,
}

/// Reads a log. An incomplete last line is ignored. Fails on a malformed line.
pub fn read_units(path: &Path) -> Result<Vec<Unit>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let complete = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    complete
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| parse(line).with_context(|| line.to_owned()))
        .collect()
}

fn parse(line: &str) -> Result<Unit> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [track, dts, pts, sha256] = fields[..] else { bail!("not four fields") };
    ensure!(sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit()), "not a SHA-256");
    Ok(Unit { track: track.to_owned(), dts: dts.parse()?, pts: pts.parse()?, sha256: sha256.to_owned() })
}

/// Fails unless, on each track, `came` is a contiguous run of `left`: the same units with the same timestamps and bytes, in the same order, none missing
/// between the first and the last received. Returns the number of units compared, by track.
pub fn compare(left: &[Unit], came: &[Unit]) -> Result<BTreeMap<String, usize>> {
    let mut by_track: BTreeMap<&str, (Vec<&Unit>, Vec<&Unit>)> = BTreeMap::new();
    left.iter().for_each(|unit| by_track.entry(&unit.track).or_default().0.push(unit));
    came.iter().for_each(|unit| by_track.entry(&unit.track).or_default().1.push(unit));
    let mut counts = BTreeMap::new();
    for (track, (left, came)) in by_track {
        // A resent unit is logged twice and must be identical.
        let mut seen = HashMap::new();
        let mut once = Vec::new();
        for unit in left {
            match seen.insert(unit.dts, unit) {
                None => once.push(unit),
                Some(before) => {
                    ensure!(before == unit, "{track}: {unit:?} was resent as a different unit than {before:?}")
                }
            }
        }
        let first = came.first().with_context(|| format!("{track}: nothing was received"))?;
        let start = once
            .iter()
            .position(|unit| unit.dts == first.dts)
            .with_context(|| format!("{track}: {first:?} was never sent"))?;
        for (sent, got) in once[start..].iter().zip(&came) {
            ensure!(sent == got, "{track}: {sent:?} was sent, {got:?} received instead");
        }
        ensure!(once.len() - start >= came.len(), "{track}: more units received than sent");
        counts.insert(track.to_owned(), came.len());
    }
    Ok(counts)
}

/// Like [`compare`]; also fails unless the run ends with the last unit sent on each track, so that only units before the run are missing.
pub fn compare_to_the_end(left: &[Unit], came: &[Unit]) -> Result<BTreeMap<String, usize>> {
    let counts = compare(left, came)?;
    for track in counts.keys() {
        let last = |units: &[Unit]| units.iter().filter(|unit| unit.track == *track).map(|unit| unit.dts).max();
        let (left, came) = (last(left), last(came));
        ensure!(left == came, "{track}: the last unit sent is {left:?} ms, the last received {came:?} ms");
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(track: &str, dts: i64) -> Unit {
        Unit { track: track.into(), dts, pts: dts, sha256: format!("{dts:064x}") }
    }

    #[test]
    fn gaps_and_duplicates_are_detected() {
        let left: Vec<Unit> = (0..5).map(|dts| unit("v0", dts)).collect();
        assert_eq!(compare(&left, &left[1..4]).unwrap()["v0"], 3);
        assert!(compare(&left, &[left[1].clone(), left[3].clone()]).is_err());
        assert!(compare(&left, &[left[1].clone(), left[1].clone()]).is_err());
        assert!(compare(&left, &[unit("v0", 9)]).is_err());
        assert!(compare(&left, &[]).is_err());
        let mut resent = left.clone();
        resent.insert(3, left[2].clone());
        assert_eq!(compare(&resent, &left).unwrap()["v0"], 5);
    }

    #[test]
    fn a_truncated_run_is_detected() {
        let left: Vec<Unit> = (0..5).flat_map(|dts| [unit("v0", dts), unit("a0", dts)]).collect();
        assert_eq!(compare_to_the_end(&left, &left[4..]).unwrap()["a0"], 3);
        assert!(compare_to_the_end(&left, &left[..9]).is_err());
        assert!(compare_to_the_end(&left, &left[..8]).is_err());
    }

    #[test]
    fn a_log_line_is_parsed() {
        let line = format!("v0 -5 28 {:064x}", 7);
        assert_eq!(parse(&line).unwrap(), Unit { track: "v0".into(), dts: -5, pts: 28, sha256: format!("{:064x}", 7) });
        for bad in ["", "v0 1 2", "v0 1 2 xyz", "v0 1 x 3"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
