//! The least delay between two clocks, followed slowly. Pure: time is a parameter.

/// Follows the least of the delays observed lately, in any unit of time.
///
/// What arrives was delayed by its making, which is even, and by queues, which are not: the least delay is the one without a queue. A smaller
/// delay is taken at once. A greater one is taken only after nothing less was seen for 10 s, and then gradually, so that a queue of a
/// few seconds moves nothing, and a clock that runs slow, or was paused, is followed.
#[derive(Clone, Debug, Default)]
pub struct LeastDelay {
    value: Option<i64>,
    /// When `value` was last raised or confirmed.
    at: i64,
    /// The least of the current half window and of the one before.
    halves: [i64; 2],
    half_started: i64,
}

impl LeastDelay {
    /// The delay; `None` before the first observation.
    pub fn get(&self) -> Option<i64> {
        self.value
    }

    /// Observes a `delay` at `now`. Both are in milliseconds; `now` does not go back.
    pub fn observe(&mut self, now: i64, delay: i64) {
        let Some(value) = self.value else {
            *self = Self { value: Some(delay), at: now, halves: [delay; 2], half_started: now };
            return;
        };
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

/// In milliseconds. A queue that lasts for less than half of this is not followed.
const WINDOW: i64 = 10_000;
/// In milliseconds: the time constant of a rise.
const RISE_TIME: i64 = 10_000;
