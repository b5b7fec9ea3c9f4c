//! The broadcast: its catalog, and the window of access units that publishing reads.
//!
//! Encoders and passthrough write here from their threads; a unit gets its final name on the way in. Units wait until every
//! expected track has told its decoder configuration, so that a subscriber learns of all tracks before the first unit.

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

use crate::rate_control::RateControl;
use crate::stats::Stats;
use crate::timestamps::TimestampNormalizer;

/// One broadcast. Shared by the threads that make it and the task that publishes it.
#[derive(Debug)]
pub struct Broadcast {
    live: LiveStream,
    inner: Mutex<Inner>,
    stats: Arc<Stats>,
    trace: Option<Arc<Trace>>,
    uplink: RateControl,
    /// One moment by the clock that the broadcast's times are by, and by the monotonic one: who sets the clock meanwhile moves no stamp.
    clock_anchor: (WallClock, Instant),
}

#[derive(Debug)]
struct Inner {
    catalog: Arc<Catalog>,
    /// Tracks that have yet to tell their configuration.
    expected_tracks: Vec<TrackId>,
    /// When waiting for them ends; set by the first unit.
    track_deadline: Option<Instant>,
    pending: Vec<AccessUnit>,
    /// Of what is in the window, and of what was: this is where the units are made, so their order is the truth.
    order: TrackOrder,
    normalizers: BTreeMap<TrackId, TimestampNormalizer>,
}

impl Broadcast {
    /// A broadcast that will have the tracks `expected`.
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
            uplink: RateControl::default(),
            clock_anchor,
        }
    }

    /// The same, with a line in `trace` for each unit when it is captured and when it is encoded.
    pub fn with_trace(self, trace: Option<Arc<Trace>>) -> Self {
        Self { trace, ..self }
    }

    /// What the encoder is to make of the link that this is pushed over.
    pub fn uplink(&self) -> &RateControl {
        &self.uplink
    }

    /// Which broadcast this is.
    pub fn epoch(&self) -> Epoch {
        self.inner.lock().catalog.epoch
    }

    /// The catalog that units get from now on.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.inner.lock().catalog.clone()
    }

    /// Tells a track's configuration, and more about it for the metadata (`framerate`, `videodatarate`).
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

    /// Says that `id` will not come, or not soon: the other tracks need not wait for it.
    pub fn skip_track(&self, id: TrackId) {
        let mut inner = self.inner.lock();
        inner.expected_tracks.retain(|track| *track != id);
        self.flush_pending(&mut inner, false);
    }

    /// Adds a unit whose timestamps are milliseconds since PTS 0, not yet made to rise.
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
        // Writes to a file: under no lock.
        if let Some(trace) = &self.trace {
            captured.into_iter().for_each(|captured| trace.note(Stage::Captured.name(), traced, "", captured));
            trace.note(Stage::Encoded.name(), traced, "", encoded);
        }
    }

    /// The time, by the clock that the broadcast's times are by.
    pub fn now(&self) -> WallClock {
        let (clock, at) = self.clock_anchor;
        let since = i64::try_from(at.elapsed().as_micros()).unwrap_or(i64::MAX);
        WallClock::from_micros(clock.as_micros().saturating_add(since))
    }

    /// Notes that a unit passes `stage` now.
    pub fn stamp(&self, unit: &AccessUnit, stage: Stage) {
        self.live.stamp([unit], stage, self.now());
    }

    /// The stamps of the last units.
    pub fn timing_log(&self) -> parking_lot::MutexGuard<'_, TimingLog> {
        self.live.timing()
    }

    /// Says that no unit will follow.
    pub fn end(&self) {
        let mut inner = self.inner.lock();
        self.flush_pending(&mut inner, true);
        self.live.end();
    }

    /// Reads the window.
    pub fn with_window<T>(&self, read: impl FnOnce(&LiveWindow) -> T) -> T {
        self.live.with_window(read)
    }

    /// Wakes when units were added or the broadcast ended.
    pub fn changed(&self) -> watch::Receiver<Progress> {
        self.live.changed()
    }

    /// Moves what waits into the window, once it need not wait.
    fn flush_pending(&self, inner: &mut Inner, at_once: bool) {
        if inner.pending.is_empty() {
            return;
        }
        if !inner.expected_tracks.is_empty() && !at_once {
            let track_deadline = *inner.track_deadline.get_or_insert_with(|| Instant::now() + TRACK_WAIT);
            if Instant::now() < track_deadline && inner.pending.len() < MAX_PENDING {
                return;
            }
            tracing::warn!(tracks = ?inner.expected_tracks.iter().map(TrackId::to_string).collect::<Vec<_>>(), "going on without a track that does not come");
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

/// What `onMetaData` customarily says about a track.
fn describe(config: &CodecConfig) -> Metadata {
    let number = |value: f64| Value::Number(value);
    let name = match config.codec.fourcc() {
        // The numbers that FLV gave to its first codecs (FLV 10.1 §E.4.2.1, §E.4.3.1); newer ones are named by FourCC.
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

/// How long the units of one track wait for the other's configuration: a microphone and an encoder open well within it.
const TRACK_WAIT: Duration = Duration::from_secs(3);

/// How many units wait at most: ten times what [`TRACK_WAIT`] lets pile up at 60 fps with sound.
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
    fn units_wait_for_every_track() {
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
    fn a_track_that_does_not_come_is_not_waited_for() {
        let b = broadcast(&[TrackId::VIDEO, TrackId::AUDIO]);
        b.add_track(TrackId::VIDEO, video(), Metadata::new());
        b.push(TrackId::VIDEO, 0, 0, true, Bytes::from_static(b"v"));
        b.skip_track(TrackId::AUDIO);
        assert_eq!(order(&b), ["v0@0"]);
        let progress = *b.changed().borrow();
        assert_eq!(progress, Progress { next_position: 1, ended: false });
    }

    #[test]
    fn ending_releases_what_waits() {
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
