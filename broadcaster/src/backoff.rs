//! How long to wait before the next try: doubling, capped, jittered. Pure: the caller brings the randomness.

use std::time::Duration;

/// The waits between tries of one thing.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    tries: u32,
}

impl Backoff {
    /// Waits of about `first`, then twice that, up to `cap`.
    pub const fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, tries: 0 }
    }

    /// The next wait. `random` in 0.0..1.0 places it in the upper half of its range, so that many broadcasters that lost the
    /// same server do not come back at once.
    pub fn next(&mut self, random: f64) -> Duration {
        let full = self.first.saturating_mul(1 << self.tries.min(16)).min(self.cap);
        self.tries = self.tries.saturating_add(1);
        full.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// The thing worked: the next wait is a short one again.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_its_cap() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
        let waits: Vec<_> = (0..6).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(backoff.next(0.0).as_millis(), 1000);
        backoff.reset();
        assert_eq!(backoff.next(0.0).as_millis(), 100);
        for _ in 0..100 {
            assert!(backoff.next(2.0) <= Duration::from_secs(2));
        }
    }
}
