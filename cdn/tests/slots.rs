//! Full listeners: connections that hold a slot without using it shut out neither a broadcaster nor a viewer.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use cdn::config::FanoutEngine;
use net::relay::{Event, Start};
use support::{Server, catalog, picture, video, viewers, within};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

const SLOTS: usize = 16;
/// An eighth is kept free of players.
const PLAYERS: usize = 14;

async fn server() -> Server {
    Server::start(FanoutEngine::Auto, |config| config.rtmp.max_connections = SLOTS).await
}

async fn is_closed(socket: &mut TcpStream) -> bool {
    matches!(within(socket.read(&mut [0; 64])).await, Ok(0) | Err(_))
}

/// Waits until the server counts so many connections.
async fn open_connections(server: &Server, count: usize) {
    while server.metric("nearcast_rtmp_connections_open").await != count as u64 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn silent_connections_do_not_shut_a_broadcaster_out() {
    let server = server().await;
    let key = server.key("live");
    let mut silent = Vec::new();
    for _ in 0..SLOTS * 3 {
        silent.push(TcpStream::connect(server.rtmp).await.unwrap());
    }
    let publisher = server.publish(&key).await.unwrap();
    for socket in &mut silent[..SLOTS * 2 + 1] {
        assert!(is_closed(socket).await, "the oldest make room");
    }
    assert_eq!(server.metric("nearcast_rtmp_connections_evicted_total").await, SLOTS as u64 * 2 + 1);
    assert_eq!(server.metric("nearcast_rtmp_connections_open").await, SLOTS as u64);
    drop(publisher);
    server.stopped().await;
}

#[tokio::test]
async fn waiting_players_do_not_shut_a_broadcaster_out() {
    let server = server().await;
    let key = server.key("live");
    server.key("other");
    let other = server.hub.stream("other").unwrap();
    let mut waiting = Vec::new();
    for _ in 0..PLAYERS {
        waiting.push(server.play("other").await.unwrap());
    }
    viewers(&other, PLAYERS).await;
    let rejected = server.play("other").await;
    assert!(rejected.is_err(), "one more waits too, and evicts none");
    assert_eq!(server.metric("nearcast_rtmp_players_rejected_total").await, 1);
    open_connections(&server, PLAYERS).await;
    let publishers = [server.publish(&key).await.unwrap(), {
        let another = server.key("another");
        server.publish(&another).await.unwrap()
    }];
    assert_eq!(server.metric("nearcast_rtmp_connections_evicted_total").await, 0, "their slots were free");
    // The listener is full now.
    let third = server.key("third");
    let third = server.publish(&third).await.unwrap();
    assert!(waiting.remove(0).next().await.is_none(), "the oldest player makes room");
    viewers(&other, PLAYERS - 1).await;
    assert_eq!(server.metric("nearcast_rtmp_connections_evicted_total").await, 1);
    // A player of a live stream takes the slot of one that waits; then it keeps it.
    let stream = server.hub.stream("third").unwrap();
    drop(publishers);
    open_connections(&server, PLAYERS).await;
    let _one_more = server.play("other").await.unwrap();
    viewers(&other, PLAYERS).await;
    let mut watching = server.play("third").await.unwrap();
    viewers(&other, PLAYERS - 1).await;
    viewers(&stream, 1).await;
    let publishing = stream.publish(cdn::hub::PublisherInfo::default());
    publishing.push(&catalog(1, &[video()]), picture(1, 0, true, 100), None);
    assert!(watching.next().await.is_some());
    drop(third);
    server.stopped().await;
}

#[tokio::test]
async fn silent_connections_and_idle_subscriptions_do_not_shut_a_relay_viewer_out() {
    let server = Server::start(FanoutEngine::Auto, |config| {
        config.relay.listen = Some(std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into());
        config.relay.max_connections = 4;
    })
    .await;
    server.key("live");
    let stream = server.hub.stream("live").unwrap();
    let publishing = stream.publish(cdn::hub::PublisherInfo::default());
    publishing.push(&catalog(1, &[video()]), picture(1, 0, true, 100), None);
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(server.connect_relay().await);
    }
    // It takes media from now on.
    let mut active = server.subscribe().await;
    active.start(Start::LiveEdge).await.unwrap();
    assert!(matches!(within(active.next()).await.unwrap(), Event::Unit(_)));
    let mut idle = Vec::new();
    for _ in 0..8 {
        idle.push(server.subscribe().await);
    }
    for connection in silent {
        within(connection.closed()).await;
    }
    for mut oldest in idle.drain(..5) {
        assert!(within(oldest.next()).await.is_err());
    }
    publishing.push(&catalog(1, &[video()]), picture(1, 40, true, 100), None);
    assert!(matches!(within(active.next()).await.unwrap(), Event::Unit(_)), "it is not evicted");
    assert_eq!(stream.info().viewers.get("relay"), Some(&4));
    server.stopped().await;
}
