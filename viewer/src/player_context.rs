//! What the viewer's threads share: playback under its lock, the clock, the statistics, and the request to stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use media::{TrackKind, WallClock};
use net::trace::Trace;
use parking_lot::{Condvar, Mutex};

use crate::clock::Clock;
use crate::playback::{DecodeJob, NextAction, Playback, PlayoutConfig};
use crate::stats::Stats;

/// The shared state of one viewer.
#[derive(Debug)]
pub struct PlayerContext {
    /// Time since the viewer started.
    pub clock: Clock,
    /// Buffering and timing.
    pub playback: Mutex<Playback>,
    /// What is counted and measured.
    pub stats: Mutex<Stats>,
    /// The `--trace` file.
    pub trace: Option<Trace>,
    /// Signalled whenever the playback changed.
    changed: Condvar,
    stopping: AtomicBool,
}

impl PlayerContext {
    /// A viewer that has received nothing yet.
    pub fn new(settings: PlayoutConfig, trace: Option<Trace>) -> Self {
        Self {
            clock: Clock::start(),
            playback: Mutex::new(Playback::new(settings)),
            stats: Mutex::new(Stats::default()),
            trace,
            changed: Condvar::new(),
            stopping: AtomicBool::new(false),
        }
    }

    /// Wakes the threads that wait for the playback to change.
    pub fn notify(&self) {
        self.changed.notify_all();
    }

    /// Asks all threads to end.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// Whether [`stop`](Self::stop) was called.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Blocks until the next unit of this kind is to be decoded; `None` when there will be no more, or the viewer stops.
    pub fn next_job(&self, kind: TrackKind) -> Option<DecodeJob> {
        let mut playback = self.playback.lock();
        while !self.is_stopping() {
            let now = self.clock.now();
            match playback.next(kind, now) {
                NextAction::Decode(work) => {
                    // There is room again in the buffer.
                    self.changed.notify_all();
                    return Some(*work);
                }
                NextAction::Wait(until) => {
                    let wait = until.map_or(MAX_WAIT, |until| until.saturating_sub(now).min(MAX_WAIT));
                    self.changed.wait_for(&mut playback, wait);
                }
                NextAction::End => return None,
            }
        }
        None
    }

    /// Blocks until the buffer has room for another unit; `false` if the viewer stops first.
    pub fn wait_for_room(&self) -> bool {
        let mut playback = self.playback.lock();
        while playback.is_full() && !self.is_stopping() {
            self.changed.wait_for(&mut playback, MAX_WAIT);
        }
        !self.is_stopping()
    }

    /// The wall-clock time that corresponds to `at` on the viewer's monotonic clock.
    pub fn wall_clock_at(&self, at: Duration) -> WallClock {
        let ago = i64::try_from(self.clock.now().saturating_sub(at).as_micros()).unwrap_or(0);
        WallClock::from_micros(net::clock::now().as_micros().saturating_sub(ago))
    }
}

/// Changes of speed move due times while a thread waits for one, so that it checks again this often.
const MAX_WAIT: Duration = Duration::from_millis(100);
