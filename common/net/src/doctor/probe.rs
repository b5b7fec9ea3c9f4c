//! Probes of an address by a TCP connection, an RTMP handshake or a QUIC handshake, with deadlines and readable errors.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{ConnectionError, Endpoint, VarInt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::relay::{self, Side};
use crate::rtmp::handshake::Handshake;
use crate::trust::{Pin, tls};

/// Why a probe failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ProbeError {
    /// The host answers, but nothing listens on the port.
    Refused,
    /// No packet came back.
    Silent,
    /// There is no route to the host.
    NoRoute,
    /// The certificate has another pin than expected.
    WrongPin,
    /// Any other error, as text.
    Other(String),
}

impl ProbeError {
    pub(super) fn of(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::TimedOut => Self::Silent,
            ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => Self::NoRoute,
            _ => Self::Other(error.to_string()),
        }
    }

    /// The error as text, for the probe of `place`, such as `TCP 1935 of host`.
    pub(super) fn found(&self, place: &str) -> String {
        match self {
            Self::Refused => format!("nothing listens on {place}"),
            Self::Silent => format!("no answer from {place} within {:.1} s", PROBE_TIMEOUT.as_secs_f64()),
            Self::NoRoute => format!("no route from this machine to {place}"),
            Self::WrongPin => format!("{place} presents another certificate than the one that the server reports"),
            Self::Other(words) => format!("{place}: {words}"),
        }
    }

    /// The remedy for a port of a server. `start` says how to make the server listen.
    pub(super) fn fix(&self, protocol: &str, port: u16, start: &str) -> String {
        let lower = protocol.to_ascii_lowercase();
        match self {
            Self::Refused => format!("{start}, or correct the port"),
            Self::Silent => format!(
                "{start}; open {protocol} {port} in the server's firewall (sudo ufw allow {port}/{lower}), in its cloud's security group, and \
                 outbound in this network's firewall"
            ),
            Self::NoRoute => "connect this machine to a network with a route to the host (see `ip route`), and check that the host is up".to_owned(),
            Self::WrongPin => {
                format!("retry: the server was just restarted, or another host answers on {protocol} {port}")
            }
            Self::Other(_) => format!("{start}; check host and port"),
        }
    }
}

/// Makes an RTMP handshake (RTMP 1.0 §5.2) and closes. Returns the round trip of the TCP connection.
pub(super) async fn rtmp(host: &str, port: u16) -> Result<Duration, ProbeError> {
    let shaking_hands = async {
        let started = Instant::now();
        let mut io = TcpStream::connect((host, port)).await.map_err(|error| ProbeError::of(&error))?;
        let round_trip = started.elapsed();
        let (mut handshake, opening) = Handshake::client();
        io.write_all(&opening).await.map_err(|error| ProbeError::of(&error))?;
        let mut buffer = vec![0; 4096];
        loop {
            let length = io.read(&mut buffer).await.map_err(|error| ProbeError::of(&error))?;
            if length == 0 {
                return Err(ProbeError::Other("it closes the connection during the RTMP handshake".to_owned()));
            }
            let (reply, done) =
                handshake.input(&buffer[..length]).map_err(|error| ProbeError::Other(error.to_string()))?;
            // The server's reader receives a complete handshake before the end of the connection.
            let _ = io.write_all(&reply).await;
            if done.is_some() {
                return Ok(round_trip);
            }
        }
    };
    timeout(PROBE_TIMEOUT, shaking_hands).await.unwrap_or(Err(ProbeError::Silent))
}

/// Makes a QUIC handshake of the relay protocol with the first of `addresses` that answers, and closes. Returns it and the round trip.
pub(super) async fn quic(addresses: &[SocketAddr], pin: Option<Pin>) -> Result<(SocketAddr, Duration), ProbeError> {
    let any: [SocketAddr; 2] = [([0u16; 8], 0).into(), ([0u8; 4], 0).into()];
    let endpoint =
        Endpoint::client(any[0]).or_else(|_| Endpoint::client(any[1])).map_err(|error| ProbeError::of(&error))?;
    let mut config = match pin {
        Some(pin) => tls::client_config(pin, relay::wire::ALPN),
        None => tls::client_config_unpinned(relay::wire::ALPN),
    };
    config.transport_config(Arc::new(relay::transport(Side::Client)));
    let mut trouble = ProbeError::Other("it has no address".to_owned());
    let mut attempts = JoinSet::new();
    for address in addresses {
        match endpoint.connect_with(config.clone(), *address, tls::SERVER_NAME) {
            Ok(connecting) => drop(
                attempts.spawn(async move { (connecting.remote_address(), timeout(PROBE_TIMEOUT, connecting).await) }),
            ),
            Err(error) => trouble = ProbeError::Other(error.to_string()),
        }
    }
    while let Some(attempt) = attempts.join_next().await {
        match attempt {
            Ok((_, Ok(Ok(connection)))) => {
                let answer = (canonical(connection.remote_address()), connection.rtt());
                connection.close(VarInt::from_u32(0), b"probe complete");
                attempts.abort_all();
                let _ = timeout(CLOSE_TIMEOUT, endpoint.wait_idle()).await;
                return Ok(answer);
            }
            Ok((_, Ok(Err(error)))) if tls::is_wrong_pin(&error) => trouble = ProbeError::WrongPin,
            Ok((_, Ok(Err(ConnectionError::TimedOut)) | Err(_))) if trouble != ProbeError::WrongPin => {
                trouble = ProbeError::Silent
            }
            Ok((_, Ok(Err(error)))) => trouble = ProbeError::Other(error.to_string()),
            _ => {}
        }
    }
    Err(trouble)
}

/// Converts an IPv4-mapped address, from a dual-stack socket, to IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A duration for people: `0.4 ms`, `12 ms`.
pub(super) fn millis(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1e3;
    if millis < 9.95 { format!("{millis:.1} ms") } else { format!("{millis:.0} ms") }
}

/// A duration in milliseconds, for JSON.
pub(super) fn as_millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// Bounds the wait for an answer: two of the longest round trips and one lost packet. At most three such waits follow one another.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_millis(1500);
/// Bounds the wait for the connection's close to be sent.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::Identity;

    #[tokio::test]
    async fn only_the_pinned_certificate_is_accepted() {
        let identity = Identity::generate().unwrap();
        let config = tls::server_config(&identity, relay::wire::ALPN);
        let server = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
        let address = server.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            while let Some(incoming) = server.accept().await {
                let _ = incoming.await;
            }
        });
        for (pin, wanted) in
            [(Some(identity.pin()), None), (None, None), (Some(Pin::of(b"another")), Some(ProbeError::WrongPin))]
        {
            let answer = quic(&[address], pin).await;
            assert_eq!(answer.clone().err(), wanted, "{answer:?}");
            assert!(answer.is_err() || answer.unwrap().0 == address);
        }
        assert!(matches!(quic(&[], None).await, Err(ProbeError::Other(_))));
        serving.abort();
    }

    #[tokio::test]
    async fn another_protocol_is_distinguished_from_a_closed_port() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let web = tokio::spawn(async move {
            let (mut io, _) = listener.accept().await.unwrap();
            io.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        });
        let trouble = rtmp("127.0.0.1", port).await.unwrap_err();
        assert!(trouble.found("x").contains("speaks HTTP"), "{trouble:?}");
        // The listener is closed too.
        web.await.unwrap();
        assert_eq!(rtmp("127.0.0.1", port).await, Err(ProbeError::Refused));
    }
}
