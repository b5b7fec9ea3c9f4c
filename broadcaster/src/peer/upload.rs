//! How much goes to all viewers on this network together: at most what the user allows, and at most what the push to the CDN leaves where
//! both share a link.
//!
//! Nobody tells how wide a shared link is. So the rate is found as congestion control finds it: each sign that the push suffers takes a part
//! away at once, and each moment without one gives a little back. Where no sign ever comes, there is no limit.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The limit on all viewers together.
#[derive(Debug)]
pub(super) struct Upload(Mutex<Bucket>);

#[derive(Debug)]
struct Bucket {
    /// What the user allows, in bytes per second.
    most: f64,
    /// What is left by the push, in bytes per second.
    left: f64,
    /// Bytes that may go now; negative while what went is still being paid for.
    tokens: f64,
    filled: Instant,
    /// When `left` was last changed.
    changed: Instant,
    /// Bytes that went since then.
    since: f64,
}

impl Upload {
    /// At most `limit` bits per second, over any time longer than [`BURST`].
    pub(super) fn new(limit: Option<u64>) -> Self {
        let most = limit.map_or(f64::INFINITY, |bits| bits as f64 / 8.0);
        Self(Mutex::new(Bucket::new(most, Instant::now())))
    }

    /// Waits until `bytes` may go. A unit is never cut: the next one pays for it. `suffers` says that the push to the CDN waits where these
    /// packets wait too.
    pub(super) async fn take(&self, bytes: usize, suffers: bool) {
        let wait = self.0.lock().take(bytes, suffers, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

impl Bucket {
    fn new(most: f64, now: Instant) -> Self {
        let tokens = (most * BURST.as_secs_f64()).min(f64::MAX);
        Self { most, left: f64::INFINITY, tokens, filled: now, changed: now, since: 0.0 }
    }

    fn take(&mut self, bytes: usize, suffers: bool, now: Instant) -> Duration {
        self.adapt(suffers, now);
        self.since += bytes as f64;
        let rate = self.most.min(self.left);
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        if rate.is_infinite() {
            return Duration::ZERO;
        }
        self.tokens = (self.tokens + passed * rate).min(rate * BURST.as_secs_f64());
        self.tokens -= bytes as f64;
        Duration::from_secs_f64((-self.tokens / rate).max(0.0)).min(LONGEST)
    }

    fn adapt(&mut self, suffers: bool, now: Instant) {
        let passed = now.saturating_duration_since(self.changed);
        if passed < ADAPT {
            return;
        }
        let went = self.since / passed.as_secs_f64();
        (self.changed, self.since) = (now, 0.0);
        if suffers {
            self.left = (self.left.min(went) * LESS).max(LEAST);
        } else if self.left.is_finite() {
            self.left += self.left * MORE;
            // Far more than is wanted is no limit any more.
            if self.left > went.max(LEAST) * FREE {
                self.left = f64::INFINITY;
            }
        }
    }
}

/// An IDR may go at once.
const BURST: Duration = Duration::from_millis(500);
/// Bounds one wait: what was asked of a rate that has risen since.
const LONGEST: Duration = Duration::from_millis(500);
/// How often the share is changed: a round trip and what it takes to show.
const ADAPT: Duration = Duration::from_millis(200);
/// What a sign of trouble leaves.
const LESS: f64 = 0.8;
/// What a quiet moment gives back: twice as much after four seconds.
const MORE: f64 = 0.035;
/// A share of so many times what goes is no limit.
const FREE: f64 = 8.0;
/// Nobody is starved: 80 kbit/s, sound and an IDR now and then.
const LEAST: f64 = 10_000.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_time() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100_000.0, start);
        assert_eq!(bucket.take(50_000, false, start), Duration::ZERO);
        assert_eq!(bucket.take(10_000, false, start), Duration::from_millis(100));
        assert_eq!(bucket.take(10_000, false, start + Duration::from_millis(100)), Duration::from_millis(100));
        // A long pause saves up no more than a burst.
        assert_eq!(bucket.take(60_000, false, start + Duration::from_secs(60)), Duration::from_millis(100));
    }

    #[test]
    fn without_limit_or_trouble_nothing_waits() {
        let start = Instant::now();
        let mut bucket = Bucket::new(f64::INFINITY, start);
        for n in 0..10_000 {
            assert_eq!(bucket.take(100_000, false, start + Duration::from_millis(n)), Duration::ZERO);
        }
    }

    /// A link that leaves 50 kB/s: more makes the push suffer. The share must find it, from above, and give it up when it is over.
    #[test]
    fn the_share_finds_what_is_left() {
        let start = Instant::now();
        let mut bucket = Bucket::new(f64::INFINITY, start);
        let (mut now, mut went, mut window) = (start, 0.0, Vec::new());
        for n in 0..6000 {
            let recent: f64 =
                window.iter().rev().take_while(|(at, _)| now - *at < ADAPT).map(|(_, bytes)| *bytes).sum();
            let suffers = n < 3000 && recent > 50_000.0 * ADAPT.as_secs_f64();
            let wait = bucket.take(2000, suffers, now);
            window.push((now, 2000.0));
            if (1500..3000).contains(&n) {
                went += 2000.0;
            }
            now += wait.max(Duration::from_millis(10));
            if n == 1500 {
                window.retain(|(at, _)| now - *at < ADAPT);
            }
        }
        let rate = went / (1500.0 * 2000.0 / 50_000.0);
        assert!((30_000.0..70_000.0).contains(&rate), "{rate} bytes/s");
        assert!(bucket.left.is_infinite(), "{}", bucket.left);
    }
}
