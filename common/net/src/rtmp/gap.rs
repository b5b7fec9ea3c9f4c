//! `nearcastGap`: states the predecessors of units where the order of messages does not show them. Pure.
//!
//! Between Nearcast programs, the predecessor of an access unit is the previous unit of its track on the same connection. Where it is not,
//! the sender sends this message first: after it skipped units, and when a connection begins in the middle of a broadcast. It applies to the
//! next unit of each track that it names.

use media::access_unit::Epoch;
use media::access_unit::TrackId;
use media::catalog::MAX_TRACKS;
use media::time::Timestamp;

use super::track_name::parse_track;

/// The predecessors of the next units; see the module documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The broadcast that the units belong to.
    pub epoch: Epoch,
    /// For each track, the DTS of the predecessor of its next unit, whether or not the receiver has it; `None` if the sender does not know it.
    /// At most [`MAX_TRACKS`].
    pub predecessors: Vec<(TrackId, Option<Timestamp>)>,
}

impl Gap {
    /// The properties of `nearcastGap`: `epoch` as 16 hex digits, `predecessors` as `v0=12345,a0=`, in milliseconds.
    pub(crate) fn to_properties(&self) -> [(&'static str, String); 2] {
        let predecessor = |(track, dts): &(TrackId, Option<Timestamp>)| {
            format!("{track}={}", dts.map(|dts| dts.as_millis().to_string()).unwrap_or_default())
        };
        let predecessors: Vec<String> = self.predecessors.iter().take(MAX_TRACKS).map(predecessor).collect();
        [("epoch", self.epoch.to_string()), ("predecessors", predecessors.join(","))]
    }

    /// Parses the properties. A predecessor that is not a number counts as unknown.
    pub(crate) fn from_properties<'a>(property: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let predecessors = property("predecessors")?.split(',').take(MAX_TRACKS).filter_map(|entry| {
            let (track, dts) = entry.split_once('=')?;
            let dts = dts.parse().ok().filter(|dts: &i64| dts.unsigned_abs() <= MAX_DTS);
            Some((parse_track(track)?, dts.map(Timestamp::from_millis)))
        });
        Some(Self { epoch: property("epoch")?.parse().ok()?, predecessors: predecessors.collect() })
    }
}

/// Bounds a stated DTS in milliseconds, like `nearcastDts`, so that sums do not overflow.
const MAX_DTS: u64 = 1 << 53;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_message_round_trips() {
        let at = |millis| Some(Timestamp::from_millis(millis));
        let predecessors = vec![(TrackId::VIDEO, at(12_345)), (TrackId::AUDIO, None)];
        let gap = Gap { epoch: Epoch(0xabc), predecessors };
        let properties = gap.to_properties();
        assert_eq!(properties[1].1, "v0=12345,a0=");
        let property = |key: &str| properties.iter().find(|(name, _)| *name == key).map(|(_, text)| text.as_str());
        assert_eq!(Gap::from_properties(property), Some(gap));
    }

    #[test]
    fn malformed_entries_are_skipped() {
        let read = |epoch: &'static str, predecessors: &'static str| {
            Gap::from_properties(|key| Some(if key == "epoch" { epoch } else { predecessors }))
        };
        assert_eq!(read("zz", "v0=1"), None);
        let odd = read("0000000000000abc", "v0=-1,x,=,v=3,a0=x,v256=1,é0=4,v1=9223372036854775807").unwrap();
        let told: Vec<_> = odd.predecessors.iter().map(|(track, dts)| format!("{track} {dts:?}")).collect();
        assert_eq!(told.len(), 3, "{told:?}");
        assert_eq!(odd.predecessors[0].1, Some(Timestamp::from_millis(-1)));
        assert!(odd.predecessors[1..].iter().all(|(_, dts)| dts.is_none()));
        assert_eq!(read("0000000000000abc", "").unwrap().predecessors, []);
        assert_eq!(Gap::from_properties(|_| None), None);
    }
}
