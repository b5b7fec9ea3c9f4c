//! Opens and closes paths as the selection decides, and passes on what they bring.

use std::collections::BTreeMap;
use std::time::Duration;

use media::select::{Action, PathKind, Selector, Settings};
use media::splice::PathId;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::hls::{self, HlsPath};
use super::resolve::{Protocol, Via, resolve};
use super::{Error, Event, Position, Report, Reporter, State, rtmp};

/// Brings the stream at `url` into `events` until it ends, or until nobody listens any more. With `keep_all`, an outage is
/// made up for from the oldest that a server still has, not from the live edge.
pub async fn run(url: String, via: Via, keep_all: bool, position: Position, events: mpsc::Sender<Event>) {
    let http = match hls::client() {
        Ok(http) => http,
        Err(error) => return drop(events.send(Event::Failed(error)).await),
    };
    let mut wait = RETRY_MIN;
    let paths = loop {
        let _ = events.send(Event::State(State::Connecting)).await;
        let error = match resolve(&url, via, &http).await {
            Ok(plan) => break plan.paths,
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
    Supervisor::new(paths, http, keep_all, position, events).run().await;
}

struct Path {
    protocol: Protocol,
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
    http: reqwest::Client,
    keep_all: bool,
    position: Position,
    events: mpsc::Sender<Event>,
    reports: mpsc::Sender<(PathId, u64, Report)>,
    inbox: mpsc::Receiver<(PathId, u64, Report)>,
    started: Instant,
    state: Option<State>,
}

/// Nobody listens any more, or there is nothing more to tell.
struct Over;

impl Supervisor {
    fn new(
        protocols: Vec<Protocol>,
        http: reqwest::Client,
        keep_all: bool,
        position: Position,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let (reports, inbox) = mpsc::channel(REPORTS);
        let path = |protocol| Path {
            protocol,
            hls: HlsPath::default(),
            opening: 0,
            task: None,
            worked: false,
            hopeless: None,
        };
        let paths: BTreeMap<_, _> = (0..).map(PathId).zip(protocols.into_iter().map(path)).collect();
        let kinds = paths.iter().map(|(id, path)| match path.protocol {
            Protocol::Rtmp(_) => (*id, PathKind::Rtmp),
            Protocol::Hls(_) => (*id, PathKind::Hls),
        });
        let settings = Settings { retry_min: RETRY_MIN, retry_max: RETRY_MAX, ..Settings::default() };
        let selector = Selector::new(settings, kinds);
        Self {
            paths,
            selector,
            http,
            keep_all,
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
        for path in self.paths.values_mut() {
            if let Some(task) = path.task.take() {
                task.abort();
            }
        }
    }

    async fn step(&mut self) -> Result<(), Over> {
        for action in self.selector.poll(self.now()) {
            match action {
                Action::Open(path) => self.open(path).await?,
                Action::Close(path) => self.close(path).await?,
            }
        }
        let deadline = self.selector.deadline(self.now()).map_or(Instant::now() + IDLE_POLL, |at| self.started + at);
        tokio::select! {
            report = self.inbox.recv() => match report {
                Some((path, opening, report)) => self.report(path, opening, report).await,
                None => Err(Over),
            },
            () = sleep_until(deadline) => Ok(()),
            () = self.events.closed() => Err(Over),
        }
    }

    async fn report(&mut self, id: PathId, opening: u64, report: Report) -> Result<(), Over> {
        let now = self.now();
        let Some(path) = self.paths.get_mut(&id).filter(|path| path.opening == opening && path.task.is_some()) else {
            return Ok(());
        };
        match report {
            Report::Opened { burst, complete } => {
                let source = path.protocol.describe();
                let is_first = !path.worked;
                self.send(Event::Opened { path: id, source, burst, complete }).await?;
                if is_first && !self.paths.values().any(|p| p.worked) {
                    self.state(State::Waiting).await?;
                }
            }
            Report::Waiting => {
                info!("The stream has ended");
                self.state(State::Waiting).await?;
            }
            Report::Silent => {
                info!("the server has had nothing new for a while");
                self.state(State::Waiting).await?;
            }
            Report::Gap => self.send(Event::Gap(id)).await?,
            Report::Unit(catalog, unit) => {
                path.worked = true;
                self.selector.arrived(id, now, unit.dts);
                self.state(State::Live).await?;
                self.send(Event::Unit { path: id, catalog, unit }).await?;
            }
            Report::Over(result) => {
                path.task = None;
                self.send(Event::Closed(id)).await?;
                match result {
                    Ok(()) if self.paths.len() == 1 => {
                        info!("The stream has ended");
                        self.send(Event::Ended).await?;
                        return Err(Over);
                    }
                    // Where there are other ways, the server is one that goes on when the broadcaster comes back.
                    Ok(()) => self.failed(id, Error::NotLive { address: self.describe(id) }).await?,
                    Err(error) => self.failed(id, error).await?,
                }
            }
        }
        Ok(())
    }

    async fn failed(&mut self, id: PathId, error: Error) -> Result<(), Over> {
        // Nothing is broken, and there is no other way: it is asked again at an even pace, so that the start is not missed.
        if matches!(error, Error::NotLive { .. }) && self.paths.len() == 1 {
            debug!(%error);
            self.state(State::Waiting).await?;
            return self.open_after(id, jittered(NOT_LIVE)).await;
        }
        self.selector.failed(id, self.now());
        let Some(path) = self.paths.get_mut(&id) else { return Ok(()) };
        // A server that restarts may not know its streams for a moment; one that never knew this one does not.
        let is_hopeless = !error.retry() && !path.worked;
        match &error {
            Error::NotLive { .. } => {
                debug!(%error);
                self.state(State::Waiting).await?;
            }
            error if is_hopeless => warn!(%error, "this path is of no use"),
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
                return Err(Over);
            }
        }
        Ok(())
    }

    async fn open(&mut self, id: PathId) -> Result<(), Over> {
        // Many viewers that lost one server shall not come back in the same instant.
        let is_again = self.paths.get(&id).is_some_and(|path| path.opening > 0);
        self.open_after(id, if is_again { jittered(RETRY_JITTER) } else { Duration::ZERO }).await
    }

    async fn open_after(&mut self, id: PathId, pause: Duration) -> Result<(), Over> {
        let wishes = hls::Wishes { replay: self.paths.len() == 1, keep_all: self.keep_all };
        let Some(path) = self.paths.get_mut(&id) else { return Ok(()) };
        if path.hopeless.is_some() {
            self.selector.failed(id, self.started.elapsed());
            return Ok(());
        }
        path.opening += 1;
        let reporter = Reporter { path: id, opening: path.opening, reports: self.reports.clone() };
        let (protocol, position, http, state) =
            (path.protocol.clone(), self.position.clone(), self.http.clone(), path.hls.clone());
        path.task = Some(tokio::spawn(async move {
            sleep(pause).await;
            let result = match protocol {
                Protocol::Rtmp(url) => rtmp::run(url, position, &reporter).await,
                Protocol::Hls(url) => hls::run(&url, &http, &state, wishes, &reporter).await,
            };
            let _ = reporter.send(Report::Over(result)).await;
        }));
        Ok(())
    }

    async fn close(&mut self, id: PathId) -> Result<(), Over> {
        if let Some(task) = self.paths.get_mut(&id).and_then(|path| path.task.take()) {
            task.abort();
        }
        self.send(Event::Closed(id)).await
    }

    async fn state(&mut self, state: State) -> Result<(), Over> {
        if self.state.as_ref() != Some(&state) {
            self.state = Some(state.clone());
            self.send(Event::State(state)).await?;
        }
        Ok(())
    }

    async fn send(&self, event: Event) -> Result<(), Over> {
        self.events.send(event).await.map_err(|_| Over)
    }

    fn describe(&self, id: PathId) -> String {
        self.paths.get(&id).map_or(String::new(), |path| path.protocol.describe())
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
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
/// Bounds what is read ahead of the splice: a quarter of a second of pictures and sound.
const REPORTS: usize = 32;
