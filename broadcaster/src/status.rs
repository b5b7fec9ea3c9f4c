//! What the user sees while it runs: a status line on a terminal, log events elsewhere, statistics as JSON lines when asked.

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

/// `--stats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StatsFormat {
    /// One object a line.
    Json,
}

/// One look at the counters.
#[derive(Clone, Debug, Serialize)]
pub struct StatsReport {
    /// `stats` while it runs, `end` at the end.
    pub event: &'static str,
    /// Where publishing stands.
    pub state: State,
    /// Since the start.
    pub seconds: f64,
    /// Which broadcast.
    pub epoch: String,
    /// The encoder, or what the file's metadata says.
    pub encoder: Option<String>,
    /// Pictures per second since the last look; over all at the end.
    pub fps: f64,
    /// Payload bits per second, likewise.
    pub bitrate: u64,
    /// Bits per second that the encoder is held to, because the uplink takes no more; absent while it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bitrate_target: Option<u64>,
    /// Pictures that the source delivered.
    pub captured: u64,
    /// Pictures that were encoded.
    pub encoded: u64,
    /// Pictures that a newer one replaced because encoding was late.
    pub frames_dropped: u64,
    /// Video access units.
    pub pictures: u64,
    /// Access units made.
    pub units: u64,
    /// Access units sent, repeats included.
    pub sent: u64,
    /// Access units sent again after an outage.
    pub units_retransmitted: u64,
    /// Access units that never reached a server.
    pub units_dropped: u64,
    /// Access units whose DTS had to be moved.
    pub timestamps_adjusted: u64,
    /// Access units that wait to be sent.
    pub queued: u64,
    /// Bytes that the server has not acknowledged.
    pub unacknowledged_bytes: u64,
    /// Round trip to the server, if known.
    pub round_trip_ms: Option<f64>,
    /// Connections lost.
    pub reconnects: u64,
    /// Device failures.
    pub device_errors: u64,
    /// Viewers on this network.
    pub lan_viewers: u64,
    /// Bytes that went to them.
    pub lan_bytes: u64,
    /// Those who were not let in.
    pub lan_viewers_rejected: u64,
}

/// Makes reports.
#[derive(Debug)]
pub struct StatsSampler {
    stats: Arc<Stats>,
    broadcast: Arc<Broadcast>,
    start: Instant,
    last: (Instant, u64, u64),
}

impl StatsSampler {
    /// A sampler that starts now.
    pub fn new(stats: Arc<Stats>, broadcast: Arc<Broadcast>) -> Self {
        let start = Instant::now();
        Self { stats, broadcast, start, last: (start, 0, 0) }
    }

    /// A report about the time since the last one.
    pub fn sample(&mut self) -> StatsReport {
        let since = self.last;
        self.last = (Instant::now(), self.stats.pictures.value(), self.stats.bytes.value());
        self.report("stats", since)
    }

    /// A report about all of it.
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
    /// The status line, at most `width` characters.
    pub fn line(&self, width: usize) -> String {
        let clock = Duration::from_secs(self.seconds as u64);
        let (minutes, seconds) = (clock.as_secs() / 60, clock.as_secs() % 60);
        let bitrate = rate(self.bitrate);
        let mut line =
            format!("{:<10} {minutes:02}:{seconds:02}  {:>5.1} fps  {bitrate:>11}", self.state.word(), self.fps);
        line +=
            &format!("  queue {}  dropped {} frames, {} units", self.queued, self.frames_dropped, self.units_dropped);
        if let Some(target) = self.bitrate_target {
            line += &format!("  limited to {}", rate(target));
        }
        if let Some(rtt) = self.round_trip_ms {
            line += &format!("  rtt {rtt:.1} ms");
        }
        if self.lan_viewers > 0 {
            line += &format!("  LAN viewers {}", self.lan_viewers);
        }
        line.truncate(width);
        line
    }

    fn print(&self) {
        let Ok(text) = serde_json::to_string(self) else { return };
        let mut out = io::stdout().lock();
        // A reader that went away is no reason to end the broadcast.
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }
}

/// Reports until it is dropped.
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
                "status"
            );
        }
        if stats.is_some() {
            report.print();
        }
    }
    sampler
}

/// The last word: the summary for people, and as JSON when asked.
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

/// Shows people how to watch on this network where no server can be reached. Only on a terminal: a log is read by others too.
pub fn show_code(peer: &PeerServer, log: LogFormat) {
    if log != LogFormat::Text || !io::stderr().is_terminal() {
        return;
    }
    let Some(address) = peer.advertisement().addresses.first() else { return };
    let code = peer.code();
    let mut text = format!("Without a server, on this network:  viewer nearcast://{address} --pairing-code {code}\n");
    if let Ok(picture) = QrCode::new(format!("nearcast://{address}#{code}")) {
        text += &picture.render::<Dense1x2>().quiet_zone(true).build();
        text.push('\n');
    }
    let _ = StatusLineWriter.write_all(text.as_bytes());
}

fn rate(bits: u64) -> String {
    if bits >= 1_000_000 { format!("{:.1} Mbit/s", bits as f64 / 1e6) } else { format!("{} kbit/s", bits / 1000) }
}

fn tenths(n: f64) -> f64 {
    (n * 10.0).round() / 10.0
}

/// Seconds between status events in a log: enough to see a trend, not enough to fill a disk.
const LOG_INTERVAL: u64 = 10;

#[cfg(test)]
mod tests {
    use media::live_window::Bounds;
    use media::{Epoch, WallClock};

    use super::*;

    #[test]
    fn a_line_and_a_json_object() {
        let stats = Arc::new(Stats::default());
        stats.pictures.add(30);
        stats.round_trip.set(12_340);
        stats.set_state(State::Live);
        let bounds = Bounds { duration: Duration::from_secs(1), bytes: 1 };
        let broadcast = Arc::new(Broadcast::new(Epoch(1), WallClock::from_micros(0), &[], bounds, stats.clone()));
        let mut report = StatsSampler::new(stats, broadcast).summary();
        (report.seconds, report.fps, report.bitrate) = (61.0, 29.97, 2_345_678);
        assert_eq!(
            report.line(200),
            "live       01:01   30.0 fps   2.3 Mbit/s  queue 0  dropped 0 frames, 0 units  rtt 12.3 ms"
        );
        report.bitrate_target = Some(640_000);
        assert!(report.line(200).contains("0 units  limited to 640 kbit/s  rtt"), "{}", report.line(200));
        assert_eq!(report.line(10), "live      ");
        assert_eq!(serde_json::to_value(&report).unwrap()["bitrate_target"], 640_000);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(
            (&json["state"], &json["pictures"], &json["epoch"]),
            (&"live".into(), &30.into(), &"0000000000000001".into())
        );
    }
}
