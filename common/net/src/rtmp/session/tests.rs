//! Both sessions against each other, and the server's against hostile clients, byte by byte.

use bytes::{Bytes, BytesMut};
use media::Epoch;
use media::access_unit::TrackId;
use media::catalog::Value as Scalar;
use media::time::{Timestamp, WallClock};
use proptest::prelude::*;

use super::*;
use crate::rtmp::amf::{self, Value};
use crate::rtmp::chunk::{self, RawMessage, Reader, kind};
use crate::rtmp::framing::{self, PLAY_CHUNK_SIZE};
use crate::rtmp::{
    Error, Gap, Limits, Message, Metadata, PeerAdvertisement, PublisherTiming, Resume, TicketIssuer, url,
};
use crate::trust::Pin;

/// A scripted client, after the handshake.
struct Hand {
    server: ServerSession,
    reader: Reader,
}

impl Hand {
    fn new() -> Self {
        let mut server = ServerSession::new(&Limits::default());
        let mut opening = vec![3; 1 + 1536 + 1536];
        opening[1..9].fill(0);
        server.input(&opening).unwrap();
        assert_eq!(server.output().len(), 1 + 1536 + 1536);
        Self { server, reader: Reader::new(&Limits::default()) }
    }

    fn send(&mut self, kind: u8, stream: u32, body: &[u8]) -> Result<(), Error> {
        let mut out = BytesMut::new();
        chunk::write(&mut out, 128, 3, kind, stream, 0, body);
        self.server.input(&out)
    }

    fn command(&mut self, stream: u32, values: Vec<Value>) -> Result<(), Error> {
        self.send(kind::COMMAND, stream, &amf::encode(values).unwrap())
    }

    fn call(&mut self, stream: u32, name: &str, transaction: f64, more: Vec<Value>) -> Result<Vec<Vec<Value>>, Error> {
        self.command(stream, [vec![amf::string(name), Value::Number(transaction), Value::Null], more].concat())?;
        Ok(self.answers())
    }

    fn raw_answers(&mut self) -> Vec<RawMessage> {
        let bytes = self.server.output();
        let mut input = &bytes[..];
        let mut messages = Vec::new();
        while let Some(message) = self.reader.read(&mut input).unwrap() {
            messages.push(message);
        }
        messages
    }

    /// The commands that the server sent back.
    fn answers(&mut self) -> Vec<Vec<Value>> {
        let commands = self.raw_answers().into_iter().filter(|m| m.kind == kind::COMMAND);
        commands.map(|m| amf::decode(&m.body).unwrap()).collect()
    }

    fn connected() -> Self {
        let mut hand = Self::new();
        let object = amf::object([("app", amf::string("live"))]);
        hand.command(0, vec![amf::string("connect"), Value::Number(1.0), object]).unwrap();
        assert_eq!(hand.answers().len(), 1);
        hand
    }

    fn publishing() -> Self {
        let mut hand = Self::connected();
        hand.call(0, "createStream", 2.0, vec![]).unwrap();
        hand.call(1, "publish", 3.0, vec![amf::string("key"), amf::string("live")]).unwrap();
        assert!(matches!(hand.server.event(), Some(ServerEvent::Publish(_))));
        hand.server.accept_publish(None, None);
        assert_eq!(code(&hand.answers()[0]), "NetStream.Publish.Start");
        hand
    }
}

fn code(command: &[Value]) -> &str {
    command.iter().find_map(|v| command::text(command::property(v, "code"))).unwrap_or_default()
}

fn name(command: &[Value]) -> &str {
    command::text(command.first()).unwrap_or_default()
}

/// Exchanges bytes until neither end has output.
fn settle(client: &mut ClientSession, server: &mut ServerSession) -> Result<(), Error> {
    loop {
        let (up, down) = (client.output(), server.output());
        if up.is_empty() && down.is_empty() {
            return Ok(());
        }
        // Pieces of odd size: the result must not depend on where a read ends.
        up.chunks(97).try_for_each(|piece| server.input(piece))?;
        down.chunks(101).try_for_each(|piece| client.input(piece))?;
    }
}

fn pair(goal: ClientRole, text: &str) -> (ClientSession, ServerSession) {
    let limits = Limits::default();
    let client = ClientSession::new(goal, url::parse(text).unwrap(), "test".into(), &limits);
    (client, ServerSession::new(&limits))
}

#[test]
fn publish_and_resume() {
    let (mut client, mut server) = pair(ClientRole::Publish, "rtmp://h/live/x/key?token=a%20b");
    settle(&mut client, &mut server).unwrap();
    let Some(ServerEvent::Publish(ask)) = server.event() else { panic!("no publish") };
    let expected = StreamRequest {
        app: "live/x".into(),
        name: "key".into(),
        query: vec![("token".into(), "a b".into())],
        tc_url: Some("rtmp://h/live/x".into()),
        agent: Some("test".into()),
    };
    assert_eq!(ask, expected);
    assert!(!format!("{ask:?} {server:?} {client:?}").contains("key"), "keys stay out of logs");
    // OBS with the key in the server URL, and an empty stream key.
    let misplaced = StreamRequest { app: "live/sekrit".into(), name: String::new(), ..ask };
    assert!(!format!("{misplaced:?}").contains("sekrit"));
    let resume = Resume { epoch: Epoch(9), have: vec![(TrackId::VIDEO, Timestamp::from_millis(77))] };
    let ticket_issuer = TicketIssuer { stream: "show".into(), key: "07".repeat(32).parse().unwrap() };
    server.accept_publish(Some(&resume), Some(&ticket_issuer));
    settle(&mut client, &mut server).unwrap();
    assert_eq!(client.event(), Some(ClientEvent::Started { resume: Some(resume), ticket_issuer: Some(ticket_issuer) }));
    assert!(client.server_is_nearcast() && client.message_stream() == 1);

    let address = "192.0.2.1:4444".parse().unwrap();
    let offer = PeerAdvertisement { pin: Pin::of(b"x"), secret: [7; 16], addresses: vec![address] };
    client.advertise_peer(&offer);
    settle(&mut client, &mut server).unwrap();
    assert_eq!(server.event(), Some(ServerEvent::Message(Message::Peer(offer))));

    let predecessors = vec![(TrackId::VIDEO, Some(Timestamp::from_millis(77))), (TrackId::AUDIO, None)];
    let gap = Gap { epoch: Epoch(9), predecessors };
    client.state_gap(&gap);
    settle(&mut client, &mut server).unwrap();
    assert_eq!(server.event(), Some(ServerEvent::Message(Message::Gap(gap))));

    let (sent, read) = (WallClock::from_micros(1_000), WallClock::from_micros(2_000));
    let told = PublisherTiming { sent, server: None, epoch: Epoch(9), units: Vec::new(), lan_viewers: 0 };
    client.send_timing(&told);
    settle(&mut client, &mut server).unwrap();
    assert_eq!(server.event(), Some(ServerEvent::Message(Message::Timing(told))));
    server.answer_timing(sent, read);
    settle(&mut client, &mut server).unwrap();
    let Some(ClientEvent::Clock(exchange)) = client.event() else { panic!("no clock") };
    assert_eq!((exchange.sent, exchange.received, exchange.answered), (sent, read, read));

    client.ping(1234);
    client.finish();
    settle(&mut client, &mut server).unwrap();
    assert_eq!(client.event(), Some(ClientEvent::Pong(1234)));
    assert_eq!(server.event(), Some(ServerEvent::Message(Message::EndOfStream)));
    assert_eq!(server.event(), None, "FCUnpublish and deleteStream are one end");
}

#[test]
fn play_and_end() {
    let (mut client, mut server) = pair(ClientRole::Play, "rtmp://h/live/show?nearcastEpoch=0");
    settle(&mut client, &mut server).unwrap();
    let Some(ServerEvent::Play(ask)) = server.event() else { panic!("no play") };
    assert_eq!((ask.name.as_str(), ask.query), ("show", vec![("nearcastEpoch".into(), "0".into())]));
    server.accept_play();
    settle(&mut client, &mut server).unwrap();
    assert_eq!(client.event(), Some(ClientEvent::Started { resume: None, ticket_issuer: None }));
    let metadata = Metadata {
        values: [("custom".to_owned(), Scalar::Boolean(true))].into(),
        epoch: Some(Epoch(3)),
        clock: Some(WallClock::from_micros(1)),
        dts: Some(Timestamp::from_millis(7)),
    };
    let body = Bytes::from(vec![5; 3_000_000]);
    for message in [
        Message::Metadata(metadata),
        Message::Video { timestamp: u32::MAX, body },
        Message::Audio { timestamp: 3, body: Bytes::from_static(b"a") },
        Message::EndOfStream,
    ] {
        client.input(&framing::message(&message, PLAY_CHUNK_SIZE).unwrap().to_bytes()).unwrap();
        assert_eq!(client.event(), Some(ClientEvent::Message(message)));
        assert_eq!(client.event(), None);
    }
    assert_eq!(server.event(), Some(ServerEvent::Player(PlayerEvent::BufferLength(300))));
    // More than our window: the client has acknowledged, with the correct count.
    settle(&mut client, &mut server).unwrap();
    assert!(matches!(server.event(), Some(ServerEvent::Player(PlayerEvent::Acknowledged(_)))));
    client.finish();
    settle(&mut client, &mut server).unwrap();
    assert_eq!(server.event(), Some(ServerEvent::Player(PlayerEvent::Close)));
}

#[test]
fn long_messages_need_an_accepted_publisher() {
    let limits = Limits::default();
    let body = vec![0; limits.max_command + 1];
    // Never finished: only the accepted bytes matter.
    let begin = |hand: &mut Hand| {
        let mut out = BytesMut::new();
        chunk::write(&mut out, 1 << 20, 6, kind::VIDEO, 1, 0, &body);
        hand.server.input(&out[..100])
    };
    let ask = |hand: &mut Hand, command: &str| {
        hand.call(0, "createStream", 2.0, vec![]).unwrap();
        hand.call(1, command, 3.0, vec![amf::string("x")]).unwrap();
    };
    let mut asked = Hand::connected();
    ask(&mut asked, "publish");
    let mut player = Hand::connected();
    ask(&mut player, "play");
    player.server.accept_play();
    for mut hand in [Hand::new(), Hand::connected(), asked, player] {
        let error = begin(&mut hand).unwrap_err();
        assert!(matches!(error, Error::Chunk(chunk::Error::TooLong { limit, .. }) if limit == limits.max_command));
    }
    begin(&mut Hand::publishing()).unwrap();
}

#[test]
fn a_publisher_whose_metadata_is_too_long_stays() {
    let mut hand = Hand::publishing();
    while hand.server.event().is_some() {}
    let sound = Message::Audio { timestamp: 20, body: Bytes::from_static(b"sound") };
    for length in [65_537, 70_000, 300_000, 2_000_000] {
        for kind in [kind::DATA, kind::DATA_AMF3] {
            let mut out = BytesMut::new();
            let mut body = b"\x02\0\x0d@setDataFrame\x02\0\x0aonMetaData".to_vec();
            body.resize(length, 0);
            chunk::write(&mut out, 128, 4, kind, 1, 0, &body);
            chunk::write(&mut out, 128, 4, kind::AUDIO, 1, 20, b"sound");
            hand.server.input(&out).unwrap();
            assert_eq!(hand.server.event(), Some(ServerEvent::Message(sound.clone())), "{length} bytes of type {kind}");
            assert_eq!(hand.server.event(), None);
        }
    }
}

#[test]
fn a_long_client_name_is_truncated() {
    let mut hand = Hand::new();
    let agent = format!("\x1b[31m\n{}", "é".repeat(60_000 / 2));
    let object = amf::object([("app", amf::string("live")), ("flashVer", amf::string(agent))]);
    hand.command(0, vec![amf::string("connect"), Value::Number(1.0), object]).unwrap();
    hand.call(0, "createStream", 2.0, vec![]).unwrap();
    hand.call(1, "publish", 3.0, vec![amf::string("key")]).unwrap();
    let Some(ServerEvent::Publish(ask)) = hand.server.event() else { panic!("no publish") };
    assert_eq!(ask.agent, Some(format!("[31m{}", "é".repeat(124))));
}

#[test]
fn refusal_redacts_the_key() {
    let (mut client, mut server) = pair(ClientRole::Publish, "rtmp://h/live/sekrit?pass=hush");
    settle(&mut client, &mut server).unwrap();
    server.reject("NetStream.Publish.BadName", "Stream sekrit?pass=hush (sekrit, pass=hush) is\x1b[31m taken");
    let error = settle(&mut client, &mut server).unwrap_err();
    let expected = "the server refused: NetStream.Publish.BadName: Stream *** (***, ***) is[31m taken";
    assert_eq!(error.to_string(), expected);
    assert!(!format!("{error:?}").contains("sekrit") && error.retry());
}

#[test]
fn acknowledgements_count_every_byte() {
    let mut hand = Hand::new();
    let mut sent = 1 + 1536 + 1536;
    let mut out = BytesMut::new();
    command::control(&mut out, 128, kind::WINDOW, 1000);
    sent += out.len();
    hand.server.input(&out).unwrap();
    let acknowledged = |hand: &mut Hand| {
        let answers = hand.raw_answers().into_iter().filter(|m| m.kind == kind::ACKNOWLEDGEMENT);
        answers.map(|m| u32::from_be_bytes(*m.body.first_chunk().unwrap())).collect::<Vec<_>>()
    };
    // The handshake alone fills the window.
    assert_eq!(acknowledged(&mut hand), [sent as u32]);
    let mut since = 0;
    for _ in 0..100 {
        let mut out = BytesMut::new();
        chunk::write(&mut out, 128, 4, 77, 0, 0, &[0; 88]);
        (sent, since) = (sent + out.len(), since + out.len());
        hand.server.input(&out).unwrap();
        let expected = if since >= 1000 { vec![sent as u32] } else { vec![] };
        assert_eq!(acknowledged(&mut hand), expected);
        since = if since >= 1000 { 0 } else { since };
    }
    // A window of one byte: one answer per read, not per byte. A window of zero: the default.
    for window in [1, 0] {
        let mut out = BytesMut::new();
        command::control(&mut out, 128, kind::WINDOW, window);
        command::control(&mut out, 128, kind::ACKNOWLEDGEMENT, 5);
        hand.server.input(&out).unwrap();
        assert_eq!(acknowledged(&mut hand).len(), window as usize);
    }
}

#[test]
fn pings_are_answered() {
    let mut hand = Hand::connected();
    hand.send(kind::USER_CONTROL, 0, &[0, 6, 1, 2, 3, 4]).unwrap();
    assert_eq!(hand.raw_answers()[0].body[..], [0, 7, 1, 2, 3, 4]);
    for odd in [&[][..], &[0], &[0, 6], &[0, 6, 1], &[0, 3, 0, 0, 0, 1], &[0xff; 40]] {
        hand.send(kind::USER_CONTROL, 0, odd).unwrap();
        assert!(hand.raw_answers().is_empty(), "{odd:?}");
    }
}

#[test]
fn the_client_announces_what_it_handles() {
    for role in [ClientRole::Publish, ClientRole::Play] {
        let (mut client, mut server) = pair(role, "rtmp://h/live/key");
        server.input(&client.output()).unwrap();
        client.input(&server.output()).unwrap();
        // C2, and then the first command.
        let sent = client.output();
        let mut reader = Reader::new(&Limits::default());
        let mut input = &sent[1536..];
        let connect = loop {
            let message = reader.read(&mut input).unwrap().expect("the client connects");
            if message.kind == kind::COMMAND {
                break amf::decode(&message.body).unwrap();
            }
        };
        assert_eq!(name(&connect), "connect");
        // Multitrack and ModEx, but no offsets of nanoseconds: timestamps are whole milliseconds.
        assert_eq!(command::number(command::property(&connect[2], "capsEx")), Some(6.0));
    }
}

#[test]
fn connect_is_answered_by_the_clients_capabilities() {
    let connect = |more: Vec<(&str, Value)>| {
        let mut hand = Hand::new();
        let properties = [("app", amf::string("/live/?a=1"))].into_iter().chain(more);
        let object = Value::Object(properties.map(|(k, v)| (k.to_owned(), v)).collect());
        hand.command(0, vec![amf::string("connect"), Value::Number(1.0), object]).unwrap();
        let kinds: Vec<u8> = { hand.raw_answers() }.iter().map(|m| m.kind).collect();
        assert_eq!(kinds, [kind::WINDOW, kind::PEER_BANDWIDTH, kind::COMMAND]);
        hand
    };
    connect(vec![]);
    let mut hand = Hand::new();
    let list = Value::StrictArray(vec![amf::string("*")]);
    let object = amf::object([
        ("app", amf::string("live")),
        ("fourCcList", list),
        ("capsEx", Value::Number(15.0)),
        ("objectEncoding", Value::Number(3.0)),
    ]);
    hand.command(0, vec![amf::string("connect"), Value::Number(1.0), object]).unwrap();
    let info = &hand.answers()[0][3];
    assert_eq!(command::number(command::property(info, "capsEx")), Some(6.0));
    assert_eq!(command::number(command::property(info, "objectEncoding")), Some(3.0));
    let Some(Value::StrictArray(list)) = command::property(info, "fourCcList") else { panic!("no list") };
    assert!(list.contains(&amf::string("hvc1")) && list.contains(&amf::string("Opus")));

    // The app's query is merged with the name's; leading and trailing slashes are ignored.
    let mut hand = connect(vec![("tcUrl", amf::string("rtmp://h/live")), ("flashVer", amf::string("OBS"))]);
    hand.call(0, "createStream", 2.0, vec![]).unwrap();
    hand.call(1, "publish", 3.0, vec![amf::string("k?b=2")]).unwrap();
    let Some(ServerEvent::Publish(ask)) = hand.server.event() else { panic!("no publish") };
    assert_eq!((ask.app.as_str(), ask.name.as_str()), ("live", "k"));
    assert_eq!(ask.query, [("a".into(), "1".into()), ("b".into(), "2".into())]);
    assert_eq!((ask.tc_url.as_deref(), ask.agent.as_deref()), (Some("rtmp://h/live"), Some("OBS")));
}

#[test]
fn every_command_that_encoders_send_is_answered() {
    let text = |s: &str| vec![amf::string(s)];
    for (call, arguments, expected) in [
        ("releaseStream", text("k"), vec!["_result "]),
        ("FCPublish", text("k"), vec!["_result ", "onFCPublish NetStream.Publish.Start"]),
        ("FCUnpublish", text("k"), vec!["onFCUnpublish NetStream.Unpublish.Success", "_result "]),
        ("FCSubscribe", text("k"), vec!["_result ", "onFCSubscribe NetStream.Play.Start"]),
        ("getStreamLength", text("k"), vec!["_result "]),
        ("_checkbw", vec![], vec!["_result "]),
        ("createStream", vec![], vec!["_result "]),
        ("pause", vec![Value::Boolean(true), Value::Number(0.0)], vec!["onStatus NetStream.Pause.Notify"]),
        ("pause", vec![Value::Boolean(false), Value::Number(0.0)], vec!["onStatus NetStream.Unpause.Notify"]),
        ("seek", vec![Value::Number(0.0)], vec!["onStatus NetStream.Seek.Failed"]),
        ("receiveAudio", vec![Value::Boolean(false)], vec![]),
        ("receiveVideo", vec![Value::Boolean(false)], vec![]),
        (
            "receiveVideo",
            vec![Value::Boolean(true)],
            vec!["onStatus NetStream.Seek.Notify", "onStatus NetStream.Play.Start"],
        ),
        ("deleteStream", vec![Value::Number(1e300)], vec![]),
        ("closeStream", vec![], vec![]),
        ("unheardOf", vec![], vec!["_error NetConnection.Call.Failed"]),
        ("onStatus", vec![], vec![]),
    ] {
        let mut hand = Hand::connected();
        let answers = hand.call(0, call, 5.0, arguments).unwrap();
        let answers: Vec<String> = answers.iter().map(|a| format!("{} {}", name(a), code(a))).collect();
        assert_eq!(answers, expected, "{call}");
        assert_eq!(hand.server.event(), None, "{call}");
    }
}

#[test]
fn a_connection_may_publish_again() {
    let mut hand = Hand::publishing();
    for round in 0..3 {
        hand.call(1, "deleteStream", 0.0, vec![Value::Number(1.0)]).unwrap();
        assert_eq!(hand.server.event(), Some(ServerEvent::Message(Message::EndOfStream)), "{round}");
        hand.call(0, "createStream", 2.0, vec![]).unwrap();
        hand.call(1, "publish", 3.0, vec![amf::string("again")]).unwrap();
        let Some(ServerEvent::Publish(request)) = hand.server.event() else { panic!("no publish in round {round}") };
        assert_eq!(request.name, "again");
        hand.server.accept_publish(None, None);
        hand.send(kind::AUDIO, 1, b"body").unwrap();
        assert!(matches!(hand.server.event(), Some(ServerEvent::Message(Message::Audio { .. }))), "{round}");
    }
}

#[test]
fn a_publisher_may_end_in_three_ways() {
    for call in ["FCUnpublish", "closeStream", "deleteStream"] {
        let mut hand = Hand::publishing();
        hand.call(1, call, 0.0, vec![Value::Number(1.0)]).unwrap();
        assert_eq!(hand.server.event(), Some(ServerEvent::Message(Message::EndOfStream)), "{call}");
        hand.send(kind::AUDIO, 1, b"late").unwrap();
        assert_eq!(hand.server.event(), None, "{call}");
    }
}

#[test]
fn metadata_in_every_wrapping() {
    let body = amf::encode_metadata(&[("a".to_owned(), Scalar::Number(1.0))].into()).unwrap();
    let set = amf::encode(vec![amf::string("@setDataFrame")]).unwrap();
    let object = amf::encode(vec![amf::object([("a", Value::Number(1.0))])]).unwrap();
    let expected = || Some(Metadata { values: [("a".to_owned(), Scalar::Number(1.0))].into(), ..Metadata::default() });
    for (kind, bytes, expected) in [
        (kind::DATA, body.to_vec(), expected()),
        (kind::DATA, [&set[..], &body].concat(), expected()),
        (kind::DATA, [&set[..], &object].concat(), expected()),
        (kind::DATA_AMF3, [&[0][..], &set, &body].concat(), expected()),
        (kind::DATA_AMF3, [&set[..], &body].concat(), expected()),
        // `@setDataFrame` alone makes rml_rtmp panic.
        (kind::DATA, set.to_vec(), None),
        (
            kind::DATA,
            amf::encode(vec![amf::string("@setDataFrame"), amf::string("onMetaData")]).unwrap().to_vec(),
            None,
        ),
        (
            kind::DATA,
            amf::encode(vec![amf::string("@clearDataFrame"), amf::string("onMetaData")]).unwrap().to_vec(),
            None,
        ),
        (kind::DATA, amf::encode(vec![amf::string("onTextData"), amf::object([])]).unwrap().to_vec(), None),
        (kind::DATA, vec![0xff; 10], None),
        (kind::DATA_AMF3, vec![0], None),
        (kind::DATA, vec![], None),
    ] {
        let mut hand = Hand::publishing();
        hand.send(kind, 1, &bytes).unwrap();
        let got = hand.server.event();
        assert_eq!(got, expected.map(|m| ServerEvent::Message(Message::Metadata(m))), "{kind} {bytes:02x?}");
    }
}

#[test]
fn aggregates_are_split_and_rebased() {
    let tag = |kind: u8, stamp: u32, body: &[u8]| {
        let [high, a, b, c] = stamp.to_be_bytes();
        let mut tag = vec![kind, 0, 0, body.len() as u8, a, b, c, high, 0, 0, 0];
        tag.extend(body);
        tag.extend((11 + body.len() as u32).to_be_bytes());
        tag
    };
    let aggregate = |body: &[u8], timestamp: u32| {
        let mut out = BytesMut::new();
        chunk::write(&mut out, 128, 4, kind::AGGREGATE, 1, timestamp, body);
        out
    };
    let mut hand = Hand::publishing();
    let body = [
        tag(9, 0x0100_0000, b"v"),
        tag(8, 0x0100_0003, b"a"),
        tag(22, 0, b"x"),
        tag(9, 0x00ff_ffff, b""),
        tag(9, 0x0100_0005, b"w"),
    ]
    .concat();
    // The last back pointer is omitted.
    hand.server.input(&aggregate(&body[..body.len() - 4], 500)).unwrap();
    let body = Bytes::from_static;
    for expected in [
        Message::Video { timestamp: 500, body: body(b"v") },
        Message::Audio { timestamp: 503, body: body(b"a") },
        Message::Video { timestamp: 505, body: body(b"w") },
    ] {
        assert_eq!(hand.server.event(), Some(ServerEvent::Message(expected)));
    }
    assert_eq!(hand.server.event(), None);
    for bad in [&[8, 0, 0][..], &[8, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 1]] {
        let error = Hand::publishing().server.input(&aggregate(bad, 0)).unwrap_err();
        assert_eq!(error.to_string(), "an aggregate message ends inside a tag");
    }
    let flood = tag(8, 0, b"a").repeat(5000);
    let error = Hand::publishing().server.input(&aggregate(&flood, 0)).unwrap_err();
    assert_eq!(error.to_string(), "the peer exceeds the limit of 4096 tags in an aggregate message");
}

#[test]
fn hostile_commands_are_rejected_with_a_reason() {
    let amf_command = |name: &str| amf::encode(vec![amf::string(name), Value::Number(1.0), Value::Null]).unwrap();
    let nested = [&b"\x02\0\x07connect\0\0\0\0\0\0\0\0\0"[..], &b"\x03\0\x01a".repeat(5000)].concat();
    let fails =
        |hand: &mut Hand, kind: u8, stream: u32, body: &[u8]| hand.send(kind, stream, body).unwrap_err().to_string();
    let fresh = Hand::new;
    for (mut hand, kind, stream, body, expected) in [
        (fresh(), kind::COMMAND, 0, &b""[..], "a command: it does not begin with a name"),
        (fresh(), kind::COMMAND, 0, b"\x05", "a command: it does not begin with a name"),
        (fresh(), kind::COMMAND, 0, b"\x02\0\x07conn", "a command: AMF0 ends inside a value, at byte 7"),
        // 20 kB of nesting aborts a process that trusts rml_rtmp.
        (fresh(), kind::COMMAND, 0, &nested, "a command: AMF0 is nested deeper than 16, at byte 83"),
        // One zero byte of type 17 makes rml_rtmp panic.
        (fresh(), kind::COMMAND_AMF3, 0, b"\0", "a command: it does not begin with a name"),
        (fresh(), kind::COMMAND_AMF3, 0, b"", "an AMF3 command is not AMF0 within"),
        (fresh(), kind::COMMAND_AMF3, 0, b"\x0a\x0b", "an AMF3 command is not AMF0 within"),
        (fresh(), kind::COMMAND, 0, &amf_command("connect"), "connect: it has no command object"),
        (fresh(), kind::COMMAND, 0, &amf_command("createStream"), "a command precedes connect"),
        (Hand::connected(), kind::COMMAND, 0, &amf_command("play"), "play: it has no name"),
        (Hand::connected(), kind::COMMAND, 0, &amf_command("publish"), "publish: it has no name"),
    ] {
        assert_eq!(fails(&mut hand, kind, stream, body), expected, "{body:02x?}");
    }
    // `createStream` without end.
    let mut hand = Hand::connected();
    let error = (0..1000).find_map(|i| hand.call(0, "createStream", i.into(), vec![]).err()).unwrap();
    assert_eq!(error.to_string(), "the peer exceeds the limit of 8 message streams");
    // Publish on a message stream that does not exist; publish twice.
    let publish =
        |hand: &mut Hand, stream| hand.call(stream, "publish", 1.0, vec![amf::string("k")]).map_err(|e| e.to_string());
    assert_eq!(
        publish(&mut Hand::connected(), 1).unwrap_err(),
        "the client publishes or plays on a message stream that it did not create"
    );
    assert_eq!(
        publish(&mut Hand::publishing(), 1).unwrap_err(),
        "the client publishes or plays twice on one connection"
    );
    // `connect` twice.
    let mut hand = Hand::connected();
    let connect = vec![amf::string("connect"), Value::Number(1.0), amf::object([])];
    assert_eq!(hand.command(0, connect).unwrap_err().to_string(), "the client connects twice");
}

#[test]
fn a_peer_that_never_reads_its_answers_is_disconnected() {
    let mut hand = Hand::connected();
    let mut pings = BytesMut::new();
    for _ in 0..3000 {
        command::user_control(&mut pings, 128, command::PING_REQUEST, &[1]);
    }
    let error = (0..100).find_map(|_| hand.server.input(&pings).err()).unwrap();
    assert_eq!(error.to_string(), "the peer exceeds the limit of 1048576 bytes of unread answers");
}

#[test]
fn create_after_delete_reuses_the_message_stream() {
    let mut hand = Hand::connected();
    let id = |answers: Vec<Vec<Value>>| command::number(answers[0].get(3)).unwrap();
    assert_eq!(id(hand.call(0, "createStream", 1.0, vec![]).unwrap()), 1.0);
    hand.call(0, "deleteStream", 0.0, vec![Value::Number(1.0)]).unwrap();
    assert_eq!(id(hand.call(0, "createStream", 2.0, vec![]).unwrap()), 1.0);
    assert_eq!(id(hand.call(0, "createStream", 3.0, vec![]).unwrap()), 2.0);
    let answers = hand.call(2, "play", 4.0, vec![amf::string("show")]).unwrap();
    assert_eq!(code(&answers[0]), "NetStream.Play.Failed");
    hand.call(1, "play", 4.0, vec![amf::string("show")]).unwrap();
    assert!(matches!(hand.server.event(), Some(ServerEvent::Play(_))));
}

#[test]
fn media_before_acceptance_is_kept_and_before_publish_dropped() {
    let mut hand = Hand::connected();
    hand.send(kind::VIDEO, 1, b"too early").unwrap();
    hand.call(0, "createStream", 2.0, vec![]).unwrap();
    hand.call(1, "publish", 3.0, vec![amf::string("key")]).unwrap();
    hand.send(kind::VIDEO, 1, b"eager").unwrap();
    hand.send(kind::VIDEO, 1, b"").unwrap();
    assert!(matches!(hand.server.event(), Some(ServerEvent::Publish(_))));
    let body = Bytes::from_static(b"eager");
    assert_eq!(hand.server.event(), Some(ServerEvent::Message(Message::Video { timestamp: 0, body })));
    assert_eq!(hand.server.event(), None);
}

proptest! {
    /// Random bytes after the handshake, and before it.
    #[test]
    fn random_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4000), cut in 1..500usize) {
        for mut hand in [Hand::connected(), Hand::publishing()] {
            let _ = bytes.chunks(cut).try_for_each(|piece| hand.server.input(piece));
        }
        let mut server = ServerSession::new(&Limits::default());
        let _ = bytes.chunks(cut).try_for_each(|piece| server.input(piece));
        let (mut client, _) = pair(ClientRole::Play, "rtmp://h/a/b");
        let opening = vec![3; 1 + 1536 + 1536];
        client.input(&opening).unwrap();
        let _ = bytes.chunks(cut).try_for_each(|piece| client.input(piece));
    }
}
