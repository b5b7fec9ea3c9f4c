//! Timestamps of a stream's units at each stage, measured by this server or reported by the broadcaster. Read by `/metrics`, by viewers and by
//! the trace.
//!
//! Only one track is stamped: the video track if there is one. The cost is one table lookup per frame and stage, independent of the number of
//! viewers.

use std::sync::Arc;

use live::LiveStream;
use media::latency::{ClockOffset, MAX_UNITS, Stage, TimingLog, TimingReport, UnitTiming};
use media::{AccessUnit, Catalog, Epoch, Timestamp, WallClock};
use net::clock;
use net::trace::{self, Trace};
use parking_lot::Mutex;

/// Stage timestamps of one stream. The [`LiveStream`] stores them; this type adds the broadcaster's clock offset and the trace.
#[derive(Debug)]
pub struct LatencyTracker {
    live: Arc<LiveStream>,
    /// Offset from this server's clock to the broadcaster's, and the epoch it was reported for.
    broadcaster: Mutex<Option<(Epoch, ClockOffset)>>,
    trace: Option<Arc<Trace>>,
}

/// A publisher's report of its own stages.
#[derive(Clone, Debug)]
pub struct PublisherReport {
    /// Epoch of the reported units. A report for another epoch than the stream's current one is ignored.
    pub epoch: Epoch,
    /// Offset from the publisher's clock to this server's, as the publisher estimates it.
    pub server_clock: Option<ClockOffset>,
    /// When units were encoded and sent, by the publisher's clock.
    pub units: Vec<UnitTiming>,
}

impl LatencyTracker {
    pub(super) fn new(live: Arc<LiveStream>, trace: Option<Arc<Trace>>) -> Self {
        Self { live, broadcaster: Mutex::default(), trace }
    }

    /// Stamps a unit that was received completely. The caller holds a lock, so this does no I/O.
    pub(super) fn on_ingested(&self, catalog: &Catalog, unit: &AccessUnit) {
        let now = clock::now();
        let captured = catalog.captured_at(unit.pts).unwrap_or(now);
        self.live.begin_timing(catalog, unit, [(Stage::Captured, captured), (Stage::Ingested, now)]);
    }

    /// Writes the trace line of a unit received completely at `at` (system clock). Writes to a file, so the caller must hold no lock.
    pub(super) fn trace_ingested(&self, unit: trace::UnitRef, at: WallClock) {
        if let Some(trace) = &self.trace {
            trace.note(Stage::Ingested.name(), unit, "", at);
        }
    }

    /// Stamps a unit when it is given to the first connection or written to the first batch. `by` is the egress's name in the trace.
    pub fn on_relayed(&self, unit: &AccessUnit, by: &str) {
        if let Some(trace) = &self.trace {
            trace.now(Stage::Relayed.name(), unit, by);
        }
        self.live.stamp([unit], Stage::Relayed, clock::now());
    }

    /// Stamps units that an egress has brought to `stage` for all its subscribers at once.
    pub fn on_stage(&self, units: &[AccessUnit], stage: Stage) {
        let now = clock::now();
        // Before the lock: other readers and writers must not wait for the trace file.
        if let Some(trace) = &self.trace {
            units.iter().for_each(|unit| trace.now(stage.name(), unit, ""));
        }
        self.live.stamp(units, stage, now);
    }

    /// Applies a publisher's report. Units that this server has not received are ignored.
    pub fn on_publisher_report(&self, report: &PublisherReport) {
        let mut timing = self.live.timing();
        if timing.of().is_none_or(|(epoch, _)| epoch != report.epoch) {
            return;
        }
        *self.broadcaster.lock() = report.server_clock.map(|server| (report.epoch, server.inverse()));
        for unit in &report.units {
            let known = timing.unit(report.epoch, unit.track, unit.dts).is_some();
            for stage in [Stage::Encoded, Stage::Sent].into_iter().filter(|_| known) {
                if let Some(at) = unit.stamps.at(stage) {
                    timing.stamp(report.epoch, unit.track, unit.dts, stage, at);
                }
            }
        }
    }

    /// Stage timestamps of at most [`MAX_UNITS`] units, ending with the one at `at`, or with the newest. `None` before the first unit.
    pub fn report(&self, at: Option<Timestamp>) -> Option<TimingReport> {
        self.report_of(|timing_log| timing_log.sample(MAX_UNITS, at).collect())
    }

    /// The selected units with the broadcaster's clock offset. Both are read under one lock, so they belong to the same broadcast.
    fn report_of(&self, units: impl FnOnce(&TimingLog) -> Vec<UnitTiming>) -> Option<TimingReport> {
        let now = clock::now();
        let timing = self.live.timing();
        let (epoch, _) = timing.of()?;
        let broadcaster = self.broadcaster.lock().filter(|(of, _)| *of == epoch).map(|(_, offset)| offset);
        Some(TimingReport { received: now, answered: now, epoch, broadcaster, units: units(&timing) })
    }

    /// Stage timestamps of all units held, at most 1024, with the broadcaster's clock offset. `None` before the first unit.
    pub fn held_units(&self) -> Option<TimingReport> {
        self.report_of(|timing_log| timing_log.last(usize::MAX, None).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use media::codec::{Codec, CodecConfig, Format};
    use media::latency::StageTimes;
    use media::live_window::Bounds;
    use media::{Track, TrackId};

    use super::*;

    fn catalog(clock: WallClock) -> Catalog {
        let mut catalog = Catalog::new(Epoch(7));
        catalog.clock = Some(clock);
        let (record, format) = (Bytes::new(), Format::Video { width: 16, height: 16 });
        catalog.set_track(Track { id: TrackId::VIDEO, config: CodecConfig { codec: Codec::H264, record, format } });
        let (record, format) = (Bytes::new(), Format::Audio { sample_rate: 48_000, channels: 2 });
        catalog.set_track(Track { id: TrackId::AUDIO, config: CodecConfig { codec: Codec::Aac, record, format } });
        catalog
    }

    fn tracker() -> LatencyTracker {
        let bounds = Bounds { duration: Duration::from_secs(1), bytes: 1 << 20 };
        LatencyTracker::new(Arc::new(LiveStream::new(bounds)), None)
    }

    fn unit(track: TrackId, dts: i64) -> AccessUnit {
        let dts = Timestamp::from_millis(dts);
        AccessUnit { epoch: Epoch(7), track, dts, pts: dts, random_access: true, payload: Bytes::new() }
    }

    #[test]
    fn a_report_joins_publisher_and_server_times() {
        let began = clock::now();
        // The broadcaster's clock is a minute ahead of this one.
        let ahead = 60_000_000;
        let of_theirs = |micros: i64| WallClock::from_micros(began.as_micros() + ahead + micros);
        let (tracker, catalog) = (tracker(), catalog(of_theirs(0)));
        assert_eq!(tracker.report(None), None);
        for dts in [0, 40] {
            tracker.on_ingested(&catalog, &unit(TrackId::VIDEO, dts));
            tracker.on_ingested(&catalog, &unit(TrackId::AUDIO, dts));
            tracker.on_relayed(&unit(TrackId::VIDEO, dts), "to players");
        }
        tracker.on_stage(&[unit(TrackId::VIDEO, 0), unit(TrackId::AUDIO, 0)], Stage::InPart);
        let mut stamps = StageTimes::default();
        stamps.stamp(Stage::Encoded, of_theirs(10));
        stamps.stamp(Stage::Sent, of_theirs(20));
        let journey = |dts| UnitTiming { track: TrackId::VIDEO, dts: Timestamp::from_millis(dts), stamps };
        let server = Some(ClockOffset { micros: -ahead, uncertainty: 7 });
        let told = PublisherReport { epoch: Epoch(7), server_clock: server, units: vec![journey(0), journey(99_999)] };
        tracker.on_publisher_report(&told);
        tracker.on_publisher_report(&PublisherReport { epoch: Epoch(8), server_clock: None, ..told });
        let report = tracker.report(Some(Timestamp::from_millis(39))).unwrap();
        assert_eq!(report.broadcaster, Some(ClockOffset { micros: ahead, uncertainty: 7 }));
        let told: Vec<_> = report.units.iter().map(|unit| (unit.track, unit.dts.as_millis())).collect();
        assert_eq!(told, [(TrackId::VIDEO, 0)], "video only, and no unknown units");
        let ours = report.rebase(ClockOffset::default()).next().unwrap().stamps;
        assert_eq!(ours.micros(Stage::Captured, Stage::Sent), Some(20));
        assert_eq!(ours.micros(Stage::Encoded, Stage::Sent), Some(10));
        let stages: Vec<_> = Stage::ALL.into_iter().filter(|stage| ours.at(*stage).is_some()).collect();
        use Stage::*;
        assert_eq!(stages, [Captured, Encoded, Sent, Ingested, Relayed, InPart]);
        let held = tracker.held_units().unwrap();
        assert_eq!((held.broadcaster, held.units.len()), (report.broadcaster, 2));
    }

    #[test]
    fn audio_is_timed_if_there_is_no_video() {
        let mut catalog = catalog(clock::now());
        catalog.tracks.retain(|track| !track.id.is_video());
        let tracker = tracker();
        tracker.on_ingested(&catalog, &unit(TrackId::AUDIO, 0));
        assert_eq!(tracker.report(None).unwrap().units[0].track, TrackId::AUDIO);
    }
}
