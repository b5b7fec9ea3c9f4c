//! The two clocks of a broadcast: media time (whole milliseconds) and wall-clock time (UTC microseconds).
//!
//! Media time is quantised once, at the broadcaster, and never re-stamped. Neither type reads a clock: see `net::clock`.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A point on a broadcast's media timeline in whole milliseconds, unwrapped: it never jumps back at 2^32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The start of the timeline.
    pub const ZERO: Self = Self(0);

    /// The point `millis` after the start of the timeline; negative is before it.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the start of the timeline.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// The 32-bit RTMP clock of this point: wraps every 49.7 days (RTMP 1.0 §4).
    pub const fn as_rtmp(self) -> u32 {
        self.0 as u32
    }

    /// `self - earlier`, or zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(rhs.as_millis()).unwrap_or(i64::MAX)))
    }
}

/// Signed milliseconds from `rhs` to `self`.
impl Sub for Timestamp {
    type Output = i64;
    fn sub(self, rhs: Self) -> i64 {
        self.0.saturating_sub(rhs.0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0.div_euclid(1000), self.0.rem_euclid(1000))
    }
}

/// A wall-clock instant: microseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallClock(i64);

impl WallClock {
    /// The instant `micros` microseconds after 1970-01-01T00:00:00Z.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// The wall-clock time of `pts`, where `self` is that of PTS 0.
    pub const fn at(self, pts: Timestamp) -> Self {
        Self(self.0.saturating_add(pts.as_millis().saturating_mul(1000)))
    }

    /// Signed microseconds from `earlier` to `self`.
    pub const fn micros_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// `2026-11-22T13:01:33.250Z`: the form of `EXT-X-PROGRAM-DATE-TIME` (RFC 8216bis §4.4.4.6, ISO 8601).
    pub fn to_rfc3339(self) -> String {
        let millis = self.0.div_euclid(1000);
        let (days, in_day) = (millis.div_euclid(86_400_000), millis.rem_euclid(86_400_000));
        // Days to civil date, proleptic Gregorian; eras of 400 years that start on 1 March.
        let z = days + 719_468;
        let (era, doe) = (z.div_euclid(146_097), z.rem_euclid(146_097));
        let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
        let year = yoe + era * 400 + i64::from(month <= 2);
        let (h, m, s, ms) = (in_day / 3_600_000, in_day / 60_000 % 60, in_day / 1000 % 60, in_day % 1000);
        format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z")
    }

    /// Parses the form of [`WallClock::to_rfc3339`], with any number of fraction digits and `Z` or `±hh:mm`.
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        let (date, rest) = text.trim().split_once(['T', 't', ' '])?;
        let mut date = date.splitn(3, '-').map(|n| n.parse::<i64>().ok());
        let (year, month, day) = (date.next()??, date.next()??, date.next()??);
        let zone_at = rest.find(['Z', 'z', '+', '-'])?;
        let (clock, zone) = rest.split_at(zone_at);
        let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
        let mut clock = clock.splitn(3, ':').map(|n| n.parse::<i64>().ok());
        let (h, m, s) = (clock.next()??, clock.next()??, clock.next()??);
        let in_range = (1..=12).contains(&month) && (1..=31).contains(&day) && (0..24).contains(&h);
        if !in_range || !(0..60).contains(&m) || !(0..=60).contains(&s) || !(-9999..=9999).contains(&year) {
            return None;
        }
        let digits: String = fraction.chars().chain("000000".chars()).take(6).collect();
        let micros: i64 = digits.parse().ok().filter(|n| *n >= 0)?;
        let offset = match zone {
            "Z" | "z" => 0,
            _ => {
                let (zh, zm) = zone.get(1..)?.split_once(':').or_else(|| zone.get(1..)?.split_at_checked(2))?;
                let minutes = zh.parse::<u8>().ok().map(i64::from)? * 60 + zm.parse::<u8>().ok().map(i64::from)?;
                if zone.starts_with('-') { -minutes } else { minutes }
            }
        };
        let y = year - i64::from(month <= 2);
        let (era, yoe) = (y.div_euclid(400), y.rem_euclid(400));
        let doy = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
        let days = era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468;
        Some(Self((((days * 24 + h) * 60 + m - offset) * 60 + s) * 1_000_000 + micros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_round_trips() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000Z"),
            (1_795_352_493_250_000, "2026-11-22T13:01:33.250Z"),
            (-1_000_000, "1969-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(WallClock::from_micros(micros).to_rfc3339(), text);
            assert_eq!(WallClock::from_rfc3339(text), Some(WallClock::from_micros(micros)), "{text}");
        }
        let zoned = WallClock::from_rfc3339("2026-11-22T14:01:33.25+01:00");
        assert_eq!(zoned, WallClock::from_rfc3339("2026-11-22T13:01:33.250Z"));
        assert_eq!(zoned, WallClock::from_rfc3339("2026-11-22T12:01:33.250000-0100"));
        for bad in [
            "",
            "2026",
            "2026-13-01T00:00:00Z",
            "2026-11-22T25:00:00Z",
            "x-y-zTa:b:cZ",
            "2026-11-22T00:00:00",
            "2026-1-1T0:0:0+é",
        ] {
            assert_eq!(WallClock::from_rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn rtmp_clock_wraps() {
        assert_eq!(Timestamp::from_millis(0x1_0000_0005).as_rtmp(), 5);
        assert_eq!(Timestamp::from_millis(-1).as_rtmp(), u32::MAX);
    }
}
