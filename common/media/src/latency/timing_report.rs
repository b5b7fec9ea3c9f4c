//! What a server tells a viewer of the way that units have come to it.

use super::{ClockOffset, Stage, StageTimes, UnitTiming};
use crate::access_unit::Epoch;
use crate::time::WallClock;

/// A server's answer, which is an exchange of clocks too: see [`Exchange`](super::Exchange).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimingReport {
    /// When the question was read, by the server's clock.
    pub received: WallClock,
    /// When the answer was given, by the server's clock.
    pub answered: WallClock,
    /// Of the units.
    pub epoch: Epoch,
    /// From the server's clock to the broadcaster's; `None` where nobody knows, and all is stamped by the server's.
    pub broadcaster: Option<ClockOffset>,
    /// Units that have passed, in order of DTS; at most [`MAX_UNITS`].
    pub units: Vec<UnitTiming>,
}

impl TimingReport {
    /// From our clock to the broadcaster's, where `server` is from ours to the server's.
    pub fn broadcaster(&self, server: ClockOffset) -> ClockOffset {
        self.broadcaster.map_or(server, |broadcaster| server.then(broadcaster))
    }

    /// The units with all their stamps by our clock, where `server` is from ours to the server's.
    pub fn rebase(&self, server: ClockOffset) -> impl Iterator<Item = UnitTiming> {
        let broadcaster = self.broadcaster(server);
        self.units.iter().map(move |unit| {
            let mut stamps = StageTimes::default();
            for stage in Stage::ALL {
                let clock = if stage <= Stage::Sent { broadcaster } else { server };
                if let Some(at) = unit.stamps.at(stage) {
                    stamps.stamp(stage, clock.to_local(at));
                }
            }
            UnitTiming { stamps, ..*unit }
        })
    }
}

/// How many units a report tells of: enough for a mean.
pub const MAX_UNITS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_unit::TrackId;
    use crate::time::Timestamp;

    #[test]
    fn each_stamp_is_by_the_clock_of_its_host() {
        let mut stamps = StageTimes::default();
        // One instant, by two clocks: the server's is a second before ours, the broadcaster's two before the server's.
        stamps.stamp(Stage::Sent, WallClock::from_micros(3_000_000));
        stamps.stamp(Stage::Ingested, WallClock::from_micros(1_000_000));
        let report = TimingReport {
            received: WallClock::from_micros(0),
            answered: WallClock::from_micros(0),
            epoch: Epoch(1),
            broadcaster: Some(ClockOffset { micros: 2_000_000, uncertainty: 20 }),
            units: vec![UnitTiming { track: TrackId::VIDEO, dts: Timestamp::ZERO, stamps }],
        };
        let server = ClockOffset { micros: 1_000_000, uncertainty: 1 };
        assert_eq!(report.broadcaster(server), ClockOffset { micros: 3_000_000, uncertainty: 21 });
        let ours: Vec<UnitTiming> = report.rebase(server).collect();
        assert_eq!(ours[0].stamps.at(Stage::Sent), Some(WallClock::from_micros(0)));
        assert_eq!(ours[0].stamps.micros(Stage::Sent, Stage::Ingested), Some(0));
        let plain = TimingReport { broadcaster: None, ..report };
        assert_eq!(plain.broadcaster(server), server);
    }
}
