//! Many writes in one system call, through io_uring.
//!
//! The only unsafe code of this crate. A submission returns only after the kernel has completed all its writes, so all memory passed to the
//! kernel outlives them. Completion does not depend on any peer: with `MSG_DONTWAIT`, a write to a full socket fails at once. `iovec` and
//! `msghdr` are libc's types, which the io-uring crate's interface takes.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;

use bytes::Bytes;
use io_uring::{IoUring, opcode, types};
use rustix::io::Errno;

use super::pending_write::{PendingWrite, rest};

/// A ring and the tables that its writes point to.
pub(super) struct Ring {
    ring: IoUring,
    slices: Vec<libc::iovec>,
    messages: Vec<libc::msghdr>,
}

// SAFETY: `slices` and `messages` hold raw pointers only while `submit` runs, which has `&mut self`.
unsafe impl Send for Ring {}

impl Ring {
    /// Creates a ring. Fails if the kernel has no io_uring or does not let this process use it.
    pub(super) fn new() -> io::Result<Self> {
        // A single thread submits and reaps, and completions need not interrupt it. Kernels before 6.0 know neither flag.
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_r_disabled()
            .build(ENTRIES)
            .or_else(|_| IoUring::builder().setup_r_disabled().build(ENTRIES))?;
        let mut probe = io_uring::Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if !probe.is_supported(opcode::SendMsg::CODE) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "io_uring has no SENDMSG here"));
        }
        Ok(Self { ring, slices: Vec::new(), messages: Vec::new() })
    }

    /// Makes the calling thread the only one that may submit.
    pub(super) fn enable(&mut self) -> io::Result<()> {
        self.ring.submitter().register_enable_rings()
    }

    /// Submits all `writes` and stores the outcome of each.
    pub(super) fn submit(&mut self, writes: &mut [PendingWrite<'_>]) {
        for some in writes.chunks_mut(ENTRIES as usize) {
            self.submit_some(some);
        }
    }

    /// Submits at most [`ENTRIES`] writes.
    fn submit_some(&mut self, writes: &mut [PendingWrite<'_>]) {
        let heads = self.lay_out(writes);
        for (index, (write, head)) in writes.iter().zip(heads).enumerate() {
            let message = &raw const self.messages[head];
            let entry = opcode::SendMsg::new(types::Fd(write.socket.as_raw_fd()), message)
                .flags((libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u32)
                .build()
                .user_data(index as u64);
            // SAFETY: the entry points to a `msghdr` in `self.messages`, that to `iovec`s in `self.slices`, and those to bytes that
            // `writes` borrows. None of them is modified before every entry has completed, below. The socket is borrowed for as long.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            pushed.expect("the queue is empty before, and has room for a chunk of writes");
        }
        let mut open = writes.len();
        while open > 0 {
            if let Err(error) = self.ring.submit_and_wait(open) {
                let is_passing = matches!(Errno::from_io_error(&error), Some(Errno::INTR | Errno::AGAIN | Errno::BUSY));
                if !is_passing {
                    // The kernel may still read memory that returning or unwinding would free.
                    tracing::error!(%error, "io_uring failed with writes in flight");
                    std::process::abort();
                }
            }
            for completion in self.ring.completion() {
                let result = completion.result();
                let write = usize::try_from(completion.user_data()).ok().and_then(|index| writes.get_mut(index));
                write.expect("completions carry what entries carried").outcome =
                    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result as usize) };
                open -= 1;
            }
        }
    }

    /// Fills the tables; returns the index of each write's message. Adjacent writes of the same bytes share a message.
    fn lay_out(&mut self, writes: &[PendingWrite<'_>]) -> Vec<usize> {
        self.slices.clear();
        self.messages.clear();
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        let mut heads = Vec::with_capacity(writes.len());
        let mut last: Option<(*const Bytes, usize, usize)> = None;
        for write in writes {
            let identity = (write.parts.as_ptr(), write.parts.len(), write.skip);
            if last != Some(identity) {
                last = Some(identity);
                let from = self.slices.len();
                self.slices.extend(
                    rest(write.parts, write.skip)
                        .take(SLICES_AT_ONCE)
                        .map(|slice| libc::iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len: slice.len() }),
                );
                ranges.push((from, self.slices.len() - from));
            }
            heads.push(ranges.len() - 1);
        }
        // `slices` does not reallocate from here on.
        let base = self.slices.as_mut_ptr();
        self.messages.extend(ranges.into_iter().map(|(from, count)| {
            // SAFETY: all-zero is a valid `msghdr`: no name, no slices, no control data.
            let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
            // SAFETY: `from` is within `slices`, or one past its end for a message without slices.
            message.msg_iov = unsafe { base.add(from) };
            message.msg_iovlen = count as _;
            message
        }));
        heads
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ring")
    }
}

/// Maximum number of writes per submission.
const ENTRIES: u32 = 1024;
/// Maximum number of slices per write; the kernel's limit (`UIO_MAXIOV`) is 1024.
const SLICES_AT_ONCE: usize = 512;
