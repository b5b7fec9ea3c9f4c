//! The model of one direction of a link: a drop-tail queue, a serialiser, a lossy wire and a delay line, in
//! virtual time.
//!
//! It does no I/O and reads no clock: every call states its time, in nanoseconds of one monotonic clock. Frames are handled at their ideal
//! times, so a delayed thread sends late but never drops, delays or reorders differently.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::f64::consts::TAU;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::shape::{Jitter, NORMAL_CUT, Shape};

/// Counters of one direction; written by the pipe's thread, read by any.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) queue_drops: AtomicU64,
    pub(crate) duplicated: AtomicU64,
    pub(crate) link_down_drops: AtomicU64,
    pub(crate) emulator_drops: AtomicU64,
}

/// Adds `n` to a counter, without ordering other memory accesses.
pub(crate) fn count(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// A frame in the delay line, due at the far end at `at`. Ordered by time, then by order of entry.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct InFlightFrame {
    at: u64,
    serial: u64,
    frame: Box<[u8]>,
}

/// One direction of a link.
#[derive(Debug)]
pub(crate) struct Pipe {
    shape: Shape,
    open: bool,
    random: StdRng,
    burst_is_bad: bool,
    /// Frames waiting for serialisation; the first is being serialised.
    queue: VecDeque<Box<[u8]>>,
    queued_bytes: usize,
    /// When the first frame of `queue` leaves the serialiser; `None` exactly when `queue` is empty.
    first_done: Option<u64>,
    /// When the serialiser last became idle: a frame that is handed in late cannot start before that.
    free_since: u64,
    in_flight: BinaryHeap<Reverse<InFlightFrame>>,
    in_flight_bytes: usize,
    serial: u64,
    last_arrival: u64,
    counters: Arc<Counters>,
}

impl Pipe {
    /// An open pipe whose draws follow from `seed`.
    pub(crate) fn new(shape: Shape, seed: u64, counters: Arc<Counters>) -> Pipe {
        Pipe {
            shape,
            open: true,
            random: StdRng::seed_from_u64(seed),
            burst_is_bad: false,
            queue: VecDeque::new(),
            queued_bytes: 0,
            first_done: None,
            free_since: 0,
            in_flight: BinaryHeap::new(),
            in_flight_bytes: 0,
            serial: 0,
            last_arrival: 0,
            counters,
        }
    }

    /// Changes the shape for frames that have not begun serialisation (rate, queue) or have not entered the
    /// delay line (all else).
    pub(crate) fn set(&mut self, shape: Shape) {
        self.shape = shape;
        // The Markov chain restarts with the new parameters.
        self.burst_is_bad = false;
    }

    /// Opens or closes the pipe. Closing drops queued frames and frames in flight.
    pub(crate) fn set_open(&mut self, open: bool) {
        self.open = open;
        if !open {
            count(&self.counters.link_down_drops, (self.queue.len() + self.in_flight.len()) as u64);
            self.queue.clear();
            self.in_flight.clear();
            (self.queued_bytes, self.in_flight_bytes, self.first_done) = (0, 0, None);
            // Dropped frames do not delay later ones.
            self.last_arrival = 0;
        }
    }

    /// Takes a frame that reached this end at `now`.
    pub(crate) fn enter(&mut self, now: u64, frame: Box<[u8]>) {
        self.advance(now);
        count(&self.counters.received, 1);
        if !self.open {
            count(&self.counters.link_down_drops, 1);
        } else if self.queued_bytes + frame.len() > self.shape.queue {
            count(&self.counters.queue_drops, 1);
        } else {
            if self.first_done.is_none() {
                let start = now.max(self.free_since);
                self.first_done = Some(start + self.shape.serialisation_ns(frame.len()));
            }
            self.queued_bytes += frame.len();
            self.queue.push_back(frame);
            self.advance(now);
        }
    }

    /// Moves frames whose serialisation ends by `now` to the delay line, each at its own time.
    pub(crate) fn advance(&mut self, now: u64) {
        while let Some(done) = self.first_done.filter(|done| *done <= now) {
            let frame = self.queue.pop_front().expect("first_done is set only while a frame is queued");
            self.queued_bytes -= frame.len();
            self.free_since = done;
            self.first_done = self.queue.front().map(|next| done + self.shape.serialisation_ns(next.len()));
            self.fly(done, frame);
        }
    }

    /// The frame that is due at the far end by `now`, with the time it was due; the earliest first.
    pub(crate) fn leave(&mut self, now: u64) -> Option<(u64, Box<[u8]>)> {
        if self.in_flight.peek()?.0.at > now {
            return None;
        }
        let Reverse(flight) = self.in_flight.pop()?;
        self.in_flight_bytes -= flight.frame.len();
        Some((flight.at, flight.frame))
    }

    /// When [`Pipe::advance`] or [`Pipe::leave`] has something to do next; `None` while the pipe is empty.
    pub(crate) fn next_event(&self) -> Option<u64> {
        let arrival = self.in_flight.peek().map(|flight| flight.0.at);
        self.first_done.into_iter().chain(arrival).min()
    }

    fn fly(&mut self, done: u64, frame: Box<[u8]>) {
        // Every frame consumes the same number of draws, used or not: its outcome then depends only on the seed and its number, and changing
        // one probability does not affect the other outcomes.
        let [loss, step, burst_loss, duplicate] = self.random.random::<[f64; 4]>();
        let (delay, duplicate_delay) = (self.draw_delay(), self.draw_delay());
        let mut lost = loss < self.shape.loss;
        if let Some(burst) = self.shape.burst {
            let chance = if self.burst_is_bad { burst.to_good } else { burst.to_bad };
            self.burst_is_bad ^= step < chance;
            lost |= burst_loss < if self.burst_is_bad { burst.loss_bad } else { burst.loss_good };
        }
        if lost {
            count(&self.counters.lost, 1);
            return;
        }
        let twin = (duplicate < self.shape.duplicate).then(|| frame.clone());
        self.launch(done + delay, frame);
        if let Some(twin) = twin {
            count(&self.counters.duplicated, 1);
            self.launch(done + duplicate_delay, twin);
        }
    }

    fn launch(&mut self, mut at: u64, frame: Box<[u8]>) {
        if self.in_flight_bytes + frame.len() > MAX_IN_FLIGHT_BYTES {
            count(&self.counters.emulator_drops, 1);
            return;
        }
        if !self.shape.reorder {
            at = at.max(self.last_arrival);
        }
        self.last_arrival = self.last_arrival.max(at);
        self.in_flight_bytes += frame.len();
        self.serial += 1;
        self.in_flight.push(Reverse(InFlightFrame { at, serial: self.serial, frame }));
    }

    /// The propagation delay of one frame, in nanoseconds; always two draws.
    fn draw_delay(&mut self) -> u64 {
        let [first, second] = self.random.random::<[f64; 2]>();
        let shift = match self.shape.jitter {
            Jitter::None => 0.0,
            Jitter::Uniform(width) => (2.0 * first - 1.0) * width.as_nanos() as f64,
            Jitter::Normal(deviation) => {
                // Box-Muller; `first` is below 1, so the logarithm is finite.
                let normal = (-2.0 * (1.0 - first).ln()).sqrt() * (TAU * second).cos();
                normal.clamp(-NORMAL_CUT, NORMAL_CUT) * deviation.as_nanos() as f64
            }
        };
        // The cast turns negative values into zero.
        (self.shape.delay.as_nanos() as f64 + shift) as u64
    }
}

/// Maximum bytes in the delay line of one direction: nothing else bounds a shape with delay but without rate. 64 MiB is a second at 500 Mbit/s, more than
/// the emulator forwards in time.
pub(crate) const MAX_IN_FLIGHT_BYTES: usize = 64 << 20;

#[cfg(test)]
#[path = "pipe_tests.rs"]
mod tests;
