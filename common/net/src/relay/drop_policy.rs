//! Which units a track sender sends when it is behind. Pure.
//!
//! A sender that keeps up sends everything. A sender that waited for its budget and lags skips the rest of the group, so that budget is
//! left for the next IDR. An IDR is always sent whole, however late, because it can be decoded; of several queued IDRs, only the newest.

use std::time::Duration;

use media::TrackKind;

/// The state of one track sender.
#[derive(Debug)]
pub(super) struct DropPolicy {
    kind: TrackKind,
    /// How long the sender has waited since its queue was last empty.
    waited: Duration,
    /// Whether the rest of the group is skipped.
    is_skipping: bool,
}

/// What to do with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Send the unit.
    Send,
    /// Skip the unit and continue with the next one.
    Skip,
    /// Skip everything up to the newest random access point.
    Jump,
}

impl DropPolicy {
    pub(super) fn new(kind: TrackKind) -> Self {
        Self { kind, waited: Duration::ZERO, is_skipping: false }
    }

    /// Records that everything was sent.
    pub(super) fn caught_up(&mut self) {
        self.waited = Duration::ZERO;
    }

    /// Records that the sender waited for its budget or for space in QUIC's send buffer.
    pub(super) fn waited(&mut self, time: Duration) {
        self.waited = self.waited.saturating_add(time);
    }

    /// Whether the unit belongs to a group whose rest is skipped.
    pub(super) fn should_skip(&mut self, starts_gop: bool) -> bool {
        self.is_skipping &= !starts_gop;
        self.is_skipping
    }

    /// Whether the sender does not keep up. A subscriber that resumes lags at first, but gets every unit while the sender keeps up.
    pub(super) fn is_behind(&self) -> bool {
        self.waited > BEHIND_AFTER
    }

    /// What to do with a unit that is `lag` older than the newest. `has_newer_start`: a newer group has started.
    pub(super) fn decide(&mut self, starts_gop: bool, lag: Duration, has_newer_start: bool) -> Decision {
        if !self.is_behind() || lag <= MAX_LAG {
            return Decision::Send;
        }
        match (self.kind, has_newer_start) {
            (TrackKind::Audio, _) | (TrackKind::Video, true) => Decision::Jump,
            // No newer IDR exists.
            (TrackKind::Video, false) if starts_gop => Decision::Send,
            (TrackKind::Video, false) => {
                self.is_skipping = true;
                Decision::Skip
            }
        }
    }
}

/// A sender that does not keep up skips units that are older than this.
const MAX_LAG: Duration = Duration::from_millis(1000);
/// A sender that has waited longer than this since its queue was last empty does not keep up.
const BEHIND_AFTER: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_sender_that_keeps_up_sends_everything_however_old() {
        let mut policy = DropPolicy::new(TrackKind::Video);
        assert_eq!(policy.decide(false, 9000 * MS, true), Decision::Send, "it resumes");
        policy.waited(301 * MS);
        assert_eq!(policy.decide(false, 1000 * MS, true), Decision::Send, "not late");
        policy.caught_up();
        assert_eq!(policy.decide(false, 9000 * MS, true), Decision::Send, "it has caught up");
    }

    #[test]
    fn a_late_sender_keeps_the_newest_idr_and_skips_the_rest_of_the_group() {
        let mut policy = DropPolicy::new(TrackKind::Video);
        policy.waited(301 * MS);
        assert_eq!(policy.decide(true, 2500 * MS, false), Decision::Send, "the newest IDR");
        assert!(!policy.should_skip(false));
        assert_eq!(policy.decide(false, 1500 * MS, false), Decision::Skip);
        assert!(policy.should_skip(false), "until the group ends");
        assert!(!policy.should_skip(true));
        assert_eq!(policy.decide(true, 10 * MS, false), Decision::Send);
        assert_eq!(policy.decide(false, 1001 * MS, true), Decision::Jump, "to an IDR that arrived meanwhile");
        assert_eq!(policy.decide(true, 1001 * MS, true), Decision::Jump, "of two IDRs the newer");
    }

    #[test]
    fn late_audio_continues_at_the_newest_unit() {
        let mut policy = DropPolicy::new(TrackKind::Audio);
        policy.waited(301 * MS);
        assert_eq!(policy.decide(false, 900 * MS, true), Decision::Send);
        assert_eq!(policy.decide(false, 1001 * MS, false), Decision::Jump);
    }
}
