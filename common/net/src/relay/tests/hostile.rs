//! Peers that send malformed bytes, ask too often, or promise more than they send.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use media::TrackId;
use quinn::{ConnectionError, VarInt};
use tokio::time::{sleep, timeout};

use super::super::client::MAX_HELD;
use super::super::server::{Ended, MAX_REQUESTS};
use super::super::wire::coding::put_varint;
use super::super::wire::{self, BAD_REQUEST, ClientMessage, GroupHeader, Proof, ServerMessage, Start};
use super::super::{Blame, Error, Side, subscribe, transport};
use super::{TestStream, connect, join, listen, serve, take, unit, watch_live};
use crate::sim::{Network, simulate};
use crate::trust::{Identity, Pin, tls};

/// Waits until `is_so`, for 30 s of virtual time at most.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = async {
        while !is_so() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(30), waited).await.unwrap_or_else(|_| panic!("{what}"));
}

#[test]
fn a_subscriber_that_restarts_too_often_is_closed() {
    simulate(|network| async move {
        let stream = TestStream::new();
        stream.push(0..5, 1000);
        let mut server = serve(&network, &stream);
        let (_endpoint, connection) = connect(&network, server.address, server.pin).await;
        let mut subscription = subscribe(connection.clone(), "live", Proof::None).await.unwrap();
        for _ in 0..MAX_REQUESTS {
            subscription.start(Start::LiveEdge).await.unwrap();
        }
        assert!(connection.close_reason().is_none(), "as many as are allowed");
        // The connection may be closed while this is written.
        let _ = subscription.start(Start::LiveEdge).await;
        let end = timeout(Duration::from_secs(10), server.ends.recv()).await.unwrap().unwrap();
        assert!(matches!(end, Ended::Failed(Error::TooOften { what: "START", .. })), "{end:?}");
        let reason = connection.closed().await;
        let quinn::ConnectionError::ApplicationClosed(close) = &reason else { panic!("{reason:?}") };
        assert_eq!(close.error_code, VarInt::from_u32(BAD_REQUEST));
        // The client learns that it is at fault, and that a retry does not help.
        let error = Error::from(reason);
        assert_eq!((error.blame(), error.retry()), (Blame::Us, false));
    });
}

#[test]
fn malformed_requests_end_their_own_connection_only() {
    simulate(|network| async move {
        let stream = TestStream::new();
        stream.push(0..5, 1000);
        let mut server = serve(&network, &stream);
        let (_endpoint, mut other) = watch_live(&network, &server).await;
        let mut subscribed = BytesMut::new();
        ClientMessage::Subscribe { name: "live".into(), proof: Proof::None }.encode(&mut subscribed);
        for bytes in [
            &b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"[..],
            b"\x01\x03abc",
            b"\x02\x02\x00\x07",
            b"\x3f\x00",
        ] {
            for prefix in [&b""[..], &subscribed] {
                let (_endpoint, connection) = connect(&network, server.address, server.pin).await;
                let (mut send, mut recv) = connection.open_bi().await.unwrap();
                send.write_all(&[prefix, bytes].concat()).await.unwrap();
                let _ = recv.read_to_end(1 << 16).await;
                let error = Error::from(connection.closed().await);
                assert!(error.is_violation() && !error.retry(), "{error:?}");
                if !prefix.is_empty() {
                    let end = server.ends.recv().await.unwrap();
                    assert!(matches!(&end, Ended::Failed(error) if error.is_violation()), "{end:?}");
                }
            }
        }
        assert_eq!(take(&mut other, 5).await.0.len(), 5);
    });
}

/// A server that accepts one subscription and then sends `bytes` on its control stream.
async fn serve_bytes(network: Network, identity: Identity, bytes: &'static [u8]) {
    let endpoint = listen(&network, &identity);
    let connection = endpoint.accept().await.unwrap().await.unwrap();
    let (mut control, _requests) = connection.accept_bi().await.unwrap();
    let mut accepted = BytesMut::new();
    ServerMessage::Accepted { proof: None }.encode(&mut accepted);
    control.write_all(&[&accepted[..], bytes].concat()).await.unwrap();
    connection.closed().await;
}

#[test]
fn a_server_that_violates_the_protocol_is_not_retried() {
    for bytes in [&b"\x3f\x00"[..], b"\x16\x01\x07", b"\x11\xff\xff\xff\xff\xff\xff\xff\xff"] {
        simulate(|network| async move {
            let identity = Identity::generate().unwrap();
            let pin = identity.pin();
            tokio::spawn(serve_bytes(network.clone(), identity, bytes));
            tokio::task::yield_now().await;
            let (_endpoint, connection) = connect(&network, network.server(), pin).await;
            let mut subscription = subscribe(connection, "", Proof::None).await.unwrap();
            let next = timeout(Duration::from_secs(5), subscription.next()).await.expect("an error within 5 s");
            let error = next.unwrap_err();
            assert!(matches!(error, Error::Protocol(_)), "{error:?}");
            assert_eq!((error.blame(), error.is_violation(), error.retry()), (Blame::Peer, true, false));
        });
    }
}

#[test]
fn a_server_of_another_protocol_version_is_not_retried() {
    simulate(|network| async move {
        let server = serve(&network, &TestStream::new());
        let config = tls::client_config(server.pin, b"nearcast-relay/2");
        let endpoint = network.endpoint(None);
        let connected = endpoint.connect_with(config, server.address, tls::SERVER_NAME).unwrap().await;
        let error = Error::from(connected.unwrap_err());
        assert!(matches!(error, Error::Connection(ConnectionError::ConnectionClosed(_))), "{error:?}");
        assert_eq!((error.blame(), error.is_violation(), error.retry()), (Blame::Us, true, false), "{error:?}");
    });
}

/// Serves a hundred groups, each with a large unit that is never completed; counts the bytes that QUIC takes.
async fn serve_halves(network: Network, identity: Identity, written: Arc<AtomicUsize>) {
    let endpoint = listen(&network, &identity);
    let connection = endpoint.accept().await.unwrap().await.unwrap();
    let (mut control, mut requests) = connection.accept_bi().await.unwrap();
    let mut accepted = BytesMut::new();
    ServerMessage::Accepted { proof: None }.encode(&mut accepted);
    control.write_all(&accepted).await.unwrap();
    let mut request = BytesMut::new();
    while !request.windows(2).any(|pair| pair == [2, 2]) {
        request.extend_from_slice(&requests.read_chunk(100, true).await.unwrap().unwrap().bytes);
    }
    for sequence in 0..100 {
        let (connection, written) = (connection.clone(), written.clone());
        tokio::spawn(async move {
            let mut stream = connection.open_uni().await.unwrap();
            let mut head = BytesMut::new();
            GroupHeader { generation: 1, track: TrackId::VIDEO, sequence }.encode(&mut head);
            wire::put_unit_head(&mut head, &unit(TrackId::VIDEO, 0, true, 1), None);
            // The largest length that is accepted, in place of one byte.
            head.truncate(head.len() - 1);
            put_varint(&mut head, wire::MAX_UNIT);
            head.put_bytes(0, 4096);
            for _ in 0..256 {
                let Ok(bytes) = stream.write(&head).await else { return };
                written.fetch_add(bytes, Ordering::Relaxed);
                head = BytesMut::zeroed(4096);
            }
            // The stream neither ends nor continues.
            connection.closed().await;
        });
    }
    connection.closed().await;
}

#[test]
fn units_that_are_never_completed_hold_bounded_memory() {
    simulate(|network| async move {
        let identity = Identity::generate().unwrap();
        let pin: Pin = identity.pin();
        let written = Arc::new(AtomicUsize::new(0));
        tokio::spawn(serve_halves(network.clone(), identity, written.clone()));
        tokio::task::yield_now().await;
        let (_endpoint, connection) = connect(&network, network.server(), pin).await;
        let mut subscription = subscribe(connection, "", Proof::None).await.unwrap();
        subscription.start(Start::LiveEdge).await.unwrap();
        until("it holds as much as it may", || subscription.held_bytes() > MAX_HELD - (64 << 10)).await;
        // More data stays in QUIC, whose windows bound it.
        let (written, most) = (written.load(Ordering::Relaxed), MAX_HELD + (16 << 20));
        assert!((MAX_HELD - (64 << 10)..most).contains(&written), "{written} bytes were taken");
    });
}

#[test]
fn a_group_of_an_earlier_start_is_not_read() {
    simulate(|network| async move {
        let stream = TestStream::new();
        stream.push(0..5, 1000);
        let server = serve(&network, &stream);
        let (_endpoint, mut subscription) = join(&network, &server).await;
        for _ in 0..5 {
            subscription.start(Start::LiveEdge).await.unwrap();
        }
        // Every frame once, however many starts were in flight.
        assert_eq!(take(&mut subscription, 5).await.0, (0..5).map(|n| n * 33).collect::<Vec<_>>());
        let more = timeout(Duration::from_secs(1), subscription.next()).await;
        assert!(!matches!(&more, Ok(Ok(super::super::Event::Unit(unit))) if unit.unit.track.is_video()), "{more:?}");
    });
}

/// How a subscription ends that is active for two minutes while the client's transport configuration limits what it takes.
async fn end_of(network: &Network, limit: impl FnOnce(&mut quinn::TransportConfig)) -> Option<Ended> {
    let stream = TestStream::new();
    let mut server = serve(network, &stream);
    let mut transport = transport(Side::Client);
    limit(&mut transport);
    let endpoint = network.endpoint(None);
    let mut config = tls::client_config(server.pin, wire::ALPN);
    config.transport_config(Arc::new(transport));
    let connection = endpoint.connect_with(config, server.address, tls::SERVER_NAME).unwrap().await.unwrap();
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    let mut messages = BytesMut::new();
    ClientMessage::Subscribe { name: "live".into(), proof: Proof::None }.encode(&mut messages);
    ClientMessage::Start { generation: 1, at: Start::LiveEdge }.encode(&mut messages);
    send.write_all(&messages).await.unwrap();
    stream.push_live(0..300, 1000).await;
    // A gap of the publisher, which is not the subscriber's.
    sleep(Duration::from_secs(60)).await;
    stream.push_live(300..2000, 1000).await;
    server.ends.try_recv().ok()
}

#[test]
fn an_active_subscriber_that_takes_nothing_is_closed() {
    simulate(|network| async move {
        for limit in [
            |transport: &mut quinn::TransportConfig| {
                transport.receive_window(VarInt::from_u32(100));
            },
            |transport: &mut quinn::TransportConfig| {
                transport.max_concurrent_uni_streams(VarInt::from_u32(0));
            },
        ] {
            let end = end_of(&network, limit).await;
            assert!(matches!(end, Some(Ended::Failed(Error::NotTaken { .. }))), "{end:?}");
        }
        // This one reads nothing either, but has room for all.
        let end = end_of(&network, |transport| {
            transport.receive_window(VarInt::from_u32(1 << 30)).max_concurrent_uni_streams(VarInt::from_u32(1 << 20));
        });
        assert!(end.await.is_none());
    });
}
