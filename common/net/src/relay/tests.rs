//! Both ends over loopback: joins, idle and started again, exact resumption, groups given up, refusals, and hostile bytes; and the vectors
//! of SPEC.md.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use data_encoding::HEXLOWER;
use media::codec::{Codec, CodecConfig, Format};
use media::latency::{StageTimes, TimingReport, UnitTiming};
use media::live_window::{Bounds, ReadBatch};
use media::{AccessUnit, Catalog, Cursor, Epoch, LiveWindow, Timestamp, Track, TrackId, WallClock};
use parking_lot::Mutex;
use proptest::prelude::*;
use quinn::Endpoint;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, watch};

use super::server::{Ended, MAX_REQUESTS};
use super::wire::{
    self, ClientMessage, GroupHeader, GroupReader, Proof, ReceivedUnit, RefusalCode, ServerMessage, Start,
};
use super::{Error, Event, Side, Source, Subscription, accept, subscribe, transport};
use crate::trust::{Identity, tls};

/// A live window that a test writes.
pub(super) struct Live {
    window: Mutex<LiveWindow>,
    changed: watch::Sender<bool>,
    catalog: Arc<Catalog>,
    /// Where the two lanes of a subscriber were left.
    left_at: Mutex<Vec<u64>>,
    jumps: AtomicUsize,
    has_read: Notify,
    relayed: AtomicUsize,
    room: watch::Sender<bool>,
}

impl Live {
    pub(super) fn new() -> Arc<Self> {
        let bounds = Bounds { duration: Duration::from_secs(10), bytes: 64 << 20 };
        Arc::new(Self {
            window: LiveWindow::new(bounds).into(),
            changed: watch::Sender::new(false),
            catalog: catalog(7),
            left_at: Mutex::default(),
            jumps: AtomicUsize::new(0),
            has_read: Notify::new(),
            relayed: AtomicUsize::new(0),
            room: watch::Sender::new(true),
        })
    }

    /// How often the lanes of the one subscriber went on at another place than where they were left.
    fn jumps(&self) -> usize {
        self.jumps.load(Ordering::Relaxed)
    }

    /// Pictures `range` of 33 ms with an IDR every tenth, and a sound with each.
    pub(super) fn push(&self, range: std::ops::Range<i64>, size: usize) {
        for n in range {
            let mut window = self.window.lock();
            let before = |offset| (n > 0).then(|| Timestamp::from_millis((n - 1) * 33 + offset));
            window.push(self.catalog.clone(), unit(TrackId::VIDEO, n * 33, n % 10 == 0, size), before(0));
            window.push(self.catalog.clone(), unit(TrackId::AUDIO, n * 33 + 5, true, 10), before(5));
            drop(window);
            self.changed.send_modify(|_| {});
        }
    }

    /// How often a unit was said to be handed over.
    fn relayed(&self) -> usize {
        self.relayed.load(Ordering::Relaxed)
    }

    fn end(&self) {
        self.changed.send_replace(true);
    }
}

impl Source for Live {
    type News = bool;

    fn read(&self, cursor: &mut Cursor, max_bytes: usize) -> ReadBatch {
        let mut left_at = self.left_at.lock();
        let from = cursor.position();
        let read = cursor.read(&self.window.lock(), max_bytes);
        let lane = left_at.iter().position(|at| Some(*at) == from).or_else(|| {
            // The one that is behind has jumped.
            let behind = left_at.iter().min().filter(|_| from.is_some());
            self.jumps.fetch_add(usize::from(behind.is_some()), Ordering::Relaxed);
            left_at.iter().position(|at| Some(at) == behind)
        });
        lane.map(|lane| left_at.swap_remove(lane));
        left_at.extend(cursor.position());
        self.has_read.notify_one();
        read
    }

    fn with_window<T>(&self, look: impl FnOnce(&LiveWindow) -> T) -> T {
        look(&self.window.lock())
    }

    fn changed(&self) -> watch::Receiver<bool> {
        self.changed.subscribe()
    }

    fn has_ended(&self) -> bool {
        *self.changed.borrow()
    }

    fn room(&self) -> Option<watch::Receiver<bool>> {
        Some(self.room.subscribe())
    }

    fn relayed(&self, _unit: &AccessUnit) {
        self.relayed.fetch_add(1, Ordering::Relaxed);
    }

    fn stamps(&self, at: Option<Timestamp>) -> Option<TimingReport> {
        let clock = WallClock::from_micros(1);
        let units =
            vec![UnitTiming { track: TrackId::VIDEO, dts: at.unwrap_or_default(), stamps: StageTimes::default() }];
        Some(TimingReport { received: clock, answered: clock, epoch: Epoch(7), broadcaster: None, units })
    }
}

fn catalog(epoch: u64) -> Arc<Catalog> {
    let mut catalog = Catalog::new(Epoch(epoch));
    catalog.clock = Some(WallClock::from_micros(1_795_352_493_250_123));
    let (record, format) = (Bytes::from_static(&[1, 2, 3]), Format::Video { width: 640, height: 360 });
    catalog.set_track(Track { id: TrackId::VIDEO, config: CodecConfig { codec: Codec::H264, record, format } });
    let (record, format) = (Bytes::from_static(&[0x12, 0x10]), Format::Audio { sample_rate: 44_100, channels: 2 });
    catalog.set_track(Track { id: TrackId::AUDIO, config: CodecConfig { codec: Codec::Aac, record, format } });
    catalog.metadata.insert("framerate".into(), media::catalog::Value::Number(30.0));
    catalog.metadata.insert("stereo".into(), media::catalog::Value::Boolean(true));
    catalog.metadata.insert("encoder".into(), media::catalog::Value::String("x".into()));
    Arc::new(catalog)
}

pub(super) fn unit(track: TrackId, dts: i64, random_access: bool, size: usize) -> AccessUnit {
    let payload = Bytes::from(vec![dts as u8; size]);
    let dts = Timestamp::from_millis(dts);
    AccessUnit { epoch: Epoch(7), track, dts, pts: dts + Duration::from_millis(40), random_access, payload }
}

/// Serves `live` to whoever comes, by a name of one's own.
pub(super) fn serve(live: &Arc<Live>) -> (SocketAddr, crate::trust::Pin, tokio::sync::mpsc::Receiver<Ended>) {
    let identity = Identity::generate().unwrap();
    let mut config = tls::server_config(&identity, wire::ALPN);
    config.transport_config(Arc::new(transport(Side::Server)));
    let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = endpoint.local_addr().unwrap();
    let (ended, ends) = tokio::sync::mpsc::channel(8);
    let live = live.clone();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let (live, ended) = (live.clone(), ended.clone());
            tokio::spawn(async move {
                let Ok(connection) = incoming.await else { return };
                let Ok(request) = accept(connection).await else { return };
                if request.name != "live" {
                    return request.refuse(RefusalCode::UnknownStream, "There is no such stream.\u{7}").await;
                }
                let end = request.serve(live, None, std::future::pending()).await;
                let _ = ended.send(end).await;
            });
        }
    });
    (address, identity.pin(), ends)
}

pub(super) async fn connect(address: SocketAddr, pin: crate::trust::Pin) -> (Endpoint, quinn::Connection) {
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let mut config = tls::client_config(pin, wire::ALPN);
    config.transport_config(Arc::new(transport(Side::Client)));
    let connection = endpoint.connect_with(config, address, tls::SERVER_NAME).unwrap().await.unwrap();
    (endpoint, connection)
}

async fn next(subscription: &mut Subscription) -> Event {
    tokio::time::timeout(Duration::from_secs(5), subscription.next()).await.expect("an event in time").unwrap()
}

/// Units until `video` pictures have come: their DTS by track, each following on the one before.
async fn take(subscription: &mut Subscription, video: usize) -> (Vec<i64>, Vec<i64>) {
    let (mut pictures, mut sounds) = (Vec::new(), Vec::new());
    while pictures.len() < video {
        let Event::Unit(ReceivedUnit { unit, predecessor_dts: after, catalog: got }) = next(subscription).await else {
            panic!("no unit")
        };
        assert_eq!((unit.epoch, unit.composition_time()), (Epoch(7), 40));
        assert!(unit.payload.iter().all(|byte| *byte == unit.dts.as_millis() as u8));
        assert_eq!(*got, *catalog(7));
        let of_track = if unit.track.is_video() { &mut pictures } else { &mut sounds };
        if let Some(last) = of_track.last() {
            assert_eq!(after, Some(Timestamp::from_millis(*last)), "a unit says which one it follows");
        }
        of_track.push(unit.dts.as_millis());
    }
    (pictures, sounds)
}

#[tokio::test]
async fn a_join_gets_the_last_idr_at_once_and_then_what_comes() {
    let live = Live::new();
    live.push(0..25, 1000);
    let (address, pin, _) = serve(&live);
    let (_endpoint, connection) = connect(address, pin).await;
    let mut subscription = subscribe(connection, "live", Proof::None).await.unwrap();
    subscription.start(Start::LiveEdge).await.unwrap();
    let (pictures, _) = take(&mut subscription, 5).await;
    assert_eq!(pictures, (20..25).map(|n| n * 33).collect::<Vec<_>>());
    live.push(25..45, 1000);
    let (pictures, _) = take(&mut subscription, 20).await;
    assert_eq!(pictures, (25..45).map(|n| n * 33).collect::<Vec<_>>(), "over two ends of groups");
    live.end();
    while !matches!(next(&mut subscription).await, Event::Ended) {}
}

#[tokio::test]
async fn a_subscriber_hears_whether_there_is_room() {
    let live = Live::new();
    live.push(0..5, 1000);
    live.room.send_replace(false);
    let (address, pin, _) = serve(&live);
    let (_endpoint, connection) = connect(address, pin).await;
    let mut subscription = subscribe(connection, "live", Proof::None).await.unwrap();
    assert!(matches!(next(&mut subscription).await, Event::Capacity(false)), "before it flows");
    // It may flow all the same.
    subscription.start(Start::LiveEdge).await.unwrap();
    take(&mut subscription, 5).await;
    live.room.send_replace(true);
    assert!(matches!(next(&mut subscription).await, Event::Capacity(true)));
}

#[tokio::test]
async fn stamps_are_told_when_they_are_asked_for() {
    let live = Live::new();
    live.push(0..25, 1000);
    let (address, pin, mut ends) = serve(&live);
    let (_endpoint, connection) = connect(address, pin).await;
    let mut subscription = subscribe(connection, "live", Proof::None).await.unwrap();
    let at = Timestamp::from_millis(33);
    subscription.request_timing(Some(at)).await.unwrap();
    let Event::Timing { report, requested_at, received_at } = next(&mut subscription).await else {
        panic!("no stamps")
    };
    assert_eq!((report.units[0].dts, report.epoch), (at, Epoch(7)));
    assert!(requested_at <= received_at);
    // Units are handed over once, however many take them.
    subscription.start(Start::LiveEdge).await.unwrap();
    take(&mut subscription, 5).await;
    let (_other, connection) = connect(address, pin).await;
    let mut second = subscribe(connection, "live", Proof::None).await.unwrap();
    second.start(Start::LiveEdge).await.unwrap();
    take(&mut second, 5).await;
    assert!((5..=10).contains(&live.relayed()), "{} of 5 pictures and 5 sounds", live.relayed());
    // Whoever asks on and on is shown out.
    for _ in 0..MAX_REQUESTS {
        if subscription.request_timing(None).await.is_err() {
            break;
        }
    }
    let end = tokio::time::timeout(Duration::from_secs(5), ends.recv()).await.expect("it ends").unwrap();
    assert!(matches!(end, Ended::Failed(Error::TooOften { what: "stamps", .. })), "{end:?}");
}

#[tokio::test]
async fn an_idle_subscription_flows_from_the_very_next_unit() {
    let live = Live::new();
    live.push(0..13, 1000);
    let (address, pin, _) = serve(&live);
    let (_endpoint, connection) = connect(address, pin).await;
    let mut subscription = subscribe(connection, "live", Proof::None).await.unwrap();
    // Idle: nothing comes of itself.
    let nothing = tokio::time::timeout(Duration::from_millis(100), subscription.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    live.push(13..18, 1000);
    let have = |video, audio| {
        let (video, audio) = (Timestamp::from_millis(video), Timestamp::from_millis(audio));
        Start::After { epoch: Epoch(7), have: vec![(TrackId::VIDEO, video), (TrackId::AUDIO, audio)] }
    };
    subscription.start(have(14 * 33, 13 * 33 + 5)).await.unwrap();
    let Event::Unit(first) = next(&mut subscription).await else { panic!("no unit") };
    assert_eq!(
        (first.unit.dts.as_millis(), first.predecessor_dts.map(Timestamp::as_millis)),
        (14 * 33 + 5, Some(13 * 33 + 5))
    );
    let (pictures, _) = take(&mut subscription, 3).await;
    assert_eq!(pictures, [15 * 33, 16 * 33, 17 * 33], "in the middle of a group, and nothing twice");
    // Stopped and started again, ahead of the server: it waits for what comes.
    subscription.stop().await.unwrap();
    live.push(18..19, 1000);
    subscription.start(have(20 * 33, 20 * 33 + 5)).await.unwrap();
    live.push(19..23, 1000);
    let (pictures, _) = take(&mut subscription, 2).await;
    assert_eq!(pictures, [21 * 33, 22 * 33]);
    // What it had is long gone: the newest IDR.
    live.push(23..500, 1000);
    subscription.start(have(0, 5)).await.unwrap();
    let (pictures, _) = take(&mut subscription, 1).await;
    assert_eq!(pictures, [490 * 33]);
    // Another broadcast than the server's.
    subscription.start(Start::After { epoch: Epoch(8), have: vec![] }).await.unwrap();
    assert_eq!(take(&mut subscription, 1).await.0, [490 * 33]);
}

/// How often the server gave a group up is seen where it reads: it goes on at another place than where it was.
#[tokio::test]
async fn a_subscriber_that_does_not_read_is_put_at_the_newest_idr() {
    let live = Live::new();
    live.push(0..1, 300_000);
    let (address, pin, _) = serve(&live);
    let (_endpoint, connection) = connect(address, pin).await;
    let mut subscription = subscribe(connection, "live", Proof::None).await.unwrap();
    subscription.start(Start::LiveEdge).await.unwrap();
    let (_, mut sounds) = take(&mut subscription, 1).await;
    // More than QUIC's windows hold, for longer than a unit may wait: the window holds twice as much.
    let mut groups = 1..20;
    while live.jumps() == 0 {
        if let Some(n) = groups.next() {
            live.push(n * 10..n * 10 + 10, 300_000);
        }
        tokio::time::timeout(Duration::from_secs(20), live.has_read.notified()).await.expect("it gives up");
    }
    live.end();
    let (mut gaps, mut last) = (0, Some(0));
    loop {
        match next(&mut subscription).await {
            Event::Gap(track) => {
                assert_eq!(track, TrackId::VIDEO, "sound is never given up for pictures");
                (gaps, last) = (gaps + 1, None);
            }
            Event::Unit(ReceivedUnit { unit, predecessor_dts: after, .. }) if unit.track.is_video() => {
                let follows = after.map(Timestamp::as_millis) == last && last.is_some();
                assert!(follows || unit.random_access, "a picture without its predecessors");
                last = Some(unit.dts.as_millis());
            }
            Event::Unit(ReceivedUnit { unit, .. }) => sounds.push(unit.dts.as_millis()),
            Event::Timing { .. } | Event::Capacity(_) => panic!("nobody asked, and there is room"),
            Event::Ended => break,
        }
    }
    assert!(gaps >= 1 && gaps == live.jumps(), "{gaps} gaps, given up {} times", live.jumps());
    let all = [0].into_iter().chain(10..groups.start * 10);
    assert_eq!(sounds, all.map(|n| n * 33 + 5).collect::<Vec<_>>());
}

/// Stands between a subscriber and `server`, and flips one bit of every fifth datagram each way. Counts what it altered, by way.
async fn altering_proxy(server: SocketAddr) -> (SocketAddr, Arc<[AtomicUsize; 2]>) {
    let outside = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
    let inside = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
    inside.connect(server).await.unwrap();
    let (address, altered) = (outside.local_addr().unwrap(), Arc::new([const { AtomicUsize::new(0) }; 2]));
    let subscriber = watch::Sender::new(None);
    for is_answer in [false, true] {
        let (from, to) = if is_answer { (inside.clone(), outside.clone()) } else { (outside.clone(), inside.clone()) };
        let (subscriber, altered) = (subscriber.clone(), altered.clone());
        tokio::spawn(async move {
            let mut datagram = vec![0; 1 << 16];
            for n in 1.. {
                let (length, peer) = from.recv_from(&mut datagram).await.unwrap();
                if n % 5 == 0 {
                    // Anywhere: header, ciphertext, tag.
                    let bit = n * 7919 % (length * 8);
                    datagram[bit / 8] ^= 1 << (bit % 8);
                    altered[usize::from(is_answer)].fetch_add(1, Ordering::Relaxed);
                }
                if is_answer {
                    let subscriber = subscriber.borrow().expect("it asked before it is answered");
                    to.send_to(&datagram[..length], subscriber).await.unwrap();
                } else {
                    subscriber.send_replace(Some(peer));
                    // Refused once the server is gone.
                    let _ = to.send(&datagram[..length]).await;
                }
            }
        });
    }
    (address, altered)
}

/// What was altered does not pass for a packet (RFC 9001 §5.3): it is lost, and sent again.
#[tokio::test]
async fn altered_packets_change_nothing() {
    let live = Live::new();
    live.push(0..25, 1000);
    let (address, pin, _) = serve(&live);
    let (address, altered) = altering_proxy(address).await;
    let watched = async {
        let (_endpoint, connection) = connect(address, pin).await;
        let mut subscription = subscribe(connection, "live", Proof::None).await.unwrap();
        subscription.start(Start::LiveEdge).await.unwrap();
        let feed = async {
            // One at a time, so that there are datagrams to alter; and no faster than they are shown, or what is sent again would be late.
            for n in 25..140 {
                live.push(n..n + 1, 1000);
                tokio::time::sleep(Duration::from_millis(33)).await;
            }
            live.end();
        };
        let ((), (pictures, mut sounds)) = tokio::join!(feed, take(&mut subscription, 120));
        // Sounds that came after the last picture.
        loop {
            match next(&mut subscription).await {
                Event::Unit(sound) => {
                    assert!(sound.unit.payload.iter().all(|byte| *byte == sound.unit.dts.as_millis() as u8));
                    assert_eq!(sound.predecessor_dts.map(Timestamp::as_millis), sounds.last().copied());
                    sounds.push(sound.unit.dts.as_millis());
                }
                other @ (Event::Gap(_) | Event::Timing { .. } | Event::Capacity(_)) => panic!("{other:?}"),
                Event::Ended => break,
            }
        }
        assert_eq!(pictures, (20..140).map(|n| n * 33).collect::<Vec<_>>());
        assert_eq!(sounds, (20..140).map(|n| n * 33 + 5).collect::<Vec<_>>());
    };
    tokio::time::timeout(Duration::from_secs(30), watched).await.expect("all of it in time");
    let altered = [0, 1].map(|way: usize| altered[way].load(Ordering::Relaxed));
    assert!(altered.iter().all(|count| *count >= 10), "hardly anything was altered: {altered:?}");
}

#[tokio::test]
async fn who_is_refused_hears_why() {
    let live = Live::new();
    let (address, pin, _) = serve(&live);
    let (_endpoint, connection) = connect(address, pin).await;
    let refused = subscribe(connection, "other", Proof::Ticket("t".into())).await.unwrap_err();
    assert_eq!(refused.to_string(), "refused: There is no such stream. (UnknownStream)");
    assert!(!refused.retry());
}

#[tokio::test]
async fn hostile_subscribers_harm_nobody() {
    let live = Live::new();
    live.push(0..5, 1000);
    let (address, pin, mut ends) = serve(&live);
    let (_endpoint, connection) = connect(address, pin).await;
    let mut friend = subscribe(connection, "live", Proof::None).await.unwrap();
    friend.start(Start::LiveEdge).await.unwrap();
    let mut subscribed = BytesMut::new();
    ClientMessage::Subscribe { name: "live".into(), proof: Proof::None }.encode(&mut subscribed);
    for bytes in [
        &b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"[..],
        b"\x01\x03abc",
        b"\x02\x02\x00\x07",
        b"\x3f\x00",
    ] {
        for prefix in [&b""[..], &subscribed] {
            let (_endpoint, connection) = connect(address, pin).await;
            let (mut send, mut recv) = connection.open_bi().await.unwrap();
            send.write_all(&[prefix, bytes].concat()).await.unwrap();
            let _ = recv.read_to_end(1 << 16).await;
            if prefix.is_empty() {
                connection.closed().await;
            }
        }
    }
    // Who opens the control stream and says nothing is let go by the deadline, which no test waits for; the friend goes on meanwhile.
    assert_eq!(take(&mut friend, 5).await.0.len(), 5);
    let end = tokio::time::timeout(Duration::from_secs(5), ends.recv()).await.unwrap().unwrap();
    assert!(matches!(end, Ended::Failed(_) | Ended::Unsubscribed), "{end:?}");
}

#[test]
fn messages_both_ways() {
    let have = vec![(TrackId::VIDEO, Timestamp::from_millis(-5)), (TrackId::AUDIO, Timestamp::from_millis(1 << 40))];
    let asks = [
        ClientMessage::Subscribe { name: "live".into(), proof: Proof::None },
        ClientMessage::Subscribe { name: String::new(), proof: Proof::Ticket("abc".into()) },
        ClientMessage::Subscribe { name: "é".into(), proof: Proof::Code([9; 32]) },
        ClientMessage::Start { generation: 7, at: Start::LiveEdge },
        ClientMessage::Start { generation: u32::MAX, at: Start::After { epoch: Epoch(u64::MAX), have } },
        ClientMessage::Stop,
    ];
    for ask in asks {
        let mut bytes = BytesMut::new();
        ask.encode(&mut bytes);
        for cut in 0..bytes.len() {
            assert_eq!(wire::take_message(&mut BytesMut::from(&bytes[..cut])), Ok(None), "{ask:?}");
        }
        let message = wire::take_message(&mut bytes).unwrap().unwrap();
        assert_eq!((wire::client_message(message), bytes.len()), (Ok(ask), 0));
    }
    let replies = [
        ServerMessage::Accepted { proof: None },
        ServerMessage::Accepted { proof: Some([3; 32]) },
        ServerMessage::Refused { code: RefusalCode::Other(99), reason: "why".into() },
        ServerMessage::Dropped { generation: 1, track: TrackId::AUDIO, sequence: 1 << 20 },
        ServerMessage::Ended,
    ];
    for reply in replies {
        let mut bytes = BytesMut::new();
        reply.encode(&mut bytes);
        let message = wire::take_message(&mut bytes).unwrap().unwrap();
        assert_eq!(wire::server_message(message), Ok(reply));
    }
    assert_eq!(format!("{:?}", Proof::Ticket("sekrit".into())), "Ticket(***)");
}

/// A group with its header, a catalog and two units, as bytes.
fn group() -> BytesMut {
    let mut bytes = BytesMut::new();
    GroupHeader { generation: 1, track: TrackId::VIDEO, sequence: 2 }.encode(&mut bytes);
    wire::put_catalog(&mut bytes, &catalog(7));
    for (dts, after) in [(330, Some(297)), (363, Some(330))] {
        let unit = unit(TrackId::VIDEO, dts, dts == 330, 5);
        wire::put_unit_head(&mut bytes, &unit, after.map(Timestamp::from_millis));
        bytes.extend_from_slice(&unit.payload);
    }
    bytes
}

/// SPEC.md §7 shows these bytes: an implementation of one's own can be tried against them.
#[test]
fn the_vectors_of_the_specification() {
    let encoded = |ask: ClientMessage| {
        let mut bytes = BytesMut::new();
        ask.encode(&mut bytes);
        HEXLOWER.encode(&bytes)
    };
    let have = vec![(TrackId::VIDEO, Timestamp::from_millis(330)), (TrackId::AUDIO, Timestamp::from_millis(321))];
    let vectors = [
        encoded(ClientMessage::Subscribe { name: "live".into(), proof: Proof::None }),
        encoded(ClientMessage::Start { generation: 1, at: Start::After { epoch: Epoch(7), have } }),
        HEXLOWER.encode(&group()),
    ];
    let text = include_str!("SPEC.md").replace([' ', '\n'], "");
    for vector in vectors {
        assert!(text.contains(&vector), "SPEC.md lacks {vector}");
    }
}

proptest! {
    #[test]
    fn a_group_is_read_whatever_its_pieces(cuts in prop::collection::vec(1usize..40, 1..60)) {
        let bytes = group();
        let (mut reader, mut units, mut rest) = (GroupReader::default(), Vec::new(), &bytes[..]);
        let mut cuts = cuts.into_iter().cycle();
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
            reader.push(piece);
            rest = more;
            while let Some(unit) = reader.unit().unwrap() {
                units.push(unit);
            }
        }
        prop_assert!(reader.is_between_frames());
        let read: Vec<_> = units.iter().map(|u| (u.unit.dts.as_millis(), u.predecessor_dts.map(Timestamp::as_millis))).collect();
        prop_assert_eq!(read, [(330, Some(297)), (363, Some(330))]);
        prop_assert_eq!(&*units[0].catalog, &*catalog(7));
        prop_assert!(units[0].unit.random_access && !units[1].unit.random_access);
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), flips in prop::collection::vec((any::<usize>(), any::<u8>()), 0..8)) {
        let mut reader = GroupReader::default();
        reader.push(&bytes);
        while let Ok(Some(_)) = reader.unit() {}
        let mut damaged = group();
        for (at, with) in flips {
            let at = at % damaged.len();
            damaged[at] ^= with;
        }
        let mut reader = GroupReader::default();
        reader.push(&damaged);
        while let Ok(Some(_)) = reader.unit() {}
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(message)) = wire::take_message(&mut buffer) {
            let _ = (wire::client_message(message.clone()), wire::server_message(message));
        }
    }
}
