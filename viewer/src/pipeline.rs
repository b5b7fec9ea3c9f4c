//! From the source's events to all consumers of units: merges the paths, then feeds the unit log, the recordings, the pipe and playback.
//!
//! One thread does this, so that all consumers see the same order. It blocks on a full recording queue, or on a full buffer if nothing may be
//! skipped; the bounded channels before it then apply backpressure to the sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use command::LogLimiter;
use media::latency::{DeliveryMode, Stage};
use media::path_merge::{MergedUnit, PathId, PathMerger};
use media::{AccessUnit, Catalog, Epoch, Timestamp, TrackId, WallClock};
use net::clock;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

use crate::figures;
use crate::player_context::PlayerContext;
use crate::record::Recorder;
use crate::source::{self, Event, Position, State};
use crate::stats::LIVE;
use crate::switches::{Switch, SwitchReason};
use crate::unit_log::UnitLog;

/// The consumers of units other than playback.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Recordings and pipes.
    pub recorders: Vec<Recorder>,
    /// The file of `--unit-log`.
    pub unit_log: Option<UnitLog>,
    /// Whether two paths deliver all the time: then playback is timed by the slower one.
    pub hot: bool,
    /// How long the merge waits for another path to fill a gap.
    pub gap_timeout: Duration,
}

/// Handles events until the source ends or the viewer stops; returns the error if the source failed.
pub fn run(
    player: &PlayerContext,
    events: mpsc::Receiver<Event>,
    position: &Position,
    outputs: Outputs,
    runtime: &Handle,
) -> Option<source::Error> {
    let mut pipeline = Pipeline {
        player,
        position,
        outputs,
        merger: PathMerger::new(),
        active_path: None,
        last_arrival: None,
        candidate: None,
        repeated: 0,
        inactive: BTreeSet::new(),
        sources: BTreeMap::new(),
        deliveries: BTreeMap::new(),
        requested_at: BTreeMap::new(),
        switch_reasons: BTreeMap::new(),
        waiting_since: None,
        catalog: None,
        merged: Vec::new(),
        catalog_log: LogLimiter::new(|catalogs, (epoch, codecs): &(Epoch, Vec<String>)| {
            info!(%epoch, codecs = codecs.join(", "), tracks = codecs.len(), catalogs, "new catalog");
        }),
        loss_log: LogLimiter::new(|lost, track: &TrackId| warn!(%track, lost, "units lost")),
        state_log: LogLimiter::with_burst(STATE_LINES, |changes, state: &String| {
            info!(state, changes, "state changed")
        }),
    };
    let failure = pipeline.run(events, runtime);
    pipeline.finish();
    failure
}

struct Pipeline<'a> {
    player: &'a PlayerContext,
    position: &'a Position,
    outputs: Outputs,
    merger: PathMerger,
    /// Name and burst (media delivered at once) of each path.
    sources: BTreeMap<PathId, (String, Duration)>,
    /// How each path delivers.
    deliveries: BTreeMap<PathId, DeliveryMode>,
    /// When the data that arrives now was requested, on paths by request.
    requested_at: BTreeMap<PathId, WallClock>,
    /// The path that delivers the pictures, or the sound while there are none.
    active_path: Option<PathId>,
    /// When the last picture arrived, and its DTS.
    last_arrival: Option<(Duration, Timestamp)>,
    /// Another path that delivered the last pictures first.
    candidate: Option<SwitchCandidate>,
    /// Duplicate units at the last path switch.
    repeated: u64,
    /// Paths that deliver nothing: idle or closed.
    inactive: BTreeSet<PathId>,
    /// Why a path is about to be left, or was.
    switch_reasons: BTreeMap<PathId, SwitchReason>,
    /// Since when units wait behind a gap.
    waiting_since: Option<Duration>,
    /// The catalog of the last unit.
    catalog: Option<Arc<Catalog>>,
    merged: Vec<MergedUnit>,
    catalog_log: LogLimiter<(Epoch, Vec<String>)>,
    loss_log: LogLimiter<TrackId>,
    state_log: LogLimiter<String>,
}

/// A path that may become the active one.
#[derive(Clone, Copy)]
struct SwitchCandidate {
    path: PathId,
    /// Pictures that it delivered first, in a row.
    wins: u32,
    /// By how much the first of them was late.
    delay: Option<Duration>,
    /// PTS of that one.
    pts: Timestamp,
    /// Pictures missing before any of them.
    lost: u32,
}

impl Pipeline<'_> {
    fn run(&mut self, mut events: mpsc::Receiver<Event>, runtime: &Handle) -> Option<source::Error> {
        while !self.player.is_stopping() {
            match runtime.block_on(async { tokio::time::timeout(TICK, events.recv()).await }) {
                Ok(Some(Event::Failed(error))) => return Some(error),
                Ok(Some(Event::Ended) | None) => return None,
                Ok(Some(event)) => self.on_event(event),
                Err(_) => {}
            }
            self.check_gap_timeout();
            self.distribute();
        }
        None
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Opened { path, source, burst, complete, delivery } => {
                info!(source, "connected");
                self.deliveries.insert(path, delivery);
                self.merger.open(path);
                self.switch_reasons.remove(&path);
                let is_known = self.sources.insert(path, (source.clone(), burst)).is_some();
                if is_known && self.merger.counters().units > 0 {
                    self.player.stats.lock().reconnects += 1;
                }
                // A path that continues at its last position has the same timing.
                let goes_on = is_known && burst.is_zero() && self.merger.counters().units > 0 && !complete;
                if self.merger.active_path().is_none_or(|leader| leader == path && !goes_on) {
                    let mut playback = self.player.playback.lock();
                    playback.set_complete(complete);
                    playback.reset_timing(self.player.clock.now(), burst);
                    drop(playback);
                    self.player.stats.lock().source = source;
                }
            }
            Event::BurstChanged { path, burst } => {
                debug!(source = self.path_name(path), ?burst, "segments or parts have another duration");
                if let Some((_, known)) = self.sources.get_mut(&path) {
                    *known = burst;
                }
                if self.merger.active_path() == Some(path) {
                    self.player.playback.lock().reset_timing(self.player.clock.now(), burst);
                }
            }
            Event::Gap(path) => self.merger.gap(path),
            Event::Idle(path) => {
                self.inactive.insert(path);
                self.merger.open(path);
            }
            Event::Stalled(path) => {
                self.switch_reasons.insert(path, SwitchReason::Stalled);
            }
            Event::NoCapacity(path) => {
                if self.active_path == Some(path) {
                    self.switch_reasons.insert(path, SwitchReason::NoCapacity);
                }
            }
            Event::Closed { path, failed } => {
                self.inactive.insert(path);
                if failed {
                    self.switch_reasons.entry(path).or_insert(SwitchReason::Failed);
                }
                self.merger.close(path, &mut self.merged);
            }
            Event::RequestSent { path, at } => {
                self.requested_at.insert(path, at);
            }
            Event::Timing { path, report, exchange } => {
                let mut stats = self.player.stats.lock();
                stats.tracker.on_report(self.player.clock.now(), path, &report, exchange);
            }
            Event::Unit { path, catalog, unit, predecessor } => {
                self.inactive.remove(&path);
                if catalog.timing_track() == Some(unit.track) {
                    self.record_arrival(path, &unit);
                }
                if let Some(trace) = &self.player.trace {
                    trace.now("received", &unit, self.path_name(path));
                }
                let (epoch, track, dts) = (unit.epoch, unit.track, unit.dts);
                let before = self.merger.counters().duplicates;
                self.merger.push(path, &catalog, unit, predecessor, &mut self.merged);
                let is_copy = self.merger.counters().duplicates > before;
                let is_even = self.sources.get(&path).is_some_and(|(_, burst)| burst.is_zero());
                if self.outputs.hot && is_copy && is_even {
                    self.player.playback.lock().on_duplicate(self.player.clock.now(), epoch, track.kind, dts);
                }
            }
            Event::State(state) => self.on_state(&state),
            Event::Ended | Event::Failed(_) => {}
        }
    }

    /// Stamps when the unit was requested and received.
    fn record_arrival(&self, path: PathId, unit: &AccessUnit) {
        let requested_at = self.requested_at.get(&path).map(|at| (Stage::Requested, *at));
        if let Some((trace, (stage, at))) = self.player.trace.as_ref().zip(requested_at) {
            trace.note(stage.name(), unit, self.path_name(path), at);
        }
        // The first of several copies counts; with two paths it is nearly always the active one's.
        let tracker = &mut self.player.stats.lock().tracker;
        for (stage, at) in requested_at.into_iter().chain([(Stage::Received, clock::now())]) {
            tracker.stamp(unit.epoch, unit.track, unit.dts, stage, at);
        }
    }

    fn on_state(&mut self, state: &State) {
        let text = match state {
            State::Connecting => "connecting".to_owned(),
            State::Waiting => "waiting for the broadcast".to_owned(),
            State::Live => LIVE.to_owned(),
            State::Reconnecting { reason } => format!("reconnecting: {reason}"),
        };
        self.state_log.note(Instant::now(), text.clone());
        self.player.stats.lock().state = text;
    }

    /// Skips a gap that no other path has filled in time.
    fn check_gap_timeout(&mut self) {
        let now = self.player.clock.now();
        match (self.merger.waiting(), self.waiting_since) {
            (None, _) => self.waiting_since = None,
            (Some(_), None) => self.waiting_since = Some(now),
            (Some(_), Some(since)) if now >= since + self.outputs.gap_timeout => {
                debug!("gap timeout: skipping the missing units");
                self.merger.skip_gap(&mut self.merged);
                self.waiting_since = None;
            }
            _ => {}
        }
    }

    fn distribute(&mut self) {
        if self.merged.is_empty() {
            return;
        }
        let leader = self.merger.active_path();
        for MergedUnit { catalog, unit, lost, path, leads } in std::mem::take(&mut self.merged) {
            if let Some(trace) = &self.player.trace {
                trace.now("merged", &unit, self.path_name(path));
            }
            if leads {
                self.detect_switch(path, &unit, lost);
            }
            if let Some((active_path, delivery)) =
                self.active_path.and_then(|active_path| Some((active_path, *self.deliveries.get(&active_path)?)))
            {
                self.player.stats.lock().tracker.set_active_path(active_path, delivery);
            }
            if lost > 0 {
                self.loss_log.note_many(Instant::now(), lost.into(), unit.track);
            }
            if self.catalog.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &catalog)) {
                self.on_catalog(&catalog);
            }
            if let Some(Err(error)) = self.outputs.unit_log.as_mut().map(|log| log.write(&unit)) {
                error!(%error, "cannot write the unit log; it ends here");
                self.outputs.unit_log = None;
                self.player.stats.lock().output_errors += 1;
            }
            let recorders = std::mem::take(&mut self.outputs.recorders);
            for recorder in recorders {
                match recorder.push(&catalog, &unit, || self.player.is_stopping()) {
                    true => self.outputs.recorders.push(recorder),
                    false => self.on_recorder_ended(recorder),
                }
            }
            if !self.player.wait_for_room() {
                return;
            }
            self.player.playback.lock().push(self.player.clock.now(), &catalog, unit);
            self.player.notify();
        }
        if let Some(epoch) = self.merger.epoch() {
            let last = self.merger.position();
            let newest = last.iter().map(|(_, dts)| *dts).max();
            // A track that has ended does not hold the position back.
            let earliest = last
                .iter()
                .map(|(_, dts)| *dts)
                .filter(|dts| newest.is_some_and(|newest| newest - *dts < MAX_TRACK_SKEW))
                .min();
            let date = self.catalog.as_ref().zip(earliest).and_then(|(catalog, dts)| catalog.captured_at(dts));
            self.position.set(epoch, last, date);
            self.position.set_buffer(self.player.playback.lock().target());
            self.position.set_presented(self.player.stats.lock().tracker.last_presented());
        }
        let mut stats = self.player.stats.lock();
        stats.merge = self.merger.counters();
        let leading = leader.and_then(|leader| self.sources.get(&leader));
        if let Some((source, burst)) = leading.filter(|(source, _)| stats.source != *source) {
            let before = self.sources.values().find(|(name, _)| *name == stats.source).map(|(_, burst)| *burst);
            stats.source.clone_from(source);
            drop(stats);
            // Another path leads. If it delivers in pieces of another size, its timing is measured anew; else the buffer and a little
            // change of speed absorb the difference.
            if before != Some(*burst) {
                self.player.playback.lock().reset_timing(self.player.clock.now(), *burst);
            }
        }
    }

    /// Detects and counts a switch to the path that delivered this unit.
    fn detect_switch(&mut self, path: PathId, unit: &AccessUnit, lost: u32) {
        let now = self.player.clock.now();
        let delay = self
            .last_arrival
            .replace((now, unit.dts))
            .map(|(before, dts)| now.saturating_sub(before).saturating_sub(unit.dts.since(dts)));
        let Some(from) = self.active_path else {
            self.active_path = Some(path);
            return;
        };
        if from == path {
            self.candidate = None;
            return;
        }
        // With two paths delivering, the first copy of each picture counts, which is no switch. It is one when the other path keeps being
        // first, or when the active path has stopped.
        let mut candidate = self.candidate.filter(|candidate| candidate.path == path);
        let candidate = candidate.get_or_insert(SwitchCandidate { path, wins: 0, delay, pts: unit.pts, lost: 0 });
        candidate.wins += 1;
        candidate.lost += lost;
        self.candidate = Some(*candidate);
        if candidate.wins < WINS_TO_SWITCH && !self.switch_reasons.contains_key(&from) && !self.inactive.contains(&from)
        {
            return;
        }
        let SwitchCandidate { delay, pts, lost, .. } = *candidate;
        (self.active_path, self.candidate) = (Some(path), None);
        let reason = self.switch_reasons.remove(&from).unwrap_or(SwitchReason::Better);
        self.player.playback.lock().path_switched(now);
        let (from, to) = (self.path_name(from).to_owned(), self.path_name(path).to_owned());
        let all = self.merger.counters().duplicates;
        let repeated = all - std::mem::replace(&mut self.repeated, all);
        info!(from, to, reason = reason.as_str(), lost, repeated, dts = unit.dts.as_millis(), "switched");
        self.player.stats.lock().switches.add(Switch { from, to, reason, lost, repeated, delay, pts, freeze: None });
    }

    /// The path's name, as in logs and statistics.
    fn path_name(&self, path: PathId) -> &str {
        self.sources.get(&path).map_or("", |(source, _)| source)
    }

    fn on_catalog(&mut self, catalog: &Arc<Catalog>) {
        if self.catalog.as_ref().is_none_or(|known| known.tracks != catalog.tracks || known.epoch != catalog.epoch) {
            let mut tracks: Vec<_> = catalog.tracks.iter().collect();
            tracks.sort_by_key(|track| track.id);
            let codecs: Vec<String> = tracks.iter().map(|track| figures::track(&track.config)).collect();
            self.catalog_log.note(Instant::now(), (catalog.epoch, codecs.clone()));
            let mut stats = self.player.stats.lock();
            (stats.codecs, stats.has_video) = (codecs, catalog.video().is_some());
        }
        self.catalog = Some(catalog.clone());
    }

    /// A recorder or pipe ended early.
    fn on_recorder_ended(&mut self, recorder: Recorder) {
        // A closed pipe is a normal end, a full disk is not.
        let is_pipe = recorder.is_pipe();
        match recorder.finish() {
            Ok(()) => info!("the pipe's reader closed it"),
            Err(error) => {
                error!(%error, "cannot write the {}; it ends here", if is_pipe { "pipe" } else { "recording" });
                self.player.stats.lock().output_errors += 1;
            }
        }
        if is_pipe {
            self.player.stop();
        }
    }

    /// Finishes all outputs.
    fn finish(mut self) {
        for recorder in std::mem::take(&mut self.outputs.recorders) {
            if let Err(error) = recorder.finish() {
                error!(%error, "a recording or pipe is incomplete");
                self.player.stats.lock().output_errors += 1;
            }
        }
        if let Some(Err(error)) = self.outputs.unit_log.as_mut().map(UnitLog::flush) {
            error!(%error, "the unit log is incomplete");
            self.player.stats.lock().output_errors += 1;
        }
        self.player.playback.lock().end();
        self.player.notify();
    }
}

/// So many pictures in a row delivered first by another path are a switch: a quarter of a second.
const WINS_TO_SWITCH: u32 = 8;
/// Bounds the changes of state that are logged within ten seconds one by one: a start has three.
const STATE_LINES: u32 = 10;
/// Milliseconds. Audio and video of a broadcast are not further apart.
const MAX_TRACK_SKEW: i64 = 2000;
/// How often gaps and the stop request are checked while no event arrives.
const TICK: Duration = Duration::from_millis(20);
