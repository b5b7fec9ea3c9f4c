//! `/metrics`, in the text format of Prometheus 0.0.4, on a listener of its own. Made from counters that others keep.

use std::fmt::{Display, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use axum::http::header::{CONTENT_TYPE, HeaderValue};

use super::{Shared, reply};
use crate::hub::{Info, State as StreamState};

/// What the HTTP side has seen.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) accepted: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) open: AtomicU64,
    /// By the first digit of the status, from 1 to 5.
    responses: [AtomicU64; 5],
}

impl Counters {
    pub(super) fn count_response(&self, status: u16) {
        if let Some(class) = self.responses.get(usize::from(status / 100).wrapping_sub(1)) {
            class.fetch_add(1, Relaxed);
        }
    }
}

/// A number that another room keeps.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name: ends in its unit, or in `_total`.
    pub name: &'static str,
    /// `gauge` or `counter`.
    pub kind: &'static str,
    /// What it says.
    pub help: &'static str,
    /// It, now.
    pub value: u64,
}

/// Asks another room for its numbers.
#[derive(Clone)]
pub struct MetricsSource(Arc<dyn Fn() -> Vec<Metric> + Send + Sync>);

impl MetricsSource {
    /// From whatever `ask` answers when somebody reads `/metrics`.
    pub fn new(ask: impl Fn() -> Vec<Metric> + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }
}

impl Default for MetricsSource {
    fn default() -> Self {
        Self::new(Vec::new)
    }
}

impl std::fmt::Debug for MetricsSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MetricsSource")
    }
}

/// `/metrics`
pub(super) async fn metrics(State(shared): State<Arc<Shared>>) -> Response<Body> {
    let mut response = reply::text(axum::http::StatusCode::OK, render(&shared).trim_end());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}

/// How a stream's number is called, what it says, its kind, and where it comes from.
type StreamMetric = (&'static str, &'static str, &'static str, fn(&Info) -> f64);

fn render(shared: &Shared) -> String {
    let infos: Vec<_> = shared.hub.streams().iter().map(|stream| stream.info()).collect();
    let mut text = Text::default();
    text.family("nearcast_build_info", "gauge", "Which version this is.");
    text.sample("nearcast_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    text.single("nearcast_uptime_seconds", "gauge", "Since the start.", shared.started.elapsed().as_secs_f64());
    if let Some(bytes) = resident_bytes() {
        text.single("process_resident_memory_bytes", "gauge", "Resident memory.", bytes);
    }
    for (name, help, kind, value) in OF_STREAMS {
        text.family(name, kind, help);
        for info in &infos {
            text.sample(name, &[("stream", &info.name)], value(info));
        }
    }
    text.family("nearcast_stream_viewers", "gauge", "Viewers by protocol; those by HLS are estimated.");
    for info in &infos {
        for (protocol, count) in &info.viewers {
            text.sample("nearcast_stream_viewers", &[("stream", &info.name), ("protocol", protocol)], count);
        }
    }
    delays(shared, &mut text);
    text.family("nearcast_hls_media_sequence", "gauge", "Number of the newest segment listed.");
    for info in &infos {
        let newest = shared.hls.stream(&info.name).and_then(|p| p.now().playlist.segments.last().map(|s| s.msn));
        if let Some(newest) = newest {
            text.sample("nearcast_hls_media_sequence", &[("stream", &info.name)], newest);
        }
    }
    let http = &shared.counters;
    text.single("nearcast_http_connections_open", "gauge", "Open connections.", http.open.load(Relaxed));
    text.single(
        "nearcast_http_connections_accepted_total",
        "counter",
        "Connections taken.",
        http.accepted.load(Relaxed),
    );
    text.single("nearcast_http_refused_total", "counter", "Connections over a limit.", http.refused.load(Relaxed));
    text.family("nearcast_http_responses_total", "counter", "Replies by class of status.");
    for (class, count) in (1..).zip(&http.responses) {
        text.sample("nearcast_http_responses_total", &[("class", &format!("{class}xx"))], count.load(Relaxed));
    }
    for metric in (shared.settings.metrics.0)() {
        text.single(metric.name, metric.kind, metric.help, metric.value);
    }
    text.0
}

/// Where the time goes from lens to the server's door, of the units that are held.
fn delays(shared: &Shared, text: &mut Text) {
    let all: Vec<_> = shared.hub.streams().iter().map(|s| (s.name().to_owned(), s.latency().breakdown())).collect();
    let name = "nearcast_stream_delay_seconds";
    text.family(
        name,
        "gauge",
        "What a picture's time was spent on, of late, by part and delivery; by this server's clock.",
    );
    for (stream, (parts, _)) in &all {
        for ((delivery, part), quantiles) in parts {
            for (quantile, seconds) in quantiles {
                let labels =
                    [("stream", stream.as_str()), ("delivery", delivery), ("part", part), ("quantile", quantile)];
                text.sample(name, &labels, seconds);
            }
        }
    }
    let (offset, doubt) = ("nearcast_stream_clock_offset_seconds", "nearcast_stream_clock_uncertainty_seconds");
    type Told = fn(media::latency::ClockOffset) -> f64;
    let clocks: [(&str, &str, Told); 2] = [
        (offset, "The broadcaster's clock less this server's.", |clock| clock.micros as f64 / 1e6),
        (doubt, "How wrong that may be.", |clock| clock.uncertainty as f64 / 1e6),
    ];
    for (name, help, told) in clocks {
        text.family(name, "gauge", help);
        for (stream, (_, clock)) in &all {
            clock.iter().for_each(|clock| text.sample(name, &[("stream", stream)], told(*clock)));
        }
    }
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("writing to a String does not fail");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escaped(value))).collect();
        writeln!(self.0, "{name}{{{}}} {value}", labels.join(",")).expect("writing to a String does not fail");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        writeln!(self.0, "{name} {value}").expect("writing to a String does not fail");
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Linux tells it in pages; elsewhere the number is left out.
fn resident_bytes() -> Option<u64> {
    let pages: u64 = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(pages * PAGE_BYTES)
}

/// What each stream says about itself.
const OF_STREAMS: [StreamMetric; 13] = [
    ("nearcast_stream_live", "1 while somebody publishes.", "gauge", |i| {
        f64::from(u8::from(matches!(i.state, StreamState::Live { .. })))
    }),
    ("nearcast_stream_received_units_total", "Access units taken.", "counter", |i| i.counters.units as f64),
    ("nearcast_stream_received_bytes_total", "Payload taken.", "counter", |i| i.counters.bytes as f64),
    ("nearcast_stream_sent_bytes_total", "Handed to viewers.", "counter", |i| i.counters.sent_bytes as f64),
    ("nearcast_duplicate_units_total", "Units dropped because the stream had them.", "counter", |i| {
        i.counters.duplicate_units as f64
    }),
    ("nearcast_stream_publishers_total", "Publishers let in.", "counter", |i| i.counters.publishers as f64),
    ("nearcast_stream_takeovers_total", "Publishers dismissed for another.", "counter", |i| {
        i.counters.takeovers as f64
    }),
    ("nearcast_subscriber_resyncs_total", "Slow viewers put at the newest GOP.", "counter", |i| {
        i.counters.resyncs as f64
    }),
    ("nearcast_stream_skipped_units_total", "Units that slow viewers did not get.", "counter", |i| {
        i.counters.skipped_units as f64
    }),
    ("nearcast_stream_window_seconds", "Media held.", "gauge", |i| i.window.duration.as_secs_f64()),
    ("nearcast_stream_window_bytes", "Payload held.", "gauge", |i| i.window.bytes as f64),
    ("nearcast_stream_bitrate_bits_per_second", "Mean over the window.", "gauge", |i| i.bitrate as f64),
    ("nearcast_stream_tracks", "Tracks of the newest broadcast.", "gauge", |i| {
        i.catalog.as_ref().map_or(0.0, |c| c.tracks.len() as f64)
    }),
];

/// Of x86-64, and of the kernels that Debian ships for ARM.
const PAGE_BYTES: u64 = 4096;
