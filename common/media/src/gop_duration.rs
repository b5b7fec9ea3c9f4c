//! The duration of GOPs: media time from one random access point to the next, without the pauses of the pictures.

/// Follows the pictures of one epoch.
#[derive(Clone, Debug, Default)]
pub(crate) struct GopDurations {
    /// Time of the newest picture in milliseconds.
    newest: Option<i64>,
    /// The newest interval between two pictures in milliseconds that was no pause.
    interval: Option<i64>,
    /// Duration of the GOP in progress so far, to its newest picture; `None` before the first one starts.
    open: Option<i64>,
}

impl GopDurations {
    /// Notes a picture at `at`, in milliseconds; `starts_gop` if it is a random access point. Returns the duration of the GOP that ends here.
    pub(crate) fn observe(&mut self, at: i64, starts_gop: bool) -> Option<i64> {
        let interval = self.newest.replace(at).map_or(0, |newest| (at - newest).max(0));
        let counted = match self.interval {
            Some(usual) if interval > MAX_INTERVAL => usual,
            _ => interval,
        };
        if interval > 0 {
            self.interval = Some(counted);
        }
        let duration = self.open.map(|open| open + counted);
        self.open = if starts_gop { Some(0) } else { duration };
        duration.filter(|_| starts_gop)
    }

    /// Duration of the GOP in progress in milliseconds, to its newest picture; `None` before the first one starts.
    pub(crate) fn open(&self) -> Option<i64> {
        self.open
    }
}

/// In milliseconds. A longer interval between two pictures is a pause, unless all are as long.
const MAX_INTERVAL: i64 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn durations(pictures: impl IntoIterator<Item = (i64, bool)>) -> Vec<i64> {
        let mut durations = GopDurations::default();
        pictures.into_iter().filter_map(|(at, starts_gop)| durations.observe(at, starts_gop)).collect()
    }

    #[test]
    fn a_pause_is_no_part_of_a_gop() {
        let pictures = (0..9000).step_by(40).filter(|at| !(2400..8000).contains(at));
        assert_eq!(durations(pictures.map(|at| (at, at % 1000 == 0))), [1000, 1000, 400]);
    }

    #[test]
    fn pictures_may_be_rare() {
        assert_eq!(durations((0..8).map(|n| (n * 2000, n % 2 == 0))), [4000, 4000, 4000]);
    }

    #[test]
    fn the_gop_in_progress_ends_at_its_newest_picture() {
        let mut durations = GopDurations::default();
        assert_eq!((durations.observe(0, false), durations.open()), (None, None));
        for at in (40..=400).step_by(40) {
            durations.observe(at, at == 40);
        }
        assert_eq!(durations.open(), Some(360));
    }
}
