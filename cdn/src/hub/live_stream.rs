//! One named stream. Adds successive publishers, the state and the counters to the window of units ([`live::LiveStream`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

use live::{Interest, Progress, WakerGuard};
use media::live_window::{Cursor, LiveWindow, ReadBatch};
use media::{AccessUnit, Catalog, HighWaterMarks, Timestamp};
use net::api::keyframe_advice;
use net::clock;
use net::trace::{Trace, UnitRef};
use parking_lot::RwLock;
use tokio::sync::watch;

use super::HubSettings;
use super::latency::LatencyTracker;
use super::publisher::{PublisherInfo, PushOutcome, RevokeReason};
use super::reader_deadline::DueTimes;
use super::subscribers::{SubscriberGuard, Subscribers};

/// Whether a stream is on air.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishState {
    /// There has been no publisher yet.
    Idle,
    /// A publisher is connected.
    Live {
        /// When this publisher was admitted.
        since: Instant,
    },
    /// The publisher disconnected and may reconnect; subscribers wait.
    Disconnected {
        /// When it disconnected.
        since: Instant,
        /// End of the grace period: when the stream ends unless a publisher connects.
        until: Instant,
    },
    /// The grace period is over, and the window is empty. The next publisher makes the stream live again.
    Ended {
        /// When the grace period ended.
        since: Instant,
    },
}

/// A named stream. It outlives its publishers: positions and counters continue across them.
#[derive(Debug)]
pub struct HubStream {
    name: String,
    settings: HubSettings,
    live: Arc<live::LiveStream>,
    shared: RwLock<Shared>,
    subscribers: Arc<Subscribers>,
    counters: AtomicCounters,
    latency: LatencyTracker,
    /// The publisher that the operator was last told of by [`keyframe_advice`].
    advised: AtomicU64,
}

#[derive(Debug)]
struct Shared {
    due_times: DueTimes,
    state: PublishState,
    catalog: Option<Arc<Catalog>>,
    high_water: HighWaterMarks,
    /// The current publisher, and the channel that revokes it.
    writer: Option<Writer>,
    next_writer: u64,
    /// Set once the stream accepts no more publishers, with the reason.
    closed: Option<RevokeReason>,
}

#[derive(Debug)]
struct Writer {
    id: u64,
    info: PublisherInfo,
    direct_viewers: u32,
    revocation: watch::Sender<Option<RevokeReason>>,
}

/// Counters of one stream since the server started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Access units accepted.
    pub units: u64,
    /// Payload of the accepted units, in bytes.
    pub bytes: u64,
    /// Units dropped as duplicates.
    pub duplicate_units: u64,
    /// Publishers admitted, including those that took over.
    pub publishers: u64,
    /// Publishers revoked because another one connected with the same key.
    pub takeovers: u64,
    /// Times that a slow subscriber was moved to the newest GOP.
    pub resyncs: u64,
    /// Units that slow subscribers skipped.
    pub skipped_units: u64,
    /// Payload and framing sent to subscribers, in bytes.
    pub sent_bytes: u64,
}

#[derive(Debug, Default)]
struct AtomicCounters {
    units: AtomicU64,
    bytes: AtomicU64,
    duplicate_units: AtomicU64,
    publishers: AtomicU64,
    takeovers: AtomicU64,
    resyncs: AtomicU64,
    skipped_units: AtomicU64,
    sent_bytes: AtomicU64,
}

/// Extent of a stream's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowExtent {
    /// Position of the oldest unit held.
    pub first_position: u64,
    /// Position that the next unit will have.
    pub next_position: u64,
    /// Media time from the oldest unit to the newest.
    pub duration: Duration,
    /// Sum of payloads, in bytes.
    pub bytes: usize,
    /// Interval of the points at which viewers can start: of the key frames, if there is video. `None` if none is held.
    pub gop_duration: Option<Duration>,
}

/// Snapshot of a stream, for people and monitoring.
#[derive(Clone, Debug)]
pub struct Info {
    /// The name that it is played under.
    pub name: String,
    /// Whether it is on air.
    pub state: PublishState,
    /// Its tracks and metadata. `None` until the first unit.
    pub catalog: Option<Arc<Catalog>>,
    /// The current publisher; `None` while the stream is not live.
    pub publisher: Option<PublisherInfo>,
    /// Subscribers by protocol.
    pub viewers: BTreeMap<&'static str, usize>,
    /// Viewers that the publisher serves itself, as it reports; some of them are subscribers too, with an idle subscription.
    pub direct_viewers: u32,
    /// Extent of the window.
    pub window: WindowExtent,
    /// Mean over the window, in bits per second; zero while it holds less than two units, and while the stream is not live.
    pub bitrate: u64,
    /// Counters since the server started.
    pub counters: Counters,
}

impl HubStream {
    pub(super) fn new(name: &str, settings: HubSettings, trace: Option<Arc<Trace>>) -> Arc<Self> {
        let shared = Shared {
            due_times: DueTimes::default(),
            state: PublishState::Idle,
            catalog: None,
            high_water: HighWaterMarks::default(),
            writer: None,
            next_writer: 0,
            closed: None,
        };
        let live = Arc::new(live::LiveStream::new(settings.window));
        Arc::new(Self {
            name: name.to_owned(),
            settings,
            latency: LatencyTracker::new(live.clone(), trace),
            live,
            shared: RwLock::new(shared),
            subscribers: Arc::default(),
            counters: AtomicCounters::default(),
            advised: AtomicU64::new(u64::MAX),
        })
    }

    /// The name that it is played under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads the units after `cursor`: at most `max_bytes` of payload, but at least one unit if there is one. Counts units that the cursor
    /// skipped because the window evicted them.
    pub fn read(&self, cursor: &mut Cursor, max_bytes: usize) -> ReadBatch {
        let read = self.live.read(cursor, max_bytes);
        if read.skipped > 0 {
            self.count_resync(read.skipped);
        }
        read
    }

    /// Moves `cursor` to the newest GOP if that is ahead, and counts a resync. Returns the number of units skipped.
    pub fn jump_to_live_edge(&self, cursor: &mut Cursor) -> u64 {
        let skipped = self.live.with_window(|window| cursor.jump_to_live_edge(window));
        if skipped > 0 {
            self.count_resync(skipped);
        }
        skipped
    }

    /// How long the next unit of `cursor` has been overdue. A backlog sent in a burst does not count as long as the reader takes it at twice
    /// real time: see `reader_deadline`.
    pub fn lag(&self, cursor: &Cursor, now: Instant) -> Duration {
        let position = cursor.position().filter(|position| *position < self.next_position());
        position.map_or(Duration::ZERO, |position| self.shared.read().due_times.lateness(position, now))
    }

    /// Calls `look` with the window under a read lock. The publisher waits for it, so `look` must neither block nor do I/O.
    pub fn with_window<T>(&self, look: impl FnOnce(&LiveWindow) -> T) -> T {
        self.live.with_window(look)
    }

    /// Position that the next unit will have.
    pub fn next_position(&self) -> u64 {
        self.live.next_position()
    }

    /// Notifies of new units and state changes. Reports the end only when the stream is removed: until then a publisher may reconnect.
    pub fn changed(&self) -> watch::Receiver<Progress> {
        self.live.changed()
    }

    /// Registers `waker` for the events that `interest` selects until the guard is dropped; for readers outside an async runtime. It is called on
    /// the publisher's thread, so it must only signal.
    pub fn on_publish(&self, interest: Interest, waker: Waker) -> WakerGuard {
        self.live.register(interest, waker)
    }

    /// The newest catalog. `None` until the first unit.
    pub fn catalog(&self) -> Option<Arc<Catalog>> {
        self.shared.read().catalog.clone()
    }

    /// Whether it was removed from the hub: it will never be on air again, and its subscribers must leave.
    pub fn is_removed(&self) -> bool {
        self.live.changed().borrow().ended
    }

    /// Waits until it is removed. Cancel safe.
    pub async fn removed(&self) {
        // The sender lives as long as `self`.
        let _ = self.live.changed().wait_for(|progress| progress.ended).await;
    }

    /// Whether it is on air.
    pub fn state(&self) -> PublishState {
        self.shared.read().state
    }

    /// Stage timestamps of its units.
    pub fn latency(&self) -> &LatencyTracker {
        &self.latency
    }

    /// Counts one viewer of `protocol` until the guard is dropped.
    pub fn subscriber(&self, protocol: &'static str) -> SubscriberGuard {
        Subscribers::enter(&self.subscribers, protocol)
    }

    /// Sets the estimated number of viewers of a protocol without connections.
    pub fn set_viewers(&self, protocol: &'static str, count: usize) {
        self.subscribers.set(protocol, count);
    }

    /// Adds to the bytes handed to subscribers.
    pub fn count_sent(&self, bytes: u64) {
        self.counters.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A snapshot for the API and for metrics. The window, the state and the counters are each read at a slightly different moment.
    pub fn info(&self) -> Info {
        let window = self.with_window(|window| WindowExtent {
            first_position: window.first_position(),
            next_position: window.next_position(),
            duration: window.duration(),
            bytes: window.bytes(),
            gop_duration: window.gop_duration(),
        });
        let shared = self.shared.read();
        let millis = window.duration.as_millis() as u64;
        let is_live = matches!(shared.state, PublishState::Live { .. });
        Info {
            name: self.name.clone(),
            state: shared.state,
            catalog: shared.catalog.clone(),
            publisher: shared.writer.as_ref().map(|w| w.info.clone()),
            viewers: self.subscribers.by_protocol(),
            direct_viewers: shared.writer.as_ref().map_or(0, |writer| writer.direct_viewers),
            window,
            bitrate: if is_live { (window.bytes as u64 * 8 * 1000).checked_div(millis).unwrap_or(0) } else { 0 },
            counters: self.counters.load(),
        }
    }

    /// Ignored if the publisher `writer` is no longer the current one.
    pub(super) fn set_direct_viewers(&self, writer: u64, count: u32) {
        if let Some(writer) = self.shared.write().writer.as_mut().filter(|current| current.id == writer) {
            writer.direct_viewers = count;
        }
    }

    /// Admits a publisher and revokes the current one. Returns its id, the high-water marks to resume from, and the channel on which it learns
    /// that it is revoked.
    pub(super) fn admit(&self, info: PublisherInfo) -> (u64, HighWaterMarks, watch::Receiver<Option<RevokeReason>>) {
        let mut shared = self.shared.write();
        let id = shared.next_writer;
        shared.next_writer += 1;
        let (revocation, revoked) = watch::channel(shared.closed);
        let high_water = shared.high_water.clone();
        if shared.closed.is_some() {
            return (id, high_water, revoked);
        }
        if let Some(old) = shared.writer.replace(Writer { id, info, direct_viewers: 0, revocation }) {
            old.revocation.send_replace(Some(RevokeReason::TakenOver));
            self.counters.takeovers.fetch_add(1, Ordering::Relaxed);
        }
        self.counters.publishers.fetch_add(1, Ordering::Relaxed);
        shared.state = PublishState::Live { since: Instant::now() };
        drop(shared);
        self.announce();
        (id, high_water, revoked)
    }

    pub(super) fn push(
        &self,
        writer: u64,
        catalog: &Arc<Catalog>,
        unit: AccessUnit,
        predecessor_dts: Option<Timestamp>,
    ) -> PushOutcome {
        debug_assert_eq!(catalog.epoch, unit.epoch, "a unit is of its catalog's epoch");
        let (track, size) = (unit.track, unit.payload.len() as u64);
        let (epoch, dts) = (unit.epoch, unit.dts);
        let is_key_frame = unit.random_access;
        let (traced, read_at) = (UnitRef::from(&unit), clock::system());
        let (position, gop_duration, news) = {
            let mut shared = self.shared.write();
            if shared.writer.as_ref().is_none_or(|w| w.id != writer) {
                return PushOutcome::Revoked;
            }
            if !shared.high_water.accept(unit.epoch, unit.track, unit.dts) {
                self.counters.duplicate_units.fetch_add(1, Ordering::Relaxed);
                return PushOutcome::Duplicate;
            }
            let is_new = shared.catalog.as_ref().is_none_or(|c| !Arc::ptr_eq(c, catalog));
            if is_new {
                shared.catalog = Some(catalog.clone());
            }
            // Before the unit is visible to readers.
            self.latency.on_ingested(catalog, &unit);
            let pushed = self.live.push(catalog.clone(), unit, predecessor_dts);
            shared.due_times.on_unit(pushed.position, epoch, dts, Instant::now());
            shared.due_times.evict_before(pushed.first_position);
            // A new catalog wakes all readers, also those that wait for video only.
            let is_for_all = is_new || track.is_video();
            let news = if is_for_all { Interest::Pictures } else { Interest::EveryUnit };
            (pushed.position, pushed.gop_duration, news)
        };
        self.latency.trace_ingested(traced, read_at);
        self.counters.units.fetch_add(1, Ordering::Relaxed);
        self.counters.bytes.fetch_add(size, Ordering::Relaxed);
        self.live.wake(news);
        if track.is_video() {
            self.warn_of_long_gops(writer, gop_duration.unwrap_or_default(), is_key_frame);
        }
        PushOutcome::Accepted { position }
    }

    /// Tells the operator, once for each publisher, that its key frames are too far apart: at a key frame, or if none has come for long.
    fn warn_of_long_gops(&self, writer: u64, gop_duration: Duration, is_key_frame: bool) {
        if (is_key_frame || gop_duration > LONG_GOP)
            && let Some(advice) = keyframe_advice(gop_duration)
            && self.advised.swap(writer, Ordering::Relaxed) != writer
        {
            tracing::warn!(stream = self.name, "{advice}");
        }
    }

    /// Starts the grace period after the publisher `writer` disconnected or unpublished. Does nothing if it had been revoked.
    pub(super) fn on_disconnect(&self, writer: u64, is_unpublished: bool) {
        {
            let mut shared = self.shared.write();
            if shared.writer.as_ref().is_none_or(|w| w.id != writer) {
                return;
            }
            shared.writer = None;
            let grace = if is_unpublished { self.settings.grace_after_unpublish } else { self.settings.grace };
            let since = Instant::now();
            shared.state = PublishState::Disconnected { since, until: since + grace };
        }
        self.announce();
    }

    /// Revokes the current publisher, if there is one and it is meant, and starts the grace period.
    pub(super) fn kick(&self, why: RevokeReason, now: Instant, is_meant: impl Fn(&PublisherInfo) -> bool) {
        if !self.shared.read().writer.as_ref().is_some_and(|writer| is_meant(&writer.info)) {
            return;
        }
        {
            let mut shared = self.shared.write();
            let Some(writer) = shared.writer.take_if(|writer| is_meant(&writer.info)) else { return };
            writer.revocation.send_replace(Some(why));
            shared.state = PublishState::Disconnected { since: now, until: now + self.settings.grace };
        }
        self.announce();
    }

    /// Revokes the current publisher and accepts no other from now on.
    pub(super) fn block(&self, why: RevokeReason, now: Instant) {
        self.shared.write().closed = Some(why);
        self.kick(why, now, |_| true);
    }

    /// Revokes the current publisher, accepts no other from now on, and ends the stream without a grace period: it is removed.
    pub(super) fn end(&self, why: RevokeReason, now: Instant) {
        self.block(why, now);
        self.set_ended(&mut self.shared.write(), now);
        self.live.end();
    }

    pub(super) fn end_if_grace_expired(&self, now: Instant) {
        let is_overdue = |state| matches!(state, PublishState::Disconnected { until, .. } if until <= now);
        if !is_overdue(self.state()) {
            return;
        }
        {
            let mut shared = self.shared.write();
            if !is_overdue(shared.state) {
                return;
            }
            self.set_ended(&mut shared, now);
        }
        self.announce();
    }

    /// Ends the stream and empties its window, so that it holds no memory and nobody is sent what is over. Under the lock, since the window
    /// already belongs to the next publisher once there is one.
    fn set_ended(&self, shared: &mut Shared, now: Instant) {
        shared.state = PublishState::Ended { since: now };
        shared.due_times = DueTimes::default();
        self.live.clear();
    }

    /// Wakes all readers after a change of the state.
    fn announce(&self) {
        self.live.wake(Interest::Pictures);
    }

    fn count_resync(&self, skipped_units: u64) {
        self.counters.resyncs.fetch_add(1, Ordering::Relaxed);
        self.counters.skipped_units.fetch_add(skipped_units, Ordering::Relaxed);
    }
}

impl AtomicCounters {
    fn load(&self) -> Counters {
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Counters {
            units: load(&self.units),
            bytes: load(&self.bytes),
            duplicate_units: load(&self.duplicate_units),
            publishers: load(&self.publishers),
            takeovers: load(&self.takeovers),
            resyncs: load(&self.resyncs),
            skipped_units: load(&self.skipped_units),
            sent_bytes: load(&self.sent_bytes),
        }
    }
}

/// No key frame for this long is reported before the next one comes.
const LONG_GOP: Duration = Duration::from_secs(10);
