//! Whole milliseconds in the timescale of a track, and back without loss.
//!
//! Video counts 1/90000 s, which whole milliseconds divide. Audio counts samples, because players join frames by
//! samples. Its milliseconds are rounded, and each stands for all sample positions that round to it. Among these, a [`TrackClock`] keeps frames
//! exactly one frame length apart, so that rounding is not audible; the reader rounds the same way.

use crate::catalog::Track;
use crate::codec::{Codec, Format};

/// Ticks per second of a track.
pub(super) fn timescale(track: &Track) -> u32 {
    match track.config.format {
        Format::Audio { sample_rate, .. } if sample_rate >= LOWEST_EXACT => sample_rate,
        _ => VIDEO,
    }
}

/// The nearest tick.
pub(super) fn from_millis(millis: i64, timescale: u32) -> i64 {
    let doubled = i128::from(millis) * i128::from(timescale) * 2 + 1000;
    clamp(doubled.div_euclid(2000))
}

/// The nearest millisecond, halves up. Undoes [`from_millis`] for every timescale of at least 1000.
pub(super) fn to_millis(ticks: i64, timescale: u32) -> i64 {
    let timescale = i128::from(timescale.max(1));
    clamp((i128::from(ticks) * 2000 + timescale).div_euclid(timescale * 2))
}

/// The first and last tick that [`to_millis`] converts to `millis`.
fn bounds(millis: i64, timescale: u32) -> (i64, i64) {
    let timescale = i128::from(timescale);
    let edge = |doubled: i128| -(-doubled * timescale).div_euclid(2000);
    let doubled = i128::from(millis) * 2;
    (clamp(edge(doubled - 1)), clamp(edge(doubled + 1) - 1))
}

fn clamp(ticks: i128) -> i64 {
    ticks.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

/// Assigns ticks to the access units of one track, in order.
#[derive(Clone, Debug)]
pub(super) struct TrackClock {
    timescale: u32,
    /// The frame lengths of the codec, in ticks; empty for video.
    frames: &'static [u32],
    /// The newest unit: milliseconds and ticks.
    last: Option<(i64, i64)>,
    /// The duration of the newest unit whose end is known, in ticks.
    duration: Option<u32>,
}

impl TrackClock {
    pub(super) fn new(track: &Track) -> Self {
        let frames: &[u32] = match track.config.codec {
            Codec::Aac => &[1024, 2048, 960, 1920],
            Codec::Opus => &[120, 240, 480, 960, 1920, 2880],
            Codec::Mp3 => &[1152, 576],
            Codec::Flac => &[4096, 4608, 1152, 1024, 2048, 8192],
            _ => &[],
        };
        Self { timescale: timescale(track), frames, last: None, duration: None }
    }

    /// The tick of the unit at `millis`. Asking for the same unit again gives the same tick.
    pub(super) fn place(&mut self, millis: i64) -> i64 {
        let tick = match self.last {
            Some((at, tick)) if at == millis => return tick,
            Some((at, tick)) => match self.frame(millis.saturating_sub(at)) {
                Some(frame) => {
                    let (first, last) = bounds(millis, self.timescale);
                    tick.saturating_add(frame.into()).clamp(first, last)
                }
                None => from_millis(millis, self.timescale),
            },
            None => from_millis(millis, self.timescale),
        };
        self.duration =
            self.last.and_then(|(_, before)| u32::try_from(tick.saturating_sub(before)).ok()).or(self.duration);
        self.last = Some((millis, tick));
        tick
    }

    /// The tick nearest to a PTS.
    pub(super) fn nearest(&self, millis: i64) -> i64 {
        from_millis(millis, self.timescale)
    }

    /// The duration in ticks of a unit without known successor: that of the unit before.
    pub(super) fn duration(&self) -> u32 {
        self.duration.or(self.frames.first().copied()).unwrap_or(self.timescale / 30)
    }

    /// The frame length that rounds to this many milliseconds, if there is one.
    fn frame(&self, millis: i64) -> Option<u32> {
        self.frames.iter().copied().find(|frame| {
            let error = i64::from(*frame) * 1000 - millis.saturating_mul(self.timescale.into());
            error.abs() < i64::from(self.timescale)
        })
    }
}

/// Ticks per second of video: a whole number per millisecond, and per frame at common frame rates.
const VIDEO: u32 = 90_000;
/// With fewer than two ticks per millisecond, milliseconds could not be distinguished.
const LOWEST_EXACT: u32 = 2000;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::access_unit::TrackId;
    use crate::codec::CodecConfig;

    fn sound(codec: Codec, sample_rate: u32) -> Track {
        let format = Format::Audio { sample_rate, channels: 2 };
        Track { id: TrackId::AUDIO, config: CodecConfig { codec, record: Bytes::new(), format } }
    }

    /// Rounded down, rounded to nearest or offset: after it has found its place the pace is one frame. Where milliseconds start
    /// between two samples it slips by one of them, now and then.
    #[test]
    fn audio_frames_keep_their_distance_despite_rounding() {
        for (codec, rate, frame) in [
            (Codec::Aac, 48_000, 1024),
            (Codec::Aac, 44_100, 1024),
            (Codec::Opus, 48_000, 960),
            (Codec::Mp3, 44_100, 1152),
        ] {
            for (offset, rounding) in [(0i64, 0i64), (0, 500), (7, 0), (33, 999)] {
                let mut clock = TrackClock::new(&sound(codec, rate));
                let millis = |n: i64| offset + (n * frame * 1000 + rounding * i64::from(rate) / 1000) / i64::from(rate);
                let ticks: Vec<_> = (0..3000).map(|n| clock.place(millis(n))).collect();
                assert!(ticks.iter().enumerate().all(|(n, t)| to_millis(*t, rate) == millis(n as i64)));
                let slips: Vec<_> = ticks
                    .windows(2)
                    .skip(1000)
                    .map(|pair| pair[1] - pair[0] - frame)
                    .filter(|slip| *slip != 0)
                    .collect();
                let bound = if rate == 48_000 { 0 } else { 20 };
                assert!(
                    slips.len() <= bound && slips.iter().all(|slip| slip.abs() == 1),
                    "{codec:?} {rate} {offset} {rounding}: {slips:?}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn milliseconds_are_recovered_from_ticks(millis in -10i64..1 << 42, timescale in 1000u32..400_000) {
            prop_assert_eq!(to_millis(from_millis(millis, timescale), timescale), millis);
            let (first, last) = bounds(millis, timescale);
            prop_assert!(first <= last);
            for (tick, expected) in [(first - 1, millis - 1), (first, millis), (last, millis), (last + 1, millis + 1)] {
                prop_assert_eq!(to_millis(tick, timescale), expected);
            }
        }

        #[test]
        fn any_steps_are_recovered_from_ticks(steps in prop::collection::vec(1i64..200, 1..200), rate in prop::sample::select(vec![8000u32, 22_050, 44_100, 48_000, 96_000])) {
            let mut clock = TrackClock::new(&sound(Codec::Aac, rate));
            let mut millis = 0;
            for step in steps {
                millis += step;
                let tick = clock.place(millis);
                prop_assert_eq!(to_millis(tick, rate), millis);
                prop_assert_eq!(clock.place(millis), tick);
            }
        }
    }
}
