//! The session of an RTMP publisher: moves its messages into the hub, from the first to the last.

mod reader;
#[cfg(test)]
mod tests;
mod unreadable;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use command::LogLimiter;
use net::rtmp::server::Publisher;
use net::rtmp::{self, Message, PublisherTiming, Resume};
use net::trust::Pin;
use tokio::io::{AsyncRead, AsyncWrite};

use super::pending::PendingLimits;
use super::track_assembler::Assembled;
use crate::hub::{PublishGuard, PublisherReport, RevokeReason};
use crate::rendezvous::PeerDirectory;
use reader::Reader;
use unreadable::UnreadableMessages;

/// A publisher's network address, and the directory in which its peer server is registered.
#[derive(Clone, Copy, Debug)]
pub struct PublisherContext<'a> {
    /// Its IP address as seen by this server.
    pub from: IpAddr,
    /// The directory from which admitted viewers learn of the publisher's peer server.
    pub peers: &'a Arc<PeerDirectory>,
}

/// How a publisher's session ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum Ended {
    /// The publisher unpublished: it sent `FCUnpublish`, `deleteStream` or the like.
    Unpublished,
    /// The publisher closed the connection without unpublishing.
    Disconnected,
    /// The publisher was revoked and received a status message.
    Revoked(RevokeReason),
    /// The publisher sent what cannot be read, for this reason, and received a status message that states it.
    Unreadable(String),
    /// The connection failed.
    Failed(rtmp::Error),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unpublished => f.write_str("it unpublished"),
            Self::Disconnected => f.write_str("it closed the connection without unpublishing"),
            Self::Revoked(why) => why.fmt(f),
            Self::Unreadable(why) => f.write_str(why),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

/// The point at which a publisher may resume: the stream's last epoch, and the newest DTS of each track. `None` for a stream without units.
pub fn resume(publish: &PublishGuard) -> Option<Resume> {
    publish.high_water().last().map(|(epoch, have)| Resume { epoch, have: have.to_vec() })
}

/// Moves everything that `publisher` sends into the hub, until it ends its session or is revoked. Returns the connection if it may carry another
/// request: after the publisher unpublished.
pub async fn run<S>(
    mut publisher: Publisher<S>,
    publish: PublishGuard,
    limits: PendingLimits,
    context: PublisherContext<'_>,
) -> (Ended, Option<Publisher<S>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut reader = Reader::new(limits, super::last_epoch(publish.high_water()));
    let mut unreadable = UnreadableMessages::default();
    let mut epoch = None;
    let mut peer_log = LogLimiter::new(|offers, (pin, addresses): &(Pin, usize)| {
        tracing::info!(%pin, addresses, offers, "the publisher serves LAN viewers");
    });
    // The registration is dropped with the publisher.
    let mut offer = None;
    loop {
        let deadline = reader.deadline().map(tokio::time::Instant::from_std);
        let units = tokio::select! {
            biased;
            why = publish.revoked() => return (close_revoked(publisher, why).await, None),
            () = sleep_until(deadline) => reader.on_deadline(Instant::now()),
            message = publisher.next() => match message {
                Ok(Some(Message::EndOfStream)) => {
                    super::push(&publish, reader.message(Message::EndOfStream, Instant::now()).unwrap_or_default());
                    publish.unpublish();
                    return (Ended::Unpublished, Some(publisher));
                }
                Ok(Some(Message::Peer(peer))) => {
                    peer_log.note(Instant::now(), (peer.pin, peer.addresses.len()));
                    let session = SESSIONS.fetch_add(1, Ordering::Relaxed);
                    drop(offer.replace(context.peers.register(publish.stream().name(), session, peer, context.from)));
                    continue;
                }
                Ok(Some(Message::Timing(PublisherTiming { epoch, server, units, lan_viewers, .. }))) => {
                    let report = PublisherReport { epoch, server_clock: server, units };
                    publish.stream().latency().on_publisher_report(&report);
                    publish.set_direct_viewers(lan_viewers);
                    continue;
                }
                Ok(Some(message)) => {
                    let now = Instant::now();
                    let (units, errors) = match reader.message(message, now) {
                        Ok(units) => {
                            unreadable.end_row();
                            (units, reader.take_refused())
                        }
                        Err(error) => (Vec::new(), vec![error]),
                    };
                    if let Some(reason) = errors.iter().find_map(|error| unreadable.count(error, now)) {
                        let _ = publisher.close("NetStream.Publish.Failed", &reason).await;
                        return (Ended::Unreadable(reason), None);
                    }
                    units
                }
                Ok(None) => return (Ended::Disconnected, None),
                Err(error) => return (Ended::Failed(error), None),
            },
        };
        if let Some(Assembled { catalog, .. }) = units.last().filter(|_| epoch != Some(reader.epoch())) {
            epoch = Some(catalog.epoch);
            let tracks: Vec<_> = catalog.tracks.iter().map(|t| format!("{} {}", t.id, t.config.rfc6381())).collect();
            tracing::info!(epoch = %catalog.epoch, tracks = tracks.join(", "), clock = catalog.clock.is_some(), "on air");
        }
        if !super::push(&publish, units) {
            let why = publish.revoked().await;
            return (close_revoked(publisher, why).await, None);
        }
    }
}

/// The RTMP status of a revoked publisher: the code, which tells it whether to reconnect, and a description.
pub fn rejection_status(why: RevokeReason) -> (&'static str, &'static str) {
    match why {
        RevokeReason::TakenOver => ("NetStream.Publish.BadName", "Another publisher took over with the same key."),
        RevokeReason::KeyRevoked => ("NetStream.Publish.Denied", "This key is no longer valid."),
        RevokeReason::ShuttingDown => ("NetConnection.Connect.Closed", "The server is shutting down. Reconnect later."),
    }
}

async fn close_revoked<S: AsyncRead + AsyncWrite + Unpin>(publisher: Publisher<S>, why: RevokeReason) -> Ended {
    let (code, description) = rejection_status(why);
    if let Err(error) = publisher.close(code, description).await {
        tracing::debug!(%error, "cannot notify the revoked publisher");
    }
    Ended::Revoked(why)
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Numbers peer registrations, so that dropping an earlier session's registration does not remove a later one.
static SESSIONS: AtomicU64 = AtomicU64::new(0);
