//! The offset between two hosts' clocks, with a bound on its error.
//!
//! Each exchange bounds the offset from both sides, whatever the network did: the request was not received before it was sent, nor the response
//! received before it was sent (RFC 5905 §8 has the four times). The true offset lies in the intersection of all these intervals (Marzullo's
//! algorithm for a single, truthful source), and half of its width is the uncertainty. Queues in one direction, which mislead a mean of round
//! trips, do no harm: the fastest request and the fastest response need not belong to one exchange.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::WallClock;

/// The four times of a request and its response (RFC 5905 §8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// When the request was sent, by the local clock.
    pub sent: WallClock,
    /// When it was received, by the remote clock.
    pub received: WallClock,
    /// When the response was sent, by the remote clock; not before `received`.
    pub answered: WallClock,
    /// When the response was received, by the local clock; not before `sent`.
    pub returned: WallClock,
}

/// The difference between a remote clock and the local one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockOffset {
    /// Remote minus local, in microseconds.
    pub micros: i64,
    /// The true difference is at most this many microseconds more or less.
    pub uncertainty: u64,
}

impl ClockOffset {
    /// The remote clock's time at the local time `local`.
    pub fn to_remote(self, local: WallClock) -> WallClock {
        WallClock::from_micros(local.as_micros().saturating_add(self.micros))
    }

    /// The local clock's time at the remote time `remote`.
    pub fn to_local(self, remote: WallClock) -> WallClock {
        WallClock::from_micros(remote.as_micros().saturating_sub(self.micros))
    }

    /// The offset of a third clock from the local one, given its offset `next` from the remote one. Uncertainties add up.
    pub fn then(self, next: Self) -> Self {
        Self {
            micros: self.micros.saturating_add(next.micros),
            uncertainty: self.uncertainty.saturating_add(next.uncertainty),
        }
    }

    /// The offset of the local clock from the remote one.
    pub fn inverse(self) -> Self {
        Self { micros: self.micros.saturating_neg(), ..self }
    }
}

/// Estimates a clock offset from the last 32 exchanges.
#[derive(Clone, Debug, Default)]
pub struct OffsetEstimator {
    bounds: VecDeque<OffsetBounds>,
}

/// The bounds of the offset that one exchange gives, in microseconds.
#[derive(Clone, Copy, Debug)]
struct OffsetBounds {
    /// When the exchange ended, on the local monotonic clock.
    at: Duration,
    least: i64,
    most: i64,
}

impl OffsetEstimator {
    /// Adds an exchange that ended at `now` on the local monotonic clock. An exchange with impossible times is ignored. One that contradicts those
    /// before means that a clock was set: the earlier ones are dropped.
    pub fn record(&mut self, now: Duration, exchange: Exchange) {
        let least = exchange.answered.micros_since(exchange.returned);
        let most = exchange.received.micros_since(exchange.sent);
        if least > most || exchange.answered < exchange.received || exchange.returned < exchange.sent {
            return;
        }
        let new = OffsetBounds { at: now, least, most };
        if self.intersection(now, Some(new)).is_none() {
            self.bounds.clear();
        }
        if self.bounds.len() >= EXCHANGES {
            self.bounds.pop_front();
        }
        self.bounds.push_back(new);
    }

    /// The estimated offset at `now`; `None` before the first exchange. The uncertainty grows with the possible drift since the exchanges.
    pub fn offset(&self, now: Duration) -> Option<ClockOffset> {
        if self.bounds.is_empty() {
            return None;
        }
        let (least, most) = self.intersection(now, None)?;
        let width = most.saturating_sub(least);
        Some(ClockOffset { micros: least.saturating_add(width / 2), uncertainty: (width.unsigned_abs()).div_ceil(2) })
    }

    /// The intersection of all intervals, each widened by the possible drift since; `None` if it is empty.
    fn intersection(&self, now: Duration, new: Option<OffsetBounds>) -> Option<(i64, i64)> {
        let (least, most) =
            self.bounds.iter().copied().chain(new).fold((i64::MIN, i64::MAX), |(least, most), bounds| {
                let drift = i64::try_from(now.saturating_sub(bounds.at).as_micros()).unwrap_or(i64::MAX) / DRIFT;
                (least.max(bounds.least.saturating_sub(drift)), most.min(bounds.most.saturating_add(drift)))
            });
        (least <= most).then_some((least, most))
    }
}

/// Number of exchanges that are kept.
const EXCHANGES: usize = 32;
/// Two clocks drift apart by at most 1 in 10 000: ±50 ppm each.
const DRIFT: i64 = 10_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An exchange that was sent at `at` with clocks `offset` apart, and took so long each way. Microseconds.
    fn exchange(at: i64, offset: i64, there: i64, thinking: i64, back: i64) -> Exchange {
        let remote = at + offset + there;
        Exchange {
            sent: WallClock::from_micros(at),
            received: WallClock::from_micros(remote),
            answered: WallClock::from_micros(remote + thinking),
            returned: WallClock::from_micros(at + there + thinking + back),
        }
    }

    #[test]
    fn a_symmetric_path_gives_the_true_offset_within_half_the_round_trip() {
        let mut estimator = OffsetEstimator::default();
        assert_eq!(estimator.offset(Duration::ZERO), None);
        estimator.record(Duration::ZERO, exchange(1_000_000, 250_000, 38_000, 500, 38_000));
        assert_eq!(estimator.offset(Duration::ZERO), Some(ClockOffset { micros: 250_000, uncertainty: 38_000 }));
        // No exchange for ten seconds: two crystals may have drifted apart by a millisecond.
        let later = estimator.offset(Duration::from_secs(10)).unwrap();
        assert_eq!(later, ClockOffset { micros: 250_000, uncertainty: 39_000 });
    }

    #[test]
    fn one_way_queues_do_not_bias_the_offset() {
        let mut estimator = OffsetEstimator::default();
        for (there, back) in [(90_000, 8_000), (8_000, 300_000), (200_000, 30_000)] {
            estimator.record(Duration::ZERO, exchange(0, -7_000, there, 0, back));
        }
        assert_eq!(estimator.offset(Duration::ZERO), Some(ClockOffset { micros: -7_000, uncertainty: 8_000 }));
    }

    #[test]
    fn a_clock_step_is_followed() {
        let mut estimator = OffsetEstimator::default();
        estimator.record(Duration::ZERO, exchange(0, 0, 5_000, 0, 5_000));
        estimator.record(Duration::ZERO, exchange(0, 3_600_000_000, 5_000, 0, 5_000));
        assert_eq!(estimator.offset(Duration::ZERO).unwrap().micros, 3_600_000_000);
    }

    #[test]
    fn offsets_are_composed_and_inverted() {
        let (first, second) =
            (ClockOffset { micros: 250, uncertainty: 3 }, ClockOffset { micros: -1000, uncertainty: 4 });
        assert_eq!(first.then(second), ClockOffset { micros: -750, uncertainty: 7 });
        let clock = WallClock::from_micros(10);
        assert_eq!(first.to_local(first.to_remote(clock)), clock);
        assert_eq!(first.inverse().to_remote(first.to_remote(clock)), clock);
    }

    proptest! {
        /// For any network delays, with crystals that drift up to the bound.
        #[test]
        fn the_true_offset_is_within_the_uncertainty(
            offset in -10_000_000_000i64..10_000_000_000,
            ways in prop::collection::vec((0..2_000_000i64, 0..50_000i64, 0..2_000_000i64, 0..60_000_000i64), 1..80),
            drift in -100i64..=100,
        ) {
            let mut estimator = OffsetEstimator::default();
            let mut at = 0i64;
            for (there, thinking, back, pause) in ways {
                at += pause;
                let drifted = |at: i64| offset + at * drift / 1_000_000;
                let sent = at;
                let (read, given) = (sent + there, sent + there + thinking);
                at = given + back;
                estimator.record(Duration::from_micros(at as u64), Exchange {
                    sent: WallClock::from_micros(sent),
                    received: WallClock::from_micros(read + drifted(read)),
                    answered: WallClock::from_micros(given + drifted(given)),
                    returned: WallClock::from_micros(at),
                });
                let found = estimator.offset(Duration::from_micros(at as u64)).unwrap();
                let wrong = (found.micros - drifted(at)).unsigned_abs();
                // The drift within one exchange is rounded.
                prop_assert!(wrong <= found.uncertainty + 2 + 4_000_000 / 10_000, "{wrong} {found:?}");
            }
        }

        #[test]
        fn any_times_are_accepted_without_panic(times: [i64; 4], now: u64) {
            let [sent, received, answered, returned] = times.map(WallClock::from_micros);
            let mut estimator = OffsetEstimator::default();
            let now = Duration::from_micros(now);
            estimator.record(now, Exchange { sent, received, answered, returned });
            if let Some(found) = estimator.offset(now) {
                found.then(found).inverse().to_remote(sent);
            }
        }
    }
}
