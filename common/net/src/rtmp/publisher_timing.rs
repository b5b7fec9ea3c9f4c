//! The timing that a broadcaster reports to its server once a second, by `nearcastTiming`: when units were captured, encoded and sent. Pure.
//!
//! The server answers with `nearcastClock`, so that the message is also a clock exchange: `clock` is when the broadcaster sent it, and the
//! answer repeats it with the time at which the server read it. All times are microseconds of Unix time, as text, because sums in a double
//! are not exact enough.

use media::latency::{ClockOffset, Exchange, Stage, StageTimes, UnitTiming};
use media::{Epoch, Timestamp, WallClock};

use super::track_name::parse_track;

/// One report. Times are by the broadcaster's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublisherTiming {
    /// When the report was sent.
    pub sent: WallClock,
    /// The offset from the broadcaster's clock to the server's, once the broadcaster knows it.
    pub server: Option<ClockOffset>,
    /// The epoch of the units.
    pub epoch: Epoch,
    /// Recent units of one track; at most [`MAX_TIMED_UNITS`].
    pub units: Vec<UnitTiming>,
    /// How many LAN viewers the broadcaster serves itself; 0 if it does not say.
    pub lan_viewers: u32,
}

impl PublisherTiming {
    /// The properties of `nearcastTiming`.
    pub(crate) fn to_properties(&self) -> Vec<(&'static str, String)> {
        let mut properties = vec![("clock", self.sent.as_micros().to_string()), ("epoch", self.epoch.to_string())];
        if let Some(ClockOffset { micros, uncertainty }) = self.server {
            properties.extend([("offset", micros.to_string()), ("uncertainty", uncertainty.to_string())]);
        }
        if let Some(first) = self.units.first() {
            properties.push(("track", first.track.to_string()));
        }
        // `DTS,captured,encoded,sent`; the last three are microseconds before the message was sent.
        let ago = |unit: &UnitTiming, stage| unit.stamps.at(stage).map(|at| self.sent.micros_since(at).to_string());
        let units = self.units.iter().take(MAX_TIMED_UNITS).map(|unit| {
            let stages = STAGES.map(|stage| ago(unit, stage).unwrap_or_default()).join(",");
            format!("{},{stages}", unit.dts.as_millis())
        });
        properties.push(("units", units.collect::<Vec<_>>().join(" ")));
        properties.push(("lanViewers", self.lan_viewers.to_string()));
        properties
    }

    /// Parses the properties; malformed units are left out.
    pub(crate) fn from_properties<'a>(property: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let sent = WallClock::from_micros(property("clock")?.parse().ok()?);
        let offset = property("offset").zip(property("uncertainty"));
        let server = offset.and_then(|(micros, uncertainty)| {
            Some(ClockOffset { micros: micros.parse().ok()?, uncertainty: uncertainty.parse().ok()? })
        });
        let track = property("track").and_then(parse_track);
        let units = property("units").unwrap_or_default().split(' ').take(MAX_TIMED_UNITS).filter_map(|unit| {
            let mut fields = unit.split(',');
            let dts = Timestamp::from_millis(fields.next()?.parse().ok()?);
            let mut stamps = StageTimes::default();
            for (stage, ago) in STAGES.into_iter().zip(fields) {
                if let Ok(ago) = ago.parse::<i64>() {
                    stamps.stamp(stage, WallClock::from_micros(sent.as_micros().saturating_sub(ago)));
                }
            }
            Some(UnitTiming { track: track?, dts, stamps })
        });
        let lan_viewers = property("lanViewers").and_then(|count| count.parse().ok()).unwrap_or(0);
        Some(Self { sent, server, epoch: property("epoch")?.parse().ok()?, units: units.collect(), lan_viewers })
    }
}

/// The properties of `nearcastClock`: `clock` as received, and the server's time of reading and answering.
pub(crate) fn answer(sent: WallClock, now: WallClock) -> [(&'static str, String); 3] {
    [("clock", sent), ("received", now), ("answered", now)].map(|(key, at)| (key, at.as_micros().to_string()))
}

/// Parses the answer, which arrived at `returned`.
pub(crate) fn exchange<'a>(property: impl Fn(&str) -> Option<&'a str>, returned: WallClock) -> Option<Exchange> {
    let at = |key| property(key)?.parse().ok().map(WallClock::from_micros);
    Some(Exchange { sent: at("clock")?, received: at("received")?, answered: at("answered")?, returned })
}

const STAGES: [Stage; 3] = [Stage::Captured, Stage::Encoded, Stage::Sent];
/// Bounds the units of a report: one second of frames at 60 fps, with a reserve; 3 kB of text.
pub const MAX_TIMED_UNITS: usize = 64;

#[cfg(test)]
mod tests {
    use media::TrackId;
    use proptest::prelude::*;

    use super::*;

    fn read(properties: &[(&'static str, String)]) -> Option<PublisherTiming> {
        PublisherTiming::from_properties(|key| {
            properties.iter().find(|(name, _)| *name == key).map(|(_, text)| text.as_str())
        })
    }

    #[test]
    fn a_clock_exchange_round_trips() {
        let (sent, read, came) =
            (WallClock::from_micros(5), WallClock::from_micros(1_795_352_493_250_123), WallClock::from_micros(9));
        let answer = answer(sent, read);
        let property = |key: &str| answer.iter().find(|(name, _)| *name == key).map(|(_, text)| text.as_str());
        assert_eq!(exchange(property, came), Some(Exchange { sent, received: read, answered: read, returned: came }));
        assert_eq!(exchange(|_| None, came), None);
        assert_eq!(exchange(|_| Some("x"), came), None);
    }

    proptest! {
        #[test]
        fn timing_round_trips(
            sent in 0..4_000_000_000_000_000i64,
            server in prop::option::of((-1_000_000_000i64..1_000_000_000, 0..1_000_000u64)),
            epoch: u64,
            lan_viewers: u32,
            units in prop::collection::vec((-5_000..1_000_000_000i64, prop::collection::vec(prop::option::of(0..5_000_000i64), 3)), 0..MAX_TIMED_UNITS),
        ) {
            let units = units.into_iter().map(|(dts, stages)| {
                let mut stamps = StageTimes::default();
                for (stage, ago) in STAGES.into_iter().zip(stages) {
                    ago.iter().for_each(|ago| stamps.stamp(stage, WallClock::from_micros(sent - ago)));
                }
                UnitTiming { track: TrackId::VIDEO, dts: Timestamp::from_millis(dts), stamps }
            });
            let server = server.map(|(micros, uncertainty)| ClockOffset { micros, uncertainty });
            let timing = PublisherTiming { sent: WallClock::from_micros(sent), server, epoch: Epoch(epoch), units: units.collect(), lan_viewers };
            let properties = timing.to_properties();
            prop_assert!(properties.iter().map(|(_, text)| text.len()).sum::<usize>() < 4096);
            prop_assert_eq!(read(&properties), Some(timing));
        }

        #[test]
        fn malformed_properties_do_not_panic(texts in prop::collection::vec("[-0-9, a-z]{0,40}", 7)) {
            let keys = ["clock", "epoch", "offset", "uncertainty", "track", "units", "lanViewers"];
            let _ = read(&keys.into_iter().zip(texts).collect::<Vec<_>>());
            let units = [("clock", "9".to_owned()), ("epoch", Epoch(1).to_string()), ("track", "v0".into()), ("units", "1,2 x 3,,9223372036854775807,-9223372036854775808 4".into())];
            prop_assert_eq!(read(&units).map(|timing| timing.units.len()), Some(3));
        }
    }
}
