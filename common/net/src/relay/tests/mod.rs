//! The relay between a client and a server over a simulated network, and its bytes.

mod hostile;
mod links;
mod subscription;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use media::codec::{Codec, CodecConfig, Format};
use media::latency::{StageTimes, TimingReport, UnitTiming};
use media::live_window::{Bounds, ReadBatch};
use media::{
    AccessUnit, Catalog, Cursor, Epoch, LiveWindow, Timestamp, Track, TrackId, TrackKind, TrackOrder, WallClock,
};
use parking_lot::Mutex;
use quinn::Endpoint;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::server::Ended;
use super::wire::{ALPN, Proof, ReceivedUnit, RefusalCode, Start};
use super::{
    Delivery, Event, Grant, SendGate, Side, StreamSource, Subscription, SubscriptionObserver, accept, subscribe,
    transport,
};
use crate::sim::Network;
use crate::trust::{Identity, Pin, tls};

/// A live stream that a test writes: a video frame every 33 ms, every tenth an IDR, and an audio frame of 10 bytes with each.
struct TestStream {
    window: Mutex<LiveWindow>,
    /// The order of the pushed units, without gaps.
    order: Mutex<TrackOrder>,
    changed: watch::Sender<bool>,
    catalog: Arc<Catalog>,
    /// Where the two senders of the only subscriber stopped reading.
    read_positions: Mutex<Vec<u64>>,
    jumps: AtomicUsize,
    has_read: Notify,
    first_sends: AtomicUsize,
    capacity: watch::Sender<bool>,
    /// The last queueing delay that a sender measured.
    queue_delay: Mutex<Duration>,
}

impl TestStream {
    fn new() -> Arc<Self> {
        let bounds = Bounds { duration: Duration::from_secs(10), bytes: 64 << 20 };
        Arc::new(Self {
            window: LiveWindow::new(bounds).into(),
            order: Mutex::default(),
            changed: watch::Sender::new(false),
            catalog: catalog(7),
            read_positions: Mutex::default(),
            jumps: AtomicUsize::new(0),
            has_read: Notify::new(),
            first_sends: AtomicUsize::new(0),
            capacity: watch::Sender::new(true),
            queue_delay: Mutex::default(),
        })
    }

    /// How often the senders of the only subscriber continued at another position than where they stopped.
    fn jumps(&self) -> usize {
        self.jumps.load(Ordering::Relaxed)
    }

    /// Appends video frames `range` of `size` bytes each, and their audio frames, at once.
    fn push(&self, range: std::ops::Range<i64>, size: usize) {
        for n in range {
            let mut window = self.window.lock();
            let mut order = self.order.lock();
            let picture = unit(TrackId::VIDEO, n * FRAME_MS, n % GOP == 0, size);
            for unit in [picture, unit(TrackId::AUDIO, n * FRAME_MS + 5, true, 10)] {
                let predecessor = order.follow(&unit);
                window.push(self.catalog.clone(), unit, predecessor);
            }
            drop(order);
            drop(window);
            self.changed.send_modify(|_| {});
        }
    }

    /// Appends them in real time, the first one now.
    async fn push_live(&self, range: std::ops::Range<i64>, size: usize) {
        let (start, first) = (Instant::now(), range.start);
        for n in range {
            sleep_until(start + Duration::from_millis((FRAME_MS * (n - first)) as u64)).await;
            self.push(n..n + 1, size);
        }
    }

    /// How many units were reported as sent for the first time.
    fn first_sends(&self) -> usize {
        self.first_sends.load(Ordering::Relaxed)
    }

    fn end(&self) {
        self.changed.send_replace(true);
    }
}

impl StreamSource for TestStream {
    type Change = bool;

    fn read(&self, cursor: &mut Cursor, max_bytes: usize) -> ReadBatch {
        let mut positions = self.read_positions.lock();
        let from = cursor.position();
        let read = cursor.read(&self.window.lock(), max_bytes);
        let sender = positions.iter().position(|at| Some(*at) == from).or_else(|| {
            // The sender that lags has jumped.
            let behind = positions.iter().min().filter(|_| from.is_some());
            self.jumps.fetch_add(usize::from(behind.is_some()), Ordering::Relaxed);
            positions.iter().position(|at| Some(at) == behind)
        });
        sender.map(|sender| positions.swap_remove(sender));
        positions.extend(cursor.position());
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

    fn timing(&self, at: Option<Timestamp>) -> Option<TimingReport> {
        let clock = WallClock::from_micros(1);
        let units =
            vec![UnitTiming { track: TrackId::VIDEO, dts: at.unwrap_or_default(), stamps: StageTimes::default() }];
        Some(TimingReport { received: clock, answered: clock, epoch: Epoch(7), broadcaster: None, units })
    }
}

impl SendGate for TestStream {
    fn acquire(&self, _kind: TrackKind, wanted: usize, queue_delay: Duration) -> Grant {
        *self.queue_delay.lock() = queue_delay;
        Grant::Bytes(wanted)
    }

    fn capacity_available(&self) -> Option<watch::Receiver<bool>> {
        Some(self.capacity.subscribe())
    }
}

impl SubscriptionObserver for TestStream {
    fn on_first_send(&self, _unit: &AccessUnit) {
        self.first_sends.fetch_add(1, Ordering::Relaxed);
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

/// A unit of epoch 7 that is presented 40 ms after its DTS; every byte of its payload is the DTS modulo 256.
fn unit(track: TrackId, dts: i64, random_access: bool, size: usize) -> AccessUnit {
    let payload = Bytes::from(vec![dts as u8; size]);
    let dts = Timestamp::from_millis(dts);
    AccessUnit { epoch: Epoch(7), track, dts, pts: dts + Duration::from_millis(40), random_access, payload }
}

/// The server of a test.
struct Server {
    address: SocketAddr,
    pin: Pin,
    /// How each accepted subscription ended.
    ends: mpsc::Receiver<Ended>,
}

/// Serves `stream` under the name `live`.
fn serve(network: &Network, stream: &Arc<TestStream>) -> Server {
    let identity = Identity::generate().unwrap();
    let endpoint = listen(network, &identity);
    let address = endpoint.local_addr().unwrap();
    let (ended, ends) = mpsc::channel(8);
    let stream = stream.clone();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let (stream, ended) = (stream.clone(), ended.clone());
            tokio::spawn(async move {
                let Ok(connection) = incoming.await else { return };
                let Ok(request) = accept(connection).await else { return };
                if request.name != "live" {
                    return request.refuse(RefusalCode::UnknownStream, "There is no such stream.\u{7}").await;
                }
                let delivery = Delivery::new(stream.clone()).gated_by(stream.clone()).observed_by(stream);
                let end = request.serve(delivery, None, std::future::pending()).await;
                let _ = ended.send(end).await;
            });
        }
    });
    Server { address, pin: identity.pin(), ends }
}

fn listen(network: &Network, identity: &Identity) -> Endpoint {
    let mut config = tls::server_config(identity, ALPN);
    config.transport_config(Arc::new(transport(Side::Server)));
    network.endpoint(Some(config))
}

async fn connect(network: &Network, address: SocketAddr, pin: Pin) -> (Endpoint, quinn::Connection) {
    let endpoint = network.endpoint(None);
    let mut config = tls::client_config(pin, ALPN);
    config.transport_config(Arc::new(transport(Side::Client)));
    let connection = endpoint.connect_with(config, address, tls::SERVER_NAME).unwrap().await.unwrap();
    (endpoint, connection)
}

/// An idle subscription, with its endpoint, which must outlive it.
async fn join(network: &Network, server: &Server) -> (Endpoint, Subscription) {
    let (endpoint, connection) = connect(network, server.address, server.pin).await;
    (endpoint, subscribe(connection, "live", Proof::None).await.unwrap())
}

/// A subscription that flows from the live edge.
async fn watch_live(network: &Network, server: &Server) -> (Endpoint, Subscription) {
    let (endpoint, mut subscription) = join(network, server).await;
    subscription.start(Start::LiveEdge).await.unwrap();
    (endpoint, subscription)
}

async fn next(subscription: &mut Subscription) -> Event {
    timeout(Duration::from_secs(5), subscription.next()).await.expect("an event within 5 s").unwrap()
}

/// Receives units until `video` frames have arrived; returns their DTS by track, in milliseconds. Checks that each is intact and contiguous.
async fn take(subscription: &mut Subscription, video: usize) -> (Vec<i64>, Vec<i64>) {
    let (mut pictures, mut sounds) = (Vec::new(), Vec::new());
    while pictures.len() < video {
        let Event::Unit(ReceivedUnit { unit, predecessor_dts, catalog: got }) = next(subscription).await else {
            panic!("no unit")
        };
        assert_eq!((unit.epoch, unit.composition_time()), (Epoch(7), 40));
        assert!(unit.payload.iter().all(|byte| *byte == unit.dts.as_millis() as u8));
        assert_eq!(*got, *catalog(7));
        let of_track = if unit.track.is_video() { &mut pictures } else { &mut sounds };
        if let Some(last) = of_track.last() {
            assert_eq!(predecessor_dts, Some(Timestamp::from_millis(*last)), "a unit states its predecessor");
        }
        of_track.push(unit.dts.as_millis());
    }
    (pictures, sounds)
}

/// The duration of a frame in milliseconds.
const FRAME_MS: i64 = 33;
/// Frames from one IDR to the next.
const GOP: i64 = 10;
