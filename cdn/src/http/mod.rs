//! HTTP: the page, the interface for programs, health, metrics, and what the HLS packagers hold.
//!
//! Types of axum and hyper live in the modules of this folder and never leave it. Nothing here knows RTMP, keys or publishers'
//! addresses.

mod api;
mod assets;
mod connections;
mod health;
mod hls;
mod metrics;
mod pages;
mod payload;
mod playback_info;
mod range;
mod reply;
#[cfg(test)]
mod tests;
mod timing;
mod write_deadline;

use std::hash::RandomState;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};

pub use connections::Limits;
pub use metrics::{Metric, MetricsSource};

use crate::egress::hls::Hls;
use crate::hub::Hub;
use crate::rendezvous::PeerDirectory;

/// What the HTTP side is told.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// What connections are held to.
    pub limits: Limits,
    /// How streams are packaged.
    pub hls: crate::egress::hls::Settings,
    /// The port that play addresses of RTMP name; `None` hides them.
    pub rtmp_port: Option<u16>,
    /// The application that play addresses of RTMP name.
    pub rtmp_app: String,
    /// The host that play addresses of RTMP name, where it is not the one that HTTP was asked under.
    pub rtmp_host: Option<String>,
    /// How long a request for a playlist waits for the first segment of a stream that is on air.
    pub first_segment_wait: Duration,
    /// How long requests are still taken after the stop, so that balancers see `/readyz` fail before connections do.
    pub drain: Duration,
    /// What `/metrics` says besides its own.
    pub metrics: MetricsSource,
    /// What viewers are told; none, and they are told of no relay and no broadcaster.
    pub peers: Option<Arc<PeerDirectory>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            hls: crate::egress::hls::Settings::default(),
            rtmp_port: Some(1935),
            rtmp_app: "live".to_owned(),
            rtmp_host: None,
            first_segment_wait: Duration::from_secs(8),
            drain: Duration::from_millis(500),
            metrics: MetricsSource::default(),
            peers: None,
        }
    }
}

/// Why the HTTP side ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The listener failed.
    #[error("HTTP listener failed")]
    Listener(#[from] std::io::Error),
}

/// The HTTP side of one server.
#[derive(Clone, Debug)]
pub struct Server {
    shared: Arc<Shared>,
}

/// What every route sees.
#[derive(Debug)]
struct Shared {
    hub: Arc<Hub>,
    hls: Arc<Hls>,
    settings: Settings,
    started: Instant,
    is_draining: AtomicBool,
    counters: Arc<metrics::Counters>,
    /// Keys the marks of HLS viewers, so that a mark tells nothing about an address.
    client_hash_keys: RandomState,
}

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
struct Peer(SocketAddr);

impl Server {
    /// The HTTP side of `hub`. Nothing runs until [`serve`](Self::serve).
    pub fn new(hub: Arc<Hub>, settings: Settings) -> Self {
        let hls = Hls::new(hub.clone(), settings.hls.clone());
        let shared = Shared {
            hub,
            hls,
            settings,
            started: Instant::now(),
            is_draining: AtomicBool::new(false),
            counters: Arc::default(),
            client_hash_keys: RandomState::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Packages the hub's streams and serves them on `listener` until `stop` is cancelled; then lets open requests finish, for a
    /// bounded time.
    pub async fn serve(&self, listener: TcpListener, stop: CancellationToken) -> Result<(), Error> {
        let packagers = stop.child_token();
        let packaging = tokio::spawn(self.shared.hls.clone().run(packagers.clone()));
        let shared = self.shared.clone();
        let begin_drain = async move {
            stop.cancelled().await;
            shared.is_draining.store(true, Ordering::Relaxed);
            tokio::time::sleep(shared.settings.drain).await;
        };
        let (limits, counters) = (&self.shared.settings.limits, &self.shared.counters);
        let result = connections::serve(listener, self.router(), limits, counters, begin_drain).await;
        packagers.cancel();
        // It only waits and spawns: its end is immediate, and a panic in it has been printed.
        let _ = packaging.await;
        Ok(result?)
    }

    /// Serves `/metrics` on `listener` until `stop` is cancelled. The listener is one that viewers can not reach.
    pub async fn serve_metrics(&self, listener: TcpListener, stop: CancellationToken) -> Result<(), Error> {
        let router = Router::new().route("/metrics", get(metrics::metrics)).with_state(self.shared.clone());
        let own = Arc::default();
        Ok(connections::serve(listener, router, &Limits::default(), &own, stop.cancelled_owned()).await?)
    }

    fn router(&self) -> Router {
        Router::new()
            .route("/", get(pages::index))
            .route("/assets/{*path}", get(pages::asset))
            .route("/favicon.ico", get(pages::favicon))
            .route("/robots.txt", get(pages::robots))
            .route("/healthz", get(health::healthz))
            .route("/readyz", get(health::readyz))
            .route("/api/v1/time", get(api::time))
            .route("/api/v1/streams", get(api::streams))
            .route("/api/v1/streams/{name}", get(api::stream))
            .route("/api/v1/streams/{name}/watch", get(playback_info::playback_info))
            .route("/api/v1/streams/{name}/timing", get(timing::timing))
            .route("/api/{*path}", get(api::unknown))
            .route("/{name}", get(pages::player))
            .route("/{name}/{file}", get(hls::file))
            .fallback(pages::nothing)
            .layer(middleware::from_fn_with_state(self.shared.clone(), common_headers))
            .layer(cors())
            .with_state(self.shared.clone())
    }
}

/// Everything here may be read by any page: it is public, and no request carries anybody's rights.
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AllowOrigin::any())
        .allow_methods(AllowMethods::list([axum::http::Method::GET, axum::http::Method::HEAD]))
        .allow_headers(AllowHeaders::any())
        .expose_headers([
            header::ACCEPT_RANGES,
            header::AGE,
            header::CONTENT_LENGTH,
            header::CONTENT_RANGE,
            header::DATE,
            header::ETAG,
            header::RETRY_AFTER,
        ])
        .max_age(PREFLIGHT_AGE)
}

async fn common_headers(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    shared.counters.count_response(response.status().as_u16());
    let headers = response.headers_mut();
    for (name, value) in reply::COMMON_HEADERS {
        headers.entry(name).or_insert(value);
    }
    if shared.is_draining.load(Ordering::Relaxed) {
        headers.insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    }
    response
}

/// Browsers ask again after this; none honours more than a day.
const PREFLIGHT_AGE: Duration = Duration::from_secs(86_400);
