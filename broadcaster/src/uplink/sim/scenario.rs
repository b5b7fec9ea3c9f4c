//! What is simulated, and what comes of it.

use super::Millis;

/// What changes with time.
pub(super) type Schedule<T> = Box<dyn Fn(Millis) -> T>;

/// One run.
pub(super) struct Scenario {
    /// Capacity in bits per second.
    pub(super) link: Schedule<f64>,
    /// The queue before the link, in bytes.
    pub(super) queue: usize,
    /// The RTT without queues.
    pub(super) base: Schedule<Millis>,
    /// The queue on the way back from the server.
    pub(super) return_queue: Schedule<Millis>,
    /// Whether the server stamps arrivals.
    pub(super) has_stamps: bool,
    /// The part of the packets that is lost at random.
    pub(super) loss: f64,
    pub(super) seed: u64,
    /// The configured bitrate of an encoder under rate control; without one the stream is 500 kbit/s times `scale`.
    pub(super) ceiling: Option<f64>,
    pub(super) scale: f64,
    pub(super) viewers: usize,
    /// When the n-th viewer joins, and when it leaves.
    pub(super) joins: fn(usize) -> Millis,
    pub(super) leaves: fn(usize) -> Millis,
    /// Whether the viewers are behind the link.
    pub(super) is_shared: bool,
    /// Whether viewers have priority by the order in which they joined.
    pub(super) is_ranked: bool,
    /// Whether a TCP download of somebody else uses the link.
    pub(super) download: Schedule<bool>,
    pub(super) until: Millis,
    /// From here on bytes are counted.
    pub(super) settled: Millis,
}

impl Default for Scenario {
    /// A link that carries slightly more than three copies of the stream, and no viewers.
    fn default() -> Self {
        Self {
            link: Box::new(|_| 2_100_000.0),
            queue: 128 << 10,
            base: Box::new(|_| 40),
            return_queue: Box::new(|_| 0),
            has_stamps: false,
            loss: 0.0,
            seed: 1,
            ceiling: None,
            scale: 1.0,
            viewers: 0,
            joins: |n| 5000 + n as u64 * 3000,
            leaves: |_| Millis::MAX,
            is_shared: true,
            is_ranked: false,
            download: Box::new(|_| false),
            until: 60_000,
            settled: 20_000,
        }
    }
}

/// What came of it.
#[derive(Default)]
pub(super) struct Outcome {
    /// Every 100 ms: the encoder's target in bits per second, and how long the oldest byte of the push has waited.
    pub(super) targets: Vec<f64>,
    pub(super) waits: Vec<Millis>,
    /// Queueing delays of the pings, from `settled` on.
    pub(super) pings: Vec<Millis>,
    /// Bytes and IDRs that each viewer received, from `settled` on.
    pub(super) got: Vec<usize>,
    pub(super) idrs: Vec<usize>,
    /// Bytes and IDRs of the stream, from `settled` on.
    pub(super) made: usize,
    pub(super) made_idrs: usize,
    /// Bytes of the push that were delivered every 100 ms.
    pub(super) delivered: Vec<usize>,
    /// Bytes of capacity that the push left, from `settled` on.
    pub(super) left: f64,
    /// Whether there is no shared bottleneck at the end.
    pub(super) is_free: bool,
    /// When each viewer's frames were complete.
    pub(super) shown: Vec<Vec<Millis>>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Unit {
    pub(super) at: Millis,
    pub(super) bytes: usize,
    pub(super) is_audio: bool,
    pub(super) is_idr: bool,
}

/// 500 kbit/s of video times `video`, an IDR every two seconds, and 128 kbit/s of audio times `audio`.
pub(super) fn units(now: Millis, video: f64, audio: f64, idr: f64) -> Vec<Unit> {
    let begins = |rate: u64| now == 0 || now * rate / 1000 != (now - 1) * rate / 1000;
    let mut units = Vec::new();
    if begins(30) {
        let is_idr = (now * 30 / 1000).is_multiple_of(60);
        let mean = 500_000.0 / 8.0 / 30.0 * video;
        let bytes = (if is_idr { mean * idr } else { mean * (60.0 - idr) / 59.0 }) as usize;
        units.push(Unit { at: now, bytes, is_audio: false, is_idr });
    }
    if begins(47) {
        units.push(Unit { at: now, bytes: (340.0 * audio) as usize, is_audio: true, is_idr: false });
    }
    units
}
