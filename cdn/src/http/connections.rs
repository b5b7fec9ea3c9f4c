//! Serves HTTP/1.1 connections and bounds each of them, so that a slow or greedy client does not affect others.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tower::ServiceExt;
use tracing::debug;

use super::settings::Limits;
use super::shared::Peer;
use super::write_deadline::WriteDeadline;
use crate::listener::LimitedListener;

/// Serves `router` until `stop` is ready; then lets open requests finish.
pub(super) async fn serve(listener: LimitedListener, router: Router, limits: &Limits, stop: impl Future<Output = ()>) {
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        let (socket, peer, permit) = tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let connection = serve_one(socket, peer, router.clone(), limits.clone(), graceful.watcher());
        connections.spawn(async move {
            connection.await;
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(limits.drain_timeout, graceful.shutdown()).await.is_err() {
        debug!(open = connections.len(), "drain timeout: closing connections with unfinished requests");
    }
    connections.shutdown().await;
}

async fn serve_one(socket: TcpStream, peer: SocketAddr, router: Router, limits: Limits, watcher: Watcher) {
    // A playlist must not wait for the acknowledgement of earlier data (Nagle's algorithm).
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
        debug!(%peer, %error, "connection failed");
    }
}

/// Minimum buffer size: hyper 1 panics on a smaller one.
const HYPER_MIN_BUFFER: usize = 8192;
