//! The wall clock, read in one place, with an offset to test hosts whose clocks differ.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use media::WallClock;
use tokio::time::Instant;

/// The system's time plus the offset of [`set_test_offset`].
pub fn now() -> WallClock {
    WallClock::from_micros(system().as_micros().saturating_add(TEST_OFFSET.load(Ordering::Relaxed)))
}

/// The system's time without the test offset: for comparisons on this host, such as the age of a device's timestamp.
pub fn system() -> WallClock {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallClock::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// Seconds since the Unix epoch by [`now`].
pub fn unix_seconds() -> u64 {
    u64::try_from(now().as_micros() / 1_000_000).unwrap_or(0)
}

/// The monotonic time of `time`, a recent time by [`now`], or an earlier one.
pub(crate) fn monotonic_time(time: WallClock) -> Instant {
    // Read before the wall clock, so that a suspension of the process in between makes the result earlier, and an exchange that began then seem
    // longer: one that seems shorter than it was would bound the offset of two clocks wrongly.
    let monotonic = Instant::now();
    let ago = u64::try_from(now().micros_since(time)).unwrap_or(0);
    monotonic.checked_sub(Duration::from_micros(ago)).unwrap_or(monotonic)
}

/// Sets how far [`now`] is ahead of the system's time, in microseconds, for the whole process. Call it before the clock is read.
pub fn set_test_offset(micros: i64) {
    TEST_OFFSET.store(micros, Ordering::Relaxed);
}

static TEST_OFFSET: AtomicI64 = AtomicI64::new(0);
