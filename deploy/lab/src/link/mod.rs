//! The emulated link's handle: changing its shape, cutting and healing it, and reading its counters, all while
//! it runs.
//!
//! It is not the cable's making, which is in [`crate::network`], nor the emulation, which is in `pipe` (the
//! model) and `forward` (the thread). Every method may be called from any thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

use crate::interface::Interface;
use crate::lateness::{Histogram, Lateness};
use crate::namespace::Namespace;
use forward::{Forwarder, Order, Works};
use pipe::{Counters, Pipe};
use shape::Shape;
use socket::PacketSocket;

mod forward;
mod pipe;
pub mod shape;
mod socket;

/// A way along a link, from the end named first when it was made (A) to the other (B), or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the first end to the second.
    AToB,
    /// From the second end to the first.
    BToA,
}

impl Direction {
    /// Both directions.
    pub const BOTH: [Direction; 2] = [Direction::AToB, Direction::BToA];

    fn index(self) -> usize {
        match self {
            Direction::AToB => 0,
            Direction::BToA => 1,
        }
    }
}

/// How the emulator's thread is scheduled. Anything but real time makes void runs likely on a busy machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// SCHED_FIFO.
    RealTime,
    /// Ordinary scheduling, with the highest niceness priority.
    Nice,
    /// Ordinary scheduling: neither was allowed.
    Normal,
}

/// What happened in one direction since the link was made, in frames.
///
/// `received + duplicated` is the sum of all others but `kernel_drops`, and of the frames still on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Taken in at the near end.
    pub received: u64,
    /// Put out at the far end.
    pub sent: u64,
    /// Their lengths together.
    pub sent_bytes: u64,
    /// Lost by the shape's random or burst loss.
    pub lost: u64,
    /// Dropped at the full queue.
    pub queue_full: u64,
    /// Second copies made by the shape.
    pub duplicated: u64,
    /// Swallowed because the link was cut or a black hole.
    pub unheard: u64,
    /// Dropped by the emulator against the shape: oversized, too many in flight, or refused by the kernel.
    pub emulator_drops: u64,
    /// Dropped by the kernel before the emulator saw them.
    pub kernel_drops: u64,
}

/// The counts of both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// First end to second.
    pub a_to_b: Counts,
    /// Second end to first.
    pub b_to_a: Counts,
}

impl Stats {
    /// Frames that the emulator or the kernel dropped against the shape, both directions together. Other than
    /// zero, the run is void.
    pub fn improper_drops(&self) -> u64 {
        [self.a_to_b, self.b_to_a].iter().map(|counts| counts.emulator_drops + counts.kernel_drops).sum()
    }
}

/// A running emulated link. Made by [`crate::Network::link`]; stops forwarding when its network is dropped.
#[derive(Debug)]
pub struct Link {
    name: String,
    /// The ends in the wire namespace, which cutting takes down.
    near: [Interface; 2],
    /// The ends at the host or switch, which then lose carrier.
    far: [Interface; 2],
    sockets: Arc<[PacketSocket; 2]>,
    counters: [Arc<Counters>; 2],
    histogram: Arc<Histogram>,
    state: Mutex<State>,
    priority: Priority,
}

#[derive(Debug)]
struct State {
    shapes: [Shape; 2],
    /// `None` once the network is gone.
    forwarder: Option<Forwarder>,
}

impl Link {
    /// Starts forwarding between the interfaces `ends` of the namespace `wire`, whose veth peers are `far`. All
    /// four must be up.
    pub(crate) fn start(
        name: &str,
        wire: &Namespace,
        ends: [&str; 2],
        far: [Interface; 2],
        shapes: [Shape; 2],
        seeds: [u64; 2],
    ) -> Result<Link> {
        let open = |end| Ok((Interface::open(end)?, PacketSocket::open(end)?));
        let [a, b] = wire.run(|| ends.map(open))?.map(|end: Result<_>| end.with_context(|| format!("link {name}")));
        let ((near_a, socket_a), (near_b, socket_b)) = (a?, b?);
        let sockets = Arc::new([socket_a, socket_b]);
        let counters = [(); 2].map(|()| Arc::new(Counters::default()));
        let pipes = [0, 1].map(|i| Pipe::new(shapes[i], seeds[i], Arc::clone(&counters[i])));
        let histogram = Arc::new(Histogram::new());
        let works = Works {
            sockets: Arc::clone(&sockets),
            pipes,
            counters: counters.clone(),
            histogram: Arc::clone(&histogram),
        };
        let forwarder = Forwarder::start(name, works)?;
        let priority = forwarder.priority();
        let state = Mutex::new(State { shapes, forwarder: Some(forwarder) });
        Ok(Link { name: name.to_owned(), near: [near_a, near_b], far, sockets, counters, histogram, state, priority })
    }

    /// The name it was made under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Changes what one direction does, from the next frame on: rate and queue for frames that have not begun
    /// serialisation, all else for frames that have not entered the delay line. Returns once in force.
    ///
    /// Fails when a field is out of its range, or the network is gone.
    pub fn set(&self, direction: Direction, shape: Shape) -> Result<()> {
        shape.validate()?;
        let mut state = self.state();
        state.ask(Order::Set(direction.index(), shape))?;
        state.shapes[direction.index()] = shape;
        Ok(())
    }

    /// [`Link::set`] for both directions, one after the other.
    pub fn set_both(&self, shape: Shape) -> Result<()> {
        Direction::BOTH.iter().try_for_each(|direction| self.set(*direction, shape))
    }

    /// The shape in force.
    pub fn shape(&self, direction: Direction) -> Shape {
        self.state().shapes[direction.index()]
    }

    /// Pulls the cable: both ends lose carrier, as programs at the ends may notice, and frames on their way are
    /// lost. Addresses and routes stay. Returns once both ends have noticed.
    ///
    /// Fails when an interface cannot be set down or the network is gone.
    pub fn cut(&self) -> Result<()> {
        let state = self.state();
        state.ask(Order::Open(false))?;
        self.near.iter().try_for_each(Interface::down)?;
        self.far.iter().try_for_each(|end| end.await_running(false))
    }

    /// Drops every frame from now on, and those on their way, while both ends keep carrier: nothing but
    /// silence tells. Returns once in force. Fails when the network is gone.
    pub fn blackhole(&self) -> Result<()> {
        self.state().ask(Order::Open(false))
    }

    /// Ends a cut or a black hole, or both; nothing happens on a sound link. Returns once both ends have
    /// carrier.
    ///
    /// Fails when an interface does not come up or the network is gone.
    pub fn heal(&self) -> Result<()> {
        let state = self.state();
        self.near.iter().try_for_each(Interface::up)?;
        self.near.iter().chain(&self.far).try_for_each(|end| end.await_running(true))?;
        state.ask(Order::Open(true))
    }

    /// What happened so far.
    pub fn stats(&self) -> Stats {
        let [a_to_b, b_to_a] = [0, 1].map(|i| {
            let counters = &self.counters[i];
            let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            Counts {
                received: read(&counters.received),
                sent: read(&counters.sent),
                sent_bytes: read(&counters.sent_bytes),
                lost: read(&counters.lost),
                queue_full: read(&counters.queue_full),
                duplicated: read(&counters.duplicated),
                unheard: read(&counters.unheard),
                emulator_drops: read(&counters.emulator_drops),
                kernel_drops: self.sockets[i].kernel_drops(),
            }
        });
        Stats { a_to_b, b_to_a }
    }

    /// How late frames were sent so far, both directions together.
    pub fn lateness(&self) -> Lateness {
        self.histogram.snapshot()
    }

    /// How the emulator's thread is scheduled.
    pub fn priority(&self) -> Priority {
        self.priority
    }

    /// Whether frames are being handled at all: false once the network is gone or the thread has failed.
    pub fn is_running(&self) -> bool {
        self.state().forwarder.as_ref().is_some_and(Forwarder::is_running)
    }

    /// Ends the thread; from then on nothing passes.
    pub(crate) fn stop(&self) {
        self.state().forwarder = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No invariant of the state spans two of its fields, so a panic elsewhere leaves it good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn ask(&self, order: Order) -> Result<()> {
        self.forwarder.as_ref().context("the link's network is gone")?.ask(order)
    }
}
