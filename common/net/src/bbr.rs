//! TCP under live media: Linux's BBR without its pauses.
//!
//! A BBR that has met no shorter round trip for ten seconds holds the connection to four packets under way for 200 ms, to see what the
//! path is like without a queue (ProbeRTT; `tcp_bbr.c`, draft-cardwell-iccrg-bbr-congestion-control-00 §4.3.5). A transfer has pauses in
//! which it sees that for nothing; a live stream has none, needs more than four packets a round trip, and falls behind each time. But a stream
//! that takes less than the path has makes no queue, so there is nothing to look for: what BBR measures all the while is right. It can not
//! be told so, but it can be begun anew, which keeps the window and forgets how old the measure is.
//!
//! Other congestion controls have no such pause, and nothing is done to them.

use std::time::{Duration, Instant};

use socket2::SockRef;

/// Keeps one connection's BBR from pausing.
#[derive(Clone, Debug)]
pub struct ProbeRttSuppressor {
    /// The connection's congestion control, a BBR; `None` for any other.
    bbr: Option<Vec<u8>>,
    restarted: Instant,
}

impl ProbeRttSuppressor {
    /// For a connection that was just made.
    pub fn new(socket: SockRef<'_>, now: Instant) -> Self {
        Self { bbr: congestion(&socket).filter(|name| name.starts_with(b"bbr")), restarted: now }
    }

    /// Whether it is time. To be asked at least once a second.
    pub fn is_due(&self, now: Instant) -> bool {
        self.bbr.is_some() && now.saturating_duration_since(self.restarted) >= RESTART_INTERVAL
    }

    /// Begins anew. To be done only while the connection takes all that is written to it: where the link is full, there is a queue
    /// to be seen through, and the pause is right.
    pub fn restart(&mut self, socket: SockRef<'_>, now: Instant) {
        self.restarted = now;
        let Some(name) = &self.bbr else { return };
        // The same name again would change nothing. Reno is in every kernel, and has hardly a packet's time.
        if set_congestion(&socket, b"reno") && !set_congestion(&socket, name) {
            // A route's own setting, which may not be chosen: what it has now has no pauses.
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

/// Well before the ten seconds, and before the five of later versions.
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
