//! What one direction of an emulated link does to frames: rate, delay, jitter, loss, duplication and queue,
//! and the bounds of each.
//!
//! It is only the description; `link::pipe` implements it. Frame lengths are those of Ethernet frames with
//! their 14-byte header and without preamble and check sequence, so a UDP payload is 42 bytes shorter.

use std::time::Duration;

use anyhow::{Result, ensure};

/// The behaviour of one direction of a link. The default forwards everything at once: no rate limit, no delay, no loss.
///
/// Order of effects on a frame: drop-tail queue, serialisation at `rate`, loss, then `delay` with `jitter`. A
/// lost frame has used the link's capacity, as on a radio link. A duplicate uses none, has its own jitter, and is made of a frame that was not
/// lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Bits per second, [`MIN_RATE`] to [`MAX_RATE`]; `None` for no limit.
    pub rate: Option<u64>,
    /// One-way propagation delay, at most [`MAX_DELAY`].
    pub delay: Duration,
    /// Random variation of the delay.
    pub jitter: Jitter,
    /// Whether jitter may reorder frames. If false, a frame that would overtake its predecessor arrives right after it, which raises the mean
    /// delay slightly.
    pub reorder: bool,
    /// Probability, 0 to 1, that a frame is lost, independent of all others.
    pub loss: f64,
    /// Burst loss, on top of `loss`; `None` for none.
    pub burst: Option<BurstLoss>,
    /// Probability, 0 to 1, that a frame arrives twice.
    pub duplicate: f64,
    /// Bytes queued or being serialised, [`MIN_QUEUE`] to [`MAX_QUEUE`]; a frame that would exceed it is dropped. Without a rate nothing queues.
    pub queue: usize,
}

/// Random variation of the one-way delay; the resulting delay is never below zero.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Jitter {
    /// Every packet has the same delay.
    #[default]
    None,
    /// Uniform between minus and plus this, at most [`MAX_DELAY`].
    Uniform(Duration),
    /// Normally distributed with this standard deviation, at most [`MAX_DELAY`], cut off at
    /// [`NORMAL_CUT`] deviations.
    Normal(Duration),
}

/// Gilbert-Elliott loss: a Markov chain of a good and a bad state that takes one step for every frame.
/// All four are probabilities, 0 to 1. The chain starts good, and the mean length of a bad stretch is
/// `1 / to_good` frames.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BurstLoss {
    /// Chance, at each frame, to go from good to bad.
    pub to_bad: f64,
    /// Chance, at each frame, to go from bad to good.
    pub to_good: f64,
    /// Loss in the good state.
    pub loss_good: f64,
    /// Loss in the bad state.
    pub loss_bad: f64,
}

impl BurstLoss {
    /// The fraction of frames lost in the long run; of the good state's when the chain never moves.
    pub fn mean_loss(&self) -> f64 {
        let moves = self.to_bad + self.to_good;
        let bad = if moves > 0.0 { self.to_bad / moves } else { 0.0 };
        bad * self.loss_bad + (1.0 - bad) * self.loss_good
    }
}

impl Default for Shape {
    fn default() -> Shape {
        Shape::PERFECT
    }
}

impl Shape {
    /// Forwards everything at once: the default.
    pub const PERFECT: Shape = Shape {
        rate: None,
        delay: Duration::ZERO,
        jitter: Jitter::None,
        reorder: false,
        loss: 0.0,
        burst: None,
        duplicate: 0.0,
        queue: DEFAULT_QUEUE,
    };

    /// Time on the wire of a frame of `length` bytes; zero without a rate.
    pub fn serialisation(&self, length: usize) -> Duration {
        Duration::from_nanos(self.serialisation_ns(length))
    }

    pub(crate) fn serialisation_ns(&self, length: usize) -> u64 {
        match self.rate {
            // At most 64 KiB at MIN_RATE: far inside u64 once divided.
            Some(rate) => (length as u128 * 8 * 1_000_000_000 / u128::from(rate)) as u64,
            None => 0,
        }
    }

    /// Fails, naming the field, when one is out of the range it documents.
    pub fn validate(&self) -> Result<()> {
        if let Some(rate) = self.rate {
            ensure!((MIN_RATE..=MAX_RATE).contains(&rate), "rate {rate} bit/s is not in {MIN_RATE} to {MAX_RATE}");
        }
        ensure!(self.delay <= MAX_DELAY, "delay {:?} exceeds {MAX_DELAY:?}", self.delay);
        if let Jitter::Uniform(width) | Jitter::Normal(width) = self.jitter {
            ensure!(width <= MAX_DELAY, "jitter {width:?} exceeds {MAX_DELAY:?}");
        }
        let mut chances = vec![("loss", self.loss), ("duplicate", self.duplicate)];
        if let Some(burst) = self.burst {
            chances.push(("burst.to_bad", burst.to_bad));
            chances.push(("burst.to_good", burst.to_good));
            chances.push(("burst.loss_good", burst.loss_good));
            chances.push(("burst.loss_bad", burst.loss_bad));
        }
        for (name, chance) in chances {
            ensure!((0.0..=1.0).contains(&chance), "{name} {chance} is not a probability");
        }
        let queue = self.queue;
        ensure!((MIN_QUEUE..=MAX_QUEUE).contains(&queue), "queue {queue} bytes is not in {MIN_QUEUE} to {MAX_QUEUE}");
        Ok(())
    }
}

/// Lowest rate, bit/s: a full frame takes 12 s, longer than any timeout under test.
pub const MIN_RATE: u64 = 1_000;

/// Highest rate, bit/s: a full frame takes 1.2 µs, below the emulator's resolution.
pub const MAX_RATE: u64 = 10_000_000_000;

/// Longest delay and jitter: longer than any path on Earth, short enough to reveal a wrong unit.
pub const MAX_DELAY: Duration = Duration::from_secs(10);

/// Normal jitter is cut off at this many standard deviations, so that one draw in thousands does not decide
/// a run; four are passed once in 16,000 frames.
pub const NORMAL_CUT: f64 = 4.0;

/// Smallest queue, bytes: one full Ethernet frame, without which nothing could pass.
pub const MIN_QUEUE: usize = 1_514;

/// Largest queue, bytes: 16 MiB is over half a minute at 4 Mbit/s, beyond any real router.
pub const MAX_QUEUE: usize = 16 << 20;

/// Default queue, bytes: a quarter of a second at 4 Mbit/s, as in a common home router.
pub const DEFAULT_QUEUE: usize = 128 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_does_nothing() {
        Shape::default().validate().unwrap();
        assert_eq!(Shape::default().serialisation(1514), Duration::ZERO);
    }

    #[test]
    fn serialisation_is_length_over_rate() {
        let shape = Shape { rate: Some(4_000_000), ..Shape::default() };
        assert_eq!(shape.serialisation(1458), Duration::from_micros(2916));
    }

    #[test]
    fn values_out_of_range_are_rejected_with_their_name() {
        let burst = BurstLoss { to_bad: 0.1, to_good: -0.1, loss_good: 0.0, loss_bad: 1.0 };
        let late = MAX_DELAY + Duration::from_nanos(1);
        for (shape, name) in [
            (Shape { rate: Some(0), ..Shape::default() }, "rate"),
            (Shape { delay: late, ..Shape::default() }, "delay"),
            (Shape { jitter: Jitter::Normal(late), ..Shape::default() }, "jitter"),
            (Shape { loss: f64::NAN, ..Shape::default() }, "loss"),
            (Shape { duplicate: 1.1, ..Shape::default() }, "duplicate"),
            (Shape { burst: Some(burst), ..Shape::default() }, "burst.to_good"),
            (Shape { queue: 100, ..Shape::default() }, "queue"),
        ] {
            assert!(shape.validate().unwrap_err().to_string().starts_with(name), "{name}");
        }
    }

    #[test]
    fn mean_burst_loss_weighs_the_states() {
        let burst = BurstLoss { to_bad: 0.01, to_good: 0.09, loss_good: 0.0, loss_bad: 0.5 };
        assert!((burst.mean_loss() - 0.05).abs() < 1e-12);
    }
}
