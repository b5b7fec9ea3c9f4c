//! Decides which frames are keyframes (IDR), by time rather than by count. Pure.
//!
//! A camera that delivers fewer frames in the dark, or an encoder that drops some, keeps its keyframe interval, by which segments
//! are cut.

/// Schedules keyframes on a grid of equal intervals.
#[derive(Debug)]
pub(super) struct KeyframeScheduler {
    gop: i64,
    tolerance: i64,
    next: Option<i64>,
}

impl KeyframeScheduler {
    /// A keyframe every `gop` milliseconds, for frames about `interval` milliseconds apart.
    pub(super) fn new(gop: i64, interval: i64) -> Self {
        Self { gop: gop.max(1), tolerance: interval.max(0) / 2, next: None }
    }

    /// Whether the frame with this PTS in milliseconds is to be a keyframe. The first one is.
    pub(super) fn is_due(&mut self, pts: i64) -> bool {
        let due = self.next.is_none_or(|next| pts + self.tolerance >= next);
        if due {
            // Stay on the grid, unless more than one interval was missed.
            let planned = self.next.map_or(pts, |next| next) + self.gop;
            self.next = Some(if planned + self.tolerance <= pts { pts + self.gop } else { planned });
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(gop: i64, interval: i64, pts: impl IntoIterator<Item = i64>, expected: &[i64]) {
        let mut keyframes = KeyframeScheduler::new(gop, interval);
        let due: Vec<_> = pts.into_iter().filter(|pts| keyframes.is_due(*pts)).collect();
        assert_eq!(due, expected);
    }

    #[test]
    fn keyframes_stay_on_the_grid() {
        check(2000, 40, (0..160).map(|n| n * 40), &[0, 2000, 4000, 6000]);
        check(2000, 33, (0..185).map(|n| 1000 + (n * 1000 + 15) / 30), &[1000, 3000, 5000, 7000]);
        // Jitter of a few milliseconds moves no keyframe to the next frame.
        check(1000, 40, (0..100).map(|n| n * 40 + [0, -6, 5, -3][n as usize % 4]), &[0, 994, 2005, 2997]);
        // After a gap the next frame is a keyframe and starts a new grid.
        check(1000, 40, [0, 40, 5000, 5040, 5960, 6000], &[0, 5000, 6000]);
        check(0, 0, [0, 1, 2], &[0, 1, 2]);
    }
}
