//! Publishing over loopback to a server that disconnects: the epoch continues, and the server receives everything it lacks.
#![allow(clippy::unwrap_used, reason = "a test that fails shows where")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use broadcaster::broadcast::Broadcast;
use broadcaster::publish::unit_log::UnitLog;
use broadcaster::publish::{Error, RtmpPublisher};
use broadcaster::stats::Stats;
use bytes::Bytes;
use media::catalog::Metadata;
use media::codec::{Codec, CodecConfig, Format};
use media::live_window::Bounds;
use media::{Epoch, Timestamp, TrackId, WallClock, flv};
use net::rtmp::server::{self, Publisher, Request};
use net::rtmp::{Limits, Message, Resume, url};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const EPOCH: Epoch = Epoch(0x1234);

/// A broadcast with video at 0, 40 … ms, an IDR every second, and no audio.
fn broadcast(stats: &Arc<Stats>) -> Arc<Broadcast> {
    let bounds = Bounds { duration: Duration::from_secs(60), bytes: 1 << 20 };
    let broadcast = Broadcast::new(EPOCH, WallClock::from_micros(5), &[TrackId::VIDEO], bounds, stats.clone());
    // The record of a real encoder: Baseline, 16 × 16.
    let record = Bytes::from_static(
        b"\x01\x42\xc0\x0a\xff\xe1\x00\x09\x67\x42\xc0\x0a\xda\x7b\x01\x10\x00\x01\x00\x04\x68\xce\x0f\xc8",
    );
    let config = CodecConfig { codec: Codec::H264, record, format: Format::Video { width: 16, height: 16 } };
    broadcast.add_track(TrackId::VIDEO, config, Metadata::new());
    Arc::new(broadcast)
}

fn push(broadcast: &Broadcast, pictures: std::ops::Range<i64>) {
    for n in pictures {
        let nal = if n % 25 == 0 { 0x65 } else { 0x41 };
        let payload = Bytes::from(vec![0, 0, 0, 2, nal, n as u8]);
        broadcast.push(TrackId::VIDEO, n * 40, n * 40, n % 25 == 0, payload);
    }
}

/// Accepts one publisher.
async fn accept(listener: &TcpListener, have: Option<i64>) -> Publisher<TcpStream> {
    let (io, _) = listener.accept().await.unwrap();
    let Request::Publish(request) = server::accept(io, &Limits::default()).await.unwrap() else { panic!("it plays") };
    assert_eq!((request.app.as_str(), request.name.as_str()), ("live", "key"));
    let resume = have.map(|dts| Resume { epoch: EPOCH, have: vec![(TrackId::VIDEO, Timestamp::from_millis(dts))] });
    request.accept(resume).await.unwrap()
}

/// Receives `count` frames and returns their DTS; checks metadata in between.
async fn receive(publisher: &mut Publisher<TcpStream>, demuxer: &mut flv::Demuxer, count: usize) -> Vec<i64> {
    let mut dts = Vec::new();
    while dts.len() < count {
        match publisher.next().await.unwrap().expect("more must come") {
            Message::Metadata(metadata) => {
                assert_eq!((metadata.epoch, metadata.clock), (Some(EPOCH), Some(WallClock::from_micros(5))));
                demuxer.set_exact(true);
            }
            Message::Video { timestamp, body } => {
                let units = demuxer.video(timestamp, body, Instant::now()).unwrap();
                dts.extend(units.into_iter().filter_map(|event| match event {
                    flv::Event::Unit(unit) => Some(unit.dts.as_millis()),
                    _ => None,
                }));
            }
            _ => {}
        }
    }
    dts
}

struct Run {
    publishing: tokio::task::JoinHandle<Result<(), Error>>,
    abandon_reconnect: watch::Sender<bool>,
    stats: Arc<Stats>,
    broadcast: Arc<Broadcast>,
    listener: TcpListener,
    log: tempfile::NamedTempFile,
}

async fn start() -> Run {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = url::parse(&format!("rtmp://{}/live/key", listener.local_addr().unwrap())).unwrap();
    let stats = Arc::new(Stats::default());
    let broadcast = broadcast(&stats);
    let log = tempfile::NamedTempFile::new().unwrap();
    let (abandon_reconnect, should_abandon) = watch::channel(false);
    let publishing = RtmpPublisher {
        url,
        broadcast: broadcast.clone(),
        stats: stats.clone(),
        peer: None,
        unit_log: Some(UnitLog::create(log.path()).unwrap()),
        trace: None,
        connected: watch::channel(false).0,
        abandon_reconnect: should_abandon,
    };
    Run { publishing: tokio::spawn(publishing.run()), abandon_reconnect, stats, broadcast, listener, log }
}

fn dts(pictures: std::ops::Range<i64>) -> Vec<i64> {
    pictures.map(|n| n * 40).collect()
}

#[tokio::test]
async fn an_outage_loses_no_unit() {
    let run = start().await;
    push(&run.broadcast, 0..30);
    let mut first = accept(&run.listener, None).await;
    assert_eq!(receive(&mut first, &mut flv::Demuxer::new(EPOCH), 30).await, dts(0..30));
    drop(first);
    push(&run.broadcast, 30..60);
    // The server received 30 units but kept only the first 20, which it reports on reconnect.
    let mut second = accept(&run.listener, Some(19 * 40)).await;
    let mut demuxer = flv::Demuxer::new(EPOCH);
    assert_eq!(receive(&mut second, &mut demuxer, 40).await, dts(20..60));
    assert_eq!((run.stats.units_dropped.value(), run.stats.reconnects.value()), (0, 1));
    assert!(run.stats.units_retransmitted.value() >= 10);

    push(&run.broadcast, 60..62);
    run.broadcast.end();
    assert_eq!(receive(&mut second, &mut demuxer, 2).await, dts(60..62));
    while second.next().await.unwrap().is_some() {}
    run.publishing.await.unwrap().unwrap();
    // Each unit is logged once, however often it was retransmitted.
    let log = std::fs::read_to_string(run.log.path()).unwrap();
    let logged: Vec<_> = log.lines().map(|line| line.split(' ').nth(1).unwrap().parse::<i64>().unwrap()).collect();
    assert_eq!(logged, dts(0..62));
    let empty = "v0 40 40 ".len() + 64;
    assert_eq!(log.lines().nth(1).unwrap().len(), empty);
}

/// The next picture's DTS, and that of the one which it is stated to follow.
async fn receive_after_gap(publisher: &mut Publisher<TcpStream>, demuxer: &mut flv::Demuxer) -> (i64, Option<i64>) {
    let mut stated = None;
    loop {
        match publisher.next().await.unwrap().expect("more must come") {
            Message::Metadata(metadata) => {
                demuxer.set_exact(true);
                metadata.dts.into_iter().for_each(|dts| demuxer.resume_near(dts));
            }
            Message::Gap(gap) => {
                assert_eq!(gap.epoch, EPOCH);
                let (track, predecessor) = gap.predecessors[0];
                assert_eq!(track, TrackId::VIDEO);
                stated = predecessor.map(Timestamp::as_millis);
            }
            Message::Video { timestamp, body } => {
                let found =
                    demuxer.video(timestamp, body, Instant::now()).unwrap().into_iter().find_map(|event| match event {
                        flv::Event::Unit(unit) => Some(unit.dts.as_millis()),
                        _ => None,
                    });
                if let Some(dts) = found {
                    return (dts, stated);
                }
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_gap_message_follows_an_outage_longer_than_the_window() {
    let run = start().await;
    push(&run.broadcast, 0..30);
    let mut first = accept(&run.listener, None).await;
    let mut demuxer = flv::Demuxer::new(EPOCH);
    assert_eq!(receive_after_gap(&mut first, &mut demuxer).await, (0, None), "the first unit has no predecessor");
    receive(&mut first, &mut demuxer, 29).await;
    drop(first);
    // Two minutes, of which it keeps one.
    push(&run.broadcast, 30..3000);
    let oldest = run.broadcast.with_window(|window| window.from(0).next().unwrap().unit.dts.as_millis());
    assert!(oldest > 30 * 40);
    for have in [Some(29 * 40), None] {
        let mut publisher = accept(&run.listener, have).await;
        let mut demuxer = flv::Demuxer::new(EPOCH);
        assert_eq!(receive_after_gap(&mut publisher, &mut demuxer).await, (oldest, Some(oldest - 40)), "{have:?}");
        assert_eq!(receive_after_gap(&mut publisher, &mut demuxer).await, (oldest + 40, None), "the order implies it");
    }
    // A server that has all units before it gets the same.
    let mut publisher = accept(&run.listener, Some(2000 * 40)).await;
    assert_eq!(receive_after_gap(&mut publisher, &mut flv::Demuxer::new(EPOCH)).await, (2001 * 40, Some(2000 * 40)));
    run.abandon_reconnect.send_replace(true);
}

#[tokio::test]
async fn a_restarted_server_receives_the_whole_window() {
    let run = start().await;
    push(&run.broadcast, 0..30);
    let mut first = accept(&run.listener, None).await;
    receive(&mut first, &mut flv::Demuxer::new(EPOCH), 30).await;
    drop(first);
    let mut second = accept(&run.listener, None).await;
    assert_eq!(receive(&mut second, &mut flv::Demuxer::new(EPOCH), 30).await, dts(0..30));
    run.abandon_reconnect.send_replace(true);
}

#[tokio::test]
async fn a_server_that_shuts_down_is_reconnected_to() {
    let run = start().await;
    push(&run.broadcast, 0..2);
    let mut first = accept(&run.listener, None).await;
    receive(&mut first, &mut flv::Demuxer::new(EPOCH), 2).await;
    first.close("NetConnection.Connect.Closed", "The server is shutting down. Reconnect later.").await.unwrap();
    let mut second = accept(&run.listener, Some(0)).await;
    assert_eq!(receive(&mut second, &mut flv::Demuxer::new(EPOCH), 1).await, dts(1..2));
    run.abandon_reconnect.send_replace(true);
}

#[tokio::test]
async fn a_takeover_by_another_publisher_is_final() {
    let run = start().await;
    push(&run.broadcast, 0..2);
    let mut first = accept(&run.listener, None).await;
    receive(&mut first, &mut flv::Demuxer::new(EPOCH), 2).await;
    first.close("NetStream.Publish.BadName", "Another publisher took over with the same key.").await.unwrap();
    assert!(matches!(run.publishing.await.unwrap(), Err(Error::TakenOver)));
}

#[tokio::test]
async fn a_rejection_is_final() {
    let run = start().await;
    let (io, _) = run.listener.accept().await.unwrap();
    let Request::Publish(request) = server::accept(io, &Limits::default()).await.unwrap() else { panic!("it plays") };
    request.reject("NetStream.Publish.Denied", "no such key").await.unwrap();
    let error = run.publishing.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error}");
}

#[tokio::test]
async fn an_interrupt_does_not_wait_for_an_unreachable_server() {
    let run = start().await;
    drop(run.listener);
    run.broadcast.end();
    run.abandon_reconnect.send_replace(true);
    tokio::time::timeout(Duration::from_secs(60), run.publishing).await.unwrap().unwrap().unwrap();
}
