//! How far this machine's clock is from a server's, as NTP reckons (RFC 5905 §8) with the server's two times in one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::{Client, Url};
use serde_json::Value;
use tokio::time::Instant;

use super::reach::{Trouble, as_millis, millis};
use super::server::Role;
use super::{Check, http};
use crate::trust::ticket;

/// What a question to the server told. Microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Offset {
    /// Ours less the server's.
    ahead: i64,
    /// Half of the round trip: the answer was made at any moment of it.
    uncertainty: i64,
}

/// Asks a few times; the quickest answer says most. `None` if whoever answers tells no time.
pub(super) async fn check(client: &Client, origin: &Url, role: Role) -> Result<Option<Check>, Trouble> {
    let Ok(url) = origin.join("/api/v1/time") else { return Ok(None) };
    let mut best: Option<Offset> = None;
    let started = Instant::now();
    for _ in 0..QUESTIONS {
        if best.is_some() && started.elapsed() > ENOUGH {
            break;
        }
        let (sent, clock) = (Instant::now(), now());
        let answer = http::get(client, url.clone()).await?;
        let round_trip = sent.elapsed();
        let Some(theirs) = answer.json().and_then(|json| json.get("now_us").and_then(Value::as_i64)) else {
            return Ok(None);
        };
        let offset = offset(clock, round_trip, theirs);
        if best.is_none_or(|best| offset.uncertainty < best.uncertainty) {
            best = Some(offset);
        }
    }
    Ok(best.map(|offset| judge(offset, role)))
}

fn offset(sent: i64, round_trip: Duration, theirs: i64) -> Offset {
    let half = i64::try_from(round_trip.as_micros() / 2).unwrap_or(i64::MAX);
    Offset { ahead: sent.saturating_add(half).saturating_sub(theirs), uncertainty: half }
}

fn judge(offset: Offset, role: Role) -> Check {
    let by = Duration::from_micros(offset.ahead.unsigned_abs());
    let uncertainty = Duration::from_micros(offset.uncertainty.unsigned_abs());
    let way = if offset.ahead < 0 { "behind" } else { "ahead of" };
    let found = format!("{} {way} the server's, ± {}", millis(by), millis(uncertainty));
    let surely = by.saturating_sub(uncertainty);
    let fix = "set this machine's clock by the network: sudo timedatectl set-ntp true; and see that the server's is";
    let check = if surely > TICKETS && role == Role::Publisher {
        Check::fail("clock", format!("{found}: viewers' tickets are taken for expired"), fix)
    } else if surely > NOTICEABLE {
        Check::warn("clock", format!("{found}: latencies are shown wrong by as much"), fix)
    } else {
        Check::ok("clock", found)
    };
    let signed = if offset.ahead < 0 { -as_millis(by) } else { as_millis(by) };
    check.with("ahead_ms", signed).with("uncertainty_ms", as_millis(uncertainty))
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// The first pays for the connection, of the others one may be unlucky.
const QUESTIONS: usize = 3;
/// A slow server is asked no more than once or twice.
const ENOUGH: Duration = Duration::from_millis(400);
/// What NTP keeps within anywhere, and what a viewer starts to see in the numbers.
const NOTICEABLE: Duration = Duration::from_millis(100);
/// Beyond, a broadcaster may refuse a ticket that is good.
const TICKETS: Duration = Duration::from_secs(ticket::SKEW);

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn half_the_round_trip_is_doubt() {
        for (sent, round_trip_ms, theirs, ahead, uncertainty) in [
            (1_000_000, 10, 1_005_000, 0, 5_000),
            (1_000_000, 0, 900_000, 100_000, 0),
            (1_000_000, 20, 1_110_000, -100_000, 10_000),
        ] {
            let wanted = Offset { ahead, uncertainty };
            assert_eq!(offset(sent, Duration::from_millis(round_trip_ms), theirs), wanted);
        }
    }

    #[test]
    fn what_an_offset_means() {
        for (ahead_ms, uncertainty_ms, role, wanted, words) in [
            (12, 1, Role::Subscriber, Status::Ok, "12 ms ahead of the server's, ± 1.0 ms"),
            (-12, 1, Role::Subscriber, Status::Ok, "12 ms behind the server's"),
            (400, 350, Role::Subscriber, Status::Ok, "400 ms"),
            (400, 5, Role::Subscriber, Status::Warn, "latencies"),
            (-31_000, 5, Role::Subscriber, Status::Warn, "latencies"),
            (-31_000, 5, Role::Publisher, Status::Fail, "tickets"),
            (29_000, 5, Role::Publisher, Status::Warn, "latencies"),
        ] {
            let check = judge(Offset { ahead: ahead_ms * 1000, uncertainty: uncertainty_ms * 1000 }, role);
            assert_eq!(check.status(), wanted, "{check:?}");
            assert!(format!("{check:?}").contains(words), "{check:?}");
        }
    }
}
