//! Statistics of path switches: from, to, the reason, the units lost, and for how long the picture froze.

use std::collections::VecDeque;
use std::time::Duration;

use media::Timestamp;
use serde::Serialize;

/// Why the viewer left a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SwitchReason {
    /// A path of higher preference delivers.
    Better,
    /// No unit arrived within the stall timeout.
    Stalled,
    /// The server or broadcaster is over capacity.
    NoCapacity,
    /// The connection failed.
    Failed,
}

impl SwitchReason {
    /// As in JSON and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Stalled => "stalled",
            Self::NoCapacity => "no_capacity",
            Self::Failed => "failed",
        }
    }
}

/// One path switch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Switch {
    /// Name of the path that delivered the last picture before it.
    pub from: String,
    /// Name of the path that delivered the first picture after it.
    pub to: String,
    /// Why the first path was left.
    pub reason: SwitchReason,
    /// Video units missing between the two.
    pub lost: u32,
    /// Duplicate units dropped since the previous switch; none is shown twice.
    pub repeated: u64,
    /// By how much the first picture after it was late against the last one before it, by their DTS: what the buffer has to cover.
    #[serde(rename = "delay_ms", serialize_with = "as_millis")]
    pub delay: Option<Duration>,
    /// PTS of the first picture after it.
    #[serde(skip)]
    pub pts: Timestamp,
    /// By how much a picture was shown longer than its duration, at worst within the half second after the switch; none before a picture after it was shown.
    #[serde(rename = "freeze_ms", serialize_with = "as_millis")]
    pub freeze: Option<Duration>,
}

/// All path switches of a run.
#[derive(Debug, Default)]
pub struct Switches {
    count: u64,
    lost: u64,
    worst_freeze: Duration,
    /// The last ones, newest last; at most [`MAX_RECENT`].
    recent: VecDeque<Switch>,
    /// When the last picture was shown, and its PTS.
    last: Option<(Duration, Timestamp)>,
}

impl Switches {
    /// Counts a switch.
    pub fn add(&mut self, switch: Switch) {
        self.count += 1;
        self.lost += u64::from(switch.lost);
        self.recent.push_back(switch);
        if self.recent.len() > MAX_RECENT {
            self.recent.pop_front();
        }
    }

    /// A picture was presented at `now` on the viewer's clock.
    pub fn presented(&mut self, now: Duration, pts: Timestamp) {
        let Some((before, shown)) = self.last.replace((now, pts)) else { return };
        let over = now.saturating_sub(before).saturating_sub(pts.since(shown));
        // The picture before a switch may stay until the one after it arrives.
        let around = ATTRIBUTION_WINDOW.as_millis() as i64;
        for switch in self.recent.iter_mut().rev().take_while(|switch| (0..around).contains(&(pts - switch.pts))) {
            switch.freeze = switch.freeze.max(Some(over));
            self.worst_freeze = self.worst_freeze.max(over);
        }
    }

    /// Switches so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The statistics so far.
    pub fn summary(&self) -> SwitchSummary {
        let worst_freeze_ms = (self.worst_freeze.as_secs_f64() * 10_000.0).round() / 10.0;
        SwitchSummary {
            count: self.count,
            lost: self.lost,
            worst_freeze_ms,
            recent: self.recent.iter().cloned().collect(),
        }
    }

    /// The latest switch.
    pub fn last(&self) -> Option<&Switch> {
        self.recent.back()
    }
}

/// Path switches in the summary.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SwitchSummary {
    /// Switches in all.
    pub count: u64,
    /// Video units lost at switches.
    pub lost: u64,
    /// The longest freeze at a switch, in milliseconds.
    pub worst_freeze_ms: f64,
    /// The latest switches, oldest first; at most 256.
    pub recent: Vec<Switch>,
}

fn as_millis<S: serde::Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => serializer.serialize_f64((duration.as_secs_f64() * 10_000.0).round() / 10.0),
        None => serializer.serialize_none(),
    }
}

/// Freezes within so much media after a switch are attributed to it: more than is buffered.
const ATTRIBUTION_WINDOW: Duration = Duration::from_millis(500);
/// Bounds the switches that are kept one by one.
const MAX_RECENT: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freeze_soon_after_a_switch_is_attributed_to_it() {
        let mut switches = Switches::default();
        let at = |pts: i64| Timestamp::from_millis(pts);
        let show = |switches: &mut Switches, now, pts| switches.presented(Duration::from_millis(now), at(pts));
        for n in 0..10 {
            show(&mut switches, 100 + n * 33, n as i64 * 33);
        }
        let pts = at(330);
        switches.add(Switch {
            from: "a".into(),
            to: "b".into(),
            reason: SwitchReason::Stalled,
            lost: 0,
            repeated: 3,
            delay: None,
            pts,
            freeze: None,
        });
        show(&mut switches, 480, 330);
        show(&mut switches, 513, 363);
        assert_eq!(switches.last().and_then(|switch| switch.freeze), Some(Duration::from_millis(50)));
        // A later one is not.
        show(&mut switches, 1300, 850);
        show(&mut switches, 9000, 1100);
        let summary = switches.summary();
        assert_eq!((summary.count, summary.worst_freeze_ms), (1, 50.0));
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!((&json["recent"][0]["freeze_ms"], &json["recent"][0]["reason"]), (&50.0.into(), &"stalled".into()));
        assert_eq!((&json["recent"][0]["lost"], &json["recent"][0]["repeated"]), (&0.into(), &3.into()));
    }
}
