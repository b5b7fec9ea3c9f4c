//! Publishing: sends the broadcast's window to one RTMP server, across outages.
//!
//! Only this layer reconnects. It states the same epoch to the server again and sends the units that the server lacks: see [`resume`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use command::LogLimiter;
use media::latency::Stage;
use media::{Catalog, Cursor, Timestamp, TrackKind, TrackOrder};
use net::rtmp::client::{self, ClientOptions, Publisher};
use net::rtmp::url::Url;
use net::rtmp::{self, Gap, Message};
use net::trace::Trace;
use tokio::sync::watch;

use crate::broadcast::Broadcast;
use crate::peer::PeerServer;
use crate::stats::{State, Stats};
use crate::uplink::{PushFeedback, ServerStamps};

pub mod resume;
pub mod unit_log;

mod idr_pacing;
mod latency_reporter;
mod tcp_info;

use idr_pacing::IdrPacer;
use latency_reporter::LatencyReporter;
use unit_log::UnitLog;

/// Publishes one broadcast to one server.
#[derive(Debug)]
pub struct RtmpPublisher {
    /// RTMP URL with the stream key.
    pub url: Url,
    /// The broadcast to publish.
    pub broadcast: Arc<Broadcast>,
    /// Counters and gauges of the push, shown in the status line.
    pub stats: Arc<Stats>,
    /// The peer server for LAN viewers, if there is one; it learns the push's rate and delay.
    pub peer: Option<Arc<PeerServer>>,
    /// The log of sent units (`--unit-log`).
    pub unit_log: Option<UnitLog>,
    /// The trace of sent units (`--trace`).
    pub trace: Option<Arc<Trace>>,
    /// Becomes true with the first connection.
    pub connected: watch::Sender<bool>,
    /// Becomes true when the program must end without waiting for an unreachable server.
    pub abandon_reconnect: watch::Receiver<bool>,
}

/// Why publishing ended before the broadcast did.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server refused the stream for good, for example because the key is not valid.
    #[error("{0}{advice}", advice = .0.advice())]
    Refused(rtmp::Error),
    /// Another publisher took over with the same key. Reconnecting would interrupt both endlessly.
    #[error("another publisher took over the stream")]
    TakenOver,
    /// The broadcast ended during an outage, and the server was not reachable again within 10 s.
    #[error("cannot deliver the end of the broadcast to the server: {0}")]
    Undelivered(rtmp::Error),
    /// The unit log cannot be written.
    #[error("cannot write the unit log: {0}")]
    UnitLog(#[from] std::io::Error),
}

/// How one connection ended.
enum SessionEnd {
    /// Everything was sent, and the stream was unpublished.
    Complete,
    Failed(rtmp::Error),
    UnitLog(std::io::Error),
}

impl RtmpPublisher {
    /// Publishes until the broadcast has ended and everything was sent, reconnecting after failures.
    ///
    /// # Errors
    /// See [`Error`].
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
            tracing::warn!(server = %self.url, %error, retry_in_ms = wait.as_millis() as u64, "publishing failed; reconnecting");
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = abandon_reconnect.wait_for(|abandon_reconnect| *abandon_reconnect) => return Ok(()),
            }
        }
    }

    /// Sends over one connection. `next`: position after the last unit sent over any connection.
    async fn session(&mut self, mut publisher: Publisher, next: &mut u64) -> SessionEnd {
        let server = resume::ServerState { resume: publisher.resume(), is_nearcast: publisher.server_is_nearcast() };
        let epoch = self.broadcast.epoch();
        let from = self.broadcast.with_window(|window| resume::position(window, epoch, server));
        tracing::info!(server = %self.url, nearcast = server.is_nearcast, resumed = server.resume.is_some_and(|r| r.epoch == epoch), "connected");
        match from {
            Some(from) if from < *next => self.stats.units_retransmitted.add(*next - from),
            // Units from before the first connection do not count as dropped.
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
        self.broadcast.uplink().on_push_feedback(None);
        match sent {
            Ok(None) => match publisher.close().await {
                Ok(()) => SessionEnd::Complete,
                Err(error) => {
                    tracing::debug!(%error, "the server closed the connection before the broadcast was unpublished");
                    SessionEnd::Complete
                }
            },
            Ok(Some(error)) => SessionEnd::UnitLog(error),
            Err(error) => SessionEnd::Failed(error),
        }
    }

    /// Returns `None` once the broadcast has ended and everything was sent, or the error of the unit log.
    async fn send(
        &mut self,
        publisher: &mut Publisher,
        cursor: &mut Cursor,
        next: &mut u64,
    ) -> Result<Option<std::io::Error>, rtmp::Error> {
        let mut changed = self.broadcast.changed();
        let mut last_rtt = None;
        let mut catalog: Option<Arc<Catalog>> = None;
        let (mut latency_reporter, mut spread) = (LatencyReporter::default(), IdrPacer::default());
        // Order of the units sent over this connection, as the server sees it.
        let mut order = TrackOrder::default();
        let mut skip_log = LogLimiter::new(|units, ()| {
            tracing::warn!(units, "publishing is too slow: skipped units up to the newest IDR");
        });
        loop {
            let progress = *changed.borrow_and_update();
            let read = self.broadcast.with_window(|window| cursor.read(window, READ_BATCH_BYTES));
            if read.skipped > 0 {
                self.stats.units_dropped.add(read.skipped);
                skip_log.note_many(Instant::now(), read.skipped, ());
            }
            let is_reported = latency_reporter.report(&self.broadcast, publisher, self.stats.lan_viewers.value());
            // The exchange of the report before has ended; there is none in between.
            if is_reported && let Some((peer, offset)) = self.peer.as_ref().zip(publisher.server_clock()) {
                peer.set_cdn_clock(offset);
            }
            if read.entries.is_empty() {
                if progress.ended {
                    return Ok(None);
                }
                publisher.flush().await?;
                self.measure(publisher, cursor, &mut last_rtt);
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
                if order.must_state(&entry.unit, entry.predecessor_dts) {
                    let predecessors = vec![(entry.unit.track, entry.predecessor_dts)];
                    publisher.state_gap(&Gap { epoch: entry.unit.epoch, predecessors });
                }
                publisher.send_unit(track, &entry.unit).await?;
                self.broadcast.stamp(&entry.unit, Stage::Sent);
                if let Some(trace) = &self.trace {
                    trace.now("pushed", &entry.unit, "");
                }
                self.stats.sent.increment();
                self.broadcast.uplink().on_pushed(entry.unit.payload.len(), entry.unit.track.is_video());
                self.report_uplink(publisher, entry.position + 1, &mut last_rtt);
                self.stats.pushed.set(entry.position + 1);
                *next = (*next).max(entry.position + 1);
                if let Some(log) = &mut self.unit_log
                    && let Err(error) = log.add(entry)
                {
                    return Ok(Some(error));
                }
            }
            self.measure(publisher, cursor, &mut last_rtt);
            if let Some(log) = &mut self.unit_log
                && let Err(error) = log.flush()
            {
                return Ok(Some(error));
            }
        }
    }

    /// Reports to the uplink what is known of the connection. Units before `position` have been sent; `last_rtt` is when the last RTT was
    /// measured.
    fn report_uplink(&self, publisher: &mut Publisher, position: u64, last_rtt: &mut Option<Instant>) {
        let tcp = tcp_info::read(publisher);
        let measured = publisher.rtt_sample().filter(|sample| last_rtt.replace(sample.at) != Some(sample.at));
        // A server that is not pinged tells by its acknowledgements alone.
        let by_kernel = tcp.filter(|_| !publisher.server_is_nearcast()).map(|tcp| tcp.rtt);
        let stamps = publisher.take_exchange().map(|exchange| ServerStamps {
            forward: exchange.received.micros_since(exchange.sent),
            backward: exchange.returned.micros_since(exchange.answered),
        });
        let feedback = PushFeedback {
            rtt: measured.map(|sample| sample.rtt).or(by_kernel),
            outstanding: publisher.outstanding_ping(),
            backlog: self.broadcast.with_window(|window| window.lag(position)),
            delivered: tcp.map(|tcp| tcp.acknowledged),
            unsent: tcp.and_then(|tcp| tcp.unsent),
            stamps,
        };
        self.broadcast.uplink().on_push_feedback(Some(&feedback));
        if !self.broadcast.uplink().is_saturated() {
            publisher.suppress_probe_rtt();
        }
    }

    fn measure(&self, publisher: &mut Publisher, cursor: &Cursor, last_rtt: &mut Option<Instant>) {
        let next = self.broadcast.with_window(|window| window.next_position());
        let position = cursor.position().unwrap_or(next);
        self.stats.queued.set(next.saturating_sub(position));
        self.report_uplink(publisher, position, last_rtt);
        self.stats.unacknowledged.set(publisher.unacknowledged_bytes().unwrap_or(0));
        self.stats.round_trip.set(publisher.round_trip().map_or(0, |rtt| rtt.as_micros() as u64));
    }
}

/// Sends the metadata, and sequence headers of new or changed tracks.
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

/// Whether a server that had accepted the stream reports a takeover. Nearcast and other servers use `BadName`.
fn is_takeover(error: &rtmp::Error) -> bool {
    matches!(error, rtmp::Error::Refused { code, .. } if code == "NetStream.Publish.BadName")
}

/// Interval between measurements of the push while there is nothing to send.
const MEASURE_INTERVAL: Duration = Duration::from_millis(100);

/// Wait between connection attempts: 125 to 250 ms at first, since a restarted server listens again after a few hundred milliseconds;
/// doubles up to [`MAX_BACKOFF`] to twice that. Jitter spreads the reconnects of broadcasters that lost the same server.
const RECONNECT: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(125))
    .with_max_delay(MAX_BACKOFF)
    .with_jitter()
    .without_max_times();

/// At most 3 s with jitter: well below the window of 20 s, so that the push resumes without a loss after a short outage.
const MAX_BACKOFF: Duration = Duration::from_millis(1500);

/// A connection that lasted longer than this resets the backoff.
const STABLE_AFTER: Duration = Duration::from_secs(5);

/// How long to reconnect to an unreachable server after the broadcast has ended.
const FINAL_RETRY_WINDOW: Duration = Duration::from_secs(10);

/// Payload bytes read from the window at once: bounds the memory held after the window evicts it.
const READ_BATCH_BYTES: usize = 1 << 20;
