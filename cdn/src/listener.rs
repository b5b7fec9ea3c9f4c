//! A TCP listener with connection limits, used by RTMP and HTTP.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use command::LogLimiter;
use net::connection_limit::{ConnectionLimiter, ConnectionPermit, Rejected};
use net::connection_slots::{ConnectionSlot, ConnectionSlots};
use net::listen::canonical;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};

/// Admits connections, or rejects them.
pub(crate) trait Admission {
    /// Held by an admitted connection until it closes.
    type Permit;

    /// Admits a connection from `peer`.
    ///
    /// # Errors
    /// [`Rejected`] if a limit is reached.
    fn try_acquire(&self, peer: IpAddr) -> Result<Self::Permit, Rejected>;
}

impl Admission for Arc<ConnectionSlots> {
    type Permit = ConnectionSlot;

    fn try_acquire(&self, peer: IpAddr) -> Result<ConnectionSlot, Rejected> {
        ConnectionSlots::try_acquire(self, peer)
    }
}

impl Admission for Arc<ConnectionLimiter> {
    type Permit = ConnectionPermit;

    fn try_acquire(&self, peer: IpAddr) -> Result<ConnectionPermit, Rejected> {
        ConnectionLimiter::try_acquire(self, peer)
    }
}

/// A bound listener and the limits of its connections.
#[derive(Debug)]
pub(crate) struct LimitedListener<A = Arc<ConnectionLimiter>> {
    listener: TcpListener,
    admission: A,
    error_log: Mutex<LogLimiter<String>>,
}

impl<A: Admission> LimitedListener<A> {
    pub(crate) fn new(listener: TcpListener, admission: A) -> Self {
        let error_log = LogLimiter::new(|errors, error: &String| {
            tracing::error!(error, errors, "cannot accept a connection");
        });
        Self { listener, admission, error_log: Mutex::new(error_log) }
    }

    /// Accepts the next connection within the limits. Connections beyond them are closed at once and counted. Waits while the
    /// system is out of file descriptors or memory. Cancel safe.
    pub(crate) async fn accept(&self) -> (TcpStream, SocketAddr, A::Permit) {
        loop {
            let (socket, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_about_one_connection(&error) => continue,
                Err(error) => {
                    // Out of file descriptors or memory, until another connection closes.
                    self.error_log.lock().note(Instant::now(), error.to_string());
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let peer = canonical(peer);
            match self.admission.try_acquire(peer.ip()) {
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
