//! One stream's segmenter: the task that feeds the segmenter from the hub and publishes a snapshot for each new part or segment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use media::cmaf::{SegmentWindow, Segmenter, SegmenterConfig};
use media::live_window::{Cursor, LiveWindow};
use media::time::WallClock;
use net::clock;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use super::hls_stream::HlsStream;
use super::listed_units::ListedUnits;
use super::settings::Settings;
use crate::hub::State;

/// Packages until the stream is removed or the server shuts down.
pub(super) async fn run(hls_stream: Arc<HlsStream>, settings: Settings) {
    let stream = hls_stream.stream().clone();
    let mut segmenter = Segmenter::new(SegmenterConfig {
        segment_target: settings.segment_duration,
        part_target: settings.part_duration,
        low_latency: settings.low_latency,
        window: settings.playlist_window,
        bytes: settings.max_bytes,
        first_sequence: first_sequence(clock::now()),
    });
    // From the oldest unit held: the first viewers get all that there is to choose from, and a burst is not skipped.
    let mut cursor = Cursor::at(stream.with_window(LiveWindow::first_position));
    let mut changed = stream.changed();
    let mut ticks = interval(VIEWERS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut has_ended = true;
    let mut listed_units = ListedUnits::default();
    loop {
        changed.borrow_and_update();
        // The state is read before the units: what was pushed before the end is packaged before the end.
        let state = stream.state();
        let mut is_new = false;
        loop {
            let read = stream.read(&mut cursor, READ_BATCH_BYTES);
            if read.skipped > 0 {
                warn!(stream = stream.name(), units = read.skipped, "the packager fell behind");
            }
            if read.entries.is_empty() {
                break;
            }
            has_ended = false;
            for entry in &read.entries {
                is_new |= segmenter.push(entry, clock::now());
                listed_units.take(&stream, &segmenter.window(), &entry.unit);
            }
            tokio::task::yield_now().await;
        }
        // A server that shuts down is not a stream that ends: players are to ask again, here or elsewhere.
        if matches!(state, State::Ended { .. }) && !has_ended && !hls_stream.stopped().is_cancelled() {
            segmenter.end();
            (has_ended, is_new) = (true, true);
            info!(stream = stream.name(), "HLS ended");
        }
        if is_new {
            publish(&hls_stream, segmenter.window());
        }
        tokio::select! {
            () = hls_stream.stopped().cancelled() => return,
            changed = changed.changed() => if changed.is_err() { return },
            _ = ticks.tick() => hls_stream.count_viewers(Instant::now()),
        }
    }
}

fn publish(hls_stream: &HlsStream, playlist: Arc<SegmentWindow>) {
    let old = hls_stream.now();
    if let Some(newest) = playlist.segments.last().filter(|newest| old.playlist.segments.last() != Some(*newest)) {
        debug!(stream = hls_stream.stream().name(), msn = newest.msn, duration = ?newest.duration, "segment");
    }
    hls_stream.publish(old.followed_by(playlist));
}

/// Segments are longer than a second on average, so the Unix time in seconds is above every number that an earlier run of this
/// server gave away: caches never mistake one run's segment for another's, and players see the sequence go on.
fn first_sequence(now: WallClock) -> u64 {
    u64::try_from(now.as_micros() / 1_000_000).unwrap_or(0)
}

/// Payload taken from the window at a time, so that other tasks get their turn while a packager catches up.
const READ_BATCH_BYTES: usize = 4 << 20;

/// How late a viewer that left may be noticed, beyond its expiry.
const VIEWERS_INTERVAL: Duration = Duration::from_secs(1);
