//! Opens and closes paths as path selection decides, and forwards what they deliver.

use std::collections::BTreeMap;
use std::time::Duration;

use command::LogLimiter;
use media::Epoch;
use media::path_merge::PathId;
use media::select::{Action, Selector, SelectorConfig};
use quinn::Endpoint;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::api_client::ApiClient;
use super::discovery::{self, CandidateAddresses};
use super::http::{self, HttpClient};
use super::path::{Cost, Discovery, OpenContext, PathDescription, PathOptions};
use super::path_task::{PathTask, UNKNOWN_PATIENCE};
use super::reach::Reach;
use super::resolve::{ResolvedPaths, resolve};
use super::running_clock::RunningClock;
use super::{Error, Event, EventSender, PathEvent, Position, State, port_probe, relay};

/// Receives the stream at `url` into `events` until it ends, fails for good, or the receiver of `events` is dropped.
pub async fn run(url: String, options: PathOptions, position: Position, events: mpsc::Sender<Event>) {
    let http = match http::client(Reach::of(&url)) {
        Ok(http) => http,
        Err(error) => return drop(events.send(Event::Failed(error)).await),
    };
    let (mut wait, mut unknown_since) = (RETRY_MIN, None);
    let mut failure_log = LogLimiter::new(|attempts, error: &String| {
        warn!(error, attempts, "cannot query the server; retrying");
    });
    let resolved = loop {
        let _ = events.send(Event::State(State::Connecting)).await;
        let error = match resolve(&url, &options, &http).await {
            Ok(resolved) => break resolved,
            Err(error) => port_probe::explain(&url, error).await,
        };
        unknown_since = error.is_unknown_stream().then(|| unknown_since.unwrap_or_else(Instant::now));
        let is_for_now = unknown_since.is_some_and(|since| since.elapsed() < UNKNOWN_PATIENCE);
        if !error.retry() && !is_for_now {
            return drop(events.send(Event::Failed(error)).await);
        }
        failure_log.note(std::time::Instant::now(), error.to_string());
        if events.send(Event::State(State::Reconnecting { reason: error.to_string() })).await.is_err() {
            return;
        }
        sleep(jittered(wait)).await;
        wait = (wait * 2).min(RETRY_MAX);
    };
    Supervisor::new(resolved, http, options, position, events).run().await;
}

struct Supervisor {
    paths: BTreeMap<PathId, PathTask>,
    selector: Selector,
    /// How many of them are active, and how many idle.
    running: (usize, usize),
    http: HttpClient,
    /// UDP socket of all paths by the relay protocol.
    endpoint: Option<Endpoint>,
    /// What discovery has found.
    candidates: watch::Receiver<CandidateAddresses>,
    /// Asks discovery to query the server again.
    requery: mpsc::Sender<()>,
    discovery: Option<JoinHandle<()>>,
    api: Option<ApiClient>,
    /// The broadcast of the last unit.
    epoch: Option<Epoch>,
    options: PathOptions,
    position: Position,
    events: mpsc::Sender<Event>,
    path_events: mpsc::Sender<(PathId, u64, PathEvent)>,
    inbox: mpsc::Receiver<(PathId, u64, PathEvent)>,
    clock: RunningClock,
    state: Option<State>,
    end_log: LogLimiter<()>,
    stall_log: LogLimiter<()>,
}

/// The receiver of the events was dropped, or the stream has ended.
struct Closed;

impl Supervisor {
    fn new(
        resolved: ResolvedPaths,
        http: HttpClient,
        options: PathOptions,
        position: Position,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let (path_events, inbox) = mpsc::channel(EVENT_QUEUE);
        let (candidate_updates, candidates) = watch::channel(CandidateAddresses::new());
        let (requery, requests) = mpsc::channel(1);
        let endpoint = relay::endpoint().inspect_err(|error| warn!(%error, "no UDP socket: only RTMP and HLS")).ok();
        let settings = SelectorConfig {
            mode: options.mode,
            retry_min: RETRY_MIN,
            retry_max: RETRY_MAX,
            ..SelectorConfig::default()
        };
        // Without UDP there is no path to what discovery finds.
        let is_usable = |path: &PathDescription| endpoint.is_some() || path.source.discovery() == Discovery::Unused;
        let descriptions = resolved.paths.into_iter().filter(is_usable);
        let paths: BTreeMap<_, _> = (0..).map(PathId).zip(descriptions.map(PathTask::new)).collect();
        let needs_discovery = paths.values().any(|path| path.discovery() != Discovery::Unused);
        let discovery = resolved.api.clone().filter(|_| needs_discovery);
        let discovery = discovery.map(|api| tokio::spawn(discovery::run(api, candidate_updates, requests)));
        let is_known = |(_, path): &(&PathId, &PathTask)| path.discovery() != Discovery::Required;
        let known = paths.iter().filter(is_known).map(|(id, path)| (*id, path.transport().profile));
        let selector = Selector::new(settings, known);
        Self {
            paths,
            selector,
            http,
            endpoint,
            candidates,
            requery,
            running: (0, 0),
            discovery,
            api: resolved.api,
            epoch: None,
            options,
            position,
            events,
            path_events,
            inbox,
            clock: RunningClock::new(Instant::now()),
            state: Some(State::Connecting),
            end_log: LogLimiter::new(|times, ()| info!(times, "The stream has ended")),
            stall_log: LogLimiter::new(|times, ()| info!(times, "the server sends no new media")),
        }
    }

    async fn run(mut self) {
        while self.step().await.is_ok() {}
        if let Some(discovery) = self.discovery.take() {
            discovery.abort();
        }
        for path in self.paths.values_mut() {
            if let Some(task) = path.task.take() {
                task.abort();
            }
        }
    }

    async fn step(&mut self) -> Result<(), Closed> {
        let now = self.now();
        let flowing: Vec<PathId> =
            self.paths.keys().copied().filter(|path| self.selector.is_stalled(*path, now)).collect();
        self.selector.set_buffered(self.position.buffer());
        let actions = self.selector.poll(now);
        if actions.iter().any(|action| matches!(action, Action::Open(_) | Action::Start(_))) {
            for path in flowing {
                debug!(path = self.describe(path), timeout = ?self.selector.stall_timeout(path), "stalled");
                self.send(Event::Stalled(path)).await?;
            }
        }
        self.apply(actions).await?;
        let running = self.selector.running();
        if std::mem::replace(&mut self.running, running) != running {
            debug!(active = running.0, idle = running.1, "open paths");
        }
        let now = self.now();
        let idle_poll = Instant::now() + IDLE_POLL;
        let deadline = self.selector.deadline(now).map_or(idle_poll, |at| self.clock.instant(at).min(idle_poll));
        let step = tokio::select! {
            event = self.inbox.recv() => match event {
                Some((path, opening, event)) => self.on_path_event(path, opening, event).await,
                None => Err(Closed),
            },
            Ok(()) = self.candidates.changed(), if self.discovery.is_some() => {
                self.on_candidates();
                Ok(())
            }
            () = sleep_until(deadline) => Ok(()),
            () = self.events.closed() => Err(Closed),
        };
        self.clock.woke(deadline, Instant::now());
        step
    }

    async fn apply(&mut self, actions: Vec<Action>) -> Result<(), Closed> {
        for action in actions {
            debug!(?action, "path selection");
            match action {
                Action::Open(path) => self.open(path, true).await?,
                Action::OpenIdle(path) => self.open(path, false).await?,
                Action::Start(path) => self.set_active(path, true).await?,
                Action::Stop(path) => self.set_active(path, false).await?,
                Action::Close(path) => self.close(path).await?,
            }
        }
        Ok(())
    }

    /// Discovery has found addresses: paths that need one join the selection, or are tried again at once.
    fn on_candidates(&mut self) {
        let candidates = self.candidates.borrow_and_update().clone();
        if candidates.is_empty() {
            return;
        }
        debug!(?candidates, "discovered addresses of the broadcaster");
        for (id, path) in self.paths.iter().filter(|(_, path)| path.discovery() != Discovery::Unused) {
            if self.selector.contains(*id) {
                self.selector.reset_backoff(*id);
            } else {
                self.selector.add(*id, path.transport().profile);
            }
        }
    }

    async fn set_active(&mut self, id: PathId, flows: bool) -> Result<(), Closed> {
        if let Some(path) = self.paths.get(&id) {
            path.active.send_replace(flows);
        }
        // Its next unit need not follow its last one.
        self.send(if flows { Event::Gap(id) } else { Event::Idle(id) }).await
    }

    async fn on_path_event(&mut self, id: PathId, opening: u64, event: PathEvent) -> Result<(), Closed> {
        let now = self.now();
        let Some(path) = self.paths.get_mut(&id).filter(|path| path.opening == opening && path.task.is_some()) else {
            return Ok(());
        };
        match event {
            PathEvent::Opened { burst, complete, transport } => {
                path.unknown_stream = None;
                self.selector.on_connected(id);
                let transport = transport.unwrap_or(path.transport());
                let (source, delivery) = (path.description.name_by(transport), transport.delivery);
                let is_first = !path.has_delivered;
                self.send(Event::Opened { path: id, source, burst, complete, delivery }).await?;
                if is_first && !self.paths.values().any(|p| p.has_delivered) {
                    self.set_state(State::Waiting).await?;
                }
            }
            PathEvent::BurstChanged(burst) => self.send(Event::BurstChanged { path: id, burst }).await?,
            PathEvent::NotLive => {
                self.end_log.note(std::time::Instant::now(), ());
                self.set_state(State::Waiting).await?;
            }
            PathEvent::Stalled => {
                self.stall_log.note(std::time::Instant::now(), ());
                self.set_state(State::Waiting).await?;
            }
            PathEvent::Idle => self.selector.on_idle(id),
            PathEvent::Capacity(has_capacity) => {
                self.selector.on_capacity(id, has_capacity);
                if !has_capacity {
                    self.send(Event::NoCapacity(id)).await?;
                }
            }
            PathEvent::RequestSent(at) => self.send(Event::RequestSent { path: id, at }).await?,
            PathEvent::Timing(report, exchange) => self.send(Event::Timing { path: id, report, exchange }).await?,
            PathEvent::Gap => {
                let actions = self.selector.on_gap(id, now);
                self.apply(actions).await?;
                // If units state their predecessor, the merge detects gaps itself.
                if self.paths.get(&id).is_some_and(|path| !path.transport().states_predecessor) {
                    self.send(Event::Gap(id)).await?;
                }
            }
            PathEvent::Unit(catalog, unit, predecessor) => {
                path.has_delivered = true;
                path.logged_failure = None;
                let is_another = self.epoch.replace(unit.epoch) != Some(unit.epoch);
                if is_another {
                    self.selector.on_new_epoch();
                }
                self.selector.on_unit(id, now, unit.track.kind, unit.dts, predecessor.dts());
                if is_another {
                    // A new broadcast, whose broadcaster may have another certificate and other addresses.
                    let _ = self.requery.try_send(());
                }
                self.set_state(State::Live).await?;
                self.send(Event::Unit { path: id, catalog, unit, predecessor }).await?;
            }
            PathEvent::Closed(result) => {
                path.task = None;
                let is_discovered = path.discovery() != Discovery::Unused;
                self.send(Event::Closed { path: id, failed: true }).await?;
                if is_discovered {
                    let _ = self.requery.try_send(());
                }
                match result {
                    Ok(()) if self.paths.len() == 1 => {
                        self.end_log.note(std::time::Instant::now(), ());
                        self.send(Event::Ended).await?;
                        return Err(Closed);
                    }
                    // If there are other paths, the stream may continue when the broadcaster returns.
                    Ok(()) => self.on_failure(id, Error::NotLive { address: self.describe(id) }).await?,
                    Err(error) => self.on_failure(id, error).await?,
                }
            }
        }
        Ok(())
    }

    async fn on_failure(&mut self, id: PathId, error: Error) -> Result<(), Closed> {
        let now = self.now();
        let unknown_before = self.paths.get_mut(&id).and_then(|path| path.unknown_stream.take());
        // Not a failure, and there is no other path: retry at a constant interval, so that the start of the stream is not missed.
        if matches!(error, Error::NotLive { .. }) && self.paths.len() == 1 {
            debug!(%error, "the stream is not live");
            self.set_state(State::Waiting).await?;
            self.selector.on_reopened(id, now);
            return self.open_after(id, true, jittered(NOT_LIVE_POLL)).await;
        }
        self.selector.on_failed(id, now);
        let is_denied =
            self.paths.values().any(|path| matches!(path.permanently_failed, Some(Error::WrongCode { .. })));
        let Some(path) = self.paths.get_mut(&id) else { return Ok(()) };
        let is_unknown = error.is_unknown_stream();
        // What does not answer beside a broadcaster that denies the code is another of its addresses, as a rule.
        let is_beside_denial = is_denied && !path.has_delivered && matches!(error, Error::Unreachable { .. });
        // An error before the first unit is final, except that a stream may be unknown for a moment only.
        let is_permanent = error.is_final() || is_beside_denial || !error.retry() && !is_unknown && !path.has_delivered;
        let is_news = path.logged_failure.as_ref() != Some(&error.to_string());
        path.logged_failure = Some(error.to_string());
        match &error {
            Error::NotLive { .. } => {
                debug!(%error, "a path failed: the stream is not live");
                self.set_state(State::Waiting).await?;
            }
            error if is_permanent => warn!(%error, "a path failed for good"),
            // Other paths deliver, so this is not an outage.
            error if self.paths.values().any(|path| path.task.is_some() && path.has_delivered) => {
                if is_news {
                    info!(%error, "a path failed; other paths continue, and it is tried again with growing pauses");
                } else {
                    debug!(%error, "a path failed again");
                }
            }
            error => {
                if is_news {
                    warn!(%error, "a path failed; retrying with growing pauses");
                } else {
                    debug!(%error, "a path failed again");
                }
                self.set_state(State::Reconnecting { reason: error.to_string() }).await?;
            }
        }
        if let Some(path) = self.paths.get_mut(&id) {
            if is_permanent {
                path.permanently_failed = Some(error);
            } else if is_unknown {
                path.unknown_stream = Some((unknown_before.map_or_else(Instant::now, |(since, _)| since), error));
            }
        }
        if self.paths.values().all(PathTask::is_hopeless) {
            let failures = self.paths.values_mut().filter_map(PathTask::take_failure);
            if let Some(error) = failures.min_by_key(|error| !matches!(error, Error::WrongCode { .. })) {
                self.send(Event::Failed(error)).await?;
            }
            return Err(Closed);
        }
        Ok(())
    }

    async fn open(&mut self, id: PathId, flows: bool) -> Result<(), Closed> {
        // The viewers of a server that was lost must not all reconnect in the same instant.
        let is_crowd =
            self.paths.get(&id).is_some_and(|path| path.opening > 0 && path.transport().cost == Cost::Server);
        self.open_after(id, flows, if is_crowd { jittered(RETRY_JITTER) } else { Duration::ZERO }).await
    }

    async fn open_after(&mut self, id: PathId, flows: bool, pause: Duration) -> Result<(), Closed> {
        let (is_only_path, keep_all) = (self.paths.len() == 1, self.options.keep_all);
        let candidates = self.candidates.borrow().clone();
        let now = self.now();
        let Some(path) = self.paths.get_mut(&id) else { return Ok(()) };
        if path.permanently_failed.is_some() {
            self.selector.on_failed(id, now);
            return Ok(());
        }
        path.opening += 1;
        let events = EventSender { path: id, opening: path.opening, events: self.path_events.clone() };
        path.active.send_replace(flows);
        let source = path.description.source.clone();
        let context = OpenContext {
            position: self.position.clone(),
            http: self.http.clone(),
            is_only_path,
            keep_all,
            endpoint: self.endpoint.clone(),
            active: path.active.subscribe(),
            api: self.api.clone(),
            is_reopening: path.opening > 1,
            candidates,
        };
        path.task = Some(tokio::spawn(async move {
            sleep(pause).await;
            let result = source.open(context, &events).await;
            let _ = events.send(PathEvent::Closed(result)).await;
        }));
        Ok(())
    }

    async fn close(&mut self, id: PathId) -> Result<(), Closed> {
        if let Some(task) = self.paths.get_mut(&id).and_then(|path| path.task.take()) {
            task.abort();
        }
        let now = self.now();
        let failed = self.selector.is_stalled(id, now);
        self.send(Event::Closed { path: id, failed }).await
    }

    async fn set_state(&mut self, state: State) -> Result<(), Closed> {
        if self.state.as_ref() != Some(&state) {
            self.state = Some(state.clone());
            self.send(Event::State(state)).await?;
        }
        Ok(())
    }

    async fn send(&self, event: Event) -> Result<(), Closed> {
        self.events.send(event).await.map_err(|_| Closed)
    }

    fn describe(&self, id: PathId) -> String {
        self.paths.get(&id).map_or(String::new(), |path| path.description.name())
    }

    fn now(&mut self) -> Duration {
        self.clock.at(Instant::now())
    }
}

fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(0.5..1.0))
}

/// First wait before another attempt; doubles with each failure in a row.
const RETRY_MIN: Duration = Duration::from_millis(500);
/// The longest wait between attempts; a viewer may miss the start of a stream by as much.
const RETRY_MAX: Duration = Duration::from_secs(8);
/// The longest wait between two attempts at a stream that is not on air.
const NOT_LIVE_POLL: Duration = Duration::from_secs(1);
/// Spread of the reconnects of many viewers.
const RETRY_JITTER: Duration = Duration::from_millis(300);
/// How often path selection is polled where it has no deadline.
const IDLE_POLL: Duration = Duration::from_secs(1);
/// Bounds what is read ahead of the merge: a quarter of a second of audio and video.
const EVENT_QUEUE: usize = 32;

#[cfg(test)]
mod tests;
