//! Every change of path: from, to, why, and what it cost, in units and in time that the picture stood still.

use std::collections::VecDeque;
use std::time::Duration;

use media::Timestamp;
use serde::Serialize;

/// Why a path was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SwitchReason {
    /// The other is better.
    Better,
    /// It brought nothing for longer than it usually does.
    Stalled,
    /// Whoever serves it had no room.
    NoCapacity,
    /// It broke.
    Failed,
}

impl SwitchReason {
    /// One word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Stalled => "stalled",
            Self::NoCapacity => "no_capacity",
            Self::Failed => "failed",
        }
    }
}

/// One change of path.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Switch {
    /// The path that brought the last picture before it.
    pub from: String,
    /// The path that brought the first one after it.
    pub to: String,
    /// Why.
    pub reason: SwitchReason,
    /// Units of video that are missing between the two.
    pub lost: u32,
    /// Units of any kind that came again by another path since the change before it, and were dropped: none is shown twice.
    pub repeated: u64,
    /// How much later that first one came than its time says, after the last one before it: what the buffer has to hide.
    #[serde(rename = "delay_ms", serialize_with = "as_millis")]
    pub delay: Option<Duration>,
    /// Of the first picture after it.
    #[serde(skip)]
    pub pts: Timestamp,
    /// How much longer a picture stood than it should have, at the worst within [`ATTRIBUTION_WINDOW`]; none while no picture after it was shown.
    #[serde(rename = "freeze_ms", serialize_with = "as_millis")]
    pub freeze: Option<Duration>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Switches {
    count: u64,
    lost: u64,
    worst_freeze: Duration,
    /// The last ones, newest last; at most [`MAX_RECENT`].
    recent: VecDeque<Switch>,
    /// When the last picture was shown, and which.
    last: Option<(Duration, Timestamp)>,
}

impl Switches {
    /// There was one.
    pub fn add(&mut self, switch: Switch) {
        self.count += 1;
        self.lost += u64::from(switch.lost);
        self.recent.push_back(switch);
        if self.recent.len() > MAX_RECENT {
            self.recent.pop_front();
        }
    }

    /// A picture was shown at `now`.
    pub fn presented(&mut self, now: Duration, pts: Timestamp) {
        let Some((before, shown)) = self.last.replace((now, pts)) else { return };
        let over = now.saturating_sub(before).saturating_sub(pts.since(shown));
        // The picture before a switch may stand until the one after it comes.
        let around = ATTRIBUTION_WINDOW.as_millis() as i64;
        for switch in self.recent.iter_mut().rev().take_while(|switch| (0..around).contains(&(pts - switch.pts))) {
            switch.freeze = switch.freeze.max(Some(over));
            self.worst_freeze = self.worst_freeze.max(over);
        }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// As a whole.
    pub fn summary(&self) -> SwitchSummary {
        let worst_freeze_ms = (self.worst_freeze.as_secs_f64() * 10_000.0).round() / 10.0;
        SwitchSummary {
            count: self.count,
            lost: self.lost,
            worst_freeze_ms,
            recent: self.recent.iter().cloned().collect(),
        }
    }

    /// The last one.
    pub fn last(&self) -> Option<&Switch> {
        self.recent.back()
    }
}

/// All changes of path.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SwitchSummary {
    /// How many.
    pub count: u64,
    /// Units of video that are missing because of them.
    pub lost: u64,
    /// How much longer a picture stood than it should have.
    pub worst_freeze_ms: f64,
    /// The last ones, oldest first.
    pub recent: Vec<Switch>,
}

fn as_millis<S: serde::Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => serializer.serialize_f64((duration.as_secs_f64() * 10_000.0).round() / 10.0),
        None => serializer.serialize_none(),
    }
}

/// How much media after a switch may show what it cost: as much as is buffered, and more.
const ATTRIBUTION_WINDOW: Duration = Duration::from_millis(500);
/// Bounds what is remembered one by one.
const MAX_RECENT: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_switch_cost() {
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
        // Much later it is somebody else's fault.
        show(&mut switches, 1300, 850);
        show(&mut switches, 9000, 1100);
        let summary = switches.summary();
        assert_eq!((summary.count, summary.worst_freeze_ms), (1, 50.0));
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!((&json["recent"][0]["freeze_ms"], &json["recent"][0]["reason"]), (&50.0.into(), &"stalled".into()));
        assert_eq!((&json["recent"][0]["lost"], &json["recent"][0]["repeated"]), (&0.into(), &3.into()));
    }
}
