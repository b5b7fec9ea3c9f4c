//! The latency of each video frame: the broadcaster's and a viewer's traces joined by DTS, with the frame's lower bound.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::outcome::round;
use super::trace_reader::TraceRow;
use crate::latency_bound::LatencyBounds;

/// One frame that a viewer received.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Picture {
    /// Decoding timestamp, milliseconds.
    pub(super) dts: i64,
    pub(super) bytes: usize,
    pub(super) random_access: bool,
    /// The path of the first copy.
    pub(super) path: String,
    /// When it left the encoder, microseconds since the Unix epoch.
    pub(super) encoded: i64,
    /// When the first copy was completely received, microseconds since the Unix epoch.
    pub(super) received: i64,
    /// The lower bound for its path, queued behind earlier frames, milliseconds.
    pub(super) bound_ms: f64,
    /// Whether no path switch is near.
    pub(super) settled: bool,
}

impl Picture {
    pub(super) fn delay_ms(&self) -> f64 {
        (self.received - self.encoded) as f64 / 1e3
    }

    /// The row for [`COLUMNS`], with the time since `begun`.
    pub(super) fn row(&self, begun: i64) -> Vec<String> {
        let seconds = (self.encoded - begun) as f64 / 1e6;
        vec![
            format!("{seconds:.3}"),
            self.dts.to_string(),
            self.bytes.to_string(),
            u8::from(self.random_access).to_string(),
            self.path.clone(),
            round(self.delay_ms()).to_string(),
            round(self.bound_ms).to_string(),
            u8::from(self.settled).to_string(),
        ]
    }
}

/// The columns of [`Picture::row`].
pub(super) const COLUMNS: &[&str] = &["seconds", "dts_ms", "bytes", "idr", "path", "delay_ms", "bound_ms", "settled"];

/// Every frame received live, in the order of encoding. Frames encoded before the first arrival belong to joining and are left out.
pub(super) fn join(sent: &[TraceRow], came: &[TraceRow], bounds: &LatencyBounds) -> Vec<Picture> {
    let video = |row: &&TraceRow, stage: &str| row.stage == stage && row.track.starts_with('v');
    let mut first: BTreeMap<i64, &TraceRow> = BTreeMap::new();
    for row in came.iter().filter(|row| video(row, "received")) {
        let earliest = first.entry(row.dts).or_insert(row);
        if row.at < earliest.at {
            *earliest = row;
        }
    }
    let Some(begun) = first.values().map(|row| row.at).min() else { return Vec::new() };
    let mut bounds = bounds.clone();
    let mut pictures = Vec::new();
    let start = sent.first().map_or(0, |row| row.at);
    for row in sent.iter().filter(|row| video(row, "encoded")) {
        // Every frame occupies every path, by whichever it was received.
        let at = Duration::from_micros(u64::try_from(row.at - start).unwrap_or(0));
        let (cdn, peer) = (bounds.cdn_units.send(at, row.bytes), bounds.peer.send(at, row.bytes));
        let Some(arrived) = first.get(&row.dts).filter(|_| row.at >= begun) else { continue };
        let bound = if arrived.path.contains("peer") { peer } else { cdn };
        pictures.push(Picture {
            dts: row.dts,
            bytes: row.bytes,
            random_access: row.random_access,
            path: arrived.path.clone(),
            encoded: row.at,
            received: arrived.at,
            bound_ms: bound.as_secs_f64() * 1e3,
            settled: true,
        });
    }
    let changes: Vec<i64> =
        pictures.windows(2).filter(|two| two[0].path != two[1].path).map(|two| two[1].encoded).collect();
    for picture in &mut pictures {
        picture.settled = !changes.iter().any(|change| (change - BEFORE..change + AFTER).contains(&picture.encoded));
    }
    pictures
}

/// Faults in a viewer's summary: units lost or presented twice, whatever the paths did.
pub(super) fn faults(summary: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let mut demand = |what: &str, value: &Value| {
        if value.as_u64() != Some(0) {
            faults.push(format!("{what}: {value}"));
        }
    };
    demand("units lost", &summary["lost"]);
    demand("units lost at path switches", &summary["switches"]["lost"]);
    // Frames that playback skips to catch up with the live edge were not lost.
    let left_out = summary["frames_skipped"].as_u64().unwrap_or(0) + summary["frames_late"].as_u64().unwrap_or(0);
    let gaps = summary["marker"]["gaps"].as_u64();
    demand(
        "frames missing by the burnt-in counter",
        &gaps.map_or(Value::Null, |gaps| gaps.saturating_sub(left_out).into()),
    );
    demand("frames repeated or out of order by the burnt-in counter", &summary["marker"]["repeats"]);
    faults
}

/// Frames this long before a path switch are not settled, microseconds: a failing path delivers late.
const BEFORE: i64 = 500_000;
/// Frames this long after a path switch are not settled, microseconds: a new path first catches up.
const AFTER: i64 = 2_000_000;

/// Options of `broadcaster` for the stream of the analysis: 1 Mbit/s at 30 fps, an IDR every two seconds, no audio.
pub(super) const STREAM: [&str; 12] =
    ["--source", "test", "--audio", "none", "--size", "640x360", "--fps", "30", "--bitrate", "1M", "--gop", "2s"];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::latency_bound::{FRAMING, Hop};

    fn row(stage: &str, dts: i64, path: &str, at: i64) -> TraceRow {
        TraceRow {
            stage: stage.into(),
            track: "v0".into(),
            dts,
            random_access: dts == 0,
            bytes: 1000,
            path: path.into(),
            at,
        }
    }

    #[test]
    fn the_first_copy_counts_and_pictures_before_joining_do_not() {
        let hop = Hop { rate: None, delay: Duration::from_millis(5) };
        let bounds = LatencyBounds::new(FRAMING, &[hop], &[hop], &[hop]);
        let sent = [row("encoded", 0, "", 0), row("encoded", 33, "", 33_000), row("encoded", 66, "", 66_000)];
        let came = [
            row("received", 0, "relay", 20_000),
            row("received", 33, "relay", 60_000),
            row("received", 33, "LAN peer", 40_000),
            row("presented", 33, "", 90_000),
            row("received", 66, "relay", 80_000),
        ];
        let pictures = join(&sent, &came, &bounds);
        let told: Vec<_> = pictures.iter().map(|p| (p.dts, p.path.as_str(), p.delay_ms(), p.bound_ms)).collect();
        assert_eq!(told, [(33, "LAN peer", 7.0, 5.0), (66, "relay", 14.0, 10.0)]);
        assert!(pictures.iter().all(|p| !p.settled), "the path changes");
        assert!(join(&sent, &[], &bounds).is_empty());
        let relayed: Vec<TraceRow> = came.iter().filter(|row| row.path != "LAN peer").cloned().collect();
        assert!(join(&sent, &relayed, &bounds).iter().all(|p| p.settled));
    }

    #[test]
    fn losses_gaps_and_missing_counters_are_faults() {
        let good = json!({ "lost": 0, "switches": { "lost": 0 }, "marker": { "gaps": 0, "repeats": 0 } });
        assert_eq!(faults(&good), Vec::<String>::new());
        let bad = json!({ "lost": 2, "switches": { "lost": 0 }, "marker": { "gaps": 1, "repeats": 0 } });
        assert_eq!(faults(&bad).len(), 2);
        assert_eq!(faults(&json!({ "marker": null })).len(), 4);
        let hurried =
            json!({ "lost": 0, "frames_skipped": 3, "switches": { "lost": 0 }, "marker": { "gaps": 3, "repeats": 0 } });
        assert_eq!(faults(&hurried), Vec::<String>::new());
    }
}
