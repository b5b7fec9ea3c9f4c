//! What a lane sends of what it comes upon, once it has a share to spend. Pure.
//!
//! A lane that keeps up sends everything. One that has had to wait and is late leaves out the rest of the group, so that the next IDR meets
//! a share that is unspent. An IDR is always sent whole, however late it is by then, for it can be shown; of several that wait only the
//! newest is.

use std::time::Duration;

use media::TrackKind;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Choice {
    kind: TrackKind,
    /// How long the lane has had to wait since it last had everything.
    waited: Duration,
    /// Whether the rest of the group is left out.
    skips: bool,
}

/// What to do with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Send it.
    Send,
    /// Leave it out.
    Skip,
    /// Go on at what is newest.
    Jump,
}

impl Choice {
    pub(super) fn new(kind: TrackKind) -> Self {
        Self { kind, waited: Duration::ZERO, skips: false }
    }

    /// There was nothing left to send.
    pub(super) fn caught_up(&mut self) {
        self.waited = Duration::ZERO;
    }

    /// The lane had to wait for its share, or for room.
    pub(super) fn waited(&mut self, time: Duration) {
        self.waited = self.waited.saturating_add(time);
    }

    /// Whether a unit belongs to what is left out.
    pub(super) fn skips(&mut self, starts_gop: bool) -> bool {
        self.skips &= !starts_gop;
        self.skips
    }

    /// Whether it is worth looking how late the lane is. A subscriber that resumes begins late, and is to have all of it.
    pub(super) fn may_be_late(&self) -> bool {
        self.waited > SLOW
    }

    /// About a unit that is `lag` older than the newest. `has_newer_start`: a group has begun since.
    pub(super) fn choose(&mut self, starts_gop: bool, lag: Duration, has_newer_start: bool) -> Verdict {
        if !self.may_be_late() || lag <= LATE {
            return Verdict::Send;
        }
        match (self.kind, has_newer_start) {
            (TrackKind::Audio, _) | (TrackKind::Video, true) => Verdict::Jump,
            // The newest IDR there is.
            (TrackKind::Video, false) if starts_gop => Verdict::Send,
            (TrackKind::Video, false) => {
                self.skips = true;
                Verdict::Skip
            }
        }
    }
}

/// What is older than this is left out by a lane that does not keep up.
const LATE: Duration = Duration::from_millis(1000);
/// A lane that has waited for longer than this since it last had everything does not keep up.
const SLOW: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_lane_that_keeps_up_sends_everything_however_old() {
        let mut choice = Choice::new(TrackKind::Video);
        assert_eq!(choice.choose(false, 9000 * MS, true), Verdict::Send, "it resumes");
        choice.waited(301 * MS);
        assert_eq!(choice.choose(false, 1000 * MS, true), Verdict::Send, "not late");
        choice.caught_up();
        assert_eq!(choice.choose(false, 9000 * MS, true), Verdict::Send, "it has caught up");
    }

    #[test]
    fn a_late_one_sends_the_newest_idr_and_leaves_out_the_rest() {
        let mut choice = Choice::new(TrackKind::Video);
        choice.waited(301 * MS);
        assert_eq!(choice.choose(true, 2500 * MS, false), Verdict::Send, "the newest IDR there is");
        assert!(!choice.skips(false));
        assert_eq!(choice.choose(false, 1500 * MS, false), Verdict::Skip);
        assert!(choice.skips(false), "until the group ends");
        assert!(!choice.skips(true));
        assert_eq!(choice.choose(true, 10 * MS, false), Verdict::Send);
        assert_eq!(choice.choose(false, 1001 * MS, true), Verdict::Jump, "to one that has come meanwhile");
        assert_eq!(choice.choose(true, 1001 * MS, true), Verdict::Jump, "of two IDRs the newer");
    }

    #[test]
    fn late_sound_goes_on_at_the_newest() {
        let mut choice = Choice::new(TrackKind::Audio);
        choice.waited(301 * MS);
        assert_eq!(choice.choose(false, 900 * MS, true), Verdict::Send);
        assert_eq!(choice.choose(false, 1001 * MS, false), Verdict::Jump);
    }
}
