//! Keeps Linux's TCP BBR from pausing a live stream.
//!
//! A BBR connection whose minimum RTT was not updated for ten seconds limits itself to four packets in flight for 200 ms, to measure the path
//! without a queue (ProbeRTT; `tcp_bbr.c`, draft-cardwell-iccrg-bbr-congestion-control-00 §4.3.5). Bulk transfers have idle periods that
//! make this unnecessary; a live stream has none, needs more than four packets per round trip, and stalls each time. But a stream below the
//! capacity of its path makes no queue, so its RTT measurements are right all the time. BBR has no option to disable ProbeRTT, but switching
//! the congestion control away and back restarts it, which keeps the window and resets the age of the minimum RTT.
//!
//! Other congestion controls do not pause, and are left alone.

use std::time::{Duration, Instant};

use socket2::SockRef;

/// Suppresses ProbeRTT on one connection.
#[derive(Clone, Debug)]
pub struct ProbeRttSuppressor {
    /// The name of the congestion control if it is a BBR.
    bbr: Option<Vec<u8>>,
    restarted: Instant,
}

impl ProbeRttSuppressor {
    /// Starts for a new connection; `now` is on the monotonic clock.
    pub fn new(socket: SockRef<'_>, now: Instant) -> Self {
        Self { bbr: congestion(&socket).filter(|name| name.starts_with(b"bbr")), restarted: now }
    }

    /// Whether [`restart`](Self::restart) is due. Poll it at least once a second.
    pub fn is_due(&self, now: Instant) -> bool {
        self.bbr.is_some() && now.saturating_duration_since(self.restarted) >= RESTART_INTERVAL
    }

    /// Restarts BBR. Call it only while the connection accepts all data at once: a saturated link has a queue and needs the measurement.
    pub fn restart(&mut self, socket: SockRef<'_>, now: Instant) {
        self.restarted = now;
        let Some(name) = &self.bbr else { return };
        // Setting the current name again has no effect. Every kernel has Reno, and it is active for less than a packet interval.
        if set_congestion(&socket, b"reno") && !set_congestion(&socket, name) {
            // A route may select a congestion control that cannot be set by name. Stay on Reno, which does not pause.
            self.bbr = None;
        }
    }
}

#[cfg(target_os = "linux")]
fn congestion(socket: &SockRef<'_>) -> Option<Vec<u8>> {
    let name = socket.tcp_congestion().ok()?;
    Some(name.into_iter().take_while(|byte| *byte != 0).collect())
}

#[cfg(target_os = "linux")]
fn set_congestion(socket: &SockRef<'_>, name: &[u8]) -> bool {
    socket.set_tcp_congestion(name).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn congestion(_: &SockRef<'_>) -> Option<Vec<u8>> {
    None
}

#[cfg(not(target_os = "linux"))]
fn set_congestion(_: &SockRef<'_>, _: &[u8]) -> bool {
    false
}

/// Below the minimum RTT age that triggers ProbeRTT: 10 s in BBRv1, 5 s in later versions.
const RESTART_INTERVAL: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_restart_keeps_the_congestion_control() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = || SockRef::from(&client);
        let allowed = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_allowed_congestion_control").unwrap();
        let now = Instant::now();
        for name in allowed.split_whitespace() {
            socket().set_tcp_congestion(name.as_bytes()).unwrap();
            let mut suppressor = ProbeRttSuppressor::new(socket(), now);
            assert!(!suppressor.is_due(now + RESTART_INTERVAL / 2));
            let is_bbr = name.starts_with("bbr");
            assert_eq!(suppressor.is_due(now + RESTART_INTERVAL), is_bbr, "{name}");
            suppressor.restart(socket(), now + RESTART_INTERVAL);
            assert_eq!(congestion(&socket()).unwrap(), name.as_bytes());
            assert_eq!(suppressor.is_due(now + RESTART_INTERVAL * 2), is_bbr, "{name}");
            assert!(!suppressor.is_due(now + RESTART_INTERVAL));
        }
    }
}
