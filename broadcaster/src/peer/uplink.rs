//! Caps what is sent to all LAN viewers together: to the configured bitrate, and on a shared bottleneck to what the push leaves
//! ([`BandwidthAllocator`](super::bandwidth_allocator::BandwidthAllocator)). Viewers beyond the capacity are redirected to the CDN
//! ([`AdmissionControl`](super::admission::AdmissionControl)).

use std::time::{Duration, Instant};

use net::relay::Grant;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::admission::AdmissionControl;
use super::bandwidth_allocator::BandwidthAllocator;

/// The limits on all viewers together.
#[derive(Debug)]
pub(super) struct Uplink(Mutex<State>);

#[derive(Debug)]
struct State {
    user: Option<TokenBucket>,
    share: BandwidthAllocator,
    places: AdmissionControl,
    /// The next viewer's number.
    next: u64,
}

/// A token bucket for the configured bitrate.
#[derive(Debug)]
struct TokenBucket {
    /// Bytes per second.
    rate: f64,
    /// Bytes that may be sent now; negative after sending in advance.
    tokens: f64,
    filled: Instant,
}

impl Uplink {
    /// `limit`: bits per second to all viewers, averaged over any time longer than [`BURST`]; `None` for no limit.
    pub(super) fn new(limit: Option<u64>) -> Self {
        let now = Instant::now();
        let user = limit.map(|bits| TokenBucket::new(bits as f64 / 8.0, now));
        Self(Mutex::new(State { user, share: BandwidthAllocator::new(now), places: AdmissionControl::new(), next: 0 }))
    }

    /// Adds a viewer. Returns its number, and whether it is admitted.
    pub(super) fn join(&self) -> (u64, watch::Receiver<bool>) {
        let mut limits = self.0.lock();
        let id = limits.next;
        limits.next += 1;
        (id, limits.places.join(id))
    }

    /// Removes a viewer.
    pub(super) fn leave(&self, id: u64) {
        self.place(|limits| {
            limits.share.leave(id);
            limits.places.leave(id, Instant::now());
        });
    }

    /// A viewer's subscription became active or idle.
    pub(super) fn flows(&self, id: u64, flows: bool) {
        self.place(|limits| {
            if flows {
                limits.share.join(id)
            } else {
                limits.share.leave(id)
            }
            limits.places.flows(id, flows, Instant::now());
        });
    }

    /// Units were dropped for a viewer.
    pub(super) fn left_out(&self, id: u64) {
        self.place(|limits| {
            let now = Instant::now();
            // A viewer whose own link is too slow is no reason to redirect another.
            if limits.share.is_short(id, now) && !limits.share.is_guess(now) {
                limits.places.left_out(limits.share.fits(), now);
            }
        });
    }

    fn place(&self, change: impl FnOnce(&mut State)) {
        let limits = &mut *self.0.lock();
        change(limits);
        limits.share.rank(limits.places.ranks(), limits.places.are_wanted());
    }

    /// Accounts bytes pushed to the CDN.
    pub(super) fn pushed(&self, bytes: usize) {
        self.0.lock().share.pushed(bytes);
    }

    /// Feeds the push's queueing delay, `None` while disconnected, and its base RTT.
    pub(super) fn push_waits(&self, wait: Option<Duration>, way: Duration) {
        let now = Instant::now();
        self.place(|limits| {
            limits.share.push_waits(wait, way, now);
            limits.places.look(wait.is_some(), limits.share.fits(), now);
        });
    }

    /// Estimated capacity in bits per second of the link shared with the push; `None` if viewers share none.
    pub(super) fn takes(&self) -> Option<u64> {
        self.0.lock().share.takes(Instant::now()).map(|bytes| (bytes * 8.0) as u64)
    }

    /// Number of viewers with an active subscription; viewers that wait to be admitted are connected, but idle.
    pub(super) fn flowing(&self) -> usize {
        self.0.lock().share.viewers()
    }

    /// Whether the viewers' packets queue before their link.
    pub(super) fn is_narrow(&self) -> bool {
        self.0.lock().share.longest() > NARROW
    }

    /// Requests to send `wanted` bytes to a viewer. `whole`: the unit must not be split.
    pub(super) fn ask(&self, id: u64, wanted: usize, whole: bool, queueing: Duration) -> Grant {
        let now = Instant::now();
        let limits = &mut *self.0.lock();
        let Some(user) = &mut limits.user else { return limits.share.ask(id, wanted, whole, queueing, now) };
        let most = match user.look(wanted, whole, now) {
            Grant::Bytes(most) => most,
            wait @ Grant::RetryAfter(_) => {
                limits.share.kept_waiting(id, now);
                return wait;
            }
        };
        let allowed = limits.share.ask(id, most, whole, queueing, now);
        if let Grant::Bytes(bytes) = allowed {
            user.tokens -= bytes as f64;
        }
        allowed
    }
}

impl TokenBucket {
    fn new(rate: f64, now: Instant) -> Self {
        Self { rate, tokens: rate * BURST.as_secs_f64(), filled: now }
    }

    /// Bytes that could be sent now.
    fn look(&mut self, wanted: usize, whole: bool, now: Instant) -> Grant {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        let burst = self.rate * BURST.as_secs_f64();
        self.tokens = (self.tokens + passed * self.rate).min(burst);
        let needed = if whole { 0.0 } else { PIECE.min(wanted as f64).min(burst) };
        if self.tokens < needed {
            let wait = Duration::from_secs_f64(((needed - self.tokens) / self.rate).min(LONGEST.as_secs_f64()));
            return Grant::RetryAfter(wait.max(SHORTEST));
        }
        Grant::Bytes(if whole { wanted } else { wanted.min(self.tokens as usize).max(1) })
    }
}

/// Queueing delay of a frame's own packets on a link of some Mbit/s; on a fast one it is a fraction of this.
const NARROW: Duration = Duration::from_millis(4);
/// Burst size as time at the limit: an IDR may be sent at once.
const BURST: Duration = Duration::from_millis(500);
/// Minimum grant in bytes: about one datagram.
const PIECE: f64 = 1200.0;
/// Bounds one wait.
const LONGEST: Duration = Duration::from_millis(500);
/// Minimum wait: a timer's resolution.
const SHORTEST: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configured_bitrate_holds_on_average() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(100_000.0, start);
        let mut take = |wanted, whole, millis| {
            let allowed = bucket.look(wanted, whole, start + Duration::from_millis(millis));
            if let Grant::Bytes(bytes) = allowed {
                bucket.tokens -= bytes as f64;
            }
            allowed
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
    fn a_viewer_limited_by_its_own_link_does_not_redirect_others() {
        let upload = Uplink::new(Some(800_000));
        let viewers = [upload.join(), upload.join()];
        viewers.iter().for_each(|(id, _)| upload.flows(*id, true));
        upload.push_waits(Some(Duration::ZERO), Duration::ZERO);
        upload.left_out(0);
        assert!(viewers.iter().all(|(_, room)| *room.borrow()));
        // Now the configured limit is the cause.
        while matches!(upload.ask(0, 100_000, false, Duration::ZERO), Grant::Bytes(_)) {}
        upload.left_out(0);
        assert_eq!(viewers.map(|(_, room)| *room.borrow()), [true, false]);
    }

    #[test]
    fn without_limits_nothing_waits() {
        let upload = Uplink::new(None);
        let (id, _) = upload.join();
        upload.flows(id, true);
        for _ in 0..10_000 {
            assert_eq!(upload.ask(id, 100_000, false, Duration::from_millis(50)), Grant::Bytes(100_000));
        }
        upload.leave(id);
        assert_eq!(upload.ask(id, 1, false, Duration::ZERO), Grant::Bytes(1), "a removed viewer is not limited");
    }
}
