//! A TCP listener with connection limits, used by RTMP and HTTP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use net::connection_limit::{ConnectionLimiter, ConnectionPermit};
use tokio::net::{TcpListener, TcpStream};

/// A bound listener and the limits of its connections.
#[derive(Debug)]
pub(crate) struct LimitedListener {
    listener: TcpListener,
    limiter: Arc<ConnectionLimiter>,
}

impl LimitedListener {
    pub(crate) fn new(listener: TcpListener, limiter: Arc<ConnectionLimiter>) -> Self {
        Self { listener, limiter }
    }

    /// Accepts the next connection within the limits. Connections beyond them are closed at once and counted by the limiter. Waits while the
    /// system is out of file descriptors or memory. Cancel safe.
    pub(crate) async fn accept(&self) -> (TcpStream, SocketAddr, ConnectionPermit) {
        loop {
            let (socket, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_about_one_connection(&error) => continue,
                Err(error) => {
                    // Out of file descriptors or memory, until another connection closes.
                    tracing::error!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            match self.limiter.try_acquire(peer.ip()) {
                Ok(permit) => return (socket, peer, permit),
                Err(reason) => tracing::debug!(%peer, %reason, "connection rejected"),
            }
        }
    }
}

/// Whether an error of `accept` concerns only the connection to be accepted: Linux reports the new socket's pending errors there (accept(2)).
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Pause between attempts while the system is out of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
