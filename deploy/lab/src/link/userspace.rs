//! A link emulated in userspace: a packet socket at each end, and a thread between them that runs the model.
//!
//! Only this emulator follows a seed and measures its timing error for each frame. The model is in [`super::pipe`], the thread in
//! [`super::forward`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

use super::counts::FrameCounts;
use super::forward::{ForwardLoop, Forwarder, LoopCommand};
use super::packet_socket::PacketSocket;
use super::pipe::{Counters, Pipe};
use super::priority::Priority;
use super::shape::Shape;

use crate::lateness::{Histogram, Lateness};
use crate::namespace::Namespace;

/// A running emulator.
#[derive(Debug)]
pub(super) struct UserspaceLink {
    sockets: Arc<[PacketSocket; 2]>,
    counters: [Arc<Counters>; 2],
    histogram: Arc<Histogram>,
    priority: Priority,
    /// `None` once the network is gone.
    forwarder: Mutex<Option<Forwarder>>,
}

impl UserspaceLink {
    /// Starts forwarding between the interfaces `ends` of the namespace `wire`, which must be up.
    pub(super) fn start(
        name: &str,
        wire: &Namespace,
        ends: [&str; 2],
        shapes: [Shape; 2],
        seeds: [u64; 2],
    ) -> Result<UserspaceLink> {
        let [a, b] = wire.run(|| ends.map(PacketSocket::open))?;
        let sockets = Arc::new([a?, b?]);
        let counters = [(); 2].map(|()| Arc::new(Counters::default()));
        let pipes = [0, 1].map(|i| Pipe::new(shapes[i], seeds[i], Arc::clone(&counters[i])));
        let histogram = Arc::new(Histogram::new());
        let forward_loop = ForwardLoop {
            sockets: Arc::clone(&sockets),
            pipes,
            counters: counters.clone(),
            histogram: Arc::clone(&histogram),
        };
        let forwarder = Forwarder::start(name, forward_loop)?;
        let priority = forwarder.priority();
        Ok(UserspaceLink { sockets, counters, histogram, priority, forwarder: Mutex::new(Some(forwarder)) })
    }

    /// Sets the shape of one direction, by its index, from the next frame on. Fails when the network is gone.
    pub(super) fn set(&self, index: usize, shape: Shape) -> Result<()> {
        self.send(LoopCommand::Set(index, shape))
    }

    /// Forwards frames, or drops them and those in flight. Fails when the network is gone.
    pub(super) fn open(&self, open: bool) -> Result<()> {
        self.send(LoopCommand::Open(open))
    }

    /// Counters by direction.
    pub(super) fn counts(&self) -> [FrameCounts; 2] {
        [0, 1].map(|i| {
            let counters = &self.counters[i];
            let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            FrameCounts {
                received: read(&counters.received),
                sent: read(&counters.sent),
                sent_bytes: read(&counters.sent_bytes),
                lost: read(&counters.lost),
                queue_drops: read(&counters.queue_drops),
                duplicated: read(&counters.duplicated),
                link_down_drops: read(&counters.link_down_drops),
                emulator_drops: read(&counters.emulator_drops),
                kernel_drops: self.sockets[i].kernel_drops(),
            }
        })
    }

    /// The timing error so far, both directions together.
    pub(super) fn lateness(&self) -> Lateness {
        self.histogram.snapshot()
    }

    /// The thread's scheduling class.
    pub(super) fn priority(&self) -> Priority {
        self.priority
    }

    /// Whether the thread runs.
    pub(super) fn is_running(&self) -> bool {
        self.forwarder().as_ref().is_some_and(Forwarder::is_running)
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        *self.forwarder() = None;
    }

    fn send(&self, order: LoopCommand) -> Result<()> {
        self.forwarder().as_ref().context("the link's network is gone")?.send(order)
    }

    fn forwarder(&self) -> MutexGuard<'_, Option<Forwarder>> {
        // A panic elsewhere leaves either a valid forwarder or none.
        self.forwarder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
