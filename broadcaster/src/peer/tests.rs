//! Address validation, and the limits of connections.

use std::net::Ipv4Addr;

use media::live_window::Bounds;
use media::{Epoch, TrackId, WallClock};
use tokio::net::UdpSocket;

use super::*;

fn peer(max_viewers: usize) -> Arc<PeerServer> {
    let stats = Arc::new(Stats::default());
    let bounds = Bounds { duration: Duration::from_secs(10), bytes: 1 << 20 };
    let broadcast = Broadcast::new(Epoch(1), WallClock::from_micros(0), &[TrackId::VIDEO], bounds, stats.clone());
    let listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into());
    let settings = PeerSettings { listen, max_viewers, bitrate_limit: None, announce: false, code: None };
    PeerServer::start(settings, Arc::new(broadcast), stats, watch::Sender::new(false)).unwrap()
}

async fn connect(peer: &PeerServer, address: SocketAddr) -> (quinn::Endpoint, quinn::Connection) {
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let mut config = tls::client_config(peer.advertisement().pin, relay::wire::ALPN);
    config.transport_config(Arc::new(relay::transport(Side::Client)));
    let connection = endpoint.connect_with(config, address, tls::SERVER_NAME).unwrap().await.unwrap();
    (endpoint, connection)
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

/// Subscribes with the pairing code.
async fn subscribe(peer: &PeerServer, connection: quinn::Connection) -> Result<relay::Subscription, relay::Error> {
    let proof = pairing::viewer_proof(peer.code(), &pairing::exporter(&connection).unwrap());
    relay::subscribe(connection, "", Proof::Code(proof)).await
}

#[tokio::test]
async fn strangers_that_say_nothing_do_not_keep_a_viewer_out() {
    let peer = peer(1);
    let server = peer.endpoint.local_addr().unwrap();
    tokio::spawn(peer.clone().serve());
    let mut silent = Vec::new();
    while silent.len() < MAX_HANDSHAKES * 2 {
        silent.push(connect(&peer, server).await);
    }
    let (_endpoint, connection) = connect(&peer, server).await;
    let _viewer = subscribe(&peer, connection).await.unwrap();
    // The oldest made room, and nobody was refused.
    silent[0].1.closed().await;
    assert_eq!((peer.seats.count(), peer.stats.lan_viewers_rejected.value()), (1, 0));
    assert!(peer.handshakes.limiter().count() <= MAX_HANDSHAKES);
}

#[tokio::test]
async fn viewers_beyond_the_limit_are_refused_and_counted() {
    let peer = peer(1);
    let server = peer.endpoint.local_addr().unwrap();
    tokio::spawn(peer.clone().serve());
    let (_first, connection) = connect(&peer, server).await;
    let admitted = subscribe(&peer, connection).await.unwrap();
    let (_second, connection) = connect(&peer, server).await;
    let refused = subscribe(&peer, connection).await;
    assert!(matches!(refused, Err(relay::Error::Refused { code: RefusalCode::Busy, .. })), "{refused:?}");
    assert_eq!(peer.stats.lan_viewers_rejected.value(), 1);
    drop(admitted);
    while peer.seats.count() > 0 {
        tokio::task::yield_now().await;
    }
    let (_third, connection) = connect(&peer, server).await;
    subscribe(&peer, connection).await.unwrap();
}

/// Collects a log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn viewers_without_a_ticket_fill_no_log() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let peer = peer(1);
    let server = peer.endpoint.local_addr().unwrap();
    tokio::spawn(peer.clone().serve());
    for _ in 0..30 {
        let (_endpoint, connection) = connect(&peer, server).await;
        let refused = relay::subscribe(connection, "", Proof::None).await;
        assert!(matches!(refused, Err(relay::Error::Refused { code: RefusalCode::Denied, .. })), "{refused:?}");
    }
    peer.close().await;
    let log = String::from_utf8(log.0.lock().clone()).unwrap();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("LAN viewer rejected")).collect();
    let counts = lines.iter().map(|line| line.split("failures=").nth(1).unwrap().split(' ').next().unwrap());
    assert_eq!(counts.collect::<Vec<_>>(), ["1", "10", "30"], "{log}");
    assert!(lines[0].contains("a ticket or the pairing code is required"), "{log}");
}
