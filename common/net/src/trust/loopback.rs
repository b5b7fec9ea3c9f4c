//! Real QUIC endpoints on the loopback interface, for tests of handshakes.

use std::net::{Ipv4Addr, SocketAddr};

use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, ServerConfig};

use super::Identity;
use super::tls::{self, SERVER_NAME};

pub(super) const ALPN: &[u8] = b"nearcast-test";

/// A server endpoint whose connections the caller accepts.
pub(super) fn listen(config: ServerConfig) -> (Endpoint, SocketAddr) {
    let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = endpoint.local_addr().unwrap();
    (endpoint, address)
}

/// A server that keeps its connections open until they are closed.
pub(super) fn serve(config: ServerConfig) -> SocketAddr {
    let (endpoint, address) = listen(config);
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(async move {
                if let Ok(connection) = incoming.await {
                    connection.closed().await;
                }
            });
        }
    });
    address
}

/// One connection, with its endpoint, which must outlive it.
pub(super) async fn connect(to: SocketAddr, config: ClientConfig) -> Result<(Endpoint, Connection), ConnectionError> {
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let connection = endpoint.connect_with(config, to, SERVER_NAME).unwrap().await?;
    Ok((endpoint, connection))
}

/// Both ends of one unpinned connection.
pub(super) async fn pair(identity: &Identity) -> [(Endpoint, Connection); 2] {
    let (server, address) = listen(tls::server_config(identity, ALPN));
    let accepting = async { server.accept().await.unwrap().await.unwrap() };
    let (client, accepted) = tokio::join!(connect(address, tls::client_config_unpinned(ALPN)), accepting);
    [client.unwrap(), (server, accepted)]
}
