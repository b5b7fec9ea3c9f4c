//! A client's pings, and what they tell of the way to the server.

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
    /// The number of the ping that is under way, and when it left.
    pending: Option<(u32, Instant)>,
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
        Self { began: now, next: now, pending: None, overdue: false, every, round_trip: None, before, least }
    }

    /// Of two measures the lesser: a moment's burst makes one of them long, a queue that stays makes both.
    pub(super) fn queueing(&self, now: Instant) -> Option<Duration> {
        if self.least == Duration::MAX {
            return None;
        }
        let pending = self.pending.map_or(Duration::ZERO, |(_, since)| now - since);
        let last = self.round_trip?.min(self.before).max(pending);
        Some(last.saturating_sub(self.least))
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
        match self.pending {
            // Overdue twice: a caller that slept finds the answer unread, and reads it before the second time.
            Some((_, since)) if now - since > connection.limits.idle => {
                if std::mem::replace(&mut self.overdue, true) {
                    return Err(Error::Timeout { waiting_for: "answer to a ping", after: connection.limits.idle });
                }
                Ok(())
            }
            Some(_) => Ok(()),
            None => {
                let stamp = (now - self.began).as_millis() as u32;
                self.pending = Some((stamp, now));
                connection.session.ping(stamp);
                Ok(())
            }
        }
    }

    pub(super) fn pong(&mut self, stamp: u32) {
        if let Some((_, since)) = self.pending.take_if(|(pending, _)| *pending == stamp) {
            let round_trip = since.elapsed();
            self.before = self.round_trip.replace(round_trip).unwrap_or_default();
            self.least = self.least.min(round_trip);
            self.overdue = false;
        }
    }
}
