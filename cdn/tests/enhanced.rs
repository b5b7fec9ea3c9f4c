//! Enhanced RTMP v2 through the server: bodies made by hand, as other encoders make them, go in; the same units come out.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use cdn::config::FanoutEngine;
use media::{AccessUnit, TrackId};
use net::rtmp::Message;
use support::{Server, audio, picture, sound, video, viewers, within};

const V0: TrackId = TrackId::VIDEO;
const V1: TrackId = TrackId { index: 1, ..V0 };

fn body(parts: &[&[u8]]) -> Bytes {
    parts.concat().into()
}

/// `UI24`, as multitrack bodies and composition times have it.
fn ui24(value: usize) -> [u8; 3] {
    let [_, bytes @ ..] = (value as u32).to_be_bytes();
    bytes
}

/// A unit without its epoch, which the server assigns if the publisher states none.
fn content(unit: AccessUnit) -> (TrackId, i64, i64, bool, Bytes) {
    (unit.track, unit.dts.as_millis(), unit.pts.as_millis(), unit.random_access, unit.payload)
}

#[tokio::test]
async fn tracks_and_timestamp_modifiers_pass_unchanged() {
    for engine in [FanoutEngine::Auto, FanoutEngine::Epoll] {
        let server = Server::start(engine, |_| {}).await;
        let key = server.key("live");
        let mut viewer = server.play("live").await.unwrap();
        viewers(&server.hub.stream("live").unwrap(), 1).await;
        let mut publisher = server.publish(&key).await.unwrap();

        let record = video().config.record;
        let unit = |track, millis, size: usize| {
            let is_idr = millis == 0;
            AccessUnit { track, ..picture(0, millis, is_idr, size) }
        };
        let wanted = [
            unit(V0, 0, 5000),
            unit(V1, 0, 700),
            sound(0, 10),
            unit(V0, 40, 300),
            AccessUnit { pts: picture(0, 120, false, 6).pts, ..unit(V1, 40, 200) },
            unit(V0, 80, 70_000),
            unit(V1, 80, 90),
        ];
        let sized = |unit: &AccessUnit| body(&[&[unit.track.index], &ui24(unit.payload.len()), &unit.payload]);
        let size = ui24(record.len());
        let video = [
            // Many tracks of one codec: their sequence starts in one body, and an IDR of each in the next.
            (0, body(&[b"\x96\x10avc1\x00", &size, &record, b"\x01", &size, &record])),
            (0, body(&[b"\x96\x13avc1", &sized(&wanted[0]), &sized(&wanted[1])])),
            // ModEx: half a millisecond, before a frame without composition time.
            (40, body(&[b"\xa7\x02\x07\xa1\x20\x03avc1", &wanted[3].payload])),
            // One track, whose number is not 0, with a composition time of 80 ms.
            (40, body(&[b"\xa6\x01avc1\x01", &ui24(80), &wanted[4].payload])),
            // Many tracks, each with its codec, behind an unknown modifier.
            (80, body(&[b"\xa7\x00\x2a\x16\x23avc1", &sized(&wanted[5]), b"avc1", &sized(&wanted[6])])),
        ];
        for (n, (timestamp, body)) in video.into_iter().enumerate() {
            within(publisher.send(Message::Video { timestamp, body })).await.unwrap();
            if n == 1 {
                let header = body_of_sound(0, &audio().config.record);
                within(publisher.send(Message::Audio { timestamp: 0, body: header })).await.unwrap();
                let frame = body_of_sound(1, &wanted[2].payload);
                within(publisher.send(Message::Audio { timestamp: 10, body: frame })).await.unwrap();
            }
        }
        within(publisher.flush()).await.unwrap();

        for wanted in wanted {
            let came = viewer.next().await.expect("the stream continues");
            assert_eq!(content(came), content(wanted), "{engine:?}");
        }
        let tracks: Vec<TrackId> = viewer.catalog.tracks.iter().map(|track| track.id).collect();
        assert_eq!(tracks, [V0, V1, TrackId::AUDIO]);
        assert!(viewer.catalog.tracks[..2].iter().all(|track| track.config.record == record));
    }
}

/// A legacy AAC body.
fn body_of_sound(packet_type: u8, rest: &[u8]) -> Bytes {
    body(&[&[0xaf, packet_type], rest])
}

/// A body with several tracks of which one has no decoder configuration: the others are sent to the players, until the publisher is told.
#[tokio::test]
async fn a_publisher_is_told_of_a_track_that_cannot_be_decoded_beside_others_that_can() {
    let server = Server::start(FanoutEngine::Epoll, |_| {}).await;
    let mut publisher = server.publish(&server.key("live")).await.unwrap();
    let mut viewer = server.play("live").await.unwrap();
    viewers(&server.hub.stream("live").unwrap(), 1).await;
    let header = body(&[b"\x90avc1", &video().config.record]);
    within(publisher.send(Message::Video { timestamp: 0, body: header })).await.unwrap();
    let error = within(async {
        for timestamp in (0..).step_by(100) {
            let unit = picture(0, timestamp.into(), true, 20).payload;
            let size = ui24(unit.len());
            let body = body(&[b"\x96\x13avc1\0", &size, &unit, b"\x01", &size, &unit]);
            publisher.send(Message::Video { timestamp, body }).await?;
            tokio::select! {
                error = publisher.idle() => return Err(error),
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        }
        Ok(())
    })
    .await
    .unwrap_err();
    assert!(error.to_string().contains("The video track v1 has no decoder configuration."), "{error}");
    for millis in (0..9000).step_by(100) {
        let unit = within(viewer.next()).await.unwrap();
        assert_eq!((unit.track, unit.dts.as_millis()), (V0, millis));
    }
}
