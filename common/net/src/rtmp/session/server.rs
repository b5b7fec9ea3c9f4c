//! The server's session: answers a client up to `publish` or `play`, then reports its messages. Pure.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use media::{TrackKind, WallClock};

use super::aggregate;
use super::command::{self, Status, command, number, property, text};
use super::metadata::MetadataReader;
use super::server_event::{PlayerEvent, ServerEvent, StreamRequest};
use super::wire::{Inbound, Input, Wire};
use crate::rtmp::amf::{self, Value};
use crate::rtmp::chunk::{RawMessage, kind};
use crate::rtmp::framing::{PLAY_CHUNK_SIZE, PLAY_STREAM};
use crate::rtmp::message::{
    CLOCK_COMMAND, EPOCH_KEY, GAP_COMMAND, HAVE_KEY, PEER_COMMAND, SERVER_KEY, STREAM_KEY, TICKETS_KEY, TIMING_COMMAND,
};
use crate::rtmp::publisher_timing::{self, PublisherTiming};
use crate::rtmp::{Error, Gap, Limits, Message, PeerAdvertisement, Resume, TicketIssuer, url};

/// The session of one connection. After an error it must not be used again.
pub struct ServerSession {
    wire: Wire,
    events: VecDeque<ServerEvent>,
    connected: Option<Connect>,
    /// The IDs of the message streams that exist.
    streams: Vec<u32>,
    limits: Limits,
    state: MessageStreamState,
    metadata: MetadataReader,
}

struct Connect {
    app: String,
    query: Vec<(String, String)>,
    tc_url: Option<String>,
    agent: Option<String>,
}

/// The role of the connection, and its message stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MessageStreamState {
    Idle,
    PublishRequested(u32),
    PlayRequested(u32),
    Publishing(u32),
    Playing(u32),
}

impl ServerSession {
    /// A session for a new connection, with these bounds.
    pub fn new(limits: &Limits) -> Self {
        Self {
            wire: Wire::server(limits),
            events: VecDeque::new(),
            connected: None,
            streams: Vec::new(),
            limits: *limits,
            state: MessageStreamState::Idle,
            metadata: MetadataReader::default(),
        }
    }

    /// Takes bytes from the client. Events and output may follow.
    ///
    /// # Errors
    /// Any error ends the connection; the peer is at fault.
    pub fn input(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let after;
        let mut input = match self.wire.receive(bytes)? {
            Input::Handshake => return self.wire.acknowledge(),
            Input::Chunks => bytes,
            Input::HandshakeDone(rest) => {
                after = rest;
                after.as_slice()
            }
        };
        while let Some(inbound) = self.wire.read(&mut input)? {
            match inbound {
                Inbound::Message(message) => self.message(message)?,
                Inbound::Acknowledged(bytes) => self.player_event(PlayerEvent::Acknowledged(bytes)),
                Inbound::UserControl(command::SET_BUFFER_LENGTH, _, millis) => {
                    self.player_event(PlayerEvent::BufferLength(millis));
                }
                // A client does not limit a server's bandwidth, and other user control events are not used.
                Inbound::PeerBandwidth | Inbound::UserControl(..) => {}
            }
        }
        if let Some(skipped) = self.wire.take_skipped() {
            self.metadata.skipped(&skipped, self.is_publisher());
        }
        self.wire.acknowledge()
    }

    /// The next event.
    pub fn event(&mut self) -> Option<ServerEvent> {
        self.events.pop_front()
    }

    /// The number of events not taken yet.
    pub fn pending(&self) -> usize {
        self.events.len()
    }

    /// Takes the bytes to send to the client; empty if there are none.
    pub fn output(&mut self) -> Bytes {
        self.wire.take_output()
    }

    /// Accepts [`ServerEvent::Publish`]; `resume` and `ticket_issuer` are sent in `onStatus`.
    pub fn accept_publish(&mut self, resume: Option<&Resume>, ticket_issuer: Option<&TicketIssuer>) {
        let MessageStreamState::PublishRequested(stream) = self.state else { return };
        self.state = MessageStreamState::Publishing(stream);
        self.wire.allow_media(&self.limits);
        let (out, chunk_size) = self.wire.out();
        command::user_control(out, chunk_size, command::STREAM_BEGIN, &[stream]);
        let mut status = Status::new("status", "NetStream.Publish.Start", "Publishing started.")
            .with(SERVER_KEY, Value::Boolean(true));
        if let Some(resume) = resume {
            status = status.with(EPOCH_KEY, amf::string(resume.epoch.to_string()));
            status = status.with(HAVE_KEY, amf::string(resume.have_text()));
        }
        if let Some(ticket_issuer) = ticket_issuer {
            status = status.with(STREAM_KEY, amf::string(ticket_issuer.stream.as_str()));
            status = status.with(TICKETS_KEY, amf::string(ticket_issuer.key.to_string()));
        }
        status.write(out, chunk_size, stream);
    }

    /// Accepts [`ServerEvent::Play`]. Media follows on [`PLAY_STREAM`] in chunks of [`PLAY_CHUNK_SIZE`].
    pub fn accept_play(&mut self) {
        let MessageStreamState::PlayRequested(stream) = self.state else { return };
        self.state = MessageStreamState::Playing(stream);
        let (out, chunk_size) = self.wire.out();
        command::user_control(out, chunk_size, command::STREAM_BEGIN, &[stream]);
        Status::new("status", "NetStream.Play.Reset", "Playing and resetting.").write(out, chunk_size, stream);
        Status::new("status", "NetStream.Play.Start", "Playing.").write(out, chunk_size, stream);
    }

    /// Rejects a request, or ends publishing or playing: an `onStatus` of level `error`. Close the connection once it is sent.
    pub fn reject(&mut self, code: &str, description: &str) {
        let stream = match self.state {
            MessageStreamState::Idle => 0,
            MessageStreamState::PublishRequested(stream)
            | MessageStreamState::PlayRequested(stream)
            | MessageStreamState::Publishing(stream)
            | MessageStreamState::Playing(stream) => stream,
        };
        self.state = MessageStreamState::Idle;
        let (out, chunk_size) = self.wire.out();
        Status::new("error", code, description).write(out, chunk_size, stream);
    }

    /// Answers a [`Message::Timing`] that the publisher sent at `sent`, by the publisher's clock, with this host's time `now`.
    pub fn answer_timing(&mut self, sent: WallClock, now: WallClock) {
        let (out, chunk_size) = self.wire.out();
        command(out, chunk_size, 0, CLOCK_COMMAND, 0.0, [Value::Null, amf::texts(publisher_timing::answer(sent, now))]);
    }

    fn player_event(&mut self, event: PlayerEvent) {
        if matches!(self.state, MessageStreamState::Playing(_) | MessageStreamState::PlayRequested(_)) {
            self.events.push_back(ServerEvent::Player(event));
        }
    }

    fn is_publisher(&self) -> bool {
        matches!(self.state, MessageStreamState::Publishing(_) | MessageStreamState::PublishRequested(_))
    }

    fn message(&mut self, message: RawMessage) -> Result<(), Error> {
        match message.kind {
            kind::AUDIO | kind::VIDEO | kind::DATA | kind::DATA_AMF3 => self.published(message),
            kind::AGGREGATE => aggregate::split(&message)?.into_iter().try_for_each(|m| self.published(m)),
            kind::COMMAND => self.command(message.stream, &message.body),
            // Every known encoder sends AMF3 commands as a format byte and AMF0.
            kind::COMMAND_AMF3 => match message.body.split_first() {
                Some((0, body)) => self.command(message.stream, body),
                _ => Err(Error::Protocol { what: "an AMF3 command is not AMF0 within" }),
            },
            // Shared objects and unknown types.
            _ => Ok(()),
        }
    }

    fn published(&mut self, message: RawMessage) -> Result<(), Error> {
        let RawMessage { kind, timestamp, body, .. } = message;
        // Some encoders send empty messages as keep-alives.
        if !self.is_publisher() || body.is_empty() {
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
        self.events.push_back(ServerEvent::Message(message));
        Ok(())
    }

    fn command(&mut self, stream: u32, body: &[u8]) -> Result<(), Error> {
        let values = amf::decode(body).map_err(Error::amf("a command"))?;
        let mut values = values.into_iter();
        let Some(Value::Utf8String(name)) = values.next() else {
            return Err(Error::Amf {
                command: "a command",
                source: amf::Error::Shape("it does not begin with a name"),
            });
        };
        let (transaction, object) = match values.next() {
            Some(Value::Number(transaction)) => (transaction, values.next().unwrap_or(Value::Null)),
            // `|RtmpSampleAccess` and others have no transaction ID and no command object.
            _ => (0.0, Value::Null),
        };
        let arguments: Vec<Value> = values.collect();
        let argument = arguments.first();
        if name == "connect" {
            return self.connect(transaction, &object);
        }
        if self.connected.is_none() {
            return Err(Error::Protocol { what: "a command precedes connect" });
        }
        match name.as_str() {
            "createStream" => self.create_stream(transaction)?,
            "publish" => self.request_stream(stream, text(argument), MessageStreamState::PublishRequested(stream))?,
            "play" => self.request_stream(stream, text(argument), MessageStreamState::PlayRequested(stream))?,
            "deleteStream" => {
                let stream = number(argument).map_or(stream, |n| n as u32);
                self.streams.retain(|s| *s != stream);
                self.end(stream);
            }
            "closeStream" => self.end(stream),
            "FCUnpublish" => {
                self.fc_status("onFCUnpublish", "NetStream.Unpublish.Success", text(argument));
                self.result(transaction, Value::Undefined);
                if let MessageStreamState::Publishing(stream) | MessageStreamState::PublishRequested(stream) =
                    self.state
                {
                    self.end(stream);
                }
            }
            "FCPublish" => {
                self.result(transaction, Value::Undefined);
                self.fc_status("onFCPublish", "NetStream.Publish.Start", text(argument));
            }
            "FCSubscribe" => {
                self.result(transaction, Value::Undefined);
                self.fc_status("onFCSubscribe", "NetStream.Play.Start", text(argument));
            }
            "releaseStream" | "_checkbw" | "checkBandwidth" | "FCUnsubscribe" => {
                self.result(transaction, Value::Undefined);
            }
            // The length of a live stream is unknown.
            "getStreamLength" => self.result(transaction, Value::Number(0.0)),
            "pause" | "pauseRaw" => {
                let pause = matches!(argument, Some(Value::Boolean(true)));
                let code = if pause { "NetStream.Pause.Notify" } else { "NetStream.Unpause.Notify" };
                let (out, chunk_size) = self.wire.out();
                Status::new("status", code, "").write(out, chunk_size, stream);
                self.player_event(PlayerEvent::Pause(pause));
            }
            // RTMP 1.0 §7.2.2.4 and §7.2.2.5: only the request to send again is answered.
            "receiveAudio" | "receiveVideo" => {
                let kind = if name == "receiveAudio" { TrackKind::Audio } else { TrackKind::Video };
                let receive = !matches!(argument, Some(Value::Boolean(false)));
                if receive {
                    let (out, chunk_size) = self.wire.out();
                    for code in ["NetStream.Seek.Notify", "NetStream.Play.Start"] {
                        Status::new("status", code, "").write(out, chunk_size, stream);
                    }
                }
                self.player_event(PlayerEvent::Receive(kind, receive));
            }
            "seek" => {
                let (out, chunk_size) = self.wire.out();
                Status::new("error", "NetStream.Seek.Failed", "The stream is live.").write(out, chunk_size, stream);
            }
            PEER_COMMAND if matches!(self.state, MessageStreamState::Publishing(_)) => {
                let offer =
                    PeerAdvertisement::from_properties(|key| argument.and_then(|object| text(property(object, key))));
                self.events.extend(offer.map(|offer| ServerEvent::Message(Message::Peer(offer))));
            }
            TIMING_COMMAND if matches!(self.state, MessageStreamState::Publishing(_)) => {
                let timing =
                    PublisherTiming::from_properties(|key| argument.and_then(|object| text(property(object, key))));
                self.events.extend(timing.map(|timing| ServerEvent::Message(Message::Timing(timing))));
            }
            GAP_COMMAND if matches!(self.state, MessageStreamState::Publishing(_)) => {
                let gap = Gap::from_properties(|key| argument.and_then(|object| text(property(object, key))));
                self.events.extend(gap.map(|gap| ServerEvent::Message(Message::Gap(gap))));
            }
            // Hints, and answers without a request.
            "_result" | "_error" | "onStatus" => {}
            _ if transaction != 0.0 => {
                let failed =
                    Status::new("error", "NetConnection.Call.Failed", "There is no such command.").into_value();
                let (out, chunk_size) = self.wire.out();
                command(out, chunk_size, stream, "_error", transaction, [Value::Null, failed]);
            }
            _ => {}
        }
        Ok(())
    }

    /// Answers `connect` (RTMP 1.0 §7.2.1.1; Enhanced RTMP v2, "Enhancing NetConnection connect Command").
    fn connect(&mut self, transaction: f64, object: &Value) -> Result<(), Error> {
        if self.connected.is_some() {
            return Err(Error::Protocol { what: "the client connects twice" });
        }
        let Value::Object(_) = object else {
            return Err(Error::Amf { command: "connect", source: amf::Error::Shape("it has no command object") });
        };
        let string = |key| text(property(object, key)).map(str::to_owned);
        let (app, query) = url::split_query(text(property(object, "app")).unwrap_or_default());
        let enhanced = property(object, "fourCcList").is_some() || property(object, "videoFourCcInfoMap").is_some();
        let object_encoding = number(property(object, "objectEncoding")).unwrap_or(0.0);
        self.connected = Some(Connect {
            app: app.trim_matches('/').to_owned(),
            query,
            tc_url: string("tcUrl"),
            // The text is shown in logs and web pages.
            agent: string("flashVer").map(|words| words.chars().filter(|c| !c.is_control()).take(MAX_AGENT).collect()),
        });

        let (out, chunk_size) = self.wire.out();
        command::control(out, chunk_size, kind::WINDOW, OUR_WINDOW);
        command::peer_bandwidth(out, chunk_size, OUR_WINDOW);
        self.wire.set_chunk_size(PLAY_CHUNK_SIZE);
        let properties = amf::object([
            ("fmsVer", amf::string("FMS/3,5,7,7009")),
            ("capabilities", Value::Number(31.0)),
            ("mode", Value::Number(1.0)),
        ]);
        let mut status = Status::new("status", "NetConnection.Connect.Success", "Connection succeeded.")
            .with("objectEncoding", Value::Number(object_encoding))
            .with(SERVER_KEY, Value::Boolean(true));
        if enhanced {
            let can = |codecs: &[&str]| {
                let map = codecs.iter().map(|c| ((*c).to_owned(), Value::Number(CAN_FORWARD)));
                Value::Object(map.collect())
            };
            let list = VIDEO_CODECS.iter().chain(AUDIO_CODECS).map(|c| amf::string(*c)).collect();
            status = status
                .with("fourCcList", Value::StrictArray(list))
                .with("videoFourCcInfoMap", can(VIDEO_CODECS))
                .with("audioFourCcInfoMap", can(AUDIO_CODECS))
                .with("capsEx", Value::Number(command::CAPS_EX));
        }
        let (out, chunk_size) = self.wire.out();
        command(out, chunk_size, 0, "_result", transaction, [properties, status.into_value()]);
        Ok(())
    }

    fn create_stream(&mut self, transaction: f64) -> Result<(), Error> {
        // The lowest free ID, so that a client that deletes its stream before it creates another gets `PLAY_STREAM` again.
        let Some(id) = (1..=self.limits.max_message_streams).find(|id| !self.streams.contains(id)) else {
            return Err(Error::Limit { what: "message streams", limit: self.limits.max_message_streams.into() });
        };
        self.streams.push(id);
        self.result(transaction, Value::Number(id.into()));
        Ok(())
    }

    fn request_stream(&mut self, stream: u32, name: Option<&str>, state: MessageStreamState) -> Result<(), Error> {
        let Some(connect) = &self.connected else { unreachable!("commands before connect are refused") };
        let publish = matches!(state, MessageStreamState::PublishRequested(_));
        let Some(name) = name else {
            let command = if publish { "publish" } else { "play" };
            return Err(Error::Amf { command, source: amf::Error::Shape("it has no name") });
        };
        if self.state != MessageStreamState::Idle {
            return Err(Error::Protocol { what: "the client publishes or plays twice on one connection" });
        }
        if !self.streams.contains(&stream) {
            return Err(Error::Protocol {
                what: "the client publishes or plays on a message stream that it did not create",
            });
        }
        if !publish && stream != PLAY_STREAM {
            let (out, chunk_size) = self.wire.out();
            Status::new("error", "NetStream.Play.Failed", "Play on the first message stream.")
                .write(out, chunk_size, stream);
            return Ok(());
        }
        let (name, more) = url::split_query(name);
        let mut query = connect.query.clone();
        query.extend(more);
        let request = StreamRequest {
            app: connect.app.clone(),
            name: name.trim_matches('/').to_owned(),
            query,
            tc_url: connect.tc_url.clone(),
            agent: connect.agent.clone(),
        };
        self.state = state;
        self.events.push_back(if publish { ServerEvent::Publish(request) } else { ServerEvent::Play(request) });
        Ok(())
    }

    /// Ends the role on `stream`; the connection may take another one.
    fn end(&mut self, stream: u32) {
        let event = match self.state {
            MessageStreamState::Publishing(s) | MessageStreamState::PublishRequested(s) if s == stream => {
                ServerEvent::Message(Message::EndOfStream)
            }
            MessageStreamState::Playing(s) | MessageStreamState::PlayRequested(s) if s == stream => {
                ServerEvent::Player(PlayerEvent::Close)
            }
            _ => return,
        };
        self.state = MessageStreamState::Idle;
        self.events.push_back(event);
    }

    fn result(&mut self, transaction: f64, value: Value) {
        let (out, chunk_size) = self.wire.out();
        command(out, chunk_size, 0, "_result", transaction, [Value::Null, value]);
    }

    /// Sends the status that Flash Media Live Encoder expects for its own commands.
    fn fc_status(&mut self, name: &str, code: &str, stream_name: Option<&str>) {
        let (out, chunk_size) = self.wire.out();
        let status = Status::new("status", code, stream_name.unwrap_or_default()).into_value();
        command(out, chunk_size, 0, name, 0.0, [Value::Null, status]);
    }
}

/// Redacts names and queries, which may contain keys.
impl fmt::Debug for ServerSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerSession").field("events", &self.events.len()).finish_non_exhaustive()
    }
}

/// Bounds the client's name, in characters.
const MAX_AGENT: usize = 128;
/// The window acknowledgement size that we request, in bytes.
const OUR_WINDOW: u32 = 2_500_000;
/// Enhanced RTMP v2: `FourCcInfoMask.CanForward`.
const CAN_FORWARD: f64 = 4.0;
/// The video codecs that Nearcast carries, by FourCC.
const VIDEO_CODECS: &[&str] = &["avc1", "hvc1", "av01", "vp09"];
/// The audio codecs that Nearcast carries, by FourCC.
const AUDIO_CODECS: &[&str] = &["mp4a", "Opus", "fLaC", ".mp3"];
