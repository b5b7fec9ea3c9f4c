//! Ping trains: datagrams at a fixed interval from one host to another, directly and via a third host, with the one-way latency of each.
//!
//! All hosts share one clock, so one-way latency can be measured.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::host::Host;

/// One received datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PingArrival {
    /// Whether it belongs to the train via the third host.
    pub(super) relayed: bool,
    /// Send time, microseconds since the Unix epoch.
    pub(super) sent: i64,
    /// Receive time, microseconds since the Unix epoch.
    pub(super) received: i64,
}

/// The running threads of both trains.
#[derive(Debug)]
pub(super) struct PingTrains {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<()>,
    relay: JoinHandle<()>,
    receiver: JoinHandle<Vec<PingArrival>>,
}

impl PingTrains {
    /// Starts sending from `from` to `to` directly, and via `relay`, which forwards immediately.
    pub(super) fn start(from: &Host, relay: &Host, to: &Host) -> Result<PingTrains> {
        let bind = |host: &Host| -> Result<(UdpSocket, SocketAddr)> {
            let address = host.address().context("a host without an address")?;
            let socket = host.run(|| UdpSocket::bind((address, 0)))??;
            socket.set_read_timeout(Some(TICK))?;
            let local = socket.local_addr()?;
            Ok((socket, local))
        };
        let ((out, _), (middle, middle_address), (end, end_address)) = (bind(from)?, bind(relay)?, bind(to)?);
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = || {
            let stop = Arc::clone(&stop);
            move || stop.load(Ordering::Relaxed)
        };
        let is_over = stopping();
        let relay = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while !is_over() {
                if let Ok(length) = middle.recv(&mut buffer) {
                    // A datagram that cannot be sent counts as lost.
                    let _ = middle.send_to(&buffer[..length], end_address);
                }
            }
        });
        let is_over = stopping();
        let receiver = std::thread::spawn(move || {
            let (mut buffer, mut arrivals) = ([0; 64], Vec::new());
            while !is_over() {
                let Ok(length) = end.recv(&mut buffer) else { continue };
                let (received, Ok(said)) = (now(), <[u8; 9]>::try_from(&buffer[..length.min(9)])) else { continue };
                let sent = i64::from_be_bytes(said[1..].try_into().expect("eight of nine bytes"));
                arrivals.push(PingArrival { relayed: said[0] == 1, sent, received });
            }
            arrivals
        });
        let is_over = stopping();
        let sender = std::thread::spawn(move || {
            let mut due = Instant::now();
            while !is_over() {
                for (relayed, address) in [(0u8, end_address), (1, middle_address)] {
                    let mut datagram = [0; SIZE];
                    datagram[0] = relayed;
                    datagram[1..9].copy_from_slice(&now().to_be_bytes());
                    let _ = out.send_to(&datagram, address);
                    due += PING_INTERVAL / 2;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
            }
        });
        Ok(PingTrains { stop, sender, relay, receiver })
    }

    /// Stops the threads and returns the received datagrams.
    pub(super) fn finish(self) -> Result<Vec<PingArrival>> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = [self.sender.join().is_ok(), self.relay.join().is_ok()];
        let arrivals = self.receiver.join().ok().filter(|_| ended == [true, true]);
        arrivals.context("a thread of the ping trains panicked")
    }
}

/// The current time, microseconds since the Unix epoch.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// The median round-trip time of `count` sequential pings between two idle hosts.
pub(super) fn round_trip(from: &Host, to: &Host, count: usize) -> Result<Duration> {
    let bind = |host: &Host| -> Result<UdpSocket> {
        let socket = host.run(|| UdpSocket::bind((host.address().unwrap_or(Ipv4Addr::UNSPECIFIED), 0)))??;
        socket.set_read_timeout(Some(TIMEOUT))?;
        Ok(socket)
    };
    let (near, far) = (bind(from)?, bind(to)?);
    let address = far.local_addr()?;
    let mut times = Vec::new();
    for n in 0..count {
        let sent = Instant::now();
        near.send_to(&[n as u8; 56], address)?;
        let mut buffer = [0; 64];
        let (length, back) = far.recv_from(&mut buffer).context("a ping did not arrive")?;
        far.send_to(&buffer[..length], back)?;
        near.recv(&mut buffer).context("a ping did not come back")?;
        times.push(sent.elapsed());
    }
    times.sort();
    times.get(times.len() / 2).copied().context("no pings")
}

/// Payload bytes of a datagram, as of `ping`.
const SIZE: usize = 56;
/// Interval between two datagrams of one train.
const PING_INTERVAL: Duration = Duration::from_millis(100);
/// Interval at which threads check for the stop flag.
const TICK: Duration = Duration::from_millis(50);
/// Timeout of one ping, longer than any round trip here.
const TIMEOUT: Duration = Duration::from_secs(2);
