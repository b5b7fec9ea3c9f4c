//! Address validation, and the limits of connections.

use std::net::Ipv4Addr;

use media::live_window::Bounds;
use media::{Epoch, TrackId, WallClock};
use quinn::{ConnectionError, TransportErrorCode};
use tokio::net::UdpSocket;

use super::*;

fn peer(max_viewers: usize) -> Arc<PeerServer> {
    let stats = Arc::new(Stats::default());
    let bounds = Bounds { duration: Duration::from_secs(10), bytes: 1 << 20 };
    let broadcast = Broadcast::new(Epoch(1), WallClock::from_micros(0), &[TrackId::VIDEO], bounds, stats.clone());
    let listen = Some((Ipv4Addr::LOCALHOST, 0).into());
    let settings = PeerSettings { listen, max_viewers, bitrate_limit: None, announce: false };
    PeerServer::start(settings, Arc::new(broadcast), stats, watch::Sender::new(false)).unwrap()
}

async fn connect(peer: &PeerServer, address: SocketAddr) -> (quinn::Endpoint, quinn::Connection) {
    let (endpoint, connected) = try_connect(peer, address).await;
    (endpoint, connected.unwrap())
}

async fn try_connect(
    peer: &PeerServer,
    address: SocketAddr,
) -> (quinn::Endpoint, Result<quinn::Connection, ConnectionError>) {
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let mut config = tls::client_config(peer.advertisement().pin, relay::wire::ALPN);
    config.transport_config(Arc::new(relay::transport(Side::Client)));
    let connected = endpoint.connect_with(config, address, tls::SERVER_NAME).unwrap().await;
    (endpoint, connected)
}

/// A UDP proxy before `server` for one client. Counts the Retry packets (RFC 9000 §17.2.5) that it forwards.
async fn count_retries(server: SocketAddr) -> (SocketAddr, watch::Receiver<usize>) {
    let (outside, inside) = (
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(),
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(),
    );
    inside.connect(server).await.unwrap();
    let (address, (retries, seen)) = (outside.local_addr().unwrap(), watch::channel(0));
    tokio::spawn(async move {
        let (mut from_client, mut from_server, mut client) = (vec![0; 1 << 16], vec![0; 1 << 16], None);
        loop {
            tokio::select! {
                Ok((length, peer)) = outside.recv_from(&mut from_client) => {
                    client = Some(peer);
                    inside.send(&from_client[..length]).await.unwrap();
                }
                Ok(length) = inside.recv(&mut from_server) => {
                    retries.send_modify(|count| *count += usize::from(from_server[0] & 0xf0 == 0xf0));
                    outside.send_to(&from_server[..length], client.expect("the client sent first")).await.unwrap();
                }
            }
        }
    });
    (address, seen)
}

#[tokio::test]
async fn addresses_are_validated_once_many_handshakes_are_pending() {
    let peer = peer(10);
    let server = peer.endpoint.local_addr().unwrap();
    tokio::spawn(peer.clone().serve());
    let (address, retries) = count_retries(server).await;
    let first = connect(&peer, address).await;
    assert_eq!(*retries.borrow(), 0, "no other handshake is pending");
    // They send no request once they are connected.
    let mut silent = vec![first];
    while silent.len() < RETRY_THRESHOLD {
        silent.push(connect(&peer, server).await);
    }
    let (address, retries) = count_retries(server).await;
    let (_endpoint, connection) = connect(&peer, address).await;
    assert_eq!(
        (*retries.borrow(), connection.close_reason()),
        (1, None),
        "it is accepted once its address is validated"
    );
}

#[tokio::test]
async fn connections_beyond_the_limit_are_refused_and_counted() {
    let peer = peer(0);
    let server = peer.endpoint.local_addr().unwrap();
    tokio::spawn(peer.clone().serve());
    let mut open = Vec::new();
    while open.len() < MAX_PENDING_HANDSHAKES {
        open.push(connect(&peer, server).await);
    }
    assert_eq!((peer.limiter.count(), peer.stats.lan_viewers_rejected.value()), (MAX_PENDING_HANDSHAKES, 0));
    let (_endpoint, refused) = try_connect(&peer, server).await;
    let Err(ConnectionError::ConnectionClosed(close)) = refused else { panic!("{refused:?}") };
    assert_eq!(close.error_code, TransportErrorCode::CONNECTION_REFUSED);
    assert_eq!(peer.stats.lan_viewers_rejected.value(), 1);
}
