//! Limits the frame rate by dropping frames. Pure.

/// Passes frames up to a given rate, evenly spaced.
#[derive(Debug)]
pub(super) struct FrameRateLimit {
    interval: Option<i64>,
    next: Option<i64>,
}

impl FrameRateLimit {
    /// A limit of `fps` frames per second; `None` passes everything.
    pub(super) fn new(fps: Option<f64>) -> Self {
        let interval = fps.filter(|fps| *fps > 0.0).map(|fps| (1_000_000.0 / fps).round() as i64);
        Self { interval, next: None }
    }

    /// Whether the frame captured at `micros` microseconds passes.
    pub(super) fn admits(&mut self, micros: i64) -> bool {
        let Some(interval) = self.interval else { return true };
        // A quarter of an interval early is jitter, not a higher rate.
        if self.next.is_some_and(|next| micros + interval / 4 < next) {
            return false;
        }
        let on_grid = self.next.filter(|next| micros - next < interval).unwrap_or(micros);
        self.next = Some(on_grid + interval);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(fps: Option<f64>, source_interval: i64, jitter: [i64; 3], pictures: i64, expected: usize) {
        let mut limit = FrameRateLimit::new(fps);
        let admitted = (0..pictures).filter(|n| limit.admits(n * source_interval + jitter[*n as usize % 3])).count();
        assert_eq!(admitted, expected, "{fps:?} of {source_interval} µs");
    }

    #[test]
    fn the_frame_rate_is_limited() {
        check(None, 1, [0; 3], 100, 100);
        check(Some(30.0), 33_333, [0; 3], 300, 300);
        check(Some(30.0), 33_333, [0, 4000, -4000], 300, 300);
        check(Some(30.0), 16_667, [0; 3], 600, 300);
        check(Some(10.0), 33_333, [0; 3], 300, 100);
        check(Some(25.0), 33_333, [0; 3], 300, 250);
        check(Some(60.0), 33_333, [0; 3], 300, 300);
    }
}
