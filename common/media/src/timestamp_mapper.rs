//! Maps the RTMP timestamps of a publisher to the timeline of its stream. Pure: the time of arrival is a parameter.
//!
//! Encoders stamp their messages in ways that no specification allows: sound by another clock than pictures, single messages with a
//! timestamp of zero, a clock that is set in mid-stream, PTS where DTS belongs. A [`TimestampMapper`] corrects these once, before the units
//! get their identity. It judges a timestamp by its arrival: a unit cannot arrive before it was made, so one that is far ahead of the least
//! delay seen so far has a wrong timestamp, and a pause in the timestamps is real if the units were away for as long.
//!
//! Jitter is left as it is: formats whose samples must follow each other without a gap smooth it themselves.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::time::Instant;

use crate::access_unit::TrackId;
use crate::least_delay::LeastDelay;
use crate::time::Timestamp;

/// Maps the timestamps of one connection.
#[derive(Clone, Debug, Default)]
pub struct TimestampMapper {
    tracks: BTreeMap<TrackId, TrackTimeline>,
    /// Arrival minus DTS, in milliseconds.
    delay: LeastDelay,
    /// The instant that arrivals are counted from.
    origin: Option<Instant>,
    /// The newest change of a track's offset; the other tracks of the same clock follow it.
    shift: Option<Shift>,
}

/// The decoding and presentation time of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Not negative, and greater than that of the preceding unit of the track.
    pub dts: Timestamp,
    /// `dts` plus the composition time.
    pub pts: Timestamp,
    /// The correction of the track's clock that begins with this unit.
    pub correction: Option<ClockCorrection>,
}

/// A correction of a track's clock, in milliseconds, that lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockCorrection {
    /// The track has a clock of its own, ahead of the other tracks' clock by this much.
    Apart(i64),
    /// The clock was set, forward by this much.
    Set(i64),
}

impl fmt::Display for ClockCorrection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (subject, millis, (later, earlier)) = match self {
            Self::Apart(by) => ("the track has a clock of its own,", by, ("ahead of", "behind")),
            Self::Set(by) => ("the clock was set", by, ("forward", "back")),
        };
        let direction = if *millis < 0 { earlier } else { later };
        write!(f, "{subject} {} ms {direction}", millis.unsigned_abs())?;
        if matches!(self, Self::Apart(_)) { f.write_str(" the other tracks'") } else { Ok(()) }
    }
}

/// The timeline of one track. All times are in milliseconds.
#[derive(Clone, Debug)]
struct TrackTimeline {
    /// Added to unwrapped timestamps.
    offset: i64,
    /// The offset before the clock was last set.
    previous_offset: Option<i64>,
    /// Arrival minus DTS of this track.
    delay: LeastDelay,
    /// Whether the track has a clock of its own, which only its arrival relates to the others'.
    is_apart: bool,
    /// The unwrapped timestamp of the newest unit whose timestamp was plausible.
    stamp: i64,
    /// The arrival of the newest unit.
    arrived: i64,
    /// The DTS of the newest unit.
    dts: i64,
    /// The newest interval between two units.
    interval: i64,
    /// The unwrapped timestamp of the newest unit, if it was not plausible.
    suspect: Option<i64>,
    order: PresentationOrder,
}

/// Where a unit belongs on the stream's timeline.
#[derive(Clone, Copy, Debug)]
struct Placed {
    at: i64,
    /// Whether its timestamp says so.
    is_plausible: bool,
    correction: Option<ClockCorrection>,
}

/// A change of a track's offset, after its clock was set.
#[derive(Clone, Copy, Debug)]
struct Shift {
    by: i64,
    at: i64,
}

impl TimestampMapper {
    /// A mapper that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Maps the timestamp of a unit of `track`, in milliseconds modulo 2^32, with its composition time in milliseconds.
    pub fn map(&mut self, track: TrackId, timestamp: u32, composition: i32, arrived: Instant) -> Mapped {
        let origin = *self.origin.get_or_insert(arrived);
        let arrived = i64::try_from(arrived.saturating_duration_since(origin).as_millis()).unwrap_or(i64::MAX);
        let expected = self.delay.get().map(|delay| arrived - delay);
        let Placed { at, is_plausible, correction } = match self.tracks.get_mut(&track) {
            Some(timeline) => {
                let is_strict = timeline.order.is_known(track) && arrived > SETTLES;
                timeline.advance(timestamp, arrived, expected.unwrap_or(arrived), is_strict, &mut self.shift)
            }
            None => {
                let (timeline, correction) = self.begin(timestamp, arrived, expected);
                let at = timeline.stamp + timeline.offset;
                self.tracks.insert(track, timeline);
                Placed { at, is_plausible: true, correction }
            }
        };
        let timeline = self.tracks.get_mut(&track).expect("it was found or inserted above");
        let is_first = timeline.dts == i64::MIN;
        let least = if is_first { 0 } else { timeline.dts.saturating_add(1) };
        let (dts, pts) = timeline.order.place(track, at, composition.into(), least);
        timeline.dts = dts;
        timeline.arrived = arrived;
        if is_plausible {
            timeline.delay.observe(arrived, arrived - at);
            self.delay.observe(arrived, arrived - at);
            self.align(track);
        }
        Mapped { dts: Timestamp::from_millis(dts), pts: Timestamp::from_millis(pts), correction }
    }

    /// Moves a track that has a clock of its own to where the least delays of all are the same: its first units may have been late, and its clock
    /// may drift.
    fn align(&mut self, track: TrackId) {
        let others = self.tracks.iter().filter(|(id, other)| **id != track && !other.is_apart);
        let Some(reference) = others.filter_map(|(_, other)| other.delay.get()).min() else { return };
        let Some(timeline) = self.tracks.get_mut(&track).filter(|timeline| timeline.is_apart) else { return };
        let Some(apart) = timeline.delay.get().map(|delay| delay - reference).filter(|by| by.abs() > ALIGNED) else {
            return;
        };
        timeline.offset += apart.signum();
        timeline.delay.shift(-apart.signum());
    }

    /// The timeline of a track whose first unit has this timestamp. It has the clock of the other tracks, unless that would put it far from
    /// what arrives at the same time.
    fn begin(&self, timestamp: u32, arrived: i64, expected: Option<i64>) -> (TrackTimeline, Option<ClockCorrection>) {
        let timeline = |stamp, offset| TrackTimeline {
            offset,
            previous_offset: None,
            delay: LeastDelay::default(),
            is_apart: false,
            stamp,
            arrived,
            dts: i64::MIN,
            interval: FIRST_INTERVAL,
            suspect: None,
            order: PresentationOrder::default(),
        };
        let known = self.tracks.values().max_by_key(|timeline| timeline.dts);
        let Some((known, expected)) = known.zip(expected) else { return (timeline(timestamp.into(), 0), None) };
        let stamp = nearest(known.stamp, timestamp);
        if (stamp + known.offset - expected).abs() <= MAX_APART {
            return (timeline(stamp, known.offset), None);
        }
        let apart = stamp + known.offset - expected;
        let own = timeline(timestamp.into(), expected - i64::from(timestamp));
        (TrackTimeline { is_apart: true, ..own }, Some(ClockCorrection::Apart(apart)))
    }
}

impl TrackTimeline {
    /// The time of the next unit on the stream's timeline. `is_strict`: its order and delay are known, so that less is plausible.
    fn advance(
        &mut self,
        timestamp: u32,
        arrived: i64,
        expected: i64,
        is_strict: bool,
        shift: &mut Option<Shift>,
    ) -> Placed {
        let (max_step, max_rewind) = match self.suspect {
            _ if !is_strict => (MAX_STEP, MAX_REWIND),
            None => STRICT,
            // It goes on where the suspect was, not quite as far back.
            Some(_) => (STRICT.0, 0),
        };
        let replaced = |at| Placed { at, is_plausible: false, correction: None };
        let stamp = nearest(self.stamp, timestamp);
        let step = stamp - self.stamp;
        let due = self.delay.get().filter(|_| is_strict).map_or(expected, |delay| arrived - delay);
        let is_ahead = step > max_step.max(self.interval * 3) && stamp + self.offset > due + max_step;
        let is_regular = self.suspect.is_some_and(|suspect| {
            let (first, second) = (suspect - self.stamp, stamp - suspect);
            first > 0 && (second - first).abs() <= first / 2
        });
        // Two steps of one length: a slide show that is sent faster than it is shown, and no clock that was set.
        if step >= -max_rewind && !is_ahead || is_regular {
            if is_regular {
                self.interval = step / 2;
            } else if (1..=MAX_STEP).contains(&step) && self.suspect.is_none() {
                self.interval = step;
            }
            self.suspect = None;
            self.stamp = stamp;
            return Placed { at: stamp + self.offset, is_plausible: true, correction: None };
        }
        let elapsed = arrived - self.arrived;
        // After a pause, the pause decides where the unit belongs; otherwise it follows the unit before.
        let next = self.dts.saturating_add(self.interval);
        let placed = if elapsed > MAX_STEP { next.max(expected) } else { next };
        let Some(suspect) = self.suspect else {
            self.suspect = Some(stamp);
            return replaced(placed);
        };
        let stamp = nearest(suspect, timestamp);
        let step = stamp - suspect;
        if !(-MAX_REWIND..=MAX_STEP.max(elapsed + MAX_STEP)).contains(&step) {
            self.suspect = Some(stamp);
            return replaced(placed);
        }
        // Two units in a row agree: the clock was set. Another track of the same clock may have told by how much, or it is set back.
        let own = self.dts + step.max(1) - stamp;
        let followed = shift.filter(|shift| arrived - shift.at <= SHIFT_MEMORY).map(|shift| self.offset + shift.by);
        let most = MAX_SHIFT_ERROR.min((self.offset - own).abs() / 2);
        let known = [followed, self.previous_offset].into_iter().flatten();
        let offset = known.into_iter().find(|offset| (offset - own).abs() <= most).unwrap_or(own);
        let correction = Some(ClockCorrection::Set(self.offset - offset));
        *shift = Some(Shift { by: offset - self.offset, at: arrived });
        (self.previous_offset, self.offset, self.stamp, self.suspect) = (Some(self.offset), offset, stamp, None);
        Placed { at: stamp + offset, is_plausible: true, correction }
    }
}

/// Tells PTS from DTS in the timestamps of a video track, and derives DTS from PTS.
///
/// DTS never go back. If timestamps do, and no unit has a composition time, they are PTS.
#[derive(Clone, Debug, Default)]
struct PresentationOrder {
    /// The newest timestamps, on the stream's timeline; at most [`MAX_DEPTH`].
    recent: Vec<i64>,
    has_composition: bool,
    steps_back: u32,
    /// Units so far, up to [`KNOWN_AFTER`].
    units: u32,
    /// The greatest number of units seen that are decoded before a unit and presented after it.
    depth: usize,
    /// The smallest is the DTS of the newest unit; `depth` more have been decoded since. Only while timestamps are PTS.
    decoded: BinaryHeap<Reverse<i64>>,
}

impl PresentationOrder {
    /// Whether the timestamps of `track` are known to be DTS, which do not go back.
    fn is_known(&self, track: TrackId) -> bool {
        let is_seen = self.units >= KNOWN_AFTER && self.steps_back < MIN_STEPS_BACK;
        !track.is_video() || self.has_composition || is_seen
    }

    /// DTS and PTS of a unit of `track` at `at`, with a DTS of at least `least`.
    fn place(&mut self, track: TrackId, at: i64, composition: i64, least: i64) -> (i64, i64) {
        if !track.is_video() {
            let dts = at.max(least);
            return (dts, if composition < 0 { at + composition } else { (at + composition).max(dts) });
        }
        self.has_composition |= composition != 0;
        self.units = (self.units + 1).min(KNOWN_AFTER);
        let before = self.recent.iter().filter(|earlier| **earlier > at).count();
        if self.recent.last().is_some_and(|last| at < last - MAX_ROUNDING) {
            self.steps_back += 1;
        }
        if self.recent.len() == MAX_DEPTH {
            self.recent.remove(0);
        }
        self.recent.push(at);
        if self.has_composition || self.steps_back < MIN_STEPS_BACK {
            self.depth = self.depth.max(before);
            let dts = at.max(least);
            return (dts, if composition < 0 { at + composition } else { (at + composition).max(dts) });
        }
        self.depth = self.depth.max(before);
        self.decoded.push(Reverse(at));
        while self.decoded.len() > self.depth + 1 {
            self.decoded.pop();
        }
        let dts = self.decoded.peek().map_or(at, |Reverse(smallest)| *smallest);
        (dts.max(least), at)
    }
}

/// The unwrapped timestamp nearest to `latest` that is `timestamp` modulo 2^32, or modulo 2^31 if only that is near: FFmpeg's timestamps wrap
/// there.
fn nearest(latest: i64, timestamp: u32) -> i64 {
    let by_32 = i64::from(timestamp.wrapping_sub(latest as u32) as i32);
    // Shifted left by one, a difference of 31 bits has its sign in bit 31.
    let by_31 = i64::from((timestamp << 1).wrapping_sub((latest as u32) << 1) as i32 >> 1);
    let wraps_at_31 = timestamp >> 31 == 0 && by_31.abs() <= MAX_APART && by_32.abs() > MAX_APART;
    latest.saturating_add(if wraps_at_31 { by_31 } else { by_32 })
}

/// The interval assumed before two units of a track have arrived.
const FIRST_INTERVAL: i64 = 23;
/// A longer step in the timestamps must be matched by a pause of the same length.
const MAX_STEP: i64 = 1000;
/// Timestamps may go back by this much: PTS of reordered pictures, rounding.
const MAX_REWIND: i64 = 1000;
/// The same once order and delay are known: jitter is less.
const STRICT: (i64, i64) = (300, 100);
/// How long it takes until the least delay is known: a publisher may begin with a queue.
const SETTLES: i64 = 5000;
/// Units after which those of a track have been seen out of order, if ever.
const KNOWN_AFTER: u32 = 40;
/// Least delays of two clocks that differ by less are the same.
const ALIGNED: i64 = 10;
/// Two tracks that start further apart than this, relative to their arrival, have different clocks.
const MAX_APART: i64 = 10_000;
/// How long after one track's clock was set the other tracks are expected to follow.
const SHIFT_MEMORY: i64 = 10_000;
/// The greatest difference between the shifts of two tracks of one clock.
const MAX_SHIFT_ERROR: i64 = 500;
/// A smaller step back is rounding.
const MAX_ROUNDING: i64 = 2;
/// Steps back after which the timestamps of a video track are taken for PTS.
const MIN_STEPS_BACK: u32 = 2;
/// H.264 and HEVC hold back at most 16 pictures (H.264 §A.3.1, HEVC §A.4.2).
const MAX_DEPTH: usize = 16;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const V: TrackId = TrackId::VIDEO;
    const A: TrackId = TrackId::AUDIO;

    /// A message: its track, when it arrives, and its timestamp, in milliseconds.
    type Message = (TrackId, u64, u32);

    fn map(messages: &[Message]) -> Vec<(TrackId, i64, i64)> {
        let (mut mapper, start) = (TimestampMapper::new(), Instant::now());
        let mut mapped = Vec::new();
        for (track, arrived, timestamp) in messages {
            let Mapped { dts, pts, .. } = mapper.map(*track, *timestamp, 0, start + Duration::from_millis(*arrived));
            mapped.push((*track, dts.as_millis(), pts.as_millis()));
        }
        mapped
    }

    /// `seconds` of pictures, 25 per second, and of sound, 50 frames per second, which arrive when they are made. `stamp` gives the timestamp of
    /// what is made at a time.
    fn live(seconds: u64, stamp: impl Fn(TrackId, u64) -> u32) -> Vec<Message> {
        let frames = (0..seconds * 1000).step_by(20);
        frames
            .flat_map(|at| {
                let picture = at.is_multiple_of(40).then_some(V);
                picture.into_iter().chain([A]).map(move |track| (track, at))
            })
            .map(|(track, at)| (track, at, stamp(track, at)))
            .collect()
    }

    /// Asserts that both tracks run on like the messages arrive, from the start to the end.
    fn assert_follows_arrival(messages: &[Message]) {
        let start = messages[0].2;
        for ((track, dts, _), (_, arrived, _)) in map(messages).into_iter().zip(messages) {
            let expected = i64::from(start) + *arrived as i64;
            assert!((dts - expected).abs() <= 40, "{track} that arrived at {arrived} is at {dts}, not at {expected}");
        }
    }

    #[test]
    fn corrections_are_told_in_words() {
        for (correction, expected) in [
            (ClockCorrection::Apart(1500), "the track has a clock of its own, 1500 ms ahead of the other tracks'"),
            (ClockCorrection::Apart(-20), "the track has a clock of its own, 20 ms behind the other tracks'"),
            (ClockCorrection::Set(3000), "the clock was set 3000 ms forward"),
            (ClockCorrection::Set(-3000), "the clock was set 3000 ms back"),
        ] {
            assert_eq!(correction.to_string(), expected);
        }
    }

    #[test]
    fn timestamps_wrap_at_32_and_at_31_bits() {
        for bits in [31, 32] {
            let start = (1u64 << bits) - 1000;
            assert_follows_arrival(&live(3, |_, at| ((start + at) % (1 << bits)) as u32));
        }
    }

    #[test]
    fn tracks_of_different_clocks_are_aligned_by_their_arrival() {
        for apart in [3_600_000, 1 << 30, 3 << 30] {
            assert_follows_arrival(&live(5, |track, at| at as u32 + if track == A { apart } else { 0 }));
        }
    }

    #[test]
    fn a_clock_of_its_own_is_aligned_even_if_its_first_units_were_late() {
        for late in [V, A] {
            let stamp = |track, at: u64| at as u32 + if track == A { 3_600_000 } else { 0 };
            let arrival = |track, at: u64| if track == late && at < 400 { 400 } else { at };
            let mut messages: Vec<_> =
                live(60, stamp).into_iter().map(|(track, at, stamp)| (track, arrival(track, at), stamp)).collect();
            messages.sort_by_key(|(_, arrived, _)| *arrived);
            let newest = |wanted| map(&messages).into_iter().rev().find(|(track, ..)| *track == wanted).unwrap().1;
            let apart = newest(A) - newest(V) - 20;
            assert!(apart.abs() <= 15, "late {late}: {apart} ms apart");
        }
    }

    #[test]
    fn tracks_of_one_clock_keep_their_distance() {
        // Sound that is encoded ahead of the pictures, and pictures that begin much later.
        let messages: Vec<_> = live(60, |track, at| at as u32 + if track == A { 900 } else { 0 })
            .into_iter()
            .filter(|(track, at, _)| *track == A || *at >= 40_000)
            .collect();
        for ((_, dts, _), (_, _, timestamp)) in map(&messages).into_iter().zip(&messages) {
            assert_eq!(dts, i64::from(*timestamp));
        }
    }

    #[test]
    fn a_stray_timestamp_is_replaced() {
        for stray in [0, 1, 4_000_000, u32::MAX] {
            for hit in [V, A] {
                for in_a_row in [1, 2] {
                    let interval = if hit == V { 40 } else { 20 };
                    let is_hit = |track, at: u64| track == hit && (20_000..20_000 + interval * in_a_row).contains(&at);
                    let messages = live(40, |track, at| if is_hit(track, at) { stray } else { 10_000 + at as u32 });
                    if in_a_row == 1 {
                        assert_follows_arrival(&messages);
                    }
                    // However many there are, what comes after is where it was.
                    let mapped = map(&messages);
                    assert!(mapped.ends_with(&[(A, 49_980, 49_980)]), "{stray} {hit}: {:?}", mapped.last());
                }
            }
        }
    }

    #[test]
    fn a_clock_that_is_set_moves_nothing() {
        for set in [-300, -800, -3000, -1_000_000, 400, 700, 1200, 25_000, 100_000_000] {
            let stamp = |_, at: u64| (2_000_000 + at as i64 + if at >= 8000 { set } else { 0 }) as u32;
            let messages = live(30, stamp);
            assert_follows_arrival(&messages);
            let mapped = map(&messages);
            let newest = |wanted| mapped.iter().rev().find(|(track, ..)| *track == wanted).map(|(_, dts, _)| *dts);
            let apart = newest(A).zip(newest(V)).map(|(a, v)| a - v);
            assert_eq!(apart, Some(20), "sound and pictures are shifted alike, after {set}");
        }
    }

    #[test]
    fn a_pause_lasts_as_long_as_nothing_arrives() {
        // The publisher's clock runs on, or starts again.
        for restarts in [false, true] {
            let stamp = |_, at: u64| (at - if restarts && at >= 30_000 { 30_000 } else { 0 }) as u32;
            let messages: Vec<_> =
                live(50, stamp).into_iter().filter(|(_, at, _)| !(10_000..30_000).contains(at)).collect();
            assert_follows_arrival(&messages);
        }
    }

    #[test]
    fn a_burst_after_a_stall_keeps_its_timestamps() {
        let messages: Vec<_> = live(30, |_, at| at as u32)
            .into_iter()
            .map(|(track, at, stamp)| (track, if (5_000..15_000).contains(&at) { 15_000 } else { at }, stamp))
            .collect();
        assert!(map(&messages).iter().zip(&messages).all(|((_, dts, _), (_, _, stamp))| *dts == i64::from(*stamp)));
    }

    #[test]
    fn a_slide_show_may_be_sent_faster_than_it_is_shown() {
        let messages: Vec<Message> = (0..50).map(|n| (V, n * 100, n as u32 * 5000)).collect();
        for ((_, dts, _), (_, _, stamp)) in map(&messages).into_iter().zip(&messages).skip(2) {
            assert_eq!(dts, i64::from(*stamp));
        }
    }

    #[test]
    fn presentation_timestamps_are_told_from_decoding_timestamps() {
        // Decoding order I P B B: presented 0 3 1 2.
        let order = |n: u64| 4 * (n / 4) + [0, 3, 1, 2][(n % 4) as usize];
        let messages: Vec<Message> = (0..200).map(|n| (V, n * 40, (order(n) * 40) as u32)).collect();
        let mapped = map(&messages);
        for (n, pair) in mapped.windows(2).enumerate().skip(9) {
            let ((_, dts, pts), (_, next, _)) = (pair[0], pair[1]);
            assert_eq!(pts, (order(n as u64) * 40) as i64);
            assert!(
                dts <= pts && next - dts == 40,
                "unit {n} is decoded at {dts}, the next at {next}, presented at {pts}"
            );
        }
    }

    proptest! {
        #[test]
        fn decoding_times_increase_whatever_arrives(
            messages in prop::collection::vec((any::<bool>(), 0u64..20_000, any::<u32>(), -10_000i32..10_000), 1..200),
        ) {
            let (mut mapper, mut now) = (TimestampMapper::new(), Instant::now());
            let mut last = BTreeMap::new();
            for (is_video, elapsed, timestamp, composition) in messages {
                now += Duration::from_millis(elapsed);
                let track = if is_video { V } else { A };
                let Mapped { dts, .. } = mapper.map(track, timestamp, composition, now);
                prop_assert!(dts >= Timestamp::ZERO);
                prop_assert!(last.insert(track, dts) < Some(dts));
            }
        }

        /// The clock of both tracks is set by less or more, at any time, with DTS or with PTS of B-frames.
        #[test]
        fn a_clock_that_is_set_moves_nothing_at_any_time(
            set in -5000i64..5000, at in 6000u64..9000, has_composition: bool, sound_lag in 0u64..300,
        ) {
            // Less is jitter.
            prop_assume!(!(-150..=350).contains(&set));
            let stamp = |_, made: u64| (2_000_000 + made as i64 + if made >= at { set } else { 0 }) as u32;
            let mut messages = live(20, stamp);
            for message in messages.iter_mut().filter(|message| message.0 == A) {
                message.1 += sound_lag;
            }
            messages.sort_by_key(|(_, arrived, _)| *arrived);
            let (mut mapper, start) = (TimestampMapper::new(), Instant::now());
            let mut last: BTreeMap<TrackId, i64> = BTreeMap::new();
            for (track, arrived, timestamp) in messages {
                let composition = if has_composition && track == V { 80 } else { 0 };
                let arrival = start + Duration::from_millis(arrived);
                let Mapped { dts, .. } = mapper.map(track, timestamp, composition, arrival);
                let interval = if track == V { 40 } else { 20 };
                if let Some(before) = last.insert(track, dts.as_millis()) {
                    let step = dts.as_millis() - before;
                    prop_assert!((interval / 2..=interval * 3 / 2).contains(&step), "{track} at {arrived}: a step of {step} ms");
                }
                let expected = 2_000_000 + arrived as i64 - if track == A { sound_lag as i64 } else { 0 };
                prop_assert!((dts.as_millis() - expected).abs() <= 40, "{track} at {arrived} is {} ms off", dts.as_millis() - expected);
            }
        }

        #[test]
        fn delay_and_jitter_of_the_network_change_no_timestamp(
            delays in prop::collection::vec(0u64..3000, 1000),
        ) {
            let mut arrived = 0;
            let messages: Vec<_> = live(20, |_, at| 500 + at as u32)
                .into_iter()
                .zip(delays.iter().cycle())
                .map(|((track, at, stamp), delay)| {
                    arrived = arrived.max(at + delay);
                    (track, arrived, stamp)
                })
                .collect();
            for ((_, dts, _), (_, _, stamp)) in map(&messages).into_iter().zip(&messages) {
                prop_assert_eq!(dts, i64::from(*stamp));
            }
        }
    }
}
