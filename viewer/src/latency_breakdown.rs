//! Where the latency goes: this viewer's own stamps of each picture, and what servers tell of the way before it.
//!
//! What happens here is measured on every picture. What happened before is told by a server now and then, of a few pictures that are spread over a
//! segment; from then on all parts and the whole are those of these pictures, until the next are told of: so do they add up, and each is what it
//! was.

use std::collections::BTreeMap;
use std::time::Duration;

use media::latency::{
    ClockOffset, Delivery, Exchange, LatencyComponent, OffsetEstimator, Stage, StageTimes, TimingLog, TimingReport,
    UnitTiming,
};
use media::path_merge::PathId;
use media::{Epoch, Timestamp, TrackId, WallClock};
use serde::Serialize;

/// Where the latency goes, in milliseconds. The parts add up to the total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Breakdown {
    /// From capture to presentation.
    pub total: Option<f64>,
    /// How wrong the total may be because two clocks are compared, either way; absent while nobody knows.
    pub uncertainty: Option<f64>,
    /// From the lens through the encoder.
    pub encoding: Option<f64>,
    /// In the broadcaster, before its connection took it.
    pub queue: Option<f64>,
    /// From the broadcaster to the server.
    pub upload: Option<f64>,
    /// In the server (the broadcaster, on its own network) until it was first passed on.
    pub server: Option<f64>,
    /// In the server until it was listed, in a part or a segment.
    pub chunking: Option<f64>,
    /// Until it was asked for.
    pub polling: Option<f64>,
    /// The rest, up to arrival here: the network, and what nobody has told of.
    pub last_mile: Option<f64>,
    /// From arrival to the decoder, and from there to the screen.
    pub buffering: Option<f64>,
    /// In the decoder.
    pub decoding: Option<f64>,
}

impl Breakdown {
    /// The parts that are known, in the order in which they come.
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

/// What is known of where the time goes.
#[derive(Debug, Default)]
pub(crate) struct LatencyTracker {
    /// This viewer's own stamps of the last pictures.
    units: TimingLog,
    /// The clocks of those who answer on each path.
    clocks: BTreeMap<PathId, OffsetEstimator>,
    /// From our clock to the broadcaster's.
    broadcaster_clock: Option<ClockOffset>,
    /// The path that reports are taken from, and how it delivers.
    path: Option<(PathId, Delivery)>,
    /// What the time of the pictures that were told of last was spent on: means, in microseconds.
    reported: BTreeMap<LatencyComponent, f64>,
    /// Microseconds, smoothed.
    total: Option<f64>,
    arrival: Option<f64>,
    buffering: Option<f64>,
    decoding: Option<f64>,
    last_presented: Option<Timestamp>,
}

impl LatencyTracker {
    /// Pictures come by this path now.
    pub(crate) fn set_active_path(&mut self, path: PathId, delivery: Delivery) {
        if self.path != Some((path, delivery)) {
            self.path = Some((path, delivery));
            self.reported.clear();
        }
    }

    /// A unit passes a stage that is before playback.
    pub(crate) fn stamp(&mut self, epoch: Epoch, track: TrackId, dts: Timestamp, stage: Stage, at: WallClock) {
        self.units.stamp(epoch, track, dts, stage, at);
    }

    /// A picture was presented. Gives how long after its capture, in microseconds: by one clock, if there is a way to know.
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

    /// The last picture that was presented, by its DTS.
    pub(crate) fn last_presented(&self) -> Option<Timestamp> {
        self.last_presented
    }

    /// How far the broadcaster's clock is from ours, if anybody told.
    pub(crate) fn broadcaster_clock(&self) -> Option<ClockOffset> {
        self.broadcaster_clock
    }

    /// Somebody told how units came to the server; `now` is on the clock that only rises.
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

    /// What was told of a unit that was shown in time, with our own stamps of it. What a server held for those who join has waited there for
    /// nobody, and says nothing of the pictures that the whole is measured on.
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

    /// Where the latency goes, smoothed over about a second.
    pub(crate) fn breakdown(&self) -> Breakdown {
        let ms = |micros: f64| (micros / 100.0).round() / 10.0;
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
        // The sum of what is rounded.
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

/// About a second of pictures.
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

    /// One picture whose broadcaster's clock is a second ahead of ours, and the server's half of one.
    fn seen(tracker: &mut LatencyTracker, tells: bool) -> Option<i64> {
        let (path, dts) = (PathId(3), Timestamp::from_millis(40));
        tracker.set_active_path(path, Delivery::Units);
        tracker.stamp(EPOCH, TrackId::VIDEO, dts, Stage::Received, at(90_000));
        let shown = stamps(&[
            (Stage::Captured, 1_000_000),
            (Stage::Received, 90_000),
            (Stage::Buffered, 150_000),
            (Stage::Decoded, 152_000),
            (Stage::Presented, 160_000),
        ]);
        let total = tracker.presented(EPOCH, Some((TrackId::VIDEO, dts)), &shown);
        // One that the server held for those who join, and that was never shown in time: it arrived, and that is all.
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
    fn what_is_told_is_split_and_adds_up_by_one_clock() {
        let mut tracker = LatencyTracker::default();
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
        // Another path: what was told of the last one is not true of it.
        tracker.set_active_path(PathId(4), Delivery::Direct);
        let found = tracker.breakdown();
        assert_eq!((found.upload, found.last_mile, found.total), (None, Some(90.0), Some(160.0)));
    }

    #[test]
    fn a_clock_that_nobody_compares_gives_no_negative_latency() {
        let mut tracker = LatencyTracker::default();
        assert_eq!(seen(&mut tracker, false), Some(-840_000));
        let found = tracker.breakdown();
        assert_eq!((found.total, found.last_mile, found.buffering), (None, None, Some(68.0)));
    }
}
