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
    pub via: TransportFilter,
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
pub async fn run(url: String, wishes: PathOptions, position: Position, events: mpsc::Sender<Event>) {
    let http = match hls::client() {
        Ok(http) => http,
        Err(error) => return drop(events.send(Event::Failed(error)).await),
    };
    let mut wait = RETRY_MIN;
    let plan = loop {
        let _ = events.send(Event::State(State::Connecting)).await;
        let error = match resolve(&url, wishes.via, wishes.code.as_deref(), &http).await {
            Ok(plan) => break plan,
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
    Supervisor::new(plan, http, wishes, position, events).run().await;
}

struct Path {
    way: Transport,
    /// Of a path that can be idle: whether it is to flow.
    flow: watch::Sender<bool>,
    /// What an HLS path keeps from one opening to the next.
    hls: HlsPath,
    opening: u64,
    task: Option<JoinHandle<()>>,
    /// Whether a unit has ever come by it.
    worked: bool,
    /// It failed in a way that trying again does not mend.
    hopeless: Option<Error>,
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
    places: watch::Receiver<CandidateAddresses>,
    /// Has the server asked again where that is.
    ask_again: mpsc::Sender<()>,
    discovery: Option<JoinHandle<()>>,
    host: Option<ApiClient>,
    /// The broadcast that came last.
    epoch: Option<Epoch>,
    wishes: PathOptions,
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
        plan: ResolvedPaths,
        http: reqwest::Client,
        wishes: PathOptions,
        position: Position,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let (reports, inbox) = mpsc::channel(REPORTS);
        let (places_found, places) = watch::channel(CandidateAddresses::new());
        let (ask_again, asked) = mpsc::channel(1);
        let endpoint = relay::endpoint().inspect_err(|error| warn!(%error, "no UDP: only RTMP and HLS")).ok();
        let settings = SelectorConfig {
            mode: wishes.mode,
            retry_min: RETRY_MIN,
            retry_max: RETRY_MAX,
            ..SelectorConfig::default()
        };
        let mut ways: Vec<Transport> = plan.paths.into_iter().map(Transport::Fixed).collect();
        let mut discovery = None;
        if let Some(host) = plan.host.clone().filter(|_| endpoint.is_some() && plan.seeks_peer) {
            discovery = Some(tokio::spawn(discovery::run(host.clone(), places_found, asked)));
            ways.push(Transport::Peer { host, by_hand: wishes.peers.clone() });
        }
        let path = |way| Path {
            way,
            flow: watch::Sender::new(true),
            hls: HlsPath::default(),
            opening: 0,
            task: None,
            worked: false,
            hopeless: None,
        };
        let paths: BTreeMap<_, _> = (0..).map(PathId).zip(ways.into_iter().map(path)).collect();
        // The broadcaster joins the ladder once it is known where it may be.
        let is_known = |path: &&Path| match &path.way {
            Transport::Fixed(_) => true,
            Transport::Peer { by_hand, .. } => !by_hand.is_empty() || wishes.via == TransportFilter::Peer,
        };
        let kinds = paths.iter().filter(|(_, path)| is_known(path)).map(|(id, path)| (*id, path.way.kind()));
        let selector = Selector::new(settings, kinds);
        Self {
            paths,
            selector,
            http,
            endpoint,
            places,
            ask_again,
            running: (0, 0),
            discovery,
            host: plan.host,
            epoch: None,
            wishes,
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
                debug!(path = self.describe(path), patience = ?self.selector.stall_timeout(path), "silent");
                self.send(Event::Stalled(path)).await?;
            }
        }
        self.act(actions).await?;
        let running = self.selector.running();
        if std::mem::replace(&mut self.running, running) != running {
            debug!(flowing = running.0, idle = running.1, "paths");
        }
        let deadline = self.selector.deadline(self.now()).map_or(Instant::now() + IDLE_POLL, |at| self.started + at);
        tokio::select! {
            report = self.inbox.recv() => match report {
                Some((path, opening, report)) => self.report(path, opening, report).await,
                None => Err(Closed),
            },
            Ok(()) = self.places.changed(), if self.discovery.is_some() => {
                self.found();
                Ok(())
            }
            () = sleep_until(deadline) => Ok(()),
            () = self.events.closed() => Err(Closed),
        }
    }

    async fn act(&mut self, actions: Vec<Action>) -> Result<(), Closed> {
        for action in actions {
            debug!(?action, "path");
            match action {
                Action::Open(path) => self.open(path, true).await?,
                Action::OpenIdle(path) => self.open(path, false).await?,
                Action::Start(path) => self.flow(path, true).await?,
                Action::Stop(path) => self.flow(path, false).await?,
                Action::Close(path) => self.close(path).await?,
            }
        }
        Ok(())
    }

    /// The broadcaster may be somewhere: its path joins the ladder, or is tried again at once.
    fn found(&mut self) {
        let places = self.places.borrow_and_update().clone();
        let peer = self.paths.iter().find(|(_, path)| matches!(path.way, Transport::Peer { .. })).map(|(id, _)| *id);
        let Some(peer) = peer.filter(|_| !places.is_empty()) else { return };
        debug!(?places, "the broadcaster may be on this network");
        if self.selector.contains(peer) {
            self.selector.reset_backoff(peer);
        } else {
            self.selector.add(peer, PathKind::Peer);
        }
    }

    async fn flow(&mut self, id: PathId, flows: bool) -> Result<(), Closed> {
        if let Some(path) = self.paths.get(&id) {
            path.flow.send_replace(flows);
        }
        // What it brings next need not follow on what it brought.
        self.send(if flows { Event::Gap(id) } else { Event::Idle(id) }).await
    }

    async fn report(&mut self, id: PathId, opening: u64, report: PathEvent) -> Result<(), Closed> {
        let now = self.now();
        let Some(path) = self.paths.get_mut(&id).filter(|path| path.opening == opening && path.task.is_some()) else {
            return Ok(());
        };
        match report {
            PathEvent::Opened { burst, complete, by_parts } => {
                self.selector.on_connected(id);
                let source = path.way.describe_as(by_parts);
                let is_first = !path.worked;
                let delivery = path.way.delivery(by_parts);
                self.send(Event::Opened { path: id, source, burst, complete, delivery }).await?;
                if is_first && !self.paths.values().any(|p| p.worked) {
                    self.state(State::Waiting).await?;
                }
            }
            PathEvent::NotLive => {
                info!("The stream has ended");
                self.state(State::Waiting).await?;
            }
            PathEvent::Stalled => {
                info!("the server has had nothing new for a while");
                self.state(State::Waiting).await?;
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
                self.act(actions).await?;
                // Units that say what they follow need no word of it.
                if !path_says_what_follows(self.paths.get(&id)) {
                    self.send(Event::Gap(id)).await?;
                }
            }
            PathEvent::Unit(catalog, unit, after) => {
                path.worked = true;
                let is_another = self.epoch.replace(unit.epoch) != Some(unit.epoch);
                if is_another {
                    self.selector.on_new_epoch();
                }
                self.selector.on_unit(id, now, unit.track.kind, unit.dts, after);
                if is_another {
                    // A broadcast that the server may not have known when it was asked: its broadcaster has a certificate of its own.
                    let _ = self.ask_again.try_send(());
                }
                self.state(State::Live).await?;
                self.send(Event::Unit { path: id, catalog, unit, after }).await?;
            }
            PathEvent::Closed(result) => {
                path.task = None;
                let is_peer = matches!(path.way, Transport::Peer { .. });
                self.send(Event::Closed { path: id, failed: true }).await?;
                if is_peer {
                    let _ = self.ask_again.try_send(());
                }
                match result {
                    Ok(()) if self.paths.len() == 1 => {
                        info!("The stream has ended");
                        self.send(Event::Ended).await?;
                        return Err(Closed);
                    }
                    // Where there are other ways, the server is one that goes on when the broadcaster comes back.
                    Ok(()) => self.failed(id, Error::NotLive { address: self.describe(id) }).await?,
                    Err(error) => self.failed(id, error).await?,
                }
            }
        }
        Ok(())
    }

    async fn failed(&mut self, id: PathId, error: Error) -> Result<(), Closed> {
        // Nothing is broken, and there is no other way: it is asked again at an even pace, so that the start is not missed.
        if matches!(error, Error::NotLive { .. }) && self.paths.len() == 1 {
            debug!(%error);
            self.state(State::Waiting).await?;
            return self.open_after(id, true, jittered(NOT_LIVE)).await;
        }
        self.selector.on_failed(id, self.now());
        let Some(path) = self.paths.get_mut(&id) else { return Ok(()) };
        // A server that restarts may not know its streams for a moment; one that never knew this one does not.
        let is_hopeless = !error.retry() && !path.worked;
        match &error {
            Error::NotLive { .. } => {
                debug!(%error);
                self.state(State::Waiting).await?;
            }
            error if is_hopeless => warn!(%error, "this path is of no use"),
            // Other paths play on: it is no outage that one more can not be had.
            error if self.paths.values().any(|path| path.task.is_some() && path.worked) => {
                info!(%error, "a path broke; others go on");
            }
            error => {
                warn!(%error, "a path broke; trying again");
                self.state(State::Reconnecting { reason: error.to_string() }).await?;
            }
        }
        if is_hopeless {
            if let Some(path) = self.paths.get_mut(&id) {
                path.hopeless = Some(error);
            }
            if self.paths.values().all(|path| path.hopeless.is_some()) {
                let first = self.paths.values_mut().find_map(|path| path.hopeless.take());
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
        let is_again =
            self.paths.get(&id).is_some_and(|path| path.opening > 0 && !matches!(path.way, Transport::Peer { .. }));
        self.open_after(id, flows, if is_again { jittered(RETRY_JITTER) } else { Duration::ZERO }).await
    }

    async fn open_after(&mut self, id: PathId, flows: bool, pause: Duration) -> Result<(), Closed> {
        let (alone, keep_all) = (self.paths.len() == 1, self.wishes.keep_all);
        let places = self.places.borrow().clone();
        let Some(path) = self.paths.get_mut(&id) else { return Ok(()) };
        if path.hopeless.is_some() {
            self.selector.on_failed(id, self.started.elapsed());
            return Ok(());
        }
        path.opening += 1;
        let reporter = EventSender { path: id, opening: path.opening, reports: self.reports.clone() };
        path.flow.send_replace(flows);
        let way = path.way.clone();
        let with = OpenContext {
            position: self.position.clone(),
            http: self.http.clone(),
            hls: path.hls.clone(),
            alone,
            keep_all,
            endpoint: self.endpoint.clone(),
            flow: path.flow.subscribe(),
            server: self.host.clone(),
            // A server that was restarted since has another certificate.
            is_again: path.opening > 1,
            places,
        };
        path.task = Some(tokio::spawn(async move {
            sleep(pause).await;
            let result = way.run(with, &reporter).await;
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

    async fn state(&mut self, state: State) -> Result<(), Closed> {
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
        self.paths.get(&id).map_or(String::new(), |path| path.way.describe())
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

fn path_says_what_follows(path: Option<&Path>) -> bool {
    path.is_some_and(|path| path.way.kind().can_idle())
}

fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(0.5..1.0))
}

/// First wait before another attempt.
const RETRY_MIN: Duration = Duration::from_millis(500);
/// The longest wait: a viewer should not miss the start of a stream by more.
const RETRY_MAX: Duration = Duration::from_secs(8);
/// The longest wait between two questions whether a stream is on the air.
const NOT_LIVE: Duration = Duration::from_secs(1);
/// Spread of the attempts of many viewers.
const RETRY_JITTER: Duration = Duration::from_millis(300);
/// How often the selection is asked even though it named no time.
const IDLE_POLL: Duration = Duration::from_secs(1);
/// Bounds what is read ahead of the path merger: a quarter of a second of pictures and sound.
const REPORTS: usize = 32;
