//! The timing report of a server to a viewer: when some units passed the stages up to the server.

use super::{ClockOffset, Stage, StageTimes, UnitTiming};
use crate::access_unit::Epoch;
use crate::time::WallClock;

/// The stage times of some units, as a server reports them to a viewer. Its two times of the server's clock make an [`Exchange`](super::Exchange).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimingReport {
    /// When the request was read, by the server's clock.
    pub received: WallClock,
    /// When the response was written, by the server's clock.
    pub answered: WallClock,
    /// Epoch of the units.
    pub epoch: Epoch,
    /// Offset of the broadcaster's clock from the server's. `None` if it is not known; then all times are by the server's clock.
    pub broadcaster: Option<ClockOffset>,
    /// At most [`MAX_UNITS`] units by increasing DTS.
    pub units: Vec<UnitTiming>,
}

impl TimingReport {
    /// Offset of the broadcaster's clock from ours, given the offset of the server's clock from ours.
    pub fn broadcaster(&self, server: ClockOffset) -> ClockOffset {
        self.broadcaster.map_or(server, |broadcaster| server.then(broadcaster))
    }

    /// The units with all their times on our clock, given the offset of the server's clock from ours.
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

/// Upper bound of the units in a report: enough for a mean.
pub const MAX_UNITS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_unit::TrackId;
    use crate::time::Timestamp;

    #[test]
    fn each_stage_is_rebased_from_the_clock_of_its_host() {
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
