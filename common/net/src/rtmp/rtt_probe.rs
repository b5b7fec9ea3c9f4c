//! A client's pings, and what they tell of the way to the server.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::Error;
use super::connection::Connection;
use super::session::ClientSession;

/// Pings a Nearcast server: measures the round trip and notices a server that is gone. Others are left alone, as many do not answer.
pub(super) struct Pulse {
    began: Instant,
    next: Instant,
    /// The numbers of the pings that are under way, and when each left, the oldest first. They go on while answers are waited for: a queue
    /// that grows is known by them as soon as it can be.
    pending: VecDeque<(u32, Instant)>,
    overdue: bool,
    every: Duration,
    pub(super) round_trip: Option<Duration>,
    /// The one before that.
    before: Duration,
    /// The quickest.
    least: Duration,
}

impl Pulse {
    pub(super) fn new(every: Duration) -> Self {
        let now = Instant::now();
        let (before, least) = (Duration::ZERO, Duration::MAX);
        Self { began: now, next: now, pending: VecDeque::new(), overdue: false, every, round_trip: None, before, least }
    }

    /// Of two measures the lesser: a moment's burst makes one of them long, a queue that stays makes both.
    pub(super) fn queueing(&self, now: Instant) -> Option<Duration> {
        let least = self.quickest()?;
        let pending = self.pending.front().map_or(Duration::ZERO, |(_, since)| now - *since);
        let last = self.round_trip?.min(self.before).max(pending);
        Some(last.saturating_sub(least))
    }

    pub(super) fn quickest(&self) -> Option<Duration> {
        (self.least != Duration::MAX).then_some(self.least)
    }

    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Pings if it is time.
    pub(super) fn beat<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        connection: &mut Connection<S, ClientSession>,
    ) -> Result<(), Error> {
        let now = Instant::now();
        if now < self.next {
            return Ok(());
        }
        self.next = now + self.every;
        if !connection.session.server_is_nearcast() {
            return Ok(());
        }
        // Overdue twice: a caller that slept finds the answer unread, and reads it before the second time.
        let is_overdue = self.pending.front().is_some_and(|(_, since)| now - *since > connection.limits.idle);
        if is_overdue && std::mem::replace(&mut self.overdue, true) {
            return Err(Error::Timeout { waiting_for: "answer to a ping", after: connection.limits.idle });
        }
        if self.pending.len() < MOST_PENDING {
            let stamp = (now - self.began).as_millis() as u32;
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
        self.before = self.round_trip.replace(round_trip).unwrap_or_default();
        self.least = self.least.min(round_trip);
        self.overdue = false;
    }
}

/// Pings that may be under way at once: some seconds of them; more would say no more of a way that is stuck.
const MOST_PENDING: usize = 32;
