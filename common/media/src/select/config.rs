//! The configuration of the path selection.

use std::time::Duration;

/// The standby of the active path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The fallback is connected and admitted, but idle: one round trip from its first unit.
    #[default]
    Warm,
    /// Two paths are active and the first copy of each unit wins (seamless protection switching, SMPTE ST 2022-7), at twice the bit rate.
    Hot,
    /// No fallback is connected until it is needed.
    Cold,
}

/// The timers of the policy.
#[derive(Clone, Copy, Debug)]
pub struct SelectorConfig {
    /// The standby mode. Default [`Mode::Warm`].
    pub mode: Mode,
    /// How long a path may take to answer before the next one is tried in parallel. Default 400 ms.
    pub head_start: Duration,
    /// How long a path may take from opening to its first unit before it has failed, if there is another path. Default 5 s.
    pub open_timeout: Duration,
    /// The stall timeout as a multiple of the longest usual interval between arrivals; at least
    /// [`PathProfile::min_stall_timeout`](super::PathProfile::min_stall_timeout). Default 1.5.
    pub stall_factor: f64,
    /// How long after its stall timeout a path has failed, if another one is live. Default 1 s.
    pub dead_after: Duration,
    /// How long after its stall timeout an active path is opened again if no other path is live. Its server may have lost it without closing the
    /// connection, or its stream may have been removed. A path that has delivered nothing is opened again after as long; the time doubles with each
    /// opening in vain, three times. Default 15 s.
    pub reopen_after: Duration,
    /// Backoff after the first failure; doubles with each consecutive failure. Default 1 s.
    pub retry_min: Duration,
    /// Upper bound of the backoff. Default 30 s.
    pub retry_max: Duration,
    /// How long a preferred path must deliver before the other one is closed, and any path before its failures are forgotten. Default 1 s.
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
            reopen_after: Duration::from_secs(15),
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(30),
            probation: Duration::from_secs(1),
        }
    }
}
