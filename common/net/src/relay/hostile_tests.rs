//! Ends that ask for too much, or promise too much.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use media::TrackId;
use quinn::{Endpoint, VarInt};

use super::client::MAX_HELD;
use super::server::{self, Ended};
use super::tests::{Live, connect, serve, unit};
use super::wire::coding::put_varint;
use super::wire::{self, GroupHeader, Proof, ServerMessage, Start};
use super::{Error, Side, subscribe, transport};
use crate::trust::{Identity, tls};

/// Within 30 s.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn a_subscriber_that_starts_again_and_again_is_closed() {
    let live = Live::new();
    live.push(0..5, 1000);
    let (address, pin, mut ends) = serve(&live);
    let (_endpoint, connection) = connect(address, pin).await;
    let mut subscription = subscribe(connection.clone(), "live", Proof::None).await.unwrap();
    for _ in 0..server::MAX_REQUESTS {
        subscription.start(Start::LiveEdge).await.unwrap();
    }
    assert!(connection.close_reason().is_none(), "so many are within reason");
    // It may be closed while these are written.
    let _ = subscription.start(Start::LiveEdge).await;
    let end = tokio::time::timeout(Duration::from_secs(10), ends.recv()).await.unwrap().unwrap();
    assert!(matches!(end, Ended::Failed(Error::TooOften { what: "start", .. })), "{end:?}");
    let quinn::ConnectionError::ApplicationClosed(close) = connection.closed().await else { panic!("not told why") };
    assert_eq!(close.error_code, VarInt::from_u32(server::BAD_REQUEST));
}

/// Many groups, each with a large unit that never becomes whole.
#[tokio::test]
async fn a_server_that_sends_halves_is_not_read_for_ever() {
    let identity = Identity::generate().unwrap();
    let mut config = tls::server_config(&identity, wire::ALPN);
    config.transport_config(Arc::new(transport(Side::Server)));
    let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = endpoint.local_addr().unwrap();
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    tokio::spawn(async move {
        let connection = endpoint.accept().await.unwrap().await.unwrap();
        let (mut control, mut asks) = connection.accept_bi().await.unwrap();
        let mut reply = BytesMut::new();
        ServerMessage::Accepted { proof: None }.encode(&mut reply);
        control.write_all(&reply).await.unwrap();
        let mut asked = BytesMut::new();
        while !asked.windows(2).any(|pair| pair == [2, 2]) {
            asked.extend_from_slice(&asks.read_chunk(100, true).await.unwrap().unwrap().bytes);
        }
        for sequence in 0..100 {
            let connection = connection.clone();
            let count = count.clone();
            tokio::spawn(async move {
                let mut stream = connection.open_uni().await.unwrap();
                let mut head = BytesMut::new();
                GroupHeader { generation: 1, track: TrackId::VIDEO, sequence }.encode(&mut head);
                let whole = unit(TrackId::VIDEO, 0, true, 1);
                wire::put_unit_head(&mut head, &whole, None);
                // The largest there may be, in place of one byte.
                head.truncate(head.len() - 1);
                put_varint(&mut head, wire::MAX_UNIT);
                head.put_bytes(0, 4096);
                for _ in 0..256 {
                    let Ok(bytes) = stream.write(&head).await else { return };
                    count.fetch_add(bytes, Ordering::Relaxed);
                    head = BytesMut::zeroed(4096);
                }
                // It neither ends nor goes on.
                connection.closed().await;
            });
        }
        let _endpoint = endpoint;
        connection.closed().await;
    });
    let (_endpoint, connection) = connect(address, identity.pin()).await;
    let mut subscription = subscribe(connection, "", Proof::None).await.unwrap();
    subscription.start(Start::LiveEdge).await.unwrap();
    until("it holds as much as it may", || subscription.held_bytes() > MAX_HELD - (64 << 10)).await;
    // What is written beyond that waits in QUIC: its windows bound it.
    let (before, most) = (written.load(Ordering::Relaxed), MAX_HELD + (16 << 20));
    assert!((MAX_HELD - (64 << 10)..most).contains(&before), "{before} bytes were taken");
}
