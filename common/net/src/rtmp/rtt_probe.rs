//! RTT measurement by RTMP pings, and detection of a dead server.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::Error;
use super::connection::Connection;
use super::session::ClientSession;

/// One measurement of the RTT, queueing included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RttSample {
    /// The RTT.
    pub rtt: Duration,
    /// When it was measured.
    pub at: std::time::Instant,
}

/// Pings a Nearcast server to measure the RTT and to detect that it is gone. Other servers are not pinged, because many do not answer.
pub(super) struct RttProbe {
    started: Instant,
    next: Instant,
    /// Number and time of the pings in flight, oldest first. Pings continue while answers are outstanding, so that a growing queue is detected
    /// early.
    pending: VecDeque<(u32, Instant)>,
    overdue: bool,
    interval: Duration,
    pub(super) round_trip: Option<Duration>,
    /// When the last answer arrived.
    answered: Instant,
}

impl RttProbe {
    pub(super) fn new(interval: Duration) -> Self {
        let now = Instant::now();
        Self {
            started: now,
            next: now,
            pending: VecDeque::new(),
            overdue: false,
            interval,
            round_trip: None,
            answered: now,
        }
    }

    /// The last answer; `None` before the first.
    pub(super) fn sample(&self) -> Option<RttSample> {
        Some(RttSample { rtt: self.round_trip?, at: self.answered.into_std() })
    }

    /// The age of the oldest ping in flight: the RTT is at least as long. Zero without one.
    pub(super) fn outstanding(&self, now: Instant) -> Duration {
        self.pending.front().map_or(Duration::ZERO, |(_, since)| now - *since)
    }

    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Sends a ping if one is due.
    ///
    /// # Errors
    /// [`Error::Timeout`] if a ping has been unanswered for `limits.idle`.
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
        // Overdue twice in a row: after a long pause of the caller, the answer has arrived but is not read yet.
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
        // Answers arrive in order.
        let Some((_, since)) = self.pending.drain(..=place).next_back() else { return };
        self.answered = Instant::now();
        self.round_trip = Some(self.answered - since);
        self.overdue = false;
    }
}

/// Bounds the pings in flight: about three seconds at the interval of a publisher.
const MAX_PENDING_PINGS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_ping_in_flight_bounds_the_rtt_from_below() {
        let ms = Duration::from_millis;
        let mut probe = RttProbe::new(ms(100));
        assert_eq!((probe.sample(), probe.outstanding(Instant::now())), (None, ms(0)));
        for stamp in [0, 100] {
            probe.pending.push_back((stamp, Instant::now()));
            tokio::time::sleep(ms(100)).await;
        }
        assert_eq!(probe.outstanding(Instant::now()), ms(200));
        probe.pong(0);
        let at = Instant::now().into_std();
        assert_eq!(
            (probe.sample(), probe.outstanding(Instant::now())),
            (Some(RttSample { rtt: ms(200), at }), ms(100))
        );
    }
}
