//! A TCP listener whose connections are limited: what RTMP and HTTP accept from.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use crate::connection_limit::{ConnectionLimiter, ConnectionPermit};

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

    /// The next connection within the limits. Those beyond them are closed at once, and counted by the limiter; while the system is
    /// out of descriptors or memory, this waits. Cancel safe.
    pub(crate) async fn accept(&self) -> (TcpStream, SocketAddr, ConnectionPermit) {
        loop {
            let (socket, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_about_one_connection(&error) => continue,
                Err(error) => {
                    // Out of file descriptors or memory: that passes when another connection closes.
                    tracing::error!(%error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            match self.limiter.try_acquire(peer.ip()) {
                Ok(permit) => return (socket, peer, permit),
                Err(why) => tracing::debug!(%peer, %why, "connection rejected"),
            }
        }
    }
}

/// Whether an error of `accept` is about the connection that was to be accepted: Linux reports its pending errors there (accept(2)).
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Between two attempts while the system is out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
