//! Timestamp normalisation: from any time base to whole milliseconds that rise strictly within a track and are never negative.
//!
//! Pure. It is done once; everything downstream carries the result unchanged.

use media::Timestamp;

/// Converts `ticks` of `num/den` seconds to milliseconds: rounded to nearest, halves away from zero, saturating. `num` and `den`
/// are positive.
pub fn to_millis(ticks: i64, num: i32, den: i32) -> i64 {
    let (scaled, den) = (i128::from(ticks) * i128::from(num) * 1000, i128::from(den.max(1)));
    let half = if scaled < 0 { -den / 2 } else { den / 2 };
    i64::try_from((scaled + half) / den).unwrap_or(if scaled < 0 { i64::MIN } else { i64::MAX })
}

/// Assigns the DTS and PTS of one track's access units.
#[derive(Debug, Default)]
pub struct TimestampNormalizer {
    last: Option<i64>,
    adjusted: u64,
}

impl TimestampNormalizer {
    /// The DTS and PTS of the next unit, from milliseconds that may repeat or go backwards. PTS is never below DTS.
    pub fn next(&mut self, dts: i64, pts: i64) -> (Timestamp, Timestamp) {
        let floor = self.last.map_or(0, |last| last + 1);
        let exact = dts >= floor;
        let dts = dts.max(floor);
        self.adjusted += u64::from(!exact);
        self.last = Some(dts);
        (Timestamp::from_millis(dts), Timestamp::from_millis(pts.max(dts)))
    }

    /// Number of units whose DTS had to be changed.
    pub fn adjusted(&self) -> u64 {
        self.adjusted
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ticks_round_to_the_nearest_millisecond() {
        for (ticks, num, den, millis) in [
            (0, 1, 90_000, 0),
            (3003, 1, 90_000, 33),
            (6006, 1, 90_000, 67),
            (-3003, 1, 90_000, -33),
            (45, 1, 90_000, 1),
            (44, 1, 90_000, 0),
            (-45, 1, 90_000, -1),
            (1024, 1, 48_000, 21),
            (1, 1001, 30_000, 33),
            (2, 1001, 30_000, 67),
            (i64::MAX, 1, 1, i64::MAX),
            (i64::MIN, 1, 1, i64::MIN),
        ] {
            assert_eq!(to_millis(ticks, num, den), millis, "{ticks} × {num}/{den}");
        }
    }

    #[test]
    fn dts_rises_strictly() {
        let mut q = TimestampNormalizer::default();
        let out: Vec<_> = [(-5, 0), (0, 0), (0, 40), (40, 80), (30, 60), (80, 70)]
            .into_iter()
            .map(|(dts, pts)| q.next(dts, pts))
            .map(|(dts, pts)| (dts.as_millis(), pts.as_millis()))
            .collect();
        assert_eq!(out, [(0, 0), (1, 1), (2, 40), (40, 80), (41, 60), (80, 80)]);
        assert_eq!(q.adjusted(), 4);
    }

    proptest! {
        #[test]
        fn timestamps_in_order_stay_unchanged(start in 0i64..1 << 40, steps in prop::collection::vec((1i64..500, 0i64..300), 1..100)) {
            let mut q = TimestampNormalizer::default();
            let mut dts = start;
            for (step, composition) in steps {
                dts += step;
                prop_assert_eq!(q.next(dts, dts + composition), (Timestamp::from_millis(dts), Timestamp::from_millis(dts + composition)));
            }
            prop_assert_eq!(q.adjusted(), 0);
        }

        #[test]
        fn dts_always_rises_and_is_never_negative(units in prop::collection::vec((-1000i64..1000, -1000i64..1000), 1..200)) {
            let mut q = TimestampNormalizer::default();
            let mut last = -1;
            for (dts, pts) in units {
                let (dts, pts) = q.next(dts, pts);
                prop_assert!(dts.as_millis() > last && pts >= dts);
                last = dts.as_millis();
            }
        }

        #[test]
        fn rounding_preserves_order(a in -1i64 << 40..1 << 40, b in -1i64 << 40..1 << 40, den in 1i32..200_000) {
            prop_assert_eq!(a <= b || to_millis(a, 1, den) >= to_millis(b, 1, den), true);
            prop_assert!((i128::from(to_millis(a, 1, den)) * i128::from(den) - i128::from(a) * 1000).abs() * 2 <= i128::from(den));
        }
    }
}
