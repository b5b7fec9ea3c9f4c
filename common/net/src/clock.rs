//! The wall clock, read in one place; and, for whoever tests what is made of clocks that differ, a way to be wrong.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use media::WallClock;

/// What this program takes for the time: the system's, and what [`set_test_offset`] says.
pub fn now() -> WallClock {
    WallClock::from_micros(system().as_micros().saturating_add(TEST_OFFSET.load(Ordering::Relaxed)))
}

/// The system's time: for what must be true on this host alone, such as the age of a device's stamp.
pub fn system() -> WallClock {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallClock::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// Seconds since the Unix epoch, by the system: for what expires.
pub fn unix_seconds() -> u64 {
    u64::try_from(system().as_micros() / 1_000_000).unwrap_or(0)
}

/// Has [`now`] be so many microseconds ahead of the system's time, for the whole program. To be called before anything asks.
pub fn set_test_offset(micros: i64) {
    TEST_OFFSET.store(micros, Ordering::Relaxed);
}

static TEST_OFFSET: AtomicI64 = AtomicI64::new(0);
