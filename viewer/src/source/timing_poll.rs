//! Polls the server for timing reports (stage timestamps and its clock): on the relay's own connection, or by HTTP in addition to other
//! transports.

use std::time::{Duration, Instant};

use media::Timestamp;
use media::latency::{Exchange, TimingReport};
use net::clock;
use tokio::time::sleep;
use tracing::debug;

use super::api_client::ApiClient;
use super::{Error, EventSender, Position};

/// When the next request is due.
#[derive(Debug)]
pub(super) struct PollSchedule {
    asked: u32,
    pub(super) next: tokio::time::Instant,
}

impl PollSchedule {
    /// The first requests follow quickly, to estimate the clock offset.
    pub(super) fn start() -> Self {
        Self { asked: 0, next: tokio::time::Instant::now() + FAST_INTERVAL }
    }

    /// A request was sent.
    pub(super) fn on_request(&mut self) {
        self.asked += 1;
        self.next = tokio::time::Instant::now() + if self.asked < FAST_POLLS { FAST_INTERVAL } else { SLOW_INTERVAL };
    }
}

/// The clock exchange of a request that was sent, and whose response was received, at these times.
pub(super) fn exchange(report: &TimingReport, asked: Instant, came: Instant) -> Exchange {
    let ago = |at: Instant| i64::try_from(at.elapsed().as_micros()).unwrap_or(i64::MAX);
    // Between two readings of a clock the process may be suspended. In this order that only widens the exchange: it must never seem to begin
    // later, or to end earlier, than it did.
    let returned_ago = ago(came);
    let now = clock::now().as_micros();
    let sent_ago = ago(asked);
    let by_wall = |ago| media::WallClock::from_micros(now.saturating_sub(ago));
    Exchange {
        sent: by_wall(sent_ago),
        received: report.received,
        answered: report.answered,
        returned: by_wall(returned_ago),
    }
}

/// The unit to request a report about: one that was presented, and whose stages the broadcaster has reported to the server, which it does every
/// second.
pub(super) fn unit_to_query(position: &Position) -> Option<Timestamp> {
    let told = |newest: Timestamp| Timestamp::from_millis(newest.as_millis().saturating_sub(REPORT_DELAY));
    let newest = position.resume_point().and_then(|(_, have)| have.into_iter().map(|(_, dts)| dts).max());
    Some(position.last_presented()?.min(told(newest?)))
}

/// Runs a path to its end, and meanwhile polls its server by HTTP, if it has an API.
pub(super) async fn run_alongside(
    path: impl Future<Output = Result<(), Error>>,
    api: Option<ApiClient>,
    position: &Position,
    events: &EventSender,
) -> Result<(), Error> {
    let asking = async {
        if let Some(api) = api {
            poll(&api, position, events).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = path => result,
        () = asking => Ok(()),
    }
}

/// Polls until it is dropped, or until the server responds that it has no timing API.
async fn poll(api: &ApiClient, position: &Position, events: &EventSender) {
    let mut schedule = PollSchedule::start();
    loop {
        tokio::time::sleep_until(schedule.next).await;
        schedule.on_request();
        let sent = Instant::now();
        match api.timing(unit_to_query(position)).await {
            Ok(Some(report)) => {
                let exchange = exchange(&report, sent, Instant::now());
                if events.send(super::PathEvent::Timing(Box::new(report), exchange)).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(error) => {
                debug!(%error, "the server did not answer a timing request");
                sleep(SLOW_INTERVAL).await;
            }
        }
    }
}

/// Requests at the fast interval.
const FAST_POLLS: u32 = 4;
/// Interval of the first requests.
const FAST_INTERVAL: Duration = Duration::from_millis(500);
/// Interval of the others: under 0.1 kB/s.
const SLOW_INTERVAL: Duration = Duration::from_secs(5);
/// Milliseconds: the broadcaster's reporting interval and transit.
const REPORT_DELAY: i64 = 1_500;

#[cfg(test)]
mod tests {
    use media::{Epoch, TrackId};

    use super::*;

    #[test]
    fn the_queried_unit_was_presented_and_reported() {
        let position = Position::default();
        assert_eq!(unit_to_query(&position), None);
        // A server may send any DTS.
        for (newest, shown, asked) in [(9000, 8900, 7500), (9000, 4000, 4000), (i64::MIN, i64::MIN, i64::MIN)] {
            position.set(Epoch(1), vec![(TrackId::VIDEO, Timestamp::from_millis(newest))], None);
            position.set_presented(Some(Timestamp::from_millis(shown)));
            assert_eq!(unit_to_query(&position), Some(Timestamp::from_millis(asked)));
        }
    }
}
