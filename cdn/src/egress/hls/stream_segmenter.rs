//! Segments one stream: the task that feeds its segmenter from the hub and publishes a snapshot for each new part or segment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use command::LogLimiter;
use media::cmaf::{SegmentWindow, Segmenter, SegmenterConfig};
use media::live_window::{Cursor, LiveWindow};
use media::time::WallClock;
use net::clock;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use super::hls_stream::HlsStream;
use super::listed_units::ListedUnits;
use super::settings::HlsSettings;
use crate::hub::{HubStream, PublishState};

/// Segments until the stream is removed or the server shuts down.
pub(super) async fn run(hls_stream: Arc<HlsStream>, settings: HlsSettings) {
    let stream = hls_stream.stream().clone();
    let mut segmenter = segmenter(&settings, first_sequence(clock::now()));
    // Start at the oldest unit held, so that the playlist covers the whole window and no unit of a burst is skipped.
    let mut cursor = Cursor::at(stream.with_window(LiveWindow::first_position));
    let mut changed = stream.changed();
    let mut ticks = interval(VIEWERS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Whether the playlist has ended, and whether it was dropped since.
    let (mut has_ended, mut is_dropped) = (true, true);
    let mut listed_units = ListedUnits::default();
    let mut skip_log = LogLimiter::new(|units, stream: &Arc<HubStream>| {
        warn!(stream = stream.name(), units, "HLS packaging fell behind: skipped units");
    });
    loop {
        changed.borrow_and_update();
        // Read the state before the units, so that units pushed before the end are packaged before it.
        let state = stream.state();
        let mut is_new = false;
        loop {
            let read = stream.read(&mut cursor, READ_BATCH_BYTES);
            if read.skipped > 0 {
                skip_log.note_many(Instant::now(), read.skipped, stream.clone());
            }
            if read.entries.is_empty() {
                break;
            }
            (has_ended, is_dropped) = (false, false);
            for entry in &read.entries {
                is_new |= segmenter.push(entry, clock::now());
                listed_units.take(&stream, &segmenter.window(), &entry.unit);
            }
            tokio::task::yield_now().await;
        }
        // On shutdown the playlist does not end: players must retry, here or on another server.
        if matches!(state, PublishState::Ended { .. }) && !has_ended && !hls_stream.stopped().is_cancelled() {
            segmenter.end();
            (has_ended, is_new) = (true, true);
            info!(stream = stream.name(), "HLS ended");
        }
        if !is_dropped && has_ended && is_over(state, settings.ended_playlist_ttl) {
            let next_msn = segmenter.window().segments.last().map_or(0, |last| last.msn + 1);
            segmenter = self::segmenter(&settings, first_sequence(clock::now()).max(next_msn));
            listed_units = ListedUnits::default();
            (is_dropped, is_new) = (true, true);
            debug!(stream = stream.name(), "the ended playlist is dropped");
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

fn segmenter(settings: &HlsSettings, first_sequence: u64) -> Segmenter {
    Segmenter::new(SegmenterConfig {
        segment_target: settings.segment_duration,
        part_target: settings.part_duration,
        low_latency: settings.low_latency,
        window: settings.playlist_window,
        bytes: settings.max_bytes,
        first_sequence,
    })
}

/// Whether a stream in this state ended so long ago that its playlist is served no more.
fn is_over(state: PublishState, ended_playlist_ttl: Duration) -> bool {
    matches!(state, PublishState::Ended { since } if since.elapsed() > ended_playlist_ttl)
}

fn publish(hls_stream: &HlsStream, playlist: Arc<SegmentWindow>) {
    let old = hls_stream.now();
    if let Some(newest) = playlist.segments.last().filter(|newest| old.playlist.segments.last() != Some(*newest)) {
        debug!(stream = hls_stream.stream().name(), msn = newest.msn, duration = ?newest.duration, "segment");
    }
    hls_stream.publish(old.followed_by(playlist));
}

/// The first media sequence number: the Unix time in milliseconds. No stream has a thousand segments a second, so it exceeds every number of an
/// earlier run. Caches do not confuse segments of different runs, and the sequence continues for players.
fn first_sequence(now: WallClock) -> u64 {
    u64::try_from(now.as_micros() / 1000).unwrap_or(0)
}

/// Maximum payload read from the window at once, so that a task that catches up does not block other tasks.
const READ_BATCH_BYTES: usize = 4 << 20;

/// Interval between updates of the viewer count.
const VIEWERS_INTERVAL: Duration = Duration::from_secs(1);
