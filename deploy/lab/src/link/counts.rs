//! What an emulator counts: frames forwarded and dropped in each direction of a link, by cause.

/// What happened in one direction since the link was made, in frames.
///
/// `received + duplicated` is the sum of all others but `kernel_drops`, and of the frames still on their way. netem tells no more than
/// `sent`, `sent_bytes`, `lost` and `link_down_drops`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameCounts {
    /// Taken in at the near end.
    pub received: u64,
    /// Put out at the far end.
    pub sent: u64,
    /// Their lengths together.
    pub sent_bytes: u64,
    /// Lost by the shape's random or burst loss; by netem, dropped at the full queue, too.
    pub lost: u64,
    /// Dropped at the full queue.
    pub queue_drops: u64,
    /// Second copies made by the shape.
    pub duplicated: u64,
    /// Swallowed because the link was cut or a black hole.
    pub link_down_drops: u64,
    /// Dropped by the emulator against the shape: oversized, too many in flight, or refused by the kernel.
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
