//! How a shard's writes reach the kernel: many sockets in one submission, or one system call each.

use std::io::{self, IoSlice, Write};

use super::pending_write::{PendingWrite, rest};
use super::uring::Ring;
use crate::config::FanoutEngine;

/// Submits non-blocking writes by io_uring or by system calls.
#[derive(Debug)]
pub(super) enum Submitter {
    Uring {
        ring: Box<Ring>,
        /// Whether falling back to epoll is forbidden.
        is_required: bool,
    },
    Direct,
}

impl Submitter {
    /// The submitter for `engine`.
    ///
    /// # Errors
    /// If `engine` requires io_uring and the kernel does not offer it.
    pub(super) fn new(engine: FanoutEngine) -> io::Result<Self> {
        match engine {
            FanoutEngine::Epoll => Ok(Self::Direct),
            FanoutEngine::Uring => Ring::new().map(|ring| Self::Uring { ring: Box::new(ring), is_required: true }),
            FanoutEngine::Auto => {
                let ring = Ring::new().map(Box::new);
                Ok(ring.map_or(Self::Direct, |ring| Self::Uring { ring, is_required: false }))
            }
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Uring { .. } => "uring",
            Self::Direct => "epoll",
        }
    }

    /// Binds it to the calling thread, the only one that may submit from now on.
    ///
    /// # Errors
    /// If io_uring is required and the ring cannot be enabled.
    pub(super) fn enable(&mut self) -> io::Result<()> {
        let Self::Uring { ring, is_required } = self else { return Ok(()) };
        match ring.enable() {
            Err(error) if !*is_required => {
                tracing::warn!(%error, "io_uring failed: falling back to epoll");
                *self = Self::Direct;
                Ok(())
            }
            enabled => enabled,
        }
    }

    /// Submits all `writes` and stores the outcome of each.
    pub(super) fn submit(&mut self, writes: &mut [PendingWrite<'_>]) {
        match self {
            Self::Uring { ring, .. } => ring.submit(writes),
            Self::Direct => writes.iter_mut().for_each(write_directly),
        }
    }
}

fn write_directly(write: &mut PendingWrite<'_>) {
    let mut slices = [IoSlice::new(&[]); SLICES_AT_ONCE];
    let mut count = 0;
    for (slice, bytes) in slices.iter_mut().zip(rest(write.parts, write.skip)) {
        *slice = IoSlice::new(bytes);
        count += 1;
    }
    write.outcome = loop {
        match (&mut &*write.socket).write_vectored(&slices[..count]) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            outcome => break outcome,
        }
    };
}

/// Slices per system call: more than one frame needs, and few enough for the stack. The kernel's limit is 1024.
const SLICES_AT_ONCE: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_io_uring_is_replaced_by_epoll_unless_it_is_required() {
        for (engine, expected) in [(FanoutEngine::Auto, Some("epoll")), (FanoutEngine::Uring, None)] {
            // Skipped if the kernel has no io_uring.
            let Ok(mut submitter) = Submitter::new(engine) else { continue };
            submitter.enable().unwrap();
            if submitter.name() == "uring" {
                // A ring cannot be enabled twice.
                assert_eq!(submitter.enable().is_ok().then(|| submitter.name()), expected);
            }
        }
    }
}
