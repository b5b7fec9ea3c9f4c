//! The thread of one emulated link: it reads both packet sockets, runs both pipes, and sends each frame when it is due.
//!
//! It holds no policy: [`super::pipe`] decides what happens to a frame, [`super::Link`] is the interface for callers. One thread serves both
//! directions of a link, which suits machines with few cores; links do not wait for each other.

use std::hint;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use super::packet_socket::{PacketSocket, monotonic};
use super::pipe::{Counters, Pipe, count};
use super::priority::{Priority, raise_priority};
use super::shape::Shape;
use crate::lateness::Histogram;

/// A command to the thread; executed before the next frame.
#[derive(Debug)]
pub(crate) enum LoopCommand {
    /// Change the shape of a pipe, by its index.
    Set(usize, Shape),
    /// Open or close both pipes.
    Open(bool),
    /// End the thread.
    Stop,
}

/// The running thread; ends when dropped.
#[derive(Debug)]
pub(crate) struct Forwarder {
    commands: Sender<(LoopCommand, SyncSender<()>)>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    priority: Priority,
}

/// The state of the thread: frames that arrive at socket `i` enter pipe `i` and leave by socket `1 - i`.
pub(crate) struct ForwardLoop {
    pub(crate) sockets: Arc<[PacketSocket; 2]>,
    pub(crate) pipes: [Pipe; 2],
    pub(crate) counters: [Arc<Counters>; 2],
    pub(crate) histogram: Arc<Histogram>,
}

impl Forwarder {
    /// Starts the thread, and returns once it has its priority. Fails when no thread can be started.
    pub(crate) fn start(name: &str, forward_loop: ForwardLoop) -> Result<Forwarder> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("make an eventfd")?;
        let wake = Arc::new(wake);
        let (commands, received) = mpsc::channel();
        let (report, priority) = mpsc::sync_channel(1);
        let waker = Arc::clone(&wake);
        let thread = std::thread::Builder::new()
            .name(format!("link {name}"))
            .spawn(move || {
                // The receiver waits below, so the report cannot fail.
                let _ = report.send(raise_priority());
                forward_loop.run(&waker, &received);
            })
            .context("start the link's thread")?;
        let priority = priority.recv().context("the link's thread ended at once")?;
        Ok(Forwarder { commands, wake, thread: Some(thread), priority })
    }

    /// The thread's scheduling class.
    pub(crate) fn priority(&self) -> Priority {
        self.priority
    }

    /// Whether the thread still runs: before this is dropped, only a bug ends it.
    pub(crate) fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Sends `command` to the thread and waits until it is executed. Fails when the thread has ended or does not reply within
    /// [`COMMAND_TIMEOUT`].
    pub(crate) fn send(&self, command: LoopCommand) -> Result<()> {
        let (done, answer) = mpsc::sync_channel(1);
        self.commands.send((command, done)).map_err(|_| anyhow!("the link's thread has ended"))?;
        // It fails only when the counter is full, and then the thread is being woken already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        answer.recv_timeout(COMMAND_TIMEOUT).context("the link's thread does not answer")
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A thread that has already ended needs no stopping; its panic was printed when it happened.
            let _ = self.send(LoopCommand::Stop);
            let _ = thread.join();
        }
    }
}

impl ForwardLoop {
    fn run(mut self, wake: &OwnedFd, commands: &Receiver<(LoopCommand, SyncSender<()>)>) {
        let mut buffer = vec![0; MAX_FRAME];
        let mut spin = SpinBudget { budget: 0, since: monotonic() };
        loop {
            let [near, far] = self.sockets.each_ref().map(|socket| PollFd::new(socket, PollFlags::IN));
            let next = self.pipes.iter().filter_map(Pipe::next_event).min();
            let early = spin.allowance();
            let timeout = next.map(|next| next.saturating_sub(monotonic() + early));
            match wait(&mut [near, far, PollFd::new(wake, PollFlags::IN)], timeout.map(Duration::from_nanos)) {
                Err(_) => return,
                Ok(true) => {}
                Ok(false) if early > 0 => spin.until(next.unwrap_or(0)),
                Ok(false) => {}
            }
            drain(wake);
            while let Ok((command, done)) = commands.try_recv() {
                match command {
                    LoopCommand::Set(index, shape) => self.pipes[index].set(shape),
                    LoopCommand::Open(open) => self.pipes.iter_mut().for_each(|pipe| pipe.set_open(open)),
                    LoopCommand::Stop => {
                        let _ = done.send(());
                        return;
                    }
                }
                // A caller that timed out needs no reply.
                let _ = done.send(());
            }
            for index in 0..2 {
                self.take_in(index, &mut buffer);
            }
            for index in 0..2 {
                self.send_due(index);
            }
        }
    }

    fn take_in(&mut self, index: usize, buffer: &mut [u8]) {
        for _ in 0..BATCH {
            match self.sockets[index].receive(buffer) {
                Ok(Some(received)) if received.length <= buffer.len() => {
                    self.pipes[index].enter(received.at, buffer[..received.length].into());
                }
                Ok(Some(_)) => {
                    count(&self.counters[index].received, 1);
                    count(&self.counters[index].emulator_drops, 1);
                }
                // The interface went down (the link was cut); the error is reported once.
                Ok(None) | Err(_) => break,
            }
        }
    }

    fn send_due(&mut self, index: usize) {
        let mut now = monotonic();
        self.pipes[index].advance(now);
        while let Some((due, frame)) = self.pipes[index].leave(now) {
            self.histogram.record(now.saturating_sub(due));
            match self.sockets[1 - index].send(&frame) {
                Ok(()) => {
                    count(&self.counters[index].sent, 1);
                    count(&self.counters[index].sent_bytes, frame.len() as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::NetworkDown => {
                    count(&self.counters[index].link_down_drops, 1)
                }
                Err(_) => count(&self.counters[index].emulator_drops, 1),
            }
            now = monotonic();
        }
    }
}

/// Spins for the last part of a wait. In a virtual machine a sleeping core takes about 100 µs to wake, by which every frame on an idle machine
/// would be late. The share of time is limited, because a real-time thread that spins takes the core from the programs under test.
struct SpinBudget {
    /// Nanoseconds left for spinning, at most [`SPIN_SAVINGS`].
    budget: u64,
    since: u64,
}

impl SpinBudget {
    /// How early the next wait may end to spin for the rest, nanoseconds.
    fn allowance(&mut self) -> u64 {
        let now = monotonic();
        self.budget = (self.budget + (now - self.since) / SPIN_SHARE).min(SPIN_SAVINGS);
        self.since = now;
        if self.budget >= SPIN { SPIN } else { 0 }
    }

    fn until(&mut self, time: u64) {
        let start = monotonic();
        let mut now = start;
        while now < time {
            hint::spin_loop();
            now = monotonic();
        }
        self.budget = self.budget.saturating_sub(now - start);
    }
}

/// Waits until a descriptor is readable (true) or the timeout expires (false). Fails when poll(2) does, which only a bug here can cause.
fn wait(polled: &mut [PollFd<'_>; 3], timeout: Option<Duration>) -> io::Result<bool> {
    let timeout = timeout.map(|t| Timespec { tv_sec: t.as_secs() as i64, tv_nsec: i64::from(t.subsec_nanos()) });
    match poll(polled, timeout.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        // As if a descriptor were readable: the loop checks all of them.
        Err(Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn drain(wake: &OwnedFd) {
    // It fails when the counter is zero, which is fine.
    let _ = rustix::io::read(wake, &mut [0u8; 8]);
}

/// Frames read from one socket before due frames are sent. At up to 5 µs a frame, a flood in one direction delays the other by at most 0.1 ms.
const BATCH: usize = 16;

/// How early a wait ends to spin for the rest, nanoseconds: the time that a sleeping core takes to wake.
const SPIN: u64 = 100_000;

/// One part in this many of the time may be spent spinning: 5% of one core per link.
const SPIN_SHARE: u64 = 20;

/// Maximum budget for spinning, nanoseconds: enough for a handful of frames in a row.
const SPIN_SAVINGS: u64 = 1_000_000;

/// Maximum frame size, bytes: an Ethernet frame with a VLAN tag has 1,518. A longer one means that an offload is on; it is dropped and counted.
const MAX_FRAME: usize = 2048;

/// Timeout of a command. The thread replies within microseconds; this is for a machine that hangs.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);
