//! Maps a file's timestamps to the broadcast's, across the discontinuities of concatenated recordings. Pure.
//!
//! All values are DTS in milliseconds. Tracks are interleaved: after one jumps, the next packets of the other may still precede the
//! jump. So each track keeps its offset until its packets fit the new one better; then both share it again, and audio and video
//! stay in sync.

/// The offsets of one file's tracks.
#[derive(Debug, Default)]
pub(super) struct TimestampOffsets {
    /// The newest offset; `None` before the first packet.
    newest: Option<i64>,
    /// First and last time of this iteration of the loop, on the media clock.
    played: Option<(i64, i64)>,
    /// The offset at the start of this iteration.
    loop_offset: i64,
}

/// The offset of one track. Reset for each iteration of the loop.
#[derive(Debug, Default)]
pub(super) struct TrackOffset {
    /// Its offset, and the end of its last packet in the file's time.
    last: Option<(i64, i64)>,
}

/// The offset of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PacketOffset {
    /// Milliseconds to add to its DTS and PTS.
    pub(super) offset: i64,
    /// Milliseconds by which the file's timestamps jumped before this packet, if they did.
    pub(super) jump: Option<i64>,
}

impl TimestampOffsets {
    /// The offset of the track's next packet. `first` gives the offset of the very first packet.
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

    /// Continues the loop where this iteration ended. Returns the iteration's length.
    pub(super) fn rewind(&mut self) -> i64 {
        let length = self.played.take().map_or(0, |(start, end)| end - start);
        self.loop_offset += length;
        self.newest = self.newest.map(|_| self.loop_offset);
        length
    }
}

/// A DTS further ahead of the last packet's end is a jump, not a pause. A real pause of that length is skipped, too.
const MAX_FORWARD_GAP: i64 = 10_000;

/// A DTS further behind the last packet's end is a jump. Less is a wrong duration, as files often have by some frames: following
/// each would put audio and video out of sync.
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
    fn jumps_of_the_file_do_not_reach_the_broadcast() {
        check(&[], &[]);
        check(&[(0, 0), (0, 40), (0, 80)], &[1000, 1040, 1080]);
        // Jumps backwards and forwards.
        check(&[(0, 5000), (0, 5040), (0, 0), (0, 40)], &[6000, 6040, 6080, 6120]);
        check(&[(0, 0), (0, 3_600_000), (0, 3_600_040)], &[1000, 1040, 1080]);
        // A pause, and durations that are a little wrong.
        check(&[(0, 0), (0, 9000), (0, 9030), (0, 9100)], &[1000, 10_000, 10_030, 10_100]);
        // One track jumps first; the other follows when it jumps itself, and stays in sync.
        check(
            &[(0, 80_000), (1, 80_010), (0, 80_040), (0, 100), (1, 80_050), (0, 140), (1, 112), (1, 152)],
            &[81_000, 81_010, 81_040, 81_080, 81_050, 81_120, 81_092, 81_132],
        );
        check(&[(0, 0), (0, i64::MAX / 2), (0, 0)], &[1000, 1040, 1080]);
    }

    #[test]
    fn a_loop_iteration_lasts_as_long_as_the_media_it_played() {
        let mut offsets = TimestampOffsets::default();
        for round in 0..3 {
            let mut track = TrackOffset::default();
            let moved = [5000, 5040, 0, 40].map(|dts| dts + offsets.next(&mut track, dts, 40, || 1000).offset);
            assert_eq!(moved, [6000, 6040, 6080, 6120].map(|dts| dts + round * 160));
            assert_eq!(offsets.rewind(), 160);
        }
    }
}
