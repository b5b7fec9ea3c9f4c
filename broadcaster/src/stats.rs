//! The counters and gauges of one run: written by every thread, read by [`status`](crate::status).

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use serde::Serialize;

/// The counters of one run. They only rise, except for those marked as gauges.
#[derive(Debug, Default)]
pub struct Stats {
    /// Frames delivered by the source.
    pub captured: Counter,
    /// Frames taken by the encoder.
    pub encoded: Counter,
    /// Frames dropped before encoding, replaced by a newer one because the encoder was late.
    pub frames_dropped: Counter,
    /// Access units added to the window.
    pub units: Counter,
    /// Payload bytes added to the window.
    pub bytes: Counter,
    /// Video access units added to the window.
    pub pictures: Counter,
    /// Access units whose DTS was changed so that it rises strictly.
    pub timestamps_adjusted: Counter,
    /// Access units sent to a server, retransmissions included.
    pub sent: Counter,
    /// Access units that were evicted from the window before they were sent.
    pub units_dropped: Counter,
    /// Access units sent again after an outage.
    pub units_retransmitted: Counter,
    /// Connections that failed or could not be made, each followed by another attempt.
    pub reconnects: Counter,
    /// Failures of capture devices.
    pub device_errors: Counter,
    /// Gauge: access units waiting to be sent.
    pub queued: Counter,
    /// Gauge: bytes sent but not acknowledged by the server's TCP.
    pub unacknowledged: Counter,
    /// Gauge: window position after the last unit written to the connection; 0 without one.
    pub pushed: Counter,
    /// Gauge: LAN viewers.
    pub lan_viewers: Counter,
    /// Bytes sent to LAN viewers.
    pub lan_bytes: Counter,
    /// LAN viewers rejected: not authorised, or over a limit.
    pub lan_viewers_rejected: Counter,
    /// Gauge: round-trip time to the server in microseconds; 0 while unknown.
    pub round_trip: Counter,
    /// Gauge: bits per second that rate control limits the encoder to; 0 at the configured bitrate.
    pub bitrate_target: Counter,
    state: AtomicU8,
}

impl Stats {
    /// The current state of publishing.
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Relaxed) {
            0 => State::Starting,
            1 => State::Connecting,
            2 => State::Live,
            3 => State::Waiting,
            _ => State::Ended,
        }
    }

    /// Sets the state of publishing.
    pub fn set_state(&self, state: State) {
        self.state.store(state as u8, Ordering::Relaxed);
    }
}

/// The state of publishing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Before the first connection attempt.
    Starting = 0,
    /// Connecting and negotiating with the server.
    Connecting = 1,
    /// Connected and publishing.
    Live = 2,
    /// Disconnected; waiting before the next attempt.
    Waiting = 3,
    /// Publishing has ended.
    Ended = 4,
}

impl State {
    /// One word for the status line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Connecting => "connecting",
            Self::Live => "live",
            Self::Waiting => "waiting",
            Self::Ended => "ended",
        }
    }
}

/// A counter or gauge that many threads write, without ordering between different ones.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one to a counter or gauge.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `n` to a counter.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Subtracts one from a gauge.
    pub fn decrement(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sets a gauge to `n`.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The current value.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
