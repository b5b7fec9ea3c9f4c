//! A relay server that violates the protocol is not asked again.
#![allow(clippy::unwrap_used)] // All of this crate is tests, its helping functions too.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use media::codec::{Codec, CodecConfig};
use media::{AccessUnit, Catalog, Epoch, Timestamp, Track, TrackId};
use net::relay::wire::{self, GroupHeader, ServerMessage};
use net::relay::{Side, transport};
use net::trust::{Code, Identity, pairing, tls};
use quinn::Endpoint;
use tokio::sync::{Notify, mpsc};
use viewer::source::{self, Event, Position};

/// A group of one audio unit, for the first start of a subscription.
fn group() -> BytesMut {
    let mut catalog = Catalog::new(Epoch(7));
    let record = Bytes::from_static(&[0x11, 0x90]);
    catalog.set_track(Track { id: TrackId::AUDIO, config: CodecConfig::from_record(Codec::Aac, record).unwrap() });
    let payload = Bytes::from_static(b"frame");
    let (dts, track) = (Timestamp::ZERO, TrackId::AUDIO);
    let unit = AccessUnit { epoch: Epoch(7), track, dts, pts: dts, random_access: true, payload };
    let mut bytes = BytesMut::new();
    GroupHeader { generation: 1, track, sequence: 0 }.encode(&mut bytes);
    wire::put_catalog(&mut bytes, &catalog);
    wire::put_unit_head(&mut bytes, &unit, None);
    bytes.extend_from_slice(&unit.payload);
    bytes
}

/// Accepts subscriptions by the pairing code, sends a unit, and after `go` a message that does not exist.
async fn serve(endpoint: Endpoint, code: Code, connections: Arc<AtomicUsize>, go: Arc<Notify>) {
    while let Some(incoming) = endpoint.accept().await {
        let Ok(connection) = incoming.await else { continue };
        connections.fetch_add(1, Ordering::Relaxed);
        let (mut control, _requests) = connection.accept_bi().await.unwrap();
        let exporter = pairing::exporter(&connection).unwrap();
        let mut accepted = BytesMut::new();
        ServerMessage::Accepted { proof: Some(pairing::broadcaster_proof(&code, &exporter)) }.encode(&mut accepted);
        control.write_all(&accepted).await.unwrap();
        let mut stream = connection.open_uni().await.unwrap();
        stream.write_all(&group()).await.unwrap();
        go.notified().await;
        control.write_all(b"\x3f\x00").await.unwrap();
        connection.closed().await;
    }
}

#[tokio::test]
async fn a_path_that_worked_and_then_violates_the_protocol_is_closed_for_good() {
    let (identity, code) = (Identity::generate().unwrap(), Code::generate());
    let mut config = tls::server_config(&identity, wire::ALPN);
    config.transport_config(Arc::new(transport(Side::Server)));
    let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let url = format!("nearcast://{}#{code}", endpoint.local_addr().unwrap());
    let (connections, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    tokio::spawn(serve(endpoint, code, connections.clone(), go.clone()));

    let (sender, mut events) = mpsc::channel(8);
    tokio::spawn(source::run(url, Default::default(), Position::default(), sender));
    let mut has_worked = false;
    let watched = async {
        while let Some(event) = events.recv().await {
            match event {
                Event::Unit { .. } => {
                    has_worked = true;
                    go.notify_one();
                }
                Event::Failed(error) => return error,
                _ => {}
            }
        }
        panic!("the source ended without a failure")
    };
    let error = tokio::time::timeout(Duration::from_secs(20), watched).await.expect("it fails at once");
    assert!(error.is_final() && error.to_string().contains("violates the relay protocol"), "{error}");
    assert!(has_worked);
    assert_eq!(connections.load(Ordering::Relaxed), 1, "it was asked again");
}
