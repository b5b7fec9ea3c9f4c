//! When each unit is decoded and each picture shown: an adaptive jitter buffer, bounded catch-up, and skipping to get back to the live edge.
//!
//! Pure: every call takes `now` from the viewer's monotonic clock, and nothing blocks; threads, decoders and screens are elsewhere. Each epoch is
//! played on a timeline of its own, so that one broadcast can end while the next is already buffered.

mod jitter;
mod playout;
mod queue;
pub mod sound;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use media::{AccessUnit, Catalog, Epoch, Timestamp, TrackKind};

use self::playout::{Adjustment, Playout};
pub use self::playout::{MAX_SPEED_CHANGE, PlayoutConfig};
pub use self::queue::DecodeJob;
use self::queue::UnitQueue;

/// What a decoder thread does next.
#[derive(Debug)]
pub enum NextAction {
    /// Decode this unit.
    Decode(Box<DecodeJob>),
    /// Nothing is due; call again at this time, if one is given, or when a unit arrives.
    Wait(Option<Duration>),
    /// There will be no more units.
    End,
}

/// Playback's measurements, for statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PlaybackStatus {
    /// Media time that waits to be decoded.
    pub buffered: Duration,
    /// Bytes that wait to be decoded.
    pub buffered_bytes: usize,
    /// Playout delay that is aimed at, behind a unit without queueing delay.
    pub target: Duration,
    /// Spread of transit times.
    pub jitter: Duration,
    /// Media seconds per second.
    pub speed: f64,
    /// How often the buffer ran dry.
    pub stalls: u64,
    /// Video units skipped to get back to the live edge.
    pub skipped: u64,
    /// Those of them that were not skipped because the user paused or jumped.
    pub skipped_unasked: u64,
    /// Whether playback is paused.
    pub paused: bool,
}

/// Buffer and timing of everything that is played. See the module's documentation.
#[derive(Debug)]
pub struct Playback {
    config: PlayoutConfig,
    /// The newest last.
    timelines: VecDeque<Timeline>,
    next_timeline: u32,
    video: UnitQueue,
    audio: UnitQueue,
    /// Stalls of timelines that are over.
    past_stalls: u64,
    skipped: u64,
    /// Those of them that were skipped because the user paused or jumped.
    skipped_by_user: u64,
    paused: bool,
    resumed: Option<Duration>,
    ended: bool,
    /// Whether the broadcast is over and played from its start: there is no live edge.
    complete: bool,
}

#[derive(Debug)]
struct Timeline {
    id: u32,
    epoch: Epoch,
    playout: Playout,
}

impl Playback {
    /// A playback without units.
    pub fn new(config: PlayoutConfig) -> Self {
        Self {
            config,
            timelines: VecDeque::new(),
            next_timeline: 0,
            video: UnitQueue::default(),
            audio: UnitQueue::default(),
            past_stalls: 0,
            skipped: 0,
            skipped_by_user: 0,
            paused: false,
            resumed: None,
            ended: false,
            complete: false,
        }
    }

    /// Whether the caller must wait before the next [`push`](Self::push): only where nothing may be skipped.
    pub fn is_full(&self) -> bool {
        !self.may_skip() && self.is_over(MAX_SPAN, MAX_BYTES)
    }

    /// A unit arrived. Units of tracks that are not played are ignored. Does not check [`is_full`](Self::is_full).
    pub fn push(&mut self, now: Duration, catalog: &Arc<Catalog>, unit: AccessUnit) {
        let played = match unit.track.kind {
            TrackKind::Video => catalog.video(),
            TrackKind::Audio => catalog.audio(),
        };
        if played.is_none_or(|track| track.id != unit.track) {
            return;
        }
        if self.timelines.back().is_none_or(|timeline| timeline.epoch != unit.epoch) {
            self.begin(now, unit.epoch);
        }
        let timeline = self.timelines.back_mut().expect("a timeline was just begun");
        timeline.playout.on_arrival(now, unit.track.kind, unit.dts);
        let work = DecodeJob { timeline: timeline.id, catalog: catalog.clone(), unit, arrived: now, after_gap: false };
        match work.unit.track.kind {
            TrackKind::Video => self.video.push(work),
            TrackKind::Audio => self.audio.push(work),
        }
        self.adjust(now);
        if self.may_skip() {
            while self.is_over(MAX_SPAN_SKIPPING, MAX_BYTES) {
                let oldest = self.video.drop_oldest_group();
                self.count_skipped(oldest, self.paused);
                let horizon = self.video.front().map(|work| (work.timeline, work.unit.pts));
                match horizon {
                    Some((timeline, pts)) => self.audio.drop_before(timeline, pts),
                    None => self.audio.drop_oldest_group(),
                };
            }
        }
    }

    /// A duplicate of a unit arrived by a slower path. Its transit time counts for the buffer, so that playback continues without a freeze when the
    /// faster path fails.
    pub fn on_duplicate(&mut self, now: Duration, epoch: Epoch, kind: TrackKind, dts: Timestamp) {
        if let Some(timeline) = self.timelines.back_mut().filter(|timeline| timeline.epoch == epoch) {
            timeline.playout.on_duplicate(now, kind, dts);
        }
    }

    /// Adjusts speed and position; to be called regularly, also while nothing arrives.
    pub fn adjust(&mut self, now: Duration) {
        let Some(timeline) = self.timelines.back_mut() else { return };
        match timeline.playout.adjust(now) {
            Adjustment::None | Adjustment::Resync => self.drop_for_slow_decoder(now),
            Adjustment::Skip => {
                let by_user = self.resumed.is_some_and(|at| now < at + USER_JUMP_WINDOW);
                self.drop_before_position(now, by_user);
            }
        }
    }

    /// If the decoder does not keep up, skips to a random access point. Units that have only just arrived, as in a burst, do not count as late.
    fn drop_for_slow_decoder(&mut self, now: Duration) {
        let Some(timeline) = self.timelines.back().filter(|_| self.may_skip()) else { return };
        let Some(front) = self.video.front().filter(|work| work.timeline == timeline.id) else { return };
        let is_late = timeline.playout.due(front.unit.dts).is_some_and(|due| due + MAX_DECODE_LAG < now);
        let is_burst = timeline.playout.is_skipped_over(now, front.unit.pts) || front.arrived + MAX_DECODE_LAG >= now;
        if let Some(position) = timeline.playout.position(now).filter(|_| is_late && !is_burst) {
            let position = Timestamp::from_millis(position.div_euclid(1000));
            let lag = self.video.drop_to_next_random_access(timeline.id, position);
            self.count_skipped(lag, false);
        }
    }

    /// Jumps to the live edge now, at the user's request.
    pub fn jump_to_live_edge(&mut self, now: Duration) {
        if let Some(timeline) = self.timelines.back_mut() {
            timeline.playout.jump(now);
            self.drop_before_position(now, true);
        }
    }

    /// What the decoder thread of this kind does next.
    pub fn next(&mut self, kind: TrackKind, now: Duration) -> NextAction {
        let queue = match kind {
            TrackKind::Video => &mut self.video,
            TrackKind::Audio => &mut self.audio,
        };
        let Some(front) = queue.front() else {
            return if self.ended { NextAction::End } else { NextAction::Wait(None) };
        };
        let due = self.timelines.iter().find(|t| t.id == front.timeline).map(|t| t.playout.due(front.unit.dts));
        match due {
            // Paused: it has no due time.
            Some(None) => NextAction::Wait(None),
            Some(Some(due)) if due > now + DECODE_AHEAD => NextAction::Wait(Some(due - DECODE_AHEAD)),
            // Due soon, or of a timeline that is no longer kept.
            _ => queue.pop().map_or(NextAction::Wait(None), |work| NextAction::Decode(Box::new(work))),
        }
    }

    /// When `pts` of a timeline is to be presented, on the viewer's clock; `None` while paused, or if the timeline is no longer kept.
    pub fn due(&self, timeline: u32, pts: Timestamp) -> Option<Duration> {
        self.timelines.iter().find(|t| t.id == timeline)?.playout.due(pts)
    }

    /// Whether playback has skipped over `pts`, or is still moving from where it joined to the live edge. Such pictures are not meant to be on time.
    pub fn is_skipped_over(&self, now: Duration, timeline: u32, pts: Timestamp) -> bool {
        self.timelines.iter().find(|t| t.id == timeline).is_some_and(|t| t.playout.is_skipped_over(now, pts))
    }

    /// Decoding delayed a picture by this much.
    pub fn on_decoded(&mut self, took: Duration) {
        if let Some(timeline) = self.timelines.back_mut() {
            timeline.playout.on_decoded(took);
        }
    }

    /// The path was reopened or replaced, and delivers this much media at once: transit times are measured anew.
    pub fn reset_timing(&mut self, now: Duration, burst: Duration) {
        self.config.burst = burst;
        self.ended = false;
        if let Some(timeline) = self.timelines.back_mut() {
            timeline.playout.set_burst(burst);
            timeline.playout.reset_timing(now);
        }
    }

    /// Another path of the same kind delivers from now on, because the one before has failed. Call it before its first unit.
    pub fn path_switched(&mut self, now: Duration) {
        if let Some(timeline) = self.timelines.back_mut() {
            timeline.playout.path_switched(now);
        }
    }

    /// Sets whether the broadcast is over and complete: then nothing is skipped or sped up.
    pub fn set_complete(&mut self, complete: bool) {
        self.complete = complete;
        for timeline in &mut self.timelines {
            timeline.playout.set_complete(complete);
        }
    }

    /// There will be no more units.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Pauses, or resumes at the same position.
    pub fn pause(&mut self, now: Duration, paused: bool) {
        if self.paused && !paused {
            self.resumed = Some(now);
        }
        self.paused = paused;
        for timeline in &mut self.timelines {
            timeline.playout.pause(now, paused);
        }
    }

    /// Whether playback is paused.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// The playout delay that is aimed at: a delay of that much is hidden.
    pub fn target(&self) -> Duration {
        self.timelines.back().map_or(Duration::ZERO, |timeline| timeline.playout.target())
    }

    /// Video units skipped to get back to the live edge, but for those skipped because the user paused or jumped.
    pub fn skipped_unasked(&self) -> u64 {
        self.skipped - self.skipped_by_user
    }

    /// Measurements, of the newest timeline where they differ.
    pub fn status(&self) -> PlaybackStatus {
        let playout = self.timelines.back().map(|t| &t.playout);
        PlaybackStatus {
            buffered: self.video.span().max(self.audio.span()),
            buffered_bytes: self.video.bytes() + self.audio.bytes(),
            target: self.target(),
            jitter: playout.map_or(Duration::ZERO, Playout::jitter),
            speed: playout.map_or(1.0, Playout::speed),
            stalls: self.past_stalls + self.timelines.iter().map(|t| t.playout.stalls()).sum::<u64>(),
            skipped: self.skipped,
            skipped_unasked: self.skipped_unasked(),
            paused: self.paused,
        }
    }

    fn begin(&mut self, now: Duration, epoch: Epoch) {
        let mut playout = Playout::new(self.config);
        playout.pause(now, self.paused);
        playout.set_complete(self.complete);
        self.timelines.push_back(Timeline { id: self.next_timeline, epoch, playout });
        self.next_timeline += 1;
        while self.timelines.len() > MAX_TIMELINES {
            self.past_stalls += self.timelines.pop_front().map_or(0, |t| t.playout.stalls());
        }
    }

    /// Drops what need not be decoded to show the current position: all before the last random access point that is due.
    fn drop_before_position(&mut self, now: Duration, by_user: bool) {
        let Some(timeline) = self.timelines.back() else { return };
        let Some(position) = timeline.playout.position(now) else { return };
        let position = Timestamp::from_millis(position.div_euclid(1000));
        let id = timeline.id;
        let old = self.video.drop_to_random_access(id, position);
        self.count_skipped(old, by_user);
        self.audio.drop_before(id, position);
    }

    fn count_skipped(&mut self, units: u64, by_user: bool) {
        self.skipped += units;
        self.skipped_by_user += if by_user { units } else { 0 };
    }

    fn may_skip(&self) -> bool {
        self.config.may_skip && !self.complete
    }

    fn is_over(&self, span: Duration, bytes: usize) -> bool {
        self.video.span().max(self.audio.span()) > span || self.video.bytes() + self.audio.bytes() > bytes
    }
}

/// How early a unit is decoded: enough for B-frames and a slow picture; more would only keep more decoded pictures in memory.
const DECODE_AHEAD: Duration = Duration::from_millis(250);
/// A picture that waits for the decoder this long after it was due is skipped.
const MAX_DECODE_LAG: Duration = Duration::from_millis(500);
/// A skip within this time after a pause is attributed to the pause.
const USER_JUMP_WINDOW: Duration = Duration::from_secs(1);
/// Bounds the buffer where nothing may be skipped: beyond it, the source is not read.
const MAX_SPAN: Duration = Duration::from_secs(120);
/// Bounds the buffer where pictures may be skipped, as while paused: beyond it, the oldest are dropped.
const MAX_SPAN_SKIPPING: Duration = Duration::from_secs(60);
/// Bounds the buffer in bytes: 60 s at 17 Mbit/s.
const MAX_BYTES: usize = 128 << 20;
/// Timelines kept: one that ends, one that plays, and two short ones within the buffer.
const MAX_TIMELINES: usize = 4;

#[cfg(test)]
mod tests;
