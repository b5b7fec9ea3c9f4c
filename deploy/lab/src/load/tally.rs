//! What each viewer has received, and whether it was everything. Pure: times are parameters.
//!
//! The content of the stream is the union of what all viewers received. A unit is missing if another viewer has it, and it lies between the first and
//! the last unit of this viewer.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use media::{Epoch, Timestamp, TrackId, TrackKind, WallClock};

/// What all viewers received, by viewer number.
#[derive(Debug)]
pub(super) struct Tally {
    viewers: Vec<ViewerTally>,
    /// Every unit that any viewer received.
    seen: BTreeMap<TrackId, BTreeSet<Timestamp>>,
    epoch: Option<Epoch>,
    /// Whether units are counted now.
    counts: bool,
    /// Capture-to-receive latency of video units in microseconds, if the stream states a clock.
    latency: Vec<i64>,
    bytes: u64,
    other_epochs: u64,
}

#[derive(Clone, Debug, Default)]
struct ViewerTally {
    tracks: BTreeMap<TrackId, TrackTally>,
    /// Responses: parts, segments and playlists.
    requests: u64,
}

#[derive(Clone, Copy, Debug)]
struct TrackTally {
    /// DTS of the last unit before counting began.
    from: Timestamp,
    last: Timestamp,
    count: u64,
    repeated: u64,
}

/// The totals of the time that was counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Totals {
    pub(super) pictures: u64,
    pub(super) units: u64,
    pub(super) bytes: u64,
    pub(super) requests: u64,
    /// Missing units, summed over all viewers.
    pub(super) missing: u64,
    /// Units that a viewer received again or out of order.
    pub(super) repeated: u64,
    /// Units of another epoch than the first one.
    pub(super) other_epochs: u64,
    /// Viewers whose progress in media time fell short.
    pub(super) lagging: usize,
    /// The range of video DTS that all viewers together were counted for, in milliseconds (start excluded, end included), and the number of distinct
    /// video units in it.
    pub(super) span: Option<(i64, i64, usize)>,
    /// Latencies in microseconds, ascending.
    pub(super) latency: Vec<i64>,
}

impl Tally {
    pub(super) fn new(viewers: usize) -> Self {
        Self {
            viewers: vec![ViewerTally::default(); viewers],
            seen: BTreeMap::new(),
            epoch: None,
            counts: false,
            latency: Vec::new(),
            bytes: 0,
            other_epochs: 0,
        }
    }

    /// Records a unit that a viewer received, with its capture time if known.
    pub(super) fn unit(
        &mut self,
        viewer: usize,
        unit: &media::AccessUnit,
        captured: Option<WallClock>,
        now: WallClock,
    ) {
        if *self.epoch.get_or_insert(unit.epoch) != unit.epoch {
            self.other_epochs += 1;
        }
        self.seen.entry(unit.track).or_default().insert(unit.dts);
        let tracks = &mut self.viewers[viewer].tracks;
        let new = TrackTally { from: unit.dts, last: unit.dts, count: 0, repeated: 0 };
        let Some(received) = tracks.get_mut(&unit.track) else {
            tracks.insert(unit.track, new);
            return;
        };
        if unit.dts <= received.last {
            received.repeated += 1;
            return;
        }
        received.last = unit.dts;
        received.count += 1;
        if self.counts {
            self.bytes += unit.payload.len() as u64;
            if let Some(captured) = captured.filter(|_| unit.track.kind == TrackKind::Video) {
                self.latency.push(now.micros_since(captured));
            }
        }
    }

    /// Records a response to a viewer's request.
    pub(super) fn request(&mut self, viewer: usize) {
        self.viewers[viewer].requests += 1;
    }

    /// The number of viewers that have received a unit.
    pub(super) fn joined(&self) -> usize {
        self.viewers.iter().filter(|viewer| !viewer.tracks.is_empty()).count()
    }

    /// Starts counting: resets the counters of all viewers.
    pub(super) fn begin(&mut self) {
        for viewer in &mut self.viewers {
            viewer.requests = 0;
            for received in viewer.tracks.values_mut() {
                *received = TrackTally { from: received.last, count: 0, repeated: 0, ..*received };
            }
        }
        (self.counts, self.bytes, self.other_epochs) = (true, 0, 0);
        self.latency.clear();
    }

    /// The totals since [`begin`](Self::begin), `window` ago. A viewer whose media time advanced by less than `window - slack` is lagging.
    pub(super) fn end(&mut self, window: Duration, slack: Duration) -> Totals {
        self.counts = false;
        let mut totals = Totals { bytes: self.bytes, other_epochs: self.other_epochs, ..Totals::default() };
        let most = i64::try_from(window.saturating_sub(slack).as_millis()).unwrap_or(i64::MAX);
        for viewer in &self.viewers {
            totals.requests += viewer.requests;
            let gained = viewer.tracks.values().map(|track| track.last.as_millis() - track.from.as_millis()).max();
            totals.lagging += usize::from(gained.unwrap_or(0) < most);
            for (id, track) in &viewer.tracks {
                let there = self.seen.get(id).map_or(0, |seen| seen.range(since(track.from, track.last)).count());
                totals.missing += (there as u64).saturating_sub(track.count);
                totals.repeated += track.repeated;
                totals.units += track.count;
                if id.kind == TrackKind::Video {
                    totals.pictures += track.count;
                    let (from, to) = (track.from.as_millis(), track.last.as_millis());
                    let span = totals.span.map_or((from, to, 0), |(first, last, _)| (first.min(from), last.max(to), 0));
                    totals.span = Some(span);
                }
            }
        }
        let pictures = self.seen.get(&TrackId::VIDEO);
        if let Some(((from, to, distinct), seen)) = totals.span.as_mut().zip(pictures) {
            let (from, to) = (Timestamp::from_millis(*from), Timestamp::from_millis(*to));
            *distinct = seen.range(since(from, to)).count();
        }
        totals.latency = std::mem::take(&mut self.latency);
        totals.latency.sort_unstable();
        totals
    }
}

/// The range after `from`, up to and including `to`.
fn since(from: Timestamp, to: Timestamp) -> (Bound<Timestamp>, Bound<Timestamp>) {
    (Bound::Excluded(from), Bound::Included(to))
}

#[cfg(test)]
mod tests {
    use media::AccessUnit;

    use super::*;

    fn give(tally: &mut Tally, viewer: usize, millis: std::ops::Range<i64>) {
        for dts in millis.step_by(40) {
            let dts = Timestamp::from_millis(dts);
            let unit = AccessUnit {
                epoch: Epoch(1),
                track: TrackId::VIDEO,
                dts,
                pts: dts,
                random_access: false,
                payload: vec![0; 10].into(),
            };
            let captured = WallClock::from_micros(0).at(dts);
            let now = WallClock::from_micros(captured.as_micros() + 70_000);
            tally.unit(viewer, &unit, Some(captured), now);
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn units_that_another_viewer_received_count_as_missing() {
        let mut tally = Tally::new(3);
        for viewer in 0..2 {
            give(&mut tally, viewer, 0..400);
        }
        assert_eq!(tally.joined(), 2);
        tally.begin();
        give(&mut tally, 0, 400..2000);
        give(&mut tally, 1, 400..800);
        give(&mut tally, 1, 1000..2000);
        give(&mut tally, 1, 1960..2000);
        let totals = tally.end(SECOND * 2, SECOND);
        assert_eq!((totals.pictures, totals.missing, totals.repeated), (40 + 35, 5, 1));
        assert_eq!(totals.lagging, 1, "the third never joined");
        assert_eq!(totals.span, Some((360, 1960, 40)));
        assert_eq!((totals.latency.len(), totals.latency[0]), (75, 70_000));
        assert_eq!(totals.bytes, 750);
    }

    #[test]
    fn a_viewer_without_progress_is_lagging() {
        let mut tally = Tally::new(2);
        give(&mut tally, 0, 0..400);
        give(&mut tally, 1, 0..400);
        tally.begin();
        give(&mut tally, 0, 400..5000);
        give(&mut tally, 1, 400..1000);
        let totals = tally.end(SECOND * 5, SECOND);
        assert_eq!((totals.lagging, totals.missing), (1, 0));
        // No viewer received anything.
        tally.begin();
        let totals = tally.end(SECOND * 5, SECOND);
        assert_eq!((totals.lagging, totals.pictures, totals.missing), (2, 0, 0));
    }
}
