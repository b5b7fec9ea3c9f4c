//! 32-bit RTMP timestamps of a publisher whose timestamps are exact, unwrapped once to 64 bits.
//!
//! One [`TimestampUnwrapper`] serves the audio and the video of a connection, so that both cross 2^32 together however they are interleaved. It
//! reorders and corrects nothing. RTMP 1.0 §4 (timestamps: 32 bits, milliseconds, wrap-around).

/// Unwraps the timestamps of one connection: each means the point nearest to the latest one with its low 32 bits.
#[derive(Clone, Debug, Default)]
pub struct TimestampUnwrapper {
    latest: Option<i64>,
}

impl TimestampUnwrapper {
    /// An unwrapper that takes the first timestamp as it is.
    pub fn new() -> Self {
        Self::default()
    }

    /// An unwrapper that expects timestamps near `at`, in milliseconds. For connections that continue a broadcast whose clock may have wrapped.
    pub fn near(at: i64) -> Self {
        Self { latest: Some(at) }
    }

    /// Unwraps `rtmp`, in milliseconds.
    pub fn unwrap(&mut self, rtmp: u32) -> i64 {
        let at = match self.latest {
            Some(latest) => latest.saturating_add(i64::from(rtmp.wrapping_sub(latest as u32) as i32)),
            None => i64::from(rtmp),
        };
        self.latest = Some(at);
        at
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn audio_and_video_wrap_once() {
        let wrap = 1i64 << 32;
        let mut timeline = TimestampUnwrapper::new();
        for (rtmp, expected) in [
            (u32::MAX - 2000, wrap - 2001),
            (5, wrap + 5),
            (u32::MAX - 20, wrap - 21),
            (40, wrap + 40),
            (u32::MAX - 1, wrap - 2),
            (4000, wrap + 4000),
        ] {
            assert_eq!(timeline.unwrap(rtmp), expected, "{rtmp}");
        }
    }

    #[test]
    fn continues_near_a_known_point() {
        let day_50 = 50 * 86_400_000i64;
        for step in [-100_000, 3_600_000] {
            assert_eq!(TimestampUnwrapper::near(day_50).unwrap((day_50 + step) as u32), day_50 + step);
        }
    }

    proptest! {
        #[test]
        fn recovers_any_timeline_of_small_steps(start in 0i64..1 << 40, steps in prop::collection::vec(-200i64..2000, 1..200)) {
            let mut timeline = TimestampUnwrapper::near(start);
            let mut at = start;
            for step in steps {
                at = (at + step).max(0);
                prop_assert_eq!(timeline.unwrap(at as u32), at);
            }
        }
    }
}
