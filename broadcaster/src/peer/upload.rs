//! A limit on what goes to all viewers on this network together: a token bucket.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The limit. None, and everything passes.
#[derive(Debug)]
pub(super) struct Upload(Option<Mutex<Bucket>>);

#[derive(Debug)]
struct Bucket {
    /// Bytes per second.
    rate: f64,
    /// Bytes that may go now; negative while what went is still being paid for.
    tokens: f64,
    filled: Instant,
}

impl Upload {
    /// At most `limit` bits per second, over any time longer than [`BURST`].
    pub(super) fn new(limit: Option<u64>) -> Self {
        let bucket = |bits: u64| {
            let rate = bits as f64 / 8.0;
            Mutex::new(Bucket { rate, tokens: rate * BURST.as_secs_f64(), filled: Instant::now() })
        };
        Self(limit.map(bucket))
    }

    /// Waits until `bytes` may go. A unit is never cut: the next one pays for it.
    pub(super) async fn take(&self, bytes: usize) {
        let Some(bucket) = &self.0 else { return };
        let wait = bucket.lock().take(bytes, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

impl Bucket {
    fn take(&mut self, bytes: usize, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = (self.tokens + passed * self.rate).min(self.rate * BURST.as_secs_f64());
        self.tokens -= bytes as f64;
        Duration::from_secs_f64((-self.tokens / self.rate).max(0.0))
    }
}

/// An IDR may go at once.
const BURST: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_time() {
        let start = Instant::now();
        let mut bucket = Bucket { rate: 100_000.0, tokens: 50_000.0, filled: start };
        assert_eq!(bucket.take(50_000, start), Duration::ZERO);
        assert_eq!(bucket.take(10_000, start), Duration::from_millis(100));
        assert_eq!(bucket.take(10_000, start + Duration::from_millis(100)), Duration::from_millis(100));
        // A long pause saves up no more than a burst.
        assert_eq!(bucket.take(60_000, start + Duration::from_secs(60)), Duration::from_millis(100));
    }
}
