//! The subscribing end of a subscription. `SPEC.md` §2, §4.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use media::latency::TimingReport;
use media::{Timestamp, TrackId};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::error::Error;
use super::reassembly::{GroupInput, Reassembly, ReorderOutput};
use super::wire::{self, ClientMessage, GroupHeader, GroupReader, Proof, ReceivedUnit, ServerMessage, Start};

/// An event of a subscription, in the order of delivery.
#[derive(Clone, Debug)]
pub enum Event {
    /// The next unit of its track, in decoding order.
    Unit(ReceivedUnit),
    /// Units of this track were dropped on the way: the next unit does not follow the last one.
    Gap(TrackId),
    /// Whether the server has the capacity to send this subscriber the whole stream. Without it, the subscriber should stop if it has
    /// another path. Capacity is assumed until the first event.
    Capacity(bool),
    /// The broadcast is over and all of it was delivered.
    Ended,
    /// The answer to [`request_timing`](Subscription::request_timing).
    Timing {
        /// When units passed the stages before this host.
        report: TimingReport,
        /// When the request was written, by this host's monotonic clock.
        requested_at: std::time::Instant,
        /// When the answer was read, by the same clock.
        received_at: std::time::Instant,
    },
}

/// An accepted subscription. It is idle until [`start`](Self::start). Dropping it closes the connection.
#[derive(Debug)]
pub struct Subscription {
    connection: Connection,
    send: SendStream,
    generation: Arc<AtomicU32>,
    incoming: mpsc::Receiver<Incoming>,
    reassembly: Reassembly,
    /// The server's proof that it knows the pairing code, which the caller must verify.
    proof: Option<[u8; 32]>,
    has_ended: bool,
    /// When the timing was requested that has not arrived yet.
    timing_requested_at: Option<Instant>,
    /// Bytes that all groups together may still hold.
    memory: Arc<Semaphore>,
    _tasks: JoinSet<()>,
}

/// Messages from the tasks that read streams to the subscription.
#[derive(Debug)]
enum Incoming {
    /// Input of one group, with the permit for the memory that it holds.
    Group(GroupHeader, GroupInput, Option<OwnedSemaphorePermit>),
    Ended,
    Capacity(bool),
    Timing(TimingReport, Instant),
    Failed(Error),
}

/// Subscribes to the stream `name`. Either the caller has authenticated the server by its pin, or `proof` proves the pairing code and the
/// caller verifies [`Subscription::proof`] before it uses anything that the server sends.
///
/// # Errors
/// [`Error::Refused`], [`Error::Timeout`] after [`RESPONSE_TIMEOUT`], and connection errors.
pub async fn subscribe(connection: Connection, name: &str, proof: Proof) -> Result<Subscription, Error> {
    let answered = async {
        let (mut send, mut recv) = connection.open_bi().await?;
        write(&mut send, &ClientMessage::Subscribe { name: name.to_owned(), proof }).await?;
        let mut buffer = BytesMut::new();
        match next_message(&mut recv, &mut buffer).await? {
            Some(ServerMessage::Accepted { proof }) => Ok((send, recv, buffer, proof)),
            Some(ServerMessage::Refused { code, reason }) => Err(Error::Refused { code, reason }),
            Some(message) => Err(Error::Unexpected { message: message.name(), expected: "ACCEPTED or REFUSED" }),
            None => Err(Error::Closed { waiting_for: "the answer to SUBSCRIBE" }),
        }
    };
    let timed_out = Err(Error::Timeout { waiting_for: "answer to SUBSCRIBE", after: RESPONSE_TIMEOUT });
    let (send, recv, buffer, proof) = timeout(RESPONSE_TIMEOUT, answered).await.unwrap_or(timed_out)?;
    let generation = Arc::new(AtomicU32::new(0));
    let (sender, incoming) = mpsc::channel(MAX_INCOMING);
    let mut tasks = JoinSet::new();
    tasks.spawn(read_control(recv, buffer, sender.clone()));
    let memory = Arc::new(Semaphore::new(MAX_HELD));
    tasks.spawn(read_groups(
        connection.clone(),
        Shared { generation: generation.clone(), incoming: sender, memory: memory.clone() },
    ));
    let reassembly = Reassembly::default();
    Ok(Subscription {
        connection,
        send,
        generation,
        incoming,
        reassembly,
        proof,
        has_ended: false,
        timing_requested_at: None,
        memory,
        _tasks: tasks,
    })
}

impl Subscription {
    /// Starts, or restarts, the flow of units at `at`. Units of an earlier start that are still in flight are discarded.
    ///
    /// # Errors
    /// Write errors of the control stream.
    pub async fn start(&mut self, at: Start) -> Result<(), Error> {
        let generation = self.generation.load(Ordering::Relaxed).wrapping_add(1);
        self.generation.store(generation, Ordering::Relaxed);
        self.reassembly.start(generation);
        write(&mut self.send, &ClientMessage::Start { generation, at }).await
    }

    /// Makes the subscription idle until the next start.
    ///
    /// # Errors
    /// Write errors of the control stream.
    pub async fn stop(&mut self) -> Result<(), Error> {
        let generation = self.generation.load(Ordering::Relaxed).wrapping_add(1);
        self.generation.store(generation, Ordering::Relaxed);
        self.reassembly.start(generation);
        write(&mut self.send, &ClientMessage::Stop).await
    }

    /// Requests the timing of units up to the one with DTS `at`, or to the newest, and an exchange of clocks. The answer is
    /// [`Event::Timing`]. A server that records no timing does not answer; more than 64 requests in 10 s violate the protocol.
    ///
    /// # Errors
    /// Write errors of the control stream.
    pub async fn request_timing(&mut self, at: Option<Timestamp>) -> Result<(), Error> {
        self.timing_requested_at = Some(Instant::now());
        write(&mut self.send, &ClientMessage::Timing { at }).await
    }

    /// The next event. Cancel safe.
    ///
    /// # Errors
    /// The reason why the subscription ended; see [`Error::is_violation`] and [`Error::retry`].
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            match self.reassembly.pop() {
                Some(ReorderOutput::Unit(unit)) => return Ok(Event::Unit(unit)),
                Some(ReorderOutput::Gap(track)) => return Ok(Event::Gap(track)),
                None => {}
            }
            match self.incoming.recv().await {
                Some(Incoming::Group(group, input, memory)) => {
                    self.reassembly.push(group, input);
                    // Reassembly bounds its own memory.
                    drop(memory);
                }
                Some(Incoming::Timing(report, received_at)) => {
                    // Without a request there is no clock exchange.
                    let Some(requested_at) = self.timing_requested_at.take() else { continue };
                    let (requested_at, received_at) = (requested_at.into_std(), received_at.into_std());
                    return Ok(Event::Timing { report, requested_at, received_at });
                }
                Some(Incoming::Capacity(available)) => return Ok(Event::Capacity(available)),
                Some(Incoming::Ended) => self.has_ended = true,
                Some(Incoming::Failed(_)) | None if self.has_ended => return Ok(Event::Ended),
                Some(Incoming::Failed(error)) => return Err(error),
                None => return Err(Error::Closed { waiting_for: "the next unit" }),
            }
        }
    }

    /// The server's proof that it knows the pairing code, if the client proved it.
    pub fn proof(&self) -> Option<[u8; 32]> {
        self.proof
    }

    /// QUIC's smoothed round-trip time.
    pub fn round_trip(&self) -> Duration {
        self.connection.rtt()
    }

    /// Bytes held for units that are incomplete or not read yet: at most [`MAX_HELD`].
    pub fn held_bytes(&self) -> usize {
        MAX_HELD - self.memory.available_permits()
    }

    /// Bytes received in UDP datagrams, headers of QUIC included.
    pub fn received_bytes(&self) -> u64 {
        self.connection.stats().udp_rx.bytes
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(0), b"closed");
    }
}

/// Keying material that only the two ends of this TLS session have (RFC 5705).
pub fn exporter(connection: &Connection, label: &[u8]) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    connection.export_keying_material(&mut out, label, &[]).ok().map(|()| out)
}

async fn read_control(mut recv: RecvStream, mut buffer: BytesMut, incoming: mpsc::Sender<Incoming>) {
    loop {
        let message = match next_message(&mut recv, &mut buffer).await {
            Ok(Some(ServerMessage::Dropped { generation, track, sequence })) => {
                Incoming::Group(GroupHeader { generation, track, sequence }, GroupInput::Reset, None)
            }
            Ok(Some(ServerMessage::Ended)) => Incoming::Ended,
            Ok(Some(ServerMessage::Capacity(available))) => Incoming::Capacity(available),
            Ok(Some(ServerMessage::Timing(report))) => Incoming::Timing(report, Instant::now()),
            Ok(Some(_)) => continue,
            // The groups' streams deliver the rest.
            Ok(None) => return,
            Err(error) => Incoming::Failed(error),
        };
        let is_failure = matches!(message, Incoming::Failed(_));
        if incoming.send(message).await.is_err() || is_failure {
            return;
        }
    }
}

/// State that the readers of all groups share.
#[derive(Clone, Debug)]
struct Shared {
    generation: Arc<AtomicU32>,
    incoming: mpsc::Sender<Incoming>,
    memory: Arc<Semaphore>,
}

async fn read_groups(connection: Connection, shared: Shared) {
    let mut readers = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            stream = connection.accept_uni() => match stream {
                Ok(stream) => drop(readers.spawn(read_group(stream, shared.clone()))),
                Err(error) => {
                    // Data that has arrived is delivered before the error.
                    while readers.join_next().await.is_some() {}
                    let _ = shared.incoming.send(Incoming::Failed(error.into())).await;
                    return;
                }
            },
            Some(_) = readers.join_next() => {}
        }
    }
}

/// Reads one group to its end, or stops it if it belongs to an earlier start.
async fn read_group(mut stream: RecvStream, shared: Shared) {
    let mut reader = GroupReader::default();
    let result = group(&mut stream, &mut reader, &shared).await;
    let header = reader.header().ok().flatten();
    let last = match (result, header) {
        (Ok(true), Some(header)) => Incoming::Group(header, GroupInput::Complete, None),
        // Reset, or the connection is lost. The control stream reports groups whose header never arrived.
        (Ok(false) | Err(Error::Read(_)), Some(header)) => Incoming::Group(header, GroupInput::Reset, None),
        (Ok(_) | Err(Error::Read(_)), None) => return,
        (Err(error), _) => Incoming::Failed(error),
    };
    let _ = shared.incoming.send(last).await;
}

/// Returns whether the stream ended between two frames.
async fn group(stream: &mut RecvStream, reader: &mut GroupReader, shared: &Shared) -> Result<bool, Error> {
    let mut held: Option<OwnedSemaphorePermit> = None;
    while let Some(chunk) = stream.read_chunk(READ, true).await? {
        let bytes = u32::try_from(chunk.bytes.len()).unwrap_or(u32::MAX);
        let Ok(more) = shared.memory.clone().acquire_many_owned(bytes).await else { return Ok(false) };
        match &mut held {
            Some(held) => held.merge(more),
            None => held = Some(more),
        }
        reader.push(&chunk.bytes);
        let Some(header) = reader.header()? else { continue };
        if header.generation != shared.generation.load(Ordering::Relaxed) {
            let _ = stream.stop(VarInt::from_u32(0));
            return Ok(false);
        }
        while let Some(unit) = reader.unit()? {
            // The permits for the memory that the reader no longer holds move with the unit.
            let memory = held.as_mut().and_then(|held| held.split(held.num_permits().saturating_sub(reader.held())));
            if shared.incoming.send(Incoming::Group(header, GroupInput::Unit(unit), memory)).await.is_err() {
                return Ok(false);
            }
        }
    }
    Ok(reader.is_between_frames())
}

async fn next_message(recv: &mut RecvStream, buffer: &mut BytesMut) -> Result<Option<ServerMessage>, Error> {
    loop {
        if let Some(message) = wire::take_message(buffer)? {
            return Ok(Some(wire::server_message(message)?));
        }
        match recv.read_chunk(READ, true).await? {
            Some(chunk) => buffer.extend_from_slice(&chunk.bytes),
            None => return Ok(None),
        }
    }
}

async fn write(send: &mut SendStream, message: &ClientMessage) -> Result<(), Error> {
    let mut bytes = BytesMut::new();
    message.encode(&mut bytes);
    Ok(send.write_all(&bytes).await?)
}

/// From `SUBSCRIBE` to its answer.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that one read takes from a stream.
const READ: usize = 64 << 10;
/// Bounds the bytes, over all groups, of units that are incomplete or not read yet: twice the largest unit. If a server sends more
/// incomplete units, the client stops reading, and the path soon counts as stalled.
pub const MAX_HELD: usize = 32 << 20;
/// Bounds the units queued for the application; more stay in QUIC's receive window.
const MAX_INCOMING: usize = 64;
