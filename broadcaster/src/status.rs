//! Reports while a broadcast runs: a status line on a terminal or else log events, and statistics as JSON lines on request.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use media::catalog::Value;
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use serde::Serialize;

use crate::broadcast::Broadcast;
use crate::log::LogFormat;
use crate::peer::PeerServer;
use crate::stats::{State, Stats};
use crate::terminal::{self, StatusLineWriter};

/// The format of statistics on standard output, as `--stats` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StatsFormat {
    /// One JSON object per line.
    Json,
}

/// A snapshot of the counters; serialised, it is one line of `--stats json`.
#[derive(Clone, Debug, Serialize)]
pub struct StatsReport {
    /// `stats` once a second, `end` for the summary.
    pub event: &'static str,
    /// The state of publishing.
    pub state: State,
    /// Seconds since the start.
    pub seconds: f64,
    /// The broadcast's epoch: 16 hexadecimal digits.
    pub epoch: String,
    /// The encoder, or the one that the file's metadata names.
    pub encoder: Option<String>,
    /// Frames per second since the last sample; in the summary, over the whole run.
    pub fps: f64,
    /// Payload bits per second since the last sample; in the summary, over the whole run.
    pub bitrate: u64,
    /// Bits per second that rate control limits the encoder to; absent while it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bitrate_target: Option<u64>,
    /// Frames delivered by the source.
    pub captured: u64,
    /// Frames taken by the encoder.
    pub encoded: u64,
    /// Frames dropped before encoding because the encoder was late.
    pub frames_dropped: u64,
    /// Video access units.
    pub pictures: u64,
    /// Access units produced.
    pub units: u64,
    /// Access units sent, retransmissions included.
    pub sent: u64,
    /// Access units sent again after an outage.
    pub units_retransmitted: u64,
    /// Access units evicted from the window before they were sent.
    pub units_dropped: u64,
    /// Access units whose DTS was changed so that it rises strictly.
    pub timestamps_adjusted: u64,
    /// Access units waiting to be sent.
    pub queued: u64,
    /// Bytes sent but not acknowledged by the server's TCP.
    pub unacknowledged_bytes: u64,
    /// Round-trip time to the server in milliseconds, if known.
    pub round_trip_ms: Option<f64>,
    /// Connections that failed or could not be made.
    pub reconnects: u64,
    /// Failures of capture devices.
    pub device_errors: u64,
    /// LAN viewers connected now.
    pub lan_viewers: u64,
    /// Bytes sent to LAN viewers.
    pub lan_bytes: u64,
    /// LAN viewers rejected: not authorised, or over a limit.
    pub lan_viewers_rejected: u64,
}

/// Samples the counters and computes rates between samples.
#[derive(Debug)]
pub struct StatsSampler {
    stats: Arc<Stats>,
    broadcast: Arc<Broadcast>,
    start: Instant,
    last: (Instant, u64, u64),
}

impl StatsSampler {
    /// A sampler whose first interval starts now.
    pub fn new(stats: Arc<Stats>, broadcast: Arc<Broadcast>) -> Self {
        let start = Instant::now();
        Self { stats, broadcast, start, last: (start, 0, 0) }
    }

    /// A report whose rates cover the time since the last sample.
    pub fn sample(&mut self) -> StatsReport {
        let since = self.last;
        self.last = (Instant::now(), self.stats.pictures.value(), self.stats.bytes.value());
        self.report("stats", since)
    }

    /// A report whose rates cover the whole run.
    pub fn summary(&self) -> StatsReport {
        self.report("end", (self.start, 0, 0))
    }

    fn report(&self, event: &'static str, (since, pictures, bytes): (Instant, u64, u64)) -> StatsReport {
        let s = &self.stats;
        let seconds = since.elapsed().as_secs_f64().max(1e-3);
        let catalog = self.broadcast.catalog();
        let encoder = match catalog.metadata.get("encoder") {
            Some(Value::String(name)) => Some(name.clone()),
            _ => None,
        };
        StatsReport {
            event,
            state: s.state(),
            seconds: tenths(self.start.elapsed().as_secs_f64()),
            epoch: catalog.epoch.to_string(),
            encoder,
            fps: tenths((s.pictures.value() - pictures) as f64 / seconds),
            bitrate: ((s.bytes.value() - bytes) as f64 * 8.0 / seconds) as u64,
            bitrate_target: Some(s.bitrate_target.value()).filter(|target| *target > 0),
            captured: s.captured.value(),
            encoded: s.encoded.value(),
            frames_dropped: s.frames_dropped.value(),
            pictures: s.pictures.value(),
            units: s.units.value(),
            sent: s.sent.value(),
            units_retransmitted: s.units_retransmitted.value(),
            units_dropped: s.units_dropped.value(),
            timestamps_adjusted: s.timestamps_adjusted.value(),
            queued: s.queued.value(),
            unacknowledged_bytes: s.unacknowledged.value(),
            round_trip_ms: Some(s.round_trip.value()).filter(|rtt| *rtt > 0).map(|rtt| tenths(rtt as f64 / 1000.0)),
            reconnects: s.reconnects.value(),
            device_errors: s.device_errors.value(),
            lan_viewers: s.lan_viewers.value(),
            lan_bytes: s.lan_bytes.value(),
            lan_viewers_rejected: s.lan_viewers_rejected.value(),
        }
    }
}

impl StatsReport {
    /// The status line: as many figures as fit `width` characters, the most important first.
    pub fn line(&self, width: usize) -> String {
        let seconds = self.seconds as u64;
        let (minutes, seconds) = (seconds / 60, seconds % 60);
        let target = self.bitrate_target.map(|target| format!("limited to {}", rate(target)));
        let viewers = if self.lan_viewers == 1 { "viewer" } else { "viewers" };
        let dropped = match (self.frames_dropped, self.units_dropped) {
            (0, 0) => "dropped 0".to_owned(),
            (frames, units) => format!("dropped {frames} frames, {units} units"),
        };
        let figures = [
            Some(format!("{minutes:02}:{seconds:02}")),
            Some(format!("{:.1} fps", self.fps)),
            Some(rate(self.bitrate)),
            Some(format!("{} LAN {viewers}", self.lan_viewers)),
            target,
            self.round_trip_ms.map(|rtt| format!("rtt {rtt:.0} ms")),
            Some(dropped),
            Some(format!("queue {}", self.queued)),
        ];
        let mut line: String = self.state.word().chars().take(width).collect();
        for figure in figures.into_iter().flatten() {
            if line.chars().count() + GAP.len() + figure.chars().count() > width {
                break;
            }
            line = line + GAP + &figure;
        }
        line
    }

    fn print(&self) {
        let Ok(text) = serde_json::to_string(self) else { return };
        let mut out = io::stdout().lock();
        // A reader that closed the pipe does not end the broadcast.
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }
}

/// Reports once a second until the future is dropped.
pub async fn run(mut sampler: StatsSampler, log: LogFormat, stats: Option<StatsFormat>) -> StatsSampler {
    let has_line = log == LogFormat::Text && io::stderr().is_terminal();
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.tick().await;
    for tick in 1u64.. {
        ticks.tick().await;
        let report = sampler.sample();
        if has_line {
            terminal::show_status(&report.line(terminal::width()));
        } else if tick.is_multiple_of(LOG_INTERVAL) {
            tracing::info!(
                state = report.state.word(),
                fps = report.fps,
                bitrate = report.bitrate,
                bitrate_target = report.bitrate_target,
                queued = report.queued,
                frames_dropped = report.frames_dropped,
                units_dropped = report.units_dropped,
                round_trip_ms = report.round_trip_ms,
                lan_viewers = report.lan_viewers,
                "status"
            );
        }
        if stats.is_some() {
            report.print();
        }
    }
    sampler
}

/// Prints the summary: as text or a log event, and as JSON if statistics are on.
pub fn finish(sampler: &StatsSampler, log: LogFormat, stats: Option<StatsFormat>) {
    terminal::clear_status();
    let report = sampler.summary();
    if stats.is_some() {
        report.print();
    }
    match log {
        LogFormat::Text => {
            let _ = writeln!(
                io::stderr(),
                "{} pictures in {:.1} s, {} access units sent, {} frames and {} units dropped, {} reconnects",
                report.pictures,
                report.seconds,
                report.sent,
                report.frames_dropped,
                report.units_dropped,
                report.reconnects
            );
        }
        LogFormat::Json => tracing::info!(
            pictures = report.pictures,
            seconds = report.seconds,
            sent = report.sent,
            frames_dropped = report.frames_dropped,
            units_dropped = report.units_dropped,
            reconnects = report.reconnects,
            "ended"
        ),
    }
}

/// Shows how to watch on this LAN without a server: address, pairing code and QR code on a terminal; a line of the log elsewhere, as of a
/// service. A code that the user chose (`is_chosen`) is known already, and is not logged.
pub fn show_code(peer: &PeerServer, log: LogFormat, is_chosen: bool) {
    let Some(address) = peer.advertisement().addresses.first() else { return };
    let code = peer.code();
    if log != LogFormat::Text || !io::stderr().is_terminal() {
        let pairing_code = if is_chosen { "the one of --pairing-code".to_owned() } else { code.to_string() };
        tracing::info!(%address, pairing_code, "LAN viewers can pair without a server");
        return;
    }
    let mut text = format!("Watch on this LAN without a server:  viewer nearcast://{address} --pairing-code {code}\n");
    if let Ok(picture) = QrCode::new(format!("nearcast://{address}#{code}")) {
        text += &picture.render::<Dense1x2>().quiet_zone(true).build();
        text.push('\n');
    }
    let _ = StatusLineWriter.write_all(text.as_bytes());
}

/// A bitrate as on the player page (cdn/web/format.js): `640 kbit/s`, `2.3 Mbit/s`.
fn rate(bits: u64) -> String {
    let kilobits = (bits + 500) / 1000;
    if kilobits < 1000 { format!("{kilobits} kbit/s") } else { format!("{:.1} Mbit/s", bits as f64 / 1e6) }
}

fn tenths(n: f64) -> f64 {
    (n * 10.0).round() / 10.0
}

/// Between two figures of the status line.
const GAP: &str = "  ";

/// Seconds between status events in a log: often enough to show a trend, too rare to fill a disk.
const LOG_INTERVAL: u64 = 10;

#[cfg(test)]
mod tests {
    use media::live_window::Bounds;
    use media::{Epoch, WallClock};

    use super::*;

    #[test]
    fn bitrates_are_written_as_on_the_player_page() {
        // An end-to-end test compares the page's with the same file.
        let cases: serde_json::Value =
            serde_json::from_str(include_str!("../../deploy/e2e/tests/figures.json")).unwrap();
        for case in cases["bitrate"].as_array().unwrap() {
            assert_eq!(rate(case[0].as_u64().unwrap()), case[1].as_str().unwrap(), "{}", case[0]);
        }
    }

    #[test]
    fn a_report_renders_as_a_line_and_as_json() {
        let stats = Arc::new(Stats::default());
        stats.pictures.add(30);
        stats.round_trip.set(12_340);
        stats.set_state(State::Live);
        let bounds = Bounds { duration: Duration::from_secs(1), bytes: 1 };
        let broadcast = Arc::new(Broadcast::new(Epoch(1), WallClock::from_micros(0), &[], bounds, stats.clone()));
        let mut report = StatsSampler::new(stats, broadcast).summary();
        (report.seconds, report.fps, report.bitrate) = (61.0, 29.97, 2_345_678);
        assert_eq!(report.line(79), "live  01:01  30.0 fps  2.3 Mbit/s  0 LAN viewers  rtt 12 ms  dropped 0  queue 0");
        report.bitrate_target = Some(640_000);
        assert_eq!(report.line(79), "live  01:01  30.0 fps  2.3 Mbit/s  0 LAN viewers  limited to 640 kbit/s");
        report.lan_viewers = 1;
        report.frames_dropped = 2;
        assert!(
            report
                .line(200)
                .ends_with("  1 LAN viewer  limited to 640 kbit/s  rtt 12 ms  dropped 2 frames, 0 units  queue 0")
        );
        // The longest figures: the viewers still fit a terminal of 80 columns.
        (report.seconds, report.fps, report.bitrate, report.lan_viewers) = (599_940.0, 240.0, 1_000_000_000, 1000);
        report.state = State::Connecting;
        assert_eq!(report.line(79), "connecting  9999:00  240.0 fps  1000.0 Mbit/s  1000 LAN viewers");
        for width in 0..200 {
            assert!(report.line(width).chars().count() <= width);
        }
        assert_eq!(serde_json::to_value(&report).unwrap()["bitrate_target"], 640_000);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(
            (&json["state"], &json["pictures"], &json["epoch"]),
            (&"connecting".into(), &30.into(), &"0000000000000001".into())
        );
    }
}
