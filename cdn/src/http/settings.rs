//! Settings of the HTTP server.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use parking_lot::RwLock;

use crate::config::Config;
use crate::rendezvous::PeerDirectory;

/// Settings of one server's HTTP side.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HttpSettings {
    /// Bounds of one connection.
    pub limits: Limits,
    /// Port in RTMP play URLs; `None` omits these URLs.
    pub rtmp_port: Option<u16>,
    /// Application name in RTMP play URLs.
    pub rtmp_app: String,
    /// What can change while the server runs.
    pub live: Arc<RwLock<LiveSettings>>,
    /// How long a request for a playlist waits for the first segment of a stream that is on air.
    pub first_segment_wait: Duration,
    /// How long requests are still accepted after shutdown begins, so that load balancers see `/readyz` fail before connections do.
    pub drain: Duration,
    /// The directory of the relay and of broadcasters' peer servers; `None` offers neither to viewers.
    pub peers: Option<Arc<PeerDirectory>>,
    /// Origins whose pages may read the playback information of a stream, which contains pins and tickets; `*` for any.
    pub watch_origins: Vec<String>,
}

/// Settings that can change while the server runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveSettings {
    /// Host in URLs with other ports than the request's; `None` for the host of the request.
    pub public_host: Option<String>,
    /// Networks whose `X-Forwarded-…` headers are believed.
    pub trusted_proxies: Vec<IpNet>,
}

impl LiveSettings {
    /// Those of a configuration.
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            public_host: Some(config.public_host.clone()).filter(|host| !host.is_empty()),
            trusted_proxies: config.http.trusted_proxies.clone(),
        }
    }
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            rtmp_port: Some(1935),
            rtmp_app: "live".to_owned(),
            live: Arc::default(),
            first_segment_wait: Duration::from_secs(8),
            drain: Duration::from_millis(500),
            peers: None,
            watch_origins: Vec::new(),
        }
    }
}

/// Bounds of one connection. [`ConnectionLimiter`](net::connection_limit::ConnectionLimiter) bounds their number.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Maximum time until a request's header is complete, counted from the previous response; so also the idle timeout of a connection.
    pub header_timeout: Duration,
    /// Maximum time without progress of a response.
    pub write_timeout: Duration,
    /// Maximum size of a request's header in bytes, including the request line.
    pub header_bytes: usize,
    /// How long open requests may take to finish at shutdown.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(20),
            write_timeout: Duration::from_secs(15),
            header_bytes: 32 << 10,
            drain_timeout: Duration::from_secs(3),
        }
    }
}
