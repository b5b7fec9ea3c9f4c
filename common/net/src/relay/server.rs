//! The serving end of a subscription, from its first message to its last. `SPEC.md` §2, §4.
//!
//! A request is returned to the caller, which knows streams and proofs, and accepts or refuses it. An accepted subscriber is two cursors on
//! the live window, one for audio and one for video (`track_sender`). Its only queue is QUIC's send buffer, which is bounded.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use media::{Cursor, LiveWindow, TrackKind};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::drop_policy::DropPolicy;
use super::error::Error;
use super::source::{Delivery, SendGate, StreamSource, SubscriptionObserver};
use super::track_sender::{DroppedGroup, Flow, TrackSender};
use super::wire::{self, BAD_REQUEST, ClientMessage, Proof, REFUSED, RefusalCode, ServerMessage, Start};

/// A client's request to subscribe. Dropping it closes the connection.
#[derive(Debug)]
pub struct Request {
    /// The name of the stream; empty if the client leaves the choice to the server.
    pub name: String,
    /// The client's proof of admission.
    pub proof: Proof,
    connection: Connection,
    send: SendStream,
    control: Control,
}

/// How a subscription ended, from [`Request::serve`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Ended {
    /// The subscriber closed it, or its connection is lost.
    Unsubscribed,
    /// The broadcast is over and all of it was sent.
    Complete,
    /// The caller's `stop` completed.
    Stopped,
    /// The subscriber violated the protocol, or sending failed.
    Failed(Error),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsubscribed => f.write_str("it left"),
            Self::Complete => f.write_str("the broadcast is over"),
            Self::Stopped => f.write_str("this server is stopping"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

/// Reads the request of a new connection, within [`REQUEST_TIMEOUT`].
///
/// # Errors
/// [`Error::Timeout`], protocol violations, and connection errors; the connection is then closed.
pub async fn accept(connection: Connection) -> Result<Request, Error> {
    let asked = async {
        let (send, recv) = connection.accept_bi().await?;
        let mut control = Control { recv, buffer: BytesMut::new() };
        match control.next().await? {
            Some(ClientMessage::Subscribe { name, proof }) => Ok((send, control, name, proof)),
            Some(message) => Err(Error::Unexpected { message: message.name(), expected: "SUBSCRIBE" }),
            None => Err(Error::Closed { waiting_for: "SUBSCRIBE" }),
        }
    };
    let (send, control, name, proof) = timeout(REQUEST_TIMEOUT, asked)
        .await
        .unwrap_or(Err(Error::Timeout { waiting_for: "SUBSCRIBE", after: REQUEST_TIMEOUT }))
        .inspect_err(|error| connection.close(VarInt::from_u32(BAD_REQUEST), error.to_string().as_bytes()))?;
    Ok(Request { name, proof, connection, send, control })
}

impl Request {
    /// The address and port of the client.
    pub fn peer(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// Keying material that only the two ends of this TLS session have (RFC 5705), to bind a proof to the session.
    pub fn exporter(&self, label: &[u8]) -> Option<[u8; 32]> {
        let mut out = [0; 32];
        self.connection.export_keying_material(&mut out, label, &[]).ok().map(|()| out)
    }

    /// Sends `REFUSED` and closes once the client has read it, or after two seconds.
    pub async fn refuse(mut self, code: RefusalCode, reason: &str) {
        let mut reason = reason.to_owned();
        reason.truncate(reason.floor_char_boundary(wire::MAX_REASON as usize));
        let sending = async {
            write(&mut self.send, &ServerMessage::Refused { code, reason }).await?;
            let _ = self.send.finish();
            self.send.stopped().await.ok();
            Ok::<_, Error>(())
        };
        let _ = timeout(CLOSE_TIMEOUT, sending).await;
        self.connection.close(VarInt::from_u32(REFUSED), b"refused");
    }

    /// Accepts the request and serves `delivery` until the client leaves, the broadcast has ended, or `stop` completes. `proof` is the
    /// server's own proof of the pairing code, for a client that proved it.
    pub async fn serve<S: StreamSource, G: SendGate, O: SubscriptionObserver>(
        self,
        delivery: Delivery<S, G, O>,
        proof: Option<[u8; 32]>,
        stop: impl Future<Output = ()>,
    ) -> Ended {
        let Self { connection, mut send, mut control, .. } = self;
        let served = serve(&connection, &mut send, &mut control, delivery, proof);
        let ended = tokio::select! {
            ended = served => ended.unwrap_or_else(Ended::Failed),
            () = stop => Ended::Stopped,
        };
        if matches!(ended, Ended::Complete) {
            let _ = send.finish();
            // The subscriber closes once it has read everything.
            let _ = timeout(CLOSE_TIMEOUT, connection.closed()).await;
        }
        match &ended {
            Ended::Failed(error) if error.is_violation() => {
                connection.close(VarInt::from_u32(BAD_REQUEST), error.to_string().as_bytes());
            }
            _ => connection.close(VarInt::from_u32(0), b"closed"),
        }
        ended
    }
}

async fn serve<S: StreamSource, G: SendGate, O: SubscriptionObserver>(
    connection: &Connection,
    send: &mut SendStream,
    control: &mut Control,
    delivery: Delivery<S, G, O>,
    proof: Option<[u8; 32]>,
) -> Result<Ended, Error> {
    let Delivery { source, observer, .. } = delivery.clone();
    write(send, &ServerMessage::Accepted { proof }).await?;
    let mut senders: JoinSet<Result<(), Error>> = JoinSet::new();
    let (dropped, mut drops) = mpsc::channel::<DroppedGroup>(MAX_DROPS);
    // Both senders end when the broadcast has.
    let mut running = 0;
    let mut capacity = delivery.gate.capacity_available();
    if let Some(capacity) = &mut capacity {
        // Clients assume that there is capacity: its absence is reported from the start.
        capacity.mark_changed();
    }
    let mut has_capacity = true;
    let (flow, mut not_taken) = (Arc::new(Flow::default()), NotTaken::default());
    let mut checks = interval(FLOW_CHECK_INTERVAL);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut starts, mut timing_requests) = (RequestLimiter::default(), RequestLimiter::default());
    loop {
        tokio::select! {
            biased;
            message = control.next() => match message {
                Ok(None) => return Ok(Ended::Unsubscribed),
                Err(Error::Connection(_) | Error::Read(_)) => return Ok(Ended::Unsubscribed),
                Err(error) => return Err(error),
                Ok(Some(message @ ClientMessage::Subscribe { .. })) => {
                    return Err(Error::Unexpected { message: message.name(), expected: "START, STOP or TIMING" });
                }
                Ok(Some(ClientMessage::Stop)) => {
                    senders.shutdown().await;
                    running = 0;
                    not_taken = NotTaken::default();
                    observer.on_active(false);
                }
                Ok(Some(ClientMessage::Timing { at })) => {
                    timing_requests.count("TIMING", Instant::now())?;
                    if let Some(report) = source.timing(at) {
                        write(send, &ServerMessage::Timing(report)).await?;
                    }
                }
                Ok(Some(ClientMessage::Start { generation, at })) => {
                    starts.count("START", Instant::now())?;
                    senders.shutdown().await;
                    let (cursor, sound) = source.with_window(|window| cursors(window, &at));
                    let have = match at {
                        Start::LiveEdge => None,
                        Start::After { epoch, have } => Some((epoch, have)),
                    };
                    for kind in [TrackKind::Audio, TrackKind::Video] {
                        let sender = TrackSender {
                            connection: connection.clone(),
                            delivery: delivery.clone(),
                            generation,
                            kind,
                            have: have.clone(),
                            dropped: dropped.clone(),
                            budget: 0,
                            drop_policy: DropPolicy::new(kind),
                            flow: flow.clone(),
                        };
                        senders.spawn(sender.run(if kind == TrackKind::Audio { sound } else { cursor }));
                    }
                    running = 2;
                    observer.on_active(true);
                }
            },
            now = changed(&mut capacity) => {
                if std::mem::replace(&mut has_capacity, now) != now {
                    write(send, &ServerMessage::Capacity(now)).await?;
                }
            }
            Some(DroppedGroup { generation, track, sequence }) = drops.recv() => {
                write(send, &ServerMessage::Dropped { generation, track, sequence }).await?;
            }
            _ = checks.tick(), if running > 0 => not_taken.check(&flow)?,
            Some(ended) = senders.join_next(), if running > 0 => match ended {
                Ok(Ok(())) => {
                    running -= 1;
                    if running == 0 {
                        write(send, &ServerMessage::Ended).await?;
                        return Ok(Ended::Complete);
                    }
                }
                Ok(Err(error)) => return Err(error),
                // Aborted together with the other sender.
                Err(_) => running -= 1,
            },
        }
    }
}

/// The next change of the available capacity; pends forever if capacity is not limited.
async fn changed(capacity: &mut Option<watch::Receiver<bool>>) -> bool {
    if let Some(capacity) = capacity
        && capacity.changed().await.is_ok()
    {
        return *capacity.borrow_and_update();
    }
    std::future::pending().await
}

/// Limits requests that cost the server more than the client: each START spawns two tasks and sends from the newest IDR.
#[derive(Debug, Default)]
struct RequestLimiter {
    since: Option<Instant>,
    count: u32,
}

impl RequestLimiter {
    fn count(&mut self, what: &'static str, now: Instant) -> Result<(), Error> {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) > REQUEST_WINDOW) {
            (self.since, self.count) = (Some(now), 0);
        }
        self.count += 1;
        if self.count > MAX_REQUESTS {
            return Err(Error::TooOften { what, limit: MAX_REQUESTS, within: REQUEST_WINDOW });
        }
        Ok(())
    }
}

/// Detects a subscriber that keeps its subscription active and lets nothing be sent: by its flow control, or because it grants no streams.
#[derive(Debug, Default)]
struct NotTaken {
    written: u64,
    begun: u64,
    /// Checks in a row that found writes pending or begun, and no unit written. Counted, so that a pause of this process is not the subscriber's.
    checks: u32,
}

impl NotTaken {
    fn check(&mut self, flow: &Flow) -> Result<(), Error> {
        let (written, begun) = (flow.written.load(Ordering::Relaxed), flow.begun.load(Ordering::Relaxed));
        let has_written = std::mem::replace(&mut self.written, written) != written;
        let has_begun = std::mem::replace(&mut self.begun, begun) != begun;
        let takes = has_written || !has_begun && flow.pending.load(Ordering::Relaxed) == 0;
        self.checks = if takes { 0 } else { self.checks + 1 };
        if self.checks > MAX_FLOW_CHECKS {
            return Err(Error::NotTaken { after: FLOW_CHECK_INTERVAL * MAX_FLOW_CHECKS });
        }
        Ok(())
    }
}

/// Where pictures and sound start. Where no GOP can be joined, pictures start with the next one, and sound at once.
fn cursors(window: &LiveWindow, at: &Start) -> (Cursor, Cursor) {
    let resumed = match at {
        Start::LiveEdge => None,
        Start::After { epoch, have } => window.resume_position(*epoch, have),
    };
    let cursor = resumed.map_or(Cursor::at_live_edge(), Cursor::at);
    let can_join = resumed.or(window.join_position()).is_some();
    (cursor, if can_join { cursor } else { Cursor::at(window.next_position()) })
}

/// The reading half of a control stream.
#[derive(Debug)]
struct Control {
    recv: RecvStream,
    buffer: BytesMut,
}

impl Control {
    /// The next message; `None` at the end. Cancel safe.
    async fn next(&mut self) -> Result<Option<ClientMessage>, Error> {
        loop {
            if let Some(message) = wire::take_message(&mut self.buffer)? {
                return Ok(Some(wire::client_message(message)?));
            }
            match self.recv.read_chunk(READ, true).await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk.bytes),
                None => return Ok(None),
            }
        }
    }
}

/// Writes a message, for which the subscriber has as long as for units.
async fn write(send: &mut SendStream, reply: &ServerMessage) -> Result<(), Error> {
    let mut bytes = BytesMut::new();
    reply.encode(&mut bytes);
    let after = FLOW_CHECK_INTERVAL * MAX_FLOW_CHECKS;
    Ok(timeout(after, send.write_all(&bytes)).await.map_err(|_| Error::NotTaken { after })??)
}

/// From the handshake to `SUBSCRIBE`.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Bounds `START`, and `TIMING`, within [`REQUEST_WINDOW`]: a client on an unstable path starts a few times a second at most.
pub(super) const MAX_REQUESTS: u32 = 64;
/// The period that [`MAX_REQUESTS`] applies to.
const REQUEST_WINDOW: Duration = Duration::from_secs(10);
/// How often it is checked whether an active subscriber takes what is sent.
const FLOW_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Bounds how long a subscriber takes nothing, in checks: 30 s, in which a viewer has long given the path up.
const MAX_FLOW_CHECKS: u32 = 6;
/// How long the client may take to receive a refusal or `ENDED`.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes that one read takes from a control stream.
const READ: usize = 4 << 10;
/// Bounds the `DROPPED` messages that are queued: senders wait until the control stream takes them.
const MAX_DROPS: usize = 16;
