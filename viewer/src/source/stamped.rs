//! What a server answers when it is asked for stamps by HTTP.

use std::collections::BTreeMap;

use media::latency::{ClockOffset, MAX_UNITS, Stage, StageTimes, TimingReport, UnitTiming};
use media::{Timestamp, WallClock};
use net::rtmp::parse_track;
use serde::Deserialize;
use serde_json::Value;

/// As `/api/v1/streams/NAME/timing` gives it. Times are microseconds.
#[derive(Debug, Deserialize)]
pub(super) struct Stamped {
    received_us: i64,
    answered_us: i64,
    epoch: String,
    broadcaster: Option<Clock>,
    units: Vec<Unit>,
}

#[derive(Debug, Deserialize)]
struct Clock {
    offset_us: i64,
    uncertainty_us: u64,
}

#[derive(Debug, Deserialize)]
struct Unit {
    track: String,
    dts: i64,
    #[serde(flatten)]
    stages: BTreeMap<String, Value>,
}

impl Stamped {
    /// Stages and tracks that this viewer does not know are left out.
    pub(super) fn report(self) -> Option<TimingReport> {
        let unit = |unit: Unit| {
            let mut stamps = StageTimes::default();
            for (name, at) in &unit.stages {
                let stage = name.strip_suffix("_us").and_then(Stage::named);
                if let Some((stage, at)) = stage.zip(at.as_i64()) {
                    stamps.stamp(stage, WallClock::from_micros(at));
                }
            }
            Some(UnitTiming { track: parse_track(&unit.track)?, dts: Timestamp::from_millis(unit.dts), stamps })
        };
        let clock = |clock: Clock| ClockOffset { micros: clock.offset_us, uncertainty: clock.uncertainty_us };
        Some(TimingReport {
            received: WallClock::from_micros(self.received_us),
            answered: WallClock::from_micros(self.answered_us),
            epoch: self.epoch.parse().ok()?,
            broadcaster: self.broadcaster.map(clock),
            units: self.units.into_iter().take(MAX_UNITS).filter_map(unit).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use media::TrackId;

    use super::*;

    #[test]
    fn what_is_known_is_read_and_the_rest_left_out() {
        let text = r#"{"received_us":5,"answered_us":6,"epoch":"00000000000000ff","later":1,
            "broadcaster":{"offset_us":-7,"uncertainty_us":3},
            "units":[{"track":"v0","dts":40,"captured_us":1,"in_part_us":2,"teleported_us":3,"sent_us":"x"},{"track":"?","dts":1}]}"#;
        let report = serde_json::from_str::<Stamped>(text).unwrap().report().unwrap();
        assert_eq!(report.broadcaster, Some(ClockOffset { micros: -7, uncertainty: 3 }));
        assert_eq!((report.epoch.0, report.received.as_micros(), report.answered.as_micros()), (255, 5, 6));
        let [unit] = &report.units[..] else { panic!("{:?}", report.units) };
        assert_eq!((unit.track, unit.dts), (TrackId::VIDEO, Timestamp::from_millis(40)));
        let stages: Vec<_> = Stage::ALL.into_iter().filter(|stage| unit.stamps.at(*stage).is_some()).collect();
        assert_eq!(stages, [Stage::Captured, Stage::InPart]);
        let none = text.replace("00000000000000ff", "zz");
        assert!(serde_json::from_str::<Stamped>(&none).unwrap().report().is_none());
    }
}
