//! Counters of a link: frames forwarded and dropped in each direction, by cause.

/// Counters of one direction since the link was created, in frames.
///
/// `received + duplicated` is the sum of all others but `kernel_drops`, plus the frames in flight. netem reports only
/// `sent`, `sent_bytes`, `lost` and `link_down_drops`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameCounts {
    /// Frames that entered at the near end.
    pub received: u64,
    /// Frames that left at the far end.
    pub sent: u64,
    /// Bytes of those that left.
    pub sent_bytes: u64,
    /// Random and burst loss of the shape; with netem, also drops at the full queue.
    pub lost: u64,
    /// Dropped because the queue was full.
    pub queue_drops: u64,
    /// Duplicates made by the shape.
    pub duplicated: u64,
    /// Dropped while the link was cut or a black hole.
    pub link_down_drops: u64,
    /// Dropped by the emulator, not by the shape: oversized, too many in flight, or rejected by the kernel.
    pub emulator_drops: u64,
    /// Dropped by the kernel before the emulator saw them.
    pub kernel_drops: u64,
}

/// The counts of both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// First end to second.
    pub a_to_b: FrameCounts,
    /// Second end to first.
    pub b_to_a: FrameCounts,
}

impl Stats {
    /// Frames that the emulator or the kernel dropped against the shape, both directions together. Other than
    /// zero, the run is invalid.
    pub fn improper_drops(&self) -> u64 {
        [self.a_to_b, self.b_to_a].iter().map(|counts| counts.emulator_drops + counts.kernel_drops).sum()
    }
}
