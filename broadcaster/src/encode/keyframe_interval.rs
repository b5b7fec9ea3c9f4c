//! When the next IDR is due. Pure.
//!
//! By time, not by count: a camera that delivers fewer pictures in the dark, or an encoder that drops some, keeps its GOP length,
//! which is what segments are cut by.

/// Decides which pictures must be IDRs.
#[derive(Debug)]
pub(super) struct KeyframeScheduler {
    gop: i64,
    tolerance: i64,
    next: Option<i64>,
}

impl KeyframeScheduler {
    /// IDRs every `gop` milliseconds, of pictures about `interval` milliseconds apart.
    pub(super) fn new(gop: i64, interval: i64) -> Self {
        Self { gop: gop.max(1), tolerance: interval.max(0) / 2, next: None }
    }

    /// Whether the picture with this PTS is to be an IDR. The first one is.
    pub(super) fn is_due(&mut self, pts: i64) -> bool {
        let due = self.next.is_none_or(|next| pts + self.tolerance >= next);
        if due {
            // On the grid of the first one, unless more than a GOP was missed.
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
    fn keeps_its_grid() {
        check(2000, 40, (0..160).map(|n| n * 40), &[0, 2000, 4000, 6000]);
        check(2000, 33, (0..185).map(|n| 1000 + (n * 1000 + 15) / 30), &[1000, 3000, 5000, 7000]);
        // Jitter of a few milliseconds moves no IDR to the next picture.
        check(1000, 40, (0..100).map(|n| n * 40 + [0, -6, 5, -3][n as usize % 4]), &[0, 994, 2005, 2997]);
        // A gap: the next picture is an IDR, and the grid starts anew.
        check(1000, 40, [0, 40, 5000, 5040, 5960, 6000], &[0, 5000, 6000]);
        check(0, 0, [0, 1, 2], &[0, 1, 2]);
    }
}
