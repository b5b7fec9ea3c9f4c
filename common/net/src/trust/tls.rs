//! TLS 1.3 for QUIC with certificates that are pinned by their hash.
//!
//! Names, dates and authorities are not checked: the client expects one certificate ([`client_config`]), or it has no pin yet and pairs
//! ([`client_config_unpinned`]). Both verify that the server has the certificate's key. There is no 0-RTT, because its data can be
//! replayed, and no resumption: each connection is authenticated anew. Streams, datagrams and time-outs are not set here; they belong to
//! the caller's `TransportConfig`. Not for HTTPS.
//!
//! RFC 8446 §4.4.2 and §4.4.3 (Certificate, CertificateVerify), RFC 9001 §4.4 (peer authentication) and §8.1 (ALPN is required).

use std::fmt;
use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{self, CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, OtherError, PeerIncompatible, SignatureScheme,
};
use subtle::ConstantTimeEq;

pub use super::identity::SERVER_NAME;
use super::identity::{Identity, Pin};

/// The configuration of a server with this identity; clients must offer `alpn`.
pub fn server_config(identity: &Identity, alpn: &[u8]) -> quinn::ServerConfig {
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("ring has cipher suites of TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![identity.certificate()], identity.key())
        .expect("an identity's key is its certificate's, of a kind that ring signs with");
    config.alpn_protocols = vec![alpn.to_vec()];
    config.max_early_data_size = 0;
    config.send_tls13_tickets = 0;
    let config = QuicServerConfig::try_from(config).expect("ring has the suite of QUIC's first packets");
    quinn::ServerConfig::with_crypto(Arc::new(config))
}

/// The configuration of a client that accepts only the server with this pin. Connect to [`SERVER_NAME`].
pub fn client_config(pin: Pin, alpn: &[u8]) -> quinn::ClientConfig {
    client(Some(pin), alpn)
}

/// The configuration of a client that accepts any server, for pairing. Connect to [`SERVER_NAME`].
///
/// The connection is encrypted, but **the other end is not authenticated**: the caller must authenticate it with
/// [`pairing`](super::pairing) before it sends or trusts anything but proofs.
pub fn client_config_unpinned(alpn: &[u8]) -> quinn::ClientConfig {
    client(None, alpn)
}

/// Whether a connection of [`client_config`] failed because the server has another certificate: an impostor, or a pin of an earlier
/// broadcast. The network is not at fault.
pub fn is_wrong_pin(error: &quinn::ConnectionError) -> bool {
    // rustls sends this alert for application-defined verifier errors, and our verifier has no other. If the peer sends the alert, the error
    // is another variant.
    let code = quinn::TransportErrorCode::crypto(AlertDescription::CertificateUnknown.into());
    matches!(error, quinn::ConnectionError::TransportError(error) if error.code == code)
}

fn client(pin: Option<Pin>, alpn: &[u8]) -> quinn::ClientConfig {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .expect("ring has cipher suites of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { pin, algorithms }))
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    config.enable_early_data = false;
    // A resumed session skips the verifier.
    config.resumption = Resumption::disabled();
    let config = QuicClientConfig::try_from(config).expect("ring has the suite of QUIC's first packets");
    quinn::ClientConfig::new(Arc::new(config))
}

/// Ring's provider instead of the process default, which another library may have set.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(crypto::ring::default_provider())
}

#[derive(Debug)]
struct Verifier {
    /// `None` for pairing, which authenticates the server by its proof instead.
    pin: Option<Pin>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(expected) = self.pin else { return Ok(ServerCertVerified::assertion()) };
        let presented = Pin::of(leaf);
        if bool::from(expected.as_bytes().ct_eq(presented.as_bytes())) {
            return Ok(ServerCertVerified::assertion());
        }
        let error = OtherError(Arc::new(WrongPin { expected, presented }));
        Err(CertificateError::Other(error).into())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // Anybody can copy a certificate; the signature proves possession of its key.
        crypto::verify_tls13_signature(message, leaf, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[derive(thiserror::Error)]
#[error("the server's certificate has pin {presented}, not the expected {expected}")]
struct WrongPin {
    expected: Pin,
    presented: Pin,
}

/// rustls shows a verifier's own errors by their `Debug`, and quinn keeps only that text.
impl fmt::Debug for WrongPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
