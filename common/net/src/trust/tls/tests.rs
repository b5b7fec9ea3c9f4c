//! Handshakes: which certificates are accepted, which are refused, and with which error.

use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::super::loopback::{ALPN, connect, pair, serve};
use super::*;
use crate::sim::simulate;

/// A server that presents one identity's certificate and signs with another's key. It offers session resumption and early data.
fn thief(victim: &Identity, own: &Identity) -> quinn::ServerConfig {
    let key = provider().key_provider.load_private_key(own.key()).unwrap();
    let certified = CertifiedKey::new(vec![victim.certificate()], key);
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.max_early_data_size = u32::MAX;
    quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(config).unwrap()))
}

#[tokio::test]
async fn accepts_the_pinned_certificate() {
    let identity = Identity::generate().unwrap();
    let address = serve(server_config(&identity, ALPN));
    let (_endpoint, connection) = connect(address, client_config(identity.pin(), ALPN)).await.unwrap();

    let presented = connection.peer_identity().unwrap().downcast::<Vec<CertificateDer<'static>>>().unwrap();
    assert_eq!(presented.iter().map(|der| Pin::of(der)).collect::<Vec<_>>(), [identity.pin()]);
    let handshake = connection.handshake_data().unwrap().downcast::<quinn::crypto::rustls::HandshakeData>().unwrap();
    assert_eq!(handshake.protocol.as_deref(), Some(ALPN));
}

#[tokio::test]
async fn rejects_another_certificate_and_names_both_pins() {
    let (identity, impostor) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let address = serve(server_config(&impostor, ALPN));
    let error = connect(address, client_config(identity.pin(), ALPN)).await.unwrap_err();
    assert!(is_wrong_pin(&error), "{error:?}");
    let text = error.to_string();
    let sentence = format!("the server's certificate has pin {}, not the expected {}", impostor.pin(), identity.pin());
    assert!(text.contains(&sentence), "{text}");
}

#[tokio::test]
async fn rejects_a_pin_that_differs_in_one_bit() {
    let identity = Identity::generate().unwrap();
    let address = serve(server_config(&identity, ALPN));
    for (byte, bit) in [(0, 0x80), (0, 1), (15, 1), (31, 0x80), (31, 1)] {
        let mut pin = *identity.pin().as_bytes();
        pin[byte] ^= bit;
        let error = connect(address, client_config(pin.into(), ALPN)).await.unwrap_err();
        assert!(is_wrong_pin(&error), "{error:?}");
    }
}

#[tokio::test]
async fn rejects_a_certificate_without_its_private_key() {
    let (victim, own) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let address = serve(thief(&victim, &own));
    for config in [client_config(victim.pin(), ALPN), client_config_unpinned(ALPN)] {
        let error = connect(address, config).await.unwrap_err();
        assert!(!is_wrong_pin(&error), "the pin was right: {error:?}");
        assert!(error.to_string().contains("BadSignature"), "{error}");
    }
    // The thief's server itself works: with its own certificate it is accepted.
    let address = serve(thief(&own, &own));
    connect(address, client_config(own.pin(), ALPN)).await.unwrap();
}

#[tokio::test]
async fn rejects_another_alpn_protocol() {
    let identity = Identity::generate().unwrap();
    let address = serve(server_config(&identity, ALPN));
    let error = connect(address, client_config(identity.pin(), b"h3")).await.unwrap_err();
    assert!(!is_wrong_pin(&error), "{error:?}");
    assert!(matches!(error, quinn::ConnectionError::ConnectionClosed(_)), "{error:?}");
}

/// A client that resumes sessions and sends early data whenever it can.
fn eager(pin: Pin) -> quinn::ClientConfig {
    let algorithms = provider().signature_verification_algorithms;
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { pin: Some(pin), algorithms }))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_early_data = true;
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()))
}

#[test]
fn neither_side_uses_early_data() {
    simulate(|network| async move {
        let identity = Identity::generate().unwrap();
        let pin = identity.pin();
        let (ours, theirs) = (|| server_config(&identity, ALPN), || thief(&identity, &identity));
        for (server, client, early) in [
            (theirs(), eager(pin), true),
            (ours(), eager(pin), false),
            (theirs(), client_config(pin, ALPN), false),
            (ours(), client_config(pin, ALPN), false),
        ] {
            let server = network.endpoint(Some(server));
            let address = server.local_addr().unwrap();
            tokio::spawn(async move {
                while let Some(incoming) = server.accept().await {
                    let Ok(connection) = incoming.await else { continue };
                    connection.closed().await;
                }
            });
            let endpoint = network.endpoint(None);
            let first = endpoint.connect_with(client.clone(), address, SERVER_NAME).unwrap().await.unwrap();
            // The server sends session tickets after the handshake.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            first.close(0u32.into(), b"");
            let second = endpoint.connect_with(client, address, SERVER_NAME).unwrap();
            assert_eq!(second.into_0rtt().is_ok(), early);
        }
    });
}

#[tokio::test]
async fn without_a_pin_accepts_any_server() {
    // This is why the caller must pair: an unpinned client accepts any server.
    for _ in 0..2 {
        let [(_, client), (_, server)] = pair(&Identity::generate().unwrap()).await;
        assert!(client.close_reason().is_none() && server.close_reason().is_none());
    }
}

#[test]
fn an_alert_of_the_peer_is_not_a_pin_mismatch() {
    let code = quinn::TransportErrorCode::crypto(AlertDescription::CertificateUnknown.into());
    let close = quinn::ConnectionClose { error_code: code, frame_type: None, reason: Default::default() };
    assert!(!is_wrong_pin(&quinn::ConnectionError::ConnectionClosed(close)));
    assert!(!is_wrong_pin(&quinn::ConnectionError::TimedOut));
}
