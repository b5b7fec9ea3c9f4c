//! Sources of video and audio: cameras, screens, microphones, files and the test pattern.
//!
//! A live source never blocks: each frame gets its capture time on the media clock and goes into a
//! [`DropOldestQueue`](crate::encode::DropOldestQueue). A device that fails is logged and reopened while the broadcast continues.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use media::TrackId;

use crate::broadcast::Broadcast;
use crate::clock::BroadcastClock;
use crate::encode::{AudioSettings, VideoSettings};
use crate::shutdown::ShutdownSignal;
use crate::stats::Stats;

mod decoding_time;
pub mod device;
pub mod devices;
pub mod file;
mod file_probe;
mod frame_rate_limit;
mod input;
pub mod plan;
pub mod source;
pub mod test_pattern;
mod timestamp_offset;

pub use input::ReadError;

/// How a source's tracks are processed.
#[derive(Clone, Debug)]
pub struct CaptureSettings {
    /// How to encode pictures.
    pub video: VideoSettings,
    /// How to encode audio.
    pub audio: AudioSettings,
    /// Whether to draw the counter and the clock into pictures; `None`: into the test pattern only.
    pub burn_in: Option<bool>,
    /// Whether a file starts again at its end.
    pub looped: bool,
}

/// What every source shares. Clones refer to the same broadcast.
#[derive(Clone)]
pub struct CaptureContext {
    /// How the source's tracks are processed.
    pub settings: Arc<CaptureSettings>,
    /// The media clock, by which frames are stamped.
    pub clock: BroadcastClock,
    /// Receives the access units.
    pub broadcast: Arc<Broadcast>,
    /// The counters of this run.
    pub stats: Arc<Stats>,
    /// Set when capturing must stop.
    pub shutdown: ShutdownSignal,
}

/// Initialises FFmpeg and registers its devices. Call it before anything else of this module and of [`encode`](crate::encode).
///
/// # Errors
/// FFmpeg's own.
pub fn init() -> Result<(), ffmpeg_next::Error> {
    ffmpeg_next::init()?;
    ffmpeg_next::device::register_all();
    Ok(())
}

/// Whether a broadcast can begin without a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// It must deliver once. After that, it is reopened whenever it fails.
    Required,
    /// The broadcast begins without it, and it is tried again.
    Optional,
}

/// Repeats `attempt` until it succeeds or capturing must stop; each failure is logged, counted and followed by a growing wait.
///
/// `attempt` calls its argument once the device delivers, which resets the wait. After a failure the other tracks no longer wait
/// for `track`.
///
/// # Errors
/// The failure of a required device that has not delivered yet.
fn run_with_retry<E: std::fmt::Display>(
    context: &CaptureContext,
    device: &str,
    track: TrackId,
    need: Need,
    mut attempt: impl FnMut(&mut dyn FnMut()) -> Result<(), E>,
) -> Result<(), E> {
    let mut backoff = RETRY.build();
    let mut has_worked = false;
    while !context.shutdown.is_triggered() {
        let mut works = false;
        let result = attempt(&mut || works = true);
        if works {
            backoff = RETRY.build();
            has_worked = true;
        }
        // What was interrupted, as opening a device is, has not failed.
        let Some(error) = result.err().filter(|_| !context.shutdown.is_triggered()) else { return Ok(()) };
        if need == Need::Required && !has_worked {
            return Err(error);
        }
        context.stats.device_errors.increment();
        context.broadcast.skip_track(track);
        let wait = backoff.next().unwrap_or(MAX_BACKOFF);
        tracing::warn!(device, %error, retry_in_ms = wait.as_millis() as u64, "the device failed; reopening it");
        if !context.shutdown.sleep(wait) {
            break;
        }
    }
    Ok(())
}

/// Waits between attempts to open a device: 250 to 500 ms at first, then twice that, up to [`MAX_BACKOFF`] to twice that.
const RETRY: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(250))
    .with_max_delay(MAX_BACKOFF)
    .with_jitter()
    .without_max_times();

/// With jitter at most 4 s: a camera that is plugged in again should appear soon.
const MAX_BACKOFF: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_delays_double_up_to_four_seconds_without_end() {
        let mut backoff = RETRY.build();
        for step in [250, 500, 1000, 2000, 2000, 2000, 2000] {
            let step = Duration::from_millis(step);
            let wait = backoff.next().unwrap();
            assert!((step..=step * 2).contains(&wait), "{wait:?}");
        }
    }
}
