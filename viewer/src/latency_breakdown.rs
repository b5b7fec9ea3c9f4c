//! The components of glass-to-glass latency: this viewer's own timestamps of each picture, and the servers' reports of earlier stages.
//!
//! The viewer's stages are measured on every picture. The server reports the earlier stages at intervals, for a few pictures spread over a
//! segment. Until the next report, the total and all components are those of these pictures, so that they add up.

use std::collections::BTreeMap;
use std::time::Duration;

use media::latency::{
    ClockOffset, DeliveryMode, Exchange, LatencyComponent, OffsetEstimator, Stage, StageTimes, TimingLog, TimingReport,
    UnitTiming,
};
use media::path_merge::PathId;
use media::{Epoch, Timestamp, TrackId, WallClock};
use serde::Serialize;

/// The components of the latency, in milliseconds. Those that are known add up to the total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Breakdown {
    /// From capture to presentation: glass to glass.
    pub total: Option<f64>,
    /// The error of the total, either way, from comparing two clocks; absent while the offset is unknown.
    pub uncertainty: Option<f64>,
    /// From capture to the encoder's output.
    pub encoding: Option<f64>,
    /// In the broadcaster's send queue.
    pub queue: Option<f64>,
    /// From the broadcaster to the server.
    pub upload: Option<f64>,
    /// In the server (or the broadcaster, for a LAN path) until it was first sent on.
    pub server: Option<f64>,
    /// In the server until the part or segment that holds it was listed.
    pub chunking: Option<f64>,
    /// From listing to the request.
    pub polling: Option<f64>,
    /// The rest up to arrival here: the network, and stages that were not reported.
    pub last_mile: Option<f64>,
    /// From arrival to the decoder, and from its output to the screen.
    pub buffering: Option<f64>,
    /// In the decoder.
    pub decoding: Option<f64>,
}

impl Breakdown {
    /// The components that are known, in the order of the data.
    pub fn parts(&self) -> impl Iterator<Item = (LatencyComponent, f64)> {
        let parts = [
            (LatencyComponent::Encoding, self.encoding),
            (LatencyComponent::Queue, self.queue),
            (LatencyComponent::Upload, self.upload),
            (LatencyComponent::Server, self.server),
            (LatencyComponent::Chunking, self.chunking),
            (LatencyComponent::Polling, self.polling),
            (LatencyComponent::LastMile, self.last_mile),
            (LatencyComponent::Buffering, self.buffering),
            (LatencyComponent::Decoding, self.decoding),
        ];
        parts.into_iter().filter_map(|(part, ms)| Some((part, ms?)))
    }
}

/// Collects stamps and reports, and computes the breakdown.
#[derive(Debug, Default)]
pub(crate) struct PathLatency {
    /// This viewer's own stamps of the last pictures.
    units: TimingLog,
    /// For each path, the offset to the clock of the server (or broadcaster) that reports on it.
    clocks: BTreeMap<PathId, OffsetEstimator>,
    /// Offset of the broadcaster's clock to this host's.
    broadcaster_clock: Option<ClockOffset>,
    /// The active path, whose reports count, and how it delivers.
    path: Option<(PathId, DeliveryMode)>,
    /// Means over the pictures of the last report, in microseconds.
    reported: BTreeMap<LatencyComponent, f64>,
    /// The viewer's own measurements: microseconds, smoothed.
    total: Option<f64>,
    arrival: Option<f64>,
    buffering: Option<f64>,
    decoding: Option<f64>,
    last_presented: Option<Timestamp>,
}

impl PathLatency {
    /// Pictures are delivered by this path from now on.
    pub(crate) fn set_active_path(&mut self, path: PathId, delivery: DeliveryMode) {
        if self.path != Some((path, delivery)) {
            self.path = Some((path, delivery));
            self.reported.clear();
        }
    }

    /// A unit passed a stage before playback.
    pub(crate) fn stamp(&mut self, epoch: Epoch, track: TrackId, dts: Timestamp, stage: Stage, at: WallClock) {
        self.units.stamp(epoch, track, dts, stage, at);
    }

    /// A picture was presented. Returns the time since its capture in microseconds, corrected by the clock offset if that is known; else it may be
    /// negative.
    pub(crate) fn presented(
        &mut self,
        epoch: Epoch,
        unit: Option<(TrackId, Timestamp)>,
        stamps: &StageTimes,
    ) -> Option<i64> {
        let stamps = self.rebase(stamps);
        if let Some((track, dts)) = unit {
            for stage in [Stage::Captured, Stage::Buffered, Stage::Decoded, Stage::Presented] {
                stamps.at(stage).into_iter().for_each(|at| self.units.stamp(epoch, track, dts, stage, at));
            }
            self.last_presented = Some(dts);
        }
        let total = stamps.micros(Stage::Captured, Stage::Presented);
        let known = total.filter(|total| *total >= 0);
        smooth(&mut self.total, known);
        smooth(&mut self.arrival, known.and(stamps.micros(Stage::Captured, Stage::Received)));
        let before = stamps.micros(Stage::Received, Stage::Buffered);
        let waited = before.zip(stamps.micros(Stage::Decoded, Stage::Presented));
        smooth(&mut self.buffering, waited.map(|(before, after)| before + after));
        smooth(&mut self.decoding, stamps.micros(Stage::Buffered, Stage::Decoded));
        total
    }

    /// DTS of the last picture that was presented.
    pub(crate) fn last_presented(&self) -> Option<Timestamp> {
        self.last_presented
    }

    /// Offset of the broadcaster's clock to this host's; `None` until a server has reported it.
    pub(crate) fn broadcaster_clock(&self) -> Option<ClockOffset> {
        self.broadcaster_clock
    }

    /// A server (or broadcaster) reported the stages of some units; `now` is on the viewer's monotonic clock.
    pub(crate) fn on_report(&mut self, now: Duration, path: PathId, report: &TimingReport, exchange: Exchange) {
        let clock = self.clocks.entry(path).or_default();
        clock.record(now, exchange);
        let Some(server) = clock.offset(now) else { return };
        let Some((_, delivery)) = self.path.filter(|(leads, _)| *leads == path) else { return };
        self.broadcaster_clock = Some(report.broadcaster(server));
        let ways: Vec<StageTimes> =
            report.rebase(server).filter_map(|unit| self.complete(report.epoch, &unit)).collect();
        if ways.is_empty() {
            return;
        }
        self.reported.clear();
        for stamps in &ways {
            for (part, micros) in stamps.components(delivery) {
                *self.reported.entry(part).or_default() += micros as f64 / ways.len() as f64;
            }
        }
    }

    /// The reported stages of a unit, completed by this viewer's stamps; `None` if it was not presented on time. Units of the initial burst to a new
    /// subscriber have waited in the server and do not represent the latency.
    fn complete(&self, epoch: Epoch, told: &UnitTiming) -> Option<StageTimes> {
        let ours = self.units.unit(epoch, told.track, told.dts)?;
        ours.at(Stage::Presented)?;
        let mut stamps = told.stamps;
        for stage in [Stage::Requested, Stage::Received, Stage::Buffered, Stage::Decoded, Stage::Presented] {
            ours.at(stage).into_iter().for_each(|at| stamps.stamp(stage, at));
        }
        stamps.at(Stage::Received).is_some().then_some(stamps)
    }

    fn rebase(&self, stamps: &StageTimes) -> StageTimes {
        let mut ours = *stamps;
        if let Some((clock, captured)) = self.broadcaster_clock.zip(stamps.at(Stage::Captured)) {
            ours.stamp(Stage::Captured, clock.to_local(captured));
        }
        ours
    }

    /// The components now, smoothed over about a second.
    pub(crate) fn breakdown(&self) -> Breakdown {
        // Plus zero, so that nothing is a negative zero.
        let ms = |micros: f64| (micros / 100.0).round() / 10.0 + 0.0;
        let round = |ms: f64| (ms * 10.0).round() / 10.0;
        let uncertainty = self.broadcaster_clock.map(|clock| ms(clock.uncertainty as f64));
        if self.reported.is_empty() {
            let (last_mile, decoding) = (self.arrival.map(ms), self.decoding.map(ms));
            let total = self.total.map(ms);
            let rest = total.zip(last_mile).zip(decoding).map(|((total, before), after)| round(total - before - after));
            let buffering = rest.or(self.buffering.map(ms));
            return Breakdown { total, uncertainty, last_mile, buffering, decoding, ..Breakdown::default() };
        }
        let told = |part| self.reported.get(&part).copied().map(ms);
        // The sum of the rounded values, so that they add up.
        let total = round(self.reported.values().copied().map(ms).sum());
        Breakdown {
            total: Some(total),
            uncertainty,
            encoding: told(LatencyComponent::Encoding),
            queue: told(LatencyComponent::Queue),
            upload: told(LatencyComponent::Upload),
            server: told(LatencyComponent::Server),
            chunking: told(LatencyComponent::Chunking),
            polling: told(LatencyComponent::Polling),
            last_mile: told(LatencyComponent::LastMile),
            buffering: told(LatencyComponent::Buffering),
            decoding: told(LatencyComponent::Decoding),
        }
    }
}

fn smooth(value: &mut Option<f64>, micros: Option<i64>) {
    let Some(micros) = micros.map(|micros| micros as f64) else { return };
    *value = Some(value.map_or(micros, |old| old + (micros - old) * SMOOTHING));
}

/// Weight of a new value: about a second of pictures.
const SMOOTHING: f64 = 1.0 / 30.0;

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Epoch = Epoch(7);

    fn at(micros: i64) -> WallClock {
        WallClock::from_micros(1_000_000_000 + micros)
    }

    fn stamps(stages: &[(Stage, i64)]) -> StageTimes {
        let mut stamps = StageTimes::default();
        stages.iter().for_each(|(stage, micros)| stamps.stamp(*stage, at(*micros)));
        stamps
    }

    /// A picture of a broadcaster whose clock is one second ahead of ours, by a server whose clock is half a second ahead.
    fn seen(tracker: &mut PathLatency, tells: bool) -> Option<i64> {
        let (path, dts) = (PathId(3), Timestamp::from_millis(40));
        tracker.set_active_path(path, DeliveryMode::Units);
        tracker.stamp(EPOCH, TrackId::VIDEO, dts, Stage::Received, at(90_000));
        let shown = stamps(&[
            (Stage::Captured, 1_000_000),
            (Stage::Received, 90_000),
            (Stage::Buffered, 150_000),
            (Stage::Decoded, 152_000),
            (Stage::Presented, 160_000),
        ]);
        let total = tracker.presented(EPOCH, Some((TrackId::VIDEO, dts)), &shown);
        // A unit of the initial burst, never presented on time.
        let held = Timestamp::ZERO;
        tracker.stamp(EPOCH, TrackId::VIDEO, held, Stage::Received, at(90_000));
        if tells {
            let theirs = |micros: i64| at(micros + 500_000);
            let stages = [(Stage::Captured, 1_000_000), (Stage::Encoded, 1_008_000), (Stage::Sent, 1_009_000)];
            let mut told = stamps(&stages);
            told.stamp(Stage::Ingested, theirs(40_000));
            told.stamp(Stage::Relayed, theirs(41_000));
            let mut waited = stamps(&[(Stage::Captured, 0), (Stage::Encoded, 8_000)]);
            waited.stamp(Stage::Relayed, theirs(89_000));
            let report = TimingReport {
                received: theirs(200_000),
                answered: theirs(200_000),
                epoch: EPOCH,
                broadcaster: Some(ClockOffset { micros: 500_000, uncertainty: 300 }),
                units: vec![
                    UnitTiming { track: TrackId::VIDEO, dts: held, stamps: waited },
                    UnitTiming { track: TrackId::VIDEO, dts, stamps: told },
                ],
            };
            let exchange = Exchange {
                sent: at(199_000),
                received: report.received,
                answered: report.answered,
                returned: at(201_000),
            };
            tracker.on_report(Duration::from_secs(1), path, &report, exchange);
            return tracker.presented(EPOCH, Some((TrackId::VIDEO, dts)), &shown);
        }
        total
    }

    #[test]
    fn reported_stages_are_split_and_add_up_by_one_clock() {
        let mut tracker = PathLatency::default();
        assert_eq!(seen(&mut tracker, true), Some(160_000));
        let found = tracker.breakdown();
        assert_eq!(
            found,
            Breakdown {
                total: Some(160.0),
                uncertainty: Some(1.3),
                encoding: Some(8.0),
                queue: Some(1.0),
                upload: Some(31.0),
                server: Some(1.0),
                chunking: None,
                polling: None,
                last_mile: Some(49.0),
                buffering: Some(68.0),
                decoding: Some(2.0),
            }
        );
        assert_eq!(found.parts().map(|(_, ms)| ms).sum::<f64>(), 160.0);
        // A report of another path does not apply to this one.
        tracker.set_active_path(PathId(4), DeliveryMode::Direct);
        let found = tracker.breakdown();
        assert_eq!((found.upload, found.last_mile, found.total), (None, Some(90.0), Some(160.0)));
    }

    #[test]
    fn an_unknown_clock_offset_gives_no_negative_latency() {
        let mut tracker = PathLatency::default();
        assert_eq!(seen(&mut tracker, false), Some(-840_000));
        let found = tracker.breakdown();
        assert_eq!((found.total, found.last_mile, found.buffering), (None, None, Some(68.0)));
    }
}
