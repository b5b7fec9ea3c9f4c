//! Raw frames between a source and its encoder.

use ffmpeg_next::frame;

/// One captured picture.
pub struct Picture {
    /// The pixels, in any size and format.
    pub frame: frame::Video,
    /// Capture time in microseconds since PTS 0.
    pub captured: i64,
    /// The source's nominal rate in pictures per second, if it reports one.
    pub fps: Option<f64>,
}

/// One block of captured samples.
pub struct Sound {
    /// The samples, in any rate, layout and format.
    pub frame: frame::Audio,
    /// Capture time of the first sample in microseconds since PTS 0.
    pub captured: i64,
}
