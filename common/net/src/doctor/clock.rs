//! Compares this host's clock with a server's, which returns a single time for both reading and answering.

use std::time::Duration;

use media::WallClock;
use media::latency::{ClockOffset, Exchange, OffsetEstimator};
use reqwest::{Client, Url};
use tokio::time::Instant;

use super::http;
use super::probe::{ProbeError, as_millis, millis};
use super::report::Check;
use crate::api::ServerTime;
use crate::clock;

/// Queries the server a few times. `None` if it returns no time.
pub(super) async fn check(client: &Client, origin: &Url) -> Result<Option<Check>, ProbeError> {
    let Ok(url) = origin.join("api/v1/time") else { return Ok(None) };
    let mut estimator = OffsetEstimator::default();
    let started = Instant::now();
    for asked in 0..QUESTIONS {
        if asked > 0 && started.elapsed() > ENOUGH {
            break;
        }
        let (question, sent) = (Instant::now(), clock::now());
        let answer = http::get(client, url.clone()).await?;
        // Measured on the monotonic clock, which is not adjusted in between.
        let round_trip = i64::try_from(question.elapsed().as_micros()).unwrap_or(i64::MAX);
        let returned = WallClock::from_micros(sent.as_micros().saturating_add(round_trip));
        let Some(ServerTime { now_us, .. }) = answer.json() else { return Ok(None) };
        let theirs = WallClock::from_micros(now_us);
        estimator.record(started.elapsed(), Exchange { sent, received: theirs, answered: theirs, returned });
    }
    Ok(estimator.offset(started.elapsed()).map(judge))
}

/// `server` is the offset from this host's clock to the server's.
fn judge(server: ClockOffset) -> Check {
    let by = Duration::from_micros(server.micros.unsigned_abs());
    let uncertainty = Duration::from_micros(server.uncertainty);
    let is_behind = server.micros > 0;
    let way = if is_behind { "behind" } else { "ahead of" };
    let found = format!("{} {way} the server's, ± {}", millis(by), millis(uncertainty));
    let surely = by.saturating_sub(uncertainty);
    let fix = "synchronise this machine's clock with NTP: sudo timedatectl set-ntp true; and check the server's clock";
    let check = if surely > NOTICEABLE {
        Check::warn("clock", format!("{found}: latencies are wrong by this amount"), fix)
    } else {
        Check::ok("clock", found)
    };
    let signed = if is_behind { -as_millis(by) } else { as_millis(by) };
    check.with("ahead_ms", signed).with("uncertainty_ms", as_millis(uncertainty))
}

/// Number of requests: the first one includes the connection, and one of the others may be delayed.
const QUESTIONS: usize = 3;
/// Bounds the total time of the requests, so that a slow server gets one or two.
const ENOUGH: Duration = Duration::from_millis(400);
/// The offset that is reported: NTP stays below it, and latency figures show it.
const NOTICEABLE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::*;

    #[test]
    fn a_clock_offset_is_classified_by_size() {
        for (ahead_ms, uncertainty_ms, wanted, words) in [
            (12, 1, Status::Ok, "12 ms ahead of the server's, ± 1.0 ms"),
            (-12, 1, Status::Ok, "12 ms behind the server's"),
            (400, 350, Status::Ok, "400 ms"),
            (400, 5, Status::Warn, "latencies"),
            (-31_000, 5, Status::Warn, "latencies"),
            (29_000, 5, Status::Warn, "latencies"),
        ] {
            let check = judge(ClockOffset { micros: -ahead_ms * 1000, uncertainty: uncertainty_ms * 1000 });
            assert_eq!(check.status(), wanted, "{check:?}");
            assert!(format!("{check:?}").contains(words), "{check:?}");
        }
    }
}
