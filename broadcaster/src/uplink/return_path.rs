//! The queue on the way back from the server, by the server's arrival stamps. Pure: the caller passes the time.
//!
//! An RTT does not tell in which direction a packet waited: the acknowledgements of the push may wait in a full link behind the server,
//! which viewers of the server fill. An exchange of clocks tells both directions apart, except for a constant: the offset of the two
//! clocks. The least delay of each direction lately has the same offset and no queue.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The delays of one exchange of clocks with the server, in microseconds, each with the unknown offset of its clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerStamps {
    /// From the sending of the request to its arrival.
    pub forward: i64,
    /// From the sending of the answer to its arrival.
    pub backward: i64,
}

/// The queue on the way back.
#[derive(Debug, Default)]
pub(super) struct ReturnPath {
    /// The exchanges of the last [`WINDOW`].
    exchanges: VecDeque<(ServerStamps, Instant)>,
    /// The delay on the way back in the last exchange.
    queue_delay: Duration,
}

impl ReturnPath {
    /// Adds an exchange; `queue_delay` is the present one of both directions.
    pub(super) fn on_exchange(&mut self, stamps: ServerStamps, queue_delay: Duration, now: Instant) {
        self.exchanges.push_back((stamps, now));
        while self.exchanges.pop_front_if(|(_, at)| now.saturating_duration_since(*at) > WINDOW).is_some() {}
        if self.exchanges.len() > MAX_EXCHANGES {
            self.exchanges.pop_front();
        }
        let least = self.exchanges.iter().map(|(stamps, _)| stamps.backward).min().unwrap_or(stamps.backward);
        let queued = Duration::from_micros(stamps.backward.saturating_sub(least).unsigned_abs());
        self.queue_delay = queued.min(queue_delay);
    }

    /// The queueing delay on the way back; zero once the last exchange is old.
    pub(super) fn queue_delay(&self, now: Instant) -> Duration {
        let is_fresh = self.exchanges.back().is_some_and(|(_, at)| now.saturating_duration_since(*at) < FRESH);
        if is_fresh { self.queue_delay } else { Duration::ZERO }
    }
}

/// Short enough for clocks that drift and routes that change, and longer than the window of the minimum RTT: a longer route back must be in
/// that before it is no queue any more.
const WINDOW: Duration = Duration::from_secs(12);
/// Bounds the memory.
const MAX_EXCHANGES: usize = 128;
/// Longer than the usual interval of exchanges.
const FRESH: Duration = Duration::from_millis(1500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_way_back_is_subtracted() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let ms = Duration::from_millis;
        let mut path = ReturnPath::default();
        // The server's clock is an hour ahead.
        let stamps = |forward: i64, backward: i64| ServerStamps {
            forward: 3_600_000_000 + forward * 1000,
            backward: -3_600_000_000 + backward * 1000,
        };
        path.on_exchange(stamps(10, 10), ms(0), at(0));
        path.on_exchange(stamps(210, 10), ms(200), at(1));
        assert_eq!(path.queue_delay(at(1)), ms(0), "the uplink is full");
        path.on_exchange(stamps(10, 210), ms(200), at(2));
        assert_eq!(path.queue_delay(at(2)), ms(200), "the link behind the server is full");
        path.on_exchange(stamps(10, 210), ms(50), at(3));
        assert_eq!(path.queue_delay(at(3)), ms(50), "at most what waits in all");
        assert_eq!(path.queue_delay(at(5)), ms(0), "nothing is known any more");
        // A longer route back is the least delay in the end.
        for seconds in 4..22 {
            path.on_exchange(stamps(10, 210), ms(200), at(seconds));
        }
        assert_eq!(path.queue_delay(at(21)), ms(0));
    }
}
