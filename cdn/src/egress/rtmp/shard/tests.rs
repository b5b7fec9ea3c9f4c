//! A shard over loopback sockets, one turn at a time, on a virtual clock.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use media::codec::{Codec, CodecConfig, Format};
use media::live_window::Bounds;
use media::{AccessUnit, Catalog, Cursor, Epoch, Timestamp, Track, TrackId};
use net::connection_limit::ConnectionLimiter;
use net::connection_slots::{ConnectionSlot, ConnectionSlots, Evictable};
use net::rtmp::client::{self, ClientOptions};
use net::rtmp::server::{self, PlayState, Request};
use net::rtmp::{Limits, Message, Metadata, url};

use super::*;
use crate::config::FanoutEngine;
use crate::hub::{Hub, HubStream, PublishGuard, PublisherInfo};

const SETTINGS: ShardSettings = ShardSettings {
    audio_batch_delay: Duration::from_millis(100),
    max_lag: Duration::from_secs(5),
    idle_player_timeout: Duration::from_secs(3600),
    write_timeout: Duration::from_secs(10),
};

fn shard() -> Shard {
    let poll = Poll::new().unwrap();
    let mailbox = Mailbox::new(&poll).unwrap();
    Shard::new(SETTINGS, poll, mailbox, Submitter::new(FanoutEngine::Epoll).unwrap())
}

fn stream() -> Arc<HubStream> {
    let window = Bounds { duration: Duration::from_secs(60), bytes: 64 << 20 };
    let (grace, grace_after_unpublish) = (Duration::from_secs(30), Duration::from_secs(5));
    Hub::new(hub::HubSettings { window, grace, grace_after_unpublish }).open("live")
}

fn publish(stream: &Arc<HubStream>) -> PublishGuard {
    stream.publish(PublisherInfo::default())
}

/// Pushes video frames of `size` bytes, 40 ms apart, with an IDR each second.
fn push(publishing: &PublishGuard, pictures: std::ops::Range<i64>, size: usize) {
    let mut catalog = Catalog::new(Epoch(1));
    let config =
        CodecConfig { codec: Codec::H264, record: Bytes::new(), format: Format::Video { width: 1, height: 1 } };
    catalog.set_track(Track { id: TrackId::VIDEO, config });
    let catalog = Arc::new(catalog);
    for n in pictures {
        let dts = Timestamp::from_millis(n * 40);
        let payload = Bytes::from(vec![0; size]);
        let (epoch, track, random_access) = (Epoch(1), TrackId::VIDEO, n % 25 == 0);
        publishing.push(&catalog, AccessUnit { epoch, track, dts, pts: dts, random_access, payload }, None);
    }
}

/// The RTMP session state of a playing client. With `hangs_up`, the client has already closed the connection.
async fn play_state(hangs_up: bool) -> PlayState {
    let (near, far) = tokio::io::duplex(1 << 16);
    let client = async {
        let url = url::parse("rtmp://h/live/live").unwrap();
        let player = client::play_over(near, &url, ClientOptions::default()).await.unwrap();
        if hangs_up {
            player.close().await.unwrap();
        } else {
            std::future::pending::<()>().await;
        }
    };
    let server = async {
        let Request::Play(request) = server::accept(far, &Limits::default()).await.unwrap() else { panic!("no play") };
        let mut player = request.accept().await.unwrap();
        // Let the client's task run; sending also reads the client's messages.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        player.send(&Message::Metadata(Metadata::default())).await.unwrap();
        player.into_parts().1
    };
    tokio::select! {
        biased;
        play = server => play,
        () = client => panic!("the client is done before the server"),
    }
}

/// A player's socket, both ends, and its cursor's start.
struct Ends {
    client: TcpStream,
    /// A duplicate of the server's end, to fill it without the shard.
    server: TcpStream,
}

async fn join(shard: &mut Shard, stream: &Arc<HubStream>, hangs_up: bool, now: Instant) -> Ends {
    join_in(any_slot(), shard, stream, hangs_up, now).await
}

async fn join_in(
    slot: ConnectionSlot,
    shard: &mut Shard,
    stream: &Arc<HubStream>,
    hangs_up: bool,
    now: Instant,
) -> Ends {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    client.set_nonblocking(true).unwrap();
    server.set_nonblocking(true).unwrap();
    let new = NewSubscriber {
        socket: mio::net::TcpStream::from_std(server.try_clone().unwrap()),
        play: play_state(hangs_up).await,
        stream: stream.clone(),
        start: Cursor::at_live_edge(),
        is_resuming: false,
        slot,
    };
    assert!(shard.mailbox.add(Box::new(new)).is_ok());
    turn(shard, now);
    Ends { client, server }
}

/// One turn of the shard: polls, processes the mailbox, and writes.
fn turn(shard: &mut Shard, now: Instant) {
    let mut events = Events::with_capacity(EVENTS);
    shard.poll.poll(&mut events, Some(Duration::from_millis(10))).unwrap();
    for event in &events {
        shard.socket_event(event);
    }
    shard.drain_mailbox(now);
    shard.write(now);
}

impl Ends {
    /// Writes into the server's end until its buffer is full; returns the number of bytes written.
    fn fill(&mut self) -> usize {
        let mut filled = 0;
        let mut quiet = 0;
        // The kernel keeps moving bytes to the other end for a moment.
        while quiet < 20 {
            match self.server.write(&[0; 1 << 16]) {
                Ok(count) => (filled, quiet) = (filled + count, 0),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    quiet += 1;
                    std::thread::yield_now();
                }
                Err(e) => panic!("{e}"),
            }
        }
        filled
    }

    /// Reads all bytes that have arrived; returns their number.
    fn drain(&mut self) -> usize {
        self.heard().len()
    }

    /// The bytes that have arrived.
    fn heard(&mut self) -> Vec<u8> {
        let mut heard = Vec::new();
        match self.client.read_to_end(&mut heard) {
            Err(e) if e.kind() != ErrorKind::WouldBlock => panic!("{e}"),
            _ => heard,
        }
    }
}

#[tokio::test]
async fn the_write_timeout_counts_from_the_last_progress() {
    let (mut shard, stream, start) = (shard(), stream(), Instant::now());
    let publishing = publish(&stream);
    let mut ends = join(&mut shard, &stream, false, start).await;
    ends.fill();
    // Nothing was published for longer than the write timeout.
    let later = start + SETTINGS.write_timeout * 2;
    push(&publishing, 0..1, 100);
    turn(&mut shard, later);
    shard.sweep(later + Duration::from_secs(1));
    assert_eq!(shard.subscribers.len(), 1);
    shard.sweep(later + SETTINGS.write_timeout);
    assert_eq!((shard.subscribers.len(), shard.mailbox.write_timeouts.load(Ordering::Relaxed)), (0, 1));
}

#[tokio::test]
async fn requests_do_not_prolong_the_wait_for_a_stream() {
    let (mut shard, stream, start) = (shard(), stream(), Instant::now());
    let mut ends = join(&mut shard, &stream, false, start).await;
    // RTMP 1.0 §7.1.7: ping request.
    let ping = [2, 0, 0, 0, 0, 0, 6, 4, 0, 0, 0, 0, 0, 6, 0, 0, 0, 1];
    for minutes in [20, 40, 59] {
        let now = start + Duration::from_secs(60 * minutes);
        ends.client.write_all(&ping).unwrap();
        let patience = Instant::now() + Duration::from_secs(60);
        while ends.drain() == 0 {
            assert!(Instant::now() < patience, "no answer");
            turn(&mut shard, now);
        }
        shard.sweep(now);
        turn(&mut shard, now);
        assert_eq!(shard.subscribers.len(), 1, "{minutes}");
    }
    let now = start + SETTINGS.idle_player_timeout;
    shard.sweep(now);
    turn(&mut shard, now);
    assert_eq!(shard.subscribers.len(), 0);
    // The stream is known but not on air, so the status lets the player reconnect.
    let said = String::from_utf8_lossy(&ends.heard()).into_owned();
    assert!(said.contains("NetStream.Play.Failed") && !said.contains("StreamNotFound"), "{said}");

    // No wait while the stream is on air; media ends a wait.
    let _ends = join(&mut shard, &stream, false, start).await;
    let publishing = publish(&stream);
    push(&publishing, 0..1, 100);
    turn(&mut shard, start);
    for seconds in [1, 4000, 8000] {
        shard.sweep(start + Duration::from_secs(seconds));
    }
    turn(&mut shard, start);
    assert_eq!(shard.subscribers.len(), 1);
}

#[tokio::test]
async fn input_before_the_hand_over_is_handled() {
    let (mut shard, stream, start) = (shard(), stream(), Instant::now());
    let _ends = join(&mut shard, &stream, true, start).await;
    assert_eq!((shard.subscribers.len(), shard.feeds.len()), (0, 0));
    assert_eq!(shard.mailbox.players.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_resent_backlog_does_not_count_as_lag() {
    for (wait, expected) in [(1, 0), (5, 0), (16, 1)] {
        let (mut shard, stream, start) = (shard(), stream(), Instant::now());
        push(&publish(&stream), 0..25, 100);
        let mut ends = join(&mut shard, &stream, false, start).await;
        turn(&mut shard, start);
        ends.fill();
        // The publisher returns with a backlog of 20 s, and the player cannot receive for a while.
        let publishing = publish(&stream);
        push(&publishing, 25..26, 100);
        turn(&mut shard, start);
        push(&publishing, 26..525, 1000);
        turn(&mut shard, start);
        let now = start + Duration::from_secs(wait);
        let patience = Instant::now() + Duration::from_secs(60);
        let key = shard.subscribers.iter().next().unwrap().0;
        while shard.subscribers[key].is_blocked() || !shard.queue.is_empty() {
            assert!(Instant::now() < patience, "it never catches up");
            ends.drain();
            turn(&mut shard, now);
        }
        assert_eq!(stream.info().counters.resyncs, expected, "{wait} s");
    }
}

fn slots(count: usize) -> Arc<ConnectionSlots> {
    ConnectionSlots::new(ConnectionLimiter::new(count, count), 0, Evictable::Waiting)
}

fn any_slot() -> ConnectionSlot {
    slots(1).try_acquire(Ipv4Addr::LOCALHOST.into()).unwrap()
}

#[tokio::test]
async fn an_evicted_player_is_disconnected_at_once() {
    let (mut shard, stream, start) = (shard(), stream(), Instant::now());
    let slots = slots(2);
    let mut ends = Vec::new();
    for address in [[192, 0, 2, 1], [192, 0, 2, 2]] {
        let slot = slots.try_acquire(address.into()).unwrap();
        ends.push(join_in(slot, &mut shard, &stream, false, start).await);
    }
    let _new = slots.try_acquire([192, 0, 2, 3].into()).unwrap();
    turn(&mut shard, start);
    assert_eq!((shard.subscribers.len(), shard.mailbox.players.load(Ordering::Relaxed)), (1, 1));
    assert!(ends[0].client.read(&mut [0; 64]).is_ok() && ends[1].client.read(&mut [0; 64]).is_err());
    // A waker that comes late finds another player at its key.
    shard.mailbox.inbox.lock().evicted.extend([0, 1]);
    turn(&mut shard, start);
    assert_eq!(shard.subscribers.len(), 1);
}

#[tokio::test]
async fn a_player_is_not_evicted_once_its_stream_is_on_air() {
    let (mut shard, stream, start) = (shard(), stream(), Instant::now());
    let slots = slots(1);
    let slot = slots.try_acquire([192, 0, 2, 1].into()).unwrap();
    let _ends = join_in(slot, &mut shard, &stream, false, start).await;
    let publishing = publish(&stream);
    push(&publishing, 0..1, 100);
    turn(&mut shard, start);
    shard.sweep(start);
    assert!(slots.try_acquire([192, 0, 2, 2].into()).is_err());
    assert_eq!((slots.evicted(), shard.subscribers.len()), (0, 1));
}

#[tokio::test]
async fn a_player_of_a_removed_stream_is_disconnected_even_if_it_was_never_live() {
    let window = Bounds { duration: Duration::from_secs(60), bytes: 64 << 20 };
    let (grace, grace_after_unpublish) = (Duration::from_secs(30), Duration::from_secs(5));
    let hub = Hub::new(hub::HubSettings { window, grace, grace_after_unpublish });
    let stream = hub.open("live");
    let (mut shard, start) = (shard(), Instant::now());
    let mut early = join(&mut shard, &stream, false, start).await;
    hub.end("live");
    let mut late = join(&mut shard, &stream, false, start).await;
    turn(&mut shard, start);
    assert_eq!(shard.subscribers.len(), 0);
    for ends in [&mut early, &mut late] {
        let said = String::from_utf8_lossy(&ends.heard()).into_owned();
        assert!(said.contains("NetStream.Play.UnpublishNotify"), "{said}");
    }
}
