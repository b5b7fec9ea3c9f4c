//! Jitter: the spread of the transit times of video and audio units.
//!
//! A unit's *transit time* is its arrival on the viewer's clock minus its DTS. Its absolute value means nothing, as the clocks have different origins.
//! The minimum over a window is that of a unit without queueing delay, and how far the others lie above it is the jitter that a buffer must absorb.
//! The estimate rises at once to what the last two seconds need and decays slowly, as a network that was bad a moment ago is often bad again. The
//! window slides, so that clock drift never accumulates.
//!
//! An *outage* is no jitter: for a time nothing arrives by any path, then everything at once. What it has delayed says nothing about the path
//! that delivers again, and no buffer of a live stream is to absorb it. A silence that repeats is the rhythm of the path, and counts.

use std::collections::VecDeque;
use std::time::Duration;

use media::TrackKind;

/// Jitter of video and audio. They are encoded and sent at different times: each has its own minimum transit time.
#[derive(Debug)]
pub(super) struct JitterEstimator {
    video: TrackJitter,
    audio: TrackJitter,
    /// When the last unit arrived, of any kind and path.
    heard: Option<Duration>,
    /// When the last silence ended that was long enough for an outage.
    silence: Option<Duration>,
    burst: Duration,
}

impl JitterEstimator {
    /// No samples yet, of a path that delivers so much media at once.
    pub(super) fn new(burst: Duration) -> Self {
        Self { video: TrackJitter::new(burst), audio: TrackJitter::new(burst), heard: None, silence: None, burst }
    }

    /// The path has changed, and delivers so much media at once.
    pub(super) fn set_burst(&mut self, burst: Duration) {
        self.video.set_burst(burst);
        self.audio.set_burst(burst);
        self.burst = burst;
    }

    /// Something arrived at `now`, whether or not it is [recorded](Self::record). Call it first.
    pub(super) fn heard(&mut self, now: Duration) {
        let Some(before) = self.heard.replace(now) else { return };
        let silence = now.saturating_sub(before);
        // Where media is delivered in pieces, each is followed by a silence.
        if silence < MIN_OUTAGE + self.burst * 2 {
            return;
        }
        let repeats = self.silence.replace(now).is_some_and(|last| before < last + REPEATS_WITHIN);
        if !repeats || silence > MAX_RHYTHM + self.burst * 2 {
            self.recover_by(now + silence.clamp(MIN_RECOVERY, MAX_RECOVERY));
        }
    }

    /// From now on another path delivers, because the one before has failed. What was delayed meanwhile is no jitter of either.
    pub(super) fn path_switched(&mut self, now: Duration) {
        self.recover_by(now + MIN_RECOVERY);
    }

    fn recover_by(&mut self, by: Duration) {
        for track in [&mut self.video, &mut self.audio] {
            track.recovers_by = track.recovers_by.max(Some(by));
            track.recovered = i64::MAX;
        }
    }

    /// A unit arrived at `now` with this transit time in microseconds.
    pub(super) fn record(&mut self, now: Duration, kind: TrackKind, transit: i64) {
        let track = self.of_mut(kind);
        if track.is_recovering(now, transit) {
            return;
        }
        // A track that has ended is forgotten too.
        self.video.forget(now);
        self.audio.forget(now);
        self.of_mut(kind).record(now, transit);
    }

    /// The minimum transit time of one kind, in microseconds; `None` without samples.
    pub(super) fn min_of(&self, kind: TrackKind) -> Option<i64> {
        match kind {
            TrackKind::Video => self.video.min(),
            TrackKind::Audio => self.audio.min(),
        }
    }

    /// The minimum transit time of the kind that takes longer, in microseconds: behind it, both kinds have the whole buffer.
    pub(super) fn min(&self) -> Option<i64> {
        self.video.min().max(self.audio.min())
    }

    /// The jitter that a buffer must absorb, in microseconds: the larger one of the two kinds.
    pub(super) fn spread(&self) -> i64 {
        self.video.spread().max(self.audio.spread())
    }

    /// Drops the samples of one kind: they were part of a burst.
    pub(super) fn clear_of(&mut self, kind: TrackKind) {
        self.of_mut(kind).clear();
    }

    /// Drops all samples: what follows is delivered differently.
    pub(super) fn clear(&mut self) {
        self.video.clear();
        self.audio.clear();
    }

    fn of_mut(&mut self, kind: TrackKind) -> &mut TrackJitter {
        match kind {
            TrackKind::Video => &mut self.video,
            TrackKind::Audio => &mut self.audio,
        }
    }
}

/// Transit times of one kind.
#[derive(Debug)]
struct TrackJitter {
    /// Window of the minimum.
    window: Duration,
    /// Window of the spread.
    recent: Duration,
    /// Arrival, and transit time in microseconds.
    samples: VecDeque<(Duration, i64)>,
    /// The decaying spread in microseconds, and when it was last updated.
    smoothed: f64,
    at: Duration,
    /// After an outage, until no unit is late, or until this time: late ones were delayed by the outage.
    recovers_by: Option<Duration>,
    /// The least transit time since the outage.
    recovered: i64,
}

impl TrackJitter {
    fn new(burst: Duration) -> Self {
        let mut jitter = Self {
            window: WINDOW,
            recent: SPREAD_WINDOW,
            samples: VecDeque::new(),
            smoothed: 0.0,
            at: Duration::ZERO,
            recovers_by: None,
            recovered: i64::MAX,
        };
        jitter.set_burst(burst);
        jitter
    }

    fn set_burst(&mut self, burst: Duration) {
        let bursts = burst * BURSTS_IN_WINDOW;
        (self.window, self.recent) = (WINDOW.max(bursts), SPREAD_WINDOW.max(bursts));
    }

    fn record(&mut self, now: Duration, transit: i64) {
        if self.samples.len() >= MAX_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((now, transit));
        let passed = now.saturating_sub(self.at).as_secs_f64();
        let halved = self.smoothed * 0.5f64.powf(passed / HALF_LIFE.as_secs_f64());
        let faded = halved.max(self.smoothed - MAX_DECAY * passed);
        (self.smoothed, self.at) = (faded.max(self.recent_spread(now) as f64), now);
    }

    /// Whether an outage has delayed the unit that arrives at `now`, with this transit time.
    fn is_recovering(&mut self, now: Duration, transit: i64) -> bool {
        let Some(mut by) = self.recovers_by else { return false };
        if transit.saturating_add(ON_TIME) < self.recovered {
            // It arrives faster than real time, so it is still the backlog.
            by = by.max(now + MIN_RECOVERY);
            (self.recovered, self.recovers_by) = (transit, Some(by));
        }
        let is_late = self.min().is_some_and(|least| transit.saturating_sub(least) > self.spread() + ON_TIME);
        if is_late && now < by {
            return true;
        }
        if is_late {
            // The path takes longer than before.
            self.samples.clear();
        }
        self.recovers_by = None;
        false
    }

    fn forget(&mut self, now: Duration) {
        // The last samples before an outage are what its delay is measured against.
        if self.recovers_by.is_some() {
            return;
        }
        while self.samples.front().is_some_and(|(at, _)| *at + self.window < now) {
            self.samples.pop_front();
        }
    }

    fn min(&self) -> Option<i64> {
        self.samples.iter().map(|(_, transit)| *transit).min()
    }

    fn spread(&self) -> i64 {
        self.smoothed as i64
    }

    /// How far the late units of the last [`SPREAD_WINDOW`] lie above the minimum: the [`SPREAD_PER_MILLE`] per mille quantile, in microseconds.
    fn recent_spread(&self, now: Duration) -> i64 {
        let first = self.samples.partition_point(|(at, _)| *at + self.recent < now);
        let mut transits: Vec<i64> = self.samples.range(first..).map(|(_, transit)| *transit).collect();
        if transits.is_empty() {
            return 0;
        }
        let at = (transits.len() - 1) * SPREAD_PER_MILLE / 1000;
        let (_, slow, _) = transits.select_nth_unstable(at);
        slow.saturating_sub(self.min().unwrap_or(*slow))
    }

    fn clear(&mut self) {
        self.samples.clear();
        self.smoothed = 0.0;
        self.recovers_by = None;
    }
}

/// Window of the minimum: long enough to contain a unit without queueing delay, short enough to follow clock drift.
const WINDOW: Duration = Duration::from_secs(10);
/// Window of the spread.
const SPREAD_WINDOW: Duration = Duration::from_secs(2);
/// A segment's end and the next one's start must both be in the window, several times.
const BURSTS_IN_WINDOW: u32 = 4;
/// Of two seconds of pictures the slowest one may be late: to buffer for it would delay everything for a single outlier.
const SPREAD_PER_MILLE: usize = 995;
/// The spread decays by half in this time, or by [`MAX_DECAY`] if that is slower.
const HALF_LIFE: Duration = Duration::from_secs(5);
/// Microseconds a second: a little less than the 5% change of speed can catch up with, so that nothing is skipped for it.
const MAX_DECAY: f64 = 40_000.0;
/// The shortest silence that may be an outage: a path is left after about as long.
const MIN_OUTAGE: Duration = Duration::from_millis(200);
/// A silence is not an outage if it follows another one within this time.
const REPEATS_WITHIN: Duration = Duration::from_secs(10);
/// A longer silence is an outage though it repeats: no buffer covers it.
const MAX_RHYTHM: Duration = Duration::from_secs(3);
/// How long the backlog of an outage may take to become less: as long as the outage, but no less and no more than this.
const MIN_RECOVERY: Duration = Duration::from_secs(1);
const MAX_RECOVERY: Duration = Duration::from_secs(5);
/// Microseconds beyond the spread. The first unit that is not later ends the recovery.
const ON_TIME: i64 = 20_000;
/// Bounds the samples at any frame rate: 10 s of 120 pictures or 100 audio frames a second, and a reserve.
const MAX_SAMPLES: usize = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_spread_is_measured_over_the_minimum() {
        let mut jitter = TrackJitter::new(Duration::ZERO);
        assert_eq!((jitter.min(), jitter.spread()), (None, 0));
        for n in 0..200 {
            jitter.record(ms(n * 20), 500 + if n % 10 == 0 { 30_000 } else { 0 });
        }
        assert_eq!((jitter.min(), jitter.spread()), (Some(500), 30_000));
    }

    #[test]
    fn one_outlier_is_not_jitter_and_two_are_at_once() {
        let mut jitter = TrackJitter::new(Duration::ZERO);
        let late = |n| if [10, 120, 130].contains(&n) { 90_000 } else { 0 };
        for n in 0..130u64 {
            jitter.record(ms(n * 20), late(n));
        }
        assert_eq!(jitter.spread(), 0);
        jitter.record(ms(2600), late(130));
        assert_eq!(jitter.spread(), 90_000);
        // It decays slowly.
        for n in 131..381u64 {
            jitter.record(ms(n * 20), 0);
        }
        let faded = jitter.spread();
        assert!((45_000..75_000).contains(&faded), "{faded} after 5 s, of which two asked for it");
    }

    #[test]
    fn the_slower_track_kind_determines_the_minimum() {
        let mut transits = JitterEstimator::new(Duration::ZERO);
        for n in 0..100 {
            transits.record(ms(n * 20), TrackKind::Audio, 1_000);
            transits.record(ms(n * 20), TrackKind::Video, 21_000);
        }
        assert_eq!((transits.min(), transits.spread()), (Some(21_000), 0));
        // Audio alone from here on: the samples of video expire.
        (100..700).for_each(|n| transits.record(ms(n * 20), TrackKind::Audio, 1_000));
        assert_eq!((transits.min(), transits.min_of(TrackKind::Video)), (Some(1_000), None));
    }

    proptest! {
        #[test]
        fn the_spread_covers_recent_jitter_and_never_rises_by_itself(
            transits in prop::collection::vec((1..60u64, 0..200_000i64), 1..300),
        ) {
            let mut jitter = TrackJitter::new(Duration::ZERO);
            let mut now = Duration::ZERO;
            for (pause, transit) in transits {
                let before = jitter.spread();
                now += ms(pause);
                jitter.forget(now);
                jitter.record(now, transit);
                let asked = jitter.recent_spread(now);
                prop_assert!(jitter.spread() >= asked);
                prop_assert!(jitter.spread() <= before.max(asked));
                // A microsecond of rounding.
                prop_assert!(jitter.spread() + 1 >= before - (MAX_DECAY * pause as f64 / 1000.0) as i64);
            }
        }
    }
}
