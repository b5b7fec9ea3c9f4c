//! The supervisor with paths that are not real, on virtual time.

use std::sync::Arc;

use parking_lot::Mutex;

use super::super::path::{Opening, PathSource, Source};
use super::super::rtmp;
use super::*;

/// A path to a stream that is not on air: each opening is noted and fails.
#[derive(Debug, Default)]
struct NotOnAir(Mutex<Vec<Instant>>);

impl PathSource for NotOnAir {
    fn address(&self) -> String {
        "test".to_owned()
    }

    fn open<'a>(&'a self, _: OpenContext, _: &'a EventSender) -> Opening<'a> {
        self.0.lock().push(Instant::now());
        Box::pin(async { Err(Error::NotLive { address: self.address() }) })
    }
}

/// A path to a server that knows no such stream until some time has passed, and then opens it and sends nothing.
#[derive(Debug)]
struct UnknownFor {
    time: Duration,
    started: Instant,
    openings: Mutex<Vec<Instant>>,
}

impl UnknownFor {
    fn new(time: Duration) -> Arc<Self> {
        Arc::new(Self { time, started: Instant::now(), openings: Mutex::default() })
    }
}

impl PathSource for UnknownFor {
    fn address(&self) -> String {
        "test".to_owned()
    }

    fn open<'a>(&'a self, _: OpenContext, events: &'a EventSender) -> Opening<'a> {
        self.openings.lock().push(Instant::now());
        Box::pin(async {
            if self.started.elapsed() < self.time {
                return Err(Error::UnknownStream { address: self.address(), name: "name".to_owned() });
            }
            let _ = events.send(PathEvent::Opened { burst: Duration::ZERO, complete: false, transport: None }).await;
            std::future::pending().await
        })
    }
}

/// Runs a supervisor of these paths for so long, and gives the events that it reports.
async fn events_of(sources: Vec<Source>, time: Duration) -> Vec<Event> {
    let describe = |source| PathDescription { transport: &rtmp::TRANSPORT, source };
    let resolved = ResolvedPaths { paths: sources.into_iter().map(describe).collect(), api: None };
    let (events, mut inbox) = mpsc::channel(1024);
    let supervisor = Supervisor::new(
        resolved,
        http::client(Reach::anywhere()).unwrap(),
        PathOptions::default(),
        Position::default(),
        events,
    );
    let _ = tokio::time::timeout(time, supervisor.run()).await;
    std::iter::from_fn(|| inbox.try_recv().ok()).collect()
}

/// The same with paths to streams that are not on air: the states.
async fn run_for(sources: &[Arc<NotOnAir>], time: Duration) -> Vec<State> {
    let sources = sources.iter().map(|source| source.clone() as Source).collect();
    let states = events_of(sources, time).await.into_iter().map(|event| match event {
        Event::State(state) => Some(state),
        _ => None,
    });
    states.flatten().collect()
}

fn pauses(source: &NotOnAir) -> Vec<Duration> {
    source.0.lock().windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[tokio::test(start_paused = true)]
async fn the_only_path_of_an_offline_stream_is_retried_at_a_constant_interval() {
    let source = Arc::new(NotOnAir::default());
    let states = run_for(std::slice::from_ref(&source), Duration::from_secs(60)).await;
    assert_eq!(states, [State::Waiting], "it is no outage");
    let pauses = pauses(&source);
    // Half a second to a second each, so that the start of the stream is not missed.
    assert!((55..=125).contains(&pauses.len()), "{}", pauses.len());
    assert!(pauses.iter().all(|pause| *pause <= NOT_LIVE_POLL + Duration::from_millis(2)), "{pauses:?}");
}

#[tokio::test(start_paused = true)]
async fn one_of_several_paths_of_an_offline_stream_is_retried_with_backoff() {
    let sources = [Arc::new(NotOnAir::default()), Arc::new(NotOnAir::default())];
    run_for(&sources, Duration::from_secs(60)).await;
    for source in &sources {
        let pauses = pauses(source);
        assert!(pauses.first() < pauses.last() && pauses.len() < 20, "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= RETRY_MAX + RETRY_JITTER + IDLE_POLL), "{pauses:?}");
    }
}

fn has_failed(events: &[Event]) -> bool {
    events.iter().any(|event| matches!(event, Event::Failed(_)))
}

fn has_opened(events: &[Event]) -> bool {
    events.iter().any(|event| matches!(event, Event::Opened { .. }))
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_unknown_for_a_moment_is_played() {
    let source = UnknownFor::new(UNKNOWN_PATIENCE / 2);
    let events = events_of(vec![source.clone()], Duration::from_secs(60)).await;
    assert!(has_opened(&events) && !has_failed(&events), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_stays_unknown_is_reported() {
    let source = UnknownFor::new(Duration::MAX);
    let events = events_of(vec![source.clone()], Duration::from_secs(60)).await;
    assert!(matches!(events.last(), Some(Event::Failed(Error::UnknownStream { .. }))), "{events:?}");
    let openings = source.openings.lock();
    assert!(openings.len() > 2 && *openings.last().unwrap() - openings[0] >= UNKNOWN_PATIENCE, "{openings:?}");
}

#[tokio::test(start_paused = true)]
async fn a_path_whose_stream_is_unknown_is_tried_again_while_another_has_hope() {
    let (unknown, other) = (UnknownFor::new(UNKNOWN_PATIENCE * 4), Arc::new(NotOnAir::default()));
    let events = events_of(vec![unknown.clone(), other], Duration::from_secs(120)).await;
    assert!(has_opened(&events) && !has_failed(&events), "{events:?}");
}

/// A server that has lost a connection, or never knew the stream that it was asked for, sends nothing more on it.
#[tokio::test(start_paused = true)]
async fn a_connected_path_that_never_delivers_is_opened_again() {
    let silent = || UnknownFor::new(Duration::ZERO);
    for others in [vec![], vec![silent()]] {
        let source = silent();
        let sources = [source.clone()].into_iter().chain(others).map(|source| source as Source).collect();
        let events = events_of(sources, Duration::from_secs(60)).await;
        let openings = source.openings.lock();
        let pauses: Vec<u64> = openings.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
        assert!(pauses.len() >= 2 && pauses[0] >= 15 && pauses[1] >= 29, "{pauses:?}");
        assert!(has_opened(&events) && !has_failed(&events), "{events:?}");
    }
}

/// The path to a broadcaster that has no room for another viewer.
#[derive(Debug, Default)]
struct NoRoom(Mutex<Vec<Instant>>);

impl PathSource for NoRoom {
    fn address(&self) -> String {
        "broadcaster".to_owned()
    }

    fn open<'a>(&'a self, _: OpenContext, _: &'a EventSender) -> Opening<'a> {
        self.0.lock().push(Instant::now());
        let source = net::relay::Error::Refused {
            code: net::relay::RefusalCode::Busy,
            reason: "This broadcaster is at its limit of LAN viewers.".to_owned(),
        };
        Box::pin(async { Err(Error::Relay { address: self.address(), source }) })
    }
}

/// Collects a log.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_viewer_that_is_refused_for_room_retries_with_backoff_and_logs_it_once() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let source = Arc::new(NoRoom::default());
    let description = PathDescription { transport: &super::super::peer::TRANSPORT, source: source.clone() };
    let resolved = ResolvedPaths { paths: vec![description], api: None };
    let (events, _inbox) = mpsc::channel(1024);
    let supervisor = Supervisor::new(
        resolved,
        http::client(Reach::anywhere()).unwrap(),
        PathOptions::default(),
        Position::default(),
        events,
    );
    let _ = tokio::time::timeout(Duration::from_secs(300), supervisor.run()).await;
    let pauses: Vec<Duration> = source.0.lock().windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((8..=40).contains(&pauses.len()), "{pauses:?}");
    assert!(pauses[0] < pauses[pauses.len() - 1], "{pauses:?}");
    let log = String::from_utf8(log.0.lock().clone()).unwrap();
    assert_eq!(log.matches("at its limit of LAN viewers").count(), 1, "{log}");
}
