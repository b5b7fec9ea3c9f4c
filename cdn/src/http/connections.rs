//! Accepts connections and holds them to limits, so that one slow or greedy client harms nobody else.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tower::ServiceExt;
use tracing::{debug, warn};

use super::Peer;
use super::metrics::Counters;
use super::write_deadline::WriteDeadline;

/// What connections are held to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections at a time. What comes on top is closed at once.
    pub connections: usize,
    /// Connections at a time from one IPv4 address or one IPv6 /64. A caching proxy in front needs as many as it opens.
    pub connections_per_address: usize,
    /// From the moment that a request may come to the end of its header; so also how long an idle connection is kept.
    pub header_timeout: Duration,
    /// How long a client may take in nothing of its response.
    pub write_timeout: Duration,
    /// Header of a request in bytes, its first line included.
    pub header_bytes: usize,
    /// How long open requests may take to finish once the server stops.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 8192,
            connections_per_address: 1024,
            header_timeout: Duration::from_secs(20),
            write_timeout: Duration::from_secs(15),
            header_bytes: 32 << 10,
            drain_timeout: Duration::from_secs(3),
        }
    }
}

/// Serves `router` until `stop` is ready; then lets open requests finish.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: &Limits,
    counters: &Arc<Counters>,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let graceful = GracefulShutdown::new();
    let addresses = Addresses::default();
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                // Out of descriptors or memory: others will close theirs.
                warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = addresses
            .try_acquire(peer.ip(), limits.connections_per_address)
            .filter(|_| connections.len() < limits.connections);
        let Some(place) = place else {
            counters.refused.fetch_add(1, Relaxed);
            debug!(%peer, "refused: too many connections");
            continue;
        };
        counters.accepted.fetch_add(1, Relaxed);
        counters.open.fetch_add(1, Relaxed);
        let open = Open { counters: counters.clone(), _place: place };
        let connection = one(socket, peer, router.clone(), limits.clone(), graceful.watcher());
        connections.spawn(async move {
            let _open = open;
            connection.await;
        });
    }
    drop(listener);
    if tokio::time::timeout(limits.drain_timeout, graceful.shutdown()).await.is_err() {
        debug!(open = connections.len(), "not all requests finished in time");
    }
    connections.shutdown().await;
    Ok(())
}

async fn one(socket: TcpStream, peer: SocketAddr, router: Router, limits: Limits, watcher: Watcher) {
    // A playlist must not wait for the acknowledgement of what went before.
    let _ = socket.set_nodelay(true);
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        router.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.header_bytes.max(HYPER_MIN_BUFFER))
        .serve_connection(TokioIo::new(WriteDeadline::new(socket, limits.write_timeout)), service);
    if let Err(error) = watcher.watch(connection).await {
        debug!(%peer, %error, "connection");
    }
}

/// Whether an error of `accept` is about the connection that was to be accepted (Linux reports its pending errors there).
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// How many connections each address holds; only those that hold any.
#[derive(Clone, Debug, Default)]
struct Addresses(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection's place among those of its address.
#[derive(Debug)]
struct Place {
    addresses: Addresses,
    of: IpAddr,
}

impl Addresses {
    fn try_acquire(&self, address: IpAddr, limit: usize) -> Option<Place> {
        let of = client_prefix(address);
        let mut held = self.0.lock();
        let count = held.entry(of).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Place { addresses: self.clone(), of })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.addresses.0.lock();
        if let Some(count) = held.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.of);
            }
        }
    }
}

/// Who is behind an address: for IPv6 the /64, which one household or host has to itself.
fn client_prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

/// Counts a connection as open.
struct Open {
    counters: Arc<Counters>,
    _place: Place,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.counters.open.fetch_sub(1, Relaxed);
    }
}

/// How long to wait when the system has no room for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// hyper 1 panics if told to buffer less.
const HYPER_MIN_BUFFER: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_site() {
        let addresses = Addresses::default();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = addresses.try_acquire(ip("2001:db8::1"), 2);
        let second = addresses.try_acquire(ip("2001:db8::2"), 2);
        assert!(first.is_some() && second.is_some());
        assert!(addresses.try_acquire(ip("2001:db8::3"), 2).is_none());
        assert!(addresses.try_acquire(ip("2001:db8:0:1::3"), 2).is_some());
        drop(first);
        assert!(addresses.try_acquire(ip("2001:db8::3"), 2).is_some());
        assert_eq!(client_prefix(ip("::ffff:192.0.2.1")), ip("192.0.2.1"));
        drop(second);
        assert!(addresses.0.lock().is_empty());
    }
}
