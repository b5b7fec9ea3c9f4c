//! The stream: its live window, its progress, and the stage times of its newest units.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use media::latency::{Stage, TimingLog};
use media::live_window::{Bounds, ReadBatch};
use media::{AccessUnit, Catalog, Cursor, LiveWindow, Timestamp, WallClock};
use parking_lot::{Mutex, MutexGuard, RwLock};
use tokio::sync::watch;

use crate::wakers::{Interest, WakerGuard, Wakers};

/// One live stream. Shared by its writer and its readers; a reader is a [`Cursor`].
#[derive(Debug)]
pub struct LiveStream {
    window: RwLock<LiveWindow>,
    progress: watch::Sender<Progress>,
    wakers: Arc<Wakers>,
    timing: Mutex<TimingLog>,
}

/// The progress of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Position of the next unit.
    pub next_position: u64,
    /// Whether the stream has ended: no unit follows.
    pub ended: bool,
}

/// An appended unit, and the window then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Position of the unit.
    pub position: u64,
    /// [`LiveWindow::gop_duration`].
    pub gop_duration: Option<Duration>,
    /// Position of the oldest unit in the window.
    pub first_position: u64,
}

impl LiveStream {
    /// An empty stream whose window holds at most `bounds`.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            window: RwLock::new(LiveWindow::new(bounds)),
            progress: watch::Sender::default(),
            wakers: Arc::default(),
            timing: Mutex::default(),
        }
    }

    /// Appends a unit; see [`LiveWindow::push`]. Readers are not woken until [`wake`](Self::wake).
    pub fn push(&self, catalog: Arc<Catalog>, unit: AccessUnit, predecessor_dts: Option<Timestamp>) -> Pushed {
        let mut window = self.window.write();
        let position = window.push(catalog, unit, predecessor_dts).position;
        Pushed { position, gop_duration: window.gop_duration(), first_position: window.first_position() }
    }

    /// Wakes the readers that `news` concerns: there are new units here, or a new state at the caller.
    pub fn wake(&self, news: Interest) {
        let next = self.next_position();
        self.progress.send_modify(|progress| progress.next_position = next.max(progress.next_position));
        self.wakers.wake(news);
    }

    /// Empties the window. Readers get nothing until the next unit; those that had not read everything count what they miss as skipped.
    pub fn clear(&self) {
        self.window.write().clear();
    }

    /// Marks the stream as ended and wakes all readers.
    pub fn end(&self) {
        self.progress.send_modify(|progress| progress.ended = true);
        self.wakers.wake(Interest::Pictures);
    }

    /// Reads the units after `cursor`: at most `max_bytes` of payload, but at least one unit if there is one.
    pub fn read(&self, cursor: &mut Cursor, max_bytes: usize) -> ReadBatch {
        cursor.read(&self.window.read(), max_bytes)
    }

    /// Calls `look` with the window under a shared lock. The writer waits meanwhile, so `look` must neither block nor do I/O.
    pub fn with_window<T>(&self, look: impl FnOnce(&LiveWindow) -> T) -> T {
        look(&self.window.read())
    }

    /// Position of the next unit.
    pub fn next_position(&self) -> u64 {
        self.window.read().next_position()
    }

    /// A receiver that changes with each [`wake`](Self::wake) and at the end.
    pub fn changed(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Registers `waker` for a reader outside the async runtime, until the guard is dropped. It is called on the writer's thread, so it must only
    /// signal.
    pub fn register(&self, interest: Interest, waker: Waker) -> WakerGuard {
        Wakers::register(&self.wakers, interest, waker)
    }

    /// Records the first stage times of a unit, before readers can see it. Units of tracks other than the catalog's timing track are ignored.
    pub fn begin_timing(
        &self,
        catalog: &Catalog,
        unit: &AccessUnit,
        stages: impl IntoIterator<Item = (Stage, WallClock)>,
    ) {
        if catalog.timing_track() == Some(unit.track) {
            let mut timing = self.timing.lock();
            for (stage, at) in stages {
                timing.stamp(unit.epoch, unit.track, unit.dts, stage, at);
            }
        }
    }

    /// Records that units passed `stage` at `at`. Units without recorded times are ignored.
    pub fn stamp<'a>(&self, units: impl IntoIterator<Item = &'a AccessUnit>, stage: Stage, at: WallClock) {
        let mut timing = self.timing.lock();
        for unit in units {
            if timing.of() == Some((unit.epoch, unit.track)) {
                timing.stamp(unit.epoch, unit.track, unit.dts, stage, at);
            }
        }
    }

    /// The stage times of the newest units.
    pub fn timing(&self) -> MutexGuard<'_, TimingLog> {
        self.timing.lock()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::time::Duration;

    use bytes::Bytes;
    use media::codec::{Codec, CodecConfig, Format};
    use media::{Epoch, Track, TrackId};

    use super::*;

    fn stream() -> LiveStream {
        LiveStream::new(Bounds { duration: Duration::from_secs(1), bytes: 1 << 20 })
    }

    fn catalog() -> Arc<Catalog> {
        let mut catalog = Catalog::new(Epoch(1));
        let format = Format::Video { width: 1, height: 1 };
        let config = CodecConfig { codec: Codec::H264, record: Bytes::new(), format };
        catalog.set_track(Track { id: TrackId::VIDEO, config });
        Arc::new(catalog)
    }

    fn unit(track: TrackId, dts: i64) -> AccessUnit {
        let dts = Timestamp::from_millis(dts);
        AccessUnit { epoch: Epoch(1), track, dts, pts: dts, random_access: true, payload: Bytes::from_static(b"x") }
    }

    #[test]
    fn readers_are_notified_only_by_a_wake_up() {
        let (stream, catalog) = (stream(), catalog());
        let (mut changed, mut cursor) = (stream.changed(), Cursor::at_live_edge());
        for n in 0..3 {
            let pushed = stream.push(catalog.clone(), unit(TrackId::VIDEO, n * 600), None);
            assert_eq!((pushed.position, pushed.first_position), (n as u64, (n as u64).saturating_sub(1)));
        }
        assert!(!changed.has_changed().unwrap());
        stream.wake(Interest::Pictures);
        assert_eq!(*changed.borrow_and_update(), Progress { next_position: 3, ended: false });
        assert_eq!(stream.read(&mut cursor, usize::MAX).entries.len(), 1, "from the newest IDR on");
        stream.clear();
        assert_eq!(stream.read(&mut Cursor::at_live_edge(), usize::MAX).entries.len(), 0);
        assert_eq!((stream.next_position(), stream.with_window(LiveWindow::bytes)), (3, 0));
        stream.end();
        assert_eq!(*changed.borrow_and_update(), Progress { next_position: 3, ended: true });
    }

    #[test]
    fn a_waker_is_called_for_the_events_it_registered_for() {
        #[derive(Default)]
        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let stream = stream();
        let [all, pictures] = [(); 2].map(|()| Arc::new(Count::default()));
        let guards = [
            stream.register(Interest::EveryUnit, Waker::from(all.clone())),
            stream.register(Interest::Pictures, Waker::from(pictures.clone())),
        ];
        stream.wake(Interest::EveryUnit);
        stream.wake(Interest::Pictures);
        drop(guards);
        stream.wake(Interest::Pictures);
        assert_eq!([all, pictures].map(|count| count.0.load(Ordering::Relaxed)), [2, 1]);
    }

    #[test]
    fn one_track_is_timed() {
        let (stream, catalog) = (stream(), catalog());
        let at = WallClock::from_micros;
        let (picture, sound) = (unit(TrackId::VIDEO, 0), unit(TrackId::AUDIO, 0));
        stream.begin_timing(&catalog, &sound, [(Stage::Captured, at(1))]);
        stream.begin_timing(&catalog, &picture, [(Stage::Captured, at(2)), (Stage::Encoded, at(3))]);
        stream.stamp([&picture, &sound], Stage::Sent, at(4));
        let timing = stream.timing();
        let stages = timing.unit(Epoch(1), TrackId::VIDEO, picture.dts).unwrap();
        let noted = [Stage::Captured, Stage::Encoded, Stage::Sent].map(|stage| stages.at(stage));
        assert_eq!(noted, [2, 3, 4].map(|micros| Some(at(micros))));
        assert_eq!(timing.unit(Epoch(1), TrackId::AUDIO, sound.dts), None);
    }
}
