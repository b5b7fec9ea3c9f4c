//! The subscribing end. `SPEC.md` §2, §4.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use media::latency::TimingReport;
use media::{Timestamp, TrackId};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Error;
use super::reassembly::{GroupInput, Reassembly, ReorderOutput};
use super::wire::{self, ClientMessage, GroupHeader, GroupReader, Proof, ReceivedUnit, ServerMessage, Start};

/// What a subscription brings.
#[derive(Clone, Debug)]
pub enum Event {
    /// The next unit of its track.
    Unit(ReceivedUnit),
    /// Units of this track were given up on the way: what comes next does not follow.
    Gap(TrackId),
    /// Whether the server has room for this subscription; without, it had better be stopped until there is.
    Capacity(bool),
    /// The broadcast is over; nothing follows.
    Ended,
    /// The answer to [`request_timing`](Subscription::request_timing).
    Timing {
        /// What it says.
        report: TimingReport,
        /// When it was asked for.
        requested_at: Instant,
        /// When it came.
        received_at: Instant,
    },
}

/// A subscription that was let in. It flows from [`start`](Self::start) on. Dropping it leaves.
#[derive(Debug)]
pub struct Subscription {
    connection: Connection,
    send: SendStream,
    generation: Arc<AtomicU32>,
    arrivals: mpsc::Receiver<Arrival>,
    reassembly: Reassembly,
    /// That the server knows the code: to be checked before anything is believed.
    proof: Option<[u8; 32]>,
    has_ended: bool,
    /// When stamps were asked for that have not come yet.
    timing_requested_at: Option<Instant>,
    /// What all groups together may still hold of payload.
    room: Arc<Semaphore>,
    _tasks: JoinSet<()>,
}

/// From the tasks that read streams.
#[derive(Debug)]
enum Arrival {
    /// With the room that it takes.
    Group(GroupHeader, GroupInput, Option<OwnedSemaphorePermit>),
    Ended,
    Capacity(bool),
    Timing(TimingReport, Instant),
    Failed(Error),
}

/// Asks for the stream called `name` over a connection whose other end is known to be the right one, unless `proof` is of the code:
/// then the caller checks [`Subscription::proof`].
///
/// # Errors
/// [`Error::Refused`], [`Error::Timeout`] after [`RESPONSE_TIMEOUT`], and those of the connection.
pub async fn subscribe(connection: Connection, name: &str, proof: Proof) -> Result<Subscription, Error> {
    let answered = async {
        let (mut send, mut recv) = connection.open_bi().await?;
        write(&mut send, &ClientMessage::Subscribe { name: name.to_owned(), proof }).await?;
        let mut buffer = BytesMut::new();
        match next_message(&mut recv, &mut buffer).await? {
            Some(ServerMessage::Accepted { proof }) => Ok((send, recv, buffer, proof)),
            Some(ServerMessage::Refused { code, reason }) => Err(Error::Refused { code, reason }),
            Some(_) => Err(Error::Protocol(wire::Error::Unknown { what: "first reply", value: 0 })),
            None => Err(Error::Closed { waiting_for: "the answer to subscribe" }),
        }
    };
    let timed_out = Err(Error::Timeout { waiting_for: "answer to subscribe", after: RESPONSE_TIMEOUT });
    let (send, recv, buffer, proof) = timeout(RESPONSE_TIMEOUT, answered).await.unwrap_or(timed_out)?;
    let generation = Arc::new(AtomicU32::new(0));
    let (arrived, arrivals) = mpsc::channel(ARRIVALS);
    let mut tasks = JoinSet::new();
    tasks.spawn(read_control(recv, buffer, arrived.clone()));
    let room = Arc::new(Semaphore::new(MAX_HELD));
    tasks
        .spawn(read_groups(connection.clone(), Shared { generation: generation.clone(), arrived, room: room.clone() }));
    let reassembly = Reassembly::default();
    Ok(Subscription {
        connection,
        send,
        generation,
        arrivals,
        reassembly,
        proof,
        has_ended: false,
        timing_requested_at: None,
        room,
        _tasks: tasks,
    })
}

impl Subscription {
    /// Has it flow, from `at` on; what was under way is given up.
    ///
    /// # Errors
    /// Those of writing.
    pub async fn start(&mut self, at: Start) -> Result<(), Error> {
        let generation = self.generation.load(Ordering::Relaxed).wrapping_add(1);
        self.generation.store(generation, Ordering::Relaxed);
        self.reassembly.start(generation);
        write(&mut self.send, &ClientMessage::Start { generation, at }).await
    }

    /// Has it send nothing until the next start.
    ///
    /// # Errors
    /// Those of writing.
    pub async fn stop(&mut self) -> Result<(), Error> {
        let generation = self.generation.load(Ordering::Relaxed).wrapping_add(1);
        self.generation.store(generation, Ordering::Relaxed);
        self.reassembly.start(generation);
        write(&mut self.send, &ClientMessage::Stop).await
    }

    /// Asks how units came to the server, up to the one at `at` or to the newest, and what its clock shows. A server that notes no stamps does not
    /// answer; one that is asked oftener than 64 times in 10 s ends the connection.
    ///
    /// # Errors
    /// Those of writing.
    pub async fn request_timing(&mut self, at: Option<Timestamp>) -> Result<(), Error> {
        self.timing_requested_at = Some(Instant::now());
        write(&mut self.send, &ClientMessage::Timing { at }).await
    }

    /// The next event. Cancel safe.
    ///
    /// # Errors
    /// Whatever ends the subscription.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            match self.reassembly.pop() {
                Some(ReorderOutput::Unit(unit)) => return Ok(Event::Unit(unit)),
                Some(ReorderOutput::Gap(track)) => return Ok(Event::Gap(track)),
                None => {}
            }
            match self.arrivals.recv().await {
                Some(Arrival::Group(group, item, room)) => {
                    self.reassembly.push(group, item);
                    // What reassembly holds it bounds by itself.
                    drop(room);
                }
                Some(Arrival::Timing(report, received_at)) => {
                    // One that nobody asked for tells nothing of the clocks.
                    let Some(requested_at) = self.timing_requested_at.take() else { continue };
                    return Ok(Event::Timing { report, requested_at, received_at });
                }
                Some(Arrival::Capacity(has_room)) => return Ok(Event::Capacity(has_room)),
                Some(Arrival::Ended) => self.has_ended = true,
                Some(Arrival::Failed(_)) | None if self.has_ended => return Ok(Event::Ended),
                Some(Arrival::Failed(error)) => return Err(error),
                None => return Err(Error::Closed { waiting_for: "the next unit" }),
            }
        }
    }

    /// What the server answered to a proof of the code.
    pub fn proof(&self) -> Option<[u8; 32]> {
        self.proof
    }

    /// The connection's round trip, as QUIC measures it.
    pub fn round_trip(&self) -> Duration {
        self.connection.rtt()
    }

    /// Bytes that are held for units that are not whole yet or that nobody has asked for: at most [`MAX_HELD`].
    pub fn held_bytes(&self) -> usize {
        MAX_HELD - self.room.available_permits()
    }

    /// Bytes that came, all of them: what this path costs the link.
    pub fn received_bytes(&self) -> u64 {
        self.connection.stats().udp_rx.bytes
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(0), b"bye");
    }
}

/// What both ends of this TLS session, and nobody else, know (RFC 5705).
pub fn exporter(connection: &Connection, label: &[u8]) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    connection.export_keying_material(&mut out, label, &[]).ok().map(|()| out)
}

async fn read_control(mut recv: RecvStream, mut buffer: BytesMut, arrived: mpsc::Sender<Arrival>) {
    loop {
        let arrival = match next_message(&mut recv, &mut buffer).await {
            Ok(Some(ServerMessage::Dropped { generation, track, sequence })) => {
                Arrival::Group(GroupHeader { generation, track, sequence }, GroupInput::Reset, None)
            }
            Ok(Some(ServerMessage::Ended)) => Arrival::Ended,
            Ok(Some(ServerMessage::Capacity(has_room))) => Arrival::Capacity(has_room),
            Ok(Some(ServerMessage::Timing(report))) => Arrival::Timing(report, Instant::now()),
            Ok(Some(_)) => continue,
            // The streams tell the rest.
            Ok(None) => return,
            Err(error) => Arrival::Failed(error),
        };
        let is_failure = matches!(arrival, Arrival::Failed(_));
        if arrived.send(arrival).await.is_err() || is_failure {
            return;
        }
    }
}

/// What the readers of all groups share.
#[derive(Clone, Debug)]
struct Shared {
    generation: Arc<AtomicU32>,
    arrived: mpsc::Sender<Arrival>,
    room: Arc<Semaphore>,
}

async fn read_groups(connection: Connection, shared: Shared) {
    let mut readers = JoinSet::new();
    loop {
        tokio::select! {
            stream = connection.accept_uni() => match stream {
                Ok(stream) => drop(readers.spawn(read_group(stream, shared.clone()))),
                Err(error) => {
                    // What has come is read before the end is told.
                    while readers.join_next().await.is_some() {}
                    let _ = shared.arrived.send(Arrival::Failed(error.into())).await;
                    return;
                }
            },
            Some(_) = readers.join_next() => {}
        }
    }
}

/// Reads one group to its end. A group of an earlier start is not read.
async fn read_group(mut stream: RecvStream, shared: Shared) {
    let mut reader = GroupReader::default();
    let result = group(&mut stream, &mut reader, &shared).await;
    let header = reader.header().ok().flatten();
    let last = match (result, header) {
        (Ok(true), Some(header)) => Arrival::Group(header, GroupInput::Complete, None),
        // Reset, or the connection is lost. One whose header never came is told of on the control stream.
        (Ok(false) | Err(Error::Read(_)), Some(header)) => Arrival::Group(header, GroupInput::Reset, None),
        (Ok(_) | Err(Error::Read(_)), None) => return,
        (Err(error), _) => Arrival::Failed(error),
    };
    let _ = shared.arrived.send(last).await;
}

/// Whether it ended where a group may end.
async fn group(stream: &mut RecvStream, reader: &mut GroupReader, shared: &Shared) -> Result<bool, Error> {
    let mut held: Option<OwnedSemaphorePermit> = None;
    while let Some(chunk) = stream.read_chunk(READ, true).await? {
        let bytes = u32::try_from(chunk.bytes.len()).unwrap_or(u32::MAX);
        let Ok(room) = shared.room.clone().acquire_many_owned(bytes).await else { return Ok(false) };
        match &mut held {
            Some(held) => held.merge(room),
            None => held = Some(room),
        }
        reader.push(&chunk.bytes);
        let Some(header) = reader.header()? else { continue };
        if header.generation != shared.generation.load(Ordering::Relaxed) {
            let _ = stream.stop(VarInt::from_u32(0));
            return Ok(false);
        }
        while let Some(unit) = reader.unit()? {
            // All that is no longer the reader's goes with the unit.
            let room = held.as_mut().and_then(|held| held.split(held.num_permits().saturating_sub(reader.held())));
            if shared.arrived.send(Arrival::Group(header, GroupInput::Unit(unit), room)).await.is_err() {
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

async fn write(send: &mut SendStream, ask: &ClientMessage) -> Result<(), Error> {
    let mut bytes = BytesMut::new();
    ask.encode(&mut bytes);
    Ok(send.write_all(&bytes).await?)
}

/// From the connection to the answer.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// What is taken of a stream at once.
const READ: usize = 64 << 10;
/// Bytes of all groups together that are held for a unit that is not whole yet, or wait for the reader: twice the largest unit. Whoever
/// sends halves of more than that is not read any further, and soon found silent.
pub const MAX_HELD: usize = 32 << 20;
/// Units that wait for the reader; more wait in QUIC's windows.
const ARRIVALS: usize = 64;
