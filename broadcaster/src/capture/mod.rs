//! Where pictures and sound come from. With `encode`, the only room that knows FFmpeg.
//!
//! A live source never waits: each picture is stamped on the broadcast's clock and handed to a [`DropOldestQueue`](crate::encode::DropOldestQueue). What fails is said,
//! and tried again while the broadcast goes on.

use std::sync::Arc;
use std::time::Duration;

use media::TrackId;

use crate::backoff::Backoff;
use crate::broadcast::Broadcast;
use crate::clock::BroadcastClock;
use crate::encode::{AudioSettings, VideoSettings};
use crate::shutdown::ShutdownSignal;
use crate::stats::Stats;

mod decoding_time;
pub mod device;
pub mod devices;
pub mod file;
mod frame_rate_limit;
mod input;
pub mod source;
pub mod test_pattern;
mod timestamp_offset;

pub use input::ReadError;

/// What to make of a source's pictures and sound.
#[derive(Clone, Debug)]
pub struct CaptureSettings {
    /// How to encode pictures.
    pub video: VideoSettings,
    /// How to encode sound.
    pub audio: AudioSettings,
    /// Whether to draw the counter and the clock into pictures; `None`: into the test pattern only.
    pub burn_in: Option<bool>,
    /// Whether a file starts again at its end.
    pub looped: bool,
}

/// What every source works with.
#[derive(Clone)]
pub struct CaptureContext {
    /// How to capture and encode.
    pub settings: Arc<CaptureSettings>,
    /// The clock.
    pub clock: BroadcastClock,
    /// Where access units go.
    pub broadcast: Arc<Broadcast>,
    /// The counters.
    pub stats: Arc<Stats>,
    /// Raised when capturing must stop.
    pub shutdown: ShutdownSignal,
}

/// Prepares FFmpeg. To be called once, before anything else of this room.
pub fn init() -> Result<(), ffmpeg_next::Error> {
    ffmpeg_next::init()?;
    ffmpeg_next::device::register_all();
    Ok(())
}

/// Runs `attempt` until it ends well or is told to stop; each failure is said, counted and followed by a longer wait.
///
/// `attempt` says by its argument, a callback, that it works: then the next wait is short again. When a first attempt fails,
/// the other tracks go on without `track`.
fn run_with_retry<E: std::fmt::Display>(
    context: &CaptureContext,
    device: &str,
    track: TrackId,
    mut attempt: impl FnMut(&mut dyn FnMut()) -> Result<(), E>,
) {
    let mut backoff = Backoff::new(MIN_BACKOFF, MAX_BACKOFF);
    while !context.shutdown.is_triggered() {
        let mut works = false;
        let result = attempt(&mut || works = true);
        if works {
            backoff.reset();
        }
        let Err(error) = result else { return };
        context.stats.device_errors.increment();
        context.broadcast.skip_track(track);
        let wait = backoff.next(rand::random());
        tracing::warn!(device, %error, retry_in_ms = wait.as_millis() as u64, "the device failed; trying again");
        if !context.shutdown.sleep(wait) {
            return;
        }
    }
}

/// A camera that was plugged in again is there within this.
const MIN_BACKOFF: Duration = Duration::from_millis(500);

/// Someone who plugs a camera in wants to see it soon.
const MAX_BACKOFF: Duration = Duration::from_secs(4);
