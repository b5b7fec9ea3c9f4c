//! What the selection is to be like.

use std::time::Duration;

/// What stands ready behind the path in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The fallback is open and let in, but idle: one round trip from flowing.
    #[default]
    Warm,
    /// Two paths flow and the first copy wins (the way of SMPTE ST 2022-7): perfect, at the price of bits.
    Hot,
    /// Nothing.
    Cold,
}

/// The policy's constants, changeable for tests and experiments.
#[derive(Clone, Copy, Debug)]
pub struct SelectorConfig {
    /// What stands ready.
    pub mode: Mode,
    /// A path that has not answered for so long is no reason not to try the next beside it.
    pub head_start: Duration,
    /// A path that has not brought a unit this long after it was opened has failed, if there is another to try.
    pub open_timeout: Duration,
    /// Silence is this many times the longest usual step between arrivals, and at least the path's [`PathProfile::min_stall_timeout`](super::PathProfile).
    pub stall_factor: f64,
    /// A path that has been silent this much longer, while another flows, has failed.
    pub dead_after: Duration,
    /// First wait before a path that failed is tried again; doubles with each failure in a row.
    pub retry_min: Duration,
    /// The longest such wait.
    pub retry_max: Duration,
    /// How long a better path must flow before the worse one is let go, and any path before its failures are forgotten.
    pub probation: Duration,
}

impl Default for SelectorConfig {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            head_start: Duration::from_millis(400),
            open_timeout: Duration::from_secs(5),
            stall_factor: 1.5,
            dead_after: Duration::from_secs(1),
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(30),
            probation: Duration::from_secs(1),
        }
    }
}
