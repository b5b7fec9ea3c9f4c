//! HTTP: the pages, the API, health, HLS, and `/metrics` on a separate listener.
//!
//! Types of axum and hyper never leave this folder. `crate::egress::hls` decides HLS responses; this module maps them to status codes and
//! headers.

mod api;
mod assets;
mod connections;
mod forwarded;
mod health;
mod hls;
mod metrics;
mod pages;
mod payload;
mod playback_info;
mod range;
mod reply;
mod settings;
mod shared;
#[cfg(test)]
mod tests;
mod timing;
mod write_deadline;

use std::hash::RandomState;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderValue};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use forwarded::Origin;
use net::connection_limit::ConnectionLimiter;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};

use crate::egress::hls::Hls;
use crate::hub::Hub;
use crate::listener::LimitedListener;
use crate::metrics::{Kind, Metrics, write};
pub use settings::{HttpSettings, Limits, LiveSettings};
use shared::{Peer, ResponseCounters, Shared};

/// The HTTP side of one server.
#[derive(Clone, Debug)]
pub struct HttpServer {
    shared: Arc<Shared>,
}

impl HttpServer {
    /// Creates the routes of the pages, the API and the packaged streams of `hub`. Nothing runs until [`serve`](Self::serve).
    pub fn new(hub: Arc<Hub>, hls: Arc<Hls>, settings: HttpSettings) -> Self {
        let shared = Shared {
            hub,
            hls,
            settings,
            is_draining: AtomicBool::new(false),
            responses: ResponseCounters::default(),
            client_hash_keys: RandomState::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Serves connections of `listener` within the limits of `limiter` until `stop` is cancelled; then lets open requests finish within
    /// [`Limits::drain_timeout`].
    pub async fn serve(&self, listener: TcpListener, limiter: Arc<ConnectionLimiter>, stop: CancellationToken) {
        let shared = self.shared.clone();
        let begin_drain = async move {
            stop.cancelled().await;
            shared.is_draining.store(true, Ordering::Relaxed);
            tokio::time::sleep(shared.settings.drain).await;
        };
        let listener = LimitedListener::new(listener, limiter);
        connections::serve(listener, self.router(), &self.shared.settings.limits, begin_drain).await;
    }

    /// A metrics collector of its responses by status class.
    pub fn responses(&self) -> impl Collector + use<> {
        Responses(self.shared.clone())
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
            .route("/api/v1/streams/{name}/timing", get(timing::timing))
            .route("/api/{*path}", get(api::unknown))
            .route("/{name}", get(pages::player))
            .route("/{name}/", get(pages::without_slash))
            .route("/{name}/{file}", get(hls::file))
            .fallback(pages::nothing)
            .layer(cors(AllowOrigin::any()))
            .merge(self.watch_route())
            .layer(middleware::from_fn_with_state(self.shared.clone(), around_each_request))
            .with_state(self.shared.clone())
    }

    /// The route of pins and tickets, which pages of other origins may read only if they are in the settings.
    fn watch_route(&self) -> Router<Arc<Shared>> {
        let route = Router::new().route("/api/v1/streams/{name}/watch", get(playback_info::playback_info));
        let origins = &self.shared.settings.watch_origins;
        if origins.is_empty() {
            return route.layer(middleware::map_response(same_origin_only));
        }
        let is_any = origins.iter().any(|origin| origin == "*");
        let origins = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
        route.layer(cors(if is_any { AllowOrigin::any() } else { AllowOrigin::list(origins) }))
    }
}

/// Collects what [`ResponseCounters`] counts.
#[derive(Debug)]
struct Responses(Arc<Shared>);

impl Collector for Responses {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        let samples = classes.into_iter().zip(self.0.responses.load());
        let samples = samples.map(|(class, count)| ([("class", class)], count as f64));
        write(&mut encoder, Kind::Counter, "nearcast_http_responses", "Responses by class of status.", samples)
    }
}

/// Serves `/metrics` on `listener`, which should not be reachable by viewers, until `stop` is cancelled. `hosts` are the names under which
/// it is asked for, besides addresses and `localhost`.
pub async fn serve_metrics(
    listener: TcpListener,
    limiter: Arc<ConnectionLimiter>,
    metrics: Arc<Metrics>,
    hosts: Vec<String>,
    stop: CancellationToken,
) {
    let router = metrics::router(metrics, hosts);
    let listener = LimitedListener::new(listener, limiter);
    connections::serve(listener, router, &Limits::default(), stop.cancelled_owned()).await;
}

/// CORS for pages of `origins`: of any for what is public, since requests carry no credentials.
fn cors(origins: AllowOrigin) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(origins)
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

async fn same_origin_only(mut response: Response) -> Response {
    let policy = HeaderValue::from_static("same-origin");
    response.headers_mut().insert(header::HeaderName::from_static("cross-origin-resource-policy"), policy);
    response
}

/// States each request's origin, counts its response, and adds the headers that all responses have.
async fn around_each_request(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().map(|Peer(address)| address.ip());
    let origin = Origin::of(request.headers(), peer, &shared.settings.live.read().trusted_proxies);
    request.extensions_mut().insert(origin);
    let mut response = next.run(request).await;
    shared.responses.count(response.status().as_u16());
    let headers = response.headers_mut();
    for (name, value) in reply::COMMON_HEADERS {
        headers.entry(name).or_insert(value);
    }
    if shared.is_draining.load(Ordering::Relaxed) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// How long browsers cache a preflight response; none honours more than a day.
const PREFLIGHT_AGE: Duration = Duration::from_secs(86_400);
