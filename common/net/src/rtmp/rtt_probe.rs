//! RTT measurement by RTMP pings, and detection of a dead server.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::Error;
use super::connection::Connection;
use super::session::ClientSession;
use crate::min_rtt::WindowedMinRtt;

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
    /// The RTT before the last one.
    previous: Duration,
    min_rtt: WindowedMinRtt,
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
            previous: Duration::ZERO,
            min_rtt: WindowedMinRtt::default(),
        }
    }

    /// The smaller of the last two RTTs, or the age of the oldest ping in flight, above the minimum RTT: a burst delays one measurement, a
    /// standing queue delays both.
    pub(super) fn queue_delay(&self, now: Instant) -> Option<Duration> {
        let min_rtt = self.min_rtt()?;
        let pending = self.pending.front().map_or(Duration::ZERO, |(_, since)| now - *since);
        let last = self.round_trip?.min(self.previous).max(pending);
        Some(last.saturating_sub(min_rtt))
    }

    /// The minimum RTT of the last seconds; `None` before the first.
    pub(super) fn min_rtt(&self) -> Option<Duration> {
        self.min_rtt.value()
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
        let now = Instant::now();
        let round_trip = now - since;
        self.previous = self.round_trip.replace(round_trip).unwrap_or_default();
        self.min_rtt.update(round_trip, now.into_std());
        self.overdue = false;
    }
}

/// Bounds the pings in flight: about three seconds at the interval of a publisher.
const MAX_PENDING_PINGS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    /// Pings every 100 ms, of which each takes `round_trip`.
    async fn ping(probe: &mut RttProbe, pings: u32, round_trip: Duration) {
        for stamp in 0..pings {
            probe.pending.push_back((stamp, Instant::now()));
            tokio::time::sleep(round_trip).await;
            probe.pong(stamp);
            tokio::time::sleep(Duration::from_millis(100).saturating_sub(round_trip)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_longer_route_is_not_a_queue_for_ever() {
        let ms = Duration::from_millis;
        let mut probe = RttProbe::new(ms(100));
        ping(&mut probe, 50, ms(20)).await;
        assert_eq!(probe.queue_delay(Instant::now()), Some(ms(0)));
        ping(&mut probe, 10, ms(90)).await;
        assert_eq!(probe.queue_delay(Instant::now()), Some(ms(70)), "it may be a queue");
        ping(&mut probe, 100, ms(90)).await;
        assert_eq!((probe.queue_delay(Instant::now()), probe.min_rtt()), (Some(ms(0)), Some(ms(90))));
    }
}
