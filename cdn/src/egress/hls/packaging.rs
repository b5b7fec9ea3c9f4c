//! One stream's packager: the task that feeds it, and the snapshot that everybody reads.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use media::hls::{self, Packager, Playlist};
use media::live_window::{Cursor, LiveWindow};
use media::time::WallClock;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Settings, Viewers};
use crate::document::Document;
use crate::hub::{LiveStream, State};

/// The last component of the multivariant playlist's address.
pub const MULTIVARIANT_PLAYLIST: &str = "index.m3u8";

/// The last component of the media playlist's address.
pub const MEDIA_PLAYLIST: &str = "media.m3u8";

/// What is served of a stream at one moment. Everything in it is shared and immutable.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Segments and init segments.
    pub playlist: Arc<Playlist>,
    /// The media playlist, once there is a segment to list.
    pub media: Option<Document>,
    /// The multivariant playlist, once there is a segment to list.
    pub multivariant: Option<Document>,
}

/// A stream's packaged form.
#[derive(Debug)]
pub struct Packaged {
    stream: Arc<LiveStream>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    viewers: Viewers,
    stop: CancellationToken,
}

impl Packaged {
    pub(super) fn new(stream: Arc<LiveStream>, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self { stream, snapshot: watch::Sender::default(), viewers: Viewers::default(), stop })
    }

    /// The stream it is made of.
    pub fn stream(&self) -> &Arc<LiveStream> {
        &self.stream
    }

    /// What can be had right now.
    pub fn now(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// Waits at most `patience` for a playlist that a player can start with. `None` if there is none by then.
    ///
    /// A stream that ended and is back has, for the length of its first segment, only the playlist that says that it is over.
    pub async fn playable(&self, patience: Duration) -> Option<Arc<Snapshot>> {
        let mut snapshots = self.snapshot.subscribe();
        let is_on_air = !matches!(self.stream.state(), State::Idle | State::Ended { .. });
        let patience = if is_on_air { patience } else { Duration::ZERO };
        let ready = snapshots.wait_for(|s| s.media.is_some() && !(s.playlist.ended && is_on_air));
        let found = tokio::select! {
            biased;
            found = ready => found.ok().map(|snapshot| snapshot.clone()),
            () = tokio::time::sleep(patience) => None,
            () = self.stop.cancelled() => None,
        };
        found
    }

    /// Notes that the client with this mark asked for media at `now`.
    pub fn seen(&self, client: u64, now: Instant) {
        if self.viewers.seen(client, now) {
            self.stream.set_viewers(PROTOCOL, self.viewers.count(now));
        }
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }
}

/// Packages until the stream is taken away or the server goes.
pub(super) async fn run(packaged: Arc<Packaged>, settings: Settings) {
    let stream = packaged.stream.clone();
    let mut packager = Packager::new(hls::Settings {
        segment_target: settings.segment,
        part_target: settings.part,
        window: settings.window,
        bytes: settings.bytes,
        first_sequence: first_sequence(now()),
    });
    // From the oldest unit held: the first viewers get all that there is to choose from, and a burst is not skipped.
    let mut cursor = Cursor::at(stream.with_window(LiveWindow::first_position));
    let mut changed = stream.changed();
    let mut ticks = interval(VIEWERS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut has_ended = true;
    loop {
        changed.borrow_and_update();
        // The state is read before the units: what was pushed before the end is packaged before the end.
        let state = stream.state();
        let mut is_new = false;
        loop {
            let read = stream.read(&mut cursor, BITE);
            if read.skipped > 0 {
                warn!(stream = stream.name(), units = read.skipped, "the packager fell behind");
            }
            if read.entries.is_empty() {
                break;
            }
            has_ended = false;
            for entry in &read.entries {
                is_new |= packager.push(entry, now());
            }
            tokio::task::yield_now().await;
        }
        // A server that goes is not a stream that ends: players are to ask again, here or elsewhere.
        if matches!(state, State::Ended { .. }) && !has_ended && !packaged.stop.is_cancelled() {
            packager.end();
            (has_ended, is_new) = (true, true);
            info!(stream = stream.name(), "HLS ended");
        }
        if is_new {
            publish(&packaged, packager.playlist());
        }
        tokio::select! {
            () = packaged.stop.cancelled() => return,
            changed = changed.changed() => if changed.is_err() { return },
            _ = ticks.tick() => stream.set_viewers(PROTOCOL, packaged.viewers.count(Instant::now())),
        }
    }
}

/// Puts the snapshot where everybody sees it. The texts are made once for all who ask, and only if they differ.
fn publish(packaged: &Packaged, playlist: Arc<Playlist>) {
    let old = packaged.now();
    let lists = |p: &Playlist| (p.segments.first().map(|s| s.msn), p.segments.last().map(|s| s.msn), p.ended);
    let next = if lists(&old.playlist) == lists(&playlist) {
        Snapshot { playlist, media: old.media.clone(), multivariant: old.multivariant.clone() }
    } else {
        if let Some(newest) = playlist.segments.last() {
            debug!(stream = packaged.stream.name(), msn = newest.msn, duration = ?newest.duration, "segment");
        }
        Snapshot {
            media: hls::media_playlist(&playlist).map(Document::new),
            multivariant: hls::multivariant(&playlist, MEDIA_PLAYLIST).map(Document::new),
            playlist,
        }
    };
    packaged.snapshot.send_replace(Arc::new(next));
}

/// Segments are longer than a second on average, so the Unix time in seconds is above every number that an earlier run of this
/// server gave away: caches never mistake one run's segment for another's, and players see the sequence go on.
fn first_sequence(now: WallClock) -> u64 {
    u64::try_from(now.as_micros() / 1_000_000).unwrap_or(0)
}

fn now() -> WallClock {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallClock::from_micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
}

/// The name that this egress counts its viewers under.
const PROTOCOL: &str = "hls";

/// Payload taken from the window at a time, so that other tasks get their turn while a packager catches up.
const BITE: usize = 4 << 20;

/// How late a viewer that left may be noticed, beyond its expiry.
const VIEWERS_INTERVAL: Duration = Duration::from_secs(1);
