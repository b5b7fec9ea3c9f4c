//! Reconstructs missing DTS: Matroska stores none, and FFmpeg infers them only after as many frames as the stream reorders. Pure.

/// Holds a stream's first packets until a DTS is known, then extrapolates backwards from it.
#[derive(Debug)]
pub(super) struct DecodingTimes<P> {
    interval: i64,
    held: Vec<(P, i64)>,
    last: Option<i64>,
}

/// A packet with its DTS in milliseconds.
pub(super) type Timed<P> = (P, i64);

impl<P> DecodingTimes<P> {
    /// `interval` is the nominal frame interval in milliseconds.
    pub(super) fn new(interval: i64) -> Self {
        Self { interval: interval.max(1), held: Vec::new(), last: None }
    }

    /// Takes the next packet with its DTS, if it has one, and its PTS, in milliseconds. Returns the packets that are ready, in order.
    pub(super) fn push(&mut self, packet: P, dts: Option<i64>, pts: i64) -> Vec<Timed<P>> {
        self.held.push((packet, pts));
        match (dts, self.last) {
            (Some(dts), _) => self.release(dts),
            // A single packet without a DTS: one interval after the previous one, but not after its own PTS.
            (None, Some(last)) => self.release((last + self.interval).min(pts.max(last + 1))),
            (None, None) if self.held.len() >= MAX_HELD => self.flush(),
            (None, None) => Vec::new(),
        }
    }

    /// The last DTS returned.
    pub(super) fn last(&self) -> Option<i64> {
        self.last
    }

    /// Returns the packets that are held, although no DTS became known.
    pub(super) fn flush(&mut self) -> Vec<Timed<P>> {
        // Evenly spaced, and early enough that no DTS exceeds its PTS.
        let steps = self.held.iter().zip(0..);
        match steps.map(|((_, pts), n)| pts - n * self.interval).min() {
            Some(first) => self.release(first + (self.held.len() as i64 - 1) * self.interval),
            None => Vec::new(),
        }
    }

    /// Returns the packets that are held; the newest has this DTS.
    fn release(&mut self, dts: i64) -> Vec<Timed<P>> {
        self.last = Some(dts);
        let (newest, interval) = (self.held.len() as i64 - 1, self.interval);
        self.held.drain(..).zip(0..).map(|((packet, _), n)| (packet, dts - (newest - n) * interval)).collect()
    }
}

/// One more than H.264 and HEVC can reorder: 16 frames.
const MAX_HELD: usize = 17;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(packets: &[(Option<i64>, i64)], expected: &[i64]) {
        let mut times = DecodingTimes::new(40);
        let mut out = Vec::new();
        for (n, (dts, pts)) in packets.iter().enumerate() {
            out.extend(times.push(n, *dts, *pts));
        }
        out.extend(times.flush());
        assert!(out.iter().map(|(n, _)| *n).eq(0..packets.len()));
        assert_eq!(out.iter().map(|(_, dts)| *dts).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn missing_dts_are_extrapolated_from_the_first_known() {
        check(&[], &[]);
        check(&[(Some(0), 80), (Some(40), 200)], &[0, 40]);
        check(&[(None, 23), (None, 143), (Some(23), 63), (Some(63), 103)], &[-57, -17, 23, 63]);
        check(&[(Some(0), 0), (None, 40), (None, 41), (Some(120), 120)], &[0, 40, 41, 120]);
        check(&[(None, 0), (None, 120), (None, 40), (None, 80)], &[-40, 0, 40, 80]);
    }
}
