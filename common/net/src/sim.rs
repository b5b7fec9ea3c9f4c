//! A simulated network for tests over QUIC: quinn's endpoints over in-memory links, in virtual time.
//!
//! A test runs on one thread under Tokio's paused clock, which jumps to the next timer when every task waits. quinn reads that clock too,
//! so both ends, their timers and the links share it, and an hour of streaming takes as long as its computation. A [`Link`] has a rate, a
//! delay, a queue, jitter and losses; what is random about it comes from a seed, which a failing test prints. Time has a resolution of 1 ms,
//! which is Tokio's.
//!
//! The seed determines the link, not the whole run: the keys of TLS are random, and quinn's receive loop yields by the time that it has
//! really taken, so that tasks which are ready in the same millisecond may run in another order.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, ServerConfig, UdpPoller};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

/// One direction of a path between two endpoints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// Bytes per second; `None` for no limit.
    pub(crate) rate: Option<f64>,
    /// The propagation delay of each packet.
    pub(crate) delay: Duration,
    /// The queue before the link in bytes; packets that exceed it are lost.
    pub(crate) queue: f64,
    /// The largest additional delay of a packet, evenly distributed; packets stay in order.
    pub(crate) jitter: Duration,
    /// The share of packets that are lost by chance.
    pub(crate) loss: f64,
    /// The share of packets of which one bit is flipped.
    pub(crate) corruption: f64,
}

impl Default for Link {
    /// A LAN: 1 ms, no limit, no loss.
    fn default() -> Self {
        let delay = Duration::from_millis(1);
        Self { rate: None, delay, queue: 1e6, jitter: Duration::ZERO, loss: 0.0, corruption: 0.0 }
    }
}

/// Counts of the packets of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    pub(crate) corrupted: u64,
}

/// The network of one test run.
#[derive(Clone)]
pub(crate) struct Network(Arc<Mutex<State>>);

struct State {
    random: StdRng,
    /// From the first endpoint, the server, to the others, and from the others to it.
    links: [Link; 2],
    counts: [Counts; 2],
    lines: HashMap<(SocketAddr, SocketAddr), Line>,
    inboxes: Vec<Inbox>,
    packets: u64,
}

/// The state of a link between two sockets.
#[derive(Clone, Copy)]
struct Line {
    /// When the link has sent its whole queue.
    free: Instant,
    /// The arrival of the last packet.
    last: Instant,
}

/// The packets on their way to one socket, by arrival and number.
#[derive(Default)]
struct Inbox {
    packets: BTreeMap<(Instant, u64), (SocketAddr, Vec<u8>)>,
    waker: Option<Waker>,
}

/// Runs `test` under virtual time for each of [`SEEDS`], or for the seed in `NEARCAST_SIM_SEED` alone.
pub(crate) fn simulate<F: Future<Output = ()>>(test: impl Fn(Network) -> F) {
    let chosen = std::env::var("NEARCAST_SIM_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = chosen.map_or(SEEDS.to_vec(), |seed| vec![seed]);
    for seed in seeds {
        let _printed = PrintSeed(seed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        // A test that waits forever would keep virtual time running.
        let test = async { timeout(LONGEST, test(Network::new(seed))).await.expect("the test ends") };
        runtime.block_on(test);
    }
}

/// Prints the seed of a run that fails.
struct PrintSeed(u64);

impl Drop for PrintSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the failing run had seed {0}: repeat it with NEARCAST_SIM_SEED={0}", self.0);
        }
    }
}

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            random: StdRng::seed_from_u64(seed),
            links: [Link::default(); 2],
            counts: [Counts::default(); 2],
            lines: HashMap::new(),
            inboxes: Vec::new(),
            packets: 0,
        })))
    }

    /// Changes the links from the server and to the server, for packets that are sent from now on.
    pub(crate) fn set_links(&self, from_server: Link, to_server: Link) {
        self.0.lock().links = [from_server, to_server];
    }

    /// The packets from the server, and to the server, so far.
    pub(crate) fn counts(&self) -> [Counts; 2] {
        self.0.lock().counts
    }

    /// The address of the first endpoint.
    pub(crate) fn server(&self) -> SocketAddr {
        address(0)
    }

    /// A new endpoint with an address of its own. The first one is the server's.
    pub(crate) fn endpoint(&self, server: Option<ServerConfig>) -> Endpoint {
        let (index, seed) = {
            let mut state = self.0.lock();
            state.inboxes.push(Inbox::default());
            (state.inboxes.len() - 1, state.random.random())
        };
        let mut config = EndpointConfig::default();
        config.rng_seed(Some(seed));
        let socket = Socket { address: address(index), index, network: self.0.clone(), timer: Mutex::new(None) };
        let runtime = Arc::new(quinn::TokioRuntime);
        Endpoint::new_with_abstract_socket(config, server, Arc::new(socket), runtime).unwrap()
    }
}

impl State {
    fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let Some(index) = index(to).filter(|index| *index < self.inboxes.len()) else { return };
        let direction = usize::from(from != address(0));
        let (link, now) = (self.links[direction], Instant::now());
        let line = self.lines.entry((from, to)).or_insert(Line { free: now, last: now });
        let counts = &mut self.counts[direction];
        counts.sent += 1;
        // Drawn in any case, so that a change of one probability leaves the other draws as they were.
        let [loss, corruption, jitter, bit] = std::array::from_fn(|_| self.random.random::<f64>());
        let start = line.free.max(now);
        let waiting = link.rate.map_or(0.0, |rate| (start - now).as_secs_f64() * rate);
        if loss < link.loss || waiting > link.queue {
            counts.lost += 1;
            return;
        }
        line.free = start + link.rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(bytes.len() as f64 / rate));
        let arrival = (line.free + link.delay + link.jitter.mul_f64(jitter)).max(line.last);
        line.last = arrival;
        let mut bytes = bytes.to_vec();
        if corruption < link.corruption {
            counts.corrupted += 1;
            let bit = (bit * (bytes.len() * 8) as f64) as usize;
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        self.packets += 1;
        let inbox = &mut self.inboxes[index];
        inbox.packets.insert((arrival, self.packets), (from, bytes));
        if let Some(waker) = inbox.waker.take() {
            waker.wake();
        }
    }
}

/// An endpoint's socket.
struct Socket {
    address: SocketAddr,
    index: usize,
    network: Arc<Mutex<State>>,
    /// Fires when the next packet arrives.
    timer: Mutex<Option<Pin<Box<Sleep>>>>,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").field("address", &self.address).finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.network.lock().send(self.address, transmit.destination, transmit.contents);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut network = self.network.lock();
        let inbox = &mut network.inboxes[self.index];
        loop {
            let mut received = 0;
            for (buffer, meta) in buffers.iter_mut().zip(metas.iter_mut()) {
                let Some(entry) = inbox.packets.first_entry().filter(|entry| entry.key().0 <= Instant::now()) else {
                    break;
                };
                let (from, bytes) = entry.remove();
                buffer[..bytes.len()].copy_from_slice(&bytes);
                *meta = RecvMeta { addr: from, len: bytes.len(), stride: bytes.len(), ecn: None, dst_ip: None };
                received += 1;
            }
            if received > 0 {
                return Poll::Ready(Ok(received));
            }
            inbox.waker = Some(cx.waker().clone());
            let Some((arrival, _)) = inbox.packets.keys().next().copied() else { return Poll::Pending };
            let mut timer = self.timer.lock();
            let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(arrival)));
            timer.as_mut().reset(arrival);
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn address(index: usize) -> SocketAddr {
    (Ipv4Addr::new(10, 0, 0, 1 + index as u8), PORT).into()
}

fn index(address: SocketAddr) -> Option<usize> {
    match address {
        SocketAddr::V4(v4) => usize::from(v4.ip().octets()[3]).checked_sub(1),
        SocketAddr::V6(_) => None,
    }
}

/// The relay's usual port.
const PORT: u16 = 4443;
/// Bounds a run, in virtual time.
const LONGEST: Duration = Duration::from_secs(3600);
/// Every test runs with each of these seeds; `NEARCAST_SIM_SEED` selects others.
const SEEDS: [u64; 3] = [1, 2, 3];

#[cfg(test)]
mod tests {
    use super::*;

    /// The arrivals of a thousand packets of 1200 bytes that are sent at once, in milliseconds.
    fn arrivals(seed: u64) -> Vec<u128> {
        let network = Network::new(seed);
        let link =
            Link { rate: Some(1e6), queue: 2e6, loss: 0.1, jitter: Duration::from_millis(20), ..Link::default() };
        network.set_links(link, link);
        let mut state = network.0.lock();
        state.inboxes.push(Inbox::default());
        state.inboxes.push(Inbox::default());
        for _ in 0..1000 {
            state.send(address(0), address(1), &[0; 1200]);
        }
        let now = Instant::now();
        state.inboxes[1].packets.keys().map(|(at, _)| (*at - now).as_millis()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_seed_determines_losses_and_delays() {
        let first = arrivals(1);
        assert_eq!(first, arrivals(1));
        assert_ne!(first, arrivals(2));
        assert!((800..950).contains(&first.len()), "{} of 1000 packets arrived", first.len());
    }
}
