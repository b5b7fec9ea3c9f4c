//! What the broadcaster counts: written by every thread, read by [`status`](crate::status).

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use serde::Serialize;

/// The counters of one run. All only rise, but for the gauges that say so.
#[derive(Debug, Default)]
pub struct Stats {
    /// Pictures that the source delivered.
    pub captured: Counter,
    /// Pictures that the encoder took.
    pub encoded: Counter,
    /// Pictures that a newer one replaced while encoding was late.
    pub frames_dropped: Counter,
    /// Access units that entered the window.
    pub units: Counter,
    /// Their payload bytes.
    pub bytes: Counter,
    /// Video access units among them.
    pub pictures: Counter,
    /// Access units whose DTS had to be moved to rise strictly.
    pub timestamps_adjusted: Counter,
    /// Access units written to a server, repeats after an outage included.
    pub sent: Counter,
    /// Access units that no server ever got, because the window had moved on.
    pub units_dropped: Counter,
    /// Access units that a server got a second time after an outage.
    pub units_retransmitted: Counter,
    /// Connections lost.
    pub reconnects: Counter,
    /// Times that a device failed.
    pub device_errors: Counter,
    /// Gauge: access units that wait to be sent.
    pub queued: Counter,
    /// Gauge: bytes that the server has not acknowledged.
    pub unacknowledged: Counter,
    /// Gauge: position after the last unit that the server's connection took; 0 while there is none.
    pub pushed: Counter,
    /// Gauge: viewers on this network.
    pub lan_viewers: Counter,
    /// Bytes that went to them.
    pub lan_bytes: Counter,
    /// Those who were not let in, or for whom there was no room.
    pub lan_viewers_rejected: Counter,
    /// Gauge: round trip in microseconds; 0 while unknown.
    pub round_trip: Counter,
    /// Gauge: bits per second that the encoder is held to; 0 while that is what it was opened for.
    pub bitrate_target: Counter,
    state: AtomicU8,
}

impl Stats {
    /// Where publishing stands.
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Relaxed) {
            0 => State::Starting,
            1 => State::Connecting,
            2 => State::Live,
            3 => State::Waiting,
            _ => State::Ended,
        }
    }

    /// Says where publishing stands.
    pub fn set_state(&self, state: State) {
        self.state.store(state as u8, Ordering::Relaxed);
    }
}

/// Where publishing stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// No connection was tried yet.
    Starting = 0,
    /// A connection is being made.
    Connecting = 1,
    /// The server takes what is sent.
    Live = 2,
    /// The server is away; the next try waits.
    Waiting = 3,
    /// It is over.
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

/// A number that many threads write.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Takes one off a gauge.
    pub fn decrement(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sets a gauge.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Reads it.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
