//! Measures the delay that the relay protocol adds to a live stream over loopback, against the same units over plain TCP sockets (the floor).
//!
//! `cargo bench -p nearcast-net --bench relay -- [--viewers 1,20,100] [--seconds 4]`
//!
//! One process: the publisher and the server on a runtime of two threads, the viewers on another of two. 30 video frames and 47 audio frames
//! a second, 1.2 Mbit/s. Every unit carries the time when it was published; delay is measured from then until the viewer has received and
//! reassembled it. Not measured: joins, loss, any network.

#![allow(clippy::print_stdout, reason = "a benchmark prints its result")]

use std::fs;
use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use media::codec::{Codec, CodecConfig, Format};
use media::live_window::{Bounds, ReadBatch};
use media::{AccessUnit, Catalog, Cursor, Epoch, LiveWindow, Timestamp, Track, TrackId, TrackOrder};
use net::relay::wire::ALPN;
use net::relay::{Delivery, Event, Proof, Side, Start, StreamSource, accept, subscribe, transport};
use net::trust::{Identity, tls};
use parking_lot::Mutex;
use quinn::Endpoint;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str, default: &str| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)).cloned().unwrap_or(default.to_owned())
    };
    let viewers: Vec<usize> =
        value("--viewers", "1,20,100").split(',').map(str::parse).collect::<std::result::Result<_, _>>()?;
    let seconds = Duration::from_secs_f64(value("--seconds", "4").parse()?);

    println!(
        "{:<7} {:>7} {:>8} {:>8} {:>8} {:>8} {:>11} {:>9} {:>9} {:>6}",
        "path", "viewers", "p50 ms", "p99 ms", "max ms", "IDR ms", "server ms/v", "all ms/v", "wakes/s", "lost"
    );
    for count in viewers {
        let floor = measure(Path::Floor, count, seconds)?;
        floor.print("floor", count);
        let relay = measure(Path::Relay, count, seconds)?;
        relay.print("relay", count);
        relay.print_against(&floor, count);
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Path {
    Floor,
    Relay,
}

/// The measurements of one path in one run.
struct Figures {
    /// Delay from publishing to reception, over all units of all viewers.
    p50: f64,
    p99: f64,
    max: f64,
    /// The median delay of IDRs, which are too few to affect the 99th percentile.
    idr: f64,
    /// CPU milliseconds per second and viewer, of the server's threads and of all threads.
    server_cpu: f64,
    cpu: f64,
    /// Wake-ups of the server's threads per second.
    wakes: f64,
    /// Units that a viewer did not receive, over all viewers.
    lost: usize,
}

impl Figures {
    fn print(&self, name: &str, viewers: usize) {
        let Self { p50, p99, max, idr, server_cpu, cpu, wakes, lost } = self;
        println!(
            "{name:<7} {viewers:>7} {p50:>8.2} {p99:>8.2} {max:>8.2} {idr:>8.2} {server_cpu:>11.3} {cpu:>9.3} {wakes:>9.0} {lost:>6}"
        );
    }

    fn print_against(&self, floor: &Self, viewers: usize) {
        let ratio = |of: fn(&Self) -> f64| of(self) / of(floor);
        println!(
            "{:<7} {viewers:>7} {:>8.2} {:>8.2} {:>8.2} {:>8.2} {:>11.2} {:>9.2} {:>9.2}   p99 {:+.2} ms",
            "ratio",
            ratio(|f| f.p50),
            ratio(|f| f.p99),
            ratio(|f| f.max),
            ratio(|f| f.idr),
            ratio(|f| f.server_cpu),
            ratio(|f| f.cpu),
            ratio(|f| f.wakes),
            self.p99 - floor.p99
        );
    }
}

fn measure(path: Path, count: usize, seconds: Duration) -> Result<Figures> {
    let (server, viewers) = (runtime(SERVER)?, runtime("viewers")?);
    let (outlet, watching) = match path {
        Path::Floor => floor(&server, &viewers, count)?,
        Path::Relay => relay(&server, &viewers, count)?,
    };
    let publishing = server.spawn(publish(outlet, WARM_UP + seconds + TAIL));
    std::thread::sleep(WARM_UP);
    let (begin, before) = (nanos(), Usage::now()?);
    std::thread::sleep(seconds);
    let (end, after) = (nanos(), Usage::now()?);
    let within = |at: &u64| (begin..end).contains(at);
    let published = server.block_on(publishing)??.into_iter().filter(within).count();
    let mut received = Vec::new();
    for viewer in watching {
        received.extend(viewers.block_on(viewer)??.into_iter().filter(|unit| within(&unit.published)));
    }
    server.shutdown_background();
    viewers.shutdown_background();

    let sorted = |is_wanted: fn(&&Receipt) -> bool| {
        let mut delays: Vec<f64> = received.iter().filter(is_wanted).map(|unit| unit.delay as f64 / 1e6).collect();
        delays.sort_by(f64::total_cmp);
        delays
    };
    let at = |delays: &[f64], q: f64| {
        let last = delays.len().saturating_sub(1) as f64;
        delays.get((last * q) as usize).copied().unwrap_or(f64::NAN)
    };
    let (all, idrs) = (sorted(|_| true), sorted(|unit| unit.is_idr));
    let wall = Duration::from_nanos(end - begin).as_secs_f64();
    let per_viewer = |nanos: u64| nanos as f64 / 1e6 / wall / count as f64;
    Ok(Figures {
        p50: at(&all, 0.5),
        p99: at(&all, 0.99),
        max: at(&all, 1.0),
        idr: at(&idrs, 0.5),
        server_cpu: per_viewer(after.server_cpu - before.server_cpu),
        cpu: per_viewer(after.cpu - before.cpu),
        wakes: (after.server_wakes - before.server_wakes) as f64 / wall,
        lost: published * count - received.len(),
    })
}

/// A unit that a viewer has received.
struct Receipt {
    /// Time of publishing, on the clock of [`nanos`].
    published: u64,
    delay: u64,
    is_idr: bool,
}

impl Receipt {
    fn of(mut payload: &[u8]) -> Self {
        let (is_idr, published) = (payload.len() == IDR_BYTES, payload.get_u64());
        Self { published, delay: nanos() - published, is_idr }
    }
}

type Watching = Vec<JoinHandle<Result<Vec<Receipt>>>>;

/// Connects viewers by plain TCP sockets.
fn floor(server: &Runtime, viewers: &Runtime, count: usize) -> Result<(Outlet, Watching)> {
    let listener = server.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let address = listener.local_addr()?;
    let (mut sockets, mut watching) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let viewer = viewers.block_on(TcpStream::connect(address))?;
        let (socket, _) = server.block_on(listener.accept())?;
        socket.set_nodelay(true)?;
        sockets.push(socket);
        watching.push(viewers.spawn(watch_socket(viewer)));
    }
    Ok((Outlet::Sockets(sockets), watching))
}

async fn watch_socket(mut socket: TcpStream) -> Result<Vec<Receipt>> {
    let (mut buffer, mut receipts) = (BytesMut::with_capacity(64 << 10), Vec::new());
    while socket.read_buf(&mut buffer).await? > 0 {
        while let Some(length) = buffer.first_chunk().map(|head| u32::from_be_bytes(*head) as usize)
            && buffer.len() >= 4 + length
        {
            buffer.advance(4);
            receipts.push(Receipt::of(&buffer.split_to(length)));
        }
        buffer.reserve(64 << 10);
    }
    Ok(receipts)
}

/// Subscribes viewers to a live window, each over an endpoint of its own.
fn relay(server: &Runtime, viewers: &Runtime, count: usize) -> Result<(Outlet, Watching)> {
    let live = Arc::new(Live::new());
    let identity = Identity::generate()?;
    let mut config = tls::server_config(&identity, ALPN);
    config.transport_config(Arc::new(transport(Side::Server)));
    let endpoint = server.block_on(async { Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()) })?;
    let address = endpoint.local_addr()?;
    let source = live.clone();
    server.spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(serve(incoming, source.clone()));
        }
    });
    let mut watching = Vec::new();
    for _ in 0..count {
        let mut config = tls::client_config(identity.pin(), ALPN);
        config.transport_config(Arc::new(transport(Side::Client)));
        let joined: Result<_> = viewers.block_on(async {
            let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
            let connection = endpoint.connect_with(config, address, tls::SERVER_NAME)?.await?;
            let mut subscription = subscribe(connection, "live", Proof::None).await?;
            subscription.start(Start::LiveEdge).await?;
            Ok((endpoint, subscription))
        });
        let (endpoint, mut subscription) = joined?;
        watching.push(viewers.spawn(async move {
            let _endpoint = endpoint;
            let mut receipts = Vec::new();
            loop {
                match subscription.next().await? {
                    Event::Unit(arrived) => receipts.push(Receipt::of(&arrived.unit.payload)),
                    // Lost units are missing in the count of received ones.
                    Event::Gap(_) | Event::Timing { .. } | Event::Capacity(_) => {}
                    Event::Ended => return Ok(receipts),
                }
            }
        }));
    }
    Ok((Outlet::Window(live), watching))
}

async fn serve(incoming: quinn::Incoming, source: Arc<Live>) -> Result<()> {
    accept(incoming.await?).await?.serve(Delivery::new(source), None, std::future::pending()).await;
    Ok(())
}

/// A live window that the benchmark writes.
struct Live {
    window: Mutex<LiveWindow>,
    /// Whether it has ended.
    changed: watch::Sender<bool>,
    catalog: Arc<Catalog>,
}

impl Live {
    fn new() -> Self {
        let mut catalog = Catalog::new(Epoch(1));
        let config = |codec, record: &'static [u8], format| CodecConfig { codec, record: record.into(), format };
        let video = config(Codec::H264, &[1, 0x64, 0, 0x28, 0xff, 0xe0, 0], Format::Video { width: 640, height: 360 });
        let sound = config(Codec::Aac, &[0x11, 0x90], Format::Audio { sample_rate: 48_000, channels: 2 });
        catalog.set_track(Track { id: TrackId::VIDEO, config: video });
        catalog.set_track(Track { id: TrackId::AUDIO, config: sound });
        let bounds = Bounds { duration: Duration::from_secs(10), bytes: 64 << 20 };
        Self { window: LiveWindow::new(bounds).into(), changed: watch::Sender::new(false), catalog: catalog.into() }
    }
}

impl StreamSource for Live {
    type Change = bool;

    fn read(&self, cursor: &mut Cursor, max_bytes: usize) -> ReadBatch {
        cursor.read(&self.window.lock(), max_bytes)
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
}

/// Where the publisher writes units.
enum Outlet {
    /// To each socket in turn, with the length first.
    Sockets(Vec<TcpStream>),
    Window(Arc<Live>),
}

/// Publishes for `time`; returns the time of each unit.
async fn publish(mut outlet: Outlet, time: Duration) -> Result<Vec<u64>> {
    let start = Instant::now();
    let (mut pictures, mut sounds, mut published) = (0u32, 0u32, Vec::new());
    let mut order = TrackOrder::default();
    loop {
        let picture_at = Duration::from_secs(1) * pictures / PICTURES_A_SECOND;
        let sound_at = Duration::from_secs(1) * sounds * 1024 / 48_000;
        let at = picture_at.min(sound_at);
        if at > time {
            break;
        }
        tokio::time::sleep_until((start + at).into()).await;
        let is_sound = sound_at < picture_at;
        let is_idr = !is_sound && pictures.is_multiple_of(GOP);
        let (track, size) = match (is_sound, is_idr) {
            (true, _) => (TrackId::AUDIO, SOUND_BYTES),
            (false, true) => (TrackId::VIDEO, IDR_BYTES),
            (false, false) => (TrackId::VIDEO, PICTURE_BYTES),
        };
        *if is_sound { &mut sounds } else { &mut pictures } += 1;
        let now = nanos();
        let mut payload = vec![0xa5; size];
        payload[..8].copy_from_slice(&now.to_be_bytes());
        published.push(now);
        match &mut outlet {
            Outlet::Sockets(sockets) => {
                let frame = [&(size as u32).to_be_bytes()[..], &payload].concat();
                for socket in sockets {
                    socket.write_all(&frame).await?;
                }
            }
            Outlet::Window(live) => {
                let dts = Timestamp::from_millis(at.as_millis() as i64);
                let random_access = is_sound || is_idr;
                let payload = payload.into();
                let unit = AccessUnit { epoch: Epoch(1), track, dts, pts: dts, random_access, payload };
                let predecessor = order.follow(&unit);
                live.window.lock().push(live.catalog.clone(), unit, predecessor);
                live.changed.send_modify(|_| {});
            }
        }
    }
    if let Outlet::Window(live) = outlet {
        live.changed.send_replace(true);
    }
    Ok(published)
}

/// CPU time and wake-ups of this process's threads.
struct Usage {
    /// CPU time in nanoseconds, including the kernel.
    server_cpu: u64,
    cpu: u64,
    /// Voluntary context switches: each ends with a wake-up.
    server_wakes: u64,
}

impl Usage {
    fn now() -> Result<Self> {
        let mut usage = Self { server_cpu: 0, cpu: 0, server_wakes: 0 };
        for task in fs::read_dir("/proc/self/task")? {
            let task = task?.path();
            let file = |name: &str| fs::read_to_string(task.join(name));
            let cpu: u64 = file("schedstat")?.split_whitespace().next().unwrap_or_default().parse()?;
            usage.cpu += cpu;
            if file("comm")?.trim() == SERVER {
                usage.server_cpu += cpu;
                let status = file("status")?;
                let wakes = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
                usage.server_wakes += wakes.unwrap_or_default().trim().parse::<u64>()?;
            }
        }
        Ok(usage)
    }
}

fn runtime(name: &str) -> Result<Runtime> {
    Ok(Builder::new_multi_thread().worker_threads(THREADS).thread_name(name).enable_all().build()?)
}

/// The clock shared by publisher and viewers, in nanoseconds.
fn nanos() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

const SERVER: &str = "server";
/// Threads of each runtime.
const THREADS: usize = 2;
/// The time before measuring: congestion windows open, allocators create their arenas.
const WARM_UP: Duration = Duration::from_millis(500);
/// The time of publishing after the last measured unit, so that every measured unit has successors.
const TAIL: Duration = Duration::from_millis(200);
const PICTURES_A_SECOND: u32 = 30;
/// Video frames from one IDR to the next: two seconds.
const GOP: u32 = 60;
const PICTURE_BYTES: usize = 4000;
const IDR_BYTES: usize = 30_000;
/// Bytes of an audio frame; at 48 kHz there are 47 a second.
const SOUND_BYTES: usize = 350;
