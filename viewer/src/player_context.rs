//! What the viewer's threads share: the playback under its lock, the clock, the counters, and the wish to stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use media::{TrackKind, WallClock};
use net::trace::Trace;
use parking_lot::{Condvar, Mutex};

use crate::clock::Clock;
use crate::playback::{DecodeJob, NextAction, Playback, PlayoutConfig};
use crate::stats::Stats;

/// The hub of one viewing.
#[derive(Debug)]
pub struct PlayerContext {
    /// Time since the viewer started.
    pub clock: Clock,
    /// Buffer and timing.
    pub playback: Mutex<Playback>,
    /// Counters.
    pub stats: Mutex<Stats>,
    /// Where to note when units pass each stage.
    pub trace: Option<Trace>,
    /// Told whenever the playback changed.
    changed: Condvar,
    stopping: AtomicBool,
}

impl PlayerContext {
    /// Nothing has come yet.
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

    /// Wakes whoever waits for the playback to change.
    pub fn notify(&self) {
        self.changed.notify_all();
    }

    /// Ends all threads.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// Whether all threads shall end.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// The next unit for a decoder, when its time has come; `None` when there will be no more.
    pub fn next_job(&self, kind: TrackKind) -> Option<DecodeJob> {
        let mut playback = self.playback.lock();
        while !self.is_stopping() {
            let now = self.clock.now();
            match playback.next(kind, now) {
                NextAction::Decode(work) => {
                    // Whoever waits for room may go on.
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

    /// Waits until the playback has room for another unit; `false` if the viewer stops first.
    pub fn wait_for_room(&self) -> bool {
        let mut playback = self.playback.lock();
        while playback.is_full() && !self.is_stopping() {
            self.changed.wait_for(&mut playback, MAX_WAIT);
        }
        !self.is_stopping()
    }

    /// The time of day at `at` of the viewer's clock.
    pub fn wall_clock_at(&self, at: Duration) -> WallClock {
        let ago = i64::try_from(self.clock.now().saturating_sub(at).as_micros()).unwrap_or(0);
        WallClock::from_micros(net::clock::now().as_micros().saturating_sub(ago))
    }
}

/// Speed changes move due times while a thread waits for one: it looks again this often.
const MAX_WAIT: Duration = Duration::from_millis(100);
