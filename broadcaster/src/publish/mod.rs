//! Publishing: the broadcast's window goes to one RTMP server, across outages.
//!
//! Exactly this layer owns the retry. A server that comes back is told the same epoch, and gets what it lacks: see [`resume`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use media::latency::Stage;
use media::{Catalog, Cursor, Timestamp, TrackKind, TrackOrder};
use net::rtmp::client::{self, ClientOptions, Publisher};
use net::rtmp::url::Url;
use net::rtmp::{self, Gap, Message};
use net::trace::Trace;
use tokio::sync::watch;

use crate::broadcast::Broadcast;
use crate::peer::PeerServer;
use crate::rate_control::UplinkSample;
use crate::stats::{State, Stats};

pub mod resume;
pub mod unit_log;

mod idr_pacing;
mod latency_reporter;

use idr_pacing::IdrPacer;
use latency_reporter::LatencyReporter;
use unit_log::UnitLog;

/// What is published, and where to.
#[derive(Debug)]
pub struct RtmpPublisher {
    /// The server and the key.
    pub url: Url,
    /// What is published.
    pub broadcast: Arc<Broadcast>,
    /// The counters.
    pub stats: Arc<Stats>,
    /// What serves viewers on this network.
    pub peer: Option<Arc<PeerServer>>,
    /// Where to log what leaves.
    pub unit_log: Option<UnitLog>,
    /// Where to note when what left.
    pub trace: Option<Arc<Trace>>,
    /// Becomes true with the first connection.
    pub connected: watch::Sender<bool>,
    /// Becomes true when there is no time left to reach a server that is away.
    pub abandon_reconnect: watch::Receiver<bool>,
}

/// Why publishing ended before the broadcast did.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server will not have it, now or later.
    #[error("{0}")]
    Refused(rtmp::Error),
    /// Another publisher has the same key. To fight for it would interrupt both for ever.
    #[error("another publisher took the stream over")]
    TakenOver,
    /// The broadcast ended while the server was away, and it did not come back in time.
    #[error("the end of the broadcast did not reach the server: {0}")]
    Undelivered(rtmp::Error),
    /// The unit log can not be written.
    #[error("can not write the unit log: {0}")]
    UnitLog(#[from] std::io::Error),
}

/// How one connection ended.
enum SessionEnd {
    /// All was sent and the server knows.
    Complete,
    Failed(rtmp::Error),
    UnitLog(std::io::Error),
}

impl RtmpPublisher {
    /// Publishes until the broadcast has ended and all of it was sent.
    pub async fn run(mut self) -> Result<(), Error> {
        let result = self.publish_with_retry().await;
        self.stats.set_state(State::Ended);
        if let Some(log) = &mut self.unit_log {
            log.flush()?;
        }
        result
    }

    async fn publish_with_retry(&mut self) -> Result<(), Error> {
        let mut backoff = RECONNECT.build();
        let mut next = 0;
        let mut ended_at = None;
        loop {
            self.stats.set_state(State::Connecting);
            let started = Instant::now();
            let mut abandon_reconnect = self.abandon_reconnect.clone();
            let connecting = tokio::select! {
                connected = client::publish(&self.url, ClientOptions::default()) => connected,
                _ = abandon_reconnect.wait_for(|abandon_reconnect| *abandon_reconnect) => return Ok(()),
            };
            let error = match connecting {
                Ok(publisher) => match self.session(publisher, &mut next).await {
                    SessionEnd::Complete => return Ok(()),
                    SessionEnd::UnitLog(error) => return Err(error.into()),
                    SessionEnd::Failed(error) if is_takeover(&error) => return Err(Error::TakenOver),
                    SessionEnd::Failed(error) => error,
                },
                Err(error) => error,
            };
            if !error.retry() {
                return Err(Error::Refused(error));
            }
            if self.broadcast.changed().borrow().ended
                && ended_at.get_or_insert_with(Instant::now).elapsed() > FINAL_RETRY_WINDOW
            {
                return Err(Error::Undelivered(error));
            }
            if started.elapsed() > STABLE_AFTER {
                backoff = RECONNECT.build();
            }
            let wait = backoff.next().unwrap_or(MAX_BACKOFF);
            self.stats.reconnects.increment();
            self.stats.pushed.set(0);
            self.stats.set_state(State::Waiting);
            tracing::warn!(server = %self.url, %error, retry_in_ms = wait.as_millis() as u64, "no connection to the server");
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = abandon_reconnect.wait_for(|abandon_reconnect| *abandon_reconnect) => return Ok(()),
            }
        }
    }

    /// Sends over one connection. `next` is the position after the last unit that any connection took.
    async fn session(&mut self, mut publisher: Publisher, next: &mut u64) -> SessionEnd {
        let server = resume::ServerState { resume: publisher.resume(), is_nearcast: publisher.server_is_nearcast() };
        let epoch = self.broadcast.epoch();
        let from = self.broadcast.with_window(|window| resume::position(window, epoch, server));
        tracing::info!(server = %self.url, nearcast = server.is_nearcast, resumed = server.resume.is_some_and(|r| r.epoch == epoch), "connected");
        match from {
            Some(from) if from < *next => self.stats.units_retransmitted.add(*next - from),
            // What was made before the first connection was made for nobody.
            Some(from) if *next > 0 => self.stats.units_dropped.add(from - *next),
            _ => {}
        }
        if let Some((peer, tickets)) = self.peer.as_ref().zip(publisher.ticket_issuer()) {
            peer.set_ticket_key(tickets);
            publisher.advertise_peer(peer.advertisement());
        }
        self.connected.send_replace(true);
        self.stats.set_state(State::Live);
        let mut cursor = from.map_or(Cursor::at_live_edge(), Cursor::at);
        let sent = self.send(&mut publisher, &mut cursor, next).await;
        if let Some(peer) = &self.peer {
            peer.on_push_feedback(None, Duration::ZERO);
        }
        self.broadcast.uplink().waits(None, Instant::now());
        match sent {
            Ok(None) => match publisher.close().await {
                Ok(()) => SessionEnd::Complete,
                Err(error) => {
                    tracing::debug!(%error, "the server did not wait for the end");
                    SessionEnd::Complete
                }
            },
            Ok(Some(error)) => SessionEnd::UnitLog(error),
            Err(error) => SessionEnd::Failed(error),
        }
    }

    /// Returns once the broadcast has ended and all of it was sent, or with what keeps the log from being written.
    async fn send(
        &mut self,
        publisher: &mut Publisher,
        cursor: &mut Cursor,
        next: &mut u64,
    ) -> Result<Option<std::io::Error>, rtmp::Error> {
        let mut changed = self.broadcast.changed();
        let mut catalog: Option<Arc<Catalog>> = None;
        let (mut latency_reporter, mut spread) = (LatencyReporter::default(), IdrPacer::default());
        // As the server sees it: of what came by this connection.
        let mut order = TrackOrder::default();
        loop {
            let progress = *changed.borrow_and_update();
            let read = self.broadcast.with_window(|window| cursor.read(window, READ_BATCH_BYTES));
            if read.skipped > 0 {
                self.stats.units_dropped.add(read.skipped);
                tracing::warn!(
                    units = read.skipped,
                    "the server takes less than is made: units were skipped up to the newest IDR"
                );
            }
            latency_reporter.report(&self.broadcast, publisher);
            if read.entries.is_empty() {
                if progress.ended {
                    return Ok(None);
                }
                publisher.flush().await?;
                self.measure(publisher, cursor);
                tokio::select! {
                    _ = changed.changed() => {}
                    error = publisher.idle() => return Err(error),
                    () = tokio::time::sleep(MEASURE_INTERVAL) => {}
                }
                continue;
            }
            for entry in &read.entries {
                if !catalog.as_ref().is_some_and(|last| Arc::ptr_eq(last, &entry.catalog)) {
                    announce(publisher, catalog.as_deref(), &entry.catalog, entry.unit.dts).await?;
                    catalog = Some(entry.catalog.clone());
                }
                let Some(track) = entry.catalog.track(entry.unit.track) else { continue };
                if let Some(peer) = self.peer.as_ref().filter(|_| entry.unit.track.kind == TrackKind::Video) {
                    peer.wait_for_viewer(entry.position).await;
                    spread.before(entry, peer.shares_bottleneck_with_viewer(), publisher);
                }
                if order.follow(&entry.unit) != entry.predecessor_dts {
                    let predecessors = vec![(entry.unit.track, entry.predecessor_dts)];
                    publisher.state_gap(&Gap { epoch: entry.unit.epoch, predecessors });
                }
                publisher.send_unit(track, &entry.unit).await?;
                self.broadcast.stamp(&entry.unit, Stage::Sent);
                if let Some(trace) = &self.trace {
                    trace.now("pushed", &entry.unit, "");
                }
                self.stats.sent.increment();
                if let Some(peer) = &self.peer {
                    peer.on_pushed(entry.unit.payload.len());
                }
                self.broadcast.uplink().pushed(entry.unit.payload.len(), entry.unit.track.is_video());
                self.report_uplink(publisher, entry.position + 1);
                self.stats.pushed.set(entry.position + 1);
                *next = (*next).max(entry.position + 1);
                if let Some(log) = &mut self.unit_log
                    && let Err(error) = log.add(entry)
                {
                    return Ok(Some(error));
                }
            }
            self.measure(publisher, cursor);
            if let Some(log) = &mut self.unit_log
                && let Err(error) = log.flush()
            {
                return Ok(Some(error));
            }
        }
    }

    /// Tells the encoder how what is pushed waits, which is sent up to `position`.
    fn report_uplink(&self, publisher: &Publisher, position: u64) {
        let behind = self.broadcast.with_window(|window| window.lag(position));
        let shared = self.peer.as_ref().and_then(|peer| peer.link_capacity());
        let wait = UplinkSample { queueing: publisher.queue_delay().unwrap_or_default(), behind, shared };
        self.broadcast.uplink().waits(Some(wait), Instant::now());
    }

    fn measure(&self, publisher: &Publisher, cursor: &Cursor) {
        let next = self.broadcast.with_window(|window| window.next_position());
        let queued = next.saturating_sub(cursor.position().unwrap_or(next));
        self.stats.queued.set(queued);
        if let Some(peer) = &self.peer {
            // A server that answers no pings tells of its troubles only by what it does not take.
            let behind = if queued > BACKLOG_UNITS { BACKLOG_DELAY } else { Duration::ZERO };
            let wait = publisher.queue_delay().unwrap_or_default().max(behind);
            peer.on_push_feedback(Some(wait), publisher.min_rtt().unwrap_or_default());
        }
        self.report_uplink(publisher, cursor.position().unwrap_or(next));
        self.stats.unacknowledged.set(publisher.unacknowledged_bytes().unwrap_or(0));
        self.stats.round_trip.set(publisher.round_trip().map_or(0, |rtt| rtt.as_micros() as u64));
    }
}

/// Sends the metadata, and the sequence headers of the tracks that are new or have changed.
async fn announce(
    publisher: &mut Publisher,
    last: Option<&Catalog>,
    now: &Catalog,
    at: Timestamp,
) -> Result<(), rtmp::Error> {
    let metadata =
        rtmp::Metadata { values: now.metadata.clone(), epoch: Some(now.epoch), clock: now.clock, dts: Some(at) };
    publisher.send(Message::Metadata(metadata)).await?;
    for track in &now.tracks {
        if last.and_then(|last| last.track(track.id)) != Some(track) {
            publisher.send_track(at.as_rtmp(), track).await?;
        }
    }
    Ok(())
}

/// Whether a server that had accepted the stream says that its name is another's now: Nearcast's word for it, and others'.
fn is_takeover(error: &rtmp::Error) -> bool {
    matches!(error, rtmp::Error::Refused { code, .. } if code == "NetStream.Publish.BadName")
}

/// How often the push is measured while there is nothing to send.
const MEASURE_INTERVAL: Duration = Duration::from_millis(100);

/// Units that wait to be sent before the push counts as late: two pictures with their sound.
const BACKLOG_UNITS: u64 = 6;

/// How late it is then, at least.
const BACKLOG_DELAY: Duration = Duration::from_millis(200);

/// Waits between connection attempts: 125 to 250 ms at first, since a restarted server listens again within some hundred
/// milliseconds; then twice that, up to [`MAX_BACKOFF`] to twice that. The jitter keeps broadcasters that lost the same server
/// from reconnecting at once.
const RECONNECT: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(125))
    .with_max_delay(MAX_BACKOFF)
    .with_jitter()
    .without_max_times();

/// With jitter at most 3 s: well below the window's 20 s, so that a server that comes back within it is found in time.
const MAX_BACKOFF: Duration = Duration::from_millis(1500);

/// A connection that held for longer was no accident: the next wait is short again.
const STABLE_AFTER: Duration = Duration::from_secs(5);

/// How long a broadcast that has ended waits for a server that is away.
const FINAL_RETRY_WINDOW: Duration = Duration::from_secs(10);

/// Payload bytes taken from the window at once: bounds what is held twice.
const READ_BATCH_BYTES: usize = 1 << 20;
