//! The broadcast: its catalog, and the window of access units that publishing reads.
//!
//! Encoders and passthrough write here from their threads. A unit gets its epoch and its final timestamps on the way in. Units wait until every
//! expected track has its decoder configuration, so that a subscriber knows all tracks before the first unit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use live::{Interest, LiveStream, Progress};
use media::catalog::{Metadata, Value};
use media::codec::{CodecConfig, Format};
use media::latency::{Stage, TimingLog};
use media::live_window::{Bounds, LiveWindow};
use media::{AccessUnit, Catalog, Epoch, Track, TrackId, TrackOrder, WallClock};
use net::clock;
use net::trace::{Trace, UnitRef};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::stats::Stats;
use crate::timestamps::TimestampNormalizer;
use crate::uplink::Uplink;

/// One broadcast. Shared by the threads that produce units and the task that publishes them.
#[derive(Debug)]
pub struct Broadcast {
    live: LiveStream,
    inner: Mutex<Inner>,
    stats: Arc<Stats>,
    trace: Option<Arc<Trace>>,
    uplink: Uplink,
    /// One moment on the wall clock and on the monotonic clock. All stamps derive from it, so setting the system clock does not affect them.
    clock_anchor: (WallClock, Instant),
}

#[derive(Debug)]
struct Inner {
    catalog: Arc<Catalog>,
    /// Tracks whose decoder configuration is not known yet.
    expected_tracks: Vec<TrackId>,
    /// When the wait for `expected_tracks` ends; set by the first unit.
    track_deadline: Option<Instant>,
    pending: Vec<AccessUnit>,
    /// Order of all units ever added to the window, which determines each unit's predecessor.
    order: TrackOrder,
    normalizers: BTreeMap<TrackId, TimestampNormalizer>,
}

impl Broadcast {
    /// Creates a broadcast. `clock`: wall-clock time of PTS 0. Units wait for the configurations of the tracks `expected`.
    pub fn new(epoch: Epoch, clock: WallClock, expected: &[TrackId], bounds: Bounds, stats: Arc<Stats>) -> Self {
        let mut catalog = Catalog::new(epoch);
        catalog.clock = Some(clock);
        let inner = Inner {
            catalog: Arc::new(catalog),
            expected_tracks: expected.to_vec(),
            track_deadline: None,
            pending: Vec::new(),
            order: TrackOrder::default(),
            normalizers: BTreeMap::new(),
        };
        let clock_anchor = (clock::now(), Instant::now());
        Self {
            live: LiveStream::new(bounds),
            inner: Mutex::new(inner),
            stats,
            trace: None,
            uplink: Uplink::default(),
            clock_anchor,
        }
    }

    /// The same, writing a line to `trace` for each unit when it is captured and when it is encoded.
    pub fn with_trace(self, trace: Option<Arc<Trace>>) -> Self {
        Self { trace, ..self }
    }

    /// The uplink: fed by the push and the server of LAN viewers, read by them and by the video encoder.
    pub fn uplink(&self) -> &Uplink {
        &self.uplink
    }

    /// The epoch, which identifies the broadcast.
    pub fn epoch(&self) -> Epoch {
        self.inner.lock().catalog.epoch
    }

    /// The current catalog, which applies to new units.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.inner.lock().catalog.clone()
    }

    /// Sets a track's decoder configuration. `about`: further `onMetaData` properties of the track (`framerate`, `videodatarate`).
    pub fn add_track(&self, id: TrackId, config: CodecConfig, about: Metadata) {
        let mut inner = self.inner.lock();
        let mut catalog = Catalog::clone(&inner.catalog);
        catalog.metadata.extend(describe(&config));
        catalog.metadata.extend(about);
        catalog.set_track(Track { id, config });
        if catalog != *inner.catalog {
            inner.catalog = Arc::new(catalog);
        }
        inner.expected_tracks.retain(|track| *track != id);
        self.flush_pending(&mut inner, false);
    }

    /// Removes `id` from the expected tracks, because it is missing or late: the other tracks no longer wait for it.
    pub fn skip_track(&self, id: TrackId) {
        let mut inner = self.inner.lock();
        inner.expected_tracks.retain(|track| *track != id);
        self.flush_pending(&mut inner, false);
    }

    /// Adds a unit. `dts` and `pts` are milliseconds since PTS 0; they need not increase, since they are normalised here.
    pub fn push(&self, track: TrackId, dts: i64, pts: i64, random_access: bool, payload: Bytes) {
        let mut inner = self.inner.lock();
        if inner.catalog.track(track).is_none() {
            return;
        }
        let normalizer = inner.normalizers.entry(track).or_default();
        let before = normalizer.adjusted();
        let (dts, pts) = normalizer.next(dts, pts);
        self.stats.timestamps_adjusted.add(normalizer.adjusted() - before);
        self.stats.units.increment();
        self.stats.bytes.add(payload.len() as u64);
        self.stats.pictures.add(u64::from(track.is_video()));
        let unit = AccessUnit { epoch: inner.catalog.epoch, track, dts, pts, random_access, payload };
        let captured = inner.catalog.captured_at(unit.pts);
        if let Some(captured) = captured {
            let stages = [(Stage::Captured, captured), (Stage::Encoded, self.now())];
            self.live.begin_timing(&inner.catalog, &unit, stages);
        }
        let (traced, encoded) = (UnitRef::from(&unit), clock::system());
        inner.pending.push(unit);
        self.flush_pending(&mut inner, false);
        drop(inner);
        // Writes to a file, so no lock is held.
        if let Some(trace) = &self.trace {
            captured.into_iter().for_each(|captured| trace.note(Stage::Captured.name(), traced, "", captured));
            trace.note(Stage::Encoded.name(), traced, "", encoded);
        }
    }

    /// The current time on the broadcast's clock: `clock_anchor` plus the monotonic time since.
    pub fn now(&self) -> WallClock {
        let (clock, at) = self.clock_anchor;
        let since = i64::try_from(at.elapsed().as_micros()).unwrap_or(i64::MAX);
        WallClock::from_micros(clock.as_micros().saturating_add(since))
    }

    /// Stamps a unit with the current time at `stage`.
    pub fn stamp(&self, unit: &AccessUnit, stage: Stage) {
        self.live.stamp([unit], stage, self.now());
    }

    /// Stage timestamps of the latest units. Holds a lock until it is dropped.
    pub fn timing_log(&self) -> parking_lot::MutexGuard<'_, TimingLog> {
        self.live.timing()
    }

    /// Waits until there are units to send, and all of `tracks` are known. Cancel safe.
    pub async fn begun(&self, tracks: &[TrackId]) {
        let mut changed = self.changed();
        loop {
            let has_units = changed.borrow_and_update().next_position > 0;
            let catalog = self.catalog();
            if has_units && tracks.iter().all(|track| catalog.track(*track).is_some()) {
                return;
            }
            // Each unit that follows a new track wakes this; the sender lives as long as `self`.
            let _ = changed.changed().await;
        }
    }

    /// Ends the broadcast: flushes waiting units; none may follow.
    pub fn end(&self) {
        let mut inner = self.inner.lock();
        self.flush_pending(&mut inner, true);
        self.live.end();
    }

    /// Calls `read` with the window under a lock, so `read` must not block.
    pub fn with_window<T>(&self, read: impl FnOnce(&LiveWindow) -> T) -> T {
        self.live.with_window(read)
    }

    /// Notifies when units are added or the broadcast ends.
    pub fn changed(&self) -> watch::Receiver<Progress> {
        self.live.changed()
    }

    /// Moves waiting units to the window if all expected tracks are known, the wait is over, or `at_once` is set.
    fn flush_pending(&self, inner: &mut Inner, at_once: bool) {
        if inner.pending.is_empty() {
            return;
        }
        if !inner.expected_tracks.is_empty() && !at_once {
            let track_deadline = *inner.track_deadline.get_or_insert_with(|| Instant::now() + TRACK_WAIT);
            if Instant::now() < track_deadline && inner.pending.len() < MAX_PENDING {
                return;
            }
            let tracks = inner.expected_tracks.iter().map(TrackId::to_string).collect::<Vec<_>>().join(", ");
            tracing::warn!(tracks, "continuing without tracks that delivered no data in time");
            inner.expected_tracks.clear();
        }
        let mut pending = std::mem::take(&mut inner.pending);
        pending.sort_by_key(|unit| unit.dts);
        for unit in pending {
            let catalog = inner.catalog.clone();
            let predecessor = inner.order.follow(&unit);
            self.live.push(catalog, unit, predecessor);
        }
        self.live.wake(Interest::Pictures);
    }
}

/// The usual `onMetaData` properties of a track.
fn describe(config: &CodecConfig) -> Metadata {
    let number = |value: f64| Value::Number(value);
    let name = match config.codec.fourcc() {
        // FLV identifies its first codecs by number (FLV 10.1 §E.4.2.1, §E.4.3.1), newer ones by FourCC.
        [b'a', b'v', b'c', b'1'] => number(7.0),
        [b'm', b'p', b'4', b'a'] => number(10.0),
        [b'.', b'm', b'p', b'3'] => number(2.0),
        fourcc => number(f64::from(u32::from_be_bytes(fourcc))),
    };
    match config.format {
        Format::Video { width, height } => Metadata::from([
            ("videocodecid".into(), name),
            ("width".into(), number(f64::from(width))),
            ("height".into(), number(f64::from(height))),
        ]),
        Format::Audio { sample_rate, channels } => Metadata::from([
            ("audiocodecid".into(), name),
            ("audiosamplerate".into(), number(f64::from(sample_rate))),
            ("audiosamplesize".into(), number(16.0)),
            ("audiochannels".into(), number(f64::from(channels))),
            ("stereo".into(), Value::Boolean(channels == 2)),
        ]),
    }
}

/// How long the units of one track wait for the other's configuration. Microphones and encoders open in less.
const TRACK_WAIT: Duration = Duration::from_secs(3);

/// Maximum number of waiting units: ten times what accumulates in [`TRACK_WAIT`] at 60 fps with audio.
const MAX_PENDING: usize = 4096;

#[cfg(test)]
mod tests {
    use media::codec::Codec;

    use super::*;

    fn broadcast(expected: &[TrackId]) -> Broadcast {
        let bounds = Bounds { duration: Duration::from_secs(10), bytes: 1 << 20 };
        Broadcast::new(Epoch(1), WallClock::from_micros(0), expected, bounds, Arc::default())
    }

    fn video() -> CodecConfig {
        CodecConfig { codec: Codec::H264, record: Bytes::new(), format: Format::Video { width: 16, height: 16 } }
    }

    fn audio() -> CodecConfig {
        CodecConfig {
            codec: Codec::Aac,
            record: Bytes::new(),
            format: Format::Audio { sample_rate: 48_000, channels: 2 },
        }
    }

    fn order(b: &Broadcast) -> Vec<String> {
        b.with_window(|w| w.from(0).map(|e| format!("{}@{}", e.unit.track, e.unit.dts.as_millis())).collect())
    }

    #[test]
    fn units_wait_until_all_expected_tracks_are_known() {
        let b = broadcast(&[TrackId::VIDEO, TrackId::AUDIO]);
        b.add_track(TrackId::VIDEO, video(), Metadata::new());
        b.push(TrackId::VIDEO, 40, 40, true, Bytes::from_static(b"v"));
        assert!(order(&b).is_empty());
        b.add_track(TrackId::AUDIO, audio(), Metadata::new());
        b.push(TrackId::AUDIO, 21, 21, true, Bytes::from_static(b"a"));
        assert_eq!(order(&b), ["v0@40", "a0@21"]);
        let catalogs = b.with_window(|w| w.from(0).map(|e| e.catalog.tracks.len()).collect::<Vec<_>>());
        assert_eq!(catalogs, [2, 2]);
    }

    #[test]
    fn an_absent_track_is_skipped_after_the_deadline() {
        let b = broadcast(&[TrackId::VIDEO, TrackId::AUDIO]);
        b.add_track(TrackId::VIDEO, video(), Metadata::new());
        b.push(TrackId::VIDEO, 0, 0, true, Bytes::from_static(b"v"));
        b.skip_track(TrackId::AUDIO);
        assert_eq!(order(&b), ["v0@0"]);
        let progress = *b.changed().borrow();
        assert_eq!(progress, Progress { next_position: 1, ended: false });
    }

    #[test]
    fn ending_flushes_pending_units() {
        let b = broadcast(&[TrackId::VIDEO, TrackId::AUDIO]);
        b.add_track(TrackId::AUDIO, audio(), Metadata::new());
        b.push(TrackId::AUDIO, 0, 0, true, Bytes::from_static(b"a"));
        b.push(TrackId::VIDEO, 0, 0, true, Bytes::from_static(b"of no known track"));
        b.end();
        assert_eq!(order(&b), ["a0@0"]);
        assert!(b.changed().borrow().ended);
    }

    #[test]
    fn metadata_describes_the_tracks() {
        let b = broadcast(&[]);
        b.add_track(TrackId::VIDEO, video(), Metadata::from([("framerate".into(), Value::Number(30.0))]));
        let metadata = &b.catalog().metadata;
        assert_eq!(metadata.get("width"), Some(&Value::Number(16.0)));
        assert_eq!(metadata.get("framerate"), Some(&Value::Number(30.0)));
        assert_eq!(metadata.get("videocodecid"), Some(&Value::Number(7.0)));
    }
}
