//! 32-bit RTMP timestamps, unwrapped once to 64 bits.
//!
//! One [`TimestampUnwrapper`] serves the audio and the video of a connection, so that both cross 2^32 together however they are interleaved. It is
//! not a jitter buffer and reorders nothing. RTMP 1.0 §4 (timestamps: 32 bits, milliseconds, wrap-around).

/// The place of a timestamp on the unwrapped timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwrapped {
    /// At this many milliseconds.
    At(i64),
    /// The publisher's clock was set: the timeline reached `from` and restarts at `to`. Both in milliseconds.
    Jump {
        /// The latest point before the jump.
        from: i64,
        /// The timestamp on the new timeline.
        to: i64,
    },
}

/// Unwraps the timestamps of one connection.
///
/// A timestamp means the point nearest to the latest one with its low 32 bits. A step back by more than [`MAX_BACKWARD`], or ahead by more than
/// [`MAX_FORWARD`], is a jump: the timeline restarts at the timestamp itself. FFmpeg's timestamps wrap at 31 bits, which is no jump either.
#[derive(Clone, Debug, Default)]
pub struct TimestampUnwrapper {
    latest: Option<i64>,
    /// Whether `latest` was seen on this connection, not given to [`TimestampUnwrapper::near`].
    has_started: bool,
}

impl TimestampUnwrapper {
    /// An unwrapper that takes the first timestamp as it is.
    pub fn new() -> Self {
        Self::default()
    }

    /// An unwrapper that expects timestamps near `at`, in milliseconds: the first timestamp is unwrapped to the nearest point, however far that is, and is
    /// never a jump. For connections that continue a broadcast whose clock may have wrapped.
    pub fn near(at: i64) -> Self {
        Self { latest: Some(at), has_started: false }
    }

    /// The latest point in milliseconds; `None` before the first timestamp.
    pub fn latest(&self) -> Option<i64> {
        self.latest
    }

    /// Unwraps `rtmp`, an RTMP timestamp in milliseconds.
    pub fn unwrap(&mut self, rtmp: u32) -> Unwrapped {
        let at = self.nearest(rtmp);
        match self.latest {
            Some(latest) if self.has_started && !is_step(latest, at) => match nearest_of_31_bits(latest, rtmp) {
                Some(at) if is_step(latest, at) => self.arrive(at),
                _ => {
                    let to = i64::from(rtmp);
                    self.latest = Some(to);
                    Unwrapped::Jump { from: latest, to }
                }
            },
            _ => self.arrive(at),
        }
    }

    /// Unwraps `rtmp`, in milliseconds, for a publisher whose timestamps are exact: the result is never a jump.
    pub fn unwrap_exact(&mut self, rtmp: u32) -> i64 {
        let at = self.nearest(rtmp);
        self.latest = Some(at);
        self.has_started = true;
        at
    }

    /// Restarts the timeline at `rtmp`, as after a jump, and returns that point in milliseconds.
    pub fn restart(&mut self, rtmp: u32) -> i64 {
        *self = Self::default();
        self.unwrap_exact(rtmp)
    }

    fn arrive(&mut self, at: i64) -> Unwrapped {
        let latest = self.latest.filter(|_| self.has_started);
        self.latest = Some(latest.map_or(at, |latest| latest.max(at)));
        self.has_started = true;
        Unwrapped::At(at)
    }

    fn nearest(&self, rtmp: u32) -> i64 {
        match self.latest {
            Some(latest) => latest.saturating_add(i64::from(rtmp.wrapping_sub(latest as u32) as i32)),
            None => i64::from(rtmp),
        }
    }
}

fn is_step(latest: i64, at: i64) -> bool {
    (-MAX_BACKWARD..=MAX_FORWARD).contains(&at.saturating_sub(latest))
}

/// The point nearest to `latest` that has the low 31 bits of `rtmp`, if it has no others.
fn nearest_of_31_bits(latest: i64, rtmp: u32) -> Option<i64> {
    // Shifted left by one, a 31-bit difference has its sign in bit 31.
    let step = (rtmp << 1).wrapping_sub((latest as u32) << 1) as i32 >> 1;
    (rtmp >> 31 == 0).then(|| latest.saturating_add(step.into()))
}

/// In milliseconds. Audio and video may be interleaved out of order by this much; a larger step back means that the clock was set.
pub const MAX_BACKWARD: i64 = 10_000;
/// In milliseconds. A publisher may pause for this long while its clock runs on: encoders pause when a machine sleeps.
pub const MAX_FORWARD: i64 = 60_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(timeline: &mut TimestampUnwrapper, steps: &[(u32, Unwrapped)]) {
        for (rtmp, expected) in steps {
            assert_eq!(timeline.unwrap(*rtmp), *expected, "{rtmp}");
        }
    }

    #[test]
    fn wraps_once_for_audio_and_video() {
        let wrap = 1i64 << 32;
        check(
            &mut TimestampUnwrapper::new(),
            &[
                (u32::MAX - 2000, Unwrapped::At(wrap - 2001)),
                (5, Unwrapped::At(wrap + 5)),
                (u32::MAX - 20, Unwrapped::At(wrap - 21)),
                (40, Unwrapped::At(wrap + 40)),
                (u32::MAX - 1, Unwrapped::At(wrap - 2)),
                (4000, Unwrapped::At(wrap + 4000)),
            ],
        );
    }

    #[test]
    fn ffmpeg_wraps_at_31_bits() {
        let half = 1i64 << 31;
        check(
            &mut TimestampUnwrapper::new(),
            &[
                (0x7fff_fff0, Unwrapped::At(half - 16)),
                (5, Unwrapped::At(half + 5)),
                (0x7fff_fff8, Unwrapped::At(half - 8)),
                (45, Unwrapped::At(half + 45)),
                (60_000, Unwrapped::At(half + 60_000)),
                (0, Unwrapped::Jump { from: half + 60_000, to: 0 }),
            ],
        );
    }

    #[test]
    fn small_steps_either_way_are_no_jump() {
        check(
            &mut TimestampUnwrapper::new(),
            &[
                (20_000, Unwrapped::At(20_000)),
                (10_000, Unwrapped::At(10_000)),
                (80_000, Unwrapped::At(80_000)),
                (70_000, Unwrapped::At(70_000)),
            ],
        );
    }

    #[test]
    fn a_clock_that_was_set_is_a_jump() {
        check(
            &mut TimestampUnwrapper::new(),
            &[
                (20_000, Unwrapped::At(20_000)),
                (9_999, Unwrapped::Jump { from: 20_000, to: 9_999 }),
                (10_020, Unwrapped::At(10_020)),
                (70_021, Unwrapped::Jump { from: 10_020, to: 70_021 }),
                // Far behind by 32-bit arithmetic, and yet not before the start of the new timeline.
                (0xf000_0000, Unwrapped::Jump { from: 70_021, to: 0xf000_0000 }),
                (0, Unwrapped::Jump { from: 0xf000_0000, to: 0 }),
            ],
        );
    }

    #[test]
    fn continues_near_a_known_point() {
        let day_50 = 50 * 86_400_000i64;
        check(&mut TimestampUnwrapper::near(day_50), &[(day_50 as u32 - 100_000, Unwrapped::At(day_50 - 100_000))]);
        check(
            &mut TimestampUnwrapper::near(day_50),
            &[
                (day_50 as u32 + 3_600_000, Unwrapped::At(day_50 + 3_600_000)),
                (0, Unwrapped::Jump { from: day_50 + 3_600_000, to: 0 }),
            ],
        );
    }

    proptest! {
        #[test]
        fn recovers_any_timeline_of_small_steps(start in 0i64..1 << 40, steps in prop::collection::vec(-200i64..2000, 1..200)) {
            let mut timeline = TimestampUnwrapper::near(start);
            let mut at = start;
            for step in steps {
                at = (at + step).max(0);
                prop_assert_eq!(timeline.unwrap(at as u32), Unwrapped::At(at));
            }
        }

        #[test]
        fn any_timestamps_are_unwrapped_without_panic(stamps in prop::collection::vec(any::<u32>(), 1..50), near in any::<i64>()) {
            let (mut fresh, mut told) = (TimestampUnwrapper::new(), TimestampUnwrapper::near(near));
            for stamp in stamps {
                fresh.unwrap(stamp);
                told.unwrap(stamp);
                told.unwrap_exact(stamp);
            }
        }
    }
}
