//! The least delay between two clocks, followed slowly. Pure: time is a parameter.

/// Follows the least of the delays observed lately, in any unit of time.
///
/// What arrives was delayed by its making, which is even, and by queues, which are not: the least delay is the one without a queue. A smaller
/// delay is taken at once. A greater one is taken only after nothing less was seen for 10 s, and then gradually, so that a queue of a
/// few seconds moves nothing, and a clock that runs slow, or was paused, is followed. Time in which nothing arrives does not count: it says nothing about
/// delays, and what was held back until then arrives with all of them.
#[derive(Clone, Debug, Default)]
pub struct LeastDelay {
    value: Option<i64>,
    /// When `value` was last raised or confirmed.
    at: i64,
    /// The least of the current half window and of the one before.
    halves: [i64; 2],
    half_started: i64,
    /// The time of the newest observation, and what of all time does not count.
    newest: i64,
    uncounted: i64,
}

impl LeastDelay {
    /// The delay; `None` before the first observation.
    pub fn get(&self) -> Option<i64> {
        self.value
    }

    /// All delays so far were greater by `by`: the origin of one clock was moved.
    pub fn shift(&mut self, by: i64) {
        self.value = self.value.map(|value| value + by);
        self.halves = self.halves.map(|half| half + by);
    }

    /// Observes a `delay` at `now`. Both are in milliseconds; `now` does not go back.
    pub fn observe(&mut self, now: i64, delay: i64) {
        let Some(value) = self.value else {
            let (value, at, half_started, newest) = (Some(delay), now, now, now);
            *self = Self { value, at, halves: [delay; 2], half_started, newest, uncounted: 0 };
            return;
        };
        let pause = now - std::mem::replace(&mut self.newest, now);
        self.uncounted += (pause - MAX_INTERVAL).max(0);
        let now = now - self.uncounted;
        if now - self.half_started >= WINDOW / 2 {
            let is_recent = now - self.half_started < WINDOW;
            self.halves = [delay, if is_recent { self.halves[0] } else { delay }];
            self.half_started = now;
        }
        self.halves[0] = self.halves[0].min(delay);
        let target = self.halves[0].min(self.halves[1]);
        let elapsed = (now - self.at).clamp(0, RISE_TIME);
        let rise = ((target - value).max(0) * elapsed / RISE_TIME).min(target - value);
        if delay <= value {
            (self.value, self.at) = (Some(delay), now);
        } else if rise > 0 || target <= value {
            (self.value, self.at) = (Some(value + rise.max(0)), now);
        }
    }
}

/// In milliseconds. What is longer between two observations is a pause.
const MAX_INTERVAL: i64 = 250;
/// In milliseconds. A queue that lasts for less than half of this is not followed.
const WINDOW: i64 = 10_000;
/// In milliseconds: the time constant of a rise.
const RISE_TIME: i64 = 10_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Something that is made every `interval`, and held back once, or not made for a while.
        #[test]
        fn a_burst_and_a_pause_change_nothing(
            interval in 10..200i64, held_from in 0..40_000i64, held_for in 0..30_000i64, is_made in any::<bool>(),
        ) {
            let mut delay = LeastDelay::default();
            let held = held_from..held_from + held_for;
            for made in (0..80_000).step_by(interval as usize).filter(|made| is_made || !held.contains(made)) {
                let arrived = if held.contains(&made) { held.end } else { made } + 30;
                delay.observe(arrived, arrived - made);
                if made > held.end || made < held.start {
                    prop_assert!((29..=31).contains(&delay.get().unwrap()), "{:?} at {made}", delay.get());
                }
            }
        }
    }

    #[test]
    fn a_clock_that_was_paused_is_followed() {
        let mut delay = LeastDelay::default();
        for now in (0..100_000).step_by(20) {
            delay.observe(now, if now < 20_000 { 100 } else { 3100 });
            if now == 24_900 {
                assert_eq!(delay.get(), Some(100), "it may be a queue");
            }
        }
        assert!(delay.get().is_some_and(|delay| delay > 3000), "{:?}", delay.get());
    }
}
