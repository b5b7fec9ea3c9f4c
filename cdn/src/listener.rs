//! A TCP listener with connection limits, used by RTMP and HTTP.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use net::connection_limit::{ConnectionLimiter, ConnectionPermit, Rejected};
use net::connection_slots::{ConnectionSlot, ConnectionSlots};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

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
}

/// Binds a listening socket. Its backlog outlasts a burst of thousands of clients, up to the system's own limit (`net.core.somaxconn`).
///
/// # Errors
/// Those of the system, such as an address in use.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restarted server binds the port while connections of the old one still close.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl<A: Admission> LimitedListener<A> {
    pub(crate) fn new(listener: TcpListener, admission: A) -> Self {
        Self { listener, admission }
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
                    tracing::error!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
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
/// Connections that the kernel completes before they are accepted. When it is full, clients wait a second or more and try again.
const BACKLOG: u32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    /// The backlog that the kernel reports for a listening socket, as `ss` prints it.
    fn backlog(port: u16) -> u32 {
        let output =
            std::process::Command::new("ss").args(["-Hltn", "sport", "=", &format!(":{port}")]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_whitespace().nth(2).unwrap_or_else(|| panic!("{port} is not in {text:?}")).parse().unwrap()
    }

    #[tokio::test]
    async fn a_burst_of_clients_fits_into_the_backlog() {
        let system = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = bind(address.parse().unwrap()).unwrap();
            assert_eq!(backlog(listener.local_addr().unwrap().port()), BACKLOG.min(system), "{address}");
        }
    }
}
