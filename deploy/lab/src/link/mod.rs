//! The handle of an emulated link: change its shape, cut and heal it, and read its counters while it runs.
//!
//! [`crate::network`] creates the interfaces; `userspace` (packet sockets and a thread) or `netem` (the kernel) emulates the link. Every
//! method may be called from any thread.

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;

use crate::interface::Interface;
use crate::lateness::Lateness;
use crate::namespace::Namespace;
pub use counts::{FrameCounts, Stats};
use netem::NetemLink;
pub use priority::Priority;
use shape::Shape;
use userspace::UserspaceLink;

mod counts;
mod forward;
pub(crate) mod netem;
mod packet_socket;
mod pipe;
mod priority;
pub mod shape;
pub(crate) mod timer_probe;
mod userspace;

/// What emulates a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Emulator {
    /// The lab's own emulator: supports every setting, follows the seed, records its timing error for each frame
    #[default]
    Userspace,
    /// The kernel's tc-netem: queues are limited in frames, loss precedes serialisation, no seed
    Netem,
    /// netem for each link that the kernel can emulate, else userspace
    Auto,
}

/// A direction of a link; A is the end named first when the link was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the first end to the second.
    AToB,
    /// From the second end to the first.
    BToA,
}

impl Direction {
    /// Both directions, in index order.
    pub const BOTH: [Direction; 2] = [Direction::AToB, Direction::BToA];

    fn index(self) -> usize {
        match self {
            Direction::AToB => 0,
            Direction::BToA => 1,
        }
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
    shapes: Mutex<[Shape; 2]>,
    engine: Engine,
}

/// What is between the two ends in the wire namespace.
#[derive(Debug)]
enum Engine {
    Userspace(UserspaceLink),
    Netem(Box<NetemLink>),
}

impl Link {
    /// Starts forwarding between the interfaces `ends` of the namespace `wire`, whose veth peers are `far`. All
    /// four must be up. Without `seeds` it is netem that forwards.
    pub(crate) fn start(
        name: &str,
        wire: &Namespace,
        ends: [&str; 2],
        far: [Interface; 2],
        shapes: [Shape; 2],
        seeds: Option<[u64; 2]>,
    ) -> Result<Link> {
        let [near_a, near_b] = wire.run(|| ends.map(Interface::open))?;
        let engine = match seeds {
            Some(seeds) => Engine::Userspace(UserspaceLink::start(name, wire, ends, shapes, seeds)?),
            None => Engine::Netem(Box::new(NetemLink::start(wire, ends, shapes)?)),
        };
        Ok(Link { name: name.to_owned(), near: [near_a?, near_b?], far, shapes: Mutex::new(shapes), engine })
    }

    /// The name given at creation.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The emulator in use: never [`Emulator::Auto`].
    pub fn emulator(&self) -> Emulator {
        match self.engine {
            Engine::Userspace(_) => Emulator::Userspace,
            Engine::Netem(_) => Emulator::Netem,
        }
    }

    /// Changes what one direction does, from the next frame on: rate and queue for frames that have not begun
    /// serialisation, all else for frames that have not entered the delay line. Returns once in effect.
    ///
    /// Fails when a field is out of its range, when netem emulates the link and cannot do it, or when the network is gone.
    pub fn set(&self, direction: Direction, shape: Shape) -> Result<()> {
        shape.validate()?;
        let mut shapes = self.shapes();
        match &self.engine {
            Engine::Userspace(link) => link.set(direction.index(), shape),
            Engine::Netem(link) => link.set(direction.index(), shape),
        }?;
        shapes[direction.index()] = shape;
        Ok(())
    }

    /// [`Link::set`] for both directions, one after the other.
    pub fn set_both(&self, shape: Shape) -> Result<()> {
        Direction::BOTH.iter().try_for_each(|direction| self.set(*direction, shape))
    }

    /// The shape in force.
    pub fn shape(&self, direction: Direction) -> Shape {
        self.shapes()[direction.index()]
    }

    /// Disconnects the cable: both ends lose carrier, and frames in flight are lost. Addresses and routes stay. Returns once both ends
    /// have lost carrier.
    ///
    /// Fails when an interface cannot be set down or the network is gone.
    pub fn cut(&self) -> Result<()> {
        let _one_at_a_time = self.shapes();
        self.open(false)?;
        self.near.iter().try_for_each(Interface::down)?;
        self.far.iter().try_for_each(|end| end.await_running(false))
    }

    /// Drops every frame from now on, and those in flight, while both ends keep carrier. Returns once in effect. Fails when the network
    /// is gone.
    pub fn blackhole(&self) -> Result<()> {
        let _one_at_a_time = self.shapes();
        self.open(false)
    }

    /// Ends a cut or a black hole, or both; has no effect on a working link. Returns once both ends have carrier.
    ///
    /// Fails when an interface does not come up or the network is gone.
    pub fn heal(&self) -> Result<()> {
        let _one_at_a_time = self.shapes();
        self.near.iter().try_for_each(Interface::up)?;
        self.near.iter().chain(&self.far).try_for_each(|end| end.await_running(true))?;
        self.open(true)
    }

    fn open(&self, open: bool) -> Result<()> {
        match &self.engine {
            Engine::Userspace(link) => link.open(open),
            Engine::Netem(link) => link.open(open),
        }
    }

    /// Counters of both directions since the link was created.
    pub fn stats(&self) -> Stats {
        let [a_to_b, b_to_a] = match &self.engine {
            Engine::Userspace(link) => link.counts(),
            Engine::Netem(link) => link.counts(),
        };
        Stats { a_to_b, b_to_a }
    }

    /// The timing error so far, both directions together; `None` for netem, which does not report it.
    pub fn lateness(&self) -> Option<Lateness> {
        match &self.engine {
            Engine::Userspace(link) => Some(link.lateness()),
            Engine::Netem(_) => None,
        }
    }

    /// How the emulator's thread is scheduled; netem has none.
    pub fn priority(&self) -> Option<Priority> {
        match &self.engine {
            Engine::Userspace(link) => Some(link.priority()),
            Engine::Netem(_) => None,
        }
    }

    /// Whether frames are being handled at all: false once the network is gone or the thread has failed.
    pub fn is_running(&self) -> bool {
        match &self.engine {
            Engine::Userspace(link) => link.is_running(),
            Engine::Netem(link) => link.is_running(),
        }
    }

    /// Stops the emulator; from then on nothing is forwarded.
    pub(crate) fn stop(&self) {
        match &self.engine {
            Engine::Userspace(link) => link.stop(),
            Engine::Netem(link) => link.stop(),
        }
    }

    fn shapes(&self) -> MutexGuard<'_, [Shape; 2]> {
        // No invariant spans the two shapes, so a panic elsewhere leaves them good.
        self.shapes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
