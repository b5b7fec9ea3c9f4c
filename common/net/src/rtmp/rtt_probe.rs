//! A client's pings, and what they tell of the way to the server.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::Error;
use super::connection::Connection;
use super::session::ClientSession;

/// Pings a Nearcast server: measures the round trip and notices a server that is gone. Others are left alone, as many do not answer.
pub(super) struct RttProbe {
    started: Instant,
    next: Instant,
    /// The numbers of the pings that are under way, and when each left, the oldest first. They go on while answers are waited for: a queue
    /// that grows is known by them as soon as it can be.
    pending: VecDeque<(u32, Instant)>,
    overdue: bool,
    interval: Duration,
    pub(super) round_trip: Option<Duration>,
    /// The one previous that.
    previous: Duration,
    /// The min_rtt.
    min_rtt: Duration,
}

impl RttProbe {
    pub(super) fn new(interval: Duration) -> Self {
        let now = Instant::now();
        let (previous, min_rtt) = (Duration::ZERO, Duration::MAX);
        Self {
            started: now,
            next: now,
            pending: VecDeque::new(),
            overdue: false,
            interval,
            round_trip: None,
            previous,
            min_rtt,
        }
    }

    /// Of two measures the lesser: a moment's burst makes one of them long, a queue that stays makes both.
    pub(super) fn queue_delay(&self, now: Instant) -> Option<Duration> {
        let min_rtt = self.min_rtt()?;
        let pending = self.pending.front().map_or(Duration::ZERO, |(_, since)| now - *since);
        let last = self.round_trip?.min(self.previous).max(pending);
        Some(last.saturating_sub(min_rtt))
    }

    pub(super) fn min_rtt(&self) -> Option<Duration> {
        (self.min_rtt != Duration::MAX).then_some(self.min_rtt)
    }

    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Pings if it is time.
    pub(super) fn poll<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        connection: &mut Connection<S, ClientSession>,
    ) -> Result<(), Error> {
        let now = Instant::now();
        if now < self.next {
            return Ok(());
        }
        self.next = now + self.interval;
        if !connection.session.server_is_nearcast() {
            return Ok(());
        }
        // Overdue twice: a caller that slept finds the answer unread, and reads it previous the second time.
        let is_overdue = self.pending.front().is_some_and(|(_, since)| now - *since > connection.limits.idle);
        if is_overdue && std::mem::replace(&mut self.overdue, true) {
            return Err(Error::Timeout { waiting_for: "answer to a ping", after: connection.limits.idle });
        }
        if self.pending.len() < MAX_PENDING_PINGS {
            let stamp = (now - self.started).as_millis() as u32;
            self.pending.push_back((stamp, now));
            connection.session.ping(stamp);
        }
        Ok(())
    }

    pub(super) fn pong(&mut self, stamp: u32) {
        let Some(place) = self.pending.iter().position(|(pending, _)| *pending == stamp) else { return };
        // Answers come in the order of what they answer.
        let Some((_, since)) = self.pending.drain(..=place).next_back() else { return };
        let round_trip = since.elapsed();
        self.previous = self.round_trip.replace(round_trip).unwrap_or_default();
        self.min_rtt = self.min_rtt.min(round_trip);
        self.overdue = false;
    }
}

/// Pings that may be under way at once: some seconds of them; more would say no more of a way that is stuck.
const MAX_PENDING_PINGS: usize = 32;
