//! One stream's segmenter: the task that feeds it, and the snapshot that everybody reads.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use media::cmaf::{SegmentWindow, Segmenter, SegmenterConfig};
use media::hls;
use media::live_window::{Cursor, LiveWindow};
use media::time::WallClock;
use net::clock;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::listed_units::ListedUnits;
use super::{RecentClients, Settings};
use crate::hub::{LiveStream, State};
use crate::precompressed::Precompressed;

/// The last component of the multivariant playlist's address.
pub const MULTIVARIANT_PLAYLIST: &str = "index.m3u8";

/// The last component of the media playlist's address.
pub const MEDIA_PLAYLIST: &str = "media.m3u8";

/// What is served of a stream at one moment. Everything in it is shared, and what is asked for does not change.
///
/// A text is made when it is asked for first, once for all who ask: a part that nobody waits for costs no playlist.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Segments, parts and init segments.
    pub playlist: Arc<SegmentWindow>,
    media: Text,
    delta: Text,
    multivariant: Text,
}

/// Shared with the snapshots of which it is as true.
type Text = Arc<OnceLock<Option<Precompressed>>>;

impl Snapshot {
    /// The media playlist, once there is a segment to list.
    pub fn media(&self) -> Option<&Precompressed> {
        self.media.get_or_init(|| hls::media_playlist(&self.playlist).map(Precompressed::new)).as_ref()
    }

    /// The media playlist without what a client has that saw it a moment ago.
    pub fn delta(&self) -> Option<&Precompressed> {
        self.delta.get_or_init(|| hls::delta_update(&self.playlist).map(Precompressed::new)).as_ref()
    }

    /// The multivariant playlist, once there is a segment to list.
    pub fn multivariant(&self) -> Option<&Precompressed> {
        let make = || hls::multivariant(&self.playlist, MEDIA_PLAYLIST).map(Precompressed::new);
        self.multivariant.get_or_init(make).as_ref()
    }

    /// The one that comes after this.
    fn followed_by(&self, playlist: Arc<SegmentWindow>) -> Self {
        let lists = |p: &SegmentWindow| (p.segments.first().map(|s| s.msn), p.segments.last().map(|s| s.msn), p.ended);
        if lists(&self.playlist) != lists(&playlist) {
            return Self { playlist, ..Self::default() };
        }
        let multivariant = self.multivariant.clone();
        match playlist.low_latency {
            true => Self { playlist, multivariant, ..Self::default() },
            // Without parts, the texts are about complete segments alone.
            false => Self { playlist, multivariant, media: self.media.clone(), delta: self.delta.clone() },
        }
    }
}

/// What a request waits for, by `_HLS_msn` and `_HLS_part`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockingRequest {
    /// The media sequence number of a segment.
    pub msn: u64,
    /// The index of a part of it; without one, the whole segment.
    pub part: Option<u64>,
}

/// How waiting ended.
#[derive(Clone, Debug)]
pub enum BlockingResult {
    /// It is there.
    Ready(Arc<Snapshot>),
    /// It is further off than anybody would ask who knows the playlist.
    TooFarAhead,
    /// It has not come in time, or will not.
    TimedOut,
}

/// A stream's packaged form.
#[derive(Debug)]
pub struct HlsStream {
    stream: Arc<LiveStream>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    clients: RecentClients,
    stop: CancellationToken,
}

impl HlsStream {
    pub(super) fn new(stream: Arc<LiveStream>, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self { stream, snapshot: watch::Sender::default(), clients: RecentClients::default(), stop })
    }

    /// The stream it is made of.
    pub fn stream(&self) -> &Arc<LiveStream> {
        &self.stream
    }

    /// What can be had right now.
    pub fn now(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// Waits at most `timeout` for a playlist that a player can start with. `None` if there is none by then.
    ///
    /// A stream that ended and is back has, for the length of its first segment, only the playlist that says that it is over.
    pub async fn playable(&self, timeout: Duration) -> Option<Arc<Snapshot>> {
        let is_on_air = !matches!(self.stream.state(), State::Idle | State::Ended { .. });
        let timeout = if is_on_air { timeout } else { Duration::ZERO };
        self.wait(timeout, |s| !(s.playlist.segments.is_empty() || s.playlist.ended && is_on_air)).await
    }

    /// Waits until the playlist has come to what is wanted, from `snapshot` on. A playlist that is over never will, and is what there is
    /// to say (RFC 8216bis §6.2.5.2).
    ///
    /// All who wait for the same part are woken once, by the snapshot that has it, and share its text.
    pub async fn blocking_reload(&self, snapshot: Arc<Snapshot>, wanted: BlockingRequest) -> BlockingResult {
        let BlockingRequest { msn, part } = wanted;
        let has_come = |s: &Snapshot| s.playlist.ended || s.playlist.contains(msn, part);
        if has_come(&snapshot) {
            return BlockingResult::Ready(snapshot);
        }
        if snapshot.playlist.is_too_far_ahead(msn, part) {
            return BlockingResult::TooFarAhead;
        }
        let timeout = snapshot.playlist.blocking_timeout();
        drop(snapshot);
        self.wait(timeout, has_come).await.map_or(BlockingResult::TimedOut, BlockingResult::Ready)
    }

    /// The part, which is waited for if it is the next: the one that the playlist hints at.
    pub async fn part(&self, msn: u64, index: u64) -> BlockingResult {
        let now = self.now();
        if now.playlist.preload_hint() != Some((msn, index)) || now.playlist.segments.is_empty() {
            return BlockingResult::Ready(now);
        }
        let timeout = now.playlist.blocking_timeout();
        drop(now);
        let is_past = |s: &Snapshot| s.playlist.preload_hint() != Some((msn, index));
        self.wait(timeout, is_past).await.map_or(BlockingResult::TimedOut, BlockingResult::Ready)
    }

    async fn wait(&self, timeout: Duration, until: impl Fn(&Snapshot) -> bool) -> Option<Arc<Snapshot>> {
        let mut snapshots = self.snapshot.subscribe();
        let ready = snapshots.wait_for(|snapshot| until(snapshot));
        let found = tokio::select! {
            biased;
            found = ready => found.ok().map(|snapshot| snapshot.clone()),
            () = tokio::time::sleep(timeout) => None,
            () = self.stop.cancelled() => None,
        };
        found
    }

    /// Notes that the client with this mark asked for media at `now`.
    pub fn on_request(&self, client: u64, now: Instant) {
        if self.clients.on_request(client, now) {
            self.stream.set_viewers(PROTOCOL, self.clients.count(now));
        }
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }
}

/// Packages until the stream is taken away or the server goes.
pub(super) async fn run(hls_stream: Arc<HlsStream>, settings: Settings) {
    let stream = hls_stream.stream.clone();
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
        // A server that goes is not a stream that ends: players are to ask again, here or elsewhere.
        if matches!(state, State::Ended { .. }) && !has_ended && !hls_stream.stop.is_cancelled() {
            segmenter.end();
            (has_ended, is_new) = (true, true);
            info!(stream = stream.name(), "HLS ended");
        }
        if is_new {
            publish(&hls_stream, segmenter.window());
        }
        tokio::select! {
            () = hls_stream.stop.cancelled() => return,
            changed = changed.changed() => if changed.is_err() { return },
            _ = ticks.tick() => stream.set_viewers(PROTOCOL, hls_stream.clients.count(Instant::now())),
        }
    }
}

/// Puts the snapshot where everybody sees it, and wakes those who wait for it.
fn publish(hls_stream: &HlsStream, playlist: Arc<SegmentWindow>) {
    let old = hls_stream.now();
    if let Some(newest) = playlist.segments.last().filter(|newest| old.playlist.segments.last() != Some(*newest)) {
        debug!(stream = hls_stream.stream.name(), msn = newest.msn, duration = ?newest.duration, "segment");
    }
    hls_stream.snapshot.send_replace(Arc::new(old.followed_by(playlist)));
}

/// Segments are longer than a second on average, so the Unix time in seconds is above every number that an earlier run of this
/// server gave away: caches never mistake one run's segment for another's, and players see the sequence go on.
fn first_sequence(now: WallClock) -> u64 {
    u64::try_from(now.as_micros() / 1_000_000).unwrap_or(0)
}

/// The name that this egress counts its viewers under.
const PROTOCOL: &str = "hls";

/// Payload taken from the window at a time, so that other tasks get their turn while a packager catches up.
const READ_BATCH_BYTES: usize = 4 << 20;

/// How late a viewer that left may be noticed, beyond its expiry.
const VIEWERS_INTERVAL: Duration = Duration::from_secs(1);
