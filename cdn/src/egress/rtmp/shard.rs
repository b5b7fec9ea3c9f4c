//! A thread that owns many players' sockets.
//!
//! It sleeps until a publisher, a client or a deadline wakes it. Then it makes one batch per stream with new units, for all the stream's
//! players, and writes to all sockets with room in one submission. It never blocks on a socket: a full one is skipped until the kernel
//! reports it writable.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use parking_lot::Mutex;
use slab::Slab;

use super::pending_write::PendingWrite;
use super::stream_batcher::{StateChange, StreamBatcher};
use super::submit::Submitter;
use super::subscriber::{DisconnectReason, NewSubscriber, Subscriber};
use crate::hub;

#[cfg(test)]
mod tests;

/// Timeouts and bounds of a shard's players.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShardSettings {
    pub(super) audio_batch_delay: Duration,
    pub(super) max_lag: Duration,
    pub(super) idle_player_timeout: Duration,
    pub(super) write_timeout: Duration,
}

/// Messages to a shard from other threads, and its counters.
#[derive(Debug)]
pub(super) struct Mailbox {
    waker: mio::Waker,
    /// Whether the shard was woken and has not drained the mailbox yet.
    is_woken: AtomicBool,
    inbox: Mutex<Inbox>,
    is_stopping: AtomicBool,
    /// Players of the shard, those still in the mailbox included.
    pub(super) players: AtomicU64,
    /// Players disconnected because their socket accepted no bytes for the write timeout.
    pub(super) write_timeouts: AtomicU64,
}

#[derive(Default)]
struct Inbox {
    new_subscribers: Vec<NewSubscriber>,
    /// Keys of feeds whose stream has changed.
    news: Vec<usize>,
    /// Keys of players that were evicted. A key may have been given to another player since.
    evicted: Vec<usize>,
    /// Deadline of the shutdown, once there is one.
    stop: Option<Instant>,
    /// Whether the shard has ended.
    is_closed: bool,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox")
            .field("new_subscribers", &self.new_subscribers.len())
            .field("stop", &self.stop)
            .finish_non_exhaustive()
    }
}

impl Mailbox {
    pub(super) fn new(poll: &Poll) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            waker: mio::Waker::new(poll.registry(), MAILBOX)?,
            is_woken: AtomicBool::new(false),
            inbox: Mutex::default(),
            is_stopping: AtomicBool::new(false),
            players: AtomicU64::new(0),
            write_timeouts: AtomicU64::new(0),
        }))
    }

    /// Hands a player over, or returns it if the shard has ended.
    pub(super) fn add(&self, new: Box<NewSubscriber>) -> Result<(), Box<NewSubscriber>> {
        {
            let mut inbox = self.inbox.lock();
            if inbox.is_closed {
                return Err(new);
            }
            self.players.fetch_add(1, Ordering::Relaxed);
            inbox.new_subscribers.push(*new);
        }
        self.wake();
        Ok(())
    }

    pub(super) fn stop(&self, deadline: Instant) {
        self.is_stopping.store(true, Ordering::Release);
        self.inbox.lock().stop = Some(deadline);
        self.wake();
    }

    /// Marks the shard as ended and drops players still in the mailbox. Returns whether [`stop`](Self::stop) was called.
    pub(super) fn close(&self) -> bool {
        let mut inbox = self.inbox.lock();
        inbox.is_closed = true;
        inbox.new_subscribers.clear();
        self.players.store(0, Ordering::Relaxed);
        self.is_stopping.load(Ordering::Acquire)
    }

    /// Whether the shard has ended.
    #[cfg(test)]
    pub(super) fn is_closed(&self) -> bool {
        self.inbox.lock().is_closed
    }

    fn wake(&self) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            // Writing to our own eventfd fails only if its counter is full, and then the shard is woken already.
            let _ = self.waker.wake();
        }
    }
}

/// Woken by the hub when a feed's stream has changed.
struct FeedWaker {
    key: usize,
    is_noted: AtomicBool,
    mailbox: Arc<Mailbox>,
}

impl Wake for FeedWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_noted.swap(true, Ordering::AcqRel) {
            self.mailbox.inbox.lock().news.push(self.key);
            self.mailbox.wake();
        }
    }
}

/// Woken when a player is evicted.
struct EvictionWaker {
    key: usize,
    mailbox: Arc<Mailbox>,
}

impl Wake for EvictionWaker {
    fn wake(self: Arc<Self>) {
        self.mailbox.inbox.lock().evicted.push(self.key);
        self.mailbox.wake();
    }
}

pub(super) struct Shard {
    settings: ShardSettings,
    poll: Poll,
    mailbox: Arc<Mailbox>,
    submitter: Submitter,
    subscribers: Slab<Subscriber>,
    feeds: Slab<(StreamBatcher, Arc<FeedWaker>)>,
    feed_of: BTreeMap<String, usize>,
    /// Keys of players to write to in this pass.
    queue: Vec<usize>,
    buffer: Box<[u8]>,
    swept: Instant,
    stop: Option<Instant>,
}

impl Shard {
    pub(super) fn new(settings: ShardSettings, poll: Poll, mailbox: Arc<Mailbox>, submitter: Submitter) -> Self {
        Self {
            settings,
            poll,
            mailbox,
            submitter,
            subscribers: Slab::new(),
            feeds: Slab::new(),
            feed_of: BTreeMap::new(),
            queue: Vec::new(),
            buffer: vec![0; READ_BUFFER].into(),
            swept: Instant::now(),
            stop: None,
        }
    }

    /// Runs until it is stopped and all players have left, or the deadline is over.
    pub(super) fn run(mut self) -> io::Result<()> {
        self.submitter.enable()?;
        let mut events = Events::with_capacity(EVENTS);
        loop {
            let now = Instant::now();
            if self.stop.is_some_and(|stop| stop <= now || self.subscribers.is_empty()) {
                return Ok(());
            }
            match self.poll.poll(&mut events, self.timeout(now)) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
                _ => {}
            }
            let now = Instant::now();
            for event in &events {
                self.socket_event(event);
            }
            self.drain_mailbox(now);
            self.poll_due_feeds(now);
            self.write(now);
            if now >= self.swept + SWEEP_INTERVAL {
                self.sweep(now);
            }
        }
    }

    fn timeout(&self, now: Instant) -> Option<Duration> {
        if !self.queue.is_empty() {
            return Some(Duration::ZERO);
        }
        let audio = self.feeds.iter().filter_map(|(_, (feed, _))| feed.deadline(self.settings.audio_batch_delay)).min();
        let sweep = (!self.subscribers.is_empty()).then_some(self.swept + SWEEP_INTERVAL);
        let next = [audio, sweep, self.stop].into_iter().flatten().min()?;
        Some(next.saturating_duration_since(now))
    }

    fn socket_event(&mut self, event: &mio::event::Event) {
        let Token(key) = event.token();
        let Some(subscriber) = self.subscribers.get_mut(key) else { return };
        if event.is_writable() {
            subscriber.has_room = true;
        }
        let heard = if event.is_readable() || event.is_read_closed() || event.is_error() {
            subscriber.read_input(&mut self.buffer)
        } else {
            Ok(())
        };
        match heard {
            Ok(()) => self.enqueue(key),
            Err(why) => self.remove(key, &why),
        }
    }

    fn drain_mailbox(&mut self, now: Instant) {
        self.mailbox.is_woken.store(false, Ordering::Release);
        let Inbox { new_subscribers, news, evicted, stop, .. } = std::mem::take(&mut *self.mailbox.inbox.lock());
        for key in evicted {
            // Without a status message, which a player that reads nothing would hold up.
            if self.subscribers.get(key).is_some_and(|subscriber| subscriber.slot.is_evicted()) {
                self.remove(key, &DisconnectReason::Evicted);
            }
        }
        for new in new_subscribers {
            self.add(new, now);
        }
        for key in news {
            self.poll_feed(key, now);
        }
        if let Some(deadline) = stop {
            self.stop = Some(deadline);
            self.shutdown_all("NetConnection.Connect.Closed", "The server is shutting down.", now);
        }
    }

    fn add(&mut self, new: NewSubscriber, now: Instant) {
        let feed = self.feed(&new, now);
        let entry = self.subscribers.vacant_entry();
        let key = entry.key();
        let members = &mut self.feeds[feed].0.members;
        let subscriber = entry.insert(Subscriber::new(new, feed, members.len(), now));
        members.push(key);
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered = self.poll.registry().register(&mut subscriber.socket, Token(key), interest);
        subscriber.wait(self.feeds[feed].0.is_live, now);
        subscriber.slot.on_evicted(Waker::from(Arc::new(EvictionWaker { key, mailbox: self.mailbox.clone() })));
        let heard = subscriber.read_buffered_input();
        if self.stop.is_some() {
            subscriber.shutdown("NetConnection.Connect.Closed", "The server is shutting down.", now);
        } else if self.feeds[feed].0.stream.is_removed() {
            subscriber.shutdown(ENDED.0, ENDED.1, now);
        }
        match registered.map_err(DisconnectReason::from).and(heard) {
            Ok(()) => self.enqueue(key),
            Err(why) => self.remove(key, &why),
        }
    }

    /// The key of a stream's feed, which is created for its first player in this shard.
    fn feed(&mut self, new: &NewSubscriber, now: Instant) -> usize {
        let name = new.stream.name();
        if let Some(key) = self.feed_of.get(name).copied() {
            // A stream that was removed and created again has the same name but is another stream.
            if Arc::ptr_eq(&self.feeds[key].0.stream, &new.stream) {
                return key;
            }
        }
        let entry = self.feeds.vacant_entry();
        let key = entry.key();
        let waker = Arc::new(FeedWaker { key, is_noted: AtomicBool::new(false), mailbox: self.mailbox.clone() });
        let guard = new.stream.on_publish(hub::Interest::Pictures, Waker::from(waker.clone()));
        entry.insert((StreamBatcher::new(new.stream.clone(), guard, now), waker));
        self.feed_of.insert(name.to_owned(), key);
        key
    }

    fn poll_due_feeds(&mut self, now: Instant) {
        let wait = self.settings.audio_batch_delay;
        let is_due = |(key, (feed, _)): (usize, &(StreamBatcher, _))| {
            feed.deadline(wait).is_some_and(|d| d <= now).then_some(key)
        };
        let due: Vec<usize> = self.feeds.iter().filter_map(is_due).collect();
        for key in due {
            self.poll_feed(key, now);
        }
    }

    /// Makes a batch of a feed's new units and queues its players.
    fn poll_feed(&mut self, key: usize, now: Instant) {
        let Some((feed, waker)) = self.feeds.get_mut(key) else { return };
        // Before the poll: a change during it is reported again.
        waker.is_noted.store(false, Ordering::Release);
        let has_news = feed.advance(now);
        let has_ended = feed.poll_state() == StateChange::Ended;
        if !has_news && !has_ended {
            return;
        }
        for member in feed.members.clone() {
            if has_ended {
                self.subscribers[member].shutdown(ENDED.0, ENDED.1, now);
            }
            self.enqueue(member);
        }
    }

    fn enqueue(&mut self, key: usize) {
        let subscriber = &mut self.subscribers[key];
        if !subscriber.is_queued {
            subscriber.is_queued = true;
            self.queue.push(key);
        }
    }

    /// Writes to all queued players whose sockets have room, in at most [`PASSES`] passes, so that new units of other streams are not delayed.
    fn write(&mut self, now: Instant) {
        for _ in 0..PASSES {
            if self.queue.is_empty() {
                break;
            }
            self.write_once(now);
        }
        for (_, (feed, _)) in &mut self.feeds {
            feed.forget_batch();
        }
    }

    fn write_once(&mut self, now: Instant) {
        let queue = std::mem::take(&mut self.queue);
        let mut gone: Vec<(usize, DisconnectReason)> = Vec::new();
        let mut ready = Vec::with_capacity(queue.len());
        for key in queue {
            let subscriber = &mut self.subscribers[key];
            subscriber.is_queued = false;
            match subscriber.prepare(&self.feeds[subscriber.feed].0, self.settings.max_lag, now) {
                Ok(()) if subscriber.under_way().is_some() => ready.push(key),
                Ok(()) => {}
                Err(why) => gone.push((key, why)),
            }
        }
        let subscribers = &self.subscribers;
        let mut writes: Vec<PendingWrite<'_>> = ready
            .iter()
            .filter_map(|key| {
                let subscriber = &subscribers[*key];
                let (parts, skip) = subscriber.under_way()?;
                Some(PendingWrite { socket: &subscriber.socket, parts, skip, outcome: Ok(0) })
            })
            .collect();
        self.submitter.submit(&mut writes);
        let outcomes: Vec<_> = writes.into_iter().map(|write| write.outcome).collect();
        for (key, outcome) in ready.into_iter().zip(outcomes) {
            let subscriber = &mut self.subscribers[key];
            match subscriber.on_written(outcome, now) {
                Ok(bytes) => {
                    self.feeds[subscriber.feed].0.stream.count_sent(bytes as u64);
                    // There may be more; and only a write that finds no room makes the kernel report when there is some.
                    if subscriber.has_room {
                        self.enqueue(key);
                    }
                }
                Err(why) => gone.push((key, why)),
            }
        }
        for (key, why) in gone {
            self.remove(key, &why);
        }
    }

    /// Removes players whose writes or waits have timed out, and maintains the connections of the others.
    fn sweep(&mut self, now: Instant) {
        self.swept = now;
        let mut write_timed_out = Vec::new();
        let mut wait_timed_out = Vec::new();
        for (key, subscriber) in &mut self.subscribers {
            subscriber.keep_steady(now);
            let has_waited = subscriber.wait(self.feeds[subscriber.feed].0.is_live, now);
            if subscriber.is_blocked() && now >= subscriber.progress + self.settings.write_timeout {
                write_timed_out.push(key);
            } else if has_waited.is_some_and(|time| time >= self.settings.idle_player_timeout) {
                wait_timed_out.push(key);
            }
        }
        for key in write_timed_out {
            self.mailbox.write_timeouts.fetch_add(1, Ordering::Relaxed);
            self.remove(key, &DisconnectReason::WriteTimeout);
        }
        for key in wait_timed_out {
            // Not `StreamNotFound`: the stream is known, and it makes sense to reconnect.
            self.subscribers[key].shutdown("NetStream.Play.Failed", "The stream is not live.", now);
            self.enqueue(key);
        }
    }

    fn shutdown_all(&mut self, code: &str, description: &str, now: Instant) {
        let keys: Vec<usize> = self.subscribers.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.subscribers[key].shutdown(code, description, now);
            self.enqueue(key);
        }
    }

    fn remove(&mut self, key: usize, reason: &DisconnectReason) {
        let Some(mut subscriber) = self.subscribers.try_remove(key) else { return };
        tracing::debug!(peer = ?subscriber.socket.peer_addr().ok(), started = subscriber.has_started(), %reason, "player disconnected");
        let _ = self.poll.registry().deregister(&mut subscriber.socket);
        let _ = subscriber.socket.shutdown(std::net::Shutdown::Both);
        self.mailbox.players.fetch_sub(1, Ordering::Relaxed);
        if subscriber.is_queued {
            self.queue.retain(|queued| *queued != key);
        }
        let members = &mut self.feeds[subscriber.feed].0.members;
        members.swap_remove(subscriber.member);
        if let Some(moved) = members.get(subscriber.member) {
            self.subscribers[*moved].member = subscriber.member;
        }
        if members.is_empty() {
            let (feed, _) = self.feeds.remove(subscriber.feed);
            if self.feed_of.get(feed.stream.name()) == Some(&subscriber.feed) {
                self.feed_of.remove(feed.stream.name());
            }
        }
    }
}

/// Code and description of the status message that tells players of a stream's end.
const ENDED: (&str, &str) = ("NetStream.Play.UnpublishNotify", "The stream has ended.");
const MAILBOX: Token = Token(usize::MAX);
/// Socket events per poll; further events follow in the next poll.
const EVENTS: usize = 1024;
/// Bytes read from a player per system call; players send little.
const READ_BUFFER: usize = 16 << 10;
/// Writes to one player before new units are polled again: a joining player gets a few megabytes.
const PASSES: usize = 4;
/// How late a timeout of seconds may be noticed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
