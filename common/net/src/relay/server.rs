//! The serving end: a subscription from its first message to its last. `SPEC.md` §2, §4.
//!
//! A request is returned to the caller, who knows streams and proofs, and accepts or refuses it. From then on the subscriber is two
//! cursors on the live window, one for sound and one for pictures ([`track_sender`](super::track_sender)): no queue of its own but what QUIC holds,
//! which is bounded.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use media::latency::TimingReport;
use media::live_window::ReadBatch;
use media::{AccessUnit, Cursor, LiveWindow, Timestamp, TrackKind};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::Error;
use super::drop_policy::DropPolicy;
use super::track_sender::{DroppedGroup, TrackSender};
use super::wire::{self, ClientMessage, Proof, RefusalCode, ServerMessage, Start};

/// A live stream that can be subscribed to.
pub trait Source: Send + Sync + 'static {
    /// What [`changed`](Self::changed) carries; it is the change alone that counts.
    type News: Send + Sync + 'static;

    /// Takes what is new to a cursor, at most so many bytes of payload.
    fn read(&self, cursor: &mut Cursor, max_bytes: usize) -> ReadBatch;

    /// A look at the window, which must neither wait nor do I/O.
    fn with_window<T>(&self, look: impl FnOnce(&LiveWindow) -> T) -> T;

    /// Says when there is something to read, or the end.
    fn changed(&self) -> watch::Receiver<Self::News>;

    /// Whether no unit will follow those in the window.
    fn has_ended(&self) -> bool {
        false
    }

    /// How much of `wanted` bytes of a unit may go to this subscriber now: a limit on the rate, or a link that others need more. Packets to
    /// it wait for `queueing` on their way, as QUIC measures it. What was allowed counts as used.
    fn allow(&self, _kind: TrackKind, wanted: usize, _queueing: Duration) -> Grant {
        Grant::Bytes(wanted)
    }

    /// Whether there is room for this subscriber, as it changes; `None` where there always is.
    fn room(&self) -> Option<watch::Receiver<bool>> {
        None
    }

    /// It is sent the stream from now on, or no longer.
    fn flows(&self, _flows: bool) {}

    /// A unit was left out, or several: they could not be sent in time.
    fn left_out(&self) {}

    /// A unit is handed to QUIC for the first time, of all its subscribers.
    fn relayed(&self, _unit: &AccessUnit) {}

    /// How the units up to the one at `at`, or to the newest, came here, and what the clock shows; `None` where nobody notes that.
    fn stamps(&self, _at: Option<Timestamp>) -> Option<TimingReport> {
        None
    }

    /// The unit at `position` of the window was handed to QUIC, `bytes` with what goes before it.
    fn sent(&self, _kind: TrackKind, _position: u64, _bytes: usize) {}
}

/// What a subscriber may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing now: to be asked again after this time.
    RetryAfter(Duration),
}

/// Somebody who asks to subscribe. Dropping it closes the connection.
#[derive(Debug)]
pub struct Request {
    /// The stream's name; may be empty.
    pub name: String,
    /// What it offers as proof.
    pub proof: Proof,
    connection: Connection,
    send: SendStream,
    control: Control,
}

/// How a subscription went.
#[derive(Debug)]
#[non_exhaustive]
pub enum Ended {
    /// The subscriber left.
    Unsubscribed,
    /// The broadcast is over and all was sent.
    Complete,
    /// The caller stopped it.
    Stopped,
    /// It failed.
    Failed(Error),
}

/// Reads what a new connection asks for, within [`REQUEST_TIMEOUT`].
///
/// # Errors
/// Whatever the peer does wrong; the connection is closed then.
pub async fn accept(connection: Connection) -> Result<Request, Error> {
    let asked = async {
        let (send, recv) = connection.accept_bi().await?;
        let mut control = Control { recv, buffer: BytesMut::new() };
        match control.next().await? {
            Some(ClientMessage::Subscribe { name, proof }) => Ok((send, control, name, proof)),
            Some(_) => Err(Error::Closed { waiting_for: "subscribe: it began with something else" }),
            None => Err(Error::Closed { waiting_for: "subscribe" }),
        }
    };
    let (send, control, name, proof) = timeout(REQUEST_TIMEOUT, asked)
        .await
        .unwrap_or(Err(Error::Timeout { waiting_for: "subscribe", after: REQUEST_TIMEOUT }))
        .inspect_err(|error| connection.close(VarInt::from_u32(BAD_REQUEST), error.to_string().as_bytes()))?;
    Ok(Request { name, proof, connection, send, control })
}

impl Request {
    /// Where it comes from.
    pub fn peer(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// What both ends of this TLS session, and nobody else, know (RFC 5705): binds a proof to it.
    pub fn exporter(&self, label: &[u8]) -> Option<[u8; 32]> {
        let mut out = [0; 32];
        self.connection.export_keying_material(&mut out, label, &[]).ok().map(|()| out)
    }

    /// Says no, and closes once that is heard.
    pub async fn refuse(mut self, code: RefusalCode, reason: &str) {
        let mut reason = reason.to_owned();
        reason.truncate(reason.floor_char_boundary(wire::MAX_REASON as usize));
        let said = async {
            write(&mut self.send, &ServerMessage::Refused { code, reason }).await?;
            let _ = self.send.finish();
            self.send.stopped().await.ok();
            Ok::<_, Error>(())
        };
        let _ = timeout(CLOSE_TIMEOUT, said).await;
        self.connection.close(VarInt::from_u32(REFUSED), b"refused");
    }

    /// Lets it in and serves it `source` until it leaves, the broadcast has ended, or `stop` completes. `proof` answers a proof of the
    /// code.
    pub async fn serve<S: Source>(
        self,
        source: Arc<S>,
        proof: Option<[u8; 32]>,
        stop: impl Future<Output = ()>,
    ) -> Ended {
        let Self { connection, mut send, mut control, .. } = self;
        let served = serve(&connection, &mut send, &mut control, source, proof);
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
            Ended::Failed(error @ (Error::Protocol(_) | Error::TooOften { .. })) => {
                connection.close(VarInt::from_u32(BAD_REQUEST), error.to_string().as_bytes());
            }
            _ => connection.close(VarInt::from_u32(0), b"bye"),
        }
        ended
    }
}

async fn serve<S: Source>(
    connection: &Connection,
    send: &mut SendStream,
    control: &mut Control,
    source: Arc<S>,
    proof: Option<[u8; 32]>,
) -> Result<Ended, Error> {
    write(send, &ServerMessage::Accepted { proof }).await?;
    let mut senders: JoinSet<Result<(), Error>> = JoinSet::new();
    let (dropped, mut drops) = mpsc::channel::<DroppedGroup>(MAX_DROPS);
    // Both senders end when the broadcast has.
    let mut running = 0;
    let mut room = source.room();
    if let Some(room) = &mut room {
        // Room is what a subscriber takes for granted.
        room.mark_changed();
    }
    let mut has_room = true;
    let (mut starts, mut timing_requests) = (RequestLimiter::default(), RequestLimiter::default());
    loop {
        tokio::select! {
            asked = control.next() => match asked {
                Ok(None) => return Ok(Ended::Unsubscribed),
                Err(Error::Connection(_) | Error::Read(_)) => return Ok(Ended::Unsubscribed),
                Err(error) => return Err(error),
                Ok(Some(ClientMessage::Subscribe { .. })) => return Err(Error::Closed { waiting_for: "a start: it subscribed twice" }),
                Ok(Some(ClientMessage::Stop)) => {
                    senders.shutdown().await;
                    running = 0;
                    source.flows(false);
                }
                Ok(Some(ClientMessage::Timing { at })) => {
                    timing_requests.count("stamps", Instant::now())?;
                    if let Some(report) = source.stamps(at) {
                        write(send, &ServerMessage::Timing(report)).await?;
                    }
                }
                Ok(Some(ClientMessage::Start { generation, at })) => {
                    starts.count("start", Instant::now())?;
                    senders.shutdown().await;
                    let cursor = source.with_window(|window| position(window, &at)).map_or(Cursor::at_live_edge(), Cursor::at);
                    let have = match at {
                        Start::LiveEdge => None,
                        Start::After { epoch, have } => Some((epoch, have)),
                    };
                    for kind in [TrackKind::Audio, TrackKind::Video] {
                        let (connection, have, dropped) = (connection.clone(), have.clone(), dropped.clone());
                        let sender = TrackSender { connection, generation, kind, have, dropped, budget: 0, drop_policy: DropPolicy::new(kind) };
                        senders.spawn(sender.run(source.clone(), cursor));
                    }
                    running = 2;
                    source.flows(true);
                }
            },
            now = changed(&mut room) => {
                if std::mem::replace(&mut has_room, now) != now {
                    write(send, &ServerMessage::Capacity(now)).await?;
                }
            }
            Some(DroppedGroup { generation, track, sequence }) = drops.recv() => {
                write(send, &ServerMessage::Dropped { generation, track, sequence }).await?;
            }
            Some(ended) = senders.join_next(), if running > 0 => match ended {
                Ok(Ok(())) => {
                    running -= 1;
                    if running == 0 {
                        write(send, &ServerMessage::Ended).await?;
                        return Ok(Ended::Complete);
                    }
                }
                Ok(Err(error)) => return Err(error),
                // Shut down with the others.
                Err(_) => running -= 1,
            },
        }
    }
}

/// What there is to say of room when it changes; never, where it does not.
async fn changed(room: &mut Option<watch::Receiver<bool>>) -> bool {
    if let Some(room) = room
        && room.changed().await.is_ok()
    {
        return *room.borrow_and_update();
    }
    std::future::pending().await
}

/// How often a subscriber has asked for something that costs more than to ask for it: a start is two tasks and a join from the newest IDR on.
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
            return Err(Error::TooOften { what, most: MAX_REQUESTS, within: REQUEST_WINDOW });
        }
        Ok(())
    }
}

/// The window's position to send from; `None` for the newest IDR, or the next one to come.
fn position(window: &LiveWindow, at: &Start) -> Option<u64> {
    let Start::After { epoch, have } = at else { return None };
    let had = |track| have.iter().find(|(known, _)| *known == track).map(|(_, dts)| *dts);
    match window.first_missing(*epoch, have) {
        // What is between is gone, unless it never came here: an IDR is the next that can be decoded.
        Some(first)
            if had(first.unit.track).is_some_and(|dts| {
                let held = || window.newest_before(first.position, *epoch, first.unit.track);
                first.predecessor_dts != Some(dts) && held().is_none_or(|held| held.unit.dts != dts)
            }) =>
        {
            None
        }
        Some(first) => Some(first.position),
        // It has all that is here, or all that there was is gone with a restart: what comes next is next. Another broadcast is
        // joined where it can be.
        None if window.newest().is_none_or(|newest| newest.unit.epoch == *epoch) => Some(window.next_position()),
        None => None,
    }
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

async fn write(send: &mut SendStream, reply: &ServerMessage) -> Result<(), Error> {
    let mut bytes = BytesMut::new();
    reply.encode(&mut bytes);
    Ok(send.write_all(&bytes).await?)
}

/// From the handshake to the request.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Starts, and timing_requests for stamps, within [`REQUEST_WINDOW`]: a viewer whose path comes and goes starts some times a second at most.
pub(super) const MAX_REQUESTS: u32 = 64;
/// What [`MAX_REQUESTS`] are counted in.
const REQUEST_WINDOW: Duration = Duration::from_secs(10);
/// How long a refusal, or the end, may take to be heard.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// What is taken of a control stream at once.
const READ: usize = 4 << 10;
/// Groups given up that wait to be told: more only after the subscriber has heard of these.
const MAX_DROPS: usize = 16;
// Application error codes of the connection (RFC 9000 §20.2): SPEC.md §6.
const REFUSED: u32 = 1;
pub(super) const BAD_REQUEST: u32 = 2;
