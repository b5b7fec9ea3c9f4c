//! Ingest: a publisher that was let in, from its first message to its last.

mod epochs;
mod pending;
mod rtmp_reader;
#[cfg(test)]
mod tests;
mod track_assembler;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use media::{Epoch, Timestamp};
use net::rtmp::server::Publisher;
use net::rtmp::{self, Message, PublisherTiming, Resume};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::hub::{HighWaterMarks, PublishGuard, PublisherReport, PushOutcome, RevokeReason};
use crate::rendezvous::PeerDirectory;
use rtmp_reader::RtmpReader;
use track_assembler::Assembled;

/// What a publisher is held to.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long its first units wait until all its tracks are known.
    pub track_wait: Duration,
    /// Payload that may wait, in bytes.
    pub max_pending_bytes: usize,
}

/// Where a publisher is, and whom its offer to viewers on its own network goes to.
#[derive(Clone, Copy, Debug)]
pub struct PublisherContext<'a> {
    /// The address that it is seen at.
    pub from: IpAddr,
    /// Who tells admitted viewers.
    pub peers: &'a Arc<PeerDirectory>,
}

/// How a publisher went.
#[derive(Debug)]
#[non_exhaustive]
pub enum Ended {
    /// It said goodbye.
    Unpublished,
    /// It closed the connection without a word.
    Disconnected,
    /// It had to go, and was told so.
    Revoked(RevokeReason),
    /// It sent nothing that can be read.
    Unreadable,
    /// The connection failed.
    Failed(rtmp::Error),
}

/// Where a publisher may resume.
pub fn resume(publish: &PublishGuard) -> Option<Resume> {
    publish.high_water().last().map(|(epoch, have)| Resume { epoch, have: have.to_vec() })
}

/// Carries everything that `publisher` sends into the hub, until it is gone or must go.
pub async fn run<S>(
    mut publisher: Publisher<S>,
    publish: PublishGuard,
    settings: Settings,
    context: PublisherContext<'_>,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = pending::Settings { track_wait: settings.track_wait, max_pending_bytes: settings.max_pending_bytes };
    let mut reader = RtmpReader::new(limits, last_epoch(publish.high_water()));
    let mut unreadable = UnreadableMessages::default();
    let mut epoch = None;
    // Gone with the publisher.
    let mut offer = None;
    loop {
        let deadline = reader.deadline().map(tokio::time::Instant::from_std);
        let units = tokio::select! {
            biased;
            why = publish.revoked() => return close_revoked(publisher, why).await,
            () = sleep_until(deadline) => reader.on_deadline(Instant::now()),
            message = publisher.next() => match message {
                Ok(Some(Message::EndOfStream)) => {
                    push(&publish, reader.message(Message::EndOfStream, Instant::now()).unwrap_or_default());
                    publish.unpublish();
                    linger(publisher).await;
                    return Ended::Unpublished;
                }
                Ok(Some(Message::Peer(peer))) => {
                    tracing::info!(pin = %peer.pin, addresses = peer.addresses.len(), "serves viewers on its own network");
                    let session = SESSIONS.fetch_add(1, Ordering::Relaxed);
                    drop(offer.replace(context.peers.register(publish.stream().name(), session, peer, context.from)));
                    continue;
                }
                Ok(Some(Message::Timing(PublisherTiming { epoch, server, units, .. }))) => {
                    let report = PublisherReport { epoch, server_clock: server, units };
                    publish.stream().latency().on_publisher_report(&report);
                    continue;
                }
                Ok(Some(message)) => match reader.message(message, Instant::now()) {
                    Ok(units) => {
                        unreadable.in_a_row = 0;
                        units
                    }
                    Err(error) => {
                        if unreadable.is_enough(&error) || matches!(error, rtmp_reader::Error::TooManyEpochs(_)) {
                            let why = "Nothing that this server can carry came.";
                            let _ = publisher.close("NetStream.Publish.Failed", why).await;
                            return Ended::Unreadable;
                        }
                        Vec::new()
                    }
                },
                Ok(None) => return Ended::Disconnected,
                Err(error) => return Ended::Failed(error),
            },
        };
        if let Some(Assembled { catalog, .. }) = units.last().filter(|_| epoch != Some(reader.epoch())) {
            epoch = Some(catalog.epoch);
            let tracks: Vec<_> = catalog.tracks.iter().map(|t| format!("{} {}", t.id, t.config.rfc6381())).collect();
            tracing::info!(epoch = %catalog.epoch, tracks = tracks.join(", "), clock = catalog.clock.is_some(), "on air");
        }
        if !push(&publish, units) {
            let why = publish.revoked().await;
            return close_revoked(publisher, why).await;
        }
    }
}

/// The newest DTS of all tracks that a stream had of its last epoch.
fn last_epoch(high_water: &HighWaterMarks) -> Option<(Epoch, Timestamp)> {
    let (epoch, tracks) = high_water.last()?;
    tracks.iter().map(|(_, dts)| *dts).max().map(|dts| (epoch, dts))
}

/// Returns whether the publisher may go on.
fn push(publish: &PublishGuard, units: Vec<Assembled>) -> bool {
    units.into_iter().all(|Assembled { catalog, unit, predecessor_dts }| {
        tracing::trace!(track = %unit.track, dts = %unit.dts, bytes = unit.payload.len(), "unit");
        publish.push(&catalog, unit, predecessor_dts) != PushOutcome::Revoked
    })
}

/// What a publisher that must go is told: the code, which says whether to come again, and words.
pub fn rejection_status(why: RevokeReason) -> (&'static str, &'static str) {
    match why {
        RevokeReason::TakenOver => ("NetStream.Publish.BadName", "Another publisher came with the same key."),
        RevokeReason::KeyRevoked => ("NetStream.Publish.Denied", "This key is not valid any more."),
        RevokeReason::ShuttingDown => ("NetConnection.Connect.Closed", "The server is going down. Come again."),
    }
}

async fn close_revoked<S: AsyncRead + AsyncWrite + Unpin>(publisher: Publisher<S>, why: RevokeReason) -> Ended {
    let (code, description) = rejection_status(why);
    if let Err(error) = publisher.close(code, description).await {
        tracing::debug!(%error, "the revoked publisher did not hear it");
    }
    Ended::Revoked(why)
}

/// Reads on until the peer closes, for a bounded time: closing first would cut off what it still writes.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut publisher: Publisher<S>) {
    let until_closed = async { while let Ok(Some(_)) = publisher.next().await {} };
    let _ = tokio::time::timeout(LINGER_TIMEOUT, until_closed).await;
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Messages that could not be read.
#[derive(Default)]
struct UnreadableMessages {
    in_a_row: u32,
    unreported: u64,
    reported: Option<Instant>,
}

impl UnreadableMessages {
    /// Counts one, tells of it at most once a second, and says whether the publisher must go.
    fn is_enough(&mut self, error: &rtmp_reader::Error) -> bool {
        self.in_a_row += 1;
        self.unreported += 1;
        if self.reported.is_none_or(|at| at.elapsed() >= REPORT_INTERVAL) {
            tracing::warn!(%error, count = self.unreported, "messages were unreadable");
            self.reported = Some(Instant::now());
            self.unreported = 0;
        }
        self.in_a_row >= MAX_REFUSED_IN_A_ROW
    }
}

/// Numbers offers, so that one of an earlier session does not end a later one.
static SESSIONS: AtomicU64 = AtomicU64::new(0);
/// How long a publisher that said goodbye may take to close.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// Repeats are reported once in this time.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// A publisher of a codec that is not carried sends some 80 messages a second; one whose stream is damaged recovers within a GOP.
const MAX_REFUSED_IN_A_ROW: u32 = 1000;
