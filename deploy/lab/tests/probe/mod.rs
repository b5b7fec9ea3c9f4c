//! Helpers of the tests in this folder: sockets, an echo server, and round-trip times between two hosts.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lab::{Host, Network};

/// A duration in milliseconds.
pub fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A UDP socket of the host on its own address; reads wait at most `TIMEOUT`.
pub fn socket(host: &Host, port: u16) -> UdpSocket {
    let address = host.address().unwrap();
    let socket = host.run(|| UdpSocket::bind((address, port)).unwrap()).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    socket
}

/// Sends every datagram back until dropped.
pub struct Echo {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    pub fn start(host: &Host) -> Echo {
        let socket = socket(host, 0);
        socket.set_read_timeout(Some(ms(50))).unwrap();
        let (address, stop) = (socket.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        });
        Echo { address, stop, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// One exchange with the echo server; `None` without a reply within the socket's read timeout.
pub fn ping(socket: &UdpSocket, echo: SocketAddr, number: u32) -> Option<Duration> {
    let start = Instant::now();
    // Without carrier the send may fail, which counts as no reply.
    socket.send_to(&number.to_be_bytes(), echo).ok()?;
    let mut answer = [0; 4];
    loop {
        socket.recv(&mut answer).ok()?;
        if answer == number.to_be_bytes() {
            return Some(start.elapsed());
        }
    }
}

/// The median round-trip time of `count` exchanges, after one that resolves the addresses.
pub fn median_rtt(from: &Host, to: &Host, count: u32) -> Duration {
    let echo = Echo::start(to);
    let socket = socket(from, 0);
    ping(&socket, echo.address, 0).expect("the first exchange");
    let mut times: Vec<_> = (1..=count).map(|i| ping(&socket, echo.address, i).expect("an answer")).collect();
    times.sort();
    times[times.len() / 2]
}

/// Measures until a measurement is at most `longest`, at most [`ATTEMPTS`] times. None may be less than `least`: nothing is faster than the link.
/// If none succeeds, the emulator's own record decides: where the frames of `network` were late, the machine is too busy to measure.
pub fn settles(
    network: &Network,
    what: &str,
    least: Duration,
    longest: Duration,
    mut measure: impl FnMut() -> Duration,
) {
    let before = network.lateness();
    let mut shortest = Duration::MAX;
    for _ in 0..ATTEMPTS {
        let measured = measure();
        eprintln!("{what}: {measured:?}, between {least:?} and {longest:?}");
        assert!(measured >= least, "{what}: {measured:?}, and it takes at least {least:?}");
        if measured <= longest {
            return;
        }
        shortest = shortest.min(measured);
    }
    let lateness = network.lateness().since(&before);
    assert!(lateness.is_invalid(), "{what}: {shortest:?} at best, and it takes at most {longest:?}; {lateness}");
    eprintln!("skipped: {what}: the machine is too busy: {lateness}");
}

/// Measurements of which one must succeed: each is a median or a sum, so that a single delayed frame does not spoil it.
const ATTEMPTS: usize = 40;

/// Timeout of a receive: far above any delay here, even on a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(60);
