//! Shared by the tests: a server in this process, and a publisher and a player based on the shared crates.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "test support; each test uses a part")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cdn::auth::Keyring;
use cdn::config::{Config, FanoutEngine};
use cdn::hub::{Hub, HubStream};
use media::codec::{Codec, CodecConfig};
use media::flv::{Demuxer, Event};
use media::{AccessUnit, Catalog, Epoch, Timestamp, Track, TrackId, TrackOrder};
use net::listen::ListenAddress;
use net::relay::{self, Proof, Side, Subscription};
use net::rtmp::client::{self, ClientOptions};
use net::rtmp::{Message, url};
use net::trust::{Pin, tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Timeout of all waits: nothing on loopback takes this long unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A server in this process, on ports that the system assigns.
pub struct Server {
    pub hub: Arc<Hub>,
    pub keys: Arc<Keyring>,
    pub rtmp: SocketAddr,
    pub http: SocketAddr,
    pub relay: Option<SocketAddr>,
    metrics: SocketAddr,
    shutdown: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
    _data: tempfile::TempDir,
}

impl Server {
    pub async fn start(engine: FanoutEngine, adjust: impl FnOnce(&mut Config)) -> Self {
        let data = tempfile::tempdir().unwrap();
        let any = ListenAddress::from(SocketAddr::from(([127, 0, 0, 1], 0)));
        let config = cdn::load(None, [], |config| {
            config.data = data.path().into();
            (config.rtmp.listen, config.http.listen) = (any, any);
            (config.relay.listen, config.metrics.listen) = (None, Some(any));
            config.fanout.engine = engine;
            config.fanout.shards = 1;
            adjust(config);
        })
        .unwrap();
        let server = cdn::Server::bind(config).await.unwrap();
        let cdn::Addresses { rtmp, http, relay, metrics } = server.addresses();
        let (hub, keys) = (server.hub().clone(), server.keys().clone());
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(server.run(shutdown.clone().cancelled_owned()));
        Self { hub, keys, rtmp, http, relay, metrics: metrics.unwrap(), shutdown, running, _data: data }
    }

    /// Creates a key for the stream `name`, or replaces it, and returns the key.
    pub fn key(&self, name: &str) -> String {
        let key = self.keys.create(&name.parse().unwrap(), true).unwrap();
        self.hub.open(name);
        key.reveal().to_owned()
    }

    /// The whole HTTP response to `GET path`.
    pub async fn get(&self, path: &str) -> String {
        within(async {
            let mut socket = TcpStream::connect(self.http).await.unwrap();
            socket.write_all(format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
            let mut response = String::new();
            socket.read_to_string(&mut response).await.unwrap();
            response
        })
        .await
    }

    /// A connection to the relay that has sent no request.
    pub async fn connect_relay(&self) -> quinn::Connection {
        let response = self.get("/api/v1/streams/live/watch").await;
        let info: serde_json::Value = serde_json::from_str(response.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        let pin: Pin = info["relay"]["pin"].as_str().unwrap().parse().unwrap();
        let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
        let mut config = tls::client_config(pin, relay::wire::ALPN);
        config.transport_config(Arc::new(relay::transport(Side::Client)));
        within(endpoint.connect_with(config, self.relay.unwrap(), tls::SERVER_NAME).unwrap()).await.unwrap()
    }

    /// An idle subscription to the stream `live`.
    pub async fn subscribe(&self) -> Subscription {
        within(relay::subscribe(self.connect_relay().await, "live", Proof::None)).await.unwrap()
    }

    /// The value of a metric without labels.
    pub async fn metric(&self, name: &str) -> u64 {
        let text = within(async {
            let mut socket = TcpStream::connect(self.metrics).await.unwrap();
            socket.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").await.unwrap();
            let mut text = String::new();
            socket.read_to_string(&mut text).await.unwrap();
            text
        })
        .await;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    /// Begins the server's shutdown.
    pub fn shut_down(&self) {
        self.shutdown.cancel();
    }

    /// Waits until it has shut down.
    pub async fn stopped(self) {
        self.shut_down();
        within(self.running).await.unwrap().unwrap();
    }

    /// Connects a publisher with `key` as the stream key.
    pub async fn publish(&self, key: &str) -> Result<client::Publisher, net::rtmp::Error> {
        let url = url::parse(&format!("rtmp://{}/live/{key}", self.rtmp)).unwrap();
        within(client::publish(&url, ClientOptions::default())).await
    }

    pub async fn play(&self, name: &str) -> Result<Viewer, net::rtmp::Error> {
        let url = url::parse(&format!("rtmp://{}/live/{name}", self.rtmp)).unwrap();
        let player = within(client::play(&url, ClientOptions::default())).await?;
        Ok(Viewer {
            player,
            demuxer: Demuxer::new(Epoch(0)),
            catalog: Catalog::new(Epoch(0)),
            order: TrackOrder::default(),
            predecessor: None,
        })
    }
}

/// Awaits `what`, and fails the test after [`PATIENCE`].
pub async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it hangs")
}

/// A player that reads access units.
pub struct Viewer {
    pub player: client::Player,
    demuxer: Demuxer,
    pub catalog: Catalog,
    order: TrackOrder,
    /// Stated predecessor of the last received unit.
    pub predecessor: Option<Timestamp>,
}

impl Viewer {
    /// The next unit; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<AccessUnit> {
        loop {
            let events = match within(self.player.next()).await.ok()?? {
                Message::Metadata(metadata) => {
                    let epoch = metadata.epoch.expect("our server states epochs");
                    self.demuxer.set_epoch(epoch);
                    self.demuxer.set_exact(true);
                    self.catalog.epoch = epoch;
                    self.catalog.clock = metadata.clock;
                    self.catalog.metadata = metadata.values;
                    continue;
                }
                Message::Audio { timestamp, body } => self.demuxer.audio(timestamp, body, Instant::now()).unwrap(),
                Message::Video { timestamp, body } => self.demuxer.video(timestamp, body, Instant::now()).unwrap(),
                Message::Gap(gap) => {
                    for (track, predecessor) in gap.predecessors {
                        self.order.state(gap.epoch, track, predecessor);
                    }
                    continue;
                }
                Message::EndOfStream | Message::Peer(_) | Message::Timing(_) => return None,
            };
            let mut unit = None;
            for event in events {
                match event {
                    Event::Track(track) => drop(self.catalog.set_track(track)),
                    Event::Unit(new) => assert!(unit.replace(new).is_none(), "one unit a message"),
                    _ => {}
                }
            }
            if let Some(unit) = unit {
                self.predecessor = self.order.follow(&unit);
                return Some(unit);
            }
        }
    }

    /// Track and DTS of the next `count` units.
    pub async fn times(&mut self, count: usize) -> Vec<(TrackId, i64)> {
        let mut times = Vec::new();
        while times.len() < count {
            let Some(unit) = self.next().await else { break };
            times.push((unit.track, unit.dts.as_millis()));
        }
        times
    }
}

/// H.264, High, 320x180.
pub fn video() -> Track {
    let sps = [
        0x67, 0x64, 0, 0x15, 0xac, 0xd9, 0x41, 0x43, 0x3f, 0x26, 2, 0, 0, 3, 0, 2, 0, 0, 3, 2, 0x83, 0xe2, 0x85, 0x32,
        0xc0,
    ];
    let pps = [0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc0];
    let mut record = vec![1, 0x64, 0, 0x15, 0xff, 0xe1, 0, sps.len() as u8];
    record.extend(sps);
    record.extend([1, 0, pps.len() as u8]);
    record.extend(pps);
    Track { id: TrackId::VIDEO, config: CodecConfig::from_record(Codec::H264, record.into()).unwrap() }
}

/// AAC-LC, 44.1 kHz, stereo.
pub fn audio() -> Track {
    let config = CodecConfig::from_record(Codec::Aac, Bytes::from_static(&[0x12, 0x10])).unwrap();
    Track { id: TrackId::AUDIO, config }
}

pub fn catalog(epoch: u64, tracks: &[Track]) -> Arc<Catalog> {
    let mut catalog = Catalog::new(Epoch(epoch));
    tracks.iter().for_each(|track| assert!(catalog.set_track(track.clone())));
    Arc::new(catalog)
}

/// A video frame of about `size` bytes.
pub fn picture(epoch: u64, millis: i64, is_idr: bool, size: usize) -> AccessUnit {
    let mut payload = vec![0xa5; size.max(6)];
    let nal = (payload.len() - 4) as u32;
    payload[..4].copy_from_slice(&nal.to_be_bytes());
    payload[4] = if is_idr { 0x65 } else { 0x41 };
    let dts = Timestamp::from_millis(millis);
    AccessUnit {
        epoch: Epoch(epoch),
        track: TrackId::VIDEO,
        dts,
        pts: dts,
        random_access: is_idr,
        payload: payload.into(),
    }
}

pub fn sound(epoch: u64, millis: i64) -> AccessUnit {
    let dts = Timestamp::from_millis(millis);
    let payload = Bytes::from_static(&[0x21, 0x10, 4, 0x60, 0x8c, 0x1c]);
    AccessUnit { epoch: Epoch(epoch), track: TrackId::AUDIO, dts, pts: dts, random_access: true, payload }
}

/// Waits until `stream` counts `count` viewers.
pub async fn viewers(stream: &HubStream, count: usize) {
    within(async {
        while stream.info().viewers.get("rtmp").copied().unwrap_or(0) != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
