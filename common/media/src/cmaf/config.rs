//! The configuration and the counters of a segmenter.

use std::time::Duration;

/// The target durations and bounds of a segmenter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmenterConfig {
    /// Segments end at the IDR nearest to this duration. Default 2 s.
    pub segment_target: Duration,
    /// Parts end at the video frame nearest to this duration. Default 200 ms. The `PART-TARGET` of the playlist is 8% longer: see
    /// [`SegmentWindow::part_target`](super::SegmentWindow::part_target).
    pub part_target: Duration,
    /// Whether playlists list parts and accept blocking requests for them (LL-HLS). Default true.
    pub low_latency: bool,
    /// Media time that a playlist lists, at least three target durations whatever this says (RFC 8216 §6.2.2). About as much again stays
    /// available after it has left the playlist. Default 20 s.
    pub window: Duration,
    /// Upper bound of the bytes that are stored, listed or not. At least one segment is kept. Default 256 MiB.
    pub bytes: usize,
    /// Media sequence number of the first segment. It should be higher than any number used before a restart of the server: players and
    /// caches would otherwise take new segments for old ones. Default 0.
    pub first_sequence: u64,
}

impl Default for SegmenterConfig {
    /// 2 s segments, 200 ms parts, 20 s listed, 256 MiB.
    ///
    /// 200 ms is a whole number of frames at 5, 10, 15, 20, 25, 30, 50 and 60 frames per second, and divides GOPs of 1 s and 2 s. Parts of a third
    /// of a second would save two requests in five, but cost 0.4 s of latency, because a player stays three parts behind the live edge.
    fn default() -> Self {
        Self {
            segment_target: Duration::from_secs(2),
            part_target: Duration::from_millis(200),
            low_latency: true,
            window: Duration::from_secs(20),
            bytes: 256 << 20,
            first_sequence: 0,
        }
    }
}

/// Counts of what a segmenter could not write, since it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmenterCounters {
    /// Units that fMP4 cannot carry: the track has no usable configuration record, or the DTS does not increase.
    pub refused: u64,
    /// Video frames before the first IDR of their epoch.
    pub undecodable: u64,
    /// Segments that do not start with an IDR, because none arrived in time.
    pub dependent_segments: u64,
}
