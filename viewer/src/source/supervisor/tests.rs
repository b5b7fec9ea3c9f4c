//! The supervisor with paths that are not real, on virtual time.

use std::sync::Arc;

use parking_lot::Mutex;

use super::super::path::{Opening, PathSource};
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

/// Runs a supervisor of these paths for so long, and gives the states that it reports.
async fn run_for(sources: &[Arc<NotOnAir>], time: Duration) -> Vec<State> {
    let describe = |source: &Arc<NotOnAir>| PathDescription { transport: &rtmp::TRANSPORT, source: source.clone() };
    let resolved = ResolvedPaths { paths: sources.iter().map(describe).collect(), api: None };
    let (events, mut inbox) = mpsc::channel(1024);
    let supervisor =
        Supervisor::new(resolved, http::client().unwrap(), PathOptions::default(), Position::default(), events);
    let _ = tokio::time::timeout(time, supervisor.run()).await;
    let mut states = Vec::new();
    while let Ok(event) = inbox.try_recv() {
        states.extend(if let Event::State(state) = event { Some(state) } else { None });
    }
    states
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
