//! The fuzz targets: every parser of untrusted bytes, as a function of those bytes.
//!
//! A target panics if an invariant is violated; rejecting the input is not a failure. The same functions run under libFuzzer
//! (`fuzz_targets/`), which follows coverage, and under [`bounded`](../bounded.rs), which needs nothing but a stable toolchain.

pub mod mutation;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use cdn::auth::{KeyId, PresentedKey, StreamName};
use media::Epoch;
use media::access_unit::TrackId;
use media::flv;
use media::fmp4;
use media::hls;
use media::hls::client::parts::PartClient;
use media::live_window::{Bounds, ENTRY_COST, FREE_ENTRIES, LiveWindow};
use media::time::Timestamp;
use media::timestamp_mapper::TimestampMapper;
use media::{AccessUnit, Catalog, Cursor};
use net::relay::reassembly::{GroupInput, Reassembly, ReorderOutput};
use net::relay::wire;
use net::rtmp::session::{ClientRole, ClientSession, ServerEvent, ServerSession};
use net::rtmp::{Limits, amf, chunk, url};

/// A fuzz target: panics if an invariant is violated by the given input.
pub type Target = fn(&[u8]);

/// All targets, by name; each has its seeds in `seeds/NAME`.
pub const TARGETS: &[(&str, Target)] = &[
    ("chunk_reader", chunk_reader),
    ("amf_command", amf_command),
    ("flv_tag", flv_tag),
    ("fmp4_reader", fmp4_reader),
    ("hls_playlist", hls_playlist),
    ("relay_group", relay_group),
    ("live_window", live_window),
    ("reassembly", reassembly),
    ("timestamp_mapper", timestamp_mapper),
    ("publish_key", publish_key),
];

/// Texts that a publisher presents as a key or as a stream's name, one in each line; a text that is not UTF-8 is refused before.
pub fn publish_key(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for text in text.split('\n') {
        let key = PresentedKey::parse(text);
        if let Some(key) = key {
            assert!(text.len() == 44 && text.is_ascii(), "of another length: {text:?}");
            assert!(!format!("{key:?}").contains(&text[4..]), "a key is printed");
        }
        if let Ok(name) = text.parse::<StreamName>() {
            assert!(key.is_none(), "a key is a name: {text:?}");
            assert_eq!(name.as_str(), text);
            assert!(
                text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)),
                "unsafe in a URL: {text:?}"
            );
        }
        if let Ok(id) = text.parse::<KeyId>() {
            assert_eq!(id.to_string(), text.to_ascii_lowercase());
        }
    }
}

/// Units of a stream, each as flags (track, random access, next epoch, new catalog), change of DTS in milliseconds (i16), size (u8). The first byte selects
/// the bounds.
pub fn live_window(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let bounds = Bounds { duration: Duration::from_millis(u64::from(*first) * 8), bytes: 1 << (10 + first % 8) };
    let mut window = LiveWindow::new(bounds);
    let (mut epoch, mut dts, mut read) = (Epoch(1), [0i64; 2], Cursor::at_live_edge());
    let mut catalog = Arc::new(Catalog::new(epoch));
    for unit in data.chunks_exact(4) {
        let [flags, high, low, size] = [unit[0], unit[1], unit[2], unit[3]];
        if flags & 4 != 0 {
            epoch = Epoch(epoch.0 + 1);
            dts = [0; 2];
        }
        if flags & 12 != 0 {
            catalog = Arc::new(Catalog::new(epoch));
        }
        let track = if flags & 1 == 0 { TrackId::VIDEO } else { TrackId::AUDIO };
        let newest = &mut dts[usize::from(track.is_video())];
        *newest = newest.saturating_add(i64::from(i16::from_be_bytes([high, low])).max(1));
        let at = Timestamp::from_millis(*newest);
        let payload = Bytes::from(vec![0; usize::from(size)]);
        let unit = AccessUnit { epoch, track, dts: at, pts: at, random_access: flags & 2 != 0, payload };
        window.push(catalog.clone(), unit, None);
        let held = usize::try_from(window.next_position() - window.first_position()).expect("few units");
        assert!(held == 1 || window.bytes() <= bounds.bytes, "{} bytes", window.bytes());
        assert!(held <= FREE_ENTRIES + bounds.bytes / ENTRY_COST + 1, "{held} units");
        assert!(
            window.join_position().is_none_or(|join| (window.first_position()..window.next_position()).contains(&join))
        );
        if flags & 16 != 0 {
            let before = read.position();
            let batch = read.read(&window, usize::from(size) * 8);
            assert!(batch.entries.windows(2).all(|pair| pair[0].position + 1 == pair[1].position));
            let went_back = before.zip(read.position()).is_some_and(|(before, after)| after < before);
            assert!(!went_back, "a reader went back");
        }
    }
}

/// Groups of the relay protocol in any order, each input as flags (track, kind, generation), sequence (u64, only some of its bits), size (u8).
pub fn reassembly(data: &[u8]) {
    let catalog = Arc::new(Catalog::new(Epoch(1)));
    let mut reassembly = Reassembly::default();
    reassembly.start(1);
    let mut newest: BTreeMap<TrackId, i64> = BTreeMap::new();
    for (n, input) in data.chunks_exact(4).enumerate() {
        let [flags, shift, low, size] = [input[0], input[1], input[2], input[3]];
        let track = if flags & 1 == 0 { TrackId::VIDEO } else { TrackId::AUDIO };
        let sequence = u64::from(low) << (shift % 56);
        // The DTS names the group, so that the order of the output can be judged.
        let dts = Timestamp::from_millis(i64::try_from(sequence).unwrap_or(i64::MAX));
        let item = match flags >> 1 & 3 {
            0 => GroupInput::Complete,
            1 => GroupInput::Reset,
            _ => GroupInput::Unit(wire::ReceivedUnit {
                catalog: catalog.clone(),
                unit: AccessUnit {
                    epoch: Epoch(1),
                    track,
                    dts,
                    pts: dts,
                    random_access: true,
                    payload: Bytes::from(vec![0; usize::from(size) << (n % 16)]),
                },
                predecessor_dts: None,
            }),
        };
        reassembly.push(wire::GroupHeader { generation: 1 + u32::from(flags >> 7), track, sequence }, item);
        while let Some(output) = reassembly.pop() {
            if let ReorderOutput::Unit(unit) = output {
                let dts = unit.unit.dts.as_millis();
                assert!(newest.insert(unit.unit.track, dts).is_none_or(|before| before <= dts), "a group went back");
            }
        }
    }
}

/// Timestamps of a publisher, each as flags (track), time since the one before in milliseconds (u16), timestamp (u32), composition time (i16).
pub fn timestamp_mapper(data: &[u8]) {
    let (mut mapper, mut now) = (TimestampMapper::new(), Instant::now());
    let mut last = BTreeMap::new();
    for message in data.chunks_exact(9) {
        let track = [TrackId::VIDEO, TrackId::AUDIO][usize::from(message[0] & 1)];
        now += Duration::from_millis(u16::from_be_bytes([message[1], message[2]]).into());
        let timestamp = u32::from_be_bytes([message[3], message[4], message[5], message[6]]);
        let composition = i16::from_be_bytes([message[7], message[8]]);
        let mapped = mapper.map(track, timestamp, composition.into(), now);
        assert!(mapped.dts >= Timestamp::ZERO, "a negative DTS");
        assert!(last.insert(track, mapped.dts) < Some(mapped.dts), "DTS do not increase");
    }
}

/// The bytes of a client, or a server, on an RTMP connection. The first byte selects how they are split, and whether the handshake is complete.
pub fn chunk_reader(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let pieces = |data: &'_ [u8]| -> Vec<Vec<u8>> {
        let cut = [1, 3, 17, 128, 1000, 4096, 30_000, usize::MAX][usize::from(first & 7)];
        data.chunks(cut).map(<[u8]>::to_vec).collect()
    };
    let limits = Limits { max_message: 1 << 20, max_buffered: 2 << 20, ..Limits::default() };

    let mut reader = chunk::Reader::new(&limits);
    for piece in pieces(data) {
        let mut input = &piece[..];
        while let Ok(Some(_)) = reader.read(&mut input) {}
        assert!(reader.buffered() <= limits.max_buffered, "the reader holds {}", reader.buffered());
    }

    let mut server = ServerSession::new(&limits);
    let mut client = {
        let goal = if first & 8 == 0 { ClientRole::Play } else { ClientRole::Publish };
        let url = url::parse("rtmp://host/app/name").expect("a good URL");
        ClientSession::new(goal, url, "fuzz".to_owned(), &limits)
    };
    if first & 16 == 0 {
        server.input(&HANDSHAKE).expect("a plain handshake");
        client.input(&HANDSHAKE).expect("a plain handshake");
    }
    for piece in pieces(data) {
        if server.input(&piece).is_err() {
            break;
        }
        while let Some(event) = server.event() {
            match event {
                ServerEvent::Publish(_) if first & 32 != 0 => server.reject("NetStream.Publish.BadName", ""),
                ServerEvent::Publish(_) => server.accept_publish(None, None),
                ServerEvent::Play(_) => server.accept_play(),
                _ => {}
            }
        }
        assert!(server.output().len() <= 2 << 20, "the server answers without bound");
    }
    for piece in pieces(data) {
        if client.input(&piece).is_err() {
            break;
        }
        while client.event().is_some() {}
        assert!(client.output().len() <= 2 << 20, "the client answers without bound");
    }
}

/// One command or data message on an established connection. The first byte selects the message type.
pub fn amf_command(data: &[u8]) {
    let Some((first, body)) = data.split_first() else { return };
    if let Ok(guarded) = amf::guard(body) {
        assert_eq!(amf::guard(&guarded).as_ref(), Ok(&guarded), "guarded AMF0 passes the guard unchanged");
        amf::decode(body).expect("guarded AMF0 is read");
    }
    let limits = Limits::default();
    let kind = [20, 17, 18, 15][usize::from(first & 3)];
    let message = |kind, stream, body: &[u8]| {
        let mut out = bytes::BytesMut::new();
        chunk::write(&mut out, 128, 3, kind, stream, 0, body);
        out
    };
    let call = |name: &str, object: amf::Value| {
        amf::encode(vec![amf::string(name), amf::Value::Number(1.0), object]).expect("a short command")
    };
    let body = &body[..body.len().min(chunk::MAX_LENGTH)];
    let mut server = ServerSession::new(&limits);
    server.input(&HANDSHAKE).expect("a plain handshake");
    if first & 4 == 0 {
        let connect = call("connect", amf::object([("app", amf::string("live"))]));
        server.input(&message(20, 0, &connect)).expect("a good connect");
        server.input(&message(20, 0, &call("createStream", amf::Value::Null))).expect("a good createStream");
    }
    for stream in [0, 1] {
        if server.input(&message(kind, stream, body)).is_err() {
            break;
        }
        while let Some(event) = server.event() {
            match event {
                ServerEvent::Publish(ask) | ServerEvent::Play(ask) => assert!(ask.name.len() <= 65_535),
                _ => {}
            }
        }
    }
    let url = url::parse("rtmp://host/app/name").expect("a good URL");
    let mut client = ClientSession::new(ClientRole::Play, url, "fuzz".to_owned(), &limits);
    client.input(&HANDSHAKE).expect("a plain handshake");
    let _ = client.input(&message(kind, 1, body));
    let _ = url::parse(&String::from_utf8_lossy(body));
}

/// FLV tags, each as type and time since the tag before (bits 1 to 7, in milliseconds), 32-bit timestamp, 16-bit length, body. The first byte selects whether timestamps are exact.
pub fn flv_tag(data: &[u8]) {
    let Some((first, mut data)) = data.split_first() else { return };
    let mut demuxer = flv::Demuxer::new(Epoch(1));
    let mut now = Instant::now();
    demuxer.set_exact(first & 1 != 0);
    let mut last: BTreeMap<TrackId, Timestamp> = BTreeMap::new();
    let mut tracks = BTreeMap::new();
    while let Some((head, rest)) = data.split_first_chunk::<7>() {
        let timestamp = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let length = usize::from(u16::from_be_bytes([head[5], head[6]])).min(rest.len());
        let (body, after) = rest.split_at(length);
        data = after;
        let body = Bytes::copy_from_slice(body);
        now += Duration::from_millis((head[0] >> 1).into());
        let events =
            if head[0] & 1 == 0 { demuxer.audio(timestamp, body, now) } else { demuxer.video(timestamp, body, now) };
        for event in events.into_iter().flatten() {
            match event {
                flv::Event::Track(track) => {
                    let _ = track.config.rfc6381();
                    let _ = flv::sequence_header(&track);
                    tracks.insert(track.id, track);
                }
                flv::Event::Unit(unit) => {
                    if let Some(track) = tracks.get(&unit.track) {
                        assert!(flv::unit_header(track, &unit).len() <= flv::MAX_UNIT_HEADER);
                    }
                    // Exact timestamps are the publisher's own; the hub drops units whose DTS does not increase.
                    let before = last.insert(unit.track, unit.dts);
                    assert!(
                        first & 1 != 0 || before.is_none_or(|b| b < unit.dts),
                        "DTS does not rise: {before:?} {unit:?}"
                    );
                }
                _ => {}
            }
        }
    }
}

/// A fragmented MP4, in pieces. The first byte selects how it is split.
pub fn fmp4_reader(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let cut = [1, 7, 100, 1000, 10_000, usize::MAX][usize::from(first % 6)];
    let mut reader = fmp4::Reader::new(Epoch(1));
    for piece in data.chunks(cut) {
        let Ok(events) = reader.push(Bytes::copy_from_slice(piece)) else { return };
        for event in events {
            if let fmp4::Event::Catalog(catalog) = event {
                let _ = fmp4::init_segment(&catalog);
                catalog.tracks.iter().for_each(|t| drop(t.config.rfc6381()));
            }
        }
    }
}

/// A playlist of either kind.
pub fn hls_playlist(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = hls::parse(&text);
    let _ = hls::parse_multivariant(&text);
    if let Ok(playlist) = hls::parse_media(&text) {
        let mut playlist_client = PartClient::new(false);
        playlist_client.on_playlist(playlist.clone());
        // Each listed segment and part is returned at most once.
        let listed = |segment: &hls::MediaSegment| 1 + segment.parts.len();
        let most: usize = playlist.segments.iter().chain([&playlist.trailing.head]).map(listed).sum();
        let given = (0..=most).take_while(|_| playlist_client.next().is_some()).count();
        assert!(given <= most, "{given} of {most}");
        let _ = (playlist_client.reload(), playlist_client.hint(), playlist_client.has_ended());
    }
}

/// A peer's plain handshake: version, zero time, zero version, any bytes; and an echo, which is not verified.
const HANDSHAKE: [u8; 1 + 1536 + 1536] = {
    let mut bytes = [3; 1 + 1536 + 1536];
    let mut i = 1;
    while i < 9 {
        bytes[i] = 0;
        i += 1;
    }
    bytes
};

/// A group's stream, or a control stream, of the relay protocol. The first byte selects which one, and how it is split.
pub fn relay_group(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    if first & 1 == 1 {
        let mut buffer = BytesMut::from(data);
        while let Ok(Some(message)) = wire::take_message(&mut buffer) {
            let (ask, reply) = (wire::client_message(message.clone()), wire::server_message(message));
            // Read-then-write-then-read identity.
            let mut again = BytesMut::new();
            if let Ok(ask) = ask {
                ask.encode(&mut again);
                let message = wire::take_message(&mut again).expect("our own message").expect("all of it");
                assert_eq!(wire::client_message(message), Ok(ask));
            }
            if let Ok(reply) = reply {
                reply.encode(&mut again);
                let message = wire::take_message(&mut again).expect("our own message").expect("all of it");
                assert_eq!(wire::server_message(message), Ok(reply));
            }
        }
        return;
    }
    let mut reader = wire::GroupReader::default();
    for piece in data.chunks([1, 7, 1200, usize::MAX][usize::from(first >> 1 & 3)]) {
        reader.push(piece);
        while let Ok(Some(arrived)) = reader.unit() {
            assert_eq!(arrived.unit.epoch, arrived.catalog.epoch);
            assert!(arrived.predecessor_dts.is_none_or(|after| after <= arrived.unit.dts));
        }
    }
}
