//! Reports to the server when units were captured, encoded and sent; the exchange also estimates the offset of its clock.

use std::time::{Duration, Instant};

use media::Timestamp;
use media::latency::Stage;
use net::rtmp::MAX_TIMED_UNITS;
use net::rtmp::client::Publisher;

use crate::broadcast::Broadcast;

/// Schedules the reports of one connection.
#[derive(Debug, Default)]
pub(super) struct LatencyReporter {
    last: Option<Instant>,
    /// Number of reports so far.
    count: u32,
    /// DTS of the last unit reported.
    last_reported: Option<Timestamp>,
}

impl LatencyReporter {
    /// Queues a report of the units sent since the last one and of the number of LAN viewers, if one is due: while there is a queue they
    /// are more frequent, since their exchanges tell where it is. It leaves with the next write. Returns whether one was due.
    pub(super) fn report(&mut self, broadcast: &Broadcast, publisher: &mut Publisher, lan_viewers: u64) -> bool {
        // The first exchanges, on an idle connection, bound the clock offset best.
        let is_fast = self.count < FAST_REPORTS || broadcast.uplink().has_queue();
        let wait = if is_fast { FAST_INTERVAL } else { INTERVAL };
        let now = Instant::now();
        if self.last.is_some_and(|last| now < last + wait) {
            return false;
        }
        (self.last, self.count) = (Some(now), self.count + 1);
        let mut units: Vec<_> = broadcast.timing_log().last(MAX_TIMED_UNITS, None).collect();
        units.retain(|unit| {
            self.last_reported.is_none_or(|last_reported| unit.dts > last_reported)
                && unit.stamps.at(Stage::Sent).is_some()
        });
        self.last_reported = units.last().map(|unit| unit.dts).or(self.last_reported);
        publisher.send_timing(
            broadcast.now(),
            broadcast.epoch(),
            units,
            u32::try_from(lan_viewers).unwrap_or(u32::MAX),
        );
        true
    }
}

/// Number of reports at [`FAST_INTERVAL`].
const FAST_REPORTS: u32 = 4;
/// Time between the first reports, and those while there is a queue.
const FAST_INTERVAL: Duration = Duration::from_millis(250);
/// Time between further reports: 6 kbit/s at 30 frames per second.
const INTERVAL: Duration = Duration::from_secs(1);
