//! Whole milliseconds in the timescale of a track, and back without loss.
//!
//! Video counts 1/90000 s, which whole milliseconds divide. Audio counts samples, because players join frames by
//! samples. Its milliseconds are rounded, and each stands for all sample positions that round to it. Among these, a [`TrackClock`] keeps frames
//! exactly their length apart, so that rounding is not audible; the reader rounds the same way.

use std::collections::VecDeque;

use crate::catalog::Track;
use crate::codec::{CodecConfig, Format};

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
///
/// Audio frames follow each other at their own length, which each frame states. Timestamps that jitter, because an encoder stamps frames when
/// it reads them, move the frames by small steps only, so that no sample overlaps the next one and none is followed by a gap. Only
/// where [`TrackClock::is_gap`] says so is there a gap, as where the sound was away.
#[derive(Clone, Debug)]
pub(super) struct TrackClock {
    config: CodecConfig,
    timescale: u32,
    /// The newest unit: milliseconds and ticks.
    last: Option<(i64, i64)>,
    /// The length of the newest unit in ticks, as its codec states it; `None` for pictures.
    length: Option<u32>,
    /// The duration of the newest unit whose end is known, in ticks.
    duration: Option<u32>,
    /// The newest intervals between two units, without gaps, in milliseconds; at most [`INTERVALS`].
    intervals: VecDeque<i64>,
}

impl TrackClock {
    pub(super) fn new(track: &Track) -> Self {
        Self {
            config: track.config.clone(),
            timescale: timescale(track),
            last: None,
            length: None,
            duration: None,
            intervals: VecDeque::new(),
        }
    }

    /// The tick of the unit at `millis`. Asking for the same unit again gives the same tick.
    pub(super) fn place(&mut self, millis: i64) -> i64 {
        let Some((at, before)) = self.last else {
            let tick = from_millis(millis, self.timescale);
            self.last = Some((millis, tick));
            return tick;
        };
        if at == millis {
            return before;
        }
        let tick = if self.is_gap(millis) {
            from_millis(millis, self.timescale)
        } else {
            if self.intervals.len() == INTERVALS {
                self.intervals.pop_front();
            }
            self.intervals.push_back(millis - at);
            let tick = self.follow(millis, before);
            self.duration = u32::try_from(tick.saturating_sub(before)).ok().or(self.duration);
            tick
        };
        self.last = Some((millis, tick));
        self.length = None;
        tick
    }

    /// Notes the length of the newest unit, which has this payload.
    pub(super) fn measure(&mut self, payload: &[u8]) {
        let Format::Audio { sample_rate, .. } = self.config.format else { return };
        let samples = self.config.samples_in(payload);
        let ticks =
            samples.map(|samples| u64::from(samples) * u64::from(self.timescale) / u64::from(sample_rate.max(1)));
        self.length = ticks.and_then(|ticks| u32::try_from(ticks).ok()).filter(|ticks| *ticks > 0);
    }

    /// Whether something is missing between the newest unit and the one at `millis`: the sound, or the pictures, were away. The newest unit then
    /// has its own length.
    pub(super) fn is_gap(&self, millis: i64) -> bool {
        let Some((at, before)) = self.last else { return false };
        let Some(length) = self.length else {
            let usual = self.intervals.iter().sum::<i64>() / (self.intervals.len() as i64).max(1);
            let most = if self.intervals.is_empty() { MAX_FIRST_INTERVAL } else { MAX_INTERVAL.max(usual * 3) };
            return millis.saturating_sub(at) > most;
        };
        let end = before.saturating_add(length.into());
        let late = from_millis(millis, self.timescale).saturating_sub(end);
        late > from_millis(MAX_JITTER, self.timescale).max(i64::from(length) * 3)
    }

    /// The millisecond that a tick rounds to, as a reader rounds it.
    pub(super) fn to_millis(&self, tick: i64) -> i64 {
        to_millis(tick, self.timescale)
    }

    /// The tick nearest to a PTS.
    pub(super) fn nearest(&self, millis: i64) -> i64 {
        from_millis(millis, self.timescale)
    }

    /// The duration in ticks of a unit without known successor: its own length, or the duration of the unit before.
    pub(super) fn duration(&self) -> u32 {
        self.length.or(self.duration).unwrap_or(self.timescale / 30)
    }

    /// The tick of the unit at `millis`, which follows the one at tick `before`.
    fn follow(&self, millis: i64, before: i64) -> i64 {
        let Some(length) = self.length else {
            return from_millis(millis, self.timescale).max(before.saturating_add(1));
        };
        let length = i64::from(length);
        let next = before.saturating_add(length);
        let (first, last) = bounds(millis, self.timescale);
        let error = next.clamp(first, last).saturating_sub(next);
        // The first timestamps tell how the publisher rounds.
        if self.intervals.len() < SETTLING && error.abs() <= last - first + 1 {
            return next.saturating_add(error);
        }
        let most = (length / CORRECTION_SHARE).max(1);
        // Timestamps far behind the frames: there is more sound than time. Shorter frames are better than an overlap.
        let least = if error < -from_millis(MAX_LEAD, self.timescale) { length / 4 } else { most };
        let step = (error / SMOOTHING).clamp(-least, most);
        next.saturating_add(if step == 0 { error.signum() } else { step })
    }
}

/// Number of intervals that the usual one is computed from.
const INTERVALS: usize = 64;
/// Number of frames until the positions of frames are smoothed.
const SETTLING: usize = 32;
/// In milliseconds. Audio frames whose timestamps are late by less belong directly after the frame before.
const MAX_JITTER: i64 = 100;
/// In milliseconds. Audio frames whose timestamps are early by more are shortened.
const MAX_LEAD: i64 = 250;
/// In milliseconds. Pictures may be this far apart.
const MAX_INTERVAL: i64 = 1000;
/// In milliseconds. The same before their usual interval is known.
const MAX_FIRST_INTERVAL: i64 = 10_000;
/// The share of the difference between timestamps and frames by which a frame is moved.
const SMOOTHING: i64 = 32;
/// The greatest part of its length, one in so many, by which a frame is moved.
const CORRECTION_SHARE: i64 = 100;
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
    use crate::codec::Codec;
    use crate::codec::opus::OpusHead;

    /// A track of sound, and a frame of it.
    #[derive(Clone, Debug)]
    struct Sound {
        config: CodecConfig,
        frame: &'static [u8],
    }

    impl Sound {
        fn rate(&self) -> u32 {
            timescale(&self.track())
        }

        /// The length of the frame in ticks.
        fn length(&self) -> i64 {
            self.config.samples_in(self.frame).unwrap().into()
        }

        fn track(&self) -> Track {
            Track { id: TrackId::AUDIO, config: self.config.clone() }
        }

        /// Places frames at these milliseconds.
        fn place(&self, clock: &mut TrackClock, millis: impl IntoIterator<Item = i64>) -> Vec<i64> {
            millis
                .into_iter()
                .map(|millis| {
                    assert!(!clock.is_gap(millis), "a gap at {millis}");
                    let tick = clock.place(millis);
                    assert_eq!(clock.place(millis), tick);
                    clock.measure(self.frame);
                    tick
                })
                .collect()
        }
    }

    /// AAC-LC at 48 and 44.1 kHz, HE-AAC, Opus with 20 and 2.5 ms, MP3, FLAC.
    fn sounds() -> Vec<Sound> {
        let config = |codec, record: &[u8]| CodecConfig::from_record(codec, Bytes::copy_from_slice(record)).unwrap();
        let opus = config(Codec::Opus, &OpusHead::for_channels(2).unwrap().build());
        let flac = [
            &b"\x10\0\x10\0\0\0\0\0\0\0\x0a\xc4\x42\xf0\0\0\0\0"[..], // blocks of 4096 samples, 44.1 kHz, stereo, 16 bits
            &[0; 16],
        ]
        .concat();
        const MP3: &[u8] = b"\xff\xfb\x90\0";
        vec![
            Sound { config: config(Codec::Aac, b"\x11\x90"), frame: b"x" },
            Sound { config: config(Codec::Aac, b"\x12\x10"), frame: b"x" },
            Sound { config: config(Codec::Aac, b"\x2b\x11\x88\0"), frame: b"x" },
            Sound { config: opus.clone(), frame: b"\xfc\xff\xfe" },
            Sound { config: opus, frame: b"\xe0\xff\xfe" },
            Sound { config: CodecConfig::mp3(MP3).unwrap(), frame: MP3 },
            Sound { config: config(Codec::Flac, &flac), frame: b"\xff\xf8\xc9\x18\0" },
        ]
    }

    #[test]
    fn frames_state_their_length() {
        let lengths: Vec<_> = sounds().iter().map(|sound| (sound.rate(), sound.length())).collect();
        let expected = [
            (48_000, 1024),
            (44_100, 1024),
            (48_000, 2048),
            (48_000, 960),
            (48_000, 120),
            (44_100, 1152),
            (44_100, 4096),
        ];
        assert_eq!(lengths, expected);
    }

    /// Rounded down, rounded to nearest or offset: after it has found its place the pace is one frame. Where milliseconds start
    /// between two samples it slips by one of them, now and then.
    #[test]
    fn audio_frames_keep_their_distance_despite_rounding() {
        for sound in sounds() {
            let (rate, length) = (i64::from(sound.rate()), sound.length());
            for (offset, rounding) in [(0i64, 0i64), (0, 500), (7, 0), (33, 999)] {
                let millis = |n: i64| offset + (n * length * 1000 + rounding * rate / 1000) / rate;
                let mut clock = TrackClock::new(&sound.track());
                let ticks = sound.place(&mut clock, (0..3000).map(millis));
                for (n, tick) in ticks.iter().enumerate() {
                    assert_eq!(to_millis(*tick, sound.rate()), millis(n as i64), "{sound:?}");
                }
                let slips: Vec<_> = ticks.windows(2).map(|pair| pair[1] - pair[0] - length).collect();
                assert!(slips[SETTLING..].iter().all(|slip| slip.abs() <= 1), "{sound:?} {slips:?}");
                let count = slips[1000..].iter().filter(|slip| **slip != 0).count();
                let bound = if rate == 48_000 { 0 } else { 20 };
                assert!(count <= bound, "{sound:?} {offset} {rounding}: {count} slips");
            }
        }
    }

    /// Timestamps of frames that are read several at a time: each has that of the first.
    #[test]
    fn frames_with_the_timestamp_of_their_group_neither_overlap_nor_leave_gaps() {
        for sound in sounds() {
            let (rate, length) = (i64::from(sound.rate()), sound.length());
            for group in [2, 3, 8] {
                // Every unit of a track has another DTS.
                let millis = |n: i64| n / group * group * length * 1000 / rate + n % group;
                if millis(group) - millis(0) < group || length * group * 1000 / rate > 200 {
                    continue;
                }
                let mut clock = TrackClock::new(&sound.track());
                let ticks = sound.place(&mut clock, (0..2000).map(millis));
                for (n, pair) in ticks.windows(2).enumerate() {
                    let step = pair[1] - pair[0];
                    let most = if n <= SETTLING { rate / 1000 + 1 } else { (length / 100).max(1) };
                    assert!((step - length).abs() <= most, "{sound:?} {group}: {step}");
                }
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
        fn jittered_audio_frames_neither_overlap_nor_leave_gaps(
            jitter in prop::collection::vec(-12i64..=12, 600),
            sound in prop::sample::select(sounds()),
        ) {
            let (rate, length) = (i64::from(sound.rate()), sound.length());
            let mut last = -1;
            let millis: Vec<_> = jitter
                .iter()
                .enumerate()
                .map(|(n, jitter)| {
                    last = (1000 + n as i64 * length * 1000 / rate + jitter).max(last + 1);
                    last
                })
                .collect();
            let ticks = sound.place(&mut TrackClock::new(&sound.track()), millis.iter().copied());
            for (n, tick) in ticks.iter().enumerate() {
                let exact = 1000 + n as i64 * length * 1000 / rate;
                prop_assert!((to_millis(*tick, sound.rate()) - exact).abs() <= 40, "{:?}: {} for {}", sound, tick, exact);
            }
            for (n, pair) in ticks.windows(2).enumerate() {
                let step = pair[1] - pair[0];
                let most = if n <= SETTLING { rate / 1000 + 1 } else { (length / 100).max(1) };
                prop_assert!((step - length).abs() <= most, "{:?}: {}", sound, step);
            }
        }

        /// Opus may change the length of its frames with every packet.
        #[test]
        fn frames_of_other_lengths_follow_each_other(tocs in prop::collection::vec(prop::sample::select(vec![0xe0u8, 0xe8, 0xf0, 0xf8, 0x18]), 300)) {
            let config = sounds()[3].config.clone();
            let mut clock = TrackClock::new(&Track { id: TrackId::AUDIO, config: config.clone() });
            let (mut exact, mut expected) = (0i64, None::<i64>);
            for toc in tocs {
                let payload = [toc, 0xff, 0xfe];
                let millis = (exact + 24) / 48;
                prop_assert!(!clock.is_gap(millis));
                let tick = clock.place(millis);
                clock.measure(&payload);
                if let Some(expected) = expected {
                    prop_assert!((tick - expected).abs() <= 1, "{} for {}", tick, expected);
                }
                let length = i64::from(config.samples_in(&payload).unwrap());
                exact += length;
                expected = Some(tick + length);
            }
        }
    }

    #[test]
    fn sound_that_was_away_leaves_a_gap() {
        for sound in sounds() {
            let rate = i64::from(sound.rate());
            let at = |n: i64| n * sound.length() * 1000 / rate;
            let mut clock = TrackClock::new(&sound.track());
            sound.place(&mut clock, (0..200).map(at));
            assert!(!clock.is_gap(at(200)) && !clock.is_gap(at(203)) && clock.is_gap(at(199) + 1000), "{sound:?}");
            let back = at(199) + 1000;
            assert_eq!(
                (to_millis(clock.place(back), sound.rate()), i64::from(clock.duration())),
                (back, sound.length())
            );
        }
    }

    #[test]
    fn pictures_that_were_away_leave_a_gap() {
        let format = Format::Video { width: 16, height: 16 };
        let config = CodecConfig { codec: Codec::H264, record: Bytes::new(), format };
        for (interval, pause) in [(40, 1100), (2000, 7000)] {
            let mut clock = TrackClock::new(&Track { id: TrackId::VIDEO, config: config.clone() });
            (0..100).for_each(|n| {
                clock.place(n * interval);
            });
            let last = 99 * interval;
            assert!(!clock.is_gap(last + interval * 2) || interval > 1000);
            assert!(clock.is_gap(last + pause));
            assert_eq!(clock.duration(), (interval * 90) as u32);
        }
    }
}
