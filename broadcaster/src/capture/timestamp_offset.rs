//! From a file's clock to the broadcast's, across the jumps that joined recordings have. Pure.
//!
//! All in milliseconds, on DTS. Tracks are interleaved: when one jumps, the other's next packets may still be from before the
//! jump. So each track keeps its offset until its own packets fit the new one better; then both have the same again, and sound
//! stays with its picture.

/// The offset that the file's tracks share.
#[derive(Debug, Default)]
pub(super) struct TimestampOffsets {
    /// The newest one; none before the first packet.
    newest: Option<i64>,
    /// What this round covers on the broadcast's clock.
    played: Option<(i64, i64)>,
    /// The offset that this round starts with.
    loop_offset: i64,
}

/// One track's place. Made anew each round.
#[derive(Debug, Default)]
pub(super) struct TrackOffset {
    /// Its offset, and where its last packet ends on the file's clock.
    last: Option<(i64, i64)>,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PacketOffset {
    /// To be added to its timestamps.
    pub(super) offset: i64,
    /// How far the file's clock jumped, if it did so right before it.
    pub(super) jump: Option<i64>,
}

impl TimestampOffsets {
    /// The offset of the track's next packet; `first` tells that of the first one of all.
    pub(super) fn next(
        &mut self,
        track: &mut TrackOffset,
        dts: i64,
        duration: i64,
        first: impl FnOnce() -> i64,
    ) -> PacketOffset {
        let newest = match self.newest {
            Some(newest) => newest,
            None => {
                self.loop_offset = first();
                *self.newest.insert(self.loop_offset)
            }
        };
        let mut jump = None;
        let offset = match track.last {
            None => newest,
            Some((own, end)) => {
                let gap = |offset: i64| dts.saturating_add(offset) - (end + own);
                let nearest = if gap(newest).abs() < gap(own).abs() { newest } else { own };
                if (-MAX_BACKWARD_GAP..=MAX_FORWARD_GAP).contains(&gap(nearest)) {
                    nearest
                } else {
                    jump = Some(dts - end);
                    self.newest = Some(end + own - dts);
                    end + own - dts
                }
            }
        };
        track.last = Some((offset, dts + duration));
        let (from, to) = (dts + offset, dts + offset + duration);
        self.played = Some(self.played.map_or((from, to), |(start, end)| (start.min(from), end.max(to))));
        PacketOffset { offset, jump }
    }

    /// The file starts again where it ended. Returns the length of the round.
    pub(super) fn rewind(&mut self) -> i64 {
        let length = self.played.take().map_or(0, |(start, end)| end - start);
        self.loop_offset += length;
        self.newest = self.newest.map(|_| self.loop_offset);
        length
    }
}

/// A DTS ahead of where the last packet ended by more is a jump, not a pause. A real pause of that length is skipped with it.
const MAX_FORWARD_GAP: i64 = 10_000;

/// A DTS behind where the last packet ended by more is a jump. Durations are sometimes wrong by a picture or a few; following
/// each such step would move sound and picture apart.
const MAX_BACKWARD_GAP: i64 = 500;

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets of 40 ms as (track, DTS), and the DTS that they get; the first one's offset is 1000.
    #[track_caller]
    fn check(packets: &[(usize, i64)], expected: &[i64]) {
        let (mut offsets, mut tracks) = (TimestampOffsets::default(), [TrackOffset::default(), TrackOffset::default()]);
        let moved = packets.iter().map(|(n, dts)| dts + offsets.next(&mut tracks[*n], *dts, 40, || 1000).offset);
        assert_eq!(moved.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_broadcast_goes_on() {
        check(&[], &[]);
        check(&[(0, 0), (0, 40), (0, 80)], &[1000, 1040, 1080]);
        // Back, and ahead.
        check(&[(0, 5000), (0, 5040), (0, 0), (0, 40)], &[6000, 6040, 6080, 6120]);
        check(&[(0, 0), (0, 3_600_000), (0, 3_600_040)], &[1000, 1040, 1080]);
        // A pause, and durations that are a little wrong.
        check(&[(0, 0), (0, 9000), (0, 9030), (0, 9100)], &[1000, 10_000, 10_030, 10_100]);
        // The first is the jump's; the other track follows once it jumps itself, and keeps its distance.
        check(
            &[(0, 80_000), (1, 80_010), (0, 80_040), (0, 100), (1, 80_050), (0, 140), (1, 112), (1, 152)],
            &[81_000, 81_010, 81_040, 81_080, 81_050, 81_120, 81_092, 81_132],
        );
        check(&[(0, 0), (0, i64::MAX / 2), (0, 0)], &[1000, 1040, 1080]);
    }

    #[test]
    fn a_round_is_as_long_as_what_was_played() {
        let mut offsets = TimestampOffsets::default();
        for round in 0..3 {
            let mut track = TrackOffset::default();
            let moved = [5000, 5040, 0, 40].map(|dts| dts + offsets.next(&mut track, dts, 40, || 1000).offset);
            assert_eq!(moved, [6000, 6040, 6080, 6120].map(|dts| dts + round * 160));
            assert_eq!(offsets.rewind(), 160);
        }
    }
}
