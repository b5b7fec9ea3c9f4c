//! Telling the server when units were captured, encoded and sent, and learning its clock by the way.

use std::time::{Duration, Instant};

use media::Timestamp;
use media::latency::Stage;
use net::rtmp::MAX_TIMED_UNITS;
use net::rtmp::client::Publisher;

use crate::broadcast::Broadcast;

/// Over one connection.
#[derive(Debug, Default)]
pub(super) struct LatencyReporter {
    last: Option<Instant>,
    /// How often it was told.
    count: u32,
    /// The last unit that was told of.
    last_reported: Option<Timestamp>,
}

impl LatencyReporter {
    /// Tells what is new, if it is time. It goes out with what is sent next.
    pub(super) fn report(&mut self, broadcast: &Broadcast, publisher: &mut Publisher) {
        // The first answers, of an idle connection, say most of the clock.
        let wait = if self.count < FAST_REPORTS { FAST_INTERVAL } else { INTERVAL };
        let now = Instant::now();
        if self.last.is_some_and(|last| now < last + wait) {
            return;
        }
        (self.last, self.count) = (Some(now), self.count + 1);
        let mut units: Vec<_> = broadcast.timing_log().last(MAX_TIMED_UNITS, None).collect();
        units.retain(|unit| {
            self.last_reported.is_none_or(|last_reported| unit.dts > last_reported)
                && unit.stamps.at(Stage::Sent).is_some()
        });
        self.last_reported = units.last().map(|unit| unit.dts).or(self.last_reported);
        publisher.send_timing(broadcast.now(), broadcast.epoch(), units);
    }
}

/// Questions that come quickly.
const FAST_REPORTS: u32 = 4;
/// Between those.
const FAST_INTERVAL: Duration = Duration::from_millis(250);
/// Between the others: 6 kbit/s at 30 pictures a second.
const INTERVAL: Duration = Duration::from_secs(1);
