//! An RTMP client: publishes to, or plays from, any RTMP server.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use media::Epoch;
use media::WallClock;
use media::access_unit::{AccessUnit, TrackKind};
use media::catalog::Track;
use media::flv;
use media::latency::{ClockOffset, Exchange, OffsetEstimator, UnitTiming};
use socket2::{SockRef, Socket};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::connection::{Connection, Deadline};
use super::framing::{self, DATA_CHUNK_STREAM, Framed};
use super::rtt_probe::{RttProbe, RttSample};
use super::session::{ClientEvent, ClientRole, ClientSession};
use super::{
    Error, Gap, Limits, Message, Metadata, PeerAdvertisement, PublisherTiming, Resume, TicketIssuer, Url, amf, chunk,
};
use crate::bbr::ProbeRttSuppressor;
use crate::clock;

/// Settings of a client connection.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientOptions {
    /// Limits and time-outs; `handshake` includes name resolution and the TCP connect.
    pub limits: Limits,
    /// The client's name, sent as `flashVer` of `connect`.
    pub agent: String,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self { limits: Limits::default(), agent: AGENT.to_owned() }
    }
}

/// Connects and publishes.
///
/// # Errors
/// Network errors; [`Error::Refused`] if the server rejects the request; [`Error::Timeout`] after `limits.handshake`.
pub async fn publish(url: &Url, options: ClientOptions) -> Result<Publisher, Error> {
    let (io, deadline) = connect(url, &options).await?;
    let socket = SockRef::from(&io).try_clone().map_err(|source| Error::Io { during: "connecting", source })?;
    let mut publisher = publish_by(io, url, options, deadline).await?;
    publisher.tcp = Some((ProbeRttSuppressor::new(SockRef::from(&socket), std::time::Instant::now()), socket));
    Ok(publisher)
}

/// Connects and plays.
///
/// # Errors
/// As [`publish`].
pub async fn play(url: &Url, options: ClientOptions) -> Result<Player, Error> {
    let (io, deadline) = connect(url, &options).await?;
    play_by(io, url, options, deadline).await
}

/// [`publish`] over an established connection.
///
/// # Errors
/// As [`publish`].
pub async fn publish_over<S>(io: S, url: &Url, options: ClientOptions) -> Result<Publisher<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let deadline = Deadline::after("answer to publish", options.limits.handshake);
    publish_by(io, url, options, deadline).await
}

/// [`play`] over an established connection.
///
/// # Errors
/// As [`publish`].
pub async fn play_over<S>(io: S, url: &Url, options: ClientOptions) -> Result<Player<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let deadline = Deadline::after("answer to play", options.limits.handshake);
    play_by(io, url, options, deadline).await
}

async fn publish_by<S>(io: S, url: &Url, options: ClientOptions, deadline: Deadline) -> Result<Publisher<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (connection, resume, ticket_issuer) = start(io, ClientRole::Publish, url, options, deadline).await?;
    Ok(Publisher {
        rtt_probe: RttProbe::new(PUBLISH_PING_INTERVAL),
        connection,
        resume,
        ticket_issuer,
        acknowledged: None,
        pending_writes: VecDeque::new(),
        began: Instant::now(),
        clock_request: None,
        clock: OffsetEstimator::default(),
        exchange: None,
        tcp: None,
    })
}

async fn play_by<S>(io: S, url: &Url, options: ClientOptions, deadline: Deadline) -> Result<Player<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (connection, ..) = start(io, ClientRole::Play, url, options, deadline).await?;
    Ok(Player { rtt_probe: RttProbe::new(PING_INTERVAL), connection })
}

async fn connect(url: &Url, options: &ClientOptions) -> Result<(TcpStream, Deadline), Error> {
    let deadline = Deadline::after("connection", options.limits.handshake);
    let connecting = TcpStream::connect((url.host.as_str(), url.port));
    let io = timeout_at(deadline.at(), connecting).await.map_err(|_| deadline.passed())?;
    let io = io.map_err(|source| Error::Io { during: "connecting", source })?;
    // An access unit must not wait for the acknowledgement of the previous one (Nagle).
    io.set_nodelay(true).map_err(|source| Error::Io { during: "connecting", source })?;
    // Unsent data stays in this process, where it is counted and can be dropped for newer data.
    #[cfg(target_os = "linux")]
    SockRef::from(&io)
        .set_tcp_notsent_lowat(NOTSENT_LOWAT)
        .map_err(|source| Error::Io { during: "connecting", source })?;
    Ok((io, deadline))
}

async fn start<S>(
    io: S,
    role: ClientRole,
    url: &Url,
    options: ClientOptions,
    deadline: Deadline,
) -> Result<(Connection<S, ClientSession>, Option<Resume>, Option<TicketIssuer>), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let session = ClientSession::new(role, url.clone(), options.agent, &options.limits);
    let mut connection = Connection::new(io, session, &options.limits);
    loop {
        while let Some(event) = connection.session.event() {
            if let ClientEvent::Started { resume, ticket_issuer } = event {
                return Ok((connection, resume, ticket_issuer));
            }
        }
        connection.flush(deadline).await?;
        if !connection.fill(deadline).await? {
            return Err(Error::Closed { waiting_for: "the server's response" });
        }
    }
}

/// A connection that publishes to a server.
pub struct Publisher<S = TcpStream> {
    connection: Connection<S, ClientSession>,
    resume: Option<Resume>,
    ticket_issuer: Option<TicketIssuer>,
    acknowledged: Option<u32>,
    /// Bytes written in total after each write, and when; at most [`MAX_PENDING_WRITES`].
    pending_writes: VecDeque<(u64, Instant)>,
    rtt_probe: RttProbe,
    began: Instant,
    /// When the outstanding clock request was sent, by the wall clock and by the monotonic one.
    clock_request: Option<(WallClock, Instant)>,
    clock: OffsetEstimator,
    exchange: Option<Exchange>,
    /// The TCP socket, if the connection is one.
    tcp: Option<(ProbeRttSuppressor, Socket)>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Publisher<S> {
    /// The position at which to resume, if the server has units of this stream's last broadcast.
    pub fn resume(&self) -> Option<&Resume> {
        self.resume.as_ref()
    }

    /// The key that the server signs viewers' tickets with, if it states one.
    pub fn ticket_issuer(&self) -> Option<&TicketIssuer> {
        self.ticket_issuer.as_ref()
    }

    /// Advertises this broadcaster's relay for LAN viewers to the server; sent with the next message.
    pub fn advertise_peer(&mut self, offer: &PeerAdvertisement) {
        self.connection.session.advertise_peer(offer);
    }

    /// Reports when units passed this host's stages, by a clock that shows `now`, and the number of LAN viewers, and requests the server's clock; sent with the next message.
    /// Does nothing if the server is not a Nearcast `cdn`.
    pub fn send_timing(&mut self, now: WallClock, epoch: Epoch, units: Vec<UnitTiming>, lan_viewers: u32) {
        if self.server_is_nearcast() {
            self.clock_request = Some((now, clock::monotonic_time(now)));
            let timing = PublisherTiming { sent: now, server: self.server_clock(), epoch, units, lan_viewers };
            self.connection.session.send_timing(&timing);
        }
    }

    /// States the predecessors of the next units; sent before the next message. Does nothing if the server is not a Nearcast `cdn`.
    pub fn state_gap(&mut self, gap: &Gap) {
        if self.server_is_nearcast() {
            self.connection.session.state_gap(gap);
        }
    }

    /// The offset from this host's clock to the server's; `None` before the first exchange.
    pub fn server_clock(&self) -> Option<ClockOffset> {
        self.clock.offset(self.began.elapsed())
    }

    /// Whether the server is a Nearcast `cdn`.
    pub fn server_is_nearcast(&self) -> bool {
        self.connection.session.server_is_nearcast()
    }

    /// Sends one message; returns when the socket has taken it. If cancelled, the rest is sent by the next call.
    ///
    /// # Errors
    /// Write errors, [`Error::Refused`] if the server ends the stream, [`Error::Unsendable`].
    pub async fn send(&mut self, message: Message) -> Result<(), Error> {
        match message {
            Message::Audio { timestamp, body } => self.send_body(TrackKind::Audio, timestamp, &[], &body).await,
            Message::Video { timestamp, body } => self.send_body(TrackKind::Video, timestamp, &[], &body).await,
            Message::Metadata(metadata) => {
                let framed = self.metadata(&metadata)?;
                self.send_framed(&framed).await
            }
            Message::Peer(offer) => {
                self.advertise_peer(&offer);
                self.flush().await
            }
            Message::Timing(timing) => {
                self.send_timing(timing.sent, timing.epoch, timing.units, timing.lan_viewers);
                self.flush().await
            }
            Message::Gap(gap) => {
                self.state_gap(&gap);
                self.flush().await
            }
            Message::EndOfStream => {
                self.connection.session.finish();
                self.flush().await
            }
        }
    }

    /// Sends a track's sequence header, if its codec has one.
    ///
    /// # Errors
    /// As [`Publisher::send`].
    pub async fn send_track(&mut self, timestamp: u32, track: &Track) -> Result<(), Error> {
        let header = flv::sequence_header(track);
        if header.is_empty() {
            return Ok(());
        }
        self.send_body(track.id.kind, timestamp, &[], &header).await
    }

    /// Sends one access unit without copying its payload.
    ///
    /// # Errors
    /// As [`Publisher::send`].
    pub async fn send_unit(&mut self, track: &Track, unit: &AccessUnit) -> Result<(), Error> {
        let head = flv::unit_header(track, unit);
        self.send_body(track.id.kind, unit.dts.as_rtmp(), &head, &unit.payload).await
    }

    /// Writes everything that is queued.
    ///
    /// # Errors
    /// Write errors of the socket.
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.connection.flush(self.connection.write_deadline()).await?;
        self.process_events()
    }

    /// Reads from the connection while there is nothing to send; returns only with the error that ended it. Cancel safe: run it concurrently
    /// with the wait for the next access unit, so that a rejection or a disconnect is detected at once and the RTT is measured.
    pub async fn idle(&mut self) -> Error {
        loop {
            let step = self.idle_step().await;
            if let Err(error) = step.and_then(|()| self.process_events()) {
                return error;
            }
        }
    }

    /// The TCP socket, if the connection is one, for socket options.
    #[cfg(unix)]
    pub fn socket(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.tcp.as_ref().map(|(_, socket)| std::os::fd::AsFd::as_fd(socket))
    }

    /// Bytes that the server has not acknowledged, unsent ones included; `None` before its first acknowledgement.
    pub fn unacknowledged_bytes(&self) -> Option<u64> {
        let sent = self.connection.sent();
        self.acknowledged.map(|a| sent - delivered(sent, a) + self.connection.unsent() as u64)
    }

    /// The last measured RTT, queueing included.
    pub fn round_trip(&self) -> Option<Duration> {
        self.rtt_probe.round_trip
    }

    /// The last answer to a ping; `None` before the first, and for a server that is not pinged.
    pub fn rtt_sample(&self) -> Option<RttSample> {
        self.rtt_probe.sample()
    }

    /// The age of the oldest ping that is not answered yet, zero without one: the RTT is at least as long.
    pub fn outstanding_ping(&self) -> Duration {
        self.rtt_probe.outstanding(Instant::now())
    }

    /// The last exchange of clocks with the server, which each [`send_timing`](Self::send_timing) begins; each is returned once.
    pub fn take_exchange(&mut self) -> Option<Exchange> {
        self.exchange.take()
    }

    /// Keeps the kernel's BBR from pausing, if it is time to ([`crate::bbr`]). Call it at least once a second while the link is not saturated.
    pub fn suppress_probe_rtt(&mut self) {
        let now = std::time::Instant::now();
        if let Some((suppressor, socket)) = &mut self.tcp
            && suppressor.is_due(now)
        {
            suppressor.restart(SockRef::from(&*socket), now);
        }
    }

    /// Ends the stream with `FCUnpublish` and `deleteStream`, and closes the connection.
    ///
    /// # Errors
    /// Write errors of the socket.
    pub async fn close(mut self) -> Result<(), Error> {
        self.connection.session.finish();
        self.connection.close().await
    }

    async fn idle_step(&mut self) -> Result<(), Error> {
        self.rtt_probe.poll(&mut self.connection)?;
        self.connection.flush(self.connection.write_deadline()).await?;
        match timeout_at(self.rtt_probe.next(), self.connection.fill(Deadline::after("byte", FOREVER))).await {
            Ok(Ok(true)) | Err(_) => Ok(()),
            Ok(Ok(false)) => Err(Error::Closed { waiting_for: "the end of the stream" }),
            Ok(Err(error)) => Err(error),
        }
    }

    async fn send_body(&mut self, kind: TrackKind, timestamp: u32, head: &[u8], body: &Bytes) -> Result<(), Error> {
        let session = &self.connection.session;
        let framed =
            framing::media_on_stream(kind, session.message_stream(), timestamp, head, body, session.chunk_size())?;
        self.send_framed(&framed).await
    }

    async fn send_framed(&mut self, framed: &Framed) -> Result<(), Error> {
        self.rtt_probe.poll(&mut self.connection)?;
        self.connection.queue(Some(framed));
        self.connection.flush(self.connection.write_deadline()).await?;
        if self.pending_writes.len() < MAX_PENDING_WRITES {
            self.pending_writes.push_back((self.connection.sent(), Instant::now()));
        }
        self.process_events()
    }

    fn metadata(&self, metadata: &Metadata) -> Result<Framed, Error> {
        let unsendable = |_| Error::Unsendable { what: "this metadata" };
        let mut body = amf::encode(vec![amf::string("@setDataFrame")]).map_err(unsendable)?.to_vec();
        body.extend(amf::encode_metadata(&metadata.to_values()).map_err(unsendable)?);
        let session = &self.connection.session;
        let (stream, chunk_size) = (session.message_stream(), session.chunk_size());
        Ok(framing::whole(DATA_CHUNK_STREAM, chunk::kind::DATA, stream, &body, chunk_size))
    }

    fn process_events(&mut self) -> Result<(), Error> {
        if self.connection.has_ended() {
            return Err(Error::Closed { waiting_for: "the end of the stream" });
        }
        while let Some(event) = self.connection.session.event() {
            match event {
                ClientEvent::Acknowledged(bytes) => {
                    let sent = self.connection.sent();
                    let delivered = delivered(sent, bytes);
                    while self.pending_writes.front().is_some_and(|(upto, _)| *upto < delivered) {
                        self.pending_writes.pop_front();
                    }
                    // The server acknowledged a byte within the first write that reaches that count.
                    if let (Some((_, at)), false) = (self.pending_writes.front(), self.server_is_nearcast()) {
                        self.rtt_probe.round_trip = Some(at.elapsed());
                    }
                    self.acknowledged = Some(bytes);
                }
                ClientEvent::Pong(stamp) => self.rtt_probe.pong(stamp),
                ClientEvent::Clock(exchange) => {
                    let clock_request = self.clock_request.take_if(|(sent, _)| *sent == exchange.sent);
                    if let Some(micros) = clock_request.and_then(|(_, at)| i64::try_from(at.elapsed().as_micros()).ok())
                    {
                        // Measured on the monotonic clock, which is not adjusted in between.
                        let returned = WallClock::from_micros(exchange.sent.as_micros().saturating_add(micros));
                        let exchange = Exchange { returned, ..exchange };
                        self.clock.record(self.began.elapsed(), exchange);
                        self.exchange = Some(exchange);
                    }
                }
                ClientEvent::Started { .. } | ClientEvent::Message(_) => {}
            }
        }
        Ok(())
    }
}

/// How many of `sent` bytes an acknowledgement modulo 2^32 covers. A server that counts differently (without the handshake, or more than was
/// sent) is assumed to have received everything.
fn delivered(sent: u64, acknowledged: u32) -> u64 {
    let missing = (sent as u32).wrapping_sub(acknowledged);
    if missing > u32::MAX / 2 { sent } else { sent.saturating_sub(missing.into()) }
}

/// A connection that plays from a server.
pub struct Player<S = TcpStream> {
    connection: Connection<S, ClientSession>,
    rtt_probe: RttProbe,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Player<S> {
    /// The next message; `None` once the server has closed the connection. Cancel safe.
    ///
    /// # Errors
    /// Protocol and limit violations of the server, [`Error::Refused`] if it ends playback, and [`Error::Timeout`] after `limits.idle` without
    /// data. A Nearcast server without media still answers pings, so silence means that it is gone.
    pub async fn next(&mut self) -> Result<Option<Message>, Error> {
        loop {
            while let Some(event) = self.connection.session.event() {
                match event {
                    ClientEvent::Message(message) => return Ok(Some(message)),
                    ClientEvent::Pong(stamp) => self.rtt_probe.pong(stamp),
                    ClientEvent::Acknowledged(_) | ClientEvent::Started { .. } | ClientEvent::Clock(_) => {}
                }
            }
            self.rtt_probe.poll(&mut self.connection)?;
            self.connection.flush(self.connection.write_deadline()).await?;
            let fill = self.connection.fill(self.connection.idle_deadline());
            match timeout_at(self.rtt_probe.next(), fill).await {
                Ok(Ok(true)) | Err(_) => {}
                Ok(Ok(false)) => return Ok(None),
                Ok(Err(error)) => return Err(error),
            }
        }
    }

    /// Whether the server is a Nearcast `cdn`.
    pub fn server_is_nearcast(&self) -> bool {
        self.connection.session.server_is_nearcast()
    }

    /// The last measured RTT; `None` if the server is not pinged.
    pub fn round_trip(&self) -> Option<Duration> {
        self.rtt_probe.round_trip
    }

    /// Ends playback with `deleteStream`, and closes the connection.
    ///
    /// # Errors
    /// Write errors of the socket.
    pub async fn close(mut self) -> Result<(), Error> {
        self.connection.session.finish();
        self.connection.close().await
    }
}

impl<S> fmt::Debug for Publisher<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("resume", &self.resume).finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for Player<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Player").finish_non_exhaustive()
    }
}

const AGENT: &str = concat!("FMLE/3.0 (compatible; Nearcast/", env!("CARGO_PKG_VERSION"), ")");
/// `TCP_NOTSENT_LOWAT`, in bytes: an IDR and the units of one round trip after it.
#[cfg(target_os = "linux")]
const NOTSENT_LOWAT: u32 = 64 << 10;
/// The ping interval of a player: the update rate of a status line.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// The ping interval of a publisher: short, to detect a saturated uplink at once; costs 3 kbit/s.
const PUBLISH_PING_INTERVAL: Duration = Duration::from_millis(100);
/// Bounds the writes whose acknowledgement is outstanding: ten seconds of a busy stream.
const MAX_PENDING_WRITES: usize = 1024;
/// The deadline of a wait that another deadline ends earlier.
const FOREVER: Duration = Duration::from_secs(3600);
