//! What remains of a stream that has ended or was removed: nothing old is sent, and every subscription to a removed stream ends.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use cdn::config::FanoutEngine;
use cdn::hub::{HubStream, PublishGuard, PublishState, PublisherInfo};
use media::{Timestamp, TrackId};
use net::relay::{Event, Start};
use support::{Server, catalog, picture, video, viewers, within};

/// A server whose streams end as soon as their publisher leaves.
async fn server(grace: Duration) -> Server {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = Server::start(FanoutEngine::Auto, |config| {
        config.relay.listen = Some(any.into());
        (config.hub.grace, config.hub.grace_after_unpublish) = (grace, grace);
    })
    .await;
    server.key("live");
    server
}

/// Publishes a second of video.
fn publish(stream: &Arc<HubStream>, epoch: u64) -> PublishGuard {
    let publishing = stream.publish(PublisherInfo::default());
    let catalog = catalog(epoch, &[video()]);
    for n in 0..25 {
        publishing.push(&catalog, picture(epoch, n * 40, n % 5 == 0, 1000), None);
    }
    publishing
}

#[tokio::test]
async fn players_of_an_ended_stream_get_the_next_broadcast_and_nothing_old() {
    let server = server(Duration::ZERO).await;
    let stream = server.hub.stream("live").unwrap();
    drop(publish(&stream, 1));
    within(async {
        let mut changed = stream.changed();
        while !matches!(stream.state(), PublishState::Ended { .. }) {
            changed.changed().await.unwrap();
        }
    })
    .await;
    assert_eq!(stream.info().window.bytes, 0);
    let mut new = server.play("live").await.unwrap();
    let mut resuming = server.play("live?nearcastEpoch=0000000000000001&nearcastAfter=v0:80").await.unwrap();
    let mut relay = server.subscribe().await;
    relay.start(Start::LiveEdge).await.unwrap();
    let have = vec![(TrackId::VIDEO, Timestamp::from_millis(80))];
    let mut resuming_relay = server.subscribe().await;
    resuming_relay.start(Start::After { epoch: media::Epoch(1), have }).await.unwrap();
    viewers(&stream, 2).await;
    let _publishing = publish(&stream, 2);
    for player in [&mut new, &mut resuming] {
        let first = player.next().await.unwrap();
        assert_eq!(first.epoch, media::Epoch(2));
    }
    for subscription in [&mut relay, &mut resuming_relay] {
        let first = loop {
            if let Event::Unit(unit) = within(subscription.next()).await.unwrap() {
                break unit.unit;
            }
        };
        assert_eq!(first.epoch, media::Epoch(2));
    }
    server.stopped().await;
}

#[tokio::test]
async fn every_subscription_of_a_removed_stream_ends() {
    for has_publisher in [true, false] {
        let server = server(Duration::from_secs(3600)).await;
        let stream = server.hub.stream("live").unwrap();
        let publishing = has_publisher.then(|| publish(&stream, 1));
        let mut player = server.play("live").await.unwrap();
        viewers(&stream, 1).await;
        let mut idle = server.subscribe().await;
        let mut active = server.subscribe().await;
        active.start(Start::LiveEdge).await.unwrap();
        let playlist = server.get("/live/index.m3u8");
        let remove = async {
            tokio::task::yield_now().await;
            server.keys.remove(&"live".parse().unwrap()).unwrap();
            server.hub.end("live");
        };
        let (playlist, ()) = tokio::join!(playlist, remove);
        assert_eq!(playlist.split(' ').nth(1), Some("404"), "{playlist}");
        while player.next().await.is_some() {}
        for subscription in [&mut idle, &mut active] {
            // Units may be on the way; then the end or an error, and no wait.
            while let Ok(event) = within(subscription.next()).await {
                if matches!(event, Event::Ended) {
                    break;
                }
            }
        }
        assert!(publishing.is_none_or(|publishing| publishing.revoke_reason().is_some()));
        assert!(server.play("live").await.is_err());
        server.stopped().await;
    }
}
