//! The client's session, from the handshake to publishing or playing. Pure.
//!
//! `connect` is the first message and uses the default chunk size: FFmpeg's server mode accepts nothing else.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use media::WallClock;
use media::latency::Exchange;

use super::aggregate;
use super::command::{self, command, number, property, text};
use super::metadata::MetadataReader;
use super::wire::{Inbound, Input, Wire};
use crate::rtmp::amf::{self, Value};
use crate::rtmp::chunk::{RawMessage, kind};
use crate::rtmp::message::{
    CLOCK_COMMAND, EPOCH_KEY, GAP_COMMAND, HAVE_KEY, PEER_COMMAND, SERVER_KEY, STREAM_KEY, TICKETS_KEY, TIMING_COMMAND,
};
use crate::rtmp::publisher_timing::{self, PublisherTiming};
use crate::rtmp::{Error, Gap, INVALID_APP, Limits, Message, PeerAdvertisement, Resume, TicketIssuer, Url};

/// Whether a client publishes or plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientRole {
    /// The client publishes under the URL's name.
    Publish,
    /// The client plays the stream with the URL's name.
    Play,
}

/// An event from the server.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ClientEvent {
    /// Publishing or playing may begin. At most once.
    Started {
        /// Where to resume, if a Nearcast server has units of the stream's last broadcast.
        resume: Option<Resume>,
        /// The key that signs viewers' tickets, if the server states one.
        ticket_issuer: Option<TicketIssuer>,
    },
    /// A message of the stream that is played.
    Message(Message),
    /// The server has received this many bytes, modulo 2^32.
    Acknowledged(u32),
    /// Answers [`ClientSession::ping`] with the same number.
    Pong(u32),
    /// The answer to [`ClientSession::send_timing`]. The caller sets `returned`, because the session has no clock.
    Clock(Exchange),
}

/// The session of one connection. After an error it must not be used again.
pub struct ClientSession {
    wire: Wire,
    events: VecDeque<ClientEvent>,
    role: ClientRole,
    url: Url,
    agent: String,
    phase: Phase,
    nearcast: bool,
    stream: u32,
    metadata: MetadataReader,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Handshaking,
    Connecting,
    CreatingStream,
    Requesting,
    Started,
}

impl ClientSession {
    /// A session for a new connection; C0 and C1 are in [`ClientSession::output`]. `agent` is sent as `flashVer`.
    pub fn new(role: ClientRole, url: Url, agent: String, limits: &Limits) -> Self {
        let wire = Wire::client(limits);
        let phase = Phase::Handshaking;
        Self {
            wire,
            events: VecDeque::new(),
            role,
            url,
            agent,
            phase,
            nearcast: false,
            stream: 0,
            metadata: MetadataReader::default(),
        }
    }

    /// Takes bytes from the server. Events and output may follow.
    ///
    /// # Errors
    /// Any error ends the connection. [`Error::Refused`] if the server rejected the request, with the URL's name redacted from its text.
    pub fn input(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let after;
        let mut input = match self.wire.receive(bytes)? {
            Input::Handshake => return self.wire.acknowledge(),
            Input::Chunks => bytes,
            Input::HandshakeDone(rest) => {
                self.connect();
                after = rest;
                after.as_slice()
            }
        };
        while let Some(inbound) = self.wire.read(&mut input)? {
            match inbound {
                Inbound::Message(message) => self.message(message)?,
                Inbound::Acknowledged(bytes) => self.events.push_back(ClientEvent::Acknowledged(bytes)),
                Inbound::PeerBandwidth => {
                    let (out, chunk_size) = self.wire.out();
                    command::control(out, chunk_size, kind::WINDOW, OUR_WINDOW);
                }
                Inbound::UserControl(command::PING_RESPONSE, stamp, _) => {
                    self.events.push_back(ClientEvent::Pong(stamp));
                }
                Inbound::UserControl(command::STREAM_EOF, ..) => self.end_of_stream(),
                Inbound::UserControl(..) => {}
            }
        }
        if let Some(skipped) = self.wire.take_skipped() {
            self.metadata.skipped(&skipped, true);
        }
        self.wire.acknowledge()
    }

    /// The next event.
    pub fn event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// The number of events not taken yet.
    pub fn pending(&self) -> usize {
        self.events.len()
    }

    /// Takes the bytes to send to the server; empty if there are none.
    pub fn output(&mut self) -> Bytes {
        self.wire.take_output()
    }

    /// Whether the server has identified itself as a Nearcast `cdn`.
    pub fn server_is_nearcast(&self) -> bool {
        self.nearcast
    }

    /// The message stream ID from `createStream`.
    pub fn message_stream(&self) -> u32 {
        self.stream
    }

    /// The chunk size of what the client sends.
    pub fn chunk_size(&self) -> u32 {
        self.wire.chunk_size()
    }

    /// Sends a ping request (RTMP 1.0 §7.1.7), which the server answers with the same number. A Nearcast server does; few others do.
    pub fn ping(&mut self, stamp: u32) {
        let (out, chunk_size) = self.wire.out();
        command::user_control(out, chunk_size, command::PING_REQUEST, &[stamp]);
    }

    /// Sends `nearcastPeer`: where LAN viewers find the publisher. A Nearcast server passes it on; others ignore the command.
    pub fn advertise_peer(&mut self, offer: &PeerAdvertisement) {
        let (out, chunk_size) = self.wire.out();
        command(out, chunk_size, 0, PEER_COMMAND, 0.0, [Value::Null, amf::texts(offer.to_properties())]);
    }

    /// Sends `nearcastTiming`, which also requests the server's clock. For Nearcast servers only.
    pub fn send_timing(&mut self, timing: &PublisherTiming) {
        let (out, chunk_size) = self.wire.out();
        command(out, chunk_size, 0, TIMING_COMMAND, 0.0, [Value::Null, amf::texts(timing.to_properties())]);
    }

    /// States the predecessors of the next units. For Nearcast servers only.
    pub fn state_gap(&mut self, gap: &Gap) {
        let (out, chunk_size) = self.wire.out();
        command(out, chunk_size, 0, GAP_COMMAND, 0.0, [Value::Null, amf::texts(gap.to_properties())]);
    }

    /// Ends publishing or playing with `FCUnpublish` and `deleteStream`.
    pub fn finish(&mut self) {
        if self.phase != Phase::Started {
            return;
        }
        let (name, stream) = (self.url.name.clone(), self.stream);
        let (out, chunk_size) = self.wire.out();
        if self.role == ClientRole::Publish {
            command(out, chunk_size, 0, "FCUnpublish", 6.0, [Value::Null, amf::string(name)]);
        }
        command(out, chunk_size, 0, "deleteStream", 7.0, [Value::Null, Value::Number(stream.into())]);
    }

    /// Sends `connect` (RTMP 1.0 §7.2.1.1), with the codec lists of Enhanced RTMP v2.
    fn connect(&mut self) {
        let list = ["avc1", "hvc1", "av01", "vp09", "mp4a", "Opus", "fLaC", ".mp3"].map(amf::string);
        let mut properties = vec![
            ("app", amf::string(self.url.app.as_str())),
            ("flashVer", amf::string(self.agent.as_str())),
            ("tcUrl", amf::string(self.url.tc_url())),
            ("fourCcList", Value::StrictArray(list.into())),
            ("capsEx", Value::Number(command::CAPS_EX)),
        ];
        match self.role {
            ClientRole::Publish => properties.push(("type", amf::string("nonprivate"))),
            ClientRole::Play => properties.extend([
                ("fpad", Value::Boolean(false)),
                ("capabilities", Value::Number(15.0)),
                // All codecs of the specification (RTMP 1.0 §7.2.1.1).
                ("audioCodecs", Value::Number(4071.0)),
                ("videoCodecs", Value::Number(252.0)),
                ("videoFunction", Value::Number(1.0)),
            ]),
        }
        let properties = properties.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let (out, chunk_size) = self.wire.out();
        command(out, chunk_size, 0, "connect", CONNECT, [Value::Object(properties)]);
        self.phase = Phase::Connecting;
    }

    fn create_stream(&mut self) {
        self.phase = Phase::CreatingStream;
        if self.role == ClientRole::Publish {
            self.wire.set_chunk_size(PUBLISH_CHUNK_SIZE);
        }
        let name = self.url.name.clone();
        let (out, chunk_size) = self.wire.out();
        command::control(out, chunk_size, kind::WINDOW, OUR_WINDOW);
        if self.role == ClientRole::Publish {
            command(out, chunk_size, 0, "releaseStream", 2.0, [Value::Null, amf::string(name.as_str())]);
            command(out, chunk_size, 0, "FCPublish", 3.0, [Value::Null, amf::string(name)]);
        }
        command(out, chunk_size, 0, "createStream", CREATE_STREAM, [Value::Null]);
    }

    fn request_stream(&mut self) {
        self.phase = Phase::Requesting;
        let (name, stream) = (self.url.name.clone(), self.stream);
        let (out, chunk_size) = self.wire.out();
        match self.role {
            ClientRole::Publish => {
                command(
                    out,
                    chunk_size,
                    stream,
                    "publish",
                    PUBLISH_OR_PLAY,
                    [Value::Null, amf::string(name), amf::string("live")],
                );
            }
            ClientRole::Play => {
                // A live stream, or a recorded one if there is none (RTMP 1.0 §7.2.2.1).
                let start = Value::Number(-2.0);
                command(out, chunk_size, stream, "play", PUBLISH_OR_PLAY, [Value::Null, amf::string(name), start]);
                command::user_control(out, chunk_size, command::SET_BUFFER_LENGTH, &[stream, BUFFER_LENGTH]);
            }
        }
    }

    fn message(&mut self, message: RawMessage) -> Result<(), Error> {
        match message.kind {
            kind::AUDIO | kind::VIDEO | kind::DATA | kind::DATA_AMF3 => self.played(message),
            kind::AGGREGATE => aggregate::split(&message)?.into_iter().try_for_each(|m| self.played(m)),
            kind::COMMAND => self.command(&message.body),
            kind::COMMAND_AMF3 => match message.body.split_first() {
                Some((0, body)) => self.command(body),
                _ => Err(Error::Protocol { what: "an AMF3 command is not AMF0 within" }),
            },
            _ => Ok(()),
        }
    }

    fn played(&mut self, message: RawMessage) -> Result<(), Error> {
        let RawMessage { kind, timestamp, body, .. } = message;
        if self.role != ClientRole::Play || body.is_empty() {
            return Ok(());
        }
        let message = match kind {
            kind::AUDIO => Message::Audio { timestamp, body },
            kind::VIDEO => Message::Video { timestamp, body },
            _ => match self.metadata.read(kind, &body) {
                Some(metadata) => Message::Metadata(metadata),
                None => return Ok(()),
            },
        };
        // Some servers send media without NetStream.Play.Start.
        self.start(None, None);
        self.events.push_back(ClientEvent::Message(message));
        Ok(())
    }

    fn command(&mut self, body: &[u8]) -> Result<(), Error> {
        let values = amf::decode(body).map_err(Error::amf("a command"))?;
        let Some(name) = text(values.first()) else {
            return Err(Error::Amf {
                command: "a command",
                source: amf::Error::Shape("it does not begin with a name"),
            });
        };
        let transaction = number(values.get(1)).unwrap_or(0.0);
        // Some servers omit the command object, so that the information object takes its place.
        let info = values.get(3).or(values.get(2)).unwrap_or(&Value::Null);
        match name {
            "_result" if transaction == CONNECT && self.phase == Phase::Connecting => {
                self.nearcast = values.iter().any(says_nearcast);
                self.create_stream();
                Ok(())
            }
            "_result" if transaction == CREATE_STREAM && self.phase == Phase::CreatingStream => {
                let stream = number(Some(info)).filter(|n| (1.0..=f64::from(u32::MAX)).contains(n));
                let Some(stream) = stream else {
                    let source = amf::Error::Shape("it has no stream number");
                    return Err(Error::Amf { command: "the response to createStream", source });
                };
                self.stream = stream as u32;
                self.request_stream();
                Ok(())
            }
            "_error" if transaction == CONNECT || transaction == CREATE_STREAM || transaction == PUBLISH_OR_PLAY => {
                Err(self.refused(info))
            }
            "onStatus" => self.status(info),
            // The caller sets the time of arrival: the session has no clock.
            CLOCK_COMMAND => {
                let exchange =
                    publisher_timing::exchange(|key| text(property(info, key)), WallClock::from_micros(i64::MAX));
                self.events.extend(exchange.map(ClientEvent::Clock));
                Ok(())
            }
            GAP_COMMAND if self.role == ClientRole::Play => {
                let gap = Gap::from_properties(|key| text(property(info, key)));
                self.events.extend(gap.map(|gap| ClientEvent::Message(Message::Gap(gap))));
                Ok(())
            }
            "close" => Err(Error::Closed { waiting_for: "the response: it sent a close command" }),
            // onBWDone, onFCPublish, answers to releaseStream and FCPublish.
            _ => Ok(()),
        }
    }

    fn status(&mut self, info: &Value) -> Result<(), Error> {
        let code = text(property(info, "code")).unwrap_or_default();
        if text(property(info, "level")) == Some("error") {
            // An answer to releaseStream or seek says nothing about the stream itself.
            return if code.starts_with("NetStream.Seek") { Ok(()) } else { Err(self.refused(info)) };
        }
        match code {
            "NetStream.Publish.Start" => {
                self.nearcast |= says_nearcast(info);
                let have = text(property(info, HAVE_KEY)).unwrap_or_default();
                let resume = text(property(info, EPOCH_KEY)).and_then(|epoch| Resume::parse(epoch, have));
                let ticket_issuer = text(property(info, STREAM_KEY)).zip(text(property(info, TICKETS_KEY)));
                let ticket_issuer = ticket_issuer
                    .and_then(|(stream, key)| Some(TicketIssuer { stream: stream.to_owned(), key: key.parse().ok()? }));
                self.start(resume, ticket_issuer);
            }
            "NetStream.Play.Start" => self.start(None, None),
            "NetStream.Play.UnpublishNotify" | "NetStream.Play.Stop" | "NetStream.Play.Complete" => {
                self.end_of_stream();
            }
            // Some servers omit the level.
            "NetStream.Publish.BadName"
            | "NetStream.Play.StreamNotFound"
            | "NetStream.Play.Failed"
            | "NetStream.Publish.Denied"
            | "NetConnection.Connect.Rejected"
            | INVALID_APP => return Err(self.refused(info)),
            _ => {}
        }
        Ok(())
    }

    fn start(&mut self, resume: Option<Resume>, ticket_issuer: Option<TicketIssuer>) {
        if self.phase == Phase::Requesting {
            self.phase = Phase::Started;
            self.events.push_back(ClientEvent::Started { resume, ticket_issuer });
        }
    }

    /// Reports the end of the stream once, although servers may signal it twice.
    fn end_of_stream(&mut self) {
        let end = ClientEvent::Message(Message::EndOfStream);
        if self.phase == Phase::Started && self.role == ClientRole::Play && self.events.back() != Some(&end) {
            self.events.push_back(end);
        }
    }

    /// The server's reason, with the stream key redacted.
    fn refused(&self, info: &Value) -> Error {
        let (key, query) = self.url.name.split_once('?').unwrap_or((&self.url.name, ""));
        let clean = |field| {
            let mut words = text(property(info, field)).unwrap_or("no reason given").to_owned();
            if self.role == ClientRole::Publish {
                for secret in [self.url.name.as_str(), key, query] {
                    if !secret.is_empty() {
                        words = words.replace(secret, "***");
                    }
                }
            }
            // The text is shown in logs and terminals.
            words.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect()
        };
        Error::Refused { code: clean("code"), description: clean("description") }
    }
}

fn says_nearcast(info: &Value) -> bool {
    matches!(property(info, SERVER_KEY), Some(Value::Boolean(true)))
}

/// Redacts the stream name, which may be a key.
impl fmt::Debug for ClientSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSession")
            .field("role", &self.role)
            .field("url", &self.url)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

// Transaction numbers; 2 and 3 are releaseStream and FCPublish, whose answers do not matter.
const CONNECT: f64 = 1.0;
const CREATE_STREAM: f64 = 4.0;
const PUBLISH_OR_PLAY: f64 = 5.0;
/// The window acknowledgement size in bytes that we request: about four acknowledgements a second at 2 Mbit/s.
const OUR_WINDOW: u32 = 64 << 10;
/// The chunk size for publishing: one chunk for most access units, and within the limit of every known server.
const PUBLISH_CHUNK_SIZE: u32 = 60_000;
/// The buffer length in milliseconds stated to servers: some delay the stream less for a shorter buffer.
const BUFFER_LENGTH: u32 = 300;
/// Bounds a server's error text, in characters.
const MAX_REASON: usize = 300;
