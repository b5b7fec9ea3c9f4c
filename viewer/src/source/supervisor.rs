//! Opens and closes paths as the selection decides, and passes on what they bring.

use std::collections::BTreeMap;
use std::time::Duration;

use media::Epoch;
use media::path_merge::PathId;
use media::select::{Action, Mode, PathKind, Selector, SelectorConfig};
use quinn::Endpoint;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::api_client::ApiClient;
use super::discovery::{self, CandidateAddresses};
use super::hls::{self, HlsPath};
use super::relay;
use super::resolve::{ResolvedPaths, TransportFilter, resolve};
use super::transport::{OpenContext, Transport};
use super::{Error, Event, EventSender, PathEvent, Position, State};

/// What the user wants of the paths.
#[derive(Clone, Debug, Default)]
pub struct PathOptions {
    /// Which may be used.
    pub transport: TransportFilter,
    /// What stands ready behind the path in use.
    pub mode: Mode,
    /// Where the broadcaster is, by hand.
    pub peers: Vec<String>,
    /// What the broadcaster's screen shows.
    pub code: Option<String>,
    /// An outage is made up for from the oldest that a server still has, not from the live edge.
    pub keep_all: bool,
}

/// Brings the stream at `url` into `events` until it ends, or until nobody listens any more.
pub async fn run(url: String, options: PathOptions, position: Position, events: mpsc::Sender<Event>) {
    let http = match hls::client() {
        Ok(http) => http,
        Err(error) => return drop(events.send(Event::Failed(error)).await),
    };
    let mut wait = RETRY_MIN;
    let resolved = loop {
        let _ = events.send(Event::State(State::Connecting)).await;
        let error = match resolve(&url, options.transport, options.code.as_deref(), &http).await {
            Ok(resolved) => break resolved,
            Err(error) => error,
        };
        if !error.retry() {
            return drop(events.send(Event::Failed(error)).await);
        }
        warn!(%error, "cannot ask the server what it offers; trying again");
        if events.send(Event::State(State::Reconnecting { reason: error.to_string() })).await.is_err() {
            return;
        }
        sleep(jittered(wait)).await;
        wait = (wait * 2).min(RETRY_MAX);
    };
    Supervisor::new(resolved, http, options, position, events).run().await;
}

struct Path {
    transport: Transport,
    /// Of a path that can be idle: whether it is to flow.
    flow: watch::Sender<bool>,
    /// What an HLS path keeps from one opening to the next.
    hls: HlsPath,
    opening: u64,
    task: Option<JoinHandle<()>>,
    /// Whether a unit has ever come by it.
    has_delivered: bool,
    /// It failed in a way that trying again does not mend.
    permanently_failed: Option<Error>,
}

struct Supervisor {
    paths: BTreeMap<PathId, Path>,
    selector: Selector,
    /// How many of them flow, and how many are idle.
    running: (usize, usize),
    http: reqwest::Client,
    /// For all paths of the relay protocol.
    endpoint: Option<Endpoint>,
    /// Where the broadcaster is.
    candidates: watch::Receiver<CandidateAddresses>,
    /// Has the server asked again where that is.
    requery: mpsc::Sender<()>,
    discovery: Option<JoinHandle<()>>,
    api: Option<ApiClient>,
    /// The broadcast that came last.
    epoch: Option<Epoch>,
    options: PathOptions,
    position: Position,
    events: mpsc::Sender<Event>,
    reports: mpsc::Sender<(PathId, u64, PathEvent)>,
    inbox: mpsc::Receiver<(PathId, u64, PathEvent)>,
    started: Instant,
    state: Option<State>,
}

/// Nobody listens any more, or there is nothing more to tell.
struct Closed;

impl Supervisor {
    fn new(
        resolved: ResolvedPaths,
        http: reqwest::Client,
        options: PathOptions,
        position: Position,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let (reports, inbox) = mpsc::channel(EVENT_QUEUE);
        let (candidate_updates, candidates) = watch::channel(CandidateAddresses::new());
        let (requery, asked) = mpsc::channel(1);
        let endpoint = relay::endpoint().inspect_err(|error| warn!(%error, "no UDP: only RTMP and HLS")).ok();
        let settings = SelectorConfig {
            mode: options.mode,
            retry_min: RETRY_MIN,
            retry_max: RETRY_MAX,
            ..SelectorConfig::default()
        };
        let mut transports: Vec<Transport> = resolved.paths.into_iter().map(Transport::Fixed).collect();
        let mut discovery = None;
        if let Some(api) = resolved.api.clone().filter(|_| endpoint.is_some() && resolved.seeks_peer) {
            discovery = Some(tokio::spawn(discovery::run(api.clone(), candidate_updates, asked)));
            transports.push(Transport::Peer { api, manual: options.peers.clone() });
        }
        let path = |transport| Path {
            transport,
            flow: watch::Sender::new(true),
            hls: HlsPath::default(),
            opening: 0,
            task: None,
            has_delivered: false,
            permanently_failed: None,
        };
        let paths: BTreeMap<_, _> = (0..).map(PathId).zip(transports.into_iter().map(path)).collect();
        // The broadcaster joins the ladder once it is known where it may be.
        let is_known = |path: &&Path| match &path.transport {
            Transport::Fixed(_) => true,
            Transport::Peer { manual, .. } => !manual.is_empty() || options.transport == TransportFilter::Peer,
        };
        let kinds = paths.iter().filter(|(_, path)| is_known(path)).map(|(id, path)| (*id, path.transport.kind()));
        let selector = Selector::new(settings, kinds);
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
            reports,
            inbox,
            started: Instant::now(),
            state: Some(State::Connecting),
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
            debug!(flowing = running.0, idle = running.1, "paths");
        }
        let deadline = self.selector.deadline(self.now()).map_or(Instant::now() + IDLE_POLL, |at| self.started + at);
        tokio::select! {
            report = self.inbox.recv() => match report {
                Some((path, opening, report)) => self.on_path_event(path, opening, report).await,
                None => Err(Closed),
            },
            Ok(()) = self.candidates.changed(), if self.discovery.is_some() => {
                self.on_candidates();
                Ok(())
            }
            () = sleep_until(deadline) => Ok(()),
            () = self.events.closed() => Err(Closed),
        }
    }

    async fn apply(&mut self, actions: Vec<Action>) -> Result<(), Closed> {
        for action in actions {
            debug!(?action, "path");
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

    /// The broadcaster may be somewhere: its path joins the ladder, or is tried again at once.
    fn on_candidates(&mut self) {
        let candidates = self.candidates.borrow_and_update().clone();
        let peer =
            self.paths.iter().find(|(_, path)| matches!(path.transport, Transport::Peer { .. })).map(|(id, _)| *id);
        let Some(peer) = peer.filter(|_| !candidates.is_empty()) else { return };
        debug!(?candidates, "the broadcaster may be on this network");
        if self.selector.contains(peer) {
            self.selector.reset_backoff(peer);
        } else {
            self.selector.add(peer, PathKind::Peer);
        }
    }

    async fn set_active(&mut self, id: PathId, flows: bool) -> Result<(), Closed> {
        if let Some(path) = self.paths.get(&id) {
            path.flow.send_replace(flows);
        }
        // What it brings next need not follow on what it brought.
        self.send(if flows { Event::Gap(id) } else { Event::Idle(id) }).await
    }

    async fn on_path_event(&mut self, id: PathId, opening: u64, report: PathEvent) -> Result<(), Closed> {
        let now = self.now();
        let Some(path) = self.paths.get_mut(&id).filter(|path| path.opening == opening && path.task.is_some()) else {
            return Ok(());
        };
        match report {
            PathEvent::Opened { burst, complete, by_parts } => {
                self.selector.on_connected(id);
                let source = path.transport.describe_as(by_parts);
                let is_first = !path.has_delivered;
                let delivery = path.transport.delivery(by_parts);
                self.send(Event::Opened { path: id, source, burst, complete, delivery }).await?;
                if is_first && !self.paths.values().any(|p| p.has_delivered) {
                    self.set_state(State::Waiting).await?;
                }
            }
            PathEvent::NotLive => {
                info!("The stream has ended");
                self.set_state(State::Waiting).await?;
            }
            PathEvent::Stalled => {
                info!("the server has had nothing new for a while");
                self.set_state(State::Waiting).await?;
            }
            PathEvent::Idle => self.selector.on_idle(id),
            PathEvent::Capacity(has_room) => {
                self.selector.on_capacity(id, has_room);
                if !has_room {
                    self.send(Event::NoCapacity(id)).await?;
                }
            }
            PathEvent::RequestSent(at) => self.send(Event::RequestSent { path: id, at }).await?,
            PathEvent::Timing(report, exchange) => self.send(Event::Timing { path: id, report, exchange }).await?,
            PathEvent::Gap => {
                let actions = self.selector.on_gap(id, now);
                self.apply(actions).await?;
                // Units that say what they follow need no word of it.
                if !states_predecessor(self.paths.get(&id)) {
                    self.send(Event::Gap(id)).await?;
                }
            }
            PathEvent::Unit(catalog, unit, predecessor) => {
                path.has_delivered = true;
                let is_another = self.epoch.replace(unit.epoch) != Some(unit.epoch);
                if is_another {
                    self.selector.on_new_epoch();
                }
                self.selector.on_unit(id, now, unit.track.kind, unit.dts, predecessor.dts());
                if is_another {
                    // A broadcast that the server may not have known when it was asked: its broadcaster has a certificate of its own.
                    let _ = self.requery.try_send(());
                }
                self.set_state(State::Live).await?;
                self.send(Event::Unit { path: id, catalog, unit, predecessor }).await?;
            }
            PathEvent::Closed(result) => {
                path.task = None;
                let is_peer = matches!(path.transport, Transport::Peer { .. });
                self.send(Event::Closed { path: id, failed: true }).await?;
                if is_peer {
                    let _ = self.requery.try_send(());
                }
                match result {
                    Ok(()) if self.paths.len() == 1 => {
                        info!("The stream has ended");
                        self.send(Event::Ended).await?;
                        return Err(Closed);
                    }
                    // Where there are other ways, the server is one that goes on when the broadcaster comes back.
                    Ok(()) => self.on_failure(id, Error::NotLive { address: self.describe(id) }).await?,
                    Err(error) => self.on_failure(id, error).await?,
                }
            }
        }
        Ok(())
    }

    async fn on_failure(&mut self, id: PathId, error: Error) -> Result<(), Closed> {
        // Nothing is broken, and there is no other way: it is asked again at an even pace, so that the start is not missed.
        if matches!(error, Error::NotLive { .. }) && self.paths.len() == 1 {
            debug!(%error);
            self.set_state(State::Waiting).await?;
            return self.open_after(id, true, jittered(NOT_LIVE_POLL)).await;
        }
        self.selector.on_failed(id, self.now());
        let Some(path) = self.paths.get_mut(&id) else { return Ok(()) };
        // A server that restarts may not know its streams for a moment; one that never knew this one does not.
        let is_permanent = !error.retry() && !path.has_delivered;
        match &error {
            Error::NotLive { .. } => {
                debug!(%error);
                self.set_state(State::Waiting).await?;
            }
            error if is_permanent => warn!(%error, "this path is of no use"),
            // Other paths play on: it is no outage that one more can not be had.
            error if self.paths.values().any(|path| path.task.is_some() && path.has_delivered) => {
                info!(%error, "a path broke; others go on");
            }
            error => {
                warn!(%error, "a path broke; trying again");
                self.set_state(State::Reconnecting { reason: error.to_string() }).await?;
            }
        }
        if is_permanent {
            if let Some(path) = self.paths.get_mut(&id) {
                path.permanently_failed = Some(error);
            }
            if self.paths.values().all(|path| path.permanently_failed.is_some()) {
                let first = self.paths.values_mut().find_map(|path| path.permanently_failed.take());
                if let Some(error) = first {
                    self.send(Event::Failed(error)).await?;
                }
                return Err(Closed);
            }
        }
        Ok(())
    }

    async fn open(&mut self, id: PathId, flows: bool) -> Result<(), Closed> {
        // Many viewers that lost one server shall not come back in the same instant; a neighbour has few.
        let is_reopening = self
            .paths
            .get(&id)
            .is_some_and(|path| path.opening > 0 && !matches!(path.transport, Transport::Peer { .. }));
        self.open_after(id, flows, if is_reopening { jittered(RETRY_JITTER) } else { Duration::ZERO }).await
    }

    async fn open_after(&mut self, id: PathId, flows: bool, pause: Duration) -> Result<(), Closed> {
        let (alone, keep_all) = (self.paths.len() == 1, self.options.keep_all);
        let candidates = self.candidates.borrow().clone();
        let Some(path) = self.paths.get_mut(&id) else { return Ok(()) };
        if path.permanently_failed.is_some() {
            self.selector.on_failed(id, self.started.elapsed());
            return Ok(());
        }
        path.opening += 1;
        let reporter = EventSender { path: id, opening: path.opening, reports: self.reports.clone() };
        path.flow.send_replace(flows);
        let transport = path.transport.clone();
        let context = OpenContext {
            position: self.position.clone(),
            http: self.http.clone(),
            hls: path.hls.clone(),
            alone,
            keep_all,
            endpoint: self.endpoint.clone(),
            flow: path.flow.subscribe(),
            server: self.api.clone(),
            // A server that was restarted since has another certificate.
            is_reopening: path.opening > 1,
            candidates,
        };
        path.task = Some(tokio::spawn(async move {
            sleep(pause).await;
            let result = transport.run(context, &reporter).await;
            let _ = reporter.send(PathEvent::Closed(result)).await;
        }));
        Ok(())
    }

    async fn close(&mut self, id: PathId) -> Result<(), Closed> {
        if let Some(task) = self.paths.get_mut(&id).and_then(|path| path.task.take()) {
            task.abort();
        }
        let failed = self.selector.is_stalled(id, self.now());
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
        self.paths.get(&id).map_or(String::new(), |path| path.transport.describe())
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

fn states_predecessor(path: Option<&Path>) -> bool {
    path.is_some_and(|path| path.transport.kind().can_idle())
}

fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(0.5..1.0))
}

/// First wait before another attempt.
const RETRY_MIN: Duration = Duration::from_millis(500);
/// The longest wait: a viewer should not miss the start of a stream by more.
const RETRY_MAX: Duration = Duration::from_secs(8);
/// The longest wait between two questions whether a stream is on the air.
const NOT_LIVE_POLL: Duration = Duration::from_secs(1);
/// Spread of the attempts of many viewers.
const RETRY_JITTER: Duration = Duration::from_millis(300);
/// How often the selection is asked even though it named no time.
const IDLE_POLL: Duration = Duration::from_secs(1);
/// Bounds what is read ahead of the path merger: a quarter of a second of pictures and sound.
const EVENT_QUEUE: usize = 32;
