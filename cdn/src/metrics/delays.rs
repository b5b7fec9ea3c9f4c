//! Histograms of a frame's delays on the way to and through this server, and the offset of the broadcaster's clock.
//!
//! A unit is observed once, [`SETTLE_TIME`] after it was ingested: by then the broadcaster has reported when it encoded and sent it, and
//! the playlist lists it. All times are on this server's clock.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Error;
use std::sync::Arc;
use std::time::Duration;

use media::latency::{ClockOffset, DeliveryMode, LatencyComponent, Stage, StageTimes};
use media::{Epoch, Timestamp, WallClock};
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use super::samples::{Kind, write};
use crate::hub::Hub;

/// The delays of all streams of a hub.
#[derive(Debug)]
pub struct Delays {
    hub: Arc<Hub>,
    histograms: Family<Labels, Histogram, fn() -> Histogram>,
    observed: Mutex<BTreeMap<String, Observed>>,
}

/// State of one stream's observation.
#[derive(Debug, Default)]
struct Observed {
    last: Option<(Epoch, Timestamp)>,
    /// Labels of its histograms, which are removed with the stream.
    labels: BTreeSet<Labels>,
}

/// Stream, delivery and component of a delay.
type Labels = [(&'static str, String); 3];

impl Delays {
    /// Creates empty histograms. Values are added by [`observe`](Self::observe) or [`keep_observing`](Self::keep_observing).
    pub fn new(hub: Arc<Hub>) -> Arc<Self> {
        let histograms = Family::new_with_constructor(histogram as fn() -> Histogram);
        Arc::new(Self { hub, histograms, observed: Mutex::default() })
    }

    /// Calls [`observe`](Self::observe) once a second. Never returns.
    pub async fn keep_observing(&self) {
        let mut ticks = tokio::time::interval(INTERVAL);
        loop {
            ticks.tick().await;
            self.observe(net::clock::now());
        }
    }

    /// Observes the units that were ingested at least eight seconds before `now` and are not observed yet.
    pub fn observe(&self, now: WallClock) {
        let mut observed = self.observed.lock();
        let streams = self.hub.streams();
        observed.retain(|name, old| {
            let is_held = streams.iter().any(|stream| stream.name() == name);
            if !is_held {
                for labels in &old.labels {
                    self.histograms.remove(labels);
                }
            }
            is_held
        });
        for stream in streams {
            let Some(report) = stream.latency().held_units() else { continue };
            let of_stream = observed.entry(stream.name().to_owned()).or_default();
            let last = of_stream.last.filter(|(epoch, _)| *epoch == report.epoch).map(|(_, dts)| dts);
            for unit in report.rebase(ClockOffset::default()) {
                let is_new = last.is_none_or(|last| unit.dts > last);
                let age = unit.stamps.at(Stage::Ingested).map(|ingested| now.micros_since(ingested));
                if is_new && age.is_some_and(|age| age >= SETTLE_TIME.as_micros() as i64) {
                    self.observe_unit(stream.name(), unit.stamps, &mut of_stream.labels);
                    of_stream.last = Some((report.epoch, unit.dts));
                }
            }
        }
    }

    fn observe_unit(&self, stream: &str, stamps: StageTimes, of_stream: &mut BTreeSet<Labels>) {
        for (delivery, name, own) in DELIVERIES {
            for (part, micros) in stamps.components(delivery) {
                let of_all = part <= LatencyComponent::Upload && delivery == DeliveryMode::Units;
                if of_all || part == own {
                    let delivery = if of_all { "all" } else { name };
                    let labels = [("stream", stream), ("delivery", delivery), ("component", part.name())];
                    let labels = labels.map(|(key, value)| (key, value.to_owned()));
                    // A wrong clock offset can make a component negative, but a histogram's sum must not decrease.
                    self.histograms.get_or_create(&labels).observe(micros.max(0) as f64 / 1e6);
                    of_stream.insert(labels);
                }
            }
        }
    }
}

impl Collector for Delays {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let help = "Latency of video frames until this server sends them, by component and delivery.";
        let delays = encoder.encode_descriptor("nearcast_stream_delay_seconds", help, None, Histogram::TYPE)?;
        self.histograms.encode(delays)?;
        let clocks: Vec<_> = self
            .hub
            .streams()
            .iter()
            .filter_map(|stream| Some((stream.name().to_owned(), stream.latency().held_units()?.broadcaster?)))
            .collect();
        let offsets = clocks.iter().map(|(name, clock)| ([("stream", name.as_str())], clock.micros as f64 / 1e6));
        let (name, help) = ("nearcast_stream_clock_offset_seconds", "The broadcaster's clock minus this server's.");
        write(&mut encoder, Kind::Gauge, name, help, offsets)?;
        let bounds = clocks.iter().map(|(name, clock)| ([("stream", name.as_str())], clock.uncertainty as f64 / 1e6));
        let (name, help) = ("nearcast_stream_clock_uncertainty_seconds", "Maximum error of the clock offset.");
        write(&mut encoder, Kind::Gauge, name, help, bounds)
    }
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

/// Each way of delivery, its label, and the latency component that is specific to it.
const DELIVERIES: [(DeliveryMode, &str, LatencyComponent); 3] = [
    (DeliveryMode::Units, "units", LatencyComponent::Server),
    (DeliveryMode::Parts, "parts", LatencyComponent::Chunking),
    (DeliveryMode::Segments, "segments", LatencyComponent::Chunking),
];

/// Upper bounds of the buckets in seconds: from a fraction of a millisecond (fan-out) to a long segment.
const BUCKETS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Age of a unit when it is observed. Long enough for a broadcaster's report, sent once a second, and for a segment of several seconds; short
/// enough that the 1024 timing entries held still contain the unit at 100 frames per second.
const SETTLE_TIME: Duration = Duration::from_secs(8);

/// Interval between two observations.
const INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use media::codec::{Codec, CodecConfig, Format};
    use media::live_window::Bounds;
    use media::{AccessUnit, Catalog, Track, TrackId};

    use super::*;
    use crate::hub::{HubSettings, PublisherInfo};
    use crate::metrics::Metrics;

    #[test]
    fn each_unit_is_observed_once_after_its_times_are_final() {
        let window = Bounds { duration: Duration::from_secs(60), bytes: 1 << 20 };
        let hub = Hub::new(HubSettings { window, grace: Duration::ZERO, grace_after_unpublish: Duration::ZERO });
        let stream = hub.open("live");
        let guard = stream.publish(PublisherInfo::default());
        let mut catalog = Catalog::new(Epoch(7));
        let config =
            CodecConfig { codec: Codec::H264, record: Bytes::new(), format: Format::Video { width: 16, height: 16 } };
        catalog.set_track(Track { id: TrackId::VIDEO, config });
        catalog.clock = Some(net::clock::now());
        let catalog = Arc::new(catalog);
        for n in 0..3 {
            let dts = Timestamp::from_millis(n * 40);
            let (track, payload) = (TrackId::VIDEO, Bytes::new());
            let unit = AccessUnit { epoch: Epoch(7), track, dts, pts: dts, random_access: n == 0, payload };
            let previous = (n > 0).then(|| Timestamp::from_millis((n - 1) * 40));
            guard.push(&catalog, unit.clone(), previous);
            stream.latency().on_relayed(&unit, "rtmp");
        }
        let delays = Delays::new(hub.clone());
        let mut metrics = Metrics::default();
        metrics.register(delays.clone());
        let now = net::clock::now();
        let later = WallClock::from_micros(now.as_micros() + SETTLE_TIME.as_micros() as i64);
        let check = |at, expected: Option<u32>| {
            delays.observe(at);
            let text = metrics.render();
            let name = "nearcast_stream_delay_seconds_count{stream=\"live\",delivery=\"units\",component=\"server\"} ";
            let count = text.lines().find_map(|line| line.strip_prefix(name)?.parse().ok());
            assert_eq!(count, expected, "{text}");
        };
        check(now, None);
        check(later, Some(3));
        check(later, Some(3));
        hub.end("live");
        check(later, None);
    }
}
