//! The results of an experiment: findings (JSON), rows (CSV), lines of text, and a figure.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::options::Options;
use crate::figure::{self, Figure};
use crate::lateness::Lateness;

/// The results of one run.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The findings, for the JSON file.
    pub(super) findings: Value,
    /// The findings as lines of text.
    pub(super) lines: Vec<String>,
    /// Column names of `rows`.
    pub(super) columns: &'static [&'static str],
    /// Rows of the CSV file, one per measurement.
    pub(super) rows: Vec<Vec<String>>,
    pub(super) figure: Figure,
    /// Violated invariants, such as lost or duplicated units; they fail the run.
    pub(super) faults: Vec<String>,
    /// The emulator's timing error.
    pub(super) lateness: Lateness,
    /// Why the run is invalid, if it is.
    pub(super) invalid: Option<String>,
}

impl Outcome {
    /// The results as text.
    pub(super) fn to_text(&self) -> String {
        let mut text: String = self.lines.iter().map(|line| format!("  {line}\n")).collect();
        if self.lateness.count() > 0 {
            text += &format!("  emulator: {}\n", self.lateness);
        }
        if let Some(why) = &self.invalid {
            text += &format!("  INVALID: {why}\n");
        }
        text
    }

    /// Writes JSON, CSV, PNG and SVG, and returns their paths.
    pub(super) fn write(&self, name: &str, options: &Options) -> Result<Vec<PathBuf>> {
        let millis = |d: std::time::Duration| (d.as_secs_f64() * 1e6).round() / 1e3;
        let emulator = json!({
            "frames": self.lateness.count(),
            "late_p50_ms": millis(self.lateness.p50()),
            "late_p99_ms": millis(self.lateness.p99()),
            "late_max_ms": millis(self.lateness.max()),
        });
        let record = json!({
            "experiment": name,
            "command": options.command(name),
            "version": env!("CARGO_PKG_VERSION"),
            "seed": options.seed,
            "links": format!("{:?}", options.links).to_lowercase(),
            "quick": options.quick,
            "invalid": self.invalid,
            "machine": machine(),
            "emulator": emulator,
            "faults": self.faults,
            "findings": self.findings,
        });
        let mut figure = self.figure.clone();
        let timeliness =
            if self.lateness.count() > 0 { caption(&self.lateness) } else { "no link emulated".to_owned() };
        figure.caption = format!("{}   ·   {}", options.command(name), timeliness);
        figure.invalid = self.invalid.clone();
        let svg = figure::svg(&figure)?;
        let mut written = Vec::new();
        for (extension, bytes) in [
            ("json", format!("{record:#}\n").into_bytes()),
            ("csv", self.csv().into_bytes()),
            ("png", figure::png(&svg)?),
            ("svg", svg.into_bytes()),
        ] {
            let path = options.result_file(name, extension);
            std::fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
            written.push(path);
        }
        Ok(written)
    }

    fn csv(&self) -> String {
        let mut text = self.columns.join(",") + "\n";
        for row in &self.rows {
            let fields: Vec<String> = row.iter().map(|field| quoted(field)).collect();
            text += &(fields.join(",") + "\n");
        }
        text
    }
}

/// Quotes a CSV field if needed (RFC 4180 §2).
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field.to_owned() }
}

fn caption(lateness: &Lateness) -> String {
    let millis = |d: std::time::Duration| d.as_secs_f64() * 1e3;
    format!("emulator late by {:.2} ms at p99, {} frames", millis(lateness.p99()), lateness.count())
}

/// Properties of the machine that affect the results.
fn machine() -> Value {
    let first = |path: &str| {
        std::fs::read_to_string(path).ok().and_then(|text| text.lines().next().map(|line| line.trim().to_owned()))
    };
    let processor = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    json!({
        "kernel": first("/proc/sys/kernel/osrelease"),
        "processor": processor,
        "cores": std::thread::available_parallelism().map(usize::from).ok(),
        "load": first("/proc/loadavg"),
    })
}

/// The quantile `q` (0 to 1) of sorted `values`, by the nearest rank; `None` if there are none.
pub(super) fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let rank = ((values.len() as f64 * q).ceil() as usize).clamp(1, values.len().max(1));
    values.get(rank - 1).copied()
}

/// `values` in ascending order, without NaN.
pub(super) fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().filter(|value| !value.is_nan()).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Rounds to three decimals.
pub(super) fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_use_the_nearest_rank() {
        let values = sorted((1..=100).rev().map(f64::from));
        assert_eq!(
            (quantile(&values, 0.5), quantile(&values, 0.99), quantile(&values, 0.0)),
            (Some(50.0), Some(99.0), Some(1.0))
        );
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn fields_with_commas_are_quoted() {
        for (field, text) in [("a", "a"), ("a,b", "\"a,b\""), ("a \"b\"", "\"a \"\"b\"\"\"")] {
            assert_eq!(quoted(field), text);
        }
    }
}
