//! Drives a session over a socket; every read and write has a deadline.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout_at};

use super::framing::Framed;
use super::session::{ClientSession, ServerSession};
use super::{Error, Limits};

/// A pure protocol session, as [`Connection`] drives it.
pub(super) trait Session {
    fn input(&mut self, bytes: &[u8]) -> Result<(), Error>;
    fn output(&mut self) -> Bytes;
    fn pending(&self) -> usize;
}

impl Session for ServerSession {
    fn input(&mut self, bytes: &[u8]) -> Result<(), Error> {
        Self::input(self, bytes)
    }
    fn output(&mut self) -> Bytes {
        Self::output(self)
    }
    fn pending(&self) -> usize {
        Self::pending(self)
    }
}

impl Session for ClientSession {
    fn input(&mut self, bytes: &[u8]) -> Result<(), Error> {
        Self::input(self, bytes)
    }
    fn output(&mut self) -> Bytes {
        Self::output(self)
    }
    fn pending(&self) -> usize {
        Self::pending(self)
    }
}

/// A connection. All state is in it and none is in futures, so every method is cancel safe.
pub(super) struct Connection<S, E> {
    pub(super) session: E,
    pub(super) limits: Limits,
    io: S,
    read: Box<[u8]>,
    out: VecDeque<Bytes>,
    sent: u64,
    last_input: Instant,
    ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin, E: Session> Connection<S, E> {
    pub(super) fn new(io: S, session: E, limits: &Limits) -> Self {
        Self {
            session,
            limits: *limits,
            io,
            read: vec![0; READ_SIZE].into(),
            out: VecDeque::new(),
            sent: 0,
            last_input: Instant::now(),
            ended: false,
        }
    }

    /// Bytes written to the socket since the connection began.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Bytes queued for the socket.
    pub(super) fn unsent(&self) -> usize {
        self.out.iter().map(Bytes::len).sum()
    }

    /// Queues the session's output, then `framed`.
    pub(super) fn queue(&mut self, framed: Option<&Framed>) {
        let own = self.session.output();
        let framed = framed.into_iter().flat_map(|f| f.parts.iter().cloned());
        self.out.extend(Some(own).into_iter().chain(framed).filter(|part| !part.is_empty()));
    }

    /// Drops what is queued for the socket.
    pub(super) fn discard_queue(&mut self) {
        self.out.clear();
    }

    /// Reads once and feeds the session, unless it has pending events. False once the peer has closed its side. `deadline` bounds the wait.
    pub(super) async fn fill(&mut self, deadline: Deadline) -> Result<bool, Error> {
        if self.session.pending() > 0 {
            return Ok(true);
        }
        let wait = poll_fn(|cx| self.poll_fill(cx));
        timeout_at(deadline.at, wait).await.unwrap_or_else(|_| Err(deadline.passed()))
    }

    /// Writes everything queued and the session's output before `deadline`, and reads input meanwhile: two ends that both write before they
    /// read would deadlock.
    pub(super) async fn flush(&mut self, deadline: Deadline) -> Result<(), Error> {
        self.queue(None);
        let bound = self.unsent() + MAX_ANSWERS;
        let wait = poll_fn(|cx| {
            while !self.out.is_empty() && self.unsent() < bound && self.session.pending() < MAX_EVENTS {
                match self.poll_fill(cx)? {
                    Poll::Ready(true) => self.queue(None),
                    // A peer that has closed its writing side may still read.
                    Poll::Ready(false) | Poll::Pending => break,
                }
            }
            self.poll_flush(cx)
        });
        timeout_at(deadline.at, wait).await.unwrap_or_else(|_| Err(deadline.passed()))
    }

    /// Whether the peer has closed its side.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// The deadline of a write that begins now.
    pub(super) fn write_deadline(&self) -> Deadline {
        Deadline::after("room to write", self.limits.write)
    }

    /// The deadline for the peer's next data, counted from its last data.
    pub(super) fn idle_deadline(&self) -> Deadline {
        Deadline { waiting_for: "byte from the peer", at: self.last_input + self.limits.idle, after: self.limits.idle }
    }

    /// Writes what is queued, closes our side, and waits up to [`LINGER`] for the peer to close its own: closing a socket with unread input
    /// resets the connection, and the peer could lose the last bytes.
    pub(super) async fn close(&mut self) -> Result<(), Error> {
        self.flush(self.write_deadline()).await?;
        let shutdown = poll_fn(|cx| Pin::new(&mut self.io).poll_shutdown(cx));
        // An error means that the peer is gone, which ends the connection too.
        let _ = tokio::time::timeout(LINGER, shutdown).await;
        let deadline = Instant::now() + LINGER;
        let drain = poll_fn(|cx| {
            loop {
                let mut buffer = ReadBuf::new(&mut self.read);
                match ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer)) {
                    Ok(()) if !buffer.filled().is_empty() => {}
                    _ => return Poll::Ready(()),
                }
                // A peer that never stops sending must not hold the connection open.
                if Instant::now() >= deadline {
                    return Poll::Ready(());
                }
            }
        });
        let _ = timeout_at(deadline, drain).await;
        Ok(())
    }

    /// The socket and the session; queued bytes are lost.
    pub(super) fn into_parts(self) -> (S, E) {
        (self.io, self.session)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Error>> {
        if self.ended {
            return Poll::Ready(Ok(false));
        }
        let mut buffer = ReadBuf::new(&mut self.read);
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer));
        read.map_err(|source| Error::Io { during: "reading", source })?;
        let bytes = buffer.filled();
        if bytes.is_empty() {
            self.ended = true;
            return Poll::Ready(Ok(false));
        }
        self.last_input = Instant::now();
        self.session.input(bytes)?;
        Poll::Ready(Ok(true))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let failed = |source| Error::Io { during: "writing", source };
        while !self.out.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = self.out.len().min(MAX_SLICES);
            for (slice, part) in slices.iter_mut().zip(&self.out) {
                *slice = IoSlice::new(part);
            }
            let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &slices[..count])).map_err(failed)?;
            if written == 0 {
                return Poll::Ready(Err(failed(io::ErrorKind::WriteZero.into())));
            }
            self.sent += written as u64;
            self.advance(written);
        }
        Pin::new(&mut self.io).poll_flush(cx).map_err(failed)
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(part) = self.out.front_mut().filter(|_| written > 0) {
            let n = written.min(part.len());
            part.advance(n);
            written -= n;
            if part.is_empty() {
                self.out.pop_front();
            }
        }
    }
}

/// When a wait ends, and the [`Error::Timeout`] that it ends with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    waiting_for: &'static str,
    at: Instant,
    after: Duration,
}

impl Deadline {
    pub(super) fn after(waiting_for: &'static str, after: Duration) -> Self {
        Self { waiting_for, at: Instant::now() + after, after }
    }

    pub(super) fn passed(self) -> Error {
        Error::Timeout { waiting_for: self.waiting_for, after: self.after }
    }

    pub(super) fn at(self) -> Instant {
        self.at
    }
}

/// Bytes of one read: large enough that a busy publisher costs few system calls, small enough to allocate per connection.
const READ_SIZE: usize = 32 << 10;
/// Bounds the slices of one vectored write.
const MAX_SLICES: usize = 32;
/// Bounds the answers queued behind a write, in bytes: a peer that sends requests without reading is not read until it reads.
const MAX_ANSWERS: usize = 64 << 10;
/// Bounds the events queued behind a write; the media that they hold arrived in as many reads.
const MAX_EVENTS: usize = 64;
/// Bounds the time to drain a closed connection.
const LINGER: Duration = Duration::from_secs(1);
