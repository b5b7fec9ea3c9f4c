//! Pacing: token buckets for what viewers are sent, and the rate of a pushed IDR. Pure: the caller passes the time.
//!
//! The push is not limited here: it has strict priority, so that its IDRs meet no queue of the viewers' making. Viewers get what it leaves
//! of the link's capacity, divided by [`allocate`](super::allocate::allocate).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use net::relay::Grant;

use super::allocate::{Demand, allocate};
use super::units::{Bytes, Rate};

/// The buckets of all viewers behind a shared bottleneck.
#[derive(Debug)]
pub(super) struct ViewerPacer {
    viewers: BTreeMap<u64, Bucket>,
    /// Unallocated bytes; negative while the push has used more than the capacity.
    unallocated: Bytes,
    refilled: Instant,
}

#[derive(Debug, Default)]
struct Bucket {
    /// Bytes that may be sent now; negative after sending in advance.
    tokens: Bytes,
    /// When it last had fewer than were wanted.
    starved: Option<Instant>,
    /// The least comes first; equal ones share.
    priority: u64,
}

/// What a viewer wants to send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// The viewer's number.
    pub(super) id: u64,
    /// In bytes.
    pub(super) bytes: usize,
    /// A unit that must not be split may be sent slightly in advance.
    pub(super) whole: bool,
}

impl ViewerPacer {
    pub(super) fn new(now: Instant) -> Self {
        Self { viewers: BTreeMap::new(), unallocated: Bytes::ZERO, refilled: now }
    }

    pub(super) fn add_viewer(&mut self, id: u64) {
        self.viewers.insert(id, Bucket::default());
    }

    pub(super) fn remove_viewer(&mut self, id: u64) {
        self.viewers.remove(&id);
    }

    /// Sets the viewers' priorities, the least first; `None` is an even share.
    pub(super) fn set_priorities(&mut self, priorities: impl Iterator<Item = (u64, Option<u64>)>) {
        for (id, priority) in priorities {
            if let Some(viewer) = self.viewers.get_mut(&id) {
                viewer.priority = priority.unwrap_or(u64::MAX);
            }
        }
    }

    /// A viewer waits because of another limit than the capacity.
    pub(super) fn on_starved(&mut self, id: u64, now: Instant) {
        if let Some(viewer) = self.viewers.get_mut(&id) {
            viewer.starved = Some(now);
        }
    }

    /// Whether a viewer recently waited for its share: then its own link is not the cause of drops.
    pub(super) fn is_starved(&self, id: u64, now: Instant) -> bool {
        let starved = self.viewers.get(&id).and_then(|viewer| viewer.starved);
        starved.is_some_and(|at| now.saturating_duration_since(at) < RECENT)
    }

    /// The push has sent so much, which viewers do not get.
    pub(super) fn on_pushed(&mut self, bytes: Bytes) {
        self.unallocated -= bytes;
    }

    /// Refills the buckets of the viewers `sharing` a link of `capacity`, minus what the push has used; `None` without a shared bottleneck.
    pub(super) fn refill(&mut self, capacity: Option<Rate>, sharing: &[u64], now: Instant) {
        let passed = now.saturating_duration_since(std::mem::replace(&mut self.refilled, now));
        let Some(capacity) = capacity else {
            self.unallocated = Bytes::ZERO;
            return;
        };
        let burst = (capacity * BURST * (1.0 / sharing.len().max(1) as f64)).max(PIECE * 3.0);
        self.unallocated = (self.unallocated + capacity * passed).max(Bytes::ZERO - capacity * MAX_DEBT);
        if self.unallocated <= Bytes::ZERO {
            return;
        }
        let mut buckets: Vec<&mut Bucket> =
            self.viewers.iter_mut().filter(|(id, _)| sharing.contains(id)).map(|(_, bucket)| bucket).collect();
        let demands: Vec<Demand> =
            buckets.iter().map(|bucket| Demand { priority: bucket.priority, wanted: burst - bucket.tokens }).collect();
        for (bucket, part) in buckets.iter_mut().zip(allocate(self.unallocated, &demands)) {
            bucket.tokens += part;
        }
        self.unallocated = Bytes::ZERO;
    }

    /// Requests to send; `part` is the viewer's share at present, by which the wait is estimated. Call [`refill`](Self::refill) before.
    pub(super) fn acquire(&mut self, wanted: Wanted, part: Rate, now: Instant) -> Grant {
        let Some(viewer) = self.viewers.get_mut(&wanted.id) else { return Grant::Bytes(wanted.bytes) };
        let bytes = Bytes::from(wanted.bytes);
        let needed = if wanted.whole { Bytes::ZERO - part * ADVANCE } else { PIECE.min(bytes) };
        if viewer.tokens < needed {
            viewer.starved = Some(now);
            return Grant::RetryAfter(((needed - viewer.tokens) / part).clamp(MIN_WAIT, MAX_WAIT));
        }
        let granted = if wanted.whole { wanted.bytes } else { wanted.bytes.min(viewer.tokens.whole()) };
        viewer.tokens -= Bytes::from(granted);
        Grant::Bytes(granted)
    }
}

/// A token bucket for the configured bitrate of all viewers together.
#[derive(Debug)]
pub(super) struct TokenBucket {
    rate: Rate,
    /// Bytes that may be sent now; negative after sending in advance.
    tokens: Bytes,
    refilled: Instant,
}

impl TokenBucket {
    /// `rate` holds on average over any time longer than [`LIMIT_BURST`].
    pub(super) fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, tokens: rate * LIMIT_BURST, refilled: now }
    }

    /// Bytes that could be sent now. `whole`: the unit must not be split.
    pub(super) fn available(&mut self, wanted: usize, whole: bool, now: Instant) -> Grant {
        let passed = now.saturating_duration_since(std::mem::replace(&mut self.refilled, now));
        let burst = self.rate * LIMIT_BURST;
        self.tokens = (self.tokens + self.rate * passed).min(burst);
        let needed = if whole { Bytes::ZERO } else { PIECE.min(Bytes::from(wanted)).min(burst) };
        if self.tokens < needed {
            return Grant::RetryAfter(((needed - self.tokens) / self.rate).clamp(MIN_WAIT, LIMIT_MAX_WAIT));
        }
        Grant::Bytes(if whole { wanted } else { wanted.min(self.tokens.whole()).max(1) })
    }

    /// Accounts what was sent.
    pub(super) fn on_sent(&mut self, bytes: usize) {
        self.tokens -= Bytes::from(bytes);
    }
}

/// The rate at which a pushed IDR of `bytes` is paced where a viewer shares the link and a frame takes `interval`: over one and a half
/// frames, during which the link sends the viewer's copy first. Two copies at once would occupy a slow link for longer than a frame, so
/// that the viewer's copy of the next frame would queue behind the push's IDR.
pub fn idr_rate(bytes: usize, interval: Duration) -> Rate {
    let time = interval.mul_f64(IDR_FRAMES).min(IDR_MAX_TIME);
    (Bytes::from(bytes) / time).max(IDR_MIN_RATE)
}

/// How long a bucket's shortage counts as recent.
const RECENT: Duration = Duration::from_millis(1000);
/// Burst after a pause: short, since it delays the push.
const BURST: Duration = Duration::from_millis(100);
/// Bounds what viewers repay for the push's use: retransmission after an outage does not silence them for as long.
const MAX_DEBT: Duration = Duration::from_millis(1000);
/// Minimum grant in bytes: about one datagram.
const PIECE: Bytes = Bytes::new(1200.0);
/// How far in advance audio may be sent.
const ADVANCE: Duration = Duration::from_millis(500);
/// Bounds one wait: the estimate may increase meanwhile.
const MAX_WAIT: Duration = Duration::from_millis(200);
/// Minimum wait: a timer's resolution.
const MIN_WAIT: Duration = Duration::from_millis(1);
/// Burst at the configured bitrate: an IDR may be sent at once.
const LIMIT_BURST: Duration = Duration::from_millis(500);
/// Bounds one wait for the configured bitrate.
const LIMIT_MAX_WAIT: Duration = Duration::from_millis(500);
/// Frame intervals that an IDR is paced over.
const IDR_FRAMES: f64 = 1.5;
/// Upper bound of the time that an IDR is paced over.
const IDR_MAX_TIME: Duration = Duration::from_millis(60);
/// Minimum pacing rate of an IDR.
const IDR_MIN_RATE: Rate = Rate::bits_per_second(80_000.0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configured_bitrate_holds_on_average() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(Rate::bits_per_second(800_000.0), start);
        let mut take = |wanted, whole, millis| {
            let grant = bucket.available(wanted, whole, start + Duration::from_millis(millis));
            if let Grant::Bytes(bytes) = grant {
                bucket.on_sent(bytes);
            }
            grant
        };
        assert_eq!(take(60_000, false, 0), Grant::Bytes(50_000));
        assert_eq!(take(10_000, false, 0), Grant::RetryAfter(Duration::from_millis(12)));
        assert_eq!(take(10_000, false, 12), Grant::Bytes(1200));
        // Audio is not split; what follows waits for it.
        assert_eq!(take(10_000, true, 12), Grant::Bytes(10_000));
        assert_eq!(take(300, true, 12), Grant::RetryAfter(Duration::from_millis(100)));
        // A long pause accumulates no more than one burst.
        assert_eq!(take(60_000, false, 60_000), Grant::Bytes(50_000));
    }

    #[test]
    fn an_idr_is_paced_over_one_and_a_half_frames() {
        let rate = |bytes, millis| (idr_rate(bytes, Duration::from_millis(millis)).as_bits_per_second() / 8.0) as u32;
        assert_eq!(rate(10_000, 33), 202_020);
        assert_eq!(rate(10_000, 16), 416_666);
        assert_eq!(rate(6_000, 1000), 100_000, "bounded for low frame rates");
        assert_eq!(rate(10, 33), 10_000);
    }
}
